"""What the calls of the file system promise, on this machine's and on the simulated one; and what a crash leaves."""

# ruff: noqa: PT012  (what goes wrong inside a `with` is the point)

import errno
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from simulation.engine import Crash, Machine, VirtualLoop
from simulation.files import FOLDER, SimFiles, Volume

from daemon.adapters.files import AnyPath, Files

SEEDS = 100
TEXT = b"a text of a few words"


@dataclass
class Arena:
    files: Files
    root: Path
    other: Path | None  # a folder on another file system, where there is one

    def put(self, name: str, data: bytes = TEXT) -> Path:
        with self.files.open(self.root / name, "wb") as file:
            file.write(data)
        return self.root / name

    def read(self, path: AnyPath) -> bytes:
        with self.files.open(path, "rb") as file:
            return file.read()

    def tree(self, below: str = "") -> dict[str, bytes | None]:
        """Everything that is there; None is a folder."""
        found: dict[str, bytes | None] = {}
        for name in self.files.names(self.root / below):
            path = below + name
            is_folder = self.files.kind(self.root / path) == "folder"
            found[path] = None if is_folder else self.read(self.root / path)
            if is_folder:
                found |= self.tree(path + "/")
        return found


class SimArena(Arena):
    files: SimFiles


@pytest.fixture(params=["real", "simulated"])
def arena(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Arena]:
    if request.param == "real":
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as other:
            elsewhere = os.stat(other).st_dev != os.stat(tmp_path).st_dev
            yield Arena(Files(), tmp_path, Path(other) if elsewhere else None)
    else:
        yield sim_arena()


def sim_arena(seed: int = 0) -> SimArena:
    files = SimFiles(Machine(seed))
    files.mounted[b"/nas"] = Volume("nas")
    for volume, path in [(files.root, b"/disk"), (files.mounted[b"/nas"], b"/nas")]:
        volume.live[path] = volume.durable[path] = FOLDER
    return SimArena(files, Path("/disk"), Path("/nas"))


# Opening, reading, writing


def test_what_was_written_is_read(arena: Arena) -> None:
    assert arena.read(arena.put("a")) == TEXT
    assert arena.read(os.fsencode(arena.root) + b"/a") == TEXT


def test_writing_again_replaces(arena: Arena) -> None:
    arena.put("a", b"something that is longer")
    assert arena.read(arena.put("a", b"short")) == b"short"


def test_writing_goes_on_where_it_was(arena: Arena) -> None:
    with arena.files.open(arena.root / "a", "xb") as file:
        assert file.write(b"one ") == 4
        file.flush()
        assert arena.read(arena.root / "a") == b"one "
        assert file.write(b"two") == 3
    assert arena.read(arena.root / "a") == b"one two"


def test_what_is_not_flushed_is_seen_by_nobody(arena: Arena) -> None:
    with arena.files.open(arena.root / "a", "wb") as file:
        file.write(TEXT)
        assert arena.read(arena.root / "a") == b""
        arena.files.sync(file)
        assert arena.read(arena.root / "a") == TEXT


def test_reading_in_pieces(arena: Arena) -> None:
    with arena.files.open(arena.put("a", b"abcde"), "rb") as file:
        assert [file.read(2), file.read(2), file.read(), file.read(2)] == [b"ab", b"cd", b"e", b""]


def test_a_file_does_what_it_was_opened_for(arena: Arena) -> None:
    with arena.files.open(arena.root / "a", "wb") as file, pytest.raises(OSError, match="read"):
        file.read()
    with arena.files.open(arena.root / "a", "rb") as file, pytest.raises(OSError, match="writ"):
        file.write(b"x")


def test_a_closed_file_does_nothing_more(arena: Arena) -> None:
    with arena.files.open(arena.put("a"), "rb") as reader, arena.files.open(arena.root / "b", "wb") as writer:
        pass
    for _ in range(2):
        reader.close()
        writer.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"x")


