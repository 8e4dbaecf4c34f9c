"""Staging and outboxes on a real file system: whole, synced, in order, and nobody else's file is ever touched."""

# ruff: noqa: PT012  (what goes wrong inside a `with` is the point)

import dataclasses
import errno
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Literal

import pytest

from daemon.adapters.disk import SPARE_BYTES, HouseDisk
from daemon.adapters.disk_faults import fault_from
from daemon.adapters.files import UNLIMITED_BYTES, AnyPath, Files
from daemon.adapters.mounts import Mount
from daemon.adapters.outboxes import Outboxes
from daemon.rules.faults import Blame, Fault, Gate, Outlook
from daemon.rules.job import Content, Job, Tile, Whole
from daemon.rules.lifecycle import State
from daemon.rules.recipe import Recipe

NAMES = [b"a.png", b"with a\nnewline.png", b"caf\xe9.png", "ü🎈.png".encode(), b"n" * 251 + b".png", b"a/b/c.png"]
FILES = Files()
CALLS = {"fsync", "link", "rename", "unlink", "mkdir"}
JOB = Job("job", 1, b"a.png", Content("0" * 64, 3, 1, 1, "PNG"), Recipe())
TILE = Tile(JOB, 0, State.READY, 0.0, 0.0, JOB.content.rect)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def content(path: bytes) -> bytes:
    return Path(os.fsdecode(path)).read_bytes()


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[HouseDisk]:
    disk = HouseDisk(tmp_path / "staging")
    await disk.prepare(set())
    yield disk
    disk.close()


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def result(tmp_path: Path) -> Path:
    (tmp_path / "result").write_bytes(b"the result")
    return tmp_path / "result"


