"""An inbox on a real file system: what a scan takes, and what an open file is allowed to be."""

# ruff: noqa: PT012, SIM905  (what goes wrong inside a `with` is the point; names read best in a row)

import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from daemon.adapters.folder import DiskInbox, look_from
from daemon.ports import mark
from daemon.rules.faults import Blame, Changed, Fault, Gate, Vanished
from daemon.rules.job import Look
from daemon.rules.names import Selection

PICTURES = ["*.jpg", "*.jpeg", "*.png", "*.webp"]
TAKEN: list[str | bytes] = [
    *"a.jpg A.JPG b.Jpeg c.png d.webp ü🎈.png -rf.png tmp.png a.part.png".split(),
    *"x.jpg/y.png part/a.png deep/er/a.png".split(),
    *("with space.png", "new\nline.png", b"caf\xe9.png", b"n" * 251 + b".png"),
]
NOT_INCLUDED = "a.txt a png a.gif a.png~".split()
NEVER_TAKEN = [
    *".a.png ._a.png ~$a.png skipped-1.png".split(),
    *"a.png.part A.PNG.PART a.png.partial a.png.crdownload a.png.tmp a.png.filepart".split(),
    *"@eaDir/a.png @EADIR/a.png #recycle/a.png @Recycle/a.png .stfolder/a.png .stversions/a.png".split(),
    *"__MACOSX/a.png .Trashes/a.png .Spotlight-V100/a.png .snapshot/a.png lost+found/a.png".split(),
    *".hidden/a.png deep/@eaDir/deep/a.png old/a.png OLD/deep/a.png".split(),
]
MakeInbox = Callable[..., DiskInbox]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
async def make(root: Path) -> AsyncIterator[MakeInbox]:
    made = []

    def make(
        *, include: Collection[str] = PICTURES, exclude: Collection[str] = (), recursive: bool = True
    ) -> DiskInbox:
        made.append(DiskInbox(root, Selection(include, exclude), recursive=recursive))
        return made[-1]

    yield make
    for inbox in made:
        inbox.close()


@pytest.fixture
def inbox(make: MakeInbox) -> DiskInbox:
    return make()


