"""
Database: one SQLite connection in one thread, with durable commits that are shared.

What is written is on the disk (WAL, synchronous FULL) before `write` returns; writers that come while a commit is under
way share the next one. Every failure of SQLite itself is `LedgerBroken`: the caller cannot go on without its record; a
file that is damaged is told from a disk that is full. A function that raises anything else is rolled back alone.
"""

import asyncio
import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from daemon.rules.faults import LedgerBroken

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

SCHEMA_VERSION = 2
# From version N to N + 1, all in one transaction. schema.sql is the last version, as they leave it.
MIGRATIONS = {
    # Pictures may be cut. What is in an older ledger was not: its one tile is all of it.
    1: """
        ALTER TABLE job ADD COLUMN traits TEXT NOT NULL DEFAULT '{}';
        ALTER TABLE job ADD COLUMN note TEXT NOT NULL DEFAULT '';
        ALTER TABLE tile ADD COLUMN "left" INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE tile ADD COLUMN top INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE tile ADD COLUMN width INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE tile ADD COLUMN height INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE tile ADD COLUMN likeness TEXT NOT NULL DEFAULT '';
        ALTER TABLE tile ADD COLUMN sent_width INTEGER;
        ALTER TABLE tile ADD COLUMN sent_height INTEGER;
        UPDATE tile SET (width, height) = (SELECT j.width, j.height FROM job j WHERE j.id = tile.job);
    """,
}
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}


def connect(path: Path, *, read_only: bool = False, as_it_is: bool = False) -> sqlite3.Connection:
    """A connection with our pragmas. Raises LedgerBroken with what to do.

    read_only: one of an older version is shown as it will be once the daemon has opened it. as_it_is: in whatever
    version, to be copied.
    """
    try:
        if path.exists() and not path.stat().st_size and path.with_name("staging").exists():
            # Staging is made once the ledger was open: it held something, and would be taken for a new one.
            raise LedgerBroken(
                f"The ledger {path} is empty, and was not.", remedy="Restore the last `esrgand backup`, then start."
            )
        if read_only:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        else:
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            version = _prepare(connection, read_only)
            if read_only and not as_it_is and 0 < version < SCHEMA_VERSION:
                connection, version = _brought_up(connection), SCHEMA_VERSION
        except sqlite3.Error:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise broken(path, error) from error
    if not read_only:
        try:
            examine(connection, path)
        except LedgerBroken:
            connection.close()
            raise
    if version == 0:
        connection.close()
        raise LedgerBroken(
            f"The ledger {path} holds nothing of esrgand's.",
            remedy="Restore the last `esrgand backup`; where there never was one, take the file away.",
        )
    if version > SCHEMA_VERSION or (version < SCHEMA_VERSION and not as_it_is):
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
    """What SQLite's own check finds wrong with the file, or "".

    The quick check takes a sixth of the time, and does not see that an index has lost entries: what is due would not be
    found, silently. A ledger of 100 000 pictures, 340 MB, takes some four seconds.
    """
    try:
        found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else found.splitlines()[-1]


@contextmanager
def opened(path: Path, *, read_only: bool = False, as_it_is: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection for one command, as of `connect`; whatever a ledger that is damaged does to it is LedgerBroken."""
    connection = connect(path, read_only=read_only, as_it_is=as_it_is)
    try:
        yield connection
    except sqlite3.Error as error:
        raise broken(path, error) from error
    except (ValueError, TypeError, LookupError, AssertionError) as error:
        # What is read from a damaged page may be anything.
        if damage := _damage(connection):
            raise _damaged(path, damage) from error
        raise
    finally:
        connection.close()


def examine(connection: sqlite3.Connection, path: Path) -> None:
    """Raise LedgerBroken where the file is damaged anywhere."""
    if damage := _damage(connection):
        raise _damaged(path, damage)


def backup(ledger: Path, target: Path) -> int:
    """Copy the whole ledger to a new file, while it is in use; returns its size in bytes. Raises LedgerBroken.

    One of an older version stays one: it is the way back from an upgrade.

    The copy is looked at before it gets its name: a person relies on it. To be called in a thread, on whose end nothing
    waits: the file may be on a share that hangs.
    """
    with opened(ledger, read_only=True, as_it_is=True) as connection:
        return _copied(connection, ledger, target)


def _copied(connection: sqlite3.Connection, ledger: Path, target: Path) -> int:
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
            damage = _damage(copy)
        finally:
            copy.close()
        if damage:
            part.unlink()
            raise _damaged(ledger, damage)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(target)
        return target.stat().st_size
    except (sqlite3.Error, OSError) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if _means_damage(error):
            raise broken(ledger, error) from error
        said = error.strerror if isinstance(error, OSError) else error
        raise LedgerBroken(f"The backup {target} cannot be written: {said}.", remedy="Name another file.") from error


def _brought_up(older: sqlite3.Connection) -> sqlite3.Connection:
    """A ledger of an older version in today's form: a copy, in a temporary file that goes with its connection."""
    copy = sqlite3.connect("", isolation_level=None)
    try:
        older.backup(copy)
        _migrate(copy)
    except sqlite3.Error:
        copy.close()
        raise
    older.close()
    return copy


def _migrate(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        steps = [Path(__file__).with_name("schema.sql").read_text("utf-8")]
    else:
        steps = [MIGRATIONS[number] for number in range(version, SCHEMA_VERSION)]
    if steps:
        script = "\n".join(steps)
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {SCHEMA_VERSION};\nCOMMIT;")


def broken(path: Path, error: Exception) -> LedgerBroken:
    """What a failure of SQLite or of its disk means, in plain words."""
    if _means_damage(error):
        return _damaged(path, str(error))
    return LedgerBroken(
        f"The ledger {path} cannot be used: {error}.",
        remedy="Look at the disk of the state directory (free space, permissions) and start esrgand again.",
    )


def _means_damage(error: Exception) -> bool:
    # Extended codes have the plain one in their lowest byte.
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE


def _damaged(path: Path, damage: str) -> LedgerBroken:
    return LedgerBroken(
        f"The ledger {path} is damaged ({damage}); without it a picture could be paid for twice.",
        remedy="Restore the last `esrgand backup`, or have the file mended (sqlite3 FILE .recover), then start.",
    )


class Database:
    """Runs functions on the connection, one after another. It is opened with `open_` inside its own thread."""

    def __init__(self, path: Path, open_: Callable[[Path], sqlite3.Connection] = connect) -> None:
        self._path = path
        self._open = open_
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._connection: sqlite3.Connection | None = None
        self._pending: list[tuple[Work, asyncio.Future[Any]]] = []
        self._drain: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open, and bring the schema up to date."""
        loop = asyncio.get_running_loop()
        self._connection = await loop.run_in_executor(self._pool, self._open, self._path)

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
        outcome = asyncio.shield(future)
        # Nor does a failure ask for an ear that is gone: who is cancelled, before it or just then, does not hear of it.
        for each in (future, outcome):
            each.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await outcome

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
                with contextlib.suppress(sqlite3.Error):  # The first error is the one to tell.
                    connection.execute("ROLLBACK")
            return [broken(self._path, error)] * len(works)
        return outcomes