@contextmanager
def calls_of_new_threads() -> Iterator[list[str]]:
    """What threads that start inside ask of the system, in order."""
    calls: list[str] = []

    def note(frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call" and what.__module__ == "posix" and what.__name__ in CALLS:
            calls.append(what.__name__)

    threading.setprofile(note)
    try:
        yield calls
    finally:
        threading.setprofile(None)


# Placing


@pytest.mark.parametrize("name", NAMES)
async def test_a_result_is_placed_whole_and_alone(disk: HouseDisk, outbox: Path, result: Path, name: bytes) -> None:
    assert await disk.place(result, outbox, name, None) == (sha(b"the result"), 10)
    final = os.fsencode(outbox) + b"/" + name
    assert content(final) == b"the result"
    assert os.listdir(os.path.dirname(final)) == [os.path.basename(final)], "nothing else is left beside it"
    assert os.stat(final).st_nlink == 1


@pytest.mark.parametrize("ours", [None, sha(b"what we once wrote")])
async def test_a_foreign_file_is_never_overwritten(
    disk: HouseDisk, outbox: Path, result: Path, ours: str | None
) -> None:
    (outbox / "a.png").write_bytes(b"somebody's")
    assert await disk.place(result, outbox, b"a.png", ours) is None
    assert (outbox / "a.png").read_bytes() == b"somebody's"
    assert os.listdir(outbox) == ["a.png"]


@pytest.mark.parametrize("kind", ["folder", "link to the same", "dangling link", "pipe"])
async def test_what_is_no_file_is_foreign_too(disk: HouseDisk, outbox: Path, result: Path, kind: str) -> None:
    place = outbox / "a.png"
    match kind:
        case "folder":
            place.mkdir()
        case "pipe":
            os.mkfifo(place)
        case "link to the same":
            place.symlink_to(result)
        case _:
            place.symlink_to("nowhere")
    before = place.lstat()
    assert await disk.place(result, outbox, b"a.png", sha(b"the result")) is None
    assert place.lstat() == before
    assert result.read_bytes() == b"the result"


async def test_after_a_crash_the_same_bytes_are_ours(disk: HouseDisk, outbox: Path, result: Path) -> None:
    await disk.place(result, outbox, b"a.png", None)
    before = (outbox / "a.png").stat()
    assert await disk.place(result, outbox, b"a.png", None) == (sha(b"the result"), 10)
    assert (outbox / "a.png").stat().st_ino == before.st_ino


async def test_our_own_file_is_replaced(disk: HouseDisk, outbox: Path, result: Path) -> None:
    (outbox / "a.png").write_bytes(b"ours, older")
    assert await disk.place(result, outbox, b"a.png", sha(b"ours, older")) == (sha(b"the result"), 10)
    assert (outbox / "a.png").read_bytes() == b"the result"


async def test_leftovers_of_a_crash_are_replaced(disk: HouseDisk, outbox: Path, result: Path) -> None:
    """A crash half-way leaves a dotted file; the next try uses the same name, and none of its bytes."""
    result.write_bytes(b"long" * 100_000)
    with calls_of_new_threads():
        await disk.place(result, outbox, b"a.png", None)
    os.rename(outbox / "a.png", outbox / leftover_name(b"a.png"))
    result.write_bytes(b"short")
    await disk.place(result, outbox, b"a.png", None)
    assert os.listdir(outbox) == ["a.png"]
    assert (outbox / "a.png").read_bytes() == b"short"


async def test_what_a_crash_left_between_a_name_and_its_end_goes_away(
    disk: HouseDisk, outbox: Path, result: Path
) -> None:
    """The temporary name is a second name of the result by then; it would keep the room of one deleted later."""
    await disk.place(result, outbox, b"a.png", None)
    os.link(outbox / "a.png", outbox / leftover_name(b"a.png"))
    assert await disk.place(result, outbox, b"a.png", None) == (sha(b"the result"), 10)
    assert os.listdir(outbox) == ["a.png"]


def leftover_name(name: bytes) -> str:
    return f".esrgand-{sha(name)[:16]}.part"


async def test_the_order_is_file_name_folder(tmp_path: Path, outbox: Path, result: Path) -> None:
    """The bytes are synced before they have their name, and the folder after it."""
    (outbox / "old.png").write_bytes(b"ours, older")
    disk = HouseDisk(tmp_path / "staging", make_pool=lambda _: ThreadPoolExecutor(1))
    with calls_of_new_threads() as calls:
        await disk.place(result, outbox, b"new.png", None)
        new = calls[:]
        calls.clear()
        await disk.place(result, outbox, b"old.png", sha(b"ours, older"))
        replaced = calls[:]
        calls.clear()
        await disk.note(outbox, b"new.png.json", b"{}")
        noted = calls[:]
        calls.clear()
        await disk.place(result, outbox, b"x/y.png", None)
        folder = calls[:]
    disk.close()
    # The first unlink clears away what a crash left; the last is the attempt to clear up, after everything.
    assert new == ["unlink", "fsync", "link", "unlink", "fsync", "unlink"]
    assert replaced == ["unlink", "fsync", "rename", "fsync", "unlink"]
    assert noted == replaced
    assert folder == ["mkdir", "fsync", *new]


KILLED = """
import asyncio, os, sys, threading
from pathlib import Path
from daemon.adapters.disk import HouseDisk
root, stop_at = Path(sys.argv[1]), int(sys.argv[2])
seen = 0
def crash(frame, event, what):
    global seen
    ours = frame.f_code.co_filename.endswith(("disk.py", "files.py"))
    if event == "c_call" and what.__module__ in ("posix", "_io", "io") and ours:
        seen += 1
        if seen == stop_at:
            os._exit(9)
async def main():
    disk = HouseDisk(root / "staging")
    threading.setprofile(crash)
    await disk.place(root / "result", root / "out", b"d/a.png", None)
    await disk.note(root / "out", b"d/a.png.json", b"{}")
asyncio.run(main())
os._exit(0)
"""


async def test_killed_anywhere_the_outbox_is_right(tmp_path: Path, outbox: Path, result: Path, disk: HouseDisk) -> None:
    """Whatever stands under a final name is whole, the sidecar never comes first, and the next run ends it."""
    stops = list(range(1, 80, 5))
    ended = []
    for start in range(0, len(stops), 4):
        running = []
        for stop in stops[start : start + 4]:
            root = tmp_path / str(stop)
            (root / "out").mkdir(parents=True)
            (root / "result").write_bytes(b"the result")
            running.append((root, subprocess.Popen([sys.executable, "-c", KILLED, str(root), str(stop)])))
        for root, process in running:
            ended.append(process.wait())
            placed, noted = root / "out/d/a.png", root / "out/d/a.png.json"
            assert not placed.exists() or placed.read_bytes() == b"the result"
            assert not noted.exists() or (placed.exists() and noted.read_bytes() == b"{}")
            assert await disk.place(root / "result", root / "out", b"d/a.png", None) == (sha(b"the result"), 10)
            await disk.note(root / "out", b"d/a.png.json", b"{}")
            assert sorted(os.listdir(root / "out/d")) == ["a.png", "a.png.json"]
    assert ended[0] == 9
    assert ended[-1] == 0, "the last one ran through: every point was tried"


# What the house gets wrong


@pytest.mark.parametrize("name", [b"a.png", b"a/b.png"])
async def test_a_missing_outbox_is_a_fault_and_not_made(
    disk: HouseDisk, tmp_path: Path, result: Path, name: bytes
) -> None:
    """An outbox that is gone is a mount that is gone: what is written below it would be lost to view."""
    for write in (disk.place(result, tmp_path / "gone", name, None), disk.note(tmp_path / "gone", name, b"{}")):
        with pytest.raises(Fault, match="is not there") as caught:
            await write
        assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, Gate.OUTBOX)
    assert not (tmp_path / "gone").exists()