def test_an_open_file_outlives_its_name(arena: Arena) -> None:
    path = arena.put("a")
    with arena.files.open(path, "rb") as file:
        arena.files.unlink(path)
        assert file.read() == TEXT


# Names


def test_renaming_replaces(arena: Arena) -> None:
    arena.put("a", b"new")
    arena.put("b", b"old")
    arena.files.rename(arena.root / "a", arena.root / "b")
    assert arena.tree() == {"b": b"new"}


def test_an_open_file_goes_along_when_it_is_renamed(arena: Arena) -> None:
    with arena.files.open(arena.root / "a", "wb") as file:
        assert arena.files.is_same(file, arena.root / "a")
        arena.files.rename(arena.root / "a", arena.root / "b")
        assert arena.files.is_same(file, arena.root / "b")
        file.write(TEXT)
    assert arena.tree() == {"b": TEXT}


def test_a_new_file_of_the_same_name_is_not_the_same(arena: Arena) -> None:
    with arena.files.open(arena.put("a"), "rb") as file:
        arena.put("b")
        assert not arena.files.is_same(file, arena.root / "b")
        arena.files.rename(arena.root / "b", arena.root / "a")
        assert not arena.files.is_same(file, arena.root / "a")


def test_renaming_a_file_to_itself_keeps_it(arena: Arena) -> None:
    path = arena.put("a")
    arena.files.rename(path, path)
    assert arena.tree() == {"a": TEXT}
    arena.files.link(path, arena.root / "b")
    arena.files.rename(path, arena.root / "b")
    assert arena.tree() == {"a": TEXT, "b": TEXT}, "two names of one file: so says POSIX"


def test_a_link_is_the_same_file(arena: Arena) -> None:
    path = arena.put("a")
    arena.files.link(path, arena.root / "b")
    arena.put("a", b"written in place")
    assert arena.tree() == {"a": b"written in place", "b": b"written in place"}
    arena.files.unlink(path)
    assert arena.tree() == {"b": b"written in place"}


def test_folders_have_names_and_kinds(arena: Arena) -> None:
    arena.put("a")
    arena.files.mkdir(arena.root / "folder")
    arena.files.mkdir(os.fsencode(arena.root / "folder" / "inner"), 0o700)
    arena.put("folder/b")
    assert sorted(arena.files.names(arena.root)) == ["a", "folder"]
    assert sorted(arena.files.names(arena.root / "folder")) == ["b", "inner"]
    assert arena.files.names(arena.root / "folder" / "inner") == []
    kinds = {"a": "file", "folder": "folder", "folder/inner": "folder", "none": None, "a/none": None}
    for name, kind in kinds.items():
        assert arena.files.kind(arena.root / name) == kind
        assert arena.files.is_folder(arena.root / name) is (kind == "folder")


def test_names_are_bytes(arena: Arena) -> None:
    with arena.files.open(os.fsencode(arena.root) + b"/caf\xe9\n", "xb") as file:
        file.write(TEXT)
    assert [os.fsencode(name) for name in arena.files.names(arena.root)] == [b"caf\xe9\n"]


def test_syncing_changes_nothing_that_can_be_seen(arena: Arena) -> None:
    with arena.files.open(arena.put("a"), "rb") as file:
        arena.files.sync(file)
        assert file.read() == TEXT
    arena.files.sync_folder(arena.root)
    assert arena.tree() == {"a": TEXT}


def test_there_is_room(arena: Arena) -> None:
    assert arena.files.room(arena.root) > 1 << 20


def test_a_mount_is_told_by_all_that_lies_on_it(arena: Arena) -> None:
    path = arena.put("a")
    mount = arena.files.mount(arena.root)
    assert mount is not None
    assert arena.root.is_relative_to(mount.point)
    for below in (path, arena.root / "not there"):
        assert arena.files.mount(below) == mount
    if arena.other is not None:
        other = arena.files.mount(arena.other)
        assert other is not None
        assert other.identity != mount.identity


# Errors


