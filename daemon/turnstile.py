"""
Turnstile: the slots, the minute and the window, passed together and by one at a time.

A slot is taken in the same moment as a place in the minute, and for nothing but a create that leaves now: who is not
ready, or not allowed yet, waits outside without holding either. What is found in flight after a restart takes its slot
before anybody passes here.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from daemon.ports import Clock
from daemon.rules.limits import Place, SlidingMinute, Window


class Turnstile:
    """flying: how many slots are held. doubtful: by how many submits that most likely are not running."""

    def __init__(self, clock: Clock, in_flight_max: int, creates_per_minute_max: int) -> None:
        self._clock = clock
        self._moved = asyncio.Event()
        self.slots = asyncio.BoundedSemaphore(in_flight_max)
        self.minute = SlidingMinute(creates_per_minute_max)
        self.window = Window(in_flight_max)
        self.flying = 0
        self.doubtful = 0

    def allows(self, besides: int = 0) -> bool:
        """Whether the service's refusals leave room for one more. besides: so many hold a slot that do not count."""
        return self.window.allows(self.flying - self.doubtful - besides)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot; waits for one."""
        try:
            async with self.slots:
                self.flying += 1
                try:
                    yield
                finally:
                    self.flying -= 1
        finally:
            self.move()

    async def enter(self, stack: AsyncExitStack, leaving: AsyncExitStack, seconds: float) -> Place | None:
        """Take a slot and a place in the minute, both at once; None where that is not possible within `seconds`.

        stack: holds the slot from then on. leaving: holds the place until the create is answered.
        """
        end = self._clock.monotonic() + seconds
        while True:
            now = self._clock.monotonic()
            wait = self.minute.wait_seconds(now)
            if wait == 0.0 and not self.slots.locked() and self.allows():
                # Nobody comes in between: a semaphore that is not locked is taken without waiting.
                await stack.enter_async_context(self.slot())
                return leaving.enter_context(self._place())
            if now >= end:
                return None
            await self._clock.wait(self._moved, min(end - now, wait or end - now))

    @contextmanager
    def _place(self) -> Iterator[Place]:
        try:
            with self.minute.place() as place:
                yield place
        finally:
            self.move()

    def doubt(self, doubtful: int) -> None:
        """So many more (or fewer) submits most likely are not running: they take no place in a small window."""
        self.doubtful += doubtful
        self.move()

    def accepted(self) -> None:
        """A create went through."""
        self.window.accepted(self._clock.monotonic())
        self.move()

    def refused(self) -> None:
        """The service said that there are too many."""
        self.window.refused(self.flying, self._clock.monotonic())

    def move(self) -> None:
        """Something changed: whoever waits looks again."""
        self._moved.set()
        self._moved = asyncio.Event()