async def test_a_full_disk_is_the_houses_fault(disk: HouseDisk, outbox: Path, result: Path) -> None:
    (outbox / leftover_name(b"a.png")).mkdir()
    (outbox / leftover_name(b"a.png.json")).mkdir()
    for write in (disk.place(result, outbox, b"a.png", None), disk.note(outbox, b"a.png.json", b"{}")):
        with pytest.raises(Fault) as caught:
            await write
        assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, Gate.OUTBOX)
    assert all(name.startswith(".") for name in os.listdir(outbox)), "neither a result nor a sidecar nor a half of one"
    full = fault_from(OSError(errno.ENOSPC, "No space left on device"), outbox, Gate.OUTBOX)
    assert "is full" in full.said
    assert "Make room" in full.remedy


async def test_a_link_in_the_place_of_a_temporary_name_is_not_followed(
    disk: HouseDisk, outbox: Path, result: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (outbox / leftover_name(b"a.png")).symlink_to(tmp_path / "precious")
    assert await disk.place(result, outbox, b"a.png", None)
    assert (tmp_path / "precious").read_bytes() == b"precious"


async def test_a_writer_whose_name_was_taken_over_publishes_nothing(outbox: Path) -> None:
    """A thread of a run that ended while it copied must not give a newer writer's half a name."""
    final = os.fsencode(outbox / "a.png")
    with FILES.temporary_beside(final) as (old, temporary), FILES.temporary_beside(final) as (new, _):
        old.write(b"old and long")
        new.write(b"new")
        for file in (old, new):
            file.flush()
        with pytest.raises(OSError, match=r"[Ss]tale"):
            FILES.publish(old, temporary, final, replace=True)
        assert FILES.publish(new, temporary, final, replace=False)
    assert (outbox / "a.png").read_bytes() == b"new"


async def test_a_file_where_a_folder_should_be(disk: HouseDisk, outbox: Path, result: Path) -> None:
    (outbox / "trip").write_bytes(b"a file")
    with pytest.raises(Fault) as caught:
        await disk.place(result, outbox, b"trip/a.png", None)
    assert caught.value.gate is None, "the other pictures do not have to wait for it"
    assert (outbox / "trip").read_bytes() == b"a file"


async def test_a_staging_that_is_gone_is_a_fault_of_staging(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    disk = HouseDisk(tmp_path / "file" / "staging")
    for work in (disk.prepare(set()), disk.remove(tmp_path / "file" / "staging" / "x")):
        with pytest.raises(Fault) as caught:
            await work
        assert caught.value.gate is Gate.STAGING
    with pytest.raises(Fault) as caught:
        async with disk.incoming(TILE):
            pytest.fail("it cannot be opened")
    assert caught.value.gate is Gate.STAGING
    disk.close()


def test_making_folders_never_makes_the_root(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/root"
    with pytest.raises(FileNotFoundError):
        FILES.make_folders(root + b"/a/b", root)
    assert not os.path.exists(root)
    os.mkdir(root)
    FILES.make_folders(root + b"/a/b", root)
    assert os.path.isdir(root + b"/a/b")


# Room


class Small(Files):
    """A file system with so much room in each folder, or what it raises when it is asked."""

    def __init__(self, room: dict[Path, int | OSError]) -> None:
        self.rooms = room

    def room(self, folder: AnyPath) -> int:
        room = self.rooms[Path(os.fsdecode(folder))]
        if isinstance(room, OSError):
            raise room
        return room


MIB = 1 << 20


@pytest.mark.parametrize(
    ("room", "bytes_", "fits"),
    [(0, 0, True), (5 * MIB, 5 * MIB, True), (5 * MIB - 1, 5 * MIB, False), (0, 1, False), (-1, 0, False)],
)
async def test_an_outbox_is_ready_where_the_results_fit(tmp_path: Path, room: int, bytes_: int, fits: bool) -> None:
    disk = HouseDisk(tmp_path / "staging", Small({tmp_path: room}))
    if fits:
        await disk.ready(tmp_path, bytes_)
    else:
        with pytest.raises(Fault) as caught:
            await disk.ready(tmp_path, bytes_)
        assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, Gate.OUTBOX)
        assert caught.value.outlook is Outlook.PASSING
    disk.close()


async def test_staging_keeps_a_spare_for_the_ledger(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    files = Small({staging: SPARE_BYTES + 100})
    disk = HouseDisk(staging, files)
    await disk.ready(None, 100)
    with pytest.raises(Fault) as caught:
        await disk.ready(None, 101)
    assert caught.value.gate is Gate.STAGING
    files.rooms[staging] = SPARE_BYTES - 1
    with pytest.raises(Fault):
        await disk.ready(None, 0)
    disk.close()


async def test_too_little_room_is_said_in_numbers_with_what_to_do(tmp_path: Path) -> None:
    disk = HouseDisk(tmp_path / "staging", Small({tmp_path: 3 * MIB + 1}))
    with pytest.raises(Fault) as caught:
        await disk.ready(tmp_path, 7 * MIB + 1)
    said = f"The disk of {tmp_path} has 3 MiB of room; the results on their way need some 8 MiB."
    assert caught.value.said == said
    assert "pays for nothing meanwhile" in caught.value.remedy
    disk.close()


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EROFS, "is read-only"), (errno.EACCES, "may not be written"), (errno.EIO, "cannot be")]
)
@pytest.mark.parametrize("staging", [False, True])
async def test_what_takes_no_files_is_not_ready_however_much_room_it_has(
    tmp_path: Path, number: int, said: str, staging: bool
) -> None:
    place = tmp_path / "staging" if staging else tmp_path
    disk = HouseDisk(tmp_path / "staging", Small({place: OSError(number, os.strerror(number))}))
    with pytest.raises(Fault, match=said) as caught:
        await disk.ready(None if staging else tmp_path, 0)
    assert caught.value.gate is (Gate.STAGING if staging else Gate.OUTBOX)
    assert str(place) in caught.value.said
    disk.close()


