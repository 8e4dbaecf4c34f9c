"""A folder on a picture's way that becomes a link leads nowhere: nothing is read, moved or removed behind it."""

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.adapters.files import Files
from daemon.adapters.folder import DiskInbox
from daemon.adapters.way import PATH_BYTES_MAX, Way
from daemon.rules.faults import Blame, Changed, Fault, Vanished
from daemon.rules.job import Look
from daemon.rules.names import Selection

SECRET = b"a secret"
DEPTHS = pytest.mark.parametrize("depth", [0, 1, 2])


class Trap:
    """An inbox with a picture three folders deep, and the same names elsewhere, with a secret there."""

    path = b"one/two/three/a.png"

    def __init__(self, folder: Path) -> None:
        self.root, self.private = folder / "in", folder / "private"
        self.archive = folder / "archive"
        self.archive.mkdir()
        for place in (self.root, self.private):
            self.file(place).parent.mkdir(parents=True)
        self.file(self.root).write_bytes(SECRET)
        # A hard link: no size, no date and no inode tells the one from the other.
        os.link(self.file(self.root), self.file(self.private))
        self.inbox = DiskInbox(self.root, Selection(["*.png"], []), recursive=True)

    def file(self, place: Path) -> Path:
        return place / os.fsdecode(self.path)

    def spring(self, depth: int) -> None:
        """One of the folders on the way becomes a link to its double."""
        below = Path(*os.fsdecode(self.path).split("/")[: depth + 1])
        (self.root / below).rename(self.root.parent / "moved")
        (self.root / below).symlink_to(self.private / below)

    async def look(self) -> Look:
        look = await self.inbox.look(self.path)
        assert look is not None
        return look


@pytest.fixture
async def trap(tmp_path: Path) -> AsyncIterator[Trap]:
    trap = Trap(tmp_path)
    yield trap
    trap.inbox.close()


@DEPTHS
async def test_what_lies_behind_a_link_is_not_there(trap: Trap, depth: int) -> None:
    look = await trap.look()
    trap.spring(depth)
    assert await trap.inbox.look(trap.path) is None
    folder = trap.path.rpartition(b"/")[0]
    assert not await trap.inbox.is_folder(folder)
    assert (await trap.inbox.scan(())).found == []
    assert (await trap.inbox.scan((), folder)).found == []
    assert "links are not followed" in await trap.inbox.why_ignored(trap.path)
    with pytest.raises(Vanished):
        async with trap.inbox.open(trap.path, look):
            pytest.fail("it must not be read")
    with pytest.raises(Vanished):
        async with trap.inbox.copy(trap.path, look):
            pytest.fail("it must not be copied")


@DEPTHS
async def test_a_link_that_comes_while_the_picture_is_read_is_told(trap: Trap, depth: int) -> None:
    look = await trap.look()
    with pytest.raises(Changed):
        async with trap.inbox.open(trap.path, look):
            trap.spring(depth)


@DEPTHS
async def test_nothing_behind_a_link_is_moved_or_removed(trap: Trap, depth: int) -> None:
    look = await trap.look()
    trap.spring(depth)
    await trap.inbox.archive(trap.path, look, trap.archive)
    await trap.inbox.delete(trap.path, look)
    assert trap.file(trap.private).read_bytes() == SECRET
    assert os.listdir(trap.archive) == []


async def test_an_inbox_that_is_a_link_is_an_administrators(trap: Trap, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(trap.root)
    inbox = DiskInbox(tmp_path / "link", Selection(["*.png"], []), recursive=True)
    look = await trap.look()
    assert (await inbox.scan(())).found == [(trap.path, look)]
    async with inbox.open(trap.path, look) as file:
        assert file.read() == SECRET
    await inbox.delete(trap.path, look)
    assert not trap.file(trap.root).exists()
    inbox.close()


def test_a_way_goes_on_in_the_folder_that_it_opened(trap: Trap) -> None:
    """Between two steps no folder can be exchanged for another."""
    with Way(os.fsencode(trap.root)) as way:
        trap.root.rename(trap.root.with_name("elsewhere"))
        trap.private.rename(trap.root)
        trap.file(trap.root).unlink()
        assert way.status(trap.path).st_size == len(SECRET)
        with way.named(trap.path) as name:
            assert Path(os.fsdecode(name)).read_bytes() == SECRET


def test_a_way_leaves_nothing_open(trap: Trap) -> None:
    before = os.listdir("/proc/self/fd")
    with Way(os.fsencode(trap.root)) as way:
        for path in (trap.path, b"none/a.png", b"one/two/three/a.png/b.png", b"x" * 300, b"y/" * PATH_BYTES_MAX):
            for ask in (way.status, way.unlink):
                try:
                    ask(path)
                except OSError:
                    pass
    assert os.listdir("/proc/self/fd") == before
    assert not trap.file(trap.root).exists()


def test_a_path_that_is_too_long_for_all_others_is_too_long_here(tmp_path: Path) -> None:
    """A result of that path could not be written, after it was paid for."""
    with Way(os.fsencode(tmp_path)) as way, pytest.raises(OSError, match="too long") as caught:
        way.status(b"x/" * (PATH_BYTES_MAX // 2) + b"a.png")
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_a_file_is_moved(trap: Trap, kind: str) -> None:
    """Who opened a pipe would wait for ever, and a link leads anywhere."""
    source = trap.root / "b.png"
    match kind:
        case "link":
            source.symlink_to(trap.file(trap.private))
        case "pipe":
            os.mkfifo(source)
        case _:
            source.mkdir()
    before = source.lstat()
    if kind == "folder":
        with pytest.raises(IsADirectoryError):
            Files().move_without_overwriting(os.fsencode(source), os.fsencode(trap.archive / "b.png"))
    else:
        Files().move_without_overwriting(os.fsencode(source), os.fsencode(trap.archive / "b.png"))
    assert source.lstat() == before
    assert os.listdir(trap.archive) == []


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("when", ["opened", "read"])
async def test_an_open_file_that_its_server_forgot_is_an_expected_failure(trap: Trap, code: int, when: str) -> None:
    class Forgetful(DiskInbox):
        asked = 0

        def _status(self, descriptor: int) -> os.stat_result:
            self.asked += 1
            if self.asked == (1 if when == "opened" else 2):
                raise OSError(code, os.strerror(code))
            return super()._status(descriptor)

    inbox = Forgetful(trap.root, Selection(["*.png"], []), recursive=True)
    with pytest.raises(Fault) as caught:
        async with inbox.open(trap.path, await trap.look()) as file:
            assert file.read() == SECRET
    assert isinstance(caught.value, Changed) is (code == errno.ESTALE)
    assert caught.value.blame is (Blame.PICTURE if code == errno.ESTALE else Blame.HOUSE)
    inbox.close()
