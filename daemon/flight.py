"""
Flight: what happens while a slot is held, from just before the POST until the prediction's end is known.

The money is here. The intent is durable before the create leaves; a create is sent once for one intent, and where its
fate is unknown the service's history decides, never a reflex. What stops half-way is found again by a restart.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack
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

IN_FLIGHT = (State.SUBMITTED, State.SUBMITTING)
Record = Callable[..., Awaitable[Tile]]


@dataclass(slots=True)
class Flight:
    """record: tells the ledger, the log and the lanes; all that happens here goes through it.

    api: which API and account this is, without secrets; what was submitted to another is not absent for being unknown.
    """

    config: Config
    clock: Clock
    log: FilteringBoundLogger
    gates: Gates
    ledger: Ledger
    predictor: Predictor
    storage: Storage
    api: str
    minute: SlidingMinute
    slots: asyncio.BoundedSemaphore
    record: Record
    sources: Callable[[Tile], Awaitable[Sources]]
    stopping: asyncio.Event
    step: Callable[[], AbstractContextManager[None]]
    purse: asyncio.Lock = field(default_factory=asyncio.Lock)

    def admits(self) -> bool:
        """Whether a submit could leave now, or probe whether it can."""
        return self.gates.admits(Gate.API) and self.gates.admits(Gate.STORAGE)

    async def fly(self, tile: Tile) -> None:
        """Take a tile from wherever it is in flight to the end of its prediction."""
        if self.stopping.is_set():
            return
        async with AsyncExitStack() as slot:
            if tile.state is State.UPLOADED:
                if not self.admits() or tile.due_at > self.clock.wall():
                    return  # It waits in the ledger; no worker and no slot waits with it.
                tile = await self._depart(tile, slot)
            else:
                await slot.enter_async_context(self.slots)
            while tile.state in IN_FLIGHT and not self.stopping.is_set():
                tile = await (self._look_up(tile) if tile.state is State.SUBMITTING else self._poll(tile))

    async def _depart(self, tile: Tile, slot: AsyncExitStack) -> Tile:
        """Submit, once gates, minute and slots allow it. slot: what holds the slot from then on."""
        if reactions.submits_left(tile, self.config.api.submits_max) <= 0:
            return await self.record(tile, no_submits_left(tile))
        async with self.gates.through(Gate.API, Gate.STORAGE) as visit:
            await slot.enter_async_context(self.slots)
            while (wait := self.minute.wait_seconds(self.clock.monotonic())) != 0.0:
                await self.clock.sleep(wait if wait is not None else 1.0)
            with self.minute.place() as place, self.step():
                now, sources = self.clock.wall(), await self.sources(tile)
                settings = self.config.storage
                event = await submit.intend(tile, sources, self.storage, self.api, now, settings.url_seconds)
                # One at a time from the look at the budget to the intent that counts in it.
                async with self.purse:
                    event = await self._over_budget(tile, now) or event
                    wait = reactions.step_back(tile, self.clock.dice()) if isinstance(event, Stale) else 0.0
                    tile = await self.record(tile, event, wait=wait)
                if isinstance(event, Intended):
                    return await self._create(tile, place)
                visit.learnt = False
                return tile

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

    async def _over_budget(self, tile: Tile, now: float) -> Held | None:
        """Why the budget does not let it pass, or None."""
        limits = self.config.budget
        if tile.released or not (limits.usd_per_day_max or limits.usd_per_month_max):
            return None
        spending = await self.ledger.books.spending(now)
        over = budget.over_budget(spending, limits.usd_per_day_max, limits.usd_per_month_max, now)
        if over is None:
            return None
        remedy = "It goes on by itself then; `esrgand release` lets it pass now."
        return Held(reason=over[0], remedy=remedy, due_at=over[1])

    async def _look_up(self, tile: Tile) -> Tile:
        """Settle the doubt about a create that may have arrived."""
        await self.clock.sleep(self._seconds_until_due(tile))
        try:
            found = await submit.look_up(tile, self.predictor)
        except Fault as fault:
            self.gates.close(Gate.POLL, fault)  # Told once, for all that are asked about.
            self.log.debug("lookup_failed", **tile.about, reason=fault.said)
            found, readable = None, False
        else:
            self.gates.open(Gate.POLL)
            readable = True
        if found is not None:
            return await self.record(tile, found)
        reaction = reactions.doubt(tile, readable, self.clock.wall(), self.config.api.create_seconds_max)
        if reaction.event is None:
            return await self.ledger.postpone(tile, self.clock.wall() + reaction.wait)
        if isinstance(reaction.event, Absent):
            if tile.api != self.api:
                return await self.record(tile, made_elsewhere(tile))
            if reactions.submits_left(tile, self.config.api.submits_max) <= 0:
                return await self.record(tile, doubtful(tile))
        return await self.record(tile, reaction.event, wait=reaction.wait)

    def _seconds_until_due(self, tile: Tile) -> float:
        """Bounded: a due time far away was written by a clock that has been set back since."""
        return min(max(0.0, tile.due_at - self.clock.wall()), reactions.RETRY_SECONDS_MAX * 2)

    async def _poll(self, tile: Tile) -> Tile:
        age = max(0.0, self.clock.wall() - tile.since)
        pause = pacing.poll_pause(
            age,
            shortest=self.config.api.poll_seconds_min,
            overdue_after=self.config.api.overdue_seconds,
            dice=self.clock.dice(),
        )
        await self.clock.sleep(max(pause, self._seconds_until_due(tile)))
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


def made_elsewhere(tile: Tile) -> Event:
    """It was submitted to another API or with another key, whose history is not this one."""
    return Held(
        reason="It was submitted with another API address or key, where it may have been paid for.",
        remedy="Go back to those until it is done; `esrgand release` submits the picture again, and pays again.",
        due_at=NEVER,
    )


def doubtful(tile: Tile) -> Event:
    """The last submit that was allowed got lost."""
    return Held(
        reason=f"The service was asked {tile.submits} times, and the last submit is not in its history.",
        remedy="Look at the account's history; `esrgand release` submits the picture again.",
        due_at=NEVER,
    )
