"""
A disk that keeps what was synced and nothing else, below the real HouseDisk.

A file's bytes are durable when the file was synced, its name when its folder was. After a crash each of the others may
have got there or not, in any order: renames, links, removals one by one, bytes as a beginning, as zeros, or whole.
Several file systems can be mounted; one that goes away leaves the folder that it was mounted on.
"""

import errno
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
    """A file system: what is there now, and what is there for certain. full: nothing more can be written."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.live: dict[bytes, Any] = {}
        self.durable: dict[bytes, Any] = {}
        self.full = False
        self.read_only = False

    def sync_folder(self, folder: bytes) -> None:
        prefix = folder + b"/"
        for path in {*self.live, *self.durable}:
            if path.startswith(prefix) and b"/" not in path[len(prefix) :]:
                self._settle(path, self.durable)

    def _settle(self, path: bytes, into: dict[bytes, Any]) -> None:
        if path in self.live:
            into[path] = self.live[path]
        else:
            into.pop(path, None)

    def crash(self, chance: Any) -> None:
        """Keep what was synced; of the rest, what chance leaves."""
        for path in sorted({*self.live, *self.durable}):
            if self.live.get(path) is not self.durable.get(path) and chance.random() < 0.5:
                self._settle(path, self.durable)
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


class SimFile:
    """An open file."""

    def __init__(self, files: "SimFiles", volume: Volume, inode: Inode, *, writes: bool) -> None:
        self.files = files
        self.volume = volume
        self.inode = inode
        self.writes = writes
        self.position = 0

    def write(self, data: bytes) -> int:
        self.files.touch("write", self.volume)
        self.inode.data = self.inode.data[: self.position] + bytes(data)
        self.position = len(self.inode.data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        data = self.inode.data[self.position :]
        data = data if size < 0 else data[:size]
        self.position += len(data)
        return data

    def flush(self) -> None:
        """What is written is in the cache already."""

    def close(self) -> None:
        """Closing makes nothing durable."""

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

    def _missing(self, path: bytes) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def open(self, path: AnyPath, mode: Literal["rb", "wb", "xb"]) -> BinaryIO:
        volume, name = self.volume(path)
        if mode == "rb":
            node = volume.live.get(name)
            if node is None:
                raise self._missing(name)
            if node is FOLDER:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
            return SimFile(self, volume, node, writes=False)  # type: ignore[return-value]
        self.touch("open", volume)
        if volume.live.get(name.rpartition(b"/")[0]) is not FOLDER:
            raise self._missing(name)
        if name in volume.live:
            if mode == "xb":
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            volume.live[name].data = b""
        else:
            volume.live[name] = Inode()
        return SimFile(self, volume, volume.live[name], writes=True)  # type: ignore[return-value]

    def sync(self, file: Any) -> None:
        self.touch("fsync", file.volume)
        file.inode.synced = file.inode.data

    def sync_folder(self, folder: AnyPath) -> None:
        volume, name = self.volume(folder)
        self.touch("fsync", volume)
        if volume.live.get(name) is not FOLDER:
            raise self._missing(name)
        volume.sync_folder(name)
        self.machine.step("synced")

    def rename(self, old: AnyPath, new: AnyPath) -> None:
        self._name(old, new)
        volume, name = self.volume(old)
        del volume.live[name]
        self.machine.step("renamed")

    def link(self, old: AnyPath, new: AnyPath) -> None:
        if self.kind(new) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsencode(new))
        self._name(old, new)

    def _name(self, old: AnyPath, new: AnyPath) -> None:
        (volume, source), (other, target) = self.volume(old), self.volume(new)
        self.touch("rename", volume)
        if other is not volume:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if source not in volume.live:
            raise self._missing(source)
        volume.live[target] = volume.live[source]
        self.on_name(volume, target)

    def unlink(self, path: AnyPath) -> None:
        volume, name = self.volume(path)
        if name not in volume.live:
            raise self._missing(name)
        self.touch("unlink", volume)
        del volume.live[name]

    def mkdir(self, path: AnyPath, mode: int = 0o777) -> None:
        volume, name = self.volume(path)
        self.touch("mkdir", volume)
        if name in volume.live:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        volume.live[name] = FOLDER

    def names(self, folder: Path) -> list[str]:
        volume, name = self.volume(folder)
        prefix = name + b"/"
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
            raise self._missing(name)
        return volume.live[name] is file.inode

    def room(self, folder: AnyPath) -> int:
        volume, name = self.volume(folder)
        if volume.live.get(name) is not FOLDER:
            raise self._missing(name)
        if volume.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return 0 if volume.full else 1 << 40

    def mount(self, path: Path) -> Mount | None:
        volume, _ = self.volume(path)
        point = next((point for point, each in self.mounted.items() if each is volume), b"/")
        return Mount(Path(os.fsdecode(point)), "nfs" if volume is not self.root else "ext4", volume.name, volume.name)
