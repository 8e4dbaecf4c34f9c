"""
Database: one SQLite connection in one thread, with durable commits that are shared.

What is written is on the disk (WAL, synchronous FULL) before `write` returns; writers that come while a commit is under
way share the next one. Every failure of SQLite itself is `LedgerBroken`: the caller cannot go on without its record. A
function that raises anything else is rolled back alone.
"""

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from daemon.rules.faults import LedgerBroken

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

SCHEMA_VERSION = 1
# From version N to N + 1, in one transaction each. Version 1 is schema.sql itself.
MIGRATIONS: dict[int, str] = {}


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection with our pragmas. Raises LedgerBroken with what to do."""
    try:
        if read_only:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        else:
            if path.exists() and not path.stat().st_size and path.with_name("staging").exists():
                # Staging is made once the ledger was open: it held something, and would be taken for a new one.
                raise OSError(errno.EIO, "it is empty, and was not")
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            version = _prepare(connection, read_only)
        except sqlite3.Error:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise broken(path, error) from error
    damage = "" if read_only else _damage(connection)
    if damage:
        connection.close()
        raise LedgerBroken(
            f"The ledger {path} is damaged ({damage}); without it a picture could be paid for twice.",
            remedy="Restore the last `esrgand backup`, or have the file mended (sqlite3 FILE .recover), then start.",
        )
    if version != SCHEMA_VERSION:
        connection.close()
        raise LedgerBroken(
            f"The ledger {path} has the form of version {version}; this program knows version {SCHEMA_VERSION}.",
            remedy="Run the newer esrgand, or restore the backup that was made before the upgrade.",
        )
    return connection


def _prepare(connection: sqlite3.Connection, read_only: bool) -> int:
    """Our pragmas and our schema; returns the version that is there now."""
    connection.execute("PRAGMA busy_timeout = 5000")
    if not read_only:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        _migrate(connection)
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _damage(connection: sqlite3.Connection) -> str:
    """What SQLite's own check finds wrong with the file, or ""."""
    try:
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else found.splitlines()[-1]


def backup(connection: sqlite3.Connection, target: Path) -> int:
    """Copy the whole ledger to a new file, while it is in use; returns its size in bytes. Raises LedgerBroken."""
    part = target.with_name(f".{target.name}.part")
    try:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.close(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600))
        copy = sqlite3.connect(part, isolation_level=None)
        try:
            connection.backup(copy)
            # One file alone, without the log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
        finally:
            copy.close()
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(target)
        return target.stat().st_size
    except (sqlite3.Error, OSError) as error:
        part.unlink(missing_ok=True)
        said = error.strerror if isinstance(error, OSError) else error
        raise LedgerBroken(f"The backup {target} cannot be written: {said}.", remedy="Name another file.") from error


def _migrate(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    steps = [Path(__file__).with_name("schema.sql").read_text("utf-8")] if version == 0 else []
    steps += [MIGRATIONS[number] for number in range(max(version, 1), SCHEMA_VERSION)]
    if steps:
        script = "\n".join(steps)
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {SCHEMA_VERSION};\nCOMMIT;")


def broken(path: Path, error: Exception) -> LedgerBroken:
    """What a failure of SQLite or of its disk means, in plain words."""
    return LedgerBroken(
        f"The ledger {path} cannot be used: {error}.",
        remedy="Look at the disk of the state directory (free space, permissions) and start esrgand again.",
    )


class Database:
    """Runs functions on the connection, one after another. Open it with `connect` inside its own thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._connection: sqlite3.Connection | None = None
        self._pending: list[tuple[Work, asyncio.Future[Any]]] = []
        self._drain: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open, and bring the schema up to date."""
        loop = asyncio.get_running_loop()
        self._connection = await loop.run_in_executor(self._pool, connect, self._path)

    async def close(self) -> None:
        """Finish what was asked, then let go."""
        if self._drain is not None:
            await asyncio.wait([self._drain])
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._connection.close)
            self._connection = None
        # Of one that was not opened to its end, nobody waits for what is still looked at.
        self._pool.shutdown(wait=False)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` outside a transaction."""
        assert self._connection is not None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, self._connection)
        except sqlite3.Error as error:
            raise broken(self._path, error) from error

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction; when this returns, its effect is durable."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._pending.append((work, future))
        if self._drain is None or self._drain.done():
            self._drain = asyncio.create_task(self._commit_pending())
        # A caller that is cancelled must not take a commit with it that others share.
        return await asyncio.shield(future)

    async def _commit_pending(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            batch, self._pending = self._pending, []
            outcomes = await loop.run_in_executor(self._pool, self._commit, [work for work, _ in batch])
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.cancelled():
                    continue
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _commit(self, works: list[Work]) -> list[Any]:
        """In the thread: all works in one transaction, each with a savepoint of its own."""
        connection = self._connection
        assert connection is not None
        outcomes: list[Any] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for work in works:
                connection.execute("SAVEPOINT work")
                try:
                    outcomes.append(work(connection))
                except sqlite3.Error:
                    raise
                except Exception as error:  # noqa: BLE001  (handed to the one who asked, and to nobody else)
                    connection.execute("ROLLBACK TO work")
                    outcomes.append(error)
                connection.execute("RELEASE work")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return [broken(self._path, error)] * len(works)
        return outcomes
