"""Killed just before and just after every durable step, and started again: outbox and bill are as if nothing had been.

The points come from an undisturbed run: `killable.py` writes down every one that it passes. By default each step is
killed around its first and its last occurrence; ESRGAND_KILLS=all takes every occurrence, and any other value the
points that contain it.
"""

import fcntl
import hashlib
import json
import os
import queue
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from e2e.world import BUCKET, Emulator, Server, config, encoded, outbox

KILLABLE = [sys.executable, str(Path(__file__).with_name("killable.py"))]
WHICH = os.environ.get("ESRGAND_KILLS", "")
SLOTS = 16
LANES = 3  # Houses at a time: most of a life is waiting, for files to settle and for answers.
MODIFIED_NS = 1_750_000_000_000_000_000
DONE = (0, 3)  # Of `once`; it says 3 where a picture failed in that very run.

FOLDERS = """
oversize = "fail"
after = "archive"
archive = "archive"
after_failure = "move"
failed = "failed"
[[folder]]
inbox = "in2"
outbox = "out2"
oversize = "fail"
quiet_seconds = 0.3
scan_seconds = 1
[[folder]]
inbox = "in3"
outbox = "out3"
quiet_seconds = 0.3
scan_seconds = 1
after = "delete"
format = "jpeg"
overlap = 8
"""
TREES = ("in", "in2", "in3", "out", "out2", "out3", "archive", "failed")
ENDS = {
    *("archive/trip/a.png", "out/trip/a_x4.png", "out/trip/a_x4.png.json"),
    *("failed/large.png", "failed/large.png.error.json"),
    *("in2/b.png", "out2/b_x4.png", "out2/b_x4.png.json"),
    *("in2/larger.png", "out2/larger.png.error.json"),
    *("out3/c_x4.jpg", "out3/c_x4.jpg.json"),
    *("out3/cut_x4.jpg", "out3/cut_x4.jpg.json"),
}
# What must be there before a source may go.
SIGNS = {
    "in/trip/a.png": "out/trip/a_x4.png.json",
    "in3/c.jpg": "out3/c_x4.jpg.json",
    "in3/cut.png": "out3/cut_x4.jpg.json",
    "in/large.png": "failed/large.png.error.json",
}
RUNS = 4  # that are paid for: two contents in one piece, and one in two tiles
PAIRS = 6
# Each of these must be among the steps, or the matrix has a hole. A name may have gaps.
STEPS = [
    *(f"commit: *record {name}" for name in ("uploaded", "submitting", "submitted", "ready", "fetched")),
    *("commit: *admit", "commit: *claim", "commit: *delivered", "commit: *reported", "commit: *forget_asset"),
    *("*_migrate: executescript", "*VendorStorage.check > *.put", "*_put > *.put", "*Sweep._delete > *.delete"),
    *("*HostedPredictor.create", "*HostedPredictor.download"),
    *("*.keep > *: fsync", "*.keep > *: rename", "*.remove > *: unlink", "*.clear > *: unlink"),
    *("*.secure > *: fsync", "*.outgoing > *: unlink"),
    *("*.place > *: mkdir", "*.place > *: fsync", "*.place > *: link", "*.place > *: unlink"),
    *("*.note > *: fsync", "*.note > *: rename"),
    *("*._move_open > *: mkdir", "*._move_open > *: fsync", "*._move_open > *: link", "*._move_open > *: unlink"),
    "*DiskInbox.delete*: unlink",
]
# A create that was intended and never left: the next life proves it absent, which takes half a minute.
NEVER_LEFT = ("after commit: *record submitting #*", "before *HostedPredictor.create #*")
# A bucket's objects have our own names, so that there not one is left behind.
IN_A_BUCKET = [
    f"{moment} *{step} #1" for moment in ("before", "after") for step in ("_put > *.put", "Sweep._delete > *.delete")
]
# What an undisturbed run has no reason for.
CURES = ("found", "missed", "absent", "forgotten", "spoiled", "expired", "missing", "wanted", "held", "withdrawn")
# Points of one life and of the next, where the second comes from what the first left behind.
TWICE = [
    ("after *record submitting #1", "before *record missed #1"),
    ("after *record submitting #1", "after *record missed #1"),
    ("before *HostedPredictor.create #2", "before *record absent #1"),
    ("before *HostedPredictor.create #1", "after *record absent #1"),
    ("before *HostedPredictor.create #1", "before *HostedPredictor.create #1"),
    ("after create: sent #1", "before *record found #1"),
    ("after *HostedPredictor.create #1", "after *record found #1"),
    ("after *HostedPredictor.download #1", "before *.prepare > *: unlink #1"),
    ("after *.keep > *: rename #1", "after *.keep > *: rename #1"),
    ("after *.place > *: link #1", "after *.place > *: fsync #1"),
    ("after *._move_open > *: link #1", "before commit: *delivered #1"),
]


