"""A clock whose time passes only when somebody sleeps on it, so that a test of hours takes milliseconds."""

import asyncio


class FakeClock:
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
        if not event.is_set() and seconds is not None:
            await self.sleep(seconds)
        elif not event.is_set():
            await event.wait()
        return event.is_set()
