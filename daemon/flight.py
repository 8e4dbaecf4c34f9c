"""
Flight: what happens while a slot is held, from just before the POST until the prediction's end is known.

The money is here. The intent is durable before the create leaves; a create is sent once for one intent, and where its
fate is unknown the service's history decides, never a reflex. What stops half-way is found again by a restart.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from daemon.config_model import Config
from daemon.gates import Gates, outbox_gate, room_gate
from daemon.pipeline import poll, submit
from daemon.ports import Clock, Predictor, Sources, Storage
from daemon.ports_ledger import Ledger
from daemon.room import Room
from daemon.rules import budget, pacing, reactions, verdicts
from daemon.rules.faults import Fault, Gate
from daemon.rules.hooks import Hooks
from daemon.rules.job import Tile
from daemon.rules.lifecycle import Absent, Event, Forgotten, Held, Intended, Refused, Spoiled, Stale, State
from daemon.rules.pacing import Place, SlidingMinute, Window


@dataclass(slots=True)
class Trip:
    """One stay in a slot, in monotonic seconds: the wall clock may be set meanwhile.

    stack: what holds the slot. since: when the tile's state began. watched: since when this process has seen it in that
    state; what it has not waited for itself proves no absence. ask_at: no question before that. found: it was in flight
    when we started, so it may be over since long ago, and its webhook may have come while nobody listened.
    doubtful: it was looked for longer than a create may take, and most likely is not running. overdue: that was told.
    """

    stack: AsyncExitStack
    since: float
    watched: float
    ask_at: float
    found: bool
    doubtful: bool = False
    overdue: bool = False


IN_FLIGHT = (State.SUBMITTED, State.SUBMITTING)
LOOK_AGAIN_SECONDS = 5.0
Record = Callable[..., Awaitable[Tile]]


@dataclass(slots=True)
class Flight:
    """record: tells the ledger, the log and the lanes; all that happens here goes through it.

    api: which API and account this is, without secrets; what was submitted to another is not absent for being unknown.
    hooks: where the service can tell us, or None. flying: how many slots are held. doubtful: by how many submits that
    most likely are not running.
    """

    config: Config
    clock: Clock
    log: FilteringBoundLogger
    gates: Gates
    ledger: Ledger
    predictor: Predictor
    storage: Storage
    room: Room
    api: str
    minute: SlidingMinute
    window: Window
    slots: asyncio.BoundedSemaphore
    record: Record
    sources: Callable[[Tile], Awaitable[Sources]]
    stopping: asyncio.Event
    step: Callable[[], AbstractContextManager[None]]
    hooks: Hooks | None = None
    flying: int = 0
    doubtful: int = 0
    purse: asyncio.Lock = field(default_factory=asyncio.Lock)
    ears: dict[str, asyncio.Event] = field(default_factory=dict)

    def admits(self, folder: int | None = None) -> bool:
        """Whether a submit (of this folder) could leave now, or probe whether it can."""
        gates: list[str] = [Gate.API, Gate.ROOM]
        if folder is not None:
            gates += [outbox_gate(folder), room_gate(folder)]
        # Whether the storage is back is shown by an upload, never by a create that might find nothing to read.
        is_readable = self.gates.seconds_left(Gate.STORAGE) is None
        return is_readable and self.window.allows(self.flying - self.doubtful) and all(map(self.gates.admits, gates))

    def hear(self, token: str) -> None:
        """The service says that a submit is over: ask now. What it says is not believed."""
        if token in self.ears:
            self.ears[token].set()

    async def fly(self, tile: Tile) -> None:
        """Take a tile from wherever it is in flight to the end of its prediction."""
        if self.stopping.is_set():
            return
        async with AsyncExitStack() as stack:
            trip = self._trip(tile, stack)
            stack.callback(self._doubt, trip, False)
            if tile.state is State.UPLOADED:
                if not self.admits(tile.job.folder) or not reactions.is_due(tile.due_at, self.clock.wall()):
                    return  # It waits in the ledger; no worker and no slot waits with it.
                if not await self.room.answers(tile.job.folder):
                    return
                tile = await self._depart(tile, stack)
                trip.since = trip.watched = self.clock.monotonic()
            else:
                await stack.enter_async_context(self._slot())
            while tile.state in IN_FLIGHT and not self.stopping.is_set():
                state = tile.state
                tile = await (self._look_up(tile, trip) if state is State.SUBMITTING else self._poll(tile, trip))
                if tile.state is not state:
                    trip.since = trip.watched = self.clock.monotonic()
                    self._doubt(trip, False)

    def _doubt(self, trip: Trip, doubtful: bool) -> None:
        """A submit that most likely is not running takes no place in a window that a 429 has made small."""
        self.doubtful += doubtful - trip.doubtful
        trip.doubtful = doubtful

    def _trip(self, tile: Tile, stack: AsyncExitStack) -> Trip:
        """How long ago the tile's state began, and how long it has to wait, as far as the wall clock can tell."""
        wall, now = self.clock.wall(), self.clock.monotonic()
        wait = tile.due_at - wall if not reactions.is_due(tile.due_at, wall) else 0.0
        return Trip(
            stack,
            since=now - max(0.0, wall - tile.since),
            watched=now,
            ask_at=now + wait,
            found=tile.state in IN_FLIGHT,
            overdue=wall - tile.since > self.config.api.overdue_seconds,
        )

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        async with self.slots:
            self.flying += 1
            try:
                yield
            finally:
                self.flying -= 1

    async def _depart(self, tile: Tile, stack: AsyncExitStack) -> Tile:
        """Submit, once gates, minute and slots allow it. stack: what holds the slot from then on."""
        if reactions.submits_left(tile, self.config.api.submits_max) <= 0:
            return await self.record(tile, verdicts.no_submits_left(tile))
        async with self.gates.through(Gate.API) as visit:
            if visit.is_probe:
                # A question costs nothing; a create that is lost in an outage costs a person's time, or money.
                await self.predictor.check()
            await stack.enter_async_context(self._slot())
            while (wait := self.minute.wait_seconds(self.clock.monotonic())) != 0.0:
                await self.clock.sleep(wait if wait is not None else 1.0)
            with self.minute.place() as place, self.step():
                now, sources = self.clock.wall(), await self.sources(tile)
                event = await self._intend(tile, sources, now)
                # One at a time from the look at budget and room to the intent that counts in them.
                async with self.purse:
                    if visit.is_overtaken() or not self.window.allows(self.flying - self.doubtful - 1):
                        visit.learnt = False
                        return tile
                    if not await self._is_priced(tile) or not await self.room.is_there(tile, sources):
                        visit.learnt = False
                        return await self.ledger.postpone(tile, self.clock.wall() + LOOK_AGAIN_SECONDS)
                    event = await self.over_budget(tile) or event
                    wait = reactions.step_back(tile, self.clock.dice()) if isinstance(event, Stale) else 0.0
                    tile = await self.record(tile, event, wait=wait)
                if isinstance(event, Intended):
                    return await self._create(tile, place, stack)
                visit.learnt = False
                return tile

    async def _intend(self, tile: Tile, sources: Sources, now: float) -> Event:
        """The last looks before money is spent."""
        uploaded = (await self.ledger.deliveries.times(tile.job.id)).get("uploaded", 0.0)
        try:
            return await submit.intend(
                tile,
                sources,
                self.storage,
                api=self.api,
                now=now,
                since=min(now, now + self.predictor.ahead),
                uploaded=uploaded,
                url_seconds=self.config.storage.url_seconds,
            )
        except Fault as fault:
            if fault.gate is Gate.STORAGE:
                self.gates.close(fault.gate, fault)
            raise

    async def _create(self, tile: Tile, place: Place, stack: AsyncExitStack) -> Tile:
        hook = None
        if self.hooks is not None:
            hook = self.hooks.hook(tile)
            self._ear(tile, stack)  # It may be over before the answer is here.
        try:
            accepted = await submit.submit(tile, self.predictor, hook)
        except Fault as fault:
            if fault.rate_limited:
                self.window.refused(self.flying, self.clock.monotonic())
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
        self.window.accepted(self.clock.monotonic())
        return await self.record(tile, accepted)

    async def over_budget(self, tile: Tile) -> Held | None:
        """Why the budget does not let it pass, or None."""
        limits, now = self.config.budget, self.clock.wall()
        if tile.released or not limits.is_set:
            return None
        spending = await self.ledger.books.spending(now)
        over = budget.over_budget(spending, limits.usd_per_day_max, limits.usd_per_month_max, now)
        return None if over is None else verdicts.over_budget(*over)

    async def _is_priced(self, tile: Tile) -> bool:
        """Whether a budget, where there is one, can tell what another run would cost; else the first one shows it."""
        if tile.released or not self.config.budget.is_set:
            return True
        return not (await self.ledger.books.spending(self.clock.wall())).is_a_guess

    async def _look_up(self, tile: Tile, trip: Trip) -> Tile:
        """Settle the doubt about a create that may have arrived."""
        ear = self._ear(tile, trip.stack)
        await self.clock.wait(ear, max(0.0, trip.ask_at - self.clock.monotonic()))
        ear.clear()
        pause = 0.0
        try:
            found = await submit.look_up(tile, self.predictor, await self.ledger.books.predictions(tile))
        except Fault as fault:
            self.gates.close(Gate.HISTORY, fault)  # Told once, for all that are looked for.
            self.log.debug("lookup_failed", **tile.about, reason=fault.said)
            found, readable, pause = None, False, fault.retry_after or 0.0
        else:
            self.gates.open(Gate.HISTORY)
            readable = True
        if found is not None:
            return await self.record(tile, found)
        wall, now = self.clock.wall(), self.clock.monotonic()
        reaction = reactions.doubt(tile, readable, now - trip.watched, self.config.api.create_seconds_max)
        wait = max(reaction.wait, min(pause, reactions.PAUSE_SECONDS_MAX))
        trip.ask_at = now + wait
        self._doubt(trip, now - trip.watched >= self.config.api.create_seconds_max * reactions.DOUBT_GRACE)
        if reaction.event is None:
            return await self.ledger.postpone(tile, wall + wait)
        if isinstance(reaction.event, Absent):
            if tile.api != self.api:
                return await self.record(tile, verdicts.made_elsewhere())
            if tile.prediction is not None and await self.ledger.books.is_billed(tile.prediction):
                return await self.record(tile, verdicts.paid_and_forgotten(tile))
            if reactions.submits_left(tile, self.config.api.submits_max) <= 0:
                return await self.record(tile, verdicts.doubtful(tile))
        return await self.record(tile, reaction.event, wait=reaction.wait)

    def _ear(self, tile: Tile, stack: AsyncExitStack) -> asyncio.Event:
        """What is set when the service says that this submit is over; there until the slot is given back."""
        if self.hooks is None:
            return asyncio.Event()
        token = self.hooks.token(tile)
        if token not in self.ears:
            self.ears[token] = asyncio.Event()
            stack.callback(self.ears.pop, token)
        return self.ears[token]

    async def _poll(self, tile: Tile, trip: Trip) -> Tile:
        now = self.clock.monotonic()
        pause = pacing.poll_pause(
            now - trip.since,
            shortest=self.config.api.poll_seconds_min,
            overdue_after=self.config.api.overdue_seconds,
            dice=self.clock.dice(),
        )
        ear = self._ear(tile, trip.stack)
        if trip.found:
            pause, trip.found = self.clock.dice(), False
        await self.clock.wait(ear, max(pause, trip.ask_at - now))
        ear.clear()
        age = self.clock.monotonic() - trip.since
        if age > self.config.api.overdue_seconds and not trip.overdue:
            trip.overdue = True
            self.log.warning("overdue", **tile.about, prediction=tile.prediction, seconds=round(age))
        # Not the API gate: that one may be closed for a reason of the creates' own, and stays so.
        async with self.gates.through(Gate.POLL) as visit:
            try:
                end = await poll.poll(tile, self.predictor, self.config.api.submits_max)
            except Fault as fault:
                self.log.debug("poll_failed", **tile.about, reason=fault.said)
                if fault.gate is not None:
                    # Everybody's trouble: it costs no attempts, and who asks first when it is over asks for all.
                    visit.learnt = False
                    self.gates.close(Gate.POLL, fault)
                    return tile
                reaction = reactions.react(tile, fault, self.clock.wall(), self.clock.dice())
                if isinstance(reaction.event, Forgotten):
                    return await self.record(tile, reaction.event)
                trip.ask_at = self.clock.monotonic() + reaction.wait
                return await self.ledger.postpone(tile, self.clock.wall() + reaction.wait, attempts=1)
        if end is None:
            return tile
        event, bill = end
        wait = reactions.step_back(tile, self.clock.dice()) if isinstance(event, Spoiled) else 0.0
        return await self.record(tile, event, bill=bill, wait=wait)
