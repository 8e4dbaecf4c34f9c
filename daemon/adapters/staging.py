"""
Staging: the private folder that results are fetched into, and pictures are cut in; and the threads of every place.

What is under its final name is whole and synced; what is on its way to one is gone after a crash. Every OSError becomes
Fault (HOUSE), for the place it came from.
"""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from daemon.adapters.disk_faults import LOST, fault_from
from daemon.adapters.files import Files, Progress
from daemon.rules.faults import Gate
from daemon.rules.job import Tile, Whole

T = TypeVar("T")
STAGING_THREADS = 4
OUTBOX_THREADS = 2
HANG_SECONDS = 300.0  # a large result's sync may take a while on a slow share
COPY_BYTES = 1 << 20
# Of a job and a tile: `{job}.{number}.result`, `.kept` (what the result gets back later); these are gone after a crash,
# the last two of which are one picture's, and others may wait for the same job.
PASSING = (".part", ".source", ".payload", ".made", ".recalled")
REJECTED = ".rejected.png"  # of a tile: what came instead of its result, for a person to see


def disk_threads(threads: int) -> Executor:
    """Real ones."""
    return ThreadPoolExecutor(threads, thread_name_prefix="disk")


class Staging:
    """The part of the Disk port that is about staging."""

    def __init__(
        self,
        staging: Path,
        files: Files | None = None,
        make_pool: Callable[[int], Executor] = disk_threads,
    ) -> None:
        self._staging = staging
        self._files = files or Files()
        self._make_pool = make_pool
        self._pools: dict[Path, Executor] = {}
        self.hang_seconds = HANG_SECONDS

    def close(self) -> None:
        """Let go of the threads."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, gate: Gate, root: Path, work: Callable[[], T], seconds: float | None = None) -> T:
        """Run in the threads of a place; a call during which nothing is moved for so long hangs with its mount."""
        if root not in self._pools:
            self._pools[root] = self._make_pool(STAGING_THREADS if root == self._staging else OUTBOX_THREADS)
        progress = Progress()

        def counted() -> T:
            with self._files.counting(progress):
                return work()

        future = asyncio.get_running_loop().run_in_executor(self._pools[root], counted)
        moved = -1
        try:
            while moved != progress.moved:
                moved = progress.moved
                done, _ = await asyncio.wait([future], timeout=seconds or self.hang_seconds)
                if done:
                    return future.result()
        except OSError as error:
            raise fault_from(error, root, gate) from error
        finally:
            # Where it has not begun it need not: it waits behind another one that hangs, or its caller is cancelled.
            if not future.cancel() and not future.cancelled():
                future.exception()  # Else asyncio tells of one that nobody waits for any more.
        raise fault_from(TimeoutError(errno.ETIMEDOUT, "it does not answer"), root, gate)

    async def prepare(self, wanted: set[str], failed: Collection[str] = ()) -> None:
        """Make the staging folder; remove what no job in `wanted` will need, and nobody will look at of the failed."""

        def is_needed(name: str) -> bool:
            job = name.partition(".")[0]
            return (job in wanted and not name.endswith(PASSING)) or (job in failed and name.endswith(REJECTED))

        def work() -> None:
            if not self._files.is_folder(self._staging):
                self._files.mkdir(self._staging, 0o700)
            # Also where it was there: a start before this one may have failed here, and all that is in it would go.
            self._files.sync_folder(self._staging.parent)
            for name in self._files.names(self._staging):
                if not is_needed(name):
                    self._files.unlink(self._staging / name)

        await self._run(Gate.STAGING, self._staging, work)

    def staged(self, tile: Tile) -> Path:
        """Where a result is staged."""
        return self._staging / f"{tile.job.id}.{tile.number}.result"

    def keepsake(self, tile: Tile) -> Path:
        """Where is kept what a tile's result gets back later."""
        return self.staged(tile).with_suffix(".kept")

    async def kept(self, tile: Tile) -> Path | None:
        """The same, where there is something."""
        path = self.keepsake(tile)
        kind = await self._run(Gate.STAGING, self._staging, lambda: self._files.kind(path))
        return path if kind == "file" else None

    async def secure(self, tile: Tile) -> None:
        """Sync what is kept of a tile: once it is uploaded, nobody makes it again."""

        def work() -> None:
            with contextlib.suppress(FileNotFoundError), self._files.open(self.keepsake(tile), "rb") as file:
                self._files.sync(file)
                self._files.sync_folder(self._staging)

        await self._run(Gate.STAGING, self._staging, work)

    @asynccontextmanager
    async def incoming(self, tile: Tile) -> AsyncIterator[tuple[BinaryIO, Path]]:
        """A file in staging to receive a result."""
        path = self.staged(tile).with_suffix(".part")
        file = await self._run(Gate.STAGING, self._staging, lambda: self._files.open(path, "wb"))
        try:
            yield file, path
        except OSError as error:
            raise fault_from(error, self._staging, Gate.STAGING) from error
        finally:
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):
                self._files.unlink(path)

    async def keep(self, tile: Tile, incoming: Path) -> tuple[str, int]:
        """Sync an incoming file and give it its staged name."""

        def work() -> tuple[str, int]:
            digest = self._files.digest_of(incoming)
            self._name(incoming, self.staged(tile))
            return digest

        return await self._run(Gate.STAGING, self._staging, work)

    def _name(self, incoming: Path, name: Path) -> None:
        with self._files.open(incoming, "rb") as file:
            self._files.sync(file)
        self._files.rename(incoming, name)
        self._files.sync_folder(self._staging)

    async def reject(self, tile: Tile, incoming: Path) -> Path:
        """Set an incoming file aside, for a person who is told where; it goes away with the job."""
        rejected = self.staged(tile).with_suffix(REJECTED)
        await self._run(Gate.STAGING, self._staging, lambda: self._name(incoming, rejected))
        return rejected

    async def is_staged(self, tile: Tile) -> bool:
        """Whether the staged file is what was fetched."""

        def work() -> bool:
            try:
                return self._files.digest_of(self.staged(tile)) == (tile.result_sha256, tile.result_bytes)
            except OSError as error:
                if error.errno in LOST:
                    return False
                raise

        return await self._run(Gate.STAGING, self._staging, work)

    async def take(self, source: BinaryIO, path: Path) -> None:
        """Copy an open file into staging."""

        def work() -> None:
            source.seek(0)
            with self._files.open(path, "wb") as file:
                while chunk := source.read(COPY_BYTES):
                    file.write(chunk)

        await self._run(Gate.STAGING, self._staging, work)

    @asynccontextmanager
    async def outgoing(self, tile: Tile, source: BinaryIO) -> AsyncIterator[tuple[Path, Path]]:
        """A private copy of a source, and a place for what is to be uploaded of it."""
        copy, payload = (self.staged(tile).with_suffix(suffix) for suffix in (".source", ".payload"))
        try:
            await self.take(source, copy)
            yield copy, payload
        finally:
            for path in (copy, payload):
                with contextlib.suppress(OSError):
                    self._files.unlink(path)

    @asynccontextmanager
    async def reading(self, path: Path) -> AsyncIterator[BinaryIO]:
        """A file in staging, opened."""
        file = await self._run(Gate.STAGING, self._staging, lambda: self._files.open(path, "rb"))
        with file:
            yield file

    async def remove(self, path: Path) -> None:
        """Remove a file of ours from staging."""

        def work() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.unlink(path)

        await self._run(Gate.STAGING, self._staging, work)

    async def clear(self, whole: Whole) -> None:
        """Remove what staging holds of a job."""

        def work() -> None:
            for tile in whole.tiles:
                staged = self.staged(tile)
                for path in (staged, self.keepsake(tile), staged.with_suffix(REJECTED)):
                    with contextlib.suppress(FileNotFoundError):
                        self._files.unlink(path)

        await self._run(Gate.STAGING, self._staging, work)