async def test_an_outbox_that_is_gone_is_not_ready(disk: HouseDisk, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="is not there"):
        await disk.ready(tmp_path / "gone", 0)
    assert not (tmp_path / "gone").exists()


async def test_a_real_disk_has_room_for_a_little_and_not_for_everything(disk: HouseDisk, outbox: Path) -> None:
    await disk.ready(outbox, 1)
    await disk.ready(None, 1)
    for place in (outbox, None):
        with pytest.raises(Fault, match="MiB of room"):
            await disk.ready(place, UNLIMITED_BYTES - 1)
    free = os.statvfs(outbox)
    assert 0 < FILES.room(outbox) <= free.f_blocks * free.f_frsize


def test_what_may_not_be_written_has_no_room() -> None:
    code = (
        "import os, sys; from pathlib import Path; from daemon.adapters.files import Files\n"
        "os.getuid() or os.setuid(65534)\n"
        "os.statvfs(sys.argv[1])\n"
        "try: Files().room(Path(sys.argv[1]))\n"
        "except PermissionError: sys.exit(13)"
    )
    with tempfile.TemporaryDirectory() as folder:  # A place that another user may look at, too.
        os.chmod(folder, 0o555)
        assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode == 13


# What lies in an outbox already


class Elsewhere(Files):
    """An outbox that another file system was mounted over, or taken from."""

    def mount(self, path: Path) -> Mount | None:
        return None


