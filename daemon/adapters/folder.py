"""
Folder: an inbox on a real file system; the scan that is the truth.

All calls run in a small pool of the folder's own, so that a mount that hangs holds up its own folder and no other.
While the inbox is missing, hangs, or has another file system in its place, every call raises Fault (HOUSE): then
nothing is new, and nothing is gone.
"""

import asyncio
import contextlib
import errno
import os
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from daemon.adapters import mounts
from daemon.adapters.disk_faults import fault_from
from daemon.adapters.files import Files
from daemon.adapters.mounts import Mount
from daemon.adapters.opened import OpenFile, copied, let_go, look_from
from daemon.adapters.places import Places
from daemon.adapters.way import Way
from daemon.ports import Scan, mark
from daemon.rules.faults import Blame, Changed, Fault, Gate, Vanished
from daemon.rules.job import Look
from daemon.rules.names import Selection, shown

T = TypeVar("T")
THREADS = 3
HANG_SECONDS = 120.0
COPY_BYTES_IN_MEMORY_MAX = 8 << 20
# A folder above that became a link is one that is no longer there.
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
UNREADABLE = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}


class AnotherDisk(Fault):
    """An inbox has another disk in its place."""


class DiskInbox:
    """The Inbox and Source ports."""

    def __init__(
        self,
        root: Path,
        selection: Selection,
        *,
        recursive: bool,
        places: Places | None = None,
        mount_at: Callable[[int], Mount | None] = mounts.mount_at,
        is_awaited: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """places: remembers the mounts of inboxes and archives. mount_at: which one an open folder lies on.

        is_awaited: whether any of the inbox's pictures is still on its way; while one is, no other disk may take the
        place of the one that it lies on.
        """
        self.root = root
        self._root = os.fsencode(root)
        self._selection = selection
        self._recursive = recursive
        self._places = places or Places(Files(), None)
        self._mount_at = mount_at
        self._is_awaited = is_awaited
        self._hanging: Future[Scan] | None = None
        self.visited = 0
        self.hang_seconds = HANG_SECONDS
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="inbox")

    def close(self) -> None:
        """Let go of the threads; one that hangs in a dead mount is left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        """Run in the pool; a call during which nothing at all moves for two minutes is a hanging mount."""
        return await self._await(self._pool.submit(work, *args))

    async def _await(self, job: "Future[T]") -> T:
        future = asyncio.wrap_future(job)
        visited, is_taken = -1, False
        try:
            while visited != self.visited:
                visited = self.visited
                done, _ = await asyncio.wait([future], timeout=self.hang_seconds)
                if done:
                    is_taken = True
                    return future.result()
        finally:
            if not is_taken:
                # One that waits for a thread shall not run any more: there may be hundreds when the mount comes back.
                # And one that is done in the moment in which its caller is cancelled is nobody's either.
                job.cancel()
                future.cancel()
                job.add_done_callback(let_go)
        raise self._unavailable("does not answer")

    def _move(self) -> None:
        self.visited += 1

    async def aside(self, work: Callable[[], T]) -> T:
        """Run what may hang as the folder does."""
        return await self._run(work)

    def _unavailable(self, why: str) -> Fault:
        return Fault(
            f"The inbox {self.root} {why}.",
            blame=Blame.HOUSE,
            remedy="Mount it or make the folder again; its pictures keep their places meanwhile.",
        )

    @contextmanager
    def _opened(self) -> Iterator[Way]:
        """The inbox; raises where it is not there, or another file system took its place."""
        try:
            way = Way(self._root)
        except OSError as error:
            why = "is not a folder" if error.errno == errno.ENOTDIR else f"is not there ({error.strerror})"
            raise self._unavailable(why) from error
        with way:
            self._check_mount(way)
            yield way

    def _check_mount(self, way: Way) -> None:
        standing, before = self._places.compare(self.root, self._mount_at(way.descriptor))
        source = shown(os.fsencode(before.source))
        if standing == "away":
            raise self._unavailable(f"is no longer on {source}")
        if standing == "other":
            raise AnotherDisk(
                f"The inbox {self.root} has another disk in its place, and pictures of the old one ({source}) wait.",
                blame=Blame.HOUSE,
                remedy="Mount that one again. If it is gone for good, start once with --take-over.",
            )

    async def scan(self, known: Collection[int], under: bytes = b"") -> Scan:
        """Every file that may be a picture."""
        try:
            return await self._scan_once(known, under)
        except AnotherDisk:
            if self._is_awaited is None or await self._is_awaited():
                raise
        # As with the next card of a camera.
        await self._run(self._places.forget, [self.root])
        return await self._scan_once(known, under)

    async def _scan_once(self, known: Collection[int], under: bytes) -> Scan:
        if self._hanging is not None and not self._hanging.done():
            raise self._unavailable("does not answer")  # One that hangs is enough: it holds a thread.
        self._hanging = None
        scan = self._pool.submit(self._scan, known, under)
        try:
            return await self._await(scan)
        finally:
            if not scan.done():
                self._hanging = scan

    def _scan(self, known: Collection[int], under: bytes) -> Scan:
        found: list[tuple[bytes, Look]] = []
        unreadable: list[str] = []
        files = 0
        folders = [under]
        takes, enters = self._selection.takes, self._selection.enters
        encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # as os.fsencode, but quicker
        with self._opened() as way:
            while folders:
                folder = folders.pop()
                prefix = folder + b"/" if folder else b""
                try:
                    with way.folder(folder, to_list=True) as inside, os.scandir(inside) as entries:
                        for entry in entries:
                            name = entry.name.encode(encoding, errors)
                            if entry.is_file(follow_symlinks=False):
                                if not takes(name):
                                    continue
                                try:
                                    status = entry.stat(follow_symlinks=False)
                                except FileNotFoundError:
                                    continue  # Gone since its name was read; the others are still there.
                                path = prefix + name
                                files += 1
                                # Spelled out, not through `mark`: this line runs for every file of every scan.
                                if hash((path, status.st_size, status.st_mtime_ns, status.st_ino)) not in known:
                                    look = look_from(status)
                                    if mark(path, look) not in known:
                                        found.append((path, look))
                            elif self._recursive and entry.is_dir(follow_symlinks=False) and enters(name):
                                folders.append(prefix + name)
                except OSError as error:
                    if not folder:
                        raise self._unavailable(f"cannot be read ({error.strerror})") from error
                    if error.errno not in NOT_THERE:  # Removed since its parent was read: the next scan tells.
                        unreadable.append(f"{shown(folder)}: {error.strerror}")
                self.visited += 1
        return Scan(found, files, unreadable)

    async def look(self, path: bytes) -> Look | None:
        """The file's stat, or None."""
        return await self._run(self._look, path)

    def _look(self, path: bytes) -> Look | None:
        with self._opened() as way:
            return self._look_in(way, path)

    def _look_in(self, way: Way, path: bytes) -> Look | None:
        try:
            status = way.status(path)
        except OSError as error:
            if error.errno in NOT_THERE | UNREADABLE:
                return None  # One file's own trouble; the scan shows a folder that cannot be read.
            raise self._unavailable(f"cannot be read at {shown(path)} ({error.strerror})") from error
        return look_from(status) if stat.S_ISREG(status.st_mode) else None

    async def is_folder(self, path: bytes) -> bool:
        """Whether a scan would enter it."""
        if not self._recursive or not all(self._selection.enters(part) for part in path.split(b"/")):
            return False

        def work() -> bool:
            try:
                with Way(self._root) as way, way.folder(path):
                    return True
            except OSError:
                return False

        return await self._run(work)

    def takes(self, path: bytes) -> bool:
        """Whether a scan would take a file of this path."""
        *folders, name = path.split(b"/")
        inside = self._recursive or not folders
        return inside and self._selection.takes(name) and all(map(self._selection.enters, folders))

    async def why_ignored(self, path: bytes) -> str:
        """Why a scan passes over what has this name, as a sentence; "" where it would take it, or nothing is there."""

        def work() -> str:
            try:
                with Way(self._root) as way:
                    mode = way.status(path).st_mode
            except NotADirectoryError:
                return "A folder above it is a link, or a file; links are not followed."
            except OSError:
                return ""
            if stat.S_ISLNK(mode):
                return "It is a link; links are not followed."
            if not stat.S_ISREG(mode):
                return "It is not a file."
            return "" if self.takes(path) else "Its name, or a folder's, is not one that this inbox takes."

        return await self._run(work)

    @asynccontextmanager
    async def open(self, path: bytes, look: Look) -> AsyncIterator[BinaryIO]:
        """The file as `look` says it is, when it is opened and when it was read."""
        file = await self._run(self._open, path, look)
        try:
            yield file
            if await self._run(self._look_at, file.fileno(), path) != look:
                raise Changed(f"{shown(path)} changed while it was read.")
        finally:
            file.close()
        # The name may meanwhile stand for another file: the open one would never tell.
        if await self.look(path) != look:
            raise Changed(f"{shown(path)} was replaced while it was read.")

    def _open(self, path: bytes, look: Look) -> BinaryIO:
        with self._opened() as way:
            try:
                descriptor = way.open(path)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise Changed(f"{shown(path)} is a link now; links are not followed.") from error
                if error.errno in NOT_THERE:
                    raise Vanished(f"{shown(path)} is no longer in the inbox.") from error
                raise Fault(f"{shown(path)} cannot be opened ({error.strerror}).", blame=Blame.HOUSE) from error
        try:
            if self._look_at(descriptor, path) != look:
                raise Changed(f"{shown(path)} changed after it was admitted.")
        except Fault:
            os.close(descriptor)
            raise
        return OpenFile(descriptor, self._move)

    def _look_at(self, descriptor: int, path: bytes) -> Look:
        """What an open file looks like."""
        try:
            return look_from(self._status(descriptor))
        except OSError as error:
            if error.errno == errno.ESTALE:  # Another machine removed or replaced it.
                raise Changed(f"{shown(path)} was replaced while it was open.") from error
            raise Fault(f"{shown(path)} cannot be read ({error.strerror}).", blame=Blame.HOUSE) from error

    def _status(self, descriptor: int) -> os.stat_result:
        return os.fstat(descriptor)

    @asynccontextmanager
    async def copy(self, path: bytes, look: Look) -> AsyncIterator[tuple[BinaryIO, str]]:
        """A copy in memory, or in a temporary file where it is large."""
        with tempfile.SpooledTemporaryFile(COPY_BYTES_IN_MEMORY_MAX) as target:
            async with self.open(path, look) as source:
                digest = await self._run(copied, source, target)
            yield cast("BinaryIO", target), digest

    async def archive(self, path: bytes, look: Look, to: Path) -> None:
        """Move a source away, keeping its place in the tree."""
        await self._run(self._archive, path, look, os.fsencode(to))

    def _archive(self, path: bytes, look: Look, to: bytes) -> None:
        try:
            self._places.check_archive(to, self._mount_at)
        except OSError as error:
            raise fault_from(error, to, Gate.OUTBOX) from error  # Never made anew: it may be a mount that is away.
        with self._opened() as way:
            if self._look_in(way, path) != look:
                return
            try:
                with way.named(path) as source:
                    Files().move_without_overwriting(source, to + b"/" + path)
            except OSError as error:
                raise fault_from(error, to, Gate.OUTBOX) from error

    async def remember(self, archive: Path) -> None:
        """Note which file system an archive is on, where it is there, before it may go away."""
        with contextlib.suppress(Fault, OSError):
            await self._run(self._places.check_archive, os.fsencode(archive), self._mount_at)

    async def delete(self, path: bytes, look: Look) -> None:
        """Remove a source."""

        def work() -> None:
            with self._opened() as way:
                if self._look_in(way, path) != look:
                    return
                try:
                    way.unlink(path)
                except OSError as error:
                    if error.errno in NOT_THERE:
                        return
                    raise Fault(f"{shown(path)} cannot be removed ({error.strerror}).", blame=Blame.HOUSE) from error

        await self._run(work)
