"""Inboxes and decoding in memory: people drop, replace and take away files, whether the daemon is on or not."""

import hashlib
import io
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from simulation.engine import Machine, pause
from simulation.files import SimFiles
from simulation.service import joined, part_bytes, size_of

from daemon.ports import Scan, mark
from daemon.ports_pictures import Aside, Reading
from daemon.rules.faults import Blame, Changed, Fault, Gate, NotAPicture, Vanished
from daemon.rules.job import Content, Look
from daemon.rules.settling import Sign
from daemon.rules.tiles import Rect
from daemon.rules.traits import Finish, Measured, Piece, Prepared

T = TypeVar("T")


class Drop:
    """What lies in an inbox: the truth. away: its mount is gone. archived: paths and bytes that were moved away."""

    def __init__(self, machine: Machine, on_take: Callable[[bytes, bytes], None] = lambda path, data: None) -> None:
        """on_take: is told of a source, path and bytes, in the moment in which it goes."""
        self.machine = machine
        self.on_take = on_take
        self.archived: list[tuple[bytes, bytes]] = []
        self.files: dict[bytes, tuple[bytes, Look]] = {}
        self.away = False
        self._inodes = 100

    def put(self, path: bytes, data: bytes) -> None:
        """Write a file; one that was there is replaced."""
        self._inodes += 1
        look = Look(len(data), 1_700_000_000_000_000_000 + int(self.machine.time() * 1e9), self._inodes)
        self.files[path] = (data, look)
        self.machine.note(f"dropped {path!r} {hashlib.sha256(data).hexdigest()[:8]}")


class SimInbox:
    """The Inbox port."""

    def __init__(self, drop: Drop, machine: Machine) -> None:
        self._drop = drop
        self._machine = machine
        self.visited = 0
        self.faults = 0.0

    async def _touch(self) -> None:
        self._machine.step("inbox")
        await pause(self._machine.chance.expovariate(1000.0))
        self._machine.step("inbox answers")
        if self._drop.away or (self.faults and self._machine.chance.random() < self.faults):
            raise Fault("The inbox is not there.", blame=Blame.HOUSE)

    async def scan(self, known: Collection[int], under: bytes = b"") -> Scan:
        await self._touch()
        self.visited += 1
        prefix = under + b"/" if under else b""
        files = sorted((path, look) for path, (_, look) in self._drop.files.items() if path.startswith(prefix))
        return Scan([(path, look) for path, look in files if mark(path, look) not in known], len(files), [])

    async def look(self, path: bytes) -> Look | None:
        await self._touch()
        there = self._drop.files.get(path)
        return there[1] if there is not None else None

    def takes(self, path: bytes) -> bool:
        return True

    async def why_ignored(self, path: bytes) -> str:
        return ""

    async def is_folder(self, path: bytes) -> bool:
        return any(each.startswith(path + b"/") for each in self._drop.files)

    async def aside(self, work: Callable[[], T]) -> T:
        return work()

    @asynccontextmanager
    async def open(self, path: bytes, look: Look) -> AsyncIterator[BinaryIO]:
        there = await self.look(path)
        if there is None:
            raise Vanished("gone")
        if there != look:
            raise Changed("changed")
        with io.BytesIO(self._drop.files[path][0]) as file:
            yield file
        if await self.look(path) != look:
            raise Changed("changed while it was read")

    @asynccontextmanager
    async def copy(self, path: bytes, look: Look) -> AsyncIterator[tuple[BinaryIO, str]]:
        async with self.open(path, look) as source:
            data = source.read()
        with io.BytesIO(data) as file:
            yield file, hashlib.sha256(data).hexdigest()

    async def archive(self, path: bytes, look: Look, to: Path) -> None:
        if await self.look(path) == look:
            self._machine.step("inbox takes")
            data = self._drop.files.pop(path)[0]
            self._drop.archived.append((path, data))
            self._drop.on_take(path, data)

    async def delete(self, path: bytes, look: Look) -> None:
        if await self.look(path) == look:
            self._machine.step("inbox takes")
            self._drop.on_take(path, self._drop.files.pop(path)[0])


class SimPictures:
    """The Pictures port, for the pictures of `service.source_bytes`."""

    def __init__(self, files: SimFiles, machine: Machine) -> None:
        self._files = files
        self._machine = machine

    async def _work(self) -> None:
        self._machine.step("decode")
        await pause(self._machine.chance.expovariate(100.0))
        self._machine.step("decoded")

    async def read(self, source: BinaryIO, aside: Aside | None = None) -> Reading:
        await self._work()
        return self._read(source) if aside is None else await aside(lambda: self._read(source))

    def _read(self, source: BinaryIO) -> Reading:
        source.seek(0)
        data = source.read()
        size = size_of(data)
        digest = hashlib.sha256(data).hexdigest()
        if size is None:
            return Reading(Content(digest, len(data), 0, 0, ""), Sign.HARD, "It does not decode.")
        return Reading(Content(digest, len(data), *size, "PNG"))

    async def measure(self, path: Path, pixels_max: int, likeness: str = "") -> Measured:
        await self._work()
        try:
            with self._files.open(path, "rb") as file:
                size, format_ = result_size_of(file.read())
        except OSError as error:
            raise NotAPicture("The result cannot be read.") from error
        if size is None:
            raise NotAPicture("The result does not decode.")
        if size[0] * size[1] > pixels_max:
            raise NotAPicture("The result is far too large.")
        return Measured(*size, format_)

    async def prepare(self, source: Path, piece: Piece, payload: Path, keepsake: Path | None) -> Prepared:
        await self._work()
        try:
            with self._files.open(source, "rb") as file:
                data = file.read()
            if size_of(data) is None:
                raise NotAPicture("It does not decode.")
            part = part_bytes(data, piece.rect, piece.size)
            for path, what in ((payload, part), (keepsake, b"KEPT:" + data)):
                if path is not None:
                    with self._files.open(path, "wb") as file:
                        file.write(what)
        except OSError as error:
            raise Fault("It could not be cut.", blame=Blame.HOUSE, gate=Gate.STAGING) from error
        return Prepared("PNG", len(part), "grey")

    async def finish(
        self, parts: Sequence[tuple[Path, Rect]], keepsake: Path | None, finish: Finish, target: Path
    ) -> tuple[bool, list[str]]:
        await self._work()
        try:
            data = []
            for path, rect in parts:
                with self._files.open(path, "rb") as file:
                    data.append((file.read(), rect))
            if len(data) == 1 and result_size_of(data[0][0])[1] == finish.format:
                return False, []  # As it came, or as an earlier copy got it.
            whole = data[0][0] if len(data) == 1 else joined(data, finish.size)
            if size_of(whole) is None:
                raise Fault("It does not decode.", blame=Blame.HOUSE, gate=Gate.STAGING)
            with self._files.open(target, "wb") as file:
                file.write(whole if finish.format == "PNG" else converted(whole, finish.format))
        except OSError as error:
            raise Fault("It could not be joined.", blame=Blame.HOUSE, gate=Gate.STAGING) from error
        return True, []

    def close(self) -> None:
        """Nothing to let go of."""


def converted(data: Any, format_: str) -> bytes:
    """What `finish` makes of a result in another format."""
    return format_.encode() + b":" + bytes(data)


def result_size_of(data: bytes) -> tuple[tuple[int, int] | None, str]:
    """Width and height of a result, or None where it does not decode, and its format."""
    format_, colon, inner = data.partition(b":")
    return (size_of(inner), format_.decode()) if colon else (size_of(data), "PNG")