Call = Callable[[Files, Path], Any]
FAILURES: dict[str, tuple[Call, int]] = {
    "read nothing": (lambda files, at: files.open(at / "none", "rb"), errno.ENOENT),
    "read in no folder": (lambda files, at: files.open(at / "none" / "a", "rb"), errno.ENOENT),
    "read below a file": (lambda files, at: files.open(at / "file" / "a", "rb"), errno.ENOTDIR),
    "read a folder": (lambda files, at: files.open(at / "folder", "rb"), errno.EISDIR),
    "write in no folder": (lambda files, at: files.open(at / "none" / "a", "wb"), errno.ENOENT),
    "write below a file": (lambda files, at: files.open(at / "file" / "a", "wb"), errno.ENOTDIR),
    "write a folder": (lambda files, at: files.open(at / "folder", "wb"), errno.EISDIR),
    "make what is there": (lambda files, at: files.open(at / "file", "xb"), errno.EEXIST),
    "make what is a folder": (lambda files, at: files.open(at / "folder", "xb"), errno.EEXIST),
    "make in no folder": (lambda files, at: files.open(at / "none" / "a", "xb"), errno.ENOENT),
    "rename nothing": (lambda files, at: files.rename(at / "none", at / "file"), errno.ENOENT),
    "rename into no folder": (lambda files, at: files.rename(at / "file", at / "none" / "a"), errno.ENOENT),
    "rename to below a file": (lambda files, at: files.rename(at / "file", at / "other" / "a"), errno.ENOTDIR),
    "rename onto a folder": (lambda files, at: files.rename(at / "file", at / "folder"), errno.EISDIR),
    "link to what is there": (lambda files, at: files.link(at / "file", at / "other"), errno.EEXIST),
    "link to a folder": (lambda files, at: files.link(at / "file", at / "folder"), errno.EEXIST),
    "link to itself": (lambda files, at: files.link(at / "file", at / "file"), errno.EEXIST),
    "link nothing": (lambda files, at: files.link(at / "none", at / "new"), errno.ENOENT),
    "link nothing to what is there": (lambda files, at: files.link(at / "none", at / "file"), errno.ENOENT),
    "link into no folder": (lambda files, at: files.link(at / "file", at / "none" / "a"), errno.ENOENT),
    "link a folder": (lambda files, at: files.link(at / "folder", at / "new"), errno.EPERM),
    "unlink nothing": (lambda files, at: files.unlink(at / "none"), errno.ENOENT),
    "unlink below a file": (lambda files, at: files.unlink(at / "file" / "a"), errno.ENOTDIR),
    "unlink a folder": (lambda files, at: files.unlink(at / "folder"), errno.EISDIR),
    "mkdir of what is there": (lambda files, at: files.mkdir(at / "folder"), errno.EEXIST),
    "mkdir of a file": (lambda files, at: files.mkdir(at / "file"), errno.EEXIST),
    "mkdir in no folder": (lambda files, at: files.mkdir(at / "none" / "a"), errno.ENOENT),
    "mkdir below a file": (lambda files, at: files.mkdir(at / "file" / "a"), errno.ENOTDIR),
    "names of nothing": (lambda files, at: files.names(at / "none"), errno.ENOENT),
    "names of a file": (lambda files, at: files.names(at / "file"), errno.ENOTDIR),
    "sync no folder": (lambda files, at: files.sync_folder(at / "none"), errno.ENOENT),
    "sync a file as a folder": (lambda files, at: files.sync_folder(at / "file"), errno.ENOTDIR),
    "room of nothing": (lambda files, at: files.room(at / "none"), errno.ENOENT),
}


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_says_why_and_changes_nothing(arena: Arena, what: str) -> None:
    call, code = FAILURES[what]
    arena.put("file")
    arena.put("other", b"another")
    arena.files.mkdir(arena.root / "folder")
    arena.put("folder/inner", b"inner")
    before = arena.tree()
    with pytest.raises(OSError) as caught:
        call(arena.files, arena.root)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]
    assert caught.value.strerror == os.strerror(code)
    assert arena.tree() == before


