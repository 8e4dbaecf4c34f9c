"""
Files: the few calls of the file system that staging and outboxes stand on, and what is built from them.

Promise of the upper half: what is under its final name is whole and synced, and nothing is overwritten unasked. The
lower half is one system call a method, so that a simulated disk, which loses what was not synced, can take its place.
Paths are bytes or Path. Raises OSError alone.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from daemon.adapters import mounts
from daemon.rules.names import numbered

CHUNK_BYTES = 1 << 20
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV, errno.EINVAL}
UNLIMITED_BYTES = 1 << 62
AnyPath = bytes | Path
Kind = Literal["file", "folder", "other"]


@dataclass
class Progress:
    """moved: grows while a call reads or writes; one in which it does not may hang."""

    moved: int = 0


class _Counted(threading.local):
    progress: Progress | None = None


class Files:
    """The real file system."""

    _counted = _Counted()

    @contextmanager
    def counting(self, progress: Progress) -> Iterator[None]:
        """What this thread moves inside is counted there."""
        self._counted.progress = progress
        try:
            yield
        finally:
            self._counted.progress = None

    def _move(self) -> None:
        if self._counted.progress is not None:
            self._counted.progress.moved += 1

    def open(self, path: AnyPath, mode: Literal["rb", "wb", "xb"]) -> BinaryIO:
        """As the built-in."""
        return open(path, mode)

    def sync(self, file: BinaryIO) -> None:
        """Make what was written durable; its name is not, before its folder is synced."""
        file.flush()
        os.fsync(file.fileno())

    def date(self, file: BinaryIO, mtime_ns: int) -> None:
        """Give an open file another time of its last change, where its file system takes that."""
        try:
            os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise

    def sync_folder(self, folder: AnyPath) -> None:
        """Make names in a folder durable. File systems that cannot sync a folder are left to their own promises."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(descriptor)

    def rename(self, old: AnyPath, new: AnyPath) -> None:
        """Replaces what has the new name."""
        os.rename(old, new)

    def link(self, old: AnyPath, new: AnyPath) -> None:
        """Fails where the new name exists."""
        os.link(old, new)

    def unlink(self, path: AnyPath) -> None:
        """Remove a file."""
        os.unlink(path)

    def mkdir(self, path: AnyPath, mode: int = 0o777) -> None:
        """Make a folder."""
        os.mkdir(path, mode)

    def names(self, folder: Path) -> list[str]:
        """What is in a folder."""
        return os.listdir(folder)

    def kind(self, path: AnyPath) -> Kind | None:
        """What has this name itself (a link is "other"), or None."""
        if not os.path.lexists(path):
            return None
        if os.path.islink(path):
            return "other"
        return "file" if os.path.isfile(path) else "folder" if os.path.isdir(path) else "other"

    def is_folder(self, path: AnyPath) -> bool:
        """Whether it leads to a folder, by a link too."""
        return os.path.isdir(path)

    def is_same(self, file: BinaryIO, path: AnyPath) -> bool:
        """Whether the open file is still what has this name."""
        return os.fstat(file.fileno()).st_ino == os.stat(path).st_ino

    def room(self, folder: AnyPath) -> int:
        """Bytes that we may still write there, as far as it tells; raises where nothing may be written at all."""
        status = os.statvfs(folder)
        if status.f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        # Without blocks it has no limit (a tmpfs), or does not tell it (some network file systems).
        return status.f_bavail * status.f_frsize if status.f_blocks else UNLIMITED_BYTES

    def mount(self, path: Path) -> mounts.Mount | None:
        """The file system that it lies on, or None where that is unknown."""
        return mounts.mount_of(path)

    # What is built from them

    @contextmanager
    def temporary_beside(self, final: bytes) -> Iterator[tuple[BinaryIO, bytes]]:
        """A new file beside `final`; removed unless it was renamed."""
        path = temporary_name(final)
        try:
            self.clear_beside(final)  # Not truncated: a thread of a run that has ended may still write to it.
            with self.open(path, "xb") as file:
                yield file, path
        finally:
            self.clear_beside(final)

    def clear_beside(self, final: bytes) -> None:
        """Remove what a crash left of `temporary_beside`."""
        with contextlib.suppress(FileNotFoundError):
            self.unlink(temporary_name(final))

    def publish(self, file: BinaryIO, temporary: bytes, final: bytes, *, replace: bool) -> bool:
        """Give a synced file its name; False, and nothing done, where the name is taken and `replace` is not given."""
        if not self.is_same(file, temporary):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # Another writer took the name over: it publishes.
        if replace:
            self.rename(temporary, final)
        else:
            try:
                # A link fails where the name exists; a rename would overwrite it.
                self.link(temporary, final)
                self.unlink(temporary)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                # No hard links here (FAT, some SMB shares): look first. Only a writer in this instant is overlooked.
                if self.kind(final) is not None:
                    return False
                self.rename(temporary, final)
        self.sync_folder(final.rpartition(b"/")[0])
        return True

    def copy_synced(self, source: AnyPath, target: BinaryIO) -> tuple[str, int]:
        """Copy a file's content, sync it, and return the copy's sha256 and size."""
        with self.open(source, "rb") as file:
            return self._copy(file, target)

    def digest_of(self, path: AnyPath) -> tuple[str, int]:
        """sha256 and size in bytes of a file."""
        with self.open(path, "rb") as file:
            return self._read(file)

    def _copy(self, file: BinaryIO, target: BinaryIO) -> tuple[str, int]:
        digest = self._read(file, target)
        self.sync(target)
        return digest

    def _read(self, file: BinaryIO, target: BinaryIO | None = None) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        while chunk := file.read(CHUNK_BYTES):
            if target is not None:
                target.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            self._move()
        return digest.hexdigest(), size

    def make_folders(self, folder: bytes, root: bytes | None = None) -> None:
        """Make a folder and those above it, each durable. `root`, where given, must be there, or a mount is missing."""
        if root is not None and not self.is_folder(root):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root)
        if self.is_folder(folder):
            return
        if self.kind(folder) is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
        parent = folder.rpartition(b"/")[0]
        self.make_folders(parent, root)
        with contextlib.suppress(FileExistsError):
            self.mkdir(folder)
        self.sync_folder(parent)

    def write(self, final: bytes, text: bytes, *, replace: bool) -> bool:
        """A small file under its name, durable; False where the name is taken and `replace` is not given."""
        with self.temporary_beside(final) as (file, temporary):
            file.write(text)
            self.sync(file)
            return self.publish(file, temporary, final, replace=replace)

    def move_without_overwriting(self, source: bytes, target: bytes) -> None:
        """Move a file, also to another file system; a taken name gets a number.

        A source that is written or replaced while it is copied is another picture now, or a link, or a pipe: it stays.
        """
        try:
            source_file = open(source, "rb", opener=_open_no_link)
        except OSError as error:
            if error.errno == errno.ELOOP:
                return
            raise
        with source_file:
            before = os.fstat(source_file.fileno())
            if stat.S_ISREG(before.st_mode):
                self._move_open(source_file, before, source, target)

    def _move_open(self, file: BinaryIO, before: os.stat_result, source: bytes, target: bytes) -> None:
        folder, _, name = target.rpartition(b"/")
        self.make_folders(folder)
        count = 1
        while self.kind(target) is not None:
            if self._is_copy(target, file, before):
                # A crash came between the copy's name and the source's end.
                self.clear_beside(target)
                self.sync_folder(folder)
                if _is_same(before, os.lstat(source)):
                    self.unlink(source)
                return
            count += 1
            target = folder + b"/" + numbered(name, count)
        with self.temporary_beside(target) as (copy, temporary):
            self._copy(file, copy)
            shutil.copystat(b"/proc/self/fd/%d" % file.fileno(), temporary)
            if not _is_same(before, os.lstat(source)):
                return
            if self.publish(copy, temporary, target, replace=False):
                self.unlink(source)

    def _is_copy(self, target: bytes, file: BinaryIO, source: os.stat_result) -> bool:
        """Whether there is already what `move_without_overwriting` makes of the file. Leaves it at its beginning."""
        if self.kind(target) != "file":
            return False
        there = os.lstat(target)
        if (there.st_size, there.st_mtime_ns) != (source.st_size, source.st_mtime_ns):
            return False
        digest = self._read(file)
        file.seek(0)
        return digest == self.digest_of(target)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def temporary_name(final: bytes) -> bytes:
    """One name for one target: what a crash leaves behind is replaced by the next try."""
    folder, _, name = final.rpartition(b"/")
    return folder + b"/.esrgand-" + hashlib.sha256(name).hexdigest()[:16].encode() + b".part"


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_size, one.st_mtime_ns) == (other.st_ino, other.st_size, other.st_mtime_ns)
