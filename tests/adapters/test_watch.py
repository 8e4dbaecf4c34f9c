"""What watchdog tells of a real folder, as hints; and that a dead watch does not pass for a living one."""

import asyncio
import os
import resource
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from watchdog.events import FileClosedEvent, FileSystemEvent

from daemon.adapters.watch import HINTS_MAX, InboxWatcher
from daemon.rules.faults import Blame, Fault


class Watching:
    """A watcher at work, and what it said."""

    def __init__(self, root: Path, *, recursive: bool = True) -> None:
        self.root = root
        self.watcher = InboxWatcher(root, recursive=recursive)
        self.woken = asyncio.Event()
        self.hints: set[bytes] = set()
        self.begin()

    def begin(self) -> None:
        loop = asyncio.get_running_loop()
        self.watcher.begin(lambda: loop.call_soon_threadsafe(self.woken.set))

    async def until(self, *expected: bytes) -> None:
        """Return when all of these were hinted at."""
        async with asyncio.timeout(20):
            while not self.hints.issuperset(expected):
                await self.woken.wait()
                self.woken.clear()
                hints, lost = self.watcher.take()
                assert not lost
                self.hints |= hints


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
async def watching(root: Path) -> AsyncIterator[Watching]:
    watching = Watching(root)
    yield watching
    watching.watcher.end()


@pytest.mark.parametrize("name", [b"a.png", b"with\nnewline.png", b"caf\xe9.png", "ü🎈.png".encode()])
async def test_a_file_that_is_written(watching: Watching, root: Path, name: bytes) -> None:
    (root / os.fsdecode(name)).write_bytes(b"x")
    await watching.until(name)


@pytest.mark.parametrize("name", ["a.png", b"caf\xe9.png"])
async def test_a_file_that_is_moved_in_or_linked_in(watching: Watching, root: Path, name: str | bytes) -> None:
    """Such a file is never closed: who waits for that alone waits for ever."""
    name = os.fsencode(name)
    outside = root.parent / "outside"
    outside.write_bytes(b"x")
    os.link(outside, root / "linked.png")
    outside.rename(root / os.fsdecode(name))
    await watching.until(b"linked.png", name)


async def test_a_file_that_gets_its_name_at_the_end(watching: Watching, root: Path) -> None:
    (root / "a.png.part").write_bytes(b"x")
    (root / "a.png.part").rename(root / "a.png")
    await watching.until(b"a.png")


async def test_a_file_that_grows(watching: Watching, root: Path) -> None:
    with (root / "a.png").open("wb") as file:
        await watching.until(b"a.png")
        watching.hints.clear()
        file.write(b"x")
    await watching.until(b"a.png")


async def test_a_new_folder_is_hinted_at_and_watched(watching: Watching, root: Path) -> None:
    (root / "new" / "deep").mkdir(parents=True)
    await watching.until(b"new", b"new/deep")
    (root / "new" / "deep" / "a.png").write_bytes(b"x")
    await watching.until(b"new/deep/a.png")


async def test_a_tree_that_is_moved_in_is_hinted_at_and_watched(watching: Watching, root: Path) -> None:
    tree = root.parent / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "a.png").write_bytes(b"x")
    tree.rename(root / "tree")
    await watching.until(b"tree")
    (root / "tree" / "deep" / "b.png").write_bytes(b"x")
    await watching.until(b"tree/deep/b.png")


async def test_a_tree_that_gets_its_name_at_the_end(watching: Watching, root: Path) -> None:
    (root / ".upload").mkdir()
    (root / ".upload" / "a.png").write_bytes(b"x")
    await watching.until(b".upload/a.png")
    (root / ".upload").rename(root / "trip")
    await watching.until(b"trip")


async def test_a_flat_watch_leaves_folders_alone(root: Path) -> None:
    (root / "deep").mkdir()
    watching = Watching(root, recursive=False)
    (root / "deep" / "a.png").write_bytes(b"x")
    (root / "b.png").write_bytes(b"x")
    await watching.until(b"b.png")
    watching.watcher.end()
    assert b"deep/a.png" not in watching.hints | watching.watcher.take()[0]