def test_comparing_with_what_is_gone(arena: Arena) -> None:
    with arena.files.open(arena.put("a"), "rb") as file:
        arena.files.unlink(arena.root / "a")
        with pytest.raises(FileNotFoundError):
            arena.files.is_same(file, arena.root / "a")


@pytest.mark.parametrize("call", ["rename", "link"])
def test_no_name_crosses_file_systems(arena: Arena, call: str) -> None:
    if arena.other is None:
        pytest.skip("there is but one file system")
    path = arena.put("a")
    with pytest.raises(OSError) as caught:
        getattr(arena.files, call)(path, arena.other / "a")
    assert caught.value.errno == errno.EXDEV
    assert arena.tree() == {"a": TEXT}
    assert arena.files.names(arena.other) == []


# What is built from them


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_that_is_written_is_there_and_nothing_else(arena: Arena, replace: bool) -> None:
    final = os.fsencode(arena.root / "a")
    assert arena.files.write(final, b"one", replace=replace)
    assert arena.tree() == {"a": b"one"}
    assert arena.files.write(final, b"two", replace=replace) is replace
    assert arena.tree() == {"a": b"two" if replace else b"one"}


def test_what_a_failed_run_left_is_cleared_away(arena: Arena) -> None:
    final = os.fsencode(arena.root / "a")
    with pytest.raises(ZeroDivisionError), arena.files.temporary_beside(final) as (file, temporary):
        file.write(TEXT)
        assert len(arena.tree()) == 1
        arena.files.link(temporary, final + b".left")
        _ = 1 // 0
    assert arena.tree() == {"a.left": TEXT}


def test_a_writer_whose_file_was_taken_over_publishes_nothing(arena: Arena) -> None:
    final = os.fsencode(arena.root / "a")
    with (
        arena.files.temporary_beside(final) as (mine, temporary),
        arena.files.temporary_beside(final) as (theirs, _),
    ):
        mine.write(b"mine")
        theirs.write(b"theirs")
        for file in (mine, theirs):
            arena.files.sync(file)
        with pytest.raises(OSError) as caught:
            arena.files.publish(mine, temporary, final, replace=True)
        assert caught.value.errno == errno.ESTALE
        assert arena.files.publish(theirs, temporary, final, replace=True)
    assert arena.tree() == {"a": b"theirs"}


def test_a_copy_has_the_digest_of_its_source(arena: Arena) -> None:
    source = arena.put("a", TEXT * 200_000)
    with arena.files.open(arena.root / "b", "wb") as target:
        copied = arena.files.copy_synced(source, target)
    assert copied == arena.files.digest_of(source) == arena.files.digest_of(arena.root / "b")
    assert copied[1] == len(TEXT) * 200_000


def test_folders_are_made_down_to_the_last(arena: Arena) -> None:
    root = os.fsencode(arena.root)
    for _ in range(2):
        arena.files.make_folders(root + b"/a/b/c", root)
    assert arena.tree() == {"a": None, "a/b": None, "a/b/c": None}
    arena.put("a/file")
    for wrong, kind in [(b"/a/file/c", NotADirectoryError), (b"/a/file", NotADirectoryError)]:
        with pytest.raises(kind):
            arena.files.make_folders(root + wrong, root)
    with pytest.raises(FileNotFoundError):
        arena.files.make_folders(root + b"/none/a", root + b"/none")
    assert arena.tree() == {"a": None, "a/b": None, "a/b/c": None, "a/file": TEXT}