def drop(root: Path, path: str | bytes, data: bytes = b"picture") -> bytes:
    """Put a file into the inbox; returns its path below it."""
    name = os.fsencode(path)
    file = root / os.fsdecode(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return name


@contextmanager
def descriptor_of(folder: Path | str, inside: int | None = None) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def scanned(inbox: DiskInbox, known: Collection[int] = ()) -> set[bytes]:
    return {path for path, _ in (await inbox.scan(known)).found}


async def looked(inbox: DiskInbox, path: bytes) -> Look:
    look = await inbox.look(path)
    assert look is not None
    return look


# Scanning


@pytest.mark.parametrize("name", TAKEN)
async def test_pictures_are_taken(inbox: DiskInbox, root: Path, name: str | bytes) -> None:
    path = drop(root, name)
    assert await scanned(inbox) == {path}
    assert inbox.takes(path)
    assert await inbox.why_ignored(path) == ""


@pytest.mark.parametrize(
    ("name", "include"),
    [*((name, "*") for name in NEVER_TAKEN), *((name, "*.png") for name in [*NEVER_TAKEN, *NOT_INCLUDED])],
)
async def test_what_is_never_a_picture_is_passed_over(make: MakeInbox, root: Path, name: str, include: str) -> None:
    """By a scan, by a hint and by a hint on its folder alike; and a person is told why."""
    inbox = make(include=[include], exclude=["skipped-*", "old"])
    path = drop(root, name)
    assert await scanned(inbox) == set()
    assert not inbox.takes(path)
    assert await inbox.why_ignored(path)
    folder = os.path.dirname(path)
    assert not folder or not await inbox.is_folder(folder)


async def test_only_regular_files_are_taken(inbox: DiskInbox, root: Path) -> None:
    """A pipe or a device would hold us for ever, and a link may lead anywhere."""
    drop(root, "real.png")
    drop(root, "folder/inner.png")
    (root / "link.png").symlink_to("real.png")
    (root / "dangling.png").symlink_to("nowhere")
    (root / "around").symlink_to("folder")
    (root / "up").symlink_to("..")
    os.mkfifo(root / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener, descriptor_of(root) as short:
        listener.bind(f"/proc/self/fd/{short}/socket.png")
    (root / "folder.png").mkdir()
    assert await scanned(inbox) == {b"real.png", b"folder/inner.png"}
    for name in (b"link.png", b"dangling.png", b"pipe.png", b"socket.png", b"folder.png", b"around"):
        assert await inbox.look(name) is None
        assert await inbox.why_ignored(name)
    assert not await inbox.is_folder(b"around")
    assert not await inbox.is_folder(b"real.png")
    assert await inbox.is_folder(b"folder")


async def test_a_flat_inbox_leaves_folders_alone(make: MakeInbox, root: Path) -> None:
    inbox = make(recursive=False)
    drop(root, "a.png")
    inner = drop(root, "folder/b.png")
    assert await scanned(inbox) == {b"a.png"}
    assert not inbox.takes(inner)
    assert not await inbox.is_folder(b"folder")


async def test_a_scan_counts_all_and_returns_what_is_not_known(inbox: DiskInbox, root: Path) -> None:
    for name in ("a.png", "b.png", "folder/c.png"):
        drop(root, name)
    first = await inbox.scan(())
    known = {mark(path, look) for path, look in first.found if path != b"b.png"}
    drop(root, "folder/c.png", b"changed")
    os.utime(root / "folder" / "c.png", ns=(1, 1))
    again = await inbox.scan(known)
    assert {path for path, _ in again.found} == {b"b.png", b"folder/c.png"}
    assert (first.files, again.files) == (3, 3)


async def test_a_scan_of_a_folder_gives_paths_below_the_inbox(inbox: DiskInbox, root: Path) -> None:
    drop(root, "a.png")
    path = drop(root, "folder/deep/b.png")
    assert [found for found, _ in (await inbox.scan((), b"folder")).found] == [path]
    assert (await inbox.scan((), b"gone")).found == []


async def test_looks_are_the_same_from_everywhere(inbox: DiskInbox, root: Path) -> None:
    path = drop(root, "a.png")
    os.utime(root / "a.png", ns=(1, 1_700_000_000_123_456_789))
    look = await looked(inbox, path)
    assert look == Look(7, 1_700_000_000_123_456_789, os.stat(root / "a.png").st_ino)
    assert (await inbox.scan(())).found == [(path, look)]
    assert await scanned(inbox, {mark(path, look)}) == set()


async def test_a_look_fits_into_the_ledger(inbox: DiskInbox, root: Path) -> None:
    """Dates from the far future come from cameras and broken clocks, inodes of 64 bits from network file systems."""
    path = drop(root, "a.png")
    os.utime(root / "a.png", ns=(0, 10**19))
    assert (await looked(inbox, path)).mtime_ns < 2**63
    facts = {"st_mtime_ns": 5}
    one, other = (look_from(os.stat_result((0, inode, 0, 0, 0, 0, 7, 0, 0, 0), facts)) for inode in (2**64 - 1, 2**63))
    assert one == Look(7, 5, 2**63 - 1)
    assert one != other


async def test_a_file_that_goes_while_its_folder_is_read_takes_no_other_along(inbox: DiskInbox, root: Path) -> None:
    """Names come in batches: one of them may be gone when its turn comes."""
    for number in range(20):
        drop(root, f"{number}.png")

    class Known(Collection[int]):
        """The first file that is asked for has the others' fate in its hands."""

        asked = 0

        def __contains__(self, _: object) -> bool:
            self.asked += 1
            if self.asked == 10:
                left = sorted(root.iterdir())
                for file in left[::2]:
                    file.unlink()
            return False

        def __iter__(self) -> Iterator[int]:
            return iter(())

        def __len__(self) -> int:
            return 0

    found = await scanned(inbox, Known())
    assert {os.fsencode(name) for name in os.listdir(root)} <= found


async def test_a_folder_that_cannot_be_read_is_told_and_stops_nothing(inbox: DiskInbox, root: Path) -> None:
    """A path that is too long for the system is one that even root cannot read."""
    drop(root, "a.png")
    with ExitStack() as stack:
        inner = stack.enter_context(descriptor_of(root))
        for _ in range(20):
            os.mkdir("n" * 250, dir_fd=inner)
            inner = stack.enter_context(descriptor_of("n" * 250, inner))
    scan = await inbox.scan(())
    assert [path for path, _ in scan.found] == [b"a.png"]
    assert [said.rpartition(": ")[2] for said in scan.unreadable] == ["File name too long"]
    shutil.rmtree(root / ("n" * 250))


# An inbox that is not there


@pytest.mark.parametrize("instead", ["nothing", "a file"])
async def test_a_vanished_inbox_is_a_fault_and_nothing_is_gone(inbox: DiskInbox, root: Path, instead: str) -> None:
    path = drop(root, "a.png")
    look = await looked(inbox, path)
    root.rename(root.parent / "elsewhere")
    if instead == "a file":
        root.write_bytes(b"")
    for ask in (inbox.scan(()), inbox.look(path), inbox.delete(path, look), inbox.archive(path, look, root.parent)):
        with pytest.raises(Fault) as caught:
            await ask
        assert caught.value.blame is Blame.HOUSE
        assert not isinstance(caught.value, Changed | Vanished)
    with pytest.raises(Fault) as caught:
        async with inbox.open(path, look):
            pytest.fail("it is not there")
    assert caught.value.blame is Blame.HOUSE
    if instead == "a file":
        root.unlink()
    (root.parent / "elsewhere").rename(root)
    assert await scanned(inbox) == {path}
    assert await inbox.look(path) == look


async def test_an_inbox_that_comes_later_is_fine(inbox: DiskInbox, root: Path) -> None:
    root.rmdir()
    with pytest.raises(Fault, match="is not there"):
        await inbox.scan(())
    path = drop(root, "a.png")
    assert await scanned(inbox) == {path}


# Opening


async def test_an_open_file_is_what_was_looked_at(inbox: DiskInbox, root: Path) -> None:
    path = drop(root, "a.png")
    async with inbox.open(path, await looked(inbox, path)) as file:
        assert file.read() == b"picture"
    assert file.closed


def replace(file: Path) -> None:
    file.with_name("other").write_bytes(b"another")
    file.with_name("other").rename(file)


def append(file: Path) -> None:
    with file.open("ab") as writer:
        writer.write(b"more")


def truncate(file: Path) -> None:
    os.truncate(file, 3)


def rewrite(file: Path) -> None:
    """The same size and the same inode: the time alone tells."""
    file.write_bytes(b"PICTURE")
    os.utime(file, ns=(1, 1_800_000_000_000_000_000))


def become_link(file: Path) -> None:
    file.rename(file.with_name("moved"))
    file.symlink_to("moved")


def become_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


CHANGES = [replace, append, truncate, rewrite]


@pytest.mark.parametrize("change", [*CHANGES, become_pipe])
async def test_changed_before_it_is_opened(inbox: DiskInbox, root: Path, change: Callable[[Path], None]) -> None:
    path = drop(root, "a.png")
    look = await looked(inbox, path)
    change(root / "a.png")
    with pytest.raises(Changed):
        async with inbox.open(path, look):
            pytest.fail("another file must not be read")


async def test_a_link_in_its_place_is_not_followed(inbox: DiskInbox, root: Path) -> None:
    path = drop(root, "a.png")
    look = await looked(inbox, path)
    become_link(root / "a.png")
    with pytest.raises(Fault):
        async with inbox.open(path, look):
            pytest.fail("a link must not be followed")


@pytest.mark.parametrize("change", [*CHANGES, become_link, become_pipe, os.unlink])
async def test_changed_while_it_is_read(inbox: DiskInbox, root: Path, change: Callable[[Path], None]) -> None:
    path = drop(root, "a.png")
    with pytest.raises(Changed):
        async with inbox.open(path, await looked(inbox, path)) as file:
            file.read()
            change(root / "a.png")
    assert file.closed


async def test_gone_before_it_is_opened(inbox: DiskInbox, root: Path) -> None:
    path = drop(root, "folder/a.png")
    look = await looked(inbox, path)
    shutil.rmtree(root / "folder")
    with pytest.raises(Vanished):
        async with inbox.open(path, look):
            pytest.fail("it is gone")
    assert await inbox.look(path) is None


async def test_what_the_reader_raises_comes_first(inbox: DiskInbox, root: Path) -> None:
    path = drop(root, "a.png")
    with pytest.raises(ZeroDivisionError):
        async with inbox.open(path, await looked(inbox, path)) as file:
            (root / "a.png").unlink()
            _ = 1 // 0
    assert file.closed


# Taking away


async def test_only_the_very_file_is_taken_away(inbox: DiskInbox, root: Path, tmp_path: Path) -> None:
    """A picture that came under the same name meanwhile stays."""
    path = drop(root, "trip/a.png")
    look = await looked(inbox, path)
    (tmp_path / "archive").mkdir()
    append(root / "trip" / "a.png")
    await inbox.delete(path, look)
    await inbox.archive(path, look, tmp_path / "archive")
    assert (root / "trip" / "a.png").exists()
    assert os.listdir(tmp_path / "archive") == []


async def test_a_missing_archive_is_a_fault_and_not_made(inbox: DiskInbox, root: Path, tmp_path: Path) -> None:
    """It may be a mount that is away; what is put below it would be lost to view."""
    path = drop(root, "a.png")
    with pytest.raises(Fault, match="is not there") as caught:
        await inbox.archive(path, await looked(inbox, path), tmp_path / "archive")
    assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, Gate.OUTBOX)
    assert not (tmp_path / "archive").exists()
    assert (root / "a.png").exists()


async def test_archiving_keeps_the_tree_and_what_is_there(inbox: DiskInbox, root: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for data in (b"one", b"two"):
        path = drop(root, "trip/a.png", data)
        look = await looked(inbox, path)
        for _ in range(2):
            await inbox.archive(path, look, tmp_path / "archive")
        assert not (root / "trip" / "a.png").exists()
    archived = tmp_path / "archive" / "trip"
    assert sorted((file.name, file.read_bytes()) for file in archived.iterdir()) == [
        ("a.png", b"one"),
        ("a~2.png", b"two"),
    ]


async def test_deleting_twice_is_fine(inbox: DiskInbox, root: Path) -> None:
    path = drop(root, b"caf\xe9\n.png")
    look = await looked(inbox, path)
    for _ in range(2):
        await inbox.delete(path, look)
        assert os.listdir(root) == []
