"""What the tests of the asynchronous shell share: a whole house, real but for the services and the clock."""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import pyvips
import structlog
from fakes.clock import FakeClock
from fakes.facts import bring, settled
from fakes.pictures import AnyPictures
from fakes.predictor import FakePredictor
from fakes.storage import FakeStorage
from structlog.testing import LogCapture

from daemon.adapters.disk import SPARE_BYTES, HouseDisk
from daemon.adapters.files import AnyPath, Files
from daemon.adapters.folder import DiskInbox
from daemon.adapters.ledger import SqliteLedger
from daemon.adapters.picture import VipsPictures
from daemon.config_model import Config, FolderConfig
from daemon.departure import LOOK_AGAIN_SECONDS
from daemon.dispatcher import Dispatcher
from daemon.gates import Gates
from daemon.pipeline.detect import Detector
from daemon.pipeline.write import Writer
from daemon.ports import mark
from daemon.rules.faults import Fault
from daemon.rules.job import Tile
from daemon.rules.lifecycle import STAGED, State
from daemon.rules.names import Selection
from daemon.rules.settling import Candidate
from daemon.world import Folder, World


def captured_log() -> tuple[Any, LogCapture]:
    """A log, and what it was told."""
    capture = LogCapture()
    log = structlog.wrap_logger(
        None,
        processors=[capture],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=False,
    )
    return log, capture


class SmallFiles(Files):
    """The real file system, but for how much room it has. rooms: bytes, by folder; none is named: plenty.

    A staging's spare comes on top of what is named for it. broken: what a folder raises instead. asked: in order.
    """

    def __init__(self) -> None:
        self.rooms: dict[str, int] = {}
        self.broken: dict[str, OSError] = {}
        self.asked: list[str] = []

    def room(self, folder: AnyPath) -> int:
        name = os.fsdecode(folder).rpartition("/")[2]
        self.asked.append(name)
        if name in self.broken:
            raise self.broken[name]
        if name not in self.rooms:
            return super().room(folder)
        return self.rooms[name] + (SPARE_BYTES if name == "staging" else 0)


def encoded(width: int, height: int, suffix: str = ".png") -> bytes:
    """A whole picture of that size."""
    data: bytes = (pyvips.Image.black(width, height) + 90).cast("uchar").write_to_buffer(suffix)
    return data


class Host(FakePredictor):
    """What stands behind every link."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body

    async def download(self, url: str, sink: BinaryIO, bytes_max: int) -> int:
        sink.write(self.body)
        return len(self.body)


@dataclass
class House:
    """Everything on one disk; what settles lands in `handed`."""

    config: Config
    clock: FakeClock
    ledger: SqliteLedger
    storage: FakeStorage
    predictor: FakePredictor
    disk: HouseDisk
    gates: Gates
    dispatcher: Dispatcher
    folders: list[Folder]
    handed: list[Candidate]
    log: LogCapture

    @property
    def inbox(self) -> Path:
        return self.config.folders[0].inbox

    @property
    def outbox(self) -> Path:
        return self.config.folders[0].outbox

    def told(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log with that event."""
        return [dict(line) for line in self.log.entries if line["event"] == event]

    def drop(self, path: str = "a.png", data: bytes = b"a picture", folder: int = 0) -> Path:
        """Put a file into an inbox."""
        file = self.config.folders[folder].inbox / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    async def admit(self, path: str = "a.png", data: bytes = b"a picture", folder: int = 0) -> Tile:
        """Drop a file and record it as it is; its job's tile."""
        self.drop(path, data, folder)
        return await self.admit_there(path, data, folder)

    async def admit_there(self, path: str, data: bytes, folder: int = 0) -> Tile:
        """Record a file that is there; its job's tile."""
        at_work = self.folders[folder]
        name = os.fsencode(path)
        look = await at_work.inbox.look(name)
        assert look is not None
        file = settled(name, data, folder=at_work.id, look=look, recipe=at_work.config.recipe)
        keeps = at_work.config.after == "keep"
        await self.ledger.admit(file, at_work.config.order, keeps, None, self.clock.wall())
        at_work.detector.admitted(name, look)
        return await self.ledger.tile((file.recipe.job_id(file.content.sha256), 0))

    async def bring(self, tile: Tile, to: State, result: bytes = b"") -> Tile:
        """Take a tile on its usual way."""
        return await bring(self.dispatcher.record, tile, to, now=self.clock.wall(), result=result)

    async def uploaded(self, number: int = 0) -> Tile:
        """A picture of its own, really uploaded."""
        tile = await self.admit(f"{number}.png", b"picture %d" % number)
        await self.dispatcher.loading.load(tile)
        return await self.ledger.tile(tile.key)

    def change(self, **parts: Any) -> None:
        """Another part of the world for those who fly from now on: a predictor, an api."""
        flight = self.dispatcher.flight
        flight.world = self.dispatcher.departure.world = dataclasses.replace(flight.world, **parts)

    async def now(self, tile: Tile) -> Tile:
        """The tile as the ledger has it."""
        return await self.ledger.tile(tile.key)

    async def history(self, tile: Tile) -> list[str]:
        """What happened to it, in order."""
        sql = "SELECT name FROM history WHERE job = ? ORDER BY id"
        return await self.ledger.read(lambda db: [row[0] for row in db.execute(sql, (tile.job.id,))])