async def test_reading_and_deleting_are_no_hints(root: Path) -> None:
    (root / "a.png").write_bytes(b"x")
    watching = Watching(root)
    (root / "a.png").read_bytes()
    (root / "a.png").unlink()
    (root / "b.png").write_bytes(b"x")
    await watching.until(b"b.png")
    watching.watcher.end()
    assert watching.hints == {b"b.png"}


async def test_hints_are_taken_once(watching: Watching, root: Path) -> None:
    watching.watcher.dispatch(FileClosedEvent(f"{root}/a.png"))
    assert watching.watcher.take() == ({b"a.png"}, False)
    assert watching.watcher.take() == (set(), False)


async def test_too_many_hints_become_a_word_that_some_were_lost(watching: Watching, root: Path) -> None:
    for number in range(HINTS_MAX + 1):
        watching.watcher.dispatch(FileClosedEvent(f"{root}/{number}.png"))
    hints, lost = watching.watcher.take()
    assert lost
    assert len(hints) < HINTS_MAX
    assert watching.watcher.take() == (set(), False)


async def test_one_wake_for_one_taking(root: Path) -> None:
    """A burst costs the loop one call, not one for each file."""
    wakes: list[None] = []
    watcher = InboxWatcher(root, recursive=True)
    watcher.begin(lambda: wakes.append(None))
    for number in range(100):
        watcher.dispatch(FileClosedEvent(f"{root}/{number}.png"))
    await asyncio.sleep(0)
    assert len(wakes) == 1
    watcher.take()
    watcher.dispatch(FileClosedEvent(f"{root}/again.png"))
    await asyncio.sleep(0)
    assert len(wakes) == 2
    watcher.end()


# Life and death


async def test_it_lives_from_begin_to_end(root: Path) -> None:
    before = set(threading.enumerate())
    watcher = InboxWatcher(root, recursive=True)
    assert not watcher.is_alive()
    watcher.begin(lambda: None)
    assert watcher.is_alive()
    watcher.end()
    assert not watcher.is_alive()
    assert set(threading.enumerate()) <= before, "its threads have ended"
    watcher.end()


async def test_a_root_that_was_removed_and_made_again_is_not_watched(watching: Watching, root: Path) -> None:
    """The emitter claims to be alive; the folder is another."""
    keeper = root.parent / "keeper"
    root.rename(keeper)
    assert not watching.watcher.is_alive()
    root.mkdir()
    assert not watching.watcher.is_alive()
    watching.watcher.end()
    watching.begin()
    assert watching.watcher.is_alive()
    (root / "a.png").write_bytes(b"x")
    await watching.until(b"a.png")


async def test_a_root_that_is_gone_is_not_watched(watching: Watching, root: Path) -> None:
    shutil.rmtree(root)
    assert not watching.watcher.is_alive()


async def test_what_cannot_be_watched_is_a_fault(tmp_path: Path) -> None:
    """Tried again every minute while a mount is away, and for months: nothing may pile up."""
    watcher = InboxWatcher(tmp_path / "nowhere", recursive=True)
    threads = []
    for _ in range(3):
        with pytest.raises(Fault, match="scanned instead") as caught:
            watcher.begin(lambda: None)
        assert caught.value.blame is Blame.HOUSE
        assert not watcher.is_alive()
        watcher.end()
        threads.append((threading.active_count(), len(os.listdir("/proc/self/fd"))))
    assert threads[0] == threads[1] == threads[2]


async def test_no_descriptors_left_is_a_fault_too(root: Path) -> None:
    watcher = InboxWatcher(root, recursive=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(Fault, match="scanned instead"):
            watcher.begin(lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    watcher.begin(lambda: None)
    assert watcher.is_alive()
    watcher.end()


def test_an_event_after_the_loops_end_kills_nobody(root: Path) -> None:
    watcher = InboxWatcher(root, recursive=True)
    with asyncio.Runner() as runner:

        async def begin() -> None:
            loop = asyncio.get_running_loop()
            watcher.begin(lambda: loop.call_soon_threadsafe(print))

        runner.run(begin())
    watcher.dispatch(FileClosedEvent(f"{root}/a.png"))
    watcher.dispatch(FileSystemEvent("/somewhere/else.png"))
    assert watcher.take() == ({b"a.png"}, False)
    watcher.end()