def test_links_of_this_machine_lead_and_are_no_files(tmp_path: Path) -> None:
    """The simulated disk has none."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "nowhere").symlink_to("none")
    os.mkfifo(tmp_path / "pipe")
    files = Files()
    assert [files.kind(tmp_path / name) for name in ("link", "nowhere", "pipe")] == ["other"] * 3
    assert files.is_folder(tmp_path / "link")
    assert not files.is_folder(tmp_path / "nowhere")


# What a crash keeps and loses: the simulated disk alone


Life = Callable[[SimArena], object]


def synced(arena: SimArena, name: str, data: bytes, *, folder: bool = True) -> None:
    with arena.files.open(arena.root / name, "wb") as file:
        file.write(data)
        arena.files.sync(file)
    if folder:
        arena.files.sync_folder((arena.root / name).parent)


def lives(*life: Life) -> list[dict[str, bytes | None]]:
    """What is there after a crash that follows these steps, over many seeds."""
    found = []
    for seed in range(SEEDS):
        arena = sim_arena(seed)
        for step in life:
            step(arena)
        arena.files.crash()
        found.append(arena.tree())
        arena.files.crash()
        assert arena.tree() == found[-1], "what a crash left is durable"
        left = arena.files.root.live
        assert all(path.rpartition(b"/")[0] in left for path in left if path != b"/disk"), "no file without its folder"
    return found


def outcomes(*life: Life) -> list[dict[str, bytes | None]]:
    """The different ones, in some order."""
    different: list[dict[str, bytes | None]] = []
    for tree in lives(*life):
        if tree not in different:
            different.append(tree)
    return different


def expect(found: list[dict[str, bytes | None]], *expected: dict[str, bytes | None]) -> None:
    def ordered(trees: Any) -> list[list[tuple[str, bytes]]]:
        return sorted(
            sorted((name, b"(a folder)" if data is None else data) for name, data in tree.items()) for tree in trees
        )

    assert ordered(found) == ordered(expected)


def test_what_was_synced_with_its_name_survives() -> None:
    expect(outcomes(lambda arena: synced(arena, "a", TEXT)), {"a": TEXT})


def test_a_synced_file_may_lose_its_name_and_nothing_else() -> None:
    expect(outcomes(lambda arena: synced(arena, "a", TEXT, folder=False)), {}, {"a": TEXT})


def test_what_was_not_synced_may_be_nothing_a_part_zeros_or_whole() -> None:
    half, zeros = TEXT[: len(TEXT) // 2], bytes(len(TEXT))
    found = outcomes(lambda arena: arena.put("a"), lambda arena: arena.files.sync_folder(arena.root))
    expect(found, {"a": b""}, {"a": half}, {"a": zeros}, {"a": TEXT})


def test_what_was_written_over_may_be_there_again() -> None:
    found = outcomes(lambda arena: synced(arena, "a", b"old"), lambda arena: arena.put("a", b"new!"))
    expect(found, {"a": b"old"}, {"a": b"ne"}, {"a": bytes(4)}, {"a": b"new!"})


def test_what_was_in_no_ones_hands_but_ours_is_gone() -> None:
    """A buffer that was never flushed."""

    def write(arena: SimArena) -> None:
        synced(arena, "a", b"")
        arena.files.open(arena.root / "a", "wb").write(TEXT)

    expect(outcomes(write), {"a": b""})


def test_a_rename_happens_or_not() -> None:
    """Whole: never both names, never neither."""

    def rename(arena: SimArena) -> None:
        synced(arena, "a", b"new")
        synced(arena, "b", b"old")
        arena.files.rename(arena.root / "a", arena.root / "b")

    expect(outcomes(rename), {"a": b"new", "b": b"old"}, {"b": b"new"})
    expect(outcomes(rename, lambda arena: arena.files.sync_folder(arena.root)), {"b": b"new"})


def test_a_rename_of_what_was_never_synced_promises_nothing() -> None:
    def rename(arena: SimArena) -> None:
        synced(arena, "b", b"old")
        arena.put("a", b"new!")
        arena.files.rename(arena.root / "a", arena.root / "b")

    trees = outcomes(rename)
    assert {"b": b"old"} in trees
    assert {"b": b"new!"} in trees
    assert {"b": bytes(4)} in trees, "this is what the sync before a rename is for"


def test_a_removal_happens_or_not() -> None:
    def unlink(arena: SimArena) -> None:
        synced(arena, "a", TEXT)
        arena.files.unlink(arena.root / "a")

    expect(outcomes(unlink), {}, {"a": TEXT})
    expect(outcomes(unlink, lambda arena: arena.files.sync_folder(arena.root)), {})


def test_changes_of_names_get_there_each_for_itself() -> None:
    def link_then_unlink(arena: SimArena) -> None:
        synced(arena, "a", TEXT)
        arena.files.link(arena.root / "a", arena.root / "b")
        arena.files.unlink(arena.root / "a")

    expect(outcomes(link_then_unlink), {"a": TEXT}, {"a": TEXT, "b": TEXT}, {}, {"b": TEXT})
    expect(outcomes(link_then_unlink, lambda arena: arena.files.sync_folder(arena.root)), {"b": TEXT})


def test_a_folder_that_was_not_synced_takes_all_in_it_along() -> None:
    def make(arena: SimArena) -> None:
        arena.files.mkdir(arena.root / "folder")
        arena.files.mkdir(arena.root / "folder" / "inner")
        synced(arena, "folder/inner/a", TEXT)

    whole: dict[str, bytes | None] = {"folder": None, "folder/inner": None, "folder/inner/a": TEXT}
    expect(outcomes(make), {}, {"folder": None}, whole)


def test_a_sync_of_another_folder_does_not_help() -> None:
    def move(arena: SimArena) -> None:
        arena.files.make_folders(os.fsencode(arena.root / "from"))
        arena.files.make_folders(os.fsencode(arena.root / "to"))
        synced(arena, "from/a", TEXT, folder=False)
        arena.files.sync_folder(arena.root / "to")

    empty: dict[str, bytes | None] = {"from": None, "to": None}
    expect(outcomes(move), empty, {**empty, "from/a": TEXT})


def test_what_is_synced_later_is_not_undone_by_what_was_before() -> None:
    """A name that came and went across folders, of which one was synced."""

    def move(arena: SimArena) -> None:
        for name in (b"from", b"to"):
            arena.files.make_folders(os.fsencode(arena.root) + b"/" + name)
        synced(arena, "from/a", TEXT, folder=False)
        arena.files.rename(arena.root / "from" / "a", arena.root / "to" / "a")
        arena.files.sync_folder(arena.root / "to")

    expect(outcomes(move), {"from": None, "to": None, "to/a": TEXT})


@pytest.mark.parametrize("replace", [True, False])
def test_whenever_the_power_goes_a_written_file_is_whole_or_not_there(replace: bool) -> None:
    """What all of staging and all outboxes stand on, at every step of the machine."""
    seen = set()
    steps = 0
    finished = False
    while not finished:
        for seed in range(20):
            arena = sim_arena(seed)
            if replace:
                synced(arena, "a", b"old")
            finished = write_until(arena, steps, replace)
            arena.files.crash()
            there = {name: data for name, data in arena.tree().items() if not name.startswith(".")}
            assert there in ([{"a": b"new"}] if finished else [{"a": b"old"} if replace else {}, {"a": b"new"}])
            seen.add((finished, tuple(there.items())))
            arena.files.machine.alive = True
            assert arena.files.write(b"/disk/a", b"again", replace=True), "and the next run is not in its way"
            assert arena.tree() == {"a": b"again"}
        steps += 1
    assert steps > 6
    assert len(seen) == 3


def write_until(arena: SimArena, steps: int, replace: bool) -> bool:
    """Write a file on a machine whose power goes after so many steps; whether it came to its end before."""
    machine = arena.files.machine
    machine.loop, machine.crash_in = VirtualLoop(0.0), steps
    try:
        return arena.files.write(b"/disk/a", b"new", replace=replace)
    except Crash:
        return False
    finally:
        machine.loop.close()
        machine.loop = machine.crash_in = None


def test_without_power_nothing_has_an_effect() -> None:
    arena = sim_arena()
    arena.put("a")
    with arena.files.open(arena.root / "b", "wb") as file:
        machine = arena.files.machine
        machine.alive = False
        file.write(TEXT)
        for call in (
            file.flush,
            lambda: arena.files.sync(file),
            lambda: arena.files.unlink(arena.root / "a"),
            lambda: arena.files.rename(arena.root / "a", arena.root / "c"),
            lambda: arena.files.link(arena.root / "a", arena.root / "c"),
            lambda: arena.files.mkdir(arena.root / "c"),
            lambda: arena.put("a", b"other"),
            lambda: arena.files.sync_folder(arena.root),
        ):
            with pytest.raises(Crash):
                call()
        assert arena.tree() == {"a": TEXT, "b": b""}
        machine.alive = True


CHANGES: dict[str, Call] = {
    "write": lambda files, at: files.open(at / "file", "wb"),
    "make": lambda files, at: files.open(at / "new", "xb"),
    "mkdir": lambda files, at: files.mkdir(at / "new"),
    "rename": lambda files, at: files.rename(at / "file", at / "new"),
    "link": lambda files, at: files.link(at / "file", at / "new"),
    "unlink": lambda files, at: files.unlink(at / "file"),
}
TAKES_ROOM = {"write", "make", "mkdir"}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("trouble", ["full", "read_only", "faults"])
def test_a_volume_that_takes_nothing_still_gives(what: str, trouble: str) -> None:
    arena = sim_arena()
    arena.put("file")
    setattr(arena.files if trouble == "faults" else arena.files.root, trouble, True)
    if trouble == "full" and what not in TAKES_ROOM:
        CHANGES[what](arena.files, arena.root)
        return
    code = {"full": errno.ENOSPC, "read_only": errno.EROFS, "faults": errno.EIO}[trouble]
    with pytest.raises(OSError) as caught:
        CHANGES[what](arena.files, arena.root)
    assert caught.value.errno == code
    assert arena.tree() == {"file": TEXT}
    assert arena.other is not None
    if trouble != "faults":
        CHANGES["mkdir"](arena.files, arena.other)  # The other one has no trouble.


def test_a_volume_fills_up_while_it_is_written_to() -> None:
    arena = sim_arena()
    with arena.files.open(arena.root / "a", "wb") as file:
        file.write(TEXT)
        file.flush()
        arena.files.root.full = True
        file.write(b"more")
        with pytest.raises(OSError) as caught:
            file.flush()
        assert caught.value.errno == errno.ENOSPC
        assert arena.files.room(arena.root) == 0
        arena.files.root.full = False
    assert arena.tree() == {"a": TEXT + b"more"}


def test_a_read_only_volume_says_so_before_anything_is_written() -> None:
    arena = sim_arena()
    arena.files.root.read_only = True
    with pytest.raises(OSError) as caught:
        arena.files.room(arena.root)
    assert caught.value.errno == errno.EROFS


def test_a_mount_that_goes_away_leaves_the_folder_below() -> None:
    arena = sim_arena()
    files = arena.files
    assert arena.other is not None
    files.root.live[b"/nas"] = FOLDER
    with files.open(arena.other / "a", "wb") as file:
        file.write(TEXT)
    before = files.mount(arena.other)
    volume = files.mounted.pop(b"/nas")
    assert files.names(arena.other) == []
    assert files.mount(arena.other) != before
    with files.open(arena.other / "b", "wb"):
        pass
    files.mounted[b"/nas"] = volume
    assert files.names(arena.other) == ["a"]


def test_chance_alone_decides() -> None:
    """Two crashes with one seed leave the same."""

    def crashed() -> dict[str, bytes | None]:
        arena = sim_arena()
        for number in range(20):
            arena.put(f"{number}")
        arena.files.root.crash(random.Random(5))
        return arena.tree()

    assert crashed() == crashed()
    assert 0 < len(crashed()) < 20
