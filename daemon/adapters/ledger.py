"""
Ledger: the durable record of all jobs, in SQLite; what a restart reads.

Every method that changes something is durable when it returns, and is one transaction: a tile's new state, the phases
of its pictures, its bill and its line in the history stand or fall together. Raises LedgerBroken where it cannot
record. A transition from a state that the tile has left meanwhile raises AssertionError: a defect, and nothing changes.
"""

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeVar

from daemon.adapters.database import Database
from daemon.adapters.ledger_delivery import Books, Deliveries
from daemon.adapters.records import (
    FAILED_HERE,
    PICTURE_SQL,
    TILE_FROM,
    counts_of,
    identity_of,
    insert_job,
    picture_from,
    set_phases,
    tile_from,
    tile_now,
    tile_of,
    tiles_of,
    upsert_picture,
    whole_of,
)
from daemon.adapters.steps import finish, record, record_all, retry, update
from daemon.ports import Clock
from daemon.rules.admission import Decision, decide, rank
from daemon.rules.job import Bill, Look, Settled, Tile, Whole
from daemon.rules.lifecycle import MILESTONES, Event, Failed, Held, Skipped, State
from daemon.rules.reactions import PAUSE_SECONDS_MAX

T = TypeVar("T")
# What `reactions.is_due` says, as SQL.
DUE_TILES = (
    f"{TILE_FROM} WHERE t.state = ? AND t.folder = ? "
    "AND (t.due_at <= ? OR (t.due_at > ? AND t.state != 'held')) ORDER BY t.rank LIMIT ?"
)
COUNT_JOBS = (
    "SELECT count(DISTINCT t.job) FROM tile t WHERE t.state IN ({}) AND (t.state IN ('failed', 'held') OR NOT EXISTS "
    "(SELECT 1 FROM tile o WHERE o.job = t.job AND o.state IN ('failed', 'held')))"
)
LOOKED_THROUGH = 256  # so many of each folder, where small ones are looked for among large ones


