"""What every inbox promises: a folder on this machine's disk, and the simulated one."""

# ruff: noqa: PT012  (what goes wrong inside a `with` is the point)

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conformance_kit import Virtual
from simulation.inbox import Drop, SimInbox

from daemon.adapters.folder import DiskInbox
from daemon.ports import Inbox, mark
from daemon.rules.faults import Blame, Changed, Fault, Vanished
from daemon.rules.job import Look
from daemon.rules.names import Selection

PICTURE = b"a picture of some bytes"
A, TRIP = b"a.png", b"trip/deep/b.png"


@dataclass
class Arena:
    """put: writes a file, or replaces it. away: whether its mount is gone. archived: what was moved away."""

    inbox: Inbox
    put: Callable[[bytes, bytes], None]
    take_away: Callable[[bytes], None]
    away: Callable[[bool], None]
    archive: Path
    archived: Callable[[], list[bytes]]

    async def drop(self, path: bytes = A, data: bytes = PICTURE) -> Look:
        """A file, and what it looks like."""
        self.put(path, data)
        look = await self.inbox.look(path)
        assert look is not None
        return look


@pytest.fixture(params=["disk", "simulated"])
async def arena(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Arena]:
    if request.param == "disk":
        inbox = DiskInbox(tmp_path / "in", Selection(["*.png"], []), recursive=True)
        yield disk_arena(inbox, tmp_path)
        inbox.close()
    else:
        virtual = Virtual()
        yield sim_arena(virtual)
        virtual.close()