async def test_nobody_knows_what_an_outbox_holds_that_is_away(tmp_path: Path, outbox: Path, result: Path) -> None:
    """To say that it holds nothing would have a copy's result fetched again, or paid for again."""
    files, copy = Elsewhere(), tmp_path / "copy"
    disk = HouseDisk(tmp_path / "staging", files)
    await disk.fill(Outboxes(files, tmp_path / "outboxes.json", "ours"), [outbox], [])
    await disk.place(result, outbox, b"trip/a.png", None)
    assert await disk.recall(outbox / "trip" / "a.png", sha(b"the result"), copy)
    (outbox / ".esrgand.json").rename(tmp_path / "marker")
    (outbox / "trip").rename(tmp_path / "trip")
    with pytest.raises(Fault, match="is away") as caught:
        await disk.recall(outbox / "trip" / "a.png", sha(b"the result"), copy)
    assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, None), "other pictures do not wait for it"
    outbox.rename(tmp_path / "gone")
    with pytest.raises(Fault, match="is away"):
        await disk.recall(outbox / "trip" / "a.png", sha(b"the result"), copy)
    (tmp_path / "gone").rename(outbox)
    (tmp_path / "marker").rename(outbox / ".esrgand.json")
    assert not await disk.recall(outbox / "trip" / "a.png", sha(b"the result"), copy), (
        "now we know that it is not there"
    )
    disk.close()


async def test_looking_into_many_folders_takes_no_more_threads(tmp_path: Path, outbox: Path) -> None:
    pools: list[int] = []

    def make_pool(threads: int) -> ThreadPoolExecutor:
        pools.append(threads)
        return ThreadPoolExecutor(threads)

    disk = HouseDisk(tmp_path / "staging", make_pool=make_pool)
    await disk.fill(Outboxes(FILES, tmp_path / "outboxes.json", "ours"), [outbox], [])
    for place in (outbox, tmp_path / "a former outbox"):
        for n in range(20):
            assert not await disk.recall(place / f"trip {n}" / "a.png", "0" * 64, tmp_path / "copy")
    assert len(pools) == 2
    disk.close()


# Sidecars and reports


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        (b'{\n  "schema": "esrgand/sidecar/1",\n  "x": 1}', False),
        (b'{"schema":"esrgand/error/1"}', False),
        (b'{"schema": "another/1"}', True),
        (b"", True),
        (b"\x89PNG", True),
    ],
)
async def test_foreign_is_what_does_not_say_it_is_ours(
    disk: HouseDisk, outbox: Path, text: bytes, foreign: bool
) -> None:
    (outbox / "a.json").write_bytes(text)
    assert await disk.is_foreign(outbox, b"a.json") is foreign


async def test_what_cannot_be_ours_is_foreign(disk: HouseDisk, outbox: Path) -> None:
    assert not await disk.is_foreign(outbox, b"nothing.json")
    (outbox / "ours").write_bytes(b'{"schema": "esrgand/sidecar/1"}')
    (outbox / "link.json").symlink_to("ours")
    (outbox / "folder.json").mkdir()
    assert await disk.is_foreign(outbox, b"link.json")
    assert await disk.is_foreign(outbox, b"folder.json")


async def test_discarding_what_is_gone_is_fine(disk: HouseDisk, outbox: Path) -> None:
    await disk.note(outbox, b"d/a.json", b"{}")
    for _ in range(2):
        await disk.discard(outbox, b"d/a.json")
        assert os.listdir(outbox / "d") == []
    await disk.discard(outbox, b"nowhere/a.json")


async def test_what_a_crash_left_beside_a_report_goes_with_it(disk: HouseDisk, outbox: Path) -> None:
    (outbox / leftover_name(b"a.json")).write_bytes(b"half a rep")
    await disk.discard(outbox, b"a.json")
    assert os.listdir(outbox) == []


async def test_what_was_on_its_way_is_tidied_up_where_nobody_writes_again(tmp_path: Path, outbox: Path) -> None:
    """A crash while a result is written, and its picture is replaced before the next try."""
    ours, away, others = outbox, tmp_path / "away", tmp_path / "others"
    disk = HouseDisk(tmp_path / "staging")
    await disk.fill(Outboxes(FILES, tmp_path / "outboxes.json", "us"), [ours, away], [])
    others.mkdir()
    for folder in (ours, others):
        for name in (b"a.png", b"a.png.json", b"b.png"):
            (folder / leftover_name(name)).write_bytes(b"half")
        (folder / "a.png").write_bytes(b"somebody's")
    places = [(bytes(folder), path) for folder in (ours, away, others) for path in (b"a.png", b"gone/c.png")]
    for _ in range(2):
        await disk.tidy([*places, (bytes(ours), b"a.png/below a file.png")])
    assert set(os.listdir(ours)) == {"a.png", ".esrgand.json", leftover_name(b"b.png")}
    assert len(os.listdir(others)) == 4, "it is not ours"
    disk.close()


# Staging