@asynccontextmanager
async def house(
    root: Path,
    clock: FakeClock,
    *,
    folders: int = 1,
    folder: dict[str, Any] | None = None,
    files: Files | None = None,
    pictures: VipsPictures | None = None,
    **sections: Any,
) -> AsyncIterator[House]:
    """Opened on what lies below `root`, so that opening it again is a restart. files, pictures: not the real ones."""
    places = [
        {"inbox": str(root / f"in{n}"), "outbox": str(root / f"out{n}"), "scale": 2.0, "quiet_seconds": 2.0}
        | (folder or {})
        for n in range(folders)
    ]
    config = Config.model_validate(
        {"state_dir": str(root / "state"), "folder": places, "storage": {"kind": "vendor"}} | sections
    )
    for each in config.folders:
        each.inbox.mkdir(exist_ok=True)
        each.outbox.mkdir(exist_ok=True)
    config.state_dir.mkdir(exist_ok=True)
    log, capture = captured_log()
    async with AsyncExitStack() as stack:
        ledger = SqliteLedger(config.state_dir / "ledger.db", clock)
        stack.push_async_callback(ledger.close)
        await ledger.open()
        disk = HouseDisk(config.state_dir / "staging", files)
        stack.callback(disk.close)
        await disk.prepare(await ledger.jobs_in(*STAGED), await ledger.jobs_failed())
        pictures = pictures or AnyPictures()
        stack.callback(pictures.close)
        storage, predictor = FakeStorage(clock), FakePredictor()
        writer = Writer(ledger=ledger, disk=disk, pictures=pictures, clock=clock, api="a fake", version="0")
        world = World("a fake", clock, log, ledger, storage, predictor, disk, pictures, writer)
        handed: list[Candidate] = []
        at_work = [await _folder(each, world, handed, stack) for each in config.folders]
        gates = Gates(clock, log)
        dispatcher = Dispatcher(config, world, gates, at_work)
        await dispatcher.prepare()
        yield House(config, clock, ledger, storage, predictor, disk, gates, dispatcher, at_work, handed, capture)


async def _folder(config: FolderConfig, world: World, handed: list[Candidate], stack: AsyncExitStack) -> Folder:
    inbox = DiskInbox(config.inbox, Selection(config.include, config.exclude), recursive=config.recursive)
    stack.callback(inbox.close)
    id_ = await world.ledger.folder(bytes(config.inbox), config.order)
    detector = Detector(
        folder=id_,
        inbox=inbox,
        clock=world.clock,
        quiet_seconds=config.quiet(on_network=False),
        scan_seconds=config.scan_seconds,
        known={mark(path, look) for path, look in await world.ledger.known(id_)},
        has_room=lambda: True,
        hand=handed.append,
        wake=lambda: None,
    )
    return Folder(id_, config, inbox, detector)


async def fly(house: House, tile: Tile) -> Tile:
    """Let it fly until it lands or waits; where it is then."""
    await house.dispatcher.flight.fly(tile)
    return await house.now(tile)


async def fly_all(house: House, tiles: list[Tile]) -> list[Tile]:
    await asyncio.gather(*(house.dispatcher.flight.fly(tile) for tile in tiles))
    return [await house.now(tile) for tile in tiles]


async def fly_off(house: House, tiles: list[Tile]) -> list[Tile]:
    """Let all fly, and those once more who stood aside: a fake clock runs fast while a thread works."""
    tiles = await fly_all(house, tiles)
    for _ in range(20):
        if waiting := [tile for tile in tiles if tile.state is State.UPLOADED]:
            house.clock.advance(LOOK_AGAIN_SECONDS)
            await fly_all(house, waiting)
            tiles = [await house.now(tile) for tile in tiles]
    return tiles


async def fault_of(house: House, tile: Tile) -> Fault:
    with pytest.raises(Fault) as caught:
        await house.dispatcher.flight.fly(tile)
    return caught.value


def wait_for_gates(house: House) -> None:
    """Let the time pass until every closed gate may be probed."""
    waits = [house.gates.seconds_left(closed.name) or 0.0 for closed in house.gates.closed()]
    house.clock.advance(max(waits, default=0.0))
