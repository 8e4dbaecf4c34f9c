"""
Loop: an event loop that waits for no thread, so that a command ends when it is told to.

A name that is looked up, or a file on a dead mount, may hold a thread for minutes; asyncio waits for such a thread when
its loop ends, and Python once more when it exits. Here neither does: what a thread has not done by then is done again
by the next start. Nothing here raises but what the work raises.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
THREADS = 32  # some may hang, and the others must still get something done


class _Threads(ThreadPoolExecutor):
    """Threads that nobody waits for, whatever asyncio asks for."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, but for threads that hang."""

    async def inside() -> T:
        asyncio.get_running_loop().set_default_executor(_Threads(THREADS, thread_name_prefix="loop"))
        return await main

    return asyncio.run(inside())


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work returns or raises; None where the event came first, and the work was cut short."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


def leave_threads(seconds: float) -> bool:
    """Whether, after so many seconds at most for all of them together, threads are left that would hold up the end."""
    others = [each for each in threading.enumerate() if each is not threading.main_thread() and not each.daemon]

    def join() -> None:
        for thread in others:
            thread.join()

    joining = threading.Thread(target=join, daemon=True)
    with contextlib.suppress(RuntimeError):  # There is no room for one more thread.
        joining.start()
        joining.join(seconds)
    return any(thread.is_alive() for thread in others)