class SqliteLedger:
    """The Ledger port."""

    def __init__(self, path: Path, clock: Clock, database: Database | None = None) -> None:
        """database: instead of one in `path`, for a simulation."""
        self._database = database or Database(path)
        self._clock = clock
        self.deliveries = Deliveries(self._database)
        self.books = Books(self._database)
        self.identity = ""

    async def open(self) -> None:
        """Open or make the ledger; its identity is made once."""
        await self._database.open()

        token = self._clock.token(16)

        def work(db: sqlite3.Connection) -> str:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('identity', ?)", (token,))
            return identity_of(db)

        self.identity = await self._database.write(work)

    async def close(self) -> None:
        """Finish and let go."""
        await self._database.close()

    async def folder(self, inbox: bytes, order: str) -> int:
        """The number of a folder; what waits in it is put into `order`."""

        def work(db: sqlite3.Connection) -> int:
            db.execute("INSERT OR IGNORE INTO folder (inbox) VALUES (?)", (inbox,))
            id_ = int(db.execute("SELECT id FROM folder WHERE inbox = ?", (inbox,)).fetchone()[0])
            last = db.execute("SELECT value FROM meta WHERE key = ?", (f"order/{id_}",)).fetchone()
            if last != (order,):
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"order/{id_}", order))
                rows = db.execute(
                    f"SELECT {PICTURE_SQL} FROM picture p JOIN tile t ON t.job = p.job "
                    "WHERE t.folder = ? AND t.state IN ('admitted', 'uploaded')",
                    (id_,),
                ).fetchall()
                ranks = ((rank(order, p.path, p.look), p.job) for p in map(picture_from, rows))
                db.executemany("UPDATE tile SET rank = ? WHERE job = ?", ranks)
            return id_

        return await self._database.write(work)

    async def known(self, folder: int) -> list[tuple[bytes, Look]]:
        """Every file of the folder that needs no second look while its stat stays the same."""

        def work(db: sqlite3.Connection) -> list[tuple[bytes, Look]]:
            rows = db.execute(
                "SELECT path, size, mtime_ns, inode FROM picture WHERE folder = ? AND phase != 'gone'", (folder,)
            )
            return [(path, Look(size, mtime_ns, inode)) for path, size, mtime_ns, inode in rows]

        return await self._database.read(work)

    async def admit(self, file: Settled, order: str, source_stays: bool, held: Held | None, at: float) -> Decision:
        """Record a settled file. held: why a new job may not start yet, or None."""

        def work(db: sqlite3.Connection) -> Decision:
            row = db.execute(
                f"SELECT {PICTURE_SQL} FROM picture p WHERE folder = ? AND path = ?", (file.folder, file.path)
            ).fetchone()
            known = picture_from(row) if row else None
            job_id = file.recipe.job_id(file.content.sha256)
            tiles = tiles_of(db, job_id)
            decision = decide(known, job_id, Whole(tuple(tiles)).state if tiles else None, source_stays)
            if decision is Decision.NEW:
                tiles = insert_job(db, job_id, file, order, at)
                if file.recipe.is_unchanged:
                    content = file.content
                    record(db, tiles[0], Skipped(content.sha256, content.bytes, content.width, content.height), at)
                elif held is not None and file.failure is None:
                    record_all(db, [(tile, held) for tile in tiles], at)
            elif decision is Decision.RETRY and (file.failure is None or not Whole(tuple(tiles)).is_paid):
                retry(db, tiles, file, order, at)
                tiles = tiles_of(db, job_id)
            upsert_picture(db, known, job_id, file, decision)
            # Where another folder sends what this one would not, this one gets the same result.
            if file.failure is not None and decision in (Decision.NEW, Decision.RETRY):
                failed = Failed(file.failure.said, file.failure.remedy, file.failure.blame.value)
                if steps := [(tile, failed) for tile in tiles if tile.state is State.ADMITTED]:
                    record_all(db, steps, at)
            set_phases(db, job_id)
            if known is not None and known.job != job_id:
                finish(db, known.job, at)  # Nobody may wait for the replaced content's result any more.
            return decision

        return await self._database.write(work)

    async def record(self, tile: Tile, event: Event, at: float, *, wait: float = 0.0, bill: Bill | None = None) -> Tile:
        """The tile after the event. wait: seconds before its next step. bill: of the prediction that just ended.

        One that was stopped meanwhile with another tile of its picture is returned as it is, and nothing is recorded.
        """
        return await self._database.write(lambda db: record(db, tile, event, at, wait, bill))

    async def postpone(self, tile: Tile, due_at: float, *, attempts: int = 0, wrongs: int = 0) -> Tile:
        """The same tile with a later due time. attempts, wrongs: how many more there were."""
        new = dataclasses.replace(tile, due_at=due_at, attempts=tile.attempts + attempts, wrongs=tile.wrongs + wrongs)

        def work(db: sqlite3.Connection) -> Tile:
            return new if update(db, tile, new) else tile_now(db, tile)

        return await self._database.write(work)

    async def bring_forward(self, seconds: float, now: float) -> None:
        """The clock was set back by so much: what waits for a later time waits for an earlier one."""
        sql = "UPDATE tile SET due_at = max(?, due_at - ?) WHERE state = ? AND due_at > ?"

        def work(db: sqlite3.Connection) -> None:
            for state in MILESTONES:
                db.execute(sql, (now, seconds, state, now))

        await self._database.write(work)

    async def folders(self) -> list[int]:
        """Every folder that the ledger ever knew."""
        return await self._database.read(lambda db: [row[0] for row in db.execute("SELECT id FROM folder ORDER BY id")])

    async def tile(self, key: tuple[str, int]) -> Tile:
        """A tile as it is now."""
        return await self._database.read(lambda db: tile_of(db, key))

    async def now(self, tile: Tile) -> Tile:
        """The same tile as it is now; one of a cut that its picture no longer has, has failed."""
        return await self._database.read(lambda db: tile_now(db, tile))

    async def whole(self, job: str) -> Whole:
        """A job as it is now."""
        return await self._database.read(lambda db: whole_of(db, job))

    async def due(
        self,
        states: Iterable[State],
        folders: Iterable[int],
        now: float,
        limit: int,
        besides: Collection[tuple[str, int]],
        bytes_max: int | None = None,
    ) -> list[Tile]:
        """At most `limit` tiles that may take their next step, in the folders' orders; folders take turns.

        bytes_max: of small contents alone, among the first few hundred of each folder.
        """
        most = limit + len(besides) if bytes_max is None else LOOKED_THROUGH

        def work(db: sqlite3.Connection) -> list[Tile]:
            found: list[Tile] = []
            for state in states:
                columns = []
                for folder in folders:
                    rows = db.execute(
                        DUE_TILES,
                        (state, folder, now, now + PAUSE_SECONDS_MAX, most),
                    )
                    tiles = [tile for tile in map(tile_from, rows) if tile.key not in besides]
                    columns.append([t for t in tiles if bytes_max is None or t.job.content.bytes <= bytes_max])
                longest = max(map(len, columns), default=0)
                found += [column[i] for i in range(longest) for column in columns if i < len(column)]
            return found[:limit]

        return await self._database.read(work)

    async def next_due(self, states: Iterable[State], now: float) -> float | None:
        """When the next tile of these states becomes due, or None."""

        def work(db: sqlite3.Connection) -> float | None:
            sql = "SELECT min(due_at) FROM tile WHERE state = ? AND due_at > ?"
            times = [db.execute(sql, (state, now)).fetchone()[0] for state in states]
            return min((time for time in times if time is not None), default=None)

        return await self._database.read(work)

    async def counts(self) -> dict[State, int]:
        """How many tiles are in each state; of those that ended or stopped, how many jobs."""
        return await self._database.read(counts_of)

    async def count(self, *states: State) -> int:
        """How many tiles are in these states."""

        def work(db: sqlite3.Connection) -> int:
            sql = "SELECT count(*) FROM tile WHERE state = ?"
            return sum(int(db.execute(sql, (state,)).fetchone()[0]) for state in states)

        return await self._database.read(work)

    async def count_in(self, state: State, folders: Collection[int]) -> int:
        """How many tiles of these folders are in a state."""
        sql = "SELECT count(*) FROM tile WHERE state = ? AND folder IN (SELECT value FROM json_each(?))"

        def work(db: sqlite3.Connection) -> int:
            return int(db.execute(sql, (state, json.dumps(list(folders)))).fetchone()[0])

        return await self._database.read(work)

    async def count_jobs(self, *states: State) -> int:
        """How many jobs have a tile in one of these states; one that has stopped is in no state that moves."""
        sql = COUNT_JOBS.format(", ".join("?" * len(states)))
        return await self._database.read(lambda db: int(db.execute(sql, states).fetchone()[0]))

    async def jobs_in(self, *states: State) -> set[str]:
        """The jobs that have a tile in one of these states."""

        def work(db: sqlite3.Connection) -> set[str]:
            sql = "SELECT job FROM tile WHERE state = ?"
            return {row[0] for state in states for row in db.execute(sql, (state,))}

        return await self._database.read(work)

    async def jobs_failed(self) -> set[str]:
        """The jobs that failed and are somebody's."""
        sql = f"SELECT t.job FROM tile t WHERE {FAILED_HERE}"
        return await self._database.read(lambda db: {row[0] for row in db.execute(sql)})

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Look at the ledger, for a person (see `ledger_desk`)."""
        return await self._database.read(work)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Steer the ledger, for a person (see `ledger_desk`)."""
        return await self._database.write(work)
