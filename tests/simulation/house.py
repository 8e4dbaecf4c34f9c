"""
One seed: a house, its people, a service, a number of crashes; and what must be true after every step and at the end.

The daemon is the real one (dispatcher, flight, delivery, intake, detector, writer, the ledger and its SQL, the disk
adapter, the assembly of a start); simulated are the clock, the service, the storage, the inboxes, decoding, and the
calls of the file system. `run(seed)` returns a `Report`; `wrong` holds what broke a promise.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from simulation.engine import TO_MIDNIGHT, Crash, Machine, SimClock, SimExecutor, VirtualLoop, pause
from simulation.files import FOLDER, SimFiles, Volume
from simulation.inbox import Drop, SimInbox, SimPictures, converted
from simulation.ledger import SimDatabase, new_database
from simulation.service import (
    CREATE_SECONDS_MAX,
    OVERLAP,
    PIXELS_MAX,
    PIXELS_MAX_CHANGED,
    SIZES,
    Faults,
    Service,
    SimPredictor,
    SimStorage,
    part_bytes,
    right_results,
    size_of,
    source_bytes,
    tiles_of,
    whence,
)

from daemon.adapters.disk import HouseDisk
from daemon.adapters.ledger import SqliteLedger
from daemon.adapters.ledger_desk import held_jobs, release
from daemon.api import Api
from daemon.config import ConfigError
from daemon.config_model import Config, FolderConfig
from daemon.dispatcher import Dispatcher
from daemon.gates import Gates
from daemon.intake import Intake
from daemon.pipeline.write import NOT_KEPT
from daemon.ports import Inbox, Watcher
from daemon.rules.faults import Fault, LedgerBroken
from daemon.rules.hooks import Hooks
from daemon.rules.lifecycle import MILESTONES, State
from daemon.rules.tiles import Rect, cut
from daemon.service import end_gently
from daemon.wiring import Parts, Wired, assemble

TROUBLE_SECONDS = 200.0
# The steps around which money, results and sources may get lost.
MOMENTS = ["create", "create arrives", "create answered", "rename", "write", "fsync", "unlink", "inbox takes"]
CALM_SECONDS_MAX = 2 * 3600.0
SECRET = "signature="


@dataclass
class Report:
    """What one seed did."""

    seed: int
    wrong: list[str]
    crashes: int
    faults: dict[str, int]
    pictures: int
    runs: int
    seconds: float
    trace: list[str] = field(repr=False)


@dataclass
class Bug:
    """A planted defect: what of the real daemon is replaced. Each takes the right thing and returns the wrong one.

    found: what the simulation has to say about it, a regular expression.
    """

    found: str = ""

    parts: Callable[[Parts], Parts] = lambda parts: parts
    files: Callable[[Machine], SimFiles] = SimFiles
    wired: Callable[[Wired], Wired] = lambda wired: wired
    dispatcher: Callable[[Dispatcher], None] = lambda dispatcher: None
    config: Callable[[dict[str, Any]], None] = lambda config: None
    prepare: bool = True


class Part(NamedTuple):
    """A tile, as the ledger has it."""

    state: str
    submits: int
    reason: str
    rect: Rect
    size: tuple[int, int] | None


class House:
    """Everything that outlives a crash, and how the daemon is started on it."""

    def __init__(self, seed: int, bug: Bug) -> None:
        self.seed = seed
        self.bug = bug
        self.machine = Machine(seed)
        chance = self.machine.chance
        self.wrong: list[str] = []
        self.calm = False
        self.folders = chance.choice([1, 1, 2])
        self.formats = [chance.choice(["png", "png", "jpeg"]) for _ in range(self.folders)]
        self.scales = [chance.choice([2.0, 2.0, 4.0]) for _ in range(self.folders)]
        self.after = [chance.choice(["keep", "keep", "archive", "delete"]) for _ in range(self.folders)]
        in_flight, minute = chance.choice([1, 2, 4, 8]), chance.choice([2, 5, 20])
        budget = chance.choice([0, 0, 0, 2, 4])
        raw: dict[str, Any] = {
            "state_dir": "/state",
            "folder": [
                {
                    "inbox": f"/in{n}",
                    "outbox": f"/out{n}",
                    "scale": self.scales[n],
                    "format": self.formats[n],
                    "after": self.after[n],
                    "archive": "/archive",
                    "quiet_seconds": 2.0,
                    "give_up_seconds": 60.0,
                    "scan_seconds": 10.0,
                    "overlap": OVERLAP,
                }
                for n in range(self.folders)
            ],
            "api": {
                "in_flight_max": in_flight,
                "creates_per_minute_max": minute,
                "create_seconds_max": CREATE_SECONDS_MAX,
                "pixels_max": PIXELS_MAX,
            },
            "storage": {"kind": "vendor"},
            "budget": {
                "usd_per_day_max": budget * 0.004,
                "pictures_per_drop_max": chance.choice([0, 0, 0, 3]),
            },
        }
        bug.config(raw)
        self.config = Config.model_validate(raw)
        # What the model is said to take may be another from one start to the next.
        self.settings = random.Random(f"{seed} settings") if seed % 3 == 0 else None
        self.limits = (PIXELS_MAX,) if self.settings is None else PIXELS_MAX_CHANGED
        self.service = Service(self.machine, in_flight, minute, 2, self.fail, usd_max=budget * 0.004)
        # Chance of their own, so that a seed's other troubles do not depend on them.
        self.service.webhooks = random.Random(f"{seed} webhooks") if seed % 2 else None
        self.files = bug.files(self.machine)
        self.files.on_name = self._named
        self.volumes = {}
        for point in (b"", b"/state", *(b"/out%d" % n for n in range(self.folders))):
            self.files.root.live[point] = self.files.root.durable[point] = FOLDER
        for n in range(self.folders):
            point = b"/out%d" % n
            volume = Volume(f"nas{n}")
            volume.live[point] = volume.durable[point] = FOLDER
            self.volumes[point] = self.files.mounted[point] = volume
        self.drops = [
            Drop(self.machine, lambda path, data, n=n: self._taken(n, path, data)) for n in range(self.folders)
        ]
        self.contents: dict[str, bytes] = {}
        self.dropped = 0
        self.database = new_database()
        self.log: list[dict[str, Any]] = []
        self.stop_at = chance.random() * TROUBLE_SECONDS if chance.random() < 0.3 else None
        self.off_until = 0.0
        self._plan()

    def fail(self, text: str) -> None:
        self.machine.note(f"WRONG: {text}")
        self.wrong.append(text)

    # What people and the weather do

    def _plan(self) -> None:
        chance, machine = self.machine.chance, self.machine
        at_once = chance.random() * 60 if chance.random() < 0.4 else None  # A whole card, or one by one.
        for number in range(chance.randint(3, 8)):
            at = at_once if at_once is not None else chance.random() * 60
            machine.schedule(at, lambda number=number: self._drop(number))
        for _ in range(chance.randint(0, 4)):
            machine.schedule(30 + chance.random() * 120, chance.choice([self._copy, self._replace, self._take_away]))
        for _ in range(chance.randint(0, 3)):
            start, weather = (
                chance.random() * 150,
                chance.choice([self._full, self._away, self._read_only, self._inbox, self._lose]),
            )
            machine.schedule(start, lambda weather=weather: weather(True))
            machine.schedule(start + chance.random() * 50, lambda weather=weather: weather(False))
        if not self.config.budget.usd_per_day_max and chance.random() < 0.2:
            machine.schedule(chance.random() * 150, self._jump)
        machine.schedule(TROUBLE_SECONDS, self._calm_down)
        self.service.faults = Faults(
            *(chance.choice([0.0, 0.02, 0.1]) for _ in range(1)),
            create=chance.choice([0.0, 0.1, 0.5]),
            spoil=chance.choice([0.0, 0.05, 0.3]),
            download=chance.choice([0.0, 0.1, 0.3]),
            storage=chance.choice([0.0, 0.02, 0.2]),
        )
        self.files.faults = chance.choice([0.0, 0.0, 0.003])
        self.inbox_faults = chance.choice([0.0, 0.0, 0.01])
        self.commit_faults = chance.choice([0.0, 0.0, 0.002])
        self.crashes_left = chance.choice([0, 1, 2, 4])

    def _put(self, folder: int, path: bytes, data: bytes) -> None:
        self.contents[hashlib.sha256(data).hexdigest()] = data
        self.drops[folder].put(path, data)

    def _drop(self, number: int) -> None:
        chance = self.machine.chance
        folder = chance.randrange(self.folders)
        data = source_bytes(number, *chance.choice(SIZES), good=chance.random() > 0.1)
        if chance.random() < 0.05 and size_of(data) is not None:
            part = part_bytes(data, chance.choice(tiles_of(data, self.scales[folder])))
            self.service.doomed.add(hashlib.sha256(part).hexdigest())
        self.dropped += 1
        self._put(folder, b"p%d.png" % number, data)

    def _copy(self) -> None:
        if self.contents:
            data = self.contents[self.machine.chance.choice(sorted(self.contents))]
            self._put(self.machine.chance.randrange(self.folders), b"copy%d.png" % len(self.machine.trace), data)

    def _any(self) -> tuple[Drop, bytes] | None:
        there = [(drop, path) for drop in self.drops for path in sorted(drop.files)]
        return self.machine.chance.choice(there) if there else None

    def _replace(self) -> None:
        if (one := self._any()) is not None:
            self.dropped += 1
            data = source_bytes(100 + self.dropped, *self.machine.chance.choice(SIZES))
            self.contents[hashlib.sha256(data).hexdigest()] = data
            one[0].put(one[1], data)

    def _take_away(self) -> None:
        if (one := self._any()) is not None:
            del one[0].files[one[1]]

    def _full(self, on: bool) -> None:
        self.machine.chance.choice([self.files.root, *self.volumes.values()]).full = on and not self.calm

    def _read_only(self, on: bool) -> None:
        for volume in self.volumes.values():
            volume.read_only = on and not self.calm

    def _away(self, on: bool) -> None:
        point = sorted(self.volumes)[0]
        # A mount that is away before it is known to be marked is a folder like any other.
        register = self.files.root.durable.get(b"/state/outboxes.json")
        known = register is not None and b'"%s"' % point in register.data
        if on and not self.calm and known:
            for path in list(self.volumes[point].live):
                self.volumes[point].sync_folder(path)  # An orderly umount.
            for node in self.volumes[point].live.values():
                if node is not FOLDER:
                    node.synced = node.data
            self.files.mounted.pop(point, None)
        else:
            self.files.mounted[point] = self.volumes[point]

    def _lose(self, on: bool) -> None:
        """Staging loses a result that was fetched, or a part of one."""
        staged = [
            path
            for path in sorted(self.files.root.live)
            if path.startswith(b"/state/staging/") and path.endswith(b".result")
        ]
        if on and not self.calm and staged:
            path = self.machine.chance.choice(staged)
            self.files.root.change({path: None})
            self.files.root.sync_folder(b"/state/staging")
            self.machine.note(f"staging lost {path!r}")

    def _inbox(self, on: bool) -> None:
        self.drops[0].away = on and not self.calm

    def _jump(self) -> None:
        self.machine.skew = self.machine.chance.choice([-7200.0, -90.0, 90.0, 7200.0])
        self.machine.note(f"the clock jumps by {self.machine.skew}")

    def _calm_down(self) -> None:
        self.calm = True
        self.service.faults = Faults()
        self.files.faults = self.inbox_faults = self.commit_faults = 0.0
        self.machine.crash_in = None
        for volume in [self.files.root, *self.volumes.values()]:
            volume.full = volume.read_only = False
        self._away(False)
        self.drops[0].away = False
        self.machine.note("calm")

    # The daemon, from one start to the next

    def live(self) -> None:
        """Start it, let it crash, start it again, until there is nothing left to do."""
        over = False
        while not over and not self.wrong:
            over = self._boot()
        if not self.wrong:
            runs = len(self.service.runs)
            self._boot()  # One more start finds nothing to do, and clears away what could not be cleared before.
            if len(self.service.runs) != runs:
                self.fail("a start with nothing to do submitted something")

    def _boot(self) -> bool:
        machine = self.machine
        loop = VirtualLoop(machine.now)
        if self.settings is not None:
            api = self.config.api.model_copy(update={"pixels_max": self.settings.choice(self.limits)})
            self.config = self.config.model_copy(update={"api": api})
            machine.note(f"a start; the model takes {api.pixels_max} pixels")
        machine.loop, machine.alive = loop, True
        machine.crash_in = None
        if self.crashes_left and not self.calm:
            machine.crash_in = int(machine.chance.expovariate(1 / machine.chance.choice([5, 50, 400, 2000])))
            machine.crash_kind = ""
            if machine.chance.random() < 0.5:
                # Few steps are about money; each gets its share of the crashes.
                machine.crash_in, machine.crash_kind = machine.chance.randrange(4), machine.chance.choice(MOMENTS)
        loop.set_exception_handler(self._unhandled)
        over = False
        try:
            over = loop.run_until_complete(self._run())
        except ConfigError as error:
            self.fail(f"it refuses to start: {error}")
        except (Crash, RuntimeError, BaseExceptionGroup, Fault) as error:
            if machine.alive and not _is_an_end(error):
                raise
            self.crashes_left -= 1
        finally:
            machine.alive = False
            self.service.hear = None
            _drain(loop)
            machine.now = loop.now
            loop.close()
            machine.loop = None
        if not over:
            self.files.crash()
            self._look_after_crash()
            machine.stay_off(max(machine.now + machine.chance.random() * 30, self.off_until))
        return over

    def _unhandled(self, _: Any, context: dict[str, Any]) -> None:
        if self.machine.alive and not isinstance(context.get("exception"), Crash):
            self.fail(f"unhandled: {context.get('message')} {context.get('exception')!r}")

    async def _inbox_of(self, folder: FolderConfig) -> tuple[Inbox, Watcher | None, float]:
        inbox = SimInbox(self.drops[int(folder.inbox.name[2:])], self.machine)
        inbox.faults = self.inbox_faults
        return inbox, None, folder.quiet(on_network=False)

    async def _run(self) -> bool:
        machine = self.machine
        clock = SimClock(machine)
        database = SimDatabase(self.database, machine)
        database.faults = self.commit_faults
        log = structlog.wrap_logger(None, processors=[self._told], cache_logger_on_first_use=False)
        parts = Parts(
            predictor=SimPredictor(self.service, machine),
            storage=SimStorage(self.service, machine),
            pictures=SimPictures(self.files, machine),
            files=self.files,
            disk=HouseDisk(Path("/state/staging"), self.files, lambda _: SimExecutor(machine)),
            ledger=SqliteLedger(Path("/state/ledger.db"), clock, database),
            inbox=self._inbox_of,
        )
        api = Api("sim", "key", "sim", local=False)
        wired = self.bug.wired(await assemble(self.config, api, self.bug.parts(parts), clock, log))
        gates = Gates(clock, log)
        hooks = Hooks("https://nas.test/hook", "", wired.ledger.identity) if self.service.webhooks else None
        dispatcher = Dispatcher(self.config, wired.world, gates, wired.folders, hooks)
        self.service.hear = dispatcher.ears.hear
        self.bug.dispatcher(dispatcher)
        if self.bug.prepare:
            await dispatcher.prepare()
        folders = {folder.id: folder for folder in wired.folders}
        intake = Intake(
            self.config, wired.world, folders, wired.wakes, wired.queues, dispatcher.poke, dispatcher.stopping
        )
        async with asyncio.TaskGroup() as group:
            tasks = intake.start(group) + dispatcher.start(group)
            world = group.create_task(machine.play())
            over = await self._until_over(wired, dispatcher, intake)
            world.cancel()
            await end_gently(tasks, dispatcher, asyncio.Event())
        return over

    async def _until_over(self, wired: Wired, dispatcher: Dispatcher, intake: Intake) -> bool:
        started = self.machine.time()
        while not self.wrong:
            await pause(3.0)
            if self.stop_at is not None and self.machine.time() > self.stop_at:
                self.stop_at = None
                self.machine.note("stopped")
                return False
            if not self.calm or self.machine.later:
                continue
            await self._release(wired, dispatcher)
            if any(folder.detector.settling for folder in wired.folders):
                continue
            if intake.is_idle() and await dispatcher.is_idle() and not await wired.ledger.count(State.HELD):
                return True
            if self.machine.time() - max(started, TROUBLE_SECONDS) > CALM_SECONDS_MAX:
                self.fail(f"stuck: {await wired.ledger.counts()}")
            if intake.is_idle() and await dispatcher.is_idle():
                # Nothing but the budget's new day is left to wait for; the machine is off meanwhile.
                self.off_until = ((self.machine.time() - TO_MIDNIGHT) // 86_400 + 1) * 86_400 + TO_MIDNIGHT
                return False
        return True

    async def _release(self, wired: Wired, dispatcher: Dispatcher) -> None:
        """What a person does who looked at the account."""

        def work(db: Any) -> list[str]:
            jobs = []
            for job in held_jobs(db):
                sha, scale, tiles = self._tiles(db, job)
                held = [tile for tile in tiles if tile.state == "held"]
                if all("budget" in tile.reason for tile in held):
                    continue
                for tile in held:
                    # Those that were stopped with another one were never submitted, or paid for in vain.
                    if "waiting at once" not in tile.reason and "budget" not in tile.reason and tile.submits:
                        key = f"{self._part(sha, tile)}@{scale:g}"
                        self.service.allowed[key] = self.service.allowed.get(key, 0) + 1
                jobs.append(job)
            return release(db, jobs, wired.world.clock.wall(), self.config.api.submits_max)

        if await wired.ledger.count(State.HELD) and await wired.ledger.write(work):
            dispatcher.poke_all()

    def _tiles(self, db: Any, job: str) -> tuple[str, float, list[Part]]:
        """A job's content and scale, and its tiles."""
        sha, scale = db.execute("SELECT sha256, scale FROM job WHERE id = ?", (job,)).fetchone()
        sql = (
            'SELECT state, submits, reason, "left", top, width, height, sent_width, sent_height FROM tile '
            "WHERE job = ? ORDER BY number"
        )
        return (
            sha,
            scale,
            [
                Part(*row[:3], Rect(*row[3:7]), row[7:] if row[7] is not None else None)
                for row in db.execute(sql, (job,))
            ],
        )

    def _part(self, sha: str, tile: Part) -> str:
        """The content that is uploaded for a tile."""
        return hashlib.sha256(part_bytes(self.contents[sha], tile.rect, tile.size)).hexdigest()

    def _told(self, _: Any, level: str, event: dict[str, Any]) -> str:
        if event.pop("exc_info", None):
            event["traceback"] = traceback.format_exc()
        self.machine.note(f"log {level} {event}" if level != "debug" else f"log {event['event']}")
        if event["event"] == "defect":
            self.fail(f"a defect: {event}")
        if SECRET in str(event):
            self.fail(f"a secret in the log: {event}")
        raise structlog.DropEvent

    # What must be true

    def _expected(self) -> dict[bytes, str]:
        """Every result that may ever be right, with its source's sha256."""
        found = {}
        for sha, data in self.contents.items():
            if size_of(data) is not None:
                for scale, format_ in zip(self.scales, self.formats, strict=True):
                    for result in right_results(data, scale, self.limits):
                        found[result if format_ == "png" else converted(result, "JPEG")] = sha
        return found

    def _named(self, volume: Volume, path: bytes) -> None:
        """Something got its final name."""
        if not path.startswith(b"/out"):
            return
        if volume is self.files.root:
            self.fail(f"{path!r} was written below a mount point")
            return
        name = path.rpartition(b"/")[2]
        if name.startswith(b"."):
            return
        inode = volume.live[path]
        if inode.synced != inode.data:
            self.fail(f"{path!r} got its name before it was synced")
        if name.endswith(b".json"):
            self._vouched(volume, path, json.loads(inode.data), durable=True)
        elif inode.data not in self._expected():
            self.fail(f"{path!r} is not a right result: {inode.data!r}")
        elif (sidecar := volume.durable.get(path + b".json")) is not None:
            self._vouched(volume, path + b".json", json.loads(sidecar.data), durable=False)

    def _vouched(self, volume: Volume, path: bytes, text: dict[str, Any], *, durable: bool) -> None:
        """A sidecar says the truth about the file beside it."""
        if "result" not in text:
            return
        lost = [warning for warning in text["warnings"] if warning == NOT_KEPT]
        if lost and not self.database.execute("SELECT 1 FROM history WHERE name = 'wanted'").fetchone():
            self.fail(f"the sidecar {path!r} says: {lost}")
        target = path.removesuffix(b".json")
        node = (volume.durable if durable else volume.live).get(target)
        data = None if node is None or node is FOLDER else node.synced if durable else node.data
        if data is None or hashlib.sha256(data).hexdigest() != text["result"]["sha256"]:
            self.fail(f"the sidecar {path!r} stands without its exact result ({data!r})")
        elif self._expected().get(data) != text["source"]["sha256"]:
            self.fail(f"the sidecar {path!r} names another source")

    def _taken(self, folder: int, path: bytes, data: bytes) -> None:
        """A source leaves its inbox: its result and its sidecar must be there for certain, whatever comes now."""
        sha = hashlib.sha256(data).hexdigest()
        volume = self.volumes[b"/out%d" % folder]
        for name, node in volume.durable.items():
            if node is FOLDER or node.synced is None or not name.endswith(b".json") or b"/." in name:
                continue
            text = json.loads(node.synced)
            if text["source"]["sha256"] == sha and "result" in text:
                return
        self.fail(f"the source {path!r} was taken away, and no sidecar speaks of it")

    def _look_after_crash(self) -> None:
        for volume in self.volumes.values():
            for path, node in sorted(volume.live.items()):
                if node is FOLDER or path.rpartition(b"/")[2].startswith(b"."):
                    continue
                if path.endswith(b".json"):
                    self._vouched(volume, path, json.loads(node.data), durable=False)
                elif node.data not in self._expected():
                    self.fail(f"after a crash {path!r} is not a right result: {node.data!r}")

    def look_at_the_end(self) -> None:
        """Everything that could be done is done."""
        if self.wrong:
            return
        # A sample may be left by a check that was cut short: it holds no picture, and a rule of the bucket ends it.
        objects = set(self.service.objects) - {"check"}
        if objects:
            self.fail(f"objects were left: {sorted(objects)}")
        # What was paid for of a picture that lacks another part waits for a person's retry.
        waits = {
            job
            for (job,) in self.database.execute(
                "SELECT job FROM tile GROUP BY job HAVING sum(state = 'failed') AND sum(state = 'fetched')"
            )
        }
        staged = [name for name in self.files.names(Path("/state/staging")) if name.partition(".")[0] not in waits]
        if staged:
            self.fail(f"staging was left with {staged}")
        billed = {row[0] for row in self.database.execute("SELECT prediction FROM bill")}
        told = {run.id for run in self.service.runs.values() if run.told}
        if billed != told:
            self.fail(f"the bills are of {sorted(billed)}; the service told the ends of {sorted(told)}")
        for volume in self.volumes.values():
            parts = [path for path in volume.live if path.endswith(b".part")]
            if parts:
                self.fail(f"an outbox was left with {parts}")
        states = set(self.database.execute("SELECT job, state FROM tile"))
        moving = {state for job, state in states if job not in waits or state != "fetched"} & set(MILESTONES[:-1])
        if moving:
            self.fail(f"tiles were left in {moving}")
        self._look_at_history()
        self._look_at_cuts()
        for n, drop in enumerate(self.drops):
            for path, (data, look) in sorted(drop.files.items()):
                self._look_at_picture(n, path, data, look.size)

    def _look_at_history(self) -> None:
        """Nothing was paid for a picture while one of its parts had failed or was held."""
        stopped: dict[str, set[int]] = {}
        for job, number, name in self.database.execute("SELECT job, number, name FROM history ORDER BY id"):
            of_job = stopped.setdefault(job, set())
            if name in ("failed", "withdrawn", "held"):
                of_job.add(number)
            elif name == "cut anew":
                of_job.clear()
            elif name in ("retried", "released"):
                of_job.discard(number)
            elif name == "submitting" and of_job:
                self.fail(f"{job} {number} was submitted while {of_job} of it were stopped")

    def _look_at_cuts(self) -> None:
        """What was paid for of a picture is of one cut, unless a person wanted more."""
        sql = "SELECT sha256, scale FROM job WHERE id IN (SELECT job FROM history WHERE name = 'released')"
        wanted = {(sha[:16], scale) for sha, scale in self.database.execute(sql)}
        paid: dict[tuple[str, float], set[Rect]] = {}
        for run in self.service.runs.values():
            picture, rect = whence(run.part)
            if run.end == "success" and (picture, run.scale) not in wanted:
                paid.setdefault((picture, run.scale), set()).add(rect)
        sources = {sha[:16]: data for sha, data in self.contents.items()}
        for (picture, scale), rects in paid.items():
            size = size_of(sources[picture])
            assert size is not None
            if not any(rects <= set(cut(*size, limit, OVERLAP, scale)) for limit in self.limits):
                self.fail(f"{picture} was paid for in two ways: {rects}")

    def _look_at_picture(self, folder: int, path: bytes, data: bytes, size: int) -> None:
        outbox = b"/out%d" % folder
        volume = self.volumes[outbox]
        row = self.database.execute(
            "SELECT p.phase, p.result_path, p.job FROM picture p JOIN folder f ON f.id = p.folder "
            "WHERE f.inbox = ? AND p.path = ?",
            (b"/in%d" % folder, path),
        ).fetchone()
        if row is None:
            self.fail(f"{path!r} was forgotten")
            return
        phase, result_path, job = row
        sha, _, tiles = self._tiles(self.database, job)
        about = f"{path!r} ({phase}, {[(tile.state, tile.reason) for tile in tiles]})"
        if sha != hashlib.sha256(data).hexdigest():
            self.fail(f"{about}: another content is recorded")
        elif any(tile.state == "failed" for tile in tiles):
            if size_of(data) is not None and not any(self._has_a_reason(sha, tile) for tile in tiles):
                self.fail(f"{about} failed without a reason of its own")
            if outbox + b"/" + path + b".error.json" not in volume.live:
                self.fail(f"{about} has no report")
        elif phase != "delivered" or result_path is None:
            self.fail(f"{about} has an end and was not delivered")
        else:
            name = outbox + b"/" + result_path
            results = right_results(data, self.scales[folder], self.limits)
            right = results if self.formats[folder] == "png" else {converted(each, "JPEG") for each in results}
            if name not in volume.live or volume.live[name].data not in right or name + b".json" not in volume.live:
                self.fail(f"{about} has no right result at {name!r}")

    def _has_a_reason(self, sha: str, tile: Part) -> bool:
        """Whether a tile may have failed."""
        part = self._part(sha, tile)
        runs = [run for run in self.service.runs.values() if run.content.startswith(part) and run.end != "success"]
        return part in self.service.doomed or (bool(runs) and tile.submits >= 2)


def _is_an_end(error: BaseException) -> bool:
    """Whether the program ends by it as it should: the ledger could not record, or the house fails at the start."""
    if isinstance(error, BaseExceptionGroup):
        return all(isinstance(each, LedgerBroken) for each in error.exceptions)
    return isinstance(error, Fault)


def _drain(loop: VirtualLoop) -> None:
    """End what is left of a boot; nothing that it does has any effect."""
    for _ in range(50):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        with contextlib.suppress(BaseException):
            loop.run_until_complete(asyncio.wait(tasks, timeout=1000.0))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()


def run(seed: int, bug: Bug | None = None) -> Report:
    """Live through one seed."""
    house = House(seed, bug or Bug())
    try:
        house.live()
        house.look_at_the_end()
    finally:
        house.database.close()
    machine = house.machine
    return Report(
        seed,
        house.wrong,
        machine.crashes,
        house.service.injected,
        house.dropped,
        len(house.service.runs),
        machine.now,
        machine.trace,
    )