async def test_what_comes_in_is_kept_or_gone(disk: HouseDisk, tmp_path: Path) -> None:
    async with disk.incoming(TILE) as (file, path):
        file.write(b"result")
        file.close()
        assert await disk.keep(TILE, path) == (sha(b"result"), 6)
    assert disk.staged(TILE).read_bytes() == b"result"
    with pytest.raises(ZeroDivisionError):
        async with disk.incoming(TILE) as (file, _):
            file.write(b"half")
            _ = 1 // 0
    assert os.listdir(tmp_path / "staging") == [disk.staged(TILE).name]
    assert disk.staged(TILE).read_bytes() == b"result", "what was kept is not touched by a later try"


async def test_a_full_disk_while_it_comes_in(disk: HouseDisk, tmp_path: Path) -> None:
    disk.staged(TILE).with_suffix(".part").symlink_to("/dev/full")
    with pytest.raises(Fault, match="is full") as caught:
        async with disk.incoming(TILE) as (file, _):
            file.write(b"x" * 100_000)
            file.flush()
    assert caught.value.gate is Gate.STAGING
    assert os.listdir(tmp_path / "staging") == []


async def test_what_is_on_its_way_out_is_private_and_goes_again(disk: HouseDisk, tmp_path: Path) -> None:
    source = io.BytesIO(b"x" * (3 << 20))
    source.seek(5)
    with pytest.raises(RuntimeError):
        async with disk.outgoing(TILE, source) as (copy, payload):
            assert copy.read_bytes() == source.getvalue(), "all of it, wherever it was read to"
            payload.write_bytes(b"a part")
            async with disk.reading(payload) as file:
                assert file.read() == b"a part"
            raise RuntimeError
    assert os.listdir(tmp_path / "staging") == []