def disk_arena(inbox: DiskInbox, folder: Path) -> Arena:
    root, archive = folder / "in", folder / "archive"
    root.mkdir()
    archive.mkdir()

    def put(path: bytes, data: bytes) -> None:
        file = root / os.fsdecode(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        (folder / "new").write_bytes(data)
        (folder / "new").rename(file)

    def away(is_away: bool) -> None:
        root.rename(folder / "elsewhere") if is_away else (folder / "elsewhere").rename(root)

    def archived() -> list[bytes]:
        return sorted(file.read_bytes() for file in archive.rglob("*") if file.is_file())

    return Arena(inbox, put, lambda path: (root / os.fsdecode(path)).unlink(), away, archive, archived)


def sim_arena(virtual: Virtual) -> Arena:
    drop = Drop(virtual.machine)

    def away(is_away: bool) -> None:
        drop.away = is_away

    def take_away(path: bytes) -> None:
        del drop.files[path]

    inbox = virtual.part(SimInbox(drop, virtual.machine))
    return Arena(inbox, drop.put, take_away, away, Path("/archive"), lambda: sorted(data for _, data in drop.archived))


def replace(arena: Arena, path: bytes) -> None:
    """Another file of the same size."""
    arena.put(path, PICTURE.upper())


def copy_over(arena: Arena, path: bytes) -> None:
    """Another file with the same bytes: who knows what is still to come."""
    arena.put(path, PICTURE)


def lengthen(arena: Arena, path: bytes) -> None:
    arena.put(path, PICTURE + b"and more")


def remove(arena: Arena, path: bytes) -> None:
    arena.take_away(path)


Change = Callable[[Arena, bytes], None]
CHANGES = [replace, copy_over, lengthen]


# Scanning and looking


async def test_a_scan_finds_every_file_as_it_looks(arena: Arena) -> None:
    looks = {path: await arena.drop(path) for path in (A, TRIP, b"caf\xe9\n.png")}
    scan = await arena.inbox.scan(())
    assert dict(scan.found) == looks
    assert (len(scan.found), scan.files, scan.unreadable) == (3, 3, [])
    assert all(look.size == len(PICTURE) for look in looks.values())


async def test_a_scan_counts_what_is_known_and_does_not_return_it(arena: Arena) -> None:
    known = {mark(A, await arena.drop(A))}
    trip = await arena.drop(TRIP)
    scan = await arena.inbox.scan(known)
    assert (scan.found, scan.files) == ([(TRIP, trip)], 2)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_changed_is_not_known(arena: Arena, change: Change) -> None:
    look = await arena.drop()
    change(arena, A)
    scan = await arena.inbox.scan({mark(A, look)})
    assert [path for path, _ in scan.found] == [A]
    assert scan.found[0][1] == await arena.inbox.look(A) != look


async def test_a_scan_of_a_folder_stays_in_it(arena: Arena) -> None:
    await arena.drop(A)
    look = await arena.drop(TRIP)
    await arena.drop(b"tripod/c.png")
    for folder in (b"trip", b"trip/deep"):
        scan = await arena.inbox.scan((), folder)
        assert (scan.found, scan.files) == ([(TRIP, look)], 1)
    nothing = await arena.inbox.scan((), b"none")
    assert (nothing.found, nothing.files) == ([], 0)


async def test_a_scan_shows_that_it_moves(arena: Arena) -> None:
    before = arena.inbox.visited
    await arena.inbox.scan(())
    assert arena.inbox.visited > before


async def test_only_a_file_has_a_look(arena: Arena) -> None:
    look = await arena.drop(TRIP)
    assert await arena.inbox.look(TRIP) == look
    for path in (b"none.png", b"trip", b"trip/deep/none.png", b"trip/deep/b.png/c.png"):
        assert await arena.inbox.look(path) is None
    arena.take_away(TRIP)
    assert await arena.inbox.look(TRIP) is None


async def test_what_a_scan_finds_is_taken_by_its_name(arena: Arena) -> None:
    await arena.drop(TRIP)
    assert arena.inbox.takes(TRIP)
    assert await arena.inbox.why_ignored(TRIP) == ""


async def test_what_is_a_folder(arena: Arena) -> None:
    await arena.drop(TRIP)
    is_folder = {path: await arena.inbox.is_folder(path) for path in (b"trip", b"trip/deep", TRIP, b"tri", b"none")}
    assert is_folder == {b"trip": True, b"trip/deep": True, TRIP: False, b"tri": False, b"none": False}


# Opening and copying


async def read(arena: Arena, path: bytes, look: Look, way: str) -> bytes:
    if way == "open":
        async with arena.inbox.open(path, look) as file:
            return file.read()
    async with arena.inbox.copy(path, look) as (file, digest):
        data = file.read()
        assert digest == hashlib.sha256(data).hexdigest()
        return data


WAYS = pytest.mark.parametrize("way", ["open", "copy"])


@WAYS
async def test_a_file_is_read(arena: Arena, way: str) -> None:
    data = PICTURE * 200_000
    assert await read(arena, TRIP, await arena.drop(TRIP, data), way) == data


async def test_a_file_is_closed_afterwards(arena: Arena) -> None:
    look = await arena.drop()
    async with arena.inbox.open(A, look) as file:
        assert not file.closed
    async with arena.inbox.copy(A, look) as (copy, _):
        assert not copy.closed
    assert (file.closed, copy.closed) == (True, True)


@WAYS
@pytest.mark.parametrize("change", CHANGES)
async def test_what_changed_is_not_read(arena: Arena, way: str, change: Change) -> None:
    look = await arena.drop()
    change(arena, A)
    with pytest.raises(Changed):
        async with getattr(arena.inbox, way)(A, look):
            pytest.fail("nobody may read another picture")


@WAYS
@pytest.mark.parametrize("path", [A, TRIP])
async def test_what_is_gone_vanished(arena: Arena, way: str, path: bytes) -> None:
    look = await arena.drop(path)
    arena.take_away(path)
    with pytest.raises(Vanished):
        async with getattr(arena.inbox, way)(path, look):
            pytest.fail("it is gone")


@pytest.mark.parametrize("change", [*CHANGES, remove])
async def test_what_changes_while_it_is_open_is_told_on_leaving(arena: Arena, change: Change) -> None:
    look = await arena.drop()
    left = False
    with pytest.raises(Changed):
        async with arena.inbox.open(A, look) as file:
            assert file.read() == PICTURE
            change(arena, A)
            left = True
    assert left
    assert file.closed


@pytest.mark.parametrize("change", [*CHANGES, remove])
async def test_nothing_reaches_a_copy(arena: Arena, change: Change) -> None:
    look = await arena.drop()
    async with arena.inbox.copy(A, look) as (file, digest):
        change(arena, A)
        assert file.read() == PICTURE
        assert digest == hashlib.sha256(PICTURE).hexdigest()


async def test_what_the_reader_raises_comes_first(arena: Arena) -> None:
    look = await arena.drop()
    with pytest.raises(ZeroDivisionError):
        async with arena.inbox.open(A, look) as file:
            arena.take_away(A)
            _ = 1 // 0
    assert file.closed


async def test_work_is_done_aside(arena: Arena) -> None:
    assert await arena.inbox.aside(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await arena.inbox.aside(lambda: 1 // 0)


# Taking away


async def test_what_is_archived_is_in_the_archive_alone(arena: Arena) -> None:
    look = await arena.drop(TRIP)
    await arena.drop(A, b"another")
    for _ in range(2):
        await arena.inbox.archive(TRIP, look, arena.archive)
        assert arena.archived() == [PICTURE]
    assert await arena.inbox.look(TRIP) is None
    assert await arena.inbox.look(A) is not None


async def test_nothing_in_the_archive_is_overwritten(arena: Arena) -> None:
    for data in (b"one", b"two", b"three"):
        await arena.inbox.archive(A, await arena.drop(A, data), arena.archive)
    assert arena.archived() == [b"one", b"three", b"two"]


async def test_what_is_deleted_is_nowhere(arena: Arena) -> None:
    look = await arena.drop()
    await arena.drop(TRIP)
    for _ in range(2):
        await arena.inbox.delete(A, look)
        assert [path for path, _ in (await arena.inbox.scan(())).found] == [TRIP]
    assert arena.archived() == []


@pytest.mark.parametrize("way", ["archive", "delete"])
@pytest.mark.parametrize("change", CHANGES)
async def test_what_changed_is_left_alone(arena: Arena, way: str, change: Change) -> None:
    look = await arena.drop()
    change(arena, A)
    now = await arena.inbox.look(A)
    if way == "archive":
        await arena.inbox.archive(A, look, arena.archive)
    else:
        await arena.inbox.delete(A, look)
    assert await arena.inbox.look(A) == now
    assert arena.archived() == []


# An inbox that is not there


async def test_while_it_is_away_nothing_is_new_and_nothing_is_gone(arena: Arena) -> None:
    look = await arena.drop()
    arena.away(True)
    for ask in (
        arena.inbox.scan(()),
        arena.inbox.scan((), b"trip"),
        arena.inbox.look(A),
        arena.inbox.look(b"none.png"),
        arena.inbox.archive(A, look, arena.archive),
        arena.inbox.delete(A, look),
        read(arena, A, look, "open"),
        read(arena, A, look, "copy"),
    ):
        with pytest.raises(Fault) as caught:
            await ask
        assert caught.value.blame is Blame.HOUSE
        assert not isinstance(caught.value, Changed | Vanished)
    arena.away(False)
    assert (await arena.inbox.scan(())).found == [(A, look)]
    assert arena.archived() == []


async def test_what_goes_away_while_a_file_is_open_is_no_change_of_the_file(arena: Arena) -> None:
    look = await arena.drop()
    with pytest.raises(Fault) as caught:
        async with arena.inbox.open(A, look):
            arena.away(True)
    assert caught.value.blame is Blame.HOUSE
    arena.away(False)
    assert await read(arena, A, look, "open") == PICTURE
