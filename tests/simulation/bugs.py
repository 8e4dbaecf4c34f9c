"""Defects, each such as somebody might really make, planted to prove that the simulation finds them."""

import asyncio
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulation.files import SimFiles
from simulation.house import Bug
from simulation.service import size_of

from daemon.dispatcher import Dispatcher
from daemon.flight import Flight, Trip
from daemon.pipeline import submit
from daemon.pipeline.write import Writer
from daemon.rules import lifecycle
from daemon.rules.admission import Decision
from daemon.rules.faults import Blame, Created, Fault, Gate, NotAPicture
from daemon.rules.job import Tile, Whole
from daemon.rules.lifecycle import UNPAID, Absent, Event, Intended, State
from daemon.rules.limits import Place, SlidingMinute
from daemon.rules.sidecar import ResultFacts
from daemon.rules.tiles import shrunk
from daemon.rules.traits import Measured
from daemon.wiring import Parts, Wired


class Wrapped:
    """Everything as it is, but for what a subclass does otherwise."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class RepeatsByReflex(Wrapped):
    """A create whose answer got lost is taken for one that was refused."""

    async def create(self, *order: Any) -> str:
        try:
            return str(await self.real.create(*order))
        except Fault as fault:
            if fault.created is Created.MAYBE:
                raise Fault(fault.said, blame=Blame.SERVICE, gate=Gate.API) from fault
            raise


class NeverSyncs(SimFiles):
    """A file gets its name while its bytes are on their way."""

    def sync(self, file: Any) -> None:
        self.touch("fsync", file.volume)


class NeverSyncsNames(SimFiles):
    """What was renamed is taken for durable."""

    def sync_folder(self, folder: Any) -> None:
        self.machine.step("fsync")


class SidecarFirst(Wrapped):
    """The sign that the picture is complete comes before the picture."""

    async def place(self, source: Path, outbox: Path, path: bytes, ours: str | None, *dated: Any) -> Any:
        sha256 = self.real._files.digest_of(source)[0]
        text = b'{"result": {"sha256": "%s"}, "source": {"sha256": ""}, "warnings": []}' % sha256.encode()
        await self.real.note(outbox, path + b".json", text)
        return await self.real.place(source, outbox, path, ours, *dated)


class KeepsTheOldSidecar(Wrapped):
    """A new result comes under a sidecar that speaks of the old one."""

    async def discard(self, outbox: Path, path: bytes) -> None:
        return None


class IntentAfterwards(Wrapped):
    """The intent to submit is recorded together with the answer."""

    def __init__(self, real: Any) -> None:
        super().__init__(real)
        self.unrecorded: dict[tuple[str, int], tuple[Tile, Intended, float]] = {}

    async def record(self, tile: Tile, event: Event, at: float, **more: Any) -> Tile:
        if isinstance(event, Intended):
            self.unrecorded[tile.key] = (tile, event, at)
            return lifecycle.advance(tile, event, at)
        if tile.key in self.unrecorded:
            before, intended, then = self.unrecorded.pop(tile.key)
            tile = await self.real.record(before, intended, then)
        return await self.real.record(tile, event, at, **more)


class ForgetfulMinute(SlidingMinute):
    """A submit gives its place in the minute back with its answer."""

    @contextmanager
    def place(self) -> Iterator[Place]:
        self.reserved += 1
        yield Place()
        self.reserved -= 1


class SpendsWhatIsInFlight(Wrapped):
    """The budget looks at bills alone."""

    async def spending(self, now: float) -> Any:
        return dataclasses.replace(await self.real.spending(now), in_flight=-1)


class DeletesTooEarly(Wrapped):
    """An object is swept while a prediction may still read it."""

    async def unwanted_assets(self, limit: int, besides: Any = ()) -> list[str]:
        return await self.real._database.read(lambda db: [row[0] for row in db.execute("SELECT ref FROM asset")])


class Books(Wrapped):
    """A ledger with other books."""

    def __init__(self, real: Any, kind: type[Wrapped]) -> None:
        super().__init__(real)
        self.books = kind(real.books)


class DeletesWhatRuns(Wrapped):
    """An object is swept as soon as the service has an id for it."""

    async def unwanted_assets(self, limit: int, besides: Any = ()) -> list[str]:
        sql = (
            "SELECT a.ref FROM asset a JOIN tile t ON t.job = a.job AND t.number = a.number "
            "WHERE t.asset_ref IS NOT a.ref OR t.state NOT IN ('uploaded', 'submitting')"
        )
        return await self.real._database.read(lambda db: [row[0] for row in db.execute(sql)])


class TakesTheSourceFirst(Writer):
    """The source goes, and then its result is written."""

    async def deliver(self, picture: Any, whole: Whole, folder: Any, inbox: Any) -> bool:
        if folder.after != "keep":
            await inbox.delete(picture.path, picture.look)
        return await super().deliver(picture, whole, folder, inbox)


class LooksAtHeadersAlone(Wrapped):
    """A result is whole when its header says how large it is."""

    async def measure(self, path: Path, pixels_max: int, likeness: str = "") -> Measured:
        with self.real._files.open(path, "rb") as file:
            data = file.read()
        size = size_of(b" ".join([*data.split(b" ")[:3], b"x", b"END"]))
        if size is None:
            raise NotAPicture("No header.")
        return Measured(*size, "PNG")


class HastyFlight(Flight):
    """One look into the history proves a submit absent."""

    async def _look_up(self, tile: Tile, trip: Trip) -> Tile:
        try:
            found = await submit.look_up(tile, self.world.predictor)
        except Fault:
            return await super()._look_up(tile, trip)
        return await self.record(tile, found or Absent())


class RecordsBeforeWriting(Writer):
    """The ledger is told that a picture is delivered, and then it is."""

    async def deliver(self, picture: Any, whole: Whole, folder: Any, inbox: Any) -> bool:
        if whole.state is State.FETCHED:
            one = whole.tiles[0]
            facts = ResultFacts(picture.path, one.result_sha256 or "", one.result_bytes or 0, 1, 1, "PNG")
            await self._deliveries.delivered(picture, whole, facts, self.clock.wall(), reused=False)
            whole = await self.ledger.whole(whole.job.id)
        return await super().deliver(picture, whole, folder, inbox)


class PaysOn(Wrapped):
    """Each part of a picture goes on, whatever became of the others."""

    async def record(self, tile: Tile, event: Event, at: float, **more: Any) -> Tile:
        meant = lifecycle.advance(tile, event, at)
        before = [tile if tile.key != meant.key else meant for tile in (await self.real.whole(tile.job.id)).tiles]
        await self.real.record(tile, event, at, **more)
        sql = "UPDATE tile SET state = ?, due_at = ? WHERE job = ? AND number = ? AND state IN ('failed', 'held')"
        for was in before:
            if was.state in UNPAID:
                await self.real.write(lambda db, was=was: db.execute(sql, (was.state, was.due_at, *was.key)))
        return await self.real.tile(tile.key)  # type: ignore[no-any-return]


class BeginsAnew(Wrapped):
    """A failed picture that is dropped in again is paid for in all its parts."""

    async def admit(self, file: Any, *more: Any) -> Decision:
        decision: Decision = await self.real.admit(file, *more)
        if decision is Decision.RETRY:
            job = file.recipe.job_id(file.content.sha256)
            sql = "UPDATE tile SET state = 'admitted' WHERE job = ? AND state IN ('ready', 'fetched')"
            await self.real.write(lambda db: db.execute(sql, (job,)))
        return decision


class JoinsInAnyOrder(Wrapped):
    """The parts of a result are joined as they come."""

    async def finish(self, parts: Any, *more: Any) -> Any:
        paths, rects = zip(*parts, strict=True)
        return await self.real.finish(list(zip(reversed(paths), rects, strict=True)), *more)


class NeverSecures(Wrapped):
    """What is kept of a picture for its result is not synced before the upload is recorded."""

    async def secure(self, tile: Tile) -> None:
        return None


def _parts(**kinds: Any) -> Any:
    def change(parts: Parts) -> Parts:
        return dataclasses.replace(parts, **{name: kind(getattr(parts, name)) for name, kind in kinds.items()})

    return change


def _ledger(kind: Any) -> Any:
    """Only what moves pictures has the wrong ledger; the start has the right one."""

    def change(wired: Wired) -> Wired:
        return dataclasses.replace(wired, world=dataclasses.replace(wired.world, ledger=kind(wired.world.ledger)))

    return change


def _writer(kind: type[Writer]) -> Any:
    def change(wired: Wired) -> Wired:
        writer = wired.world.writer
        fields = {field.name: getattr(writer, field.name) for field in dataclasses.fields(writer)}
        return dataclasses.replace(wired, world=dataclasses.replace(wired.world, writer=kind(**fields)))

    return change


def _disk(kind: type[Wrapped]) -> Any:
    def change(wired: Wired) -> Wired:
        writer = dataclasses.replace(wired.world.writer, disk=kind(wired.world.disk))
        return dataclasses.replace(wired, world=dataclasses.replace(wired.world, writer=writer))

    return change


def _forget_the_minute(dispatcher: Dispatcher) -> None:
    dispatcher.turnstile.minute = ForgetfulMinute(dispatcher.config.api.creates_per_minute_max)


def _be_hasty(dispatcher: Dispatcher) -> None:
    old = dispatcher.flight
    dispatcher.flight = HastyFlight(**{field.name: getattr(old, field.name) for field in dataclasses.fields(old)})


def _sleep(dispatcher: Dispatcher) -> None:
    async def nothing(room: int, in_hand: set[Any]) -> list[Any]:
        await asyncio.sleep(0)
        return []

    dispatcher.lanes["fetch"].find = nothing


def _measure_by_the_day(dispatcher: Dispatcher) -> None:
    lane = dispatcher.lanes["fetch"]
    fetch = lane.work

    async def wrong(tile: Tile) -> None:
        width, height = shrunk(tile.rect.width, tile.rect.height, dispatcher.config.api.pixels_max)
        await fetch(dataclasses.replace(tile, sent_width=width, sent_height=height))

    lane.work = wrong


def _more_slots(config: dict[str, Any]) -> None:
    config["api"]["in_flight_max"] += 1


PAID_AGAIN = "is paid for again|was submitted 3 times"
BUGS = {
    "a lost answer is a refusal": Bug(PAID_AGAIN, parts=_parts(predictor=RepeatsByReflex)),
    "bytes are not synced": Bug("before it was synced", files=NeverSyncs),
    "names are not synced": Bug("without its exact result|is not a right result", files=NeverSyncsNames),
    "the sidecar comes first": Bug("without its exact result", wired=_disk(SidecarFirst)),
    "an old sidecar stays": Bug("without its exact result", wired=_disk(KeepsTheOldSidecar)),
    "the intent is recorded afterwards": Bug(PAID_AGAIN, wired=_ledger(IntentAfterwards)),
    "a place in the minute is forgotten": Bug("creates in a minute", dispatcher=_forget_the_minute),
    "a restart forgets the minute": Bug("creates in a minute", prepare=False),
    "one slot too many": Bug("in flight at the service", config=_more_slots),
    "the budget overlooks what is in flight": Bug(
        "are spent in a day", wired=_ledger(lambda real: Books(real, SpendsWhatIsInFlight))
    ),
    "an object is deleted too early": Bug(
        "its object or its URL is gone", wired=_ledger(lambda real: Books(real, DeletesTooEarly))
    ),
    "an object is deleted while it may be read": Bug(
        "went while it could be read", wired=_ledger(lambda real: Books(real, DeletesWhatRuns))
    ),
    "a result is believed by its header": Bug("is not a right result", parts=_parts(pictures=LooksAtHeadersAlone)),
    "one look proves absence": Bug(PAID_AGAIN, dispatcher=_be_hasty),
    "the source goes first": Bug("no sidecar speaks of it", wired=_writer(TakesTheSourceFirst)),
    "delivered is recorded before it is true": Bug(
        "was not delivered|has no right result", wired=_writer(RecordsBeforeWriting)
    ),
    "each part of a picture goes on alone": Bug("was submitted while", wired=_ledger(PaysOn)),
    "a retry pays for all parts": Bug(PAID_AGAIN, wired=_ledger(BeginsAnew)),
    "parts are joined in any order": Bug("is not a right result", parts=_parts(pictures=JoinsInAnyOrder)),
    "what is kept is not synced": Bug("is not in the result", parts=_parts(disk=NeverSecures)),
    "a result is measured by what the model takes today": Bug(
        "stuck|without a reason of its own", dispatcher=_measure_by_the_day
    ),
    "a lane sleeps": Bug("stuck", dispatcher=_sleep),
}
