"""
Flight: what happens while a slot is held, from just before the POST until the prediction's end is known.

The money is here. The intent is durable before the create leaves; a create is sent once for one intent, and where its
fate is unknown the service's history decides, never a reflex. What stops half-way is found again by a restart.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from daemon.config_model import Config
from daemon.gates import Gates
from daemon.pipeline import poll, submit
from daemon.ports import Clock, Predictor, Sources, Storage
from daemon.ports_ledger import Ledger
from daemon.rules import budget, pacing, reactions
from daemon.rules.faults import Blame, Fault, Gate
from daemon.rules.job import Tile
from daemon.rules.lifecycle import (
    NEVER,
    Absent,
    Event,
    Failed,
    Forgotten,
    Held,
    Intended,
    Refused,
    Spoiled,
    Stale,
    State,
)
from daemon.rules.pacing import Place, SlidingMinute

FLYING = (State.SUBMITTED, State.SUBMITTING, State.UPLOADED)
Record = Callable[..., Awaitable[Tile]]


@dataclass(slots=True)
class Flight:
    """record: tells the ledger, the log and the lanes; all that happens here goes through it."""

    config: Config
    clock: Clock
    log: FilteringBoundLogger
    gates: Gates
    ledger: Ledger
    predictor: Predictor
    storage: Storage
    minute: SlidingMinute
    slots: asyncio.BoundedSemaphore
    record: Record
    sources: Callable[[Tile], Awaitable[Sources]]
    stopping: asyncio.Event
    step: Callable[[], AbstractContextManager[None]]
    purse: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def fly(self, tile: Tile) -> None:
        """Take a tile from wherever it is in flight to the end of its prediction."""
        async with self.slots:
            while tile.state in FLYING and not self.stopping.is_set():
                if tile.state is State.UPLOADED:
                    if tile.due_at > self.clock.wall():
                        return  # Refused: it waits in the ledger, not in a slot.
                    tile = await self._submit(tile)
                elif tile.state is State.SUBMITTING:
                    tile = await self._look_up(tile)
                else:
                    tile = await self._poll(tile)

    async def _submit(self, tile: Tile) -> Tile:
        if reactions.submits_left(tile, self.config.api.submits_max) <= 0:
            return await self.record(tile, no_submits_left(tile))
        async with self.gates.through(Gate.API, Gate.STORAGE) as visit:
            while (wait := self.minute.wait_seconds(self.clock.monotonic())) != 0.0:
                await self.clock.sleep(wait if wait is not None else 1.0)
            with self.minute.place() as place, self.step():
                async with self.purse:
                    # One at a time from the look at the budget to the intent that counts in it.
                    event = await self._next(tile)
                    tile = await self.record(tile, event, wait=self._pause_after(tile, event))
                if isinstance(event, Intended):
                    return await self._create(tile, place)
                visit.learnt = False
                return tile

    async def _next(self, tile: Tile) -> Event:
        """What to record before anything is sent: Intended, or why not."""
        now = self.clock.wall()
        over = None if tile.released else await self._over_budget(now)
        if over is not None:
            reason, until = over
            remedy = "It goes on by itself then; `esrgand release` lets it pass now."
            return Held(reason=reason, remedy=remedy, due_at=until)
        sources = await self.sources(tile)
        return await submit.intend(tile, sources, self.storage, now, self.config.storage.url_seconds)

    def _pause_after(self, tile: Tile, event: Event) -> float:
        return reactions.step_back(tile, self.clock.dice()) if isinstance(event, Stale) else 0.0

    async def _create(self, tile: Tile, place: Place) -> Tile:
        try:
            accepted = await submit.submit(tile, self.predictor)
        except Fault as fault:
            reaction = reactions.react(tile, fault, self.clock.wall(), self.clock.dice())
            self.log.info("create_failed", **tile.about, reason=fault.said, created=fault.created.value)
            if reaction.event is not None:
                tile = await self.record(tile, reaction.event)
            if isinstance(reaction.event, Refused):
                raise  # Closes the gate; the tile keeps its place.
            if reaction.gate is not None:
                self.gates.close(reaction.gate, fault)
            return tile
        finally:
            place.answered_at = self.clock.monotonic()
        return await self.record(tile, accepted)

    async def _over_budget(self, now: float) -> tuple[str, float] | None:
        limits = self.config.budget
        if not limits.usd_per_day_max and not limits.usd_per_month_max:
            return None
        spending = await self.ledger.books.spending(now)
        return budget.over_budget(spending, limits.usd_per_day_max, limits.usd_per_month_max, now)

    async def _look_up(self, tile: Tile) -> Tile:
        """Settle the doubt about a create that may have arrived."""
        wait = tile.due_at - self.clock.wall()
        if wait > 0:
            await self.clock.sleep(wait)
        try:
            found = await submit.look_up(tile, self.predictor)
        except Fault as fault:
            self.log.warning("lookup_failed", **tile.about, reason=fault.said)
            found, readable = None, False
        else:
            readable = True
        if found is not None:
            return await self.record(tile, found)
        reaction = reactions.doubt(tile, readable, self.clock.wall(), self.config.api.create_seconds_max)
        if reaction.event is None:
            return await self.ledger.postpone(tile, self.clock.wall() + reaction.wait)
        if isinstance(reaction.event, Absent) and reactions.submits_left(tile, self.config.api.submits_max) <= 0:
            return await self.record(tile, doubtful(tile))
        return await self.record(tile, reaction.event, wait=reaction.wait)

    async def _poll(self, tile: Tile) -> Tile:
        age = max(0.0, self.clock.wall() - tile.since)
        pause = pacing.poll_pause(
            age,
            shortest=self.config.api.poll_seconds_min,
            overdue_after=self.config.api.overdue_seconds,
            dice=self.clock.dice(),
        )
        await self.clock.sleep(max(pause, tile.due_at - self.clock.wall()))
        if age <= self.config.api.overdue_seconds < age + pause:
            self.log.warning("overdue", **tile.about, prediction=tile.prediction, seconds=round(age))
        try:
            end = await poll.poll(tile, self.predictor, self.config.api.submits_max)
        except Fault as fault:
            reaction = reactions.react(tile, fault, self.clock.wall(), self.clock.dice())
            if isinstance(reaction.event, Forgotten):
                return await self.record(tile, reaction.event)
            # Not the API gate: that one may be closed for a reason of the creates' own, and stays so.
            self.gates.close(Gate.POLL, fault)
            self.log.debug("poll_failed", **tile.about, reason=fault.said)
            return await self.ledger.postpone(tile, self.clock.wall() + reaction.wait, attempts=1)
        self.gates.open(Gate.POLL)
        if end is None:
            return tile
        event, bill = end
        wait = reactions.step_back(tile, self.clock.dice()) if isinstance(event, Spoiled) else 0.0
        return await self.record(tile, event, bill=bill, wait=wait)


def no_submits_left(tile: Tile) -> Event:
    """Its paid runs are used up."""
    return Failed(
        reason=f"The service was asked {tile.submits} times without a result.",
        remedy="`esrgand retry` tries again, and pays again.",
        blame=Blame.SERVICE.value,
    )


def doubtful(tile: Tile) -> Event:
    """The last submit that was allowed got lost."""
    return Held(
        reason=f"The service was asked {tile.submits} times, and the last submit is not in its history.",
        remedy="Look at the account's history; `esrgand release` submits the picture again.",
        due_at=NEVER,
    )