async def test_a_start_clears_away_what_was_on_its_way(disk: HouseDisk, tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    for name in ("result", "kept", "part", "source", "payload", "1.recalled", "1.made"):
        (staging / f"job.0.{name}").write_bytes(b"x")
        (staging / f"other.0.{name}").write_bytes(b"x")
    await disk.prepare({"job"})
    assert set(os.listdir(staging)) == {"job.0.result", "job.0.kept"}


async def test_staging_itself_is_durable_before_anything_is_in_it(tmp_path: Path) -> None:
    """Else a crash takes it, and every result in it, however well those were synced."""
    synced: list[Path] = []

    class Watched(Files):
        def sync_folder(self, folder: AnyPath) -> None:
            synced.append(Path(os.fsdecode(folder)))
            super().sync_folder(folder)

    disk = HouseDisk(tmp_path / "staging", Watched())
    for _ in range(2):
        await disk.prepare(set())
    disk.close()
    assert synced == [tmp_path] * 2, "also where a start before this one could not do it"


async def test_what_is_kept_of_a_tile(disk: HouseDisk, tmp_path: Path) -> None:
    assert await disk.kept(TILE) is None
    await disk.secure(TILE)
    disk.keepsake(TILE).write_bytes(b"kept")
    await disk.secure(TILE)
    assert await disk.kept(TILE) == disk.keepsake(TILE)
    others = dataclasses.replace(TILE, number=1)
    disk.staged(others).write_bytes(b"x")
    await disk.clear(Whole((TILE, others)))
    await disk.clear(Whole((TILE, others)))
    assert os.listdir(tmp_path / "staging") == []


async def test_staged_means_the_very_bytes(disk: HouseDisk) -> None:
    kept = dataclasses.replace(TILE, state=State.FETCHED, result_sha256=sha(b"result"), result_bytes=6)
    assert not await disk.is_staged(kept)
    disk.staged(kept).write_bytes(b"result")
    assert await disk.is_staged(kept)
    disk.staged(kept).write_bytes(b"resulT")
    assert not await disk.is_staged(kept)
    for _ in range(2):
        await disk.remove(disk.staged(kept))
        assert not await disk.is_staged(kept)


async def test_recalled_is_what_has_that_content(disk: HouseDisk, result: Path, outbox: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert not await disk.recall(result, sha(b"another"), copy)
    for place in (outbox / "nothing", outbox, result / "below a file"):
        assert not await disk.recall(place, sha(b"the result"), copy)
    odd = Path(os.fsdecode(os.fsencode(outbox) + b"/caf\xe9.png"))
    result.rename(odd)
    assert await disk.recall(odd, sha(b"the result"), copy)
    assert copy.read_bytes() == b"the result"


class Unreadable(Files):
    """A disk that is about to fail. error: what reading any file raises."""

    error = errno.EIO

    def open(self, path: AnyPath, mode: Literal["rb", "wb", "xb"]) -> BinaryIO:
        if mode == "rb":
            raise OSError(self.error, os.strerror(self.error))
        return super().open(path, mode)


async def test_a_staged_result_that_cannot_be_read_any_more_is_lost(tmp_path: Path) -> None:
    """It is fetched again; waiting for a disk that forgot it would wait for ever."""
    files = Unreadable()
    disk = HouseDisk(tmp_path / "staging", files)
    await disk.prepare(set())
    disk.staged(TILE).write_bytes(b"x")
    assert not await disk.is_staged(TILE)
    files.error = errno.EMFILE
    with pytest.raises(Fault) as caught:
        await disk.is_staged(TILE)
    assert caught.value.gate is Gate.STAGING
    disk.close()


async def test_an_earlier_result_that_cannot_be_read_closes_nobodys_gate(tmp_path: Path, outbox: Path) -> None:
    """A share that is away answers with I/O errors: the copy waits, whose own outbox is all right."""
    disk = HouseDisk(tmp_path / "staging", Unreadable())
    with pytest.raises(Fault, match="is away") as caught:
        await disk.recall(outbox / "a.png", "0" * 64, tmp_path / "copy")
    assert caught.value.gate is None
    disk.close()


async def test_preparing_keeps_only_what_is_wanted(disk: HouseDisk, tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    for name in ("wanted.0.result", "wanted.0.part", "other.0.result", "other.0.7.converted"):
        (staging / name).write_bytes(b"")
    for job in ("wanted", "failed", "other"):
        (staging / f"{job}.0.rejected.png").write_bytes(b"")
        (staging / f"{job}.1.source").write_bytes(b"")
    (staging / "failed.0.kept").write_bytes(b"")
    await disk.prepare({"wanted"}, {"failed"})
    assert set(os.listdir(staging)) == {"wanted.0.result", "wanted.0.rejected.png", "failed.0.rejected.png"}
    assert staging.stat().st_mode & 0o777 == 0o700


# Moving


@pytest.mark.parametrize("name", NAMES)
def test_moving_finds_a_free_name(tmp_path: Path, name: bytes) -> None:
    """The third file of one name goes beside the other two; all three keep their bytes and their times."""
    target = os.fsencode(tmp_path) + b"/archive/" + name
    name_bytes = os.path.basename(name)
    source = os.fsencode(tmp_path) + b"/" + name_bytes
    for text in (b"1", b"2", b"3"):
        with open(source, "wb") as file:
            file.write(text)
        os.utime(source, ns=(5, 7_000_000_000))
        FILES.move_without_overwriting(source, target)
        assert not os.path.lexists(source)
    folder = os.path.dirname(target)
    found = sorted(os.listdir(folder))
    assert len(found) == 3
    assert name_bytes in found
    assert sorted(content(folder + b"/" + each) for each in found) == [b"1", b"2", b"3"]
    assert {os.stat(folder + b"/" + each).st_mtime_ns for each in found} == {7_000_000_000}
    assert {each.rpartition(b".")[2] for each in found} == {b"png"}


def test_a_move_that_fails_leaves_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"source")
    (tmp_path / "archive").write_bytes(b"a file")
    with pytest.raises(OSError):
        FILES.move_without_overwriting(os.fsencode(tmp_path / "a.png"), os.fsencode(tmp_path / "archive" / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == b"source"


@pytest.mark.parametrize("how", ["replaced", "written"])
def test_a_picture_that_comes_while_the_old_one_moves_is_not_lost(tmp_path: Path, how: str) -> None:
    source, target = tmp_path / "a.png", tmp_path / "archive" / "a.png"
    source.write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new picture")

    def drop_another(frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call" and what.__name__ == "fsync":
            sys.setprofile(None)
            if how == "replaced":
                (tmp_path / "new").rename(source)
            else:
                source.write_bytes(b"new picture")

    sys.setprofile(drop_another)
    try:
        FILES.move_without_overwriting(os.fsencode(source), os.fsencode(target))
    finally:
        sys.setprofile(None)
    assert source.read_bytes() == b"new picture"
    assert os.listdir(tmp_path / "archive") == [], "what was copied is neither the one nor the other"
