"""
A disk that keeps what was synced and nothing else, below the real HouseDisk.

A file's bytes are durable when the file was synced, its name when its folder was. After a crash each of the others may
have got there or not, in any order: renames (each whole), links, removals, bytes as a beginning, as zeros, or whole.
Several file systems can be mounted; one that goes away leaves the folder that it was mounted on.
"""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

from simulation.engine import Machine

from daemon.adapters.files import AnyPath, Files, Kind
from daemon.adapters.mounts import Mount

FOLDER = object()


class Inode:
    """One file. synced: what a crash leaves for certain, None before the first sync."""

    def __init__(self) -> None:
        self.data = b""
        self.synced: bytes | None = None


class Volume:
    """A file system: what is there now, and what is there for certain. full: nothing more can be written.

    pending: changes of names that nobody synced yet, oldest first, None for a name that goes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.live: dict[bytes, Any] = {}
        self.durable: dict[bytes, Any] = {}
        self.pending: list[dict[bytes, Any]] = []
        self.full = False
        self.read_only = False

    def change(self, names: dict[bytes, Any]) -> None:
        """Give names another meaning, all of them at once."""
        _apply(names, self.live)
        self.pending.append(names)

    def sync_folder(self, folder: bytes) -> None:
        left: list[dict[bytes, Any]] = []
        for names in self.pending:
            if all(path.rpartition(b"/")[0] != folder for path in names):
                left.append(names)
                continue
            _apply(names, self.durable)
            for older in left:
                for path in names:
                    older.pop(path, None)
        self.pending = left

    def crash(self, chance: Any) -> None:
        """Keep what was synced; of the rest, what chance leaves."""
        for names in self.pending:
            if chance.random() < 0.5:
                _apply(names, self.durable)
        self.pending = []
        # A file in a folder whose own name was lost is lost with it.
        for path in sorted(self.durable):
            parent = path.rpartition(b"/")[0]
            if parent and parent not in self.durable:
                del self.durable[path]
        for inode in {id(node): node for _, node in sorted(self.durable.items()) if node is not FOLDER}.values():
            if inode.synced != inode.data:
                inode.data = chance.choice(
                    [inode.synced or b"", inode.data, inode.data[: len(inode.data) // 2], b"\0" * len(inode.data)]
                )
                inode.synced = inode.data
        self.live = dict(self.durable)


def _apply(names: dict[bytes, Any], folder: dict[bytes, Any]) -> None:
    for path, node in names.items():
        if node is None:
            folder.pop(path, None)
        else:
            folder[path] = node


class SimFile:
    """An open file. What is written lies in a buffer first, as everywhere: nobody else sees it before it is flushed."""

    def __init__(self, files: "SimFiles", volume: Volume, inode: Inode, *, writes: bool) -> None:
        self.files = files
        self.volume = volume
        self.inode = inode
        self.writes = writes
        self.position = 0
        self.buffer = b""
        self.closed = False

    def write(self, data: bytes) -> int:
        self._check(self.writes, "not writable")
        self.buffer += data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        self._check(not self.writes, "not readable")
        data = self.inode.data[self.position :]
        data = data if size < 0 else data[:size]
        self.position += len(data)
        return data

    def seek(self, offset: int) -> int:
        self._check(not self.writes, "not seekable")
        self.position = offset
        return offset

    def flush(self) -> None:
        if self.buffer:
            self.files.touch("write", self.volume)
            self.inode.data = self.inode.data[: self.position] + self.buffer
            self.position, self.buffer = len(self.inode.data), b""

    def close(self) -> None:
        """Closing makes nothing durable."""
        if not self.closed:
            self.closed = True
            self.flush()

    def _check(self, able: bool, why: str) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if not able:
            raise io.UnsupportedOperation(why)

    def __enter__(self) -> "SimFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SimFiles(Files):
    """The lower half of `Files`; the upper half is the real one. faults: how often a call fails, 0 to 1."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.root = Volume("root")
        self.mounted: dict[bytes, Volume] = {}
        self.faults = 0.0
        self.on_name: Callable[[Volume, bytes], None] = lambda volume, path: None

    def volume(self, path: AnyPath) -> tuple[Volume, bytes]:
        name = os.fsencode(path)
        for point in sorted(self.mounted, key=len, reverse=True):
            if name == point or name.startswith(point + b"/"):
                return self.mounted[point], name
        return self.root, name

    def crash(self) -> None:
        for volume in [self.root, *self.mounted.values()]:
            volume.crash(self.machine.chance)

    def touch(self, what: str, volume: Volume) -> None:
        """A call that changes something: the power may go, the disk may be full, or broken."""
        self.machine.step(what)
        if volume.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if volume.full and what in ("write", "mkdir", "open"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.faults and self.machine.chance.random() < self.faults:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def open(self, path: AnyPath, mode: Literal["rb", "wb", "xb"]) -> BinaryIO:
        volume, name = self.volume(path)
        node = volume.live.get(name)
        if mode == "rb":
            if node is None:
                raise _missing(volume, name)
            if node is FOLDER:
                raise _error(errno.EISDIR, name)
            return SimFile(self, volume, node, writes=False)  # type: ignore[return-value]
        self.touch("open", volume)
        if node is None:
            _check_folder(volume, name)
            node = Inode()
            volume.change({name: node})
        elif mode == "xb":
            raise _error(errno.EEXIST, name)
        elif node is FOLDER:
            raise _error(errno.EISDIR, name)
        node.data = b""
        return SimFile(self, volume, node, writes=True)  # type: ignore[return-value]

    def sync(self, file: Any) -> None:
        file.flush()
        self.touch("fsync", file.volume)
        file.inode.synced = file.inode.data

    def sync_folder(self, folder: AnyPath) -> None:
        volume, name = self.volume(folder)
        self.touch("fsync", volume)
        _check_folder(volume, name + b"/")
        volume.sync_folder(name)
        self.machine.step("synced")

    def rename(self, old: AnyPath, new: AnyPath) -> None:
        volume, source, target = self._two(old, new)
        node, there = volume.live.get(source), volume.live.get(target)
        if node is None:
            raise _missing(volume, source)
        assert node is not FOLDER, "nobody renames folders"
        if there is FOLDER:
            raise _error(errno.EISDIR, target)
        _check_folder(volume, target)
        if there is node:
            return  # Two names of one file: nothing happens, says POSIX.
        volume.change({target: node, source: None})
        self.on_name(volume, target)
        self.machine.step("renamed")

    def link(self, old: AnyPath, new: AnyPath) -> None:
        if self.kind(old) is not None and self.kind(new) is not None:
            raise _error(errno.EEXIST, os.fsencode(new))
        volume, source, target = self._two(old, new)
        node = volume.live.get(source)
        if node is None:
            raise _missing(volume, source)
        _check_folder(volume, target)
        if node is FOLDER:
            raise _error(errno.EPERM, source)
        volume.change({target: node})
        self.on_name(volume, target)

    def _two(self, old: AnyPath, new: AnyPath) -> tuple[Volume, bytes, bytes]:
        (volume, source), (other, target) = self.volume(old), self.volume(new)
        self.touch("rename", volume)
        if other is not volume:
            raise _error(errno.EXDEV, target)
        return volume, source, target

    def unlink(self, path: AnyPath) -> None:
        volume, name = self.volume(path)
        if name not in volume.live:
            raise _missing(volume, name)
        if volume.live[name] is FOLDER:
            raise _error(errno.EISDIR, name)
        self.touch("unlink", volume)
        volume.change({name: None})

    def mkdir(self, path: AnyPath, mode: int = 0o777) -> None:
        volume, name = self.volume(path)
        self.touch("mkdir", volume)
        if name in volume.live:
            raise _error(errno.EEXIST, name)
        _check_folder(volume, name)
        volume.change({name: FOLDER})

    def names(self, folder: Path) -> list[str]:
        volume, name = self.volume(folder)
        prefix = name + b"/"
        _check_folder(volume, prefix)
        below = [path[len(prefix) :] for path in volume.live if path.startswith(prefix)]
        return sorted(os.fsdecode(each) for each in below if b"/" not in each)

    def kind(self, path: AnyPath) -> Kind | None:
        volume, name = self.volume(path)
        node = volume.live.get(name)
        return None if node is None else "folder" if node is FOLDER else "file"

    def is_folder(self, path: AnyPath) -> bool:
        return self.kind(path) == "folder"

    def is_same(self, file: Any, path: AnyPath) -> bool:
        volume, name = self.volume(path)
        if name not in volume.live:
            raise _missing(volume, name)
        return volume.live[name] is file.inode

    def room(self, folder: AnyPath) -> int:
        volume, name = self.volume(folder)
        if name not in volume.live:
            raise _missing(volume, name)
        if volume.read_only:
            raise _error(errno.EROFS, name)
        return 0 if volume.full else 1 << 40

    def mount(self, path: Path) -> Mount | None:
        volume, _ = self.volume(path)
        point = next((point for point, each in self.mounted.items() if each is volume), b"/")
        return Mount(Path(os.fsdecode(point)), "nfs" if volume is not self.root else "ext4", volume.name, volume.name)


def _error(code: int, path: bytes) -> OSError:
    return OSError(code, os.strerror(code), path)


def _missing(volume: Volume, name: bytes) -> OSError:
    """Nothing has this name; where a file is in the way, nothing ever could."""
    above = name
    while above and above not in volume.live:
        above = above.rpartition(b"/")[0]
    return _error(errno.ENOTDIR if isinstance(volume.live.get(above), Inode) else errno.ENOENT, name)


def _check_folder(volume: Volume, name: bytes) -> None:
    """Raise where the folder that a name is to be in is not there."""
    folder = name.rpartition(b"/")[0]
    if volume.live.get(folder) is not FOLDER:
        raise _missing(volume, folder)
