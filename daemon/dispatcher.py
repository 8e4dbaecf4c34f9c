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
from daemon.drift import Drift
from daemon.flight import IN_FLIGHT, Flight
from daemon.gates import Gates, outbox_gate, room_gate
from daemon.lanes import Lane
from daemon.pipeline import fetch, upload
from daemon.ports import Sources
from daemon.probes import Probes
from daemon.room import Room
from daemon.rules import names, pacing, reactions
from daemon.rules.faults import Changed, Fault, Gate, LedgerBroken, Vanished
from daemon.rules.hooks import Hooks
from daemon.rules.job import Bill, Picture, Tile
from daemon.rules.lifecycle import MILESTONES, NEVER, Event, Failed, Held, Intended, Released, Spoiled, State, Withdrawn
from daemon.sweep import Sweep
from daemon.world import Folder, World

if TYPE_CHECKING:
    from daemon.config_model import Config

RESERVE = 4  # uploaded pictures kept ready for a free slot, beyond as many as there are upload workers
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
        # What is in flight goes on although its folder is no longer configured: it is paid for.
        self.known_folders: list[int] = list(self.folders)
        self._turn = 0
        self._held_until: set[float] = set()
        self.stopping = asyncio.Event()
        self.minute = pacing.SlidingMinute(config.api.creates_per_minute_max)
        self.slots = asyncio.BoundedSemaphore(config.api.in_flight_max)
        outboxes = {folder.id: folder.config.outbox for folder in self.folders.values()}
        self.flight = Flight(
            config=config,
            clock=world.clock,
            log=world.log,
            gates=gates,
            ledger=world.ledger,
            predictor=world.predictor,
            storage=world.storage,
            room=Room(world.clock, gates, world.ledger, world.disk, outboxes),
            api=world.api,
            minute=self.minute,
            window=pacing.Window(config.api.in_flight_max),
            slots=self.slots,
            record=self.record,
            sources=self.sources,
            stopping=self.stopping,
            step=self.step,
            hooks=hooks,
        )
        gates.on_open = self.poke_all
        self.sweep = Sweep(world, gates, keep=config.storage.keep)
        self.probes = Probes(world, gates, outboxes)
        self.delivery = Delivery(world, gates, self.folders, self.record, self.step)
        self.lanes: dict[str, Lane[Tile, Key]] = {
            "upload": self._lane("upload", config.storage.uploads_max, (State.ADMITTED,), self._upload),
            "flight": self._lane("flight", config.api.in_flight_max, IN_FLIGHT, self._fly),
            "fetch": self._lane("fetch", FETCHES_MAX, (State.READY,), self._fetch),
            "held": self._lane("held", 1, (State.HELD,), self._release),
        }
        self.lanes["upload"].find = self._find_uploads
        self.lanes["flight"].find = self._find_flights
        self.lanes["flight"].next_due = self._next_flight
        # Each outbox has workers of its own: one that hangs holds up no other.
        self.write_lanes = {id_: self._write_lane(id_) for id_ in self.folders}
        self.busy_tasks: dict[asyncio.Task[None], float] = {}

    def _lane(
        self, name: str, width: int, states: tuple[State, ...], work: Callable[[Tile], Awaitable[None]]
    ) -> Lane[Tile, Key]:
        ledger, clock = self.world.ledger, self.world.clock

        async def find(room: int, in_hand: set[Key]) -> list[Tile]:
            return await ledger.due(states, self._turns(), clock.wall(), room, in_hand)

        async def next_due() -> float | None:
            return await ledger.next_due(states, clock.wall())

        return Lane(name, width, clock, find, lambda tile: tile.key, work, next_due, self.stopping, self.world.log)

    def _write_lane(self, id_: int) -> Lane[tuple[Picture, Tile], int]:
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

    # Finding

    async def _find_uploads(self, room: int, in_hand: set[Key]) -> list[Tile]:
        """Uploads run ahead of the slots, but not far: their URLs would grow old."""
        ledger = self.world.ledger
        ahead = await ledger.count(State.UPLOADED) + len(in_hand)
        reserve = self.config.api.in_flight_max + self.config.storage.uploads_max + RESERVE
        room = min(room, reserve - ahead)
        if room <= 0:
            return []
        now = self.world.clock.wall()
        return await ledger.due((State.ADMITTED,), list(filter(self._answers, self._turns())), now, room, in_hand)

    async def _find_flights(self, room: int, in_hand: set[Key]) -> list[Tile]:
        """What is in flight first; then what could leave."""
        ledger, now = self.world.ledger, self.world.clock.wall()
        # Whenever it is to be asked about next: it runs, and takes a slot.
        found = await ledger.due(IN_FLIGHT, self._turns(), NEVER, room, in_hand)
        if len(found) < room:
            ready = [folder for folder in self._turns() if self._answers(folder) and self.flight.admits(folder)]
            found += await ledger.due((State.UPLOADED,), ready, now, room - len(found), in_hand)
        return found

    async def _next_flight(self) -> float | None:
        clock = self.world.clock
        due = await self.world.ledger.next_due((*IN_FLIGHT, State.UPLOADED), clock.wall())
        gates: list[str] = [Gate.API, Gate.STORAGE, Gate.ROOM]
        gates += [gate(folder) for folder in self.folders for gate in (outbox_gate, room_gate)]
        waits = [self.gates.seconds_left(gate) for gate in gates]
        times = [clock.wall() + wait for wait in waits if wait is not None and wait > 0]
        return min([*times, *([] if due is None else [due])], default=None)

    def _turns(self) -> list[int]:
        """The folders, each time with another one first: where there is room for one only, they take turns."""
        self._turn += 1
        start = self._turn % max(1, len(self.known_folders))
        return self.known_folders[start:] + self.known_folders[:start]

    def _answers(self, folder: int) -> bool:
        """Whether looking at a source there would not wait for an inbox that is away, or hangs."""
        return folder not in self.folders or self.folders[folder].detector.fault is None

    async def sources(self, tile: Tile) -> Sources:
        """The files that have a tile's content, in folders that we still watch."""
        pictures = await self.world.ledger.deliveries.sources(tile.job.id)
        return [(self.folders[p.folder].inbox, p) for p in pictures if p.folder in self.folders]

    # Recording

    async def record(self, tile: Tile, event: Event, *, wait: float = 0.0, bill: Bill | None = None) -> Tile:
        """Tell the ledger, then the log, then the lane that comes next."""
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
        if isinstance(event, Held) and event.due_at not in self._held_until:
            # The first of its kind; the others are told like any step.
            self._held_until.add(event.due_at)
            self.world.log.warning(event.name, **fields, remedy=event.remedy)
        else:
            self.world.log.info(event.name, **fields)
        self.poke(new.state)
        if new.state not in (State.UPLOADED, *IN_FLIGHT):
            self.sweep.soon()
        return new

    def poke(self, state: State) -> None:
        """Wake the lane of a state."""
        name = STATE_LANES[state]
        for lane in self.write_lanes.values() if name == "write" else [self.lanes[name]]:
            lane.poke()

    def all_lanes(self) -> "list[Lane[Tile, Key] | Lane[tuple[Picture, Tile], int]]":
        """Every lane."""
        return [*self.lanes.values(), *self.write_lanes.values()]

    def poke_all(self) -> None:
        """Wake everybody: a person changed something in the ledger."""
        for lane in self.all_lanes():
            lane.poke()

    async def _react(self, tile: Tile, fault: Fault) -> None:
        """Answer a fault of a step: record, or wait. Gates were closed on the way."""
        tile = await self.world.ledger.tile(tile.key)
        clock = self.world.clock
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

    async def _upload(self, tile: Tile) -> None:
        # What the budget does not let pass today has no need to lie in a bucket until tomorrow.
        if held := await self.flight.over_budget(tile):
            await self.record(tile, held)
            return
        key = names.asset_key(self.world.ledger.identity, tile.job.id, tile.number, tile.uploads)
        try:
            async with self.gates.through(Gate.STORAGE):
                sources = await self.sources(tile)
                with self.step():
                    event = await upload.upload(tile, sources, self.world.storage, key)
        except LedgerBroken:
            raise
        except Fault as fault:
            await self._react(tile, fault)
        else:
            await self.record(tile, event)

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
                    await world.disk.remove(world.disk.staged(tile))

    async def _write(self, due: tuple[Picture, Tile]) -> None:
        await self.delivery.write(*due)
        self.sweep.soon()

    async def _release(self, tile: Tile) -> None:
        """A held tile whose time has come: the budget's new day."""
        await self.record(tile, Released(submits_granted=0, by_person=False))

    # Running

    async def prepare(self) -> None:
        """Remember what former runs left behind: their folders, and the submits of the last minute."""
        self.known_folders = await self.world.ledger.folders()
        clock = self.world.clock
        wall, now = clock.wall(), clock.monotonic()
        span = pacing.WINDOW_SECONDS + self.config.api.create_seconds_max
        submits = await self.world.ledger.books.submits(wall - span)
        answered = [now - max(0.0, wall - answer) if answer is not None else now for _, answer in submits]
        self.minute.remember(answered)
        limits = self.config.budget
        await self.world.ledger.books.budget_is(f"{limits.usd_per_day_max:g}/{limits.usd_per_month_max:g}", wall)

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
        lanes = self.all_lanes()
        # A fetched result that a folder of ours waits for is found among the deliveries.
        moving = [state for state in MILESTONES if state not in (State.FETCHED, State.DONE)]
        if not all(lane.is_idle() for lane in lanes) or await self.world.ledger.count(*moving):
            return False
        return not await self.world.ledger.deliveries.due(list(self.folders), 1, []) and self.sweep.is_done
