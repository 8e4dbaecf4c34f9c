"""
Disk: staging and outboxes; what is under its final name is whole and synced.

Everything is written under a name that starts with a dot, synced, then renamed, then its folder is synced. Nothing that
esrgand did not write is overwritten. Every OSError becomes Fault (HOUSE): a full disk, a folder that went away.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from daemon.adapters import mounts
from daemon.rules.faults import Blame, Fault, Gate
from daemon.rules.job import Tile
from daemon.rules.names import numbered

T = TypeVar("T")
CHUNK_BYTES = 1 << 20
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV, errno.EINVAL}


def fault_from(error: OSError, where: bytes | Path, gate: Gate) -> Fault:
    """What an error of the disk means, in plain words."""
    place = os.fsdecode(where)
    place = place.encode("utf-8", "backslashreplace").decode()
    said = {
        errno.ENOSPC: f"The disk of {place} is full",
        errno.EDQUOT: f"The quota of {place} is used up",
        errno.EROFS: f"{place} is read-only",
        errno.EACCES: f"{place} may not be written",
        errno.ENOENT: f"{place} is not there",
    }.get(error.errno or 0, f"{place} cannot be written ({error.strerror})")
    remedy = {
        errno.ENOSPC: "Make room",
        errno.EDQUOT: "Make room",
        errno.EACCES: "Give the user that esrgand runs as the right to write there",
        errno.ENOENT: "Mount it, or make the folder",
        errno.EROFS: "Mount it for writing (under systemd: name it in the unit's ReadWritePaths)",
    }.get(error.errno or 0, "Mend it")
    return Fault(f"{said}.", blame=Blame.HOUSE, gate=gate, remedy=f"{remedy}; esrgand goes on by itself.")


def sync_folder(folder: bytes) -> None:
    """Make renames in a folder durable. File systems that cannot sync a folder are left to their own promises."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def digest_of(path: bytes | Path) -> tuple[str, int]:
    """sha256 and size in bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size


@contextmanager
def temporary_beside(final: bytes) -> Iterator[tuple[BinaryIO, bytes]]:
    """A new file beside `final`, synced on leaving; removed unless it was renamed."""
    folder, _, name = final.rpartition(b"/")
    # One name for one target: what a crash leaves behind is replaced by the next try.
    path = folder + b"/.esrgand-" + hashlib.sha256(name).hexdigest()[:16].encode() + b".part"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # Not truncated: a thread of a run that has ended may still write to it.
        with open(path, "xb") as file:
            yield file, path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def publish(file: BinaryIO, temporary: bytes, final: bytes, *, replace: bool) -> bool:
    """Give a synced file its name; False, and nothing done, where the name is taken and `replace` is not given."""
    folder = final.rpartition(b"/")[0]
    if os.fstat(file.fileno()).st_ino != os.stat(temporary).st_ino:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # Another writer took the name over: it publishes.
    if replace:
        os.rename(temporary, final)
    else:
        try:
            # A link fails where the name exists; a rename would overwrite it.
            os.link(temporary, final)
            os.unlink(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            # No hard links here (FAT, some SMB shares): look first. Only a writer in this instant is overlooked.
            if os.path.lexists(final):
                return False
            os.rename(temporary, final)
    sync_folder(folder)
    return True


def copy_synced(source: bytes | Path, target: BinaryIO) -> tuple[str, int]:
    """Copy a file's content, sync it, and return the copy's sha256 and size."""
    digest, size = hashlib.sha256(), 0
    with open(source, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            target.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest(), size


def make_folders(folder: bytes, root: bytes | None = None) -> None:
    """Make a folder and those above it, each durable. `root`, where given, must be there, or a mount is missing."""
    if root is not None and not os.path.isdir(root):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root)
    if os.path.isdir(folder):
        return
    parent = folder.rpartition(b"/")[0]
    make_folders(parent, root)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
    sync_folder(parent)


def move_without_overwriting(source: bytes, target: bytes) -> None:
    """Move a file, also to another file system; a taken name gets a number. Raises Fault.

    A source that is written or replaced while it is copied is another picture now: it stays.
    """
    folder, _, name = target.rpartition(b"/")
    try:
        before = os.lstat(source)
        make_folders(folder)
        count = 1
        while os.path.lexists(target):
            count += 1
            target = folder + b"/" + numbered(name, count)
        with temporary_beside(target) as (file, temporary):
            copy_synced(source, file)
            shutil.copystat(source, temporary)
            if not _is_same(before, os.lstat(source)):
                return
            if publish(file, temporary, target, replace=False):
                os.unlink(source)
    except OSError as error:
        raise fault_from(error, folder, Gate.OUTBOX) from error


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_size, one.st_mtime_ns) == (other.st_ino, other.st_size, other.st_mtime_ns)


class HouseDisk:
    """The Disk port: staging in the state directory, outboxes anywhere."""

    def __init__(self, staging: Path, threads: int = 4) -> None:
        self._staging = staging
        self._mounts: dict[Path, mounts.Mount | None] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="disk")

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, gate: Gate, where: bytes | Path, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except OSError as error:
            raise fault_from(error, where, gate) from error

    async def prepare(self, wanted: set[str]) -> None:
        """Make the staging folder; remove what no job in `wanted` will need."""

        def work() -> None:
            self._staging.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._staging.iterdir():
                if path.name.partition(".")[0] not in wanted or path.suffix == ".part":
                    path.unlink()

        await self._run(Gate.STAGING, self._staging, work)

    async def remember(self, roots: Iterable[Path]) -> None:
        """Note which file systems these folders are on: later, another one in the place of one of them is not it."""
        for root in roots:
            self._mounts[root] = await self._run(Gate.OUTBOX, root, partial(mounts.mount_of, root))

    def _check_mount(self, root: Path) -> None:
        """Raise where what is mounted at an outbox went away: below it lies a folder that only looks like it."""
        before, now = self._mounts.get(root), mounts.mount_of(root)
        if before is None or now is None or before.identity == now.identity:
            return
        if len(bytes(now.point)) > len(bytes(before.point)):
            self._mounts[root] = now  # The mount came late.
            return
        raise Fault(
            f"{root} is no longer on {before.source}.",
            blame=Blame.HOUSE,
            gate=Gate.OUTBOX,
            remedy="Mount it again; its results wait meanwhile.",
        )

    def staged(self, tile: Tile) -> Path:
        """Where a result is staged."""
        return self._staging / f"{tile.job.id}.{tile.number}.result"

    @asynccontextmanager
    async def incoming(self, tile: Tile) -> AsyncIterator[tuple[BinaryIO, Path]]:
        """A file in staging to receive a result."""
        path = self.staged(tile).with_suffix(".part")
        file = await self._run(Gate.STAGING, self._staging, lambda: open(path, "wb"))
        try:
            yield file, path
        except OSError as error:
            raise fault_from(error, self._staging, Gate.STAGING) from error
        finally:
            with contextlib.suppress(OSError):
                file.close()
            path.unlink(missing_ok=True)

    async def keep(self, tile: Tile, incoming: Path) -> tuple[str, int]:
        """Sync an incoming file and give it its staged name."""

        def work() -> tuple[str, int]:
            with open(incoming, "rb") as file:
                os.fsync(file.fileno())
            digest = digest_of(incoming)
            os.rename(incoming, self.staged(tile))
            sync_folder(os.fsencode(self._staging))
            return digest

        return await self._run(Gate.STAGING, self._staging, work)

    async def is_staged(self, tile: Tile) -> bool:
        """Whether the staged file is what was fetched."""

        def work() -> bool:
            try:
                return digest_of(self.staged(tile)) == (tile.result_sha256, tile.result_bytes)
            except FileNotFoundError:
                return False

        return await self._run(Gate.STAGING, self._staging, work)

    async def remove(self, path: Path) -> None:
        """Remove a file of ours from staging."""
        await self._run(Gate.STAGING, self._staging, lambda: path.unlink(missing_ok=True))

    async def holds(self, path: Path, sha256: str) -> bool:
        """Whether there is a file with this content."""

        def work() -> bool:
            try:
                return digest_of(path)[0] == sha256
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return False

        return await self._run(Gate.OUTBOX, path, work)

    async def place(self, source: Path, outbox: Path, path: bytes, ours: str | None) -> tuple[str, int] | None:
        """Put a result into the outbox."""
        root = os.fsencode(outbox)
        final = root + b"/" + path

        def work() -> tuple[str, int] | None:
            self._check_mount(outbox)
            make_folders(final.rpartition(b"/")[0], root)
            digest = digest_of(source)
            there = os.path.lexists(final)
            if there:
                old = digest_of(final)[0] if os.path.isfile(final) and not os.path.islink(final) else ""
                if old == digest[0]:
                    return digest  # A crash came between the rename and the record.
                if old != ours:
                    return None
            with temporary_beside(final) as (file, temporary):
                copied = copy_synced(source, file)
                return copied if publish(file, temporary, final, replace=there) else None

        return await self._run(Gate.OUTBOX, outbox, work)

    async def note(self, outbox: Path, path: bytes, text: bytes) -> None:
        """Put a sidecar or a report into the outbox."""
        root = os.fsencode(outbox)
        final = root + b"/" + path

        def work() -> None:
            self._check_mount(outbox)
            make_folders(final.rpartition(b"/")[0], root)
            with temporary_beside(final) as (file, temporary):
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                publish(file, temporary, final, replace=True)

        await self._run(Gate.OUTBOX, outbox, work)

    async def is_foreign(self, outbox: Path, path: bytes) -> bool:
        """Whether something that is neither a sidecar nor a report of ours has that name."""

        def work() -> bool:
            final = os.fsencode(outbox) + b"/" + path
            if not os.path.lexists(final):
                return False
            if os.path.islink(final) or not os.path.isfile(final):
                return True
            with open(final, "rb") as file:
                return b'"schema":"esrgand/' not in file.read(200).replace(b" ", b"")

        return await self._run(Gate.OUTBOX, outbox, work)

    async def discard(self, outbox: Path, path: bytes) -> None:
        """Remove a sidecar or a report of ours."""

        def work() -> None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(os.fsencode(outbox) + b"/" + path)

        await self._run(Gate.OUTBOX, outbox, work)
