"""
Drift: what to do when somebody sets the wall clock.

Pauses within a process are measured by the monotonic clock, and no setting of the wall clock touches them. Due times in
the ledger are wall time, since they have to outlive us: when the clock is set back they would come late by as much, so
they are brought forward. A clock that is set forward makes them come early, which does no harm. What the budget holds
until a new day is meant in wall time and stays.

Never fails, but for LedgerBroken.
"""

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from daemon.ports import Clock
from daemon.ports_ledger import Ledger

LOOK_SECONDS = 10.0
JUMP_SECONDS = 2.0  # less than that is the clock being slewed, and hurts nobody


class Drift:
    """Watches the distance of the two clocks. poke: everybody is to look again for what is due."""

    def __init__(self, clock: Clock, ledger: Ledger, log: FilteringBoundLogger, poke: Callable[[], None]) -> None:
        self._clock = clock
        self._ledger = ledger
        self._log = log
        self._poke = poke
        self._distance = clock.wall() - clock.monotonic()

    async def step(self) -> float:
        """Look once; returns seconds until the next look."""
        distance = self._clock.wall() - self._clock.monotonic()
        jump, self._distance = distance - self._distance, distance
        if abs(jump) >= JUMP_SECONDS:
            self._log.warning("clock_set", seconds=round(jump, 3))
            if jump < 0:
                await self._ledger.bring_forward(-jump, self._clock.wall())
            self._poke()
        return LOOK_SECONDS

    async def watch(self, stopping: asyncio.Event) -> None:
        """The loop round `step`."""
        while not stopping.is_set():
            await self._clock.wait(stopping, await self.step())
