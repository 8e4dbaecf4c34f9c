"""
Flight: what happens while a slot is held, from just before the POST until the prediction's end is known.

How it gets there is `departure`'s affair. Here submits in doubt are looked for, and predictions are asked about when an
end is likely (`rules/pacing`), or told. What stops half-way is found again by a restart.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from daemon.config_model import Config
from daemon.departure import Departure
from daemon.ears import Ears
from daemon.gates import Gates
from daemon.pipeline import poll, submit
from daemon.rules import pacing, reactions, verdicts
from daemon.rules.faults import Fault, Gate
from daemon.rules.job import Bill, Tile
from daemon.rules.lifecycle import Absent, Forgotten, Spoiled, State, Succeeded
from daemon.rules.pacing import Paces, Timetable
from daemon.turns import IN_FLIGHT
from daemon.turnstile import Turnstile
from daemon.world import World


@dataclass(slots=True)
class Trip:
    """One stay in a slot, in monotonic seconds: the wall clock may be set meanwhile.

    stack: what holds the slot. since: when the tile's state began. watched: since when this process has seen it in that
    state; what it has not waited for itself proves no absence. asked: when it was last not over. ask_at: no question
    before that. found: it was in flight when we started, or could not be asked about, so it may be over since long ago,
    and its webhook may have come while nobody listened; new: nobody has asked since. hinted: the service told that it
    is over, and will hardly tell again. doubtful: it was looked for longer than a create may take, and most likely is
    not running. overdue: that was told.
    """

    stack: AsyncExitStack
    since: float
    watched: float
    asked: float
    ask_at: float
    found: bool
    new: bool = True
    hinted: bool = False
    doubtful: bool = False
    overdue: bool = False


Record = Callable[..., Awaitable[Tile]]


@dataclass(slots=True)
class Flight:
    """record: tells the ledger, the log and the lanes; all that happens here goes through it."""

    config: Config
    world: World
    gates: Gates
    turnstile: Turnstile
    ears: Ears
    departure: Departure
    timetable: Timetable
    record: Record
    stopping: asyncio.Event
    paces: Paces = field(default_factory=Paces)

    async def fly(self, tile: Tile) -> None:
        """Take a tile from wherever it is in flight to the end of its prediction."""
        if self.stopping.is_set():
            return
        async with AsyncExitStack() as stack:
            trip = self._trip(tile, stack)
            stack.callback(self._doubt, trip, False)
            if tile.state is State.UPLOADED:
                tile = await self.departure.depart(tile, stack)
                trip.since = trip.watched = trip.asked = self.world.clock.monotonic()
            else:
                await stack.enter_async_context(self.turnstile.slot())
            while tile.state in IN_FLIGHT and not self.stopping.is_set():
                state = tile.state
                tile = await (self._look_up(tile, trip) if state is State.SUBMITTING else self._poll(tile, trip))
                if tile.state is not state:
                    trip.since = trip.watched = trip.asked = self.world.clock.monotonic()
                    trip.found = trip.new = True  # What was looked for runs since nobody knows when.
                    self._doubt(trip, False)

    def _doubt(self, trip: Trip, doubtful: bool) -> None:
        """A submit that most likely is not running takes no place in a window that a 429 has made small."""
        if doubtful is not trip.doubtful:
            self.turnstile.doubt(doubtful - trip.doubtful)
            trip.doubtful = doubtful

    def _trip(self, tile: Tile, stack: AsyncExitStack) -> Trip:
        """How long ago the tile's state began, and how long it has to wait, as far as the wall clock can tell."""
        wall, now = self.world.clock.wall(), self.world.clock.monotonic()
        wait = tile.due_at - wall if not reactions.is_due(tile.due_at, wall) else 0.0
        since = now - max(0.0, wall - tile.since)
        return Trip(
            stack,
            since=since,
            watched=now,
            asked=since,
            ask_at=now + wait,
            found=tile.state in IN_FLIGHT,
            overdue=wall - tile.since > self.config.api.overdue_seconds,
        )

    async def _look_up(self, tile: Tile, trip: Trip) -> Tile:
        """Settle the doubt about a create that may have arrived."""
        ear = self.ears.ear(tile, trip.stack)
        await self.world.clock.wait(ear.woken, max(0.0, trip.ask_at - self.world.clock.monotonic()))
        ear.listen()
        is_early, pause = self.world.clock.monotonic() < trip.ask_at, 0.0
        try:
            found = await submit.look_up(tile, self.world.predictor, await self.world.ledger.books.predictions(tile))
        except Fault as fault:
            self.gates.close(Gate.HISTORY, fault)  # Told once, for all that are looked for.
            self.world.log.debug("lookup_failed", **tile.about, reason=fault.said)
            found, readable, pause = None, False, fault.retry_after or 0.0
        else:
            self.gates.open(Gate.HISTORY)
            readable = True
        if found is not None:
            return await self.record(tile, found)
        if is_early:
            return tile  # A word makes us look; that nothing is there then proves no more than it did before.
        wall, now = self.world.clock.wall(), self.world.clock.monotonic()
        reaction = reactions.doubt(tile, readable, now - trip.watched, self.config.api.create_seconds_max)
        wait = max(reaction.wait, min(pause, reactions.PAUSE_SECONDS_MAX))
        trip.ask_at = now + wait
        self._doubt(trip, now - trip.watched >= self.config.api.create_seconds_max * reactions.DOUBT_GRACE)
        if reaction.event is None:
            return await self.world.ledger.postpone(tile, wall + wait)
        if isinstance(reaction.event, Absent):
            if tile.api != self.world.api:
                return await self.record(tile, verdicts.made_elsewhere())
            if tile.prediction is not None and await self.world.ledger.books.is_billed(tile.prediction):
                return await self.record(tile, verdicts.paid_and_forgotten(tile))
            if reactions.submits_left(tile, self.config.api.submits_max) <= 0:
                return await self.record(tile, verdicts.doubtful(tile))
        return await self.record(tile, reaction.event, wait=reaction.wait)

    async def _poll(self, tile: Tile, trip: Trip) -> Tile:
        ear = self.ears.ear(tile, trip.stack)
        heard = await self._until_due(tile, trip)
        age = self.world.clock.monotonic() - trip.since
        if age > self.config.api.overdue_seconds and not trip.overdue:
            trip.overdue = True
            self.world.log.warning("overdue", **tile.about, prediction=tile.prediction, seconds=round(age))
        # Not the API gate: that one may be closed for a reason of the creates' own, and stays so.
        async with self.gates.through(Gate.POLL) as visit:
            asked = self.world.clock.monotonic()
            try:
                end = await poll.poll(tile, self.world.predictor, self.config.api.submits_max)
            except Fault as fault:
                self.world.log.debug("poll_failed", **tile.about, reason=fault.said)
                trip.found = True
                if fault.gate is not None:
                    # Everybody's trouble: it costs no attempts, and who asks first when it is over asks for all.
                    visit.learnt = False
                    self.gates.close(Gate.POLL, fault)
                    return tile
                reaction = reactions.react(tile, fault, self.world.clock.wall(), self.world.clock.dice())
                if isinstance(reaction.event, Forgotten):
                    return await self.record(tile, reaction.event)
                trip.ask_at = self.world.clock.monotonic() + reaction.wait
                return await self.world.ledger.postpone(tile, self.world.clock.wall() + reaction.wait, attempts=1)
        if end is None:
            trip.asked = asked
            return tile
        event, bill = end
        heard = ear.listen() or heard  # Its word may have come while we asked.
        if heard or trip.hinted or not trip.found:
            self.ears.over(ear, heard=heard or trip.hinted)
        if not self.config.budget.is_set:
            # The service has room for the next now, and nobody has to wait until that is written down. A budget counts
            # what is written.
            await trip.stack.aclose()
        wait = reactions.step_back(tile, self.world.clock.dice()) if isinstance(event, Spoiled) else 0.0
        recording = self.record(tile, event, bill=bill, wait=wait)
        if not isinstance(event, Succeeded):
            return await recording
        # Together, so that they share a commit.
        tile, _ = await asyncio.gather(recording, self._learn(tile, trip, bill, heard))
        return tile

    async def _until_due(self, tile: Tile, trip: Trip) -> bool:
        """Wait until an end is likely enough, or the service tells; returns whether it does."""
        ear, api = self.ears.ear(tile, trip.stack), self.config.api
        while True:
            self.ears.settle()
            now = self.world.clock.monotonic()
            pause = pacing.poll_pause(
                now - trip.since,
                # What is usual says nothing of one that should be over.
                None if trip.hinted else self.paces.usual(self._kind(tile), tile.rect.pixels),
                shortest=api.poll_seconds_min,
                overdue_after=api.overdue_seconds,
                told=self.ears.told,
                dice=self.world.clock.dice(),
            )
            if trip.found and trip.new:
                pause = self.world.clock.dice()
            at = self.timetable.reserve(max(now + pause, trip.ask_at))
            try:
                woken = await self.world.clock.wait(ear.woken, at - now)
            finally:
                self.timetable.free(at)
            heard = ear.listen()
            if heard or not woken:
                trip.new, trip.hinted = False, trip.hinted or heard
                return heard

    def _kind(self, tile: Tile) -> str:
        return f"{self.world.api}/{tile.job.recipe.fingerprint()[:12]}"

    async def _learn(self, tile: Tile, trip: Trip, bill: Bill, heard: bool) -> None:
        """How long it took. Of one that was found, whose age is the wall clock's word, the service alone knows."""
        now = self.world.clock.monotonic() - trip.since
        if trip.found:
            if not bill.predict_seconds or bill.predict_seconds > now:
                return
            seconds = bill.predict_seconds
        else:
            seconds = pacing.took(trip.asked - trip.since, now, bill.predict_seconds, told=heard)
        await self.world.ledger.books.note_pace(*self.paces.learn(self._kind(tile), tile.rect.pixels, seconds))
