"""
Store: what survives a restart, as files below one directory.

    predictions/ID.json  uploads/ID.json      records
    files/NAME           outputs/NAME         pictures: uploaded, and made here
    scratch/                                  work in progress, emptied at start

A record or picture is whole or not there: it is written in `scratch`, synced, renamed, and its directory synced. The
plain methods block and raise `OSError`; `do` runs them one after the other in a thread of the store's own. `open`
raises `Fault` where the directory cannot be used or another process has it.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
from structlog.typing import FilteringBoundLogger

from daemon.ports import Clock
from daemon.rules.faults import Blame, Fault, Outlook

T = TypeVar("T")
Write = Callable[[bytes], Awaitable[int]]

KINDS = ("predictions", "uploads", "files", "outputs", "scratch")


class Store:
    """root: the directory; everything below it is the store's."""

    def __init__(self, root: Path, clock: Clock, log: FilteringBoundLogger) -> None:
        self._root = root
        self._clock = clock
        self._log = log
        self._lock: int | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="server-store")

    def open(self) -> None:
        """Make the directories, take the lock, throw away what was in progress."""
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._root.chmod(0o700)
            self._lock = os.open(self._root / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self._root / "scratch", ignore_errors=True)
            for kind in KINDS:
                (self._root / kind).mkdir(exist_ok=True)
        except BlockingIOError:
            raise Fault(
                f"Another prediction server is using {self._root}.",
                blame=Blame.HOUSE,
                outlook=Outlook.LASTING,
                remedy="Stop the other one, or give this one a directory of its own.",
            ) from None
        except OSError as error:
            raise Fault(
                f"The prediction server cannot use the directory {self._root}: {error.strerror}.",
                blame=Blame.HOUSE,
                outlook=Outlook.LASTING,
                remedy="Give it a directory that it may write to.",
            ) from error

    def close(self) -> None:
        """Finish what `do` was asked for and let go of the directory."""
        self._thread.shutdown()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def do(self, work: Callable[..., T], *arguments: object) -> T:
        """Run a blocking call in the store's thread, after all earlier ones."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments))

    def path(self, kind: str, name: str) -> Path:
        """Where a picture is or would be. name: one of ours, never one from outside that was not looked up."""
        return self._root / kind / name

    def save(self, kind: str, name: str, record: dict[str, Any]) -> None:
        """Write a record, in place of an older one."""
        with self.scratch() as draft:
            draft.write_bytes(orjson.dumps(record))
            self.keep(draft, kind, f"{name}.json")

    def load(self, kind: str) -> Iterator[dict[str, Any]]:
        """All records of a kind, in no order; one that cannot be read is reported and left out."""
        for path in (self._root / kind).glob("*.json"):
            try:
                record = orjson.loads(path.read_bytes())
            except (OSError, orjson.JSONDecodeError):
                record = None
            if isinstance(record, dict):
                yield record
            else:
                self._log.warning("record_unreadable", kind=kind, record=path.stem)

    def keep(self, draft: Path, kind: str, name: str) -> None:
        """Make a whole file durable under its name."""
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(self.path(kind, name))
        directory = os.open(self._root / kind, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def remove(self, kind: str, name: str) -> None:
        """Remove a file; one that is gone already is fine."""
        self.path(kind, name).unlink(missing_ok=True)

    def keep_only(self, kind: str, names: set[str]) -> None:
        """Remove what no record speaks of: left by a crash between a picture and its record."""
        for path in list((self._root / kind).iterdir()):
            if path.name not in names:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """The path of a file to write, gone at the end unless it was kept."""
        path = self._root / "scratch" / self._clock.token(16)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def writing(self, path: Path) -> AsyncIterator[Write]:
        """A function that appends bytes to a new file, in the store's thread."""
        file = await self.do(path.open, "wb")
        try:
            yield partial(self.do, file.write)
        finally:
            await self.do(file.close)
