"""
Dispatcher: ledger -> window -> bounded workers -> record -> react.

Stages ask the world once and return an event; here alone events are recorded and faults are answered. Uploads run ahead
of the slots, downloads and writes behind them, each with its own bound. A step that fails leaves its picture where it
was; whatever stands still is found again, by a gate that opens, a due time, or a restart.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from daemon.delivery import Delivery
from daemon.departure import Departure
from daemon.drift import Drift
from daemon.ears import Ears
from daemon.flight import Flight
from daemon.gates import Gates, outbox_gate
from daemon.lanes import Lane
from daemon.loading import Loading
from daemon.pipeline import fetch
from daemon.ports import Sources
from daemon.probes import Probes
from daemon.room import Room
from daemon.rules import limits, pacing, reactions
from daemon.rules.faults import Changed, Fault, Gate, LedgerBroken, Vanished
from daemon.rules.hooks import Hooks
from daemon.rules.job import Bill, Picture, Tile, Whole
from daemon.rules.lifecycle import (
    MILESTONES,
    STOPPED,
    TRANSITIONS,
    Event,
    Failed,
    Held,
    Intended,
    Released,
    Spoiled,
    State,
    Withdrawn,
)
from daemon.sweep import Sweep
from daemon.turns import IN_FLIGHT, Turns
from daemon.turnstile import Turnstile
from daemon.world import Folder, World

if TYPE_CHECKING:
    from daemon.config_model import Config

READY = 3  # uploaded pictures that have been looked at once more, and wait for nothing but a slot
FETCHES_MAX = 4
WRITES_MAX = 3  # for each folder
Key = tuple[str, int]
STATE_LANES = {
    State.ADMITTED: "upload",
    State.UPLOADED: "flight",
    State.SUBMITTING: "flight",
    State.SUBMITTED: "flight",
    State.READY: "fetch",
    State.FETCHED: "write",
    State.FAILED: "write",
    State.DONE: "write",
    State.HELD: "held",
}


class Dispatcher:
    """Moves every tile and every picture that can move."""

    def __init__(
        self, config: "Config", world: World, gates: Gates, folders: Iterable[Folder], hooks: Hooks | None = None
    ) -> None:
        self.config = config
        self.world = world
        self.gates = gates
        self.folders = {folder.id: folder for folder in folders}
        self._held_until: set[float] = set()
        self.stopping = asyncio.Event()
        self.turnstile = Turnstile(world.clock, config.api.in_flight_max, config.api.creates_per_minute_max)
        self.ears = Ears(world.clock, world.log, hooks)
        outboxes = {folder.id: folder.config.outbox for folder in self.folders.values()}
        self.departure = Departure(
            config=config,
            world=world,
            gates=gates,
            room=Room(world.clock, gates, world.ledger, world.disk, outboxes),
            turnstile=self.turnstile,
            ears=self.ears,
            record=self.record,
            sources=self.sources,
            stopping=self.stopping,
            step=self.step,
        )
        self.flight = Flight(
            config=config,
            world=world,
            gates=gates,
            turnstile=self.turnstile,
            ears=self.ears,
            departure=self.departure,
            timetable=pacing.Timetable(config.api.poll_seconds_min / config.api.in_flight_max),
            record=self.record,
            stopping=self.stopping,
        )
        gates.on_open = self.poke_all
        self.sweep = Sweep(world, gates, keep=config.storage.keep, uploading=lambda: self.lanes["upload"].in_hand)
        self.loading = Loading(
            config=config,
            world=world,
            gates=gates,
            folders=self.folders,
            sweep=self.sweep,
            record=self.record,
            react=self._react,
            sources=self.sources,
            over_budget=self.departure.over_budget,
            step=self.step,
        )
        self.probes = Probes(world, gates, outboxes)
        self.delivery = Delivery(world, gates, self.folders, self.record, self.step)
        self.turns = Turns(
            config, world.clock, world.ledger, gates, self.folders, self.departure.admits, list(self.folders)
        )
        self.lanes: dict[str, Lane[Tile, Key]] = {
            "upload": self._lane("upload", config.storage.uploads_max, (State.ADMITTED,), self.loading.load),
            "flight": self._lane("flight", config.api.in_flight_max + READY, IN_FLIGHT, self._fly, READY),
            "fetch": self._lane("fetch", FETCHES_MAX, (State.READY,), self._fetch),
            "held": self._lane("held", 1, (State.HELD,), self._release),
        }
        self.lanes["upload"].find = self.turns.uploads
        self.lanes["flight"].find = self.turns.flights
        self.lanes["flight"].next_due = self.turns.next_flight
        # Each outbox has workers of its own: one that hangs holds up no other.
        self.write_lanes = {id_: self._write_lane(id_) for id_ in self.folders}
        self.busy_tasks: dict[asyncio.Task[None], float] = {}

    def _lane(
        self,
        name: str,
        width: int,
        states: tuple[State, ...],
        work: Callable[[Tile], Awaitable[None]],
        ahead: int = 0,
    ) -> Lane[Tile, Key]:
        ledger, clock = self.world.ledger, self.world.clock

        async def find(room: int, in_hand: set[Key]) -> list[Tile]:
            return await self.turns.due(states, self.turns.known, room, in_hand)

        async def next_due() -> float | None:
            return await ledger.next_due(states, clock.wall())

        return Lane(
            name, width, clock, find, lambda tile: tile.key, work, next_due, self.stopping, self.world.log, ahead
        )

    def _write_lane(self, id_: int) -> Lane[tuple[Picture, Whole], int]:
        return Lane(
            name=f"write {id_}",
            width=WRITES_MAX,
            clock=self.world.clock,
            find=partial(self.delivery.find, id_),
            key=lambda due: due[0].id,
            work=self._write,
            next_due=partial(self.delivery.next_due, id_),
            stopping=self.stopping,
            log=self.world.log,
        )

    async def sources(self, tile: Tile) -> Sources:
        """The files that have a tile's content, in folders that we still watch."""
        pictures = await self.world.ledger.deliveries.sources(tile.job.id)
        return [(self.folders[p.folder].inbox, p) for p in pictures if p.folder in self.folders]

    # Recording

    async def record(self, tile: Tile, event: Event, *, wait: float = 0.0, bill: Bill | None = None) -> Tile:
        """Tell the ledger, then the log, then the lane that comes next; returns the tile as it is now.

        It may have been stopped, with this step or before it, as another tile of its picture was.
        """
        clock = self.world.clock
        new = await self.world.ledger.record(tile, event, clock.wall(), wait=wait, bill=bill)
        if isinstance(event, Withdrawn):
            # Asked after the record, so that a copy which was admitted in the same moment is not overlooked: each is a
            # new picture, should it come back as it was, or still be there.
            for picture in await self.world.ledger.deliveries.gone(tile.job.id):
                if picture.folder in self.folders:
                    self.folders[picture.folder].detector.forget(picture.path, picture.look)
        fields = tile.about | {"seconds": round(clock.wall() - tile.since, 3)}
        if bill is not None:
            fields |= {"cost_usd": bill.cost_usd}
        if isinstance(event, Failed | Held | Spoiled | Withdrawn):
            fields |= {"reason": event.reason}
        if new.prediction is not None and not isinstance(event, Intended):
            fields |= {"prediction": new.prediction}
        if new.state is not TRANSITIONS[tile.state][type(event)]:
            self.world.log.info("overtaken", **fields, step=event.name, state=new.state.value)
        elif isinstance(event, Held) and event.due_at not in self._held_until:
            # The first of its kind; the others are told like any step.
            self._held_until.add(event.due_at)
            self.world.log.warning(event.name, **fields, remedy=event.remedy)
        else:
            self.world.log.info(event.name, **fields)
        self.poke(new.state)
        if not (tile.is_whole or {tile.state, new.state}.isdisjoint({*STOPPED, State.DONE})):
            self.poke_all()  # What became of one tile may have moved the others.
        if new.state not in (State.UPLOADED, *IN_FLIGHT):
            self.sweep.soon()
        return new

    def poke(self, state: State) -> None:
        """Wake the lane of a state."""
        name = STATE_LANES[state]
        for lane in self.write_lanes.values() if name == "write" else [self.lanes[name]]:
            lane.poke()

    def all_lanes(self) -> "list[Lane[Tile, Key] | Lane[tuple[Picture, Whole], int]]":
        """Every lane."""
        return [*self.lanes.values(), *self.write_lanes.values()]

    def poke_all(self) -> None:
        """Wake everybody: a person changed something in the ledger."""
        for lane in self.all_lanes():
            lane.poke()

    async def _react(self, tile: Tile, fault: Fault) -> None:
        """Answer a fault of a step: record, or wait. Gates were closed on the way."""
        tile = await self.world.ledger.now(tile)
        clock = self.world.clock
        if tile.state in STOPPED:
            self.sweep.soon()  # What it left behind, as another tile of its picture was stopped meanwhile.
            return
        if isinstance(fault, Vanished | Changed) and tile.state is State.ADMITTED:
            await self.record(tile, Withdrawn(reason=fault.said))
            return
        reaction = reactions.react(tile, fault, clock.wall(), clock.dice())
        if reaction.wrong:
            tile = await self.world.ledger.postpone(tile, clock.wall() + reaction.wait, wrongs=1)
        if reaction.event is not None:
            await self.record(tile, reaction.event, wait=reaction.wait)
        elif reaction.gate is None:
            self.world.log.info("postponed", **tile.about, reason=fault.said, seconds=round(reaction.wait, 3))
            if not reaction.wrong:
                await self.world.ledger.postpone(tile, clock.wall() + reaction.wait, attempts=1)

    # Working

    @contextmanager
    def step(self) -> Iterator[None]:
        """Inside, a task is let finish when the program ends; elsewhere it only waits and may be cut short."""
        task = asyncio.current_task()
        assert task is not None
        self.busy_tasks[task] = self.world.clock.monotonic()
        try:
            yield
        finally:
            del self.busy_tasks[task]

    async def _fly(self, tile: Tile) -> None:
        try:
            await self.flight.fly(tile)
        except LedgerBroken:
            raise
        except Fault as fault:
            await self._react(tile, fault)
        self.lanes["upload"].poke()  # There is room in the reserve.

    async def _fetch(self, tile: Tile) -> None:
        world = self.world
        try:
            async with self.gates.through(Gate.FETCH, Gate.STAGING):
                with self.step():
                    event = await fetch.fetch(tile, world.predictor, world.disk, world.pictures)
        except LedgerBroken:
            raise
        except Fault as fault:
            await self._react(tile, fault)
        else:
            await self.record(tile, event)
            if await world.ledger.deliveries.finish(tile.job.id, world.clock.wall()):
                # Nobody waits for it any more: its picture was replaced meanwhile.
                with contextlib.suppress(Fault):
                    await world.disk.clear(await world.ledger.whole(tile.job.id))

    async def _write(self, due: tuple[Picture, Whole]) -> None:
        await self.delivery.write(*due)
        self.sweep.soon()

    async def _release(self, tile: Tile) -> None:
        """A held tile whose time has come: the budget's new day; and with it those that were held together."""
        tile = await self.world.ledger.now(tile)
        if tile.state is State.HELD:
            await self.record(tile, Released(submits_granted=0, by_person=False))

    # Running

    async def prepare(self) -> None:
        """Remember what former runs left behind: their folders, the submits of the last minute, what they learnt."""
        self.turns.known = await self.world.ledger.folders()
        books, clock = self.world.ledger.books, self.world.clock
        wall, now = clock.wall(), clock.monotonic()
        submits = await books.submits(wall - limits.WINDOW_SECONDS - self.config.api.create_seconds_max)
        answered = [now - max(0.0, wall - answer) if answer is not None else now for _, answer in submits]
        self.turnstile.minute.remember(answered)
        for name, value in (await books.paces()).items():
            self.flight.paces.recall(name, value)
        usd = self.config.budget
        await books.budget_is(f"{usd.usd_per_day_max:g}/{usd.usd_per_month_max:g}", wall)

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """All loops and workers, as tasks of the group."""
        drift = Drift(self.world.clock, self.world.ledger, self.world.log, self.poke_all)
        tasks = [
            group.create_task(each.watch(self.stopping), name=name)
            for name, each in (("sweep", self.sweep), ("probes", self.probes), ("drift", drift))
        ]
        for lane in self.all_lanes():
            tasks.append(group.create_task(lane.feed(), name=f"{lane.name} feed"))
            tasks += [group.create_task(lane.labour(), name=f"{lane.name} {n}") for n in range(lane.width)]
        return tasks

    def rests(self) -> bool:
        """Whether nothing is in hand, but for what waits for an outbox that is broken."""
        closed = {gate.name for gate in self.gates.closed()}
        waiting = [lane for id_, lane in self.write_lanes.items() if outbox_gate(id_) in closed]
        return all(lane.is_idle() for lane in self.all_lanes() if lane not in waiting)

    async def is_idle(self) -> bool:
        """Whether nothing is left that could move by itself."""
        # A fetched result that a folder of ours waits for is found among the deliveries.
        moving = [state for state in MILESTONES if state not in (State.FETCHED, State.DONE)]
        if not all(lane.is_idle() for lane in self.all_lanes()) or await self.world.ledger.count(*moving):
            return False
        return not await self.world.ledger.deliveries.due(list(self.folders), 1, []) and self.sweep.is_done
