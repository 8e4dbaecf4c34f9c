"""The event loop that waits for no thread: whatever hangs, a command ends when it is told to."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from daemon.loop import run, unless

SECONDS_MAX = 30.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hangs, hangs at this."""
    gate = threading.Event()
    yield gate
    gate.set()


def test_a_thread_that_hangs_does_not_hold_up_the_end(gate: threading.Event) -> None:
    """As a name that is being looked up, whose server does not answer."""

    async def main() -> str:
        asyncio.get_running_loop().run_in_executor(None, gate.wait, SECONDS_MAX).cancel()
        return "ended"

    before = time.monotonic()
    assert run(main()) == "ended"
    assert time.monotonic() - before < SECONDS_MAX / 2


def test_many_may_hang_and_others_still_get_something_done(gate: threading.Event) -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        hanging = [loop.run_in_executor(None, gate.wait, SECONDS_MAX) for _ in range(16)]
        done = await asyncio.to_thread(str, "done")
        for each in hanging:
            each.cancel()
        return done

    assert run(main()) == "done"


THREADS = """
import threading, time
from daemon.loop import leave_threads
gate = threading.Event()
threads = [threading.Thread(target=gate.wait) for _ in range(20)]
for thread in threads:
    thread.start()
before = time.monotonic()
assert leave_threads(0.2)
assert leave_threads(0.0)
assert time.monotonic() - before < 2
gate.set()
assert not leave_threads(30)
"""


def test_all_threads_together_are_waited_for_once() -> None:
    """In a process of its own, where no other test has left threads."""
    subprocess.run([sys.executable, "-c", THREADS], check=True, timeout=60)


async def test_work_is_cut_short_by_the_event_and_tidies_up() -> None:
    event, ended = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        try:
            event.set()
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "done"

    assert await unless(event, work()) is None
    assert ended.is_set()


async def test_work_that_is_done_first_is_worth_what_it_returns_or_raises() -> None:
    async def work(error: Exception | None = None) -> str:
        if error is not None:
            raise error
        return "done"

    assert await unless(asyncio.Event(), work()) == "done"
    with pytest.raises(ValueError, match="wrong"):
        await unless(asyncio.Event(), work(ValueError("wrong")))
