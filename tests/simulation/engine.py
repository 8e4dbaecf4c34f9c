"""
A deterministic world: one loop whose time is virtual, one source of chance, and a machine that can lose its power.

Everything that the daemon asks of the outside costs a step of the machine; a crash comes before a step or after it, and
from then on nothing that the daemon does has any effect. Two runs with one seed are the same run.
"""

import asyncio
import contextlib
import heapq
import random
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

MIDNIGHT = 1_790_035_200.0  # a UTC day begins
TO_MIDNIGHT = 600.0  # seconds from the beginning of the world to the beginning of that day


STEPS_MAX = 200_000


class Crash(BaseException):
    """The power is gone: nobody catches it, and nothing has any effect after it."""


class _NoWaiting(selectors.BaseSelector):
    """No files, no waiting: where the loop would wait, its time moves on."""

    def __init__(self) -> None:
        self.loop: VirtualLoop | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert self.loop is not None
        assert timeout is not None, "everybody waits, and nothing will ever happen"
        self.loop.now += max(0.0, timeout)
        return []

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, in a time of its own. start: seconds, so that time goes on from one boot to the next."""

    def __init__(self, start: float) -> None:
        selector = _NoWaiting()
        self.now = start
        super().__init__(selector)
        selector.loop = self
        # What is due at once is due at once: a resolution of the machine's clock would make time stand still.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def _write_to_self(self) -> None:
        """Nobody sleeps, so nobody needs to be woken."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """There are no threads, so that the locks between them, which would take a sixth of the time, are spared."""
        assert isinstance(executor, SimExecutor), "nothing may happen in a thread that is real"
        return executor.begin(self, func, args)


class Machine:
    """What crashes. now: seconds of the world's time, which goes on while the machine is off.

    crash_in: steps until the power goes, or None; crash_kind: steps of that kind alone are counted, or "" for all of
    them. alive: whether what runs now still has any effect.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.crashes = 0
        self.crash_in: int | None = None
        self.crash_kind = ""
        self.crashed_at: dict[str, int] = {}
        self.alive = True
        self.skew = 0.0
        self.tokens = 0
        self.trace: list[str] = []
        self.loop: VirtualLoop | None = None
        self.replan = asyncio.Event()
        self._scheduled = 0
        self.later: list[tuple[float, int, Callable[[], None]]] = []

    def time(self) -> float:
        return self.loop.now if self.loop is not None else self.now

    def step(self, what: str) -> None:
        """One step with an effect; the power may go before it."""
        if not self.alive:
            raise Crash
        self.steps += 1
        assert self.steps < STEPS_MAX, "it spins"
        if self.crash_in is not None and self.crash_kind in ("", what):
            self.crash_in -= 1
            if self.crash_in < 0:
                self.crash(what)

    def crash(self, what: str) -> None:
        self.alive = False
        self.crashes += 1
        self.crashed_at[what] = self.crashed_at.get(what, 0) + 1
        self.note(f"crash at {what}")
        assert self.loop is not None
        self.loop.stop()
        raise Crash

    def note(self, text: str) -> None:
        self.trace.append(f"{self.time():.3f} {text}")

    def schedule(self, at: float, action: Callable[[], None]) -> None:
        """Something in the world, whether the machine is on or not."""
        self._scheduled += 1
        heapq.heappush(self.later, (at, self._scheduled, action))
        if self.loop is not None:
            self.replan.set()

    def stay_off(self, until: float) -> None:
        """The world goes on while the machine is off: what was on its way to the service arrives when it does."""
        while self.later and self.later[0][0] <= until:
            at, _, action = heapq.heappop(self.later)
            self.now = max(self.now, at)
            action()
        self.now = max(self.now, until)

    async def play(self) -> None:
        """Let the world's own events happen while the daemon runs."""
        assert self.loop is not None
        self.replan = asyncio.Event()
        while True:
            if not self.later:
                await self.replan.wait()
                self.replan.clear()
                continue
            at, _, action = self.later[0]
            if at > self.loop.now:
                self.replan.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(at):
                        await self.replan.wait()
                continue
            heapq.heappop(self.later)
            action()


async def pause(seconds: float) -> None:
    """Let virtual time pass."""
    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    handle = loop.call_later(seconds, lambda: woken.done() or woken.set_result(None))
    try:
        await woken
    finally:
        handle.cancel()


class SimClock:
    """The Clock port; its wall clock may be wrong."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._boot = machine.time()

    def wall(self) -> float:
        return MIDNIGHT - TO_MIDNIGHT + self._machine.time() + self._machine.skew

    def monotonic(self) -> float:
        return self._machine.time() - self._boot + 1000.0

    def dice(self) -> float:
        return self._machine.chance.random()

    def token(self, bytes_: int) -> str:
        self._machine.tokens += 1
        return f"{self._machine.tokens:0{bytes_ * 2}x}"

    async def sleep(self, seconds: float) -> None:
        if not self._machine.alive:
            raise Crash
        await pause(max(0.0, seconds))

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if not self._machine.alive:
            raise Crash
        if event.is_set():
            return True
        try:
            async with asyncio.timeout(None if seconds is None else max(0.0, seconds)):
                await event.wait()
        except TimeoutError:
            return False
        return True


class SimExecutor(Executor):
    """Threads: what is handed in happens a moment later, whole, in an order that chance decides."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def begin(self, loop: VirtualLoop, work: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """What `submit` is to the loop of real threads."""
        future: asyncio.Future[Any] = loop.create_future()
        machine = self._machine
        if not machine.alive:
            future.set_exception(Crash())
            return future

        def run() -> None:
            if future.cancelled():
                return
            if not machine.alive:
                loop.call_soon(_end, future, None, Crash())
                return
            try:
                machine.step("thread")
                result = work(*args)
                machine.step("thread done")
            except BaseException as error:  # noqa: BLE001  (as an executor does)
                loop.call_soon(_end, future, None, error)
            else:
                loop.call_soon(_end, future, result, None)

        loop.call_later(machine.chance.expovariate(1000.0), run)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to let go of."""


def _end(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Tell what came of it, where somebody still waits."""
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
