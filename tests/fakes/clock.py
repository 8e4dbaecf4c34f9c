"""Clocks whose time passes only in a test's hands, so that a test of hours takes milliseconds."""

import asyncio
import heapq


class FakeClock:
    """Whoever sleeps moves the time on, and waits for nothing."""

    def __init__(self, wall: float = 1_790_000_000.0) -> None:
        self.seconds = 0.0
        self.start = wall
        self.slept: list[float] = []
        self._tokens = 0

    def advance(self, seconds: float) -> None:
        self.seconds += seconds

    def wall(self) -> float:
        return self.start + self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def dice(self) -> float:
        return 0.5

    def token(self, bytes_: int) -> str:
        self._tokens += 1
        return f"{self._tokens:0{bytes_ * 2}x}"

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += max(0.0, seconds)
        await asyncio.sleep(0)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if seconds is None:
            return await event.wait()
        # An event that somebody is just about to set comes before the time is over.
        await settle(event)
        if not event.is_set():
            await self.sleep(seconds)
        return event.is_set()


class HeldClock(FakeClock):
    """Time stands still until the test lets it pass; then sleepers wake one by one, in the order of their times."""

    def __init__(self, wall: float = 1_790_000_000.0) -> None:
        super().__init__(wall)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    @property
    def sleeping(self) -> int:
        """How many wait for their time."""
        return sum(not woken.done() for *_, woken in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.seconds + max(0.0, seconds), len(self.slept), woken))
        await woken

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        timer = asyncio.ensure_future(event.wait() if seconds is None else self.sleep(seconds))
        came = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({timer, came}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            came.cancel()
        return event.is_set()

    async def let_pass(self, seconds: float) -> None:
        """Let that much time go by, and everybody do what they then do."""
        await settle()
        end = self.seconds + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            self.seconds = max(self.seconds, due)
            if not woken.done():
                woken.set_result(None)
                await settle()
        self.seconds = end


async def settle(event: asyncio.Event | None = None) -> None:
    """Let every task go on until it waits for something from outside, or until the event is set."""
    for _ in range(50):
        if event is not None and event.is_set():
            return
        await asyncio.sleep(0)