@cache
def pictures() -> dict[str, bytes]:
    """Three good contents, one of them twice and one in two tiles; and two that fail, since they are too large."""
    return {
        "in/trip/a.png": encoded(1, ".png"),
        "in/large.png": encoded(2, ".png", 200, 100),
        "in2/b.png": encoded(1, ".png"),
        "in2/larger.png": encoded(3, ".png", 220, 100),
        "in3/c.jpg": encoded(4, ".jpg"),
        "in3/cut.png": encoded(5, ".png", 120, 100),
    }


class Nursery:
    """`killable.py` without arguments: a process from which every life is forked."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(KILLABLE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def live(self, log: Path, env: dict[str, str], *argv: str) -> int:
        """One life; its status, negative for a signal."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"argv": argv, "env": env, "log": str(log)}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> int:
        """Its status; what it reads is over, and so is it."""
        self.process.communicate()
        return self.process.returncode


class Service:
    """A prediction server, and what it sees of one house."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        limits = ("--creates-per-minute", "100000", "--in-flight", "1000")
        self.server = Server(folder, "--usd-per-second", "0.01", *limits)

    def begin(self) -> None:
        """What is there now belongs to others."""
        self._predictions = set(self._all())
        self._files = set(os.listdir(self.files))

    def _all(self) -> dict[str, float]:
        return {row["id"]: row["execution_cost"] for row in self.server.predictions()}

    def bill(self) -> dict[str, float]:
        """The predictions since then, each with its cost in USD."""
        return {id_: cost for id_, cost in self._all().items() if id_ not in self._predictions}

    def uploads(self) -> int:
        """How many objects that were uploaded since then are still there."""
        return len(set(os.listdir(self.files)) - self._files)


class Bucket:
    """A bucket in which each house has a prefix."""

    def __init__(self, emulator: Emulator, account: Path) -> None:
        self.emulator = emulator
        self.account = account

    def storage(self, house: str) -> str:
        """The configuration's part."""
        return f'kind = "gcs"\nbucket = "{BUCKET}"\nprefix = "{house}/"\ncredentials_file = "{self.account}"'

    def uploads(self, house: str) -> int:
        """How many objects of a house are there."""
        return sum(name.startswith(f"{house}/") for name in self.emulator.objects())


class House:
    """Folders with pictures and a configuration; its lives, and what came of them."""

    def __init__(self, folder: Path, lane: "Lane", bucket: "Bucket | None" = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.service, self.nursery = lane
        self.service.begin()
        self.bucket = bucket
        self.env = {"ESRGAND_TRACE": str(folder / "trace")}
        self.orphans_max = 0
        for name in TREES:
            (folder / name).mkdir()
        storage = 'kind = "vendor"'
        if bucket is not None:
            storage = bucket.storage(folder.name)
            self.env["STORAGE_EMULATOR_HOST"] = bucket.emulator.url
        self.config = config(folder, self.service.server.base_url, storage=storage, extra=FOLDERS)
        text = self.config.read_text()
        self.config.write_text(text.replace("[api]", "[api]\npixels_max = 10_000\nsubmits_max = 3"))
        for name, data in pictures().items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
            os.utime(folder / name, ns=(MODIFIED_NS, MODIFIED_NS))

    def live(self, *point: str) -> int:
        """A life that ends at the point, where one is given, or by itself; returns its status."""
        log = self.folder / "log"
        self.trace.unlink(missing_ok=True)
        status = self.nursery.live(log, self.env, *point, "once", "--config", str(self.config))
        said = log.read_text()
        assert "Traceback" not in said, said
        assert '"defect"' not in said, said
        return status

    @property
    def trace(self) -> Path:
        """The points that a life passed."""
        return self.folder / "trace"

    def die(self, point: str) -> None:
        """A life that ends at the point."""
        status = self.live(point)
        passed = self.trace.read_text().splitlines()
        assert status == -9, f"status {status}; it passed {passed[-3:]}"
        # Other threads, of which there are a few for each folder, may get a word in before all are dead.
        assert any(fnmatchcase(step_of(each), step_of(point)) for each in passed[-30:])
        self.check_order()

        def count(pattern: str) -> int:
            return sum(fnmatchcase(each, pattern) for each in passed)

        # An upload that was not recorded is nobody's: the vendor's name for it died with us. It goes when it expires.
        if self.bucket is not None:
            return
        begun = count("before *VendorStorage._send #*")
        self.orphans_max += (
            begun - count("after *record uploaded #*") - count("after *.check > VendorStorage.delete #*")
        )

    def check_order(self) -> None:
        """Whenever it is looked at: a sidecar has its whole result, a source that is gone has its sidecar."""
        for path in self.folder.glob("out*/**/*_x4.*.json"):
            result = path.with_suffix("").read_bytes()
            assert hashlib.sha256(result).hexdigest() == json.loads(path.read_bytes())["result"]["sha256"], path
        for source, sign in SIGNS.items():
            assert (self.folder / source).exists() or (self.folder / sign).exists(), f"{source} went too early"

    def ends(self) -> dict[str, Any]:
        """Every file, with what must be the same whatever happened on the way."""
        found: dict[str, Any] = {}
        for tree in TREES:
            for name, data in outbox(self.folder / tree).items():
                path = f"{tree}/{os.fsdecode(name)}"
                found[path] = self._fact(path, data)
        found["staging"] = sorted(os.listdir(self.folder / "state" / "staging"))
        found["state"] = sorted(os.listdir(self.folder / "state"))
        return found

    def _fact(self, path: str, data: bytes) -> Any:
        if path.endswith("/.esrgand.json"):
            return "marker"
        if not path.endswith(".json"):
            moved = path.startswith(("archive/", "failed/"))
            return [hashlib.sha256(data).hexdigest(), (self.folder / path).stat().st_mtime_ns if moved else None]
        sidecar = json.loads(data.replace(os.fsencode(self.folder), b"HOUSE"))
        for ours in ("times", "failed"):
            sidecar.pop(ours, None)
        if "prediction" in sidecar:
            assert sidecar["prediction"].pop("api") == self.service.server.base_url
            assert sidecar["prediction"].pop("reused") is not None
            for each in (sidecar["prediction"], *runs_of(sidecar["prediction"])):
                for ours in ("submits", "predict_seconds", "cost_usd"):
                    assert each.pop(ours, "gone") is not None
            for each in runs_of(sidecar["prediction"]):
                assert each.pop("id")
        return sidecar

    def check_bill(self) -> None:
        """Each content, and each tile of one that is cut, was paid for once; and sidecars and ledger say so."""
        bill = self.service.bill()
        assert len(bill) == RUNS, "one prediction for each"
        with closing(sqlite3.connect(self.folder / "state" / "ledger.db")) as ledger:
            assert dict(ledger.execute("SELECT prediction, cost_usd FROM bill")) == bill
        told = [json.loads(path.read_bytes())["prediction"] for path in self.folder.glob("out*/**/*_x4.*.json")]
        runs = [run for each in told for run in runs_of(each)]
        assert {run["id"]: run["cost_usd"] for run in runs} == {id_: round(cost, 9) for id_, cost in bill.items()}
        new = [run["id"] for each in told if not each["reused"] for run in runs_of(each)]
        assert sorted(new) == sorted(bill), "each was new once"
        uploads = self.service.uploads() if self.bucket is None else self.bucket.uploads(self.folder.name)
        assert uploads <= self.orphans_max, "what was uploaded is deleted"


def runs_of(prediction: dict[str, Any]) -> list[dict[str, Any]]:
    """What a sidecar says of each paid run."""
    runs: list[dict[str, Any]] = prediction.get("tiles", [prediction])
    return runs


def step_of(point: str) -> str:
    """Without its number."""
    return point.rpartition(" #")[0]


Lane = tuple[Service, Nursery]
Lanes = queue.SimpleQueue[Lane]


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    """To be borrowed by one house at a time."""
    nurseries = [Nursery() for _ in range(LANES)]
    services: list[Service] = []
    try:
        with ThreadPoolExecutor(LANES) as pool:
            for service in pool.map(Service, [tmp_path_factory.mktemp("service") for _ in range(LANES)]):
                services.append(service)
        free = Lanes()
        for lane in zip(services, nurseries, strict=True):
            free.put(lane)
        yield free
    finally:
        for nursery in nurseries:
            nursery.end()
        for service in services:
            service.server.process.terminate()
        for service in services:
            service.server.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, lanes: Lanes) -> tuple[list[str], dict[str, Any]]:
    """The points of a run that is left alone, and its ends; of the same run for all that test side by side."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed.json"
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            lane = lanes.get()
            house = House(tmp_path_factory.mktemp("undisturbed") / "house", lane)
            assert house.live("nowhere") == 3, "two pictures are too large"
            house.check_bill()
            lanes.put(lane)
            place.write_text(json.dumps([house.trace.read_text().splitlines(), house.ends()]))
    points, ends = json.loads(place.read_text())
    return points, ends


def chosen(points: list[str]) -> list[str]:
    """The points to kill at, those first that take long.

    Where a step begins right after another has ended, nothing lies between: a kill at the one is a kill at the other.
    """
    edges: dict[str, list[str]] = {}
    for point in points:
        edges.setdefault(step_of(point), []).append(point)
    wanted = {point for edge in edges.values() for point in (edge if WHICH == "all" else (edge[0], edge[-1]))}
    if WHICH not in ("", "all"):
        wanted = {point for point in points if WHICH in point}
    found = [points[0]] if points[0] in wanted else []
    for before, point in pairwise(points):
        same = before.startswith("after ") and point.startswith("before ") and before in wanted
        if point in wanted and not same:
            found.append(point)
    return sorted(found, key=lambda point: not never_left(point))


def early_and_late(points: list[str]) -> list[tuple[str, str]]:
    """Pairs: a point before any result is ready, and one after, of a step that every picture with a result takes."""
    ready = next(n for n, point in enumerate(points) if fnmatchcase(point, "before *record ready #1"))
    often = {step_of(point) for point in points[ready:] if point.endswith(" #3")}
    late = [point for point in points[ready:] if point.endswith(" #1") and step_of(point) in often]
    early = points[: ready : max(1, ready // PAIRS)]
    return list(zip(early, late[:: max(1, len(late) // PAIRS)], strict=False))


def never_left(point: str) -> bool:
    return any(fnmatchcase(point, pattern) for pattern in NEVER_LEFT)


def lead(
    deaths: list[tuple[str, ...]], folder: Path, lanes: Lanes, ends: dict[str, Any], bucket: Bucket | None = None
) -> None:
    """Houses side by side, each through its deaths and one life to the end; tells of all where something is wrong."""

    def one(number: int, points: tuple[str, ...]) -> str:
        lane = lanes.get()
        try:
            house = House(folder / str(number), lane, bucket)
            for point in points:
                house.die(point)
            assert house.live() in DONE
            assert house.ends() == ends
            house.check_bill()
        except (AssertionError, OSError) as error:
            return f"{' and then '.join(points)}:\n{error}"
        finally:
            lanes.put(lane)
        return ""

    with ThreadPoolExecutor(LANES) as pool:
        wrong = list(filter(None, pool.map(one, range(len(deaths)), deaths)))
    assert not wrong, f"{len(wrong)} of {len(deaths)}\n\n" + "\n\n".join(wrong)


def test_the_points_are_all_that_is_durable(undisturbed: tuple[list[str], dict[str, Any]]) -> None:
    points, ends = undisturbed
    assert {name for name in ends if "/" in name} - {f"{out}/.esrgand.json" for out in ("out", "out2", "out3")} == ENDS
    assert ends["staging"] == []
    for step in STEPS:
        for moment in ("before", "after"):
            assert any(fnmatchcase(point, f"{moment} {step} #*") for point in points), f"{moment} {step}"
    assert any(point.startswith("after create: sent") for point in points)
    assert not [point for point in points for name in CURES if f"record {name} #" in point]


def test_in_a_bucket_nothing_is_left_behind(
    tmp_path: Path, lanes: Lanes, undisturbed: tuple[list[str], dict[str, Any]], account: Path
) -> None:
    emulator = Emulator()
    lead([(point,) for point in IN_A_BUCKET], tmp_path, lanes, undisturbed[1], Bucket(emulator, account))
    emulator.end(9)


@pytest.mark.parametrize("slot", range(3))
def test_killed_twice_it_is_the_same(
    slot: int, tmp_path: Path, lanes: Lanes, undisturbed: tuple[list[str], dict[str, Any]]
) -> None:
    points, ends = undisturbed
    lead([*TWICE, *early_and_late(points)][slot::3], tmp_path, lanes, ends)


@pytest.mark.parametrize("slot", range(SLOTS))
def test_killed_at_any_point_nothing_is_lost_and_nothing_is_paid_for_twice(
    slot: int, tmp_path: Path, lanes: Lanes, undisturbed: tuple[list[str], dict[str, Any]]
) -> None:
    points, ends = undisturbed
    lead([(point,) for point in chosen(points)[slot::SLOTS]], tmp_path, lanes, ends)
