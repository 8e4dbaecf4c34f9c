"""
Deliveries and books: the ledger's second half, over the same connection.

Deliveries: which pictures wait for their result or their report, whose name is whose in the outbox, what lies there.
Books: what was billed, which submits left in the last minutes, which uploaded objects are still to be deleted.
"""

import json
import sqlite3
from collections.abc import Collection

from daemon.adapters.database import Database
from daemon.adapters.records import PICTURE_SQL, picture_from, whole_of, write_history
from daemon.adapters.steps import finish
from daemon.rules import budget
from daemon.rules.budget import Spending
from daemon.rules.job import Bill, Phase, Picture, Tile, Whole
from daemon.rules.lifecycle import NEVER
from daemon.rules.recipe import RESULT_BYTES_PER_PIXEL
from daemon.rules.sidecar import ResultFacts

ABANDONED = "SELECT outbox, result_path FROM picture WHERE result_path IS NOT NULL AND phase IN ('gone', 'failed')"
# The plus keeps SQLite from walking through every picture of a folder for the few that are due.
DUE_PICTURES = f"""
    SELECT {PICTURE_SQL} FROM picture p
    WHERE phase = 'due' AND +folder IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?
"""
UNWANTED_ASSETS = """
    SELECT a.ref FROM asset a LEFT JOIN tile t ON t.job = a.job AND t.number = a.number
    WHERE (t.job IS NULL OR t.asset_ref IS NOT a.ref OR t.state NOT IN ('uploaded', 'submitting', 'submitted'))
    AND NOT (a.ref LIKE 'key:%' AND (a.job || '/' || a.number) IN (SELECT value FROM json_each(?)))
    LIMIT ?
"""
# A picture that was replaced, or whose job is tried again, went on without us.
STILL_DUE = "WHERE id = ? AND job = ? AND phase = 'due'"
# No file ever looks like that: one that comes to the name later is new, even with the same inode and date.
TAKEN = "UPDATE picture SET size = -1 WHERE id = ? AND job = ?"
DELIVERED_SINCE_PAID = """
    SELECT 1 FROM history WHERE job = ? AND picture = ? AND name = 'delivered'
    AND id > (SELECT max(id) FROM history WHERE job = ? AND name = 'submitting')
"""
UNSTAGED = ("submitting", "submitted", "ready")
UNDELIVERED = (*UNSTAGED, "fetched")
# A submit in doubt may still carry the id that the service forgot: it is to be found again.
PREDICTIONS = """
    SELECT prediction FROM tile WHERE state = 'submitted' AND prediction IS NOT NULL
    UNION SELECT * FROM (
        SELECT prediction FROM bill WHERE NOT (job = ? AND number = ?) ORDER BY billed_at DESC LIMIT 5000
    )
"""
PROMISED = """
    SELECT total(t.width * t.height * j.scale * j.scale) FROM tile t JOIN job j ON j.id = t.job
    WHERE t.state IN (SELECT value FROM json_each(?)) AND (? OR t.folder = ?)
    AND (t.job || '/' || t.number) NOT IN (SELECT value FROM json_each(?))
"""
BILLS = "SELECT number, cost_usd, predict_seconds FROM bill WHERE job = ? ORDER BY billed_at"
SUBMITS = """
    SELECT h.at, (SELECT min(a.at) FROM history a WHERE a.job = h.job AND a.number = h.number AND a.id > h.id
                  AND a.name IN ('submitted', 'found', 'refused', 'failed'))
    FROM history h WHERE h.name = 'submitting' AND h.at > ?
"""


class Deliveries:
    """Pictures on their way to the outbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, folders: Collection[int], limit: int, besides: Collection[int]) -> list[tuple[Picture, Whole]]:
        """Pictures of these folders whose job has an end, with the job; oldest first."""

        def work(db: sqlite3.Connection) -> list[tuple[Picture, Whole]]:
            rows = db.execute(DUE_PICTURES, (json.dumps(list(folders)), limit + len(besides))).fetchall()
            pictures = [picture for picture in map(picture_from, rows) if picture.id not in besides][:limit]
            return [(picture, whole_of(db, picture.job)) for picture in pictures]

        return await self._database.read(work)

    async def still_due(self, picture: Picture) -> Whole | None:
        """The job as it is now, where the picture still waits for its end; None where it went on without us."""

        def work(db: sqlite3.Connection) -> Whole | None:
            due = db.execute(f"SELECT 1 FROM picture {STILL_DUE}", (picture.id, picture.job)).fetchone()
            return whole_of(db, picture.job) if due else None

        return await self._database.read(work)

    async def sources(self, job: str) -> list[Picture]:
        """The pictures that wait for a job."""
        return await self._in_phase(job, Phase.WAITING)

    async def gone(self, job: str) -> list[Picture]:
        """The pictures of a job that left before anything was paid."""
        return await self._in_phase(job, Phase.GONE)

    async def _in_phase(self, job: str, phase: Phase) -> list[Picture]:
        def work(db: sqlite3.Connection) -> list[Picture]:
            rows = db.execute(f"SELECT {PICTURE_SQL} FROM picture p WHERE job = ? AND phase = ?", (job, phase))
            return [picture_from(row) for row in rows]

        return await self._database.read(work)

    async def copies(self, job: str) -> list[Picture]:
        """The pictures under whose names a job's result was written: where it may still lie."""

        def work(db: sqlite3.Connection) -> list[Picture]:
            rows = db.execute(
                f"SELECT {PICTURE_SQL} FROM picture p WHERE result_job = ? AND result_path IS NOT NULL", (job,)
            )
            return [picture_from(row) for row in rows]

        return await self._database.read(work)

    async def abandoned(self) -> list[tuple[bytes, bytes]]:
        """Outboxes, and names in them, of pictures that left on the way there: nobody writes them again."""

        def work(db: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
            return db.execute(ABANDONED).fetchall()

        return await self._database.read(work)

    async def is_reuse(self, picture: Picture) -> bool:
        """Whether the picture's job was paid for with another picture, or with an earlier drop of this one."""

        def work(db: sqlite3.Connection) -> bool:
            first = db.execute("SELECT min(id) FROM picture WHERE job = ?", (picture.job,)).fetchone()[0]
            before = db.execute(DELIVERED_SINCE_PAID, (picture.job, picture.id, picture.job)).fetchone()
            return first != picture.id or before is not None

        return await self._database.read(work)

    async def claim(self, picture: Picture, outbox: bytes, path: bytes) -> bool:
        """Reserve a name in an outbox for a picture; False where it is another picture's."""

        def work(db: sqlite3.Connection) -> bool:
            if picture.outbox == outbox and picture.result_path == path:
                return True
            taken = db.execute("SELECT 1 FROM picture WHERE outbox = ? AND result_path = ?", (outbox, path)).fetchone()
            if taken is None:
                db.execute(
                    "UPDATE picture SET outbox = ?, result_path = ?, result_sha256 = NULL, result_job = NULL "
                    "WHERE id = ?",
                    (outbox, path, picture.id),
                )
            return taken is None

        return await self._database.write(work)

    async def delivered(
        self, picture: Picture, whole: Whole, result: ResultFacts, at: float, *, reused: bool, taken: bool = False
    ) -> bool:
        """Result and sidecar are in the outbox. Returns whether that was the last that the job waited for.

        taken: the source was taken out of the inbox, by us.
        """

        def work(db: sqlite3.Connection) -> bool:
            # Whatever happened to the picture meanwhile, this is what stands there now, and it is ours.
            db.execute(
                "UPDATE picture SET result_sha256 = ?, result_job = ? WHERE id = ?",
                (result.sha256, picture.job, picture.id),
            )
            db.execute(f"UPDATE picture SET phase = ? {STILL_DUE}", (Phase.DELIVERED, picture.id, picture.job))
            if taken:
                db.execute(TAKEN, (picture.id, picture.job))
            facts = {"reused": reused, "bytes": result.bytes}
            write_history(db, at, whole.tiles[0], "delivered", facts, picture.id)
            return finish(db, whole.job.id, at)

        return await self._database.write(work)

    async def reported(self, picture: Picture, whole: Whole, at: float, *, taken: bool = False) -> None:
        """The report of a failed picture is in the outbox."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(f"UPDATE picture SET phase = ? {STILL_DUE}", (Phase.FAILED, picture.id, picture.job))
            if taken:
                db.execute(TAKEN, (picture.id, picture.job))
            write_history(db, at, whole.standing, "reported", {}, picture.id)

        await self._database.write(work)

    async def withdrawn(self, picture: Picture, whole: Whole, at: float, reason: str) -> None:
        """The picture was its own result, and left its inbox, or changed, before it was delivered."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(f"UPDATE picture SET phase = ? {STILL_DUE}", (Phase.GONE, picture.id, picture.job))
            write_history(db, at, whole.tiles[0], "withdrawn", {"reason": reason}, picture.id)
            finish(db, whole.job.id, at)

        await self._database.write(work)

    async def finish(self, job: str, at: float) -> bool:
        """Where nobody waits for a fetched result any more, its job is done. Returns whether it is."""
        return await self._database.write(lambda db: finish(db, job, at))

    async def times(self, job: str, number: int | None = None) -> dict[str, float]:
        """When each milestone of a job was passed by its last tile, or by one tile, for the last time; by the event's
        name."""
        sql = "SELECT name, max(at) FROM history WHERE job = ?1 AND (?2 IS NULL OR number = ?2) GROUP BY name"

        def work(db: sqlite3.Connection) -> dict[str, float]:
            return dict(db.execute(sql, (job, number)).fetchall())

        return await self._database.read(work)


def _as_names(tiles: Collection[tuple[str, int]]) -> str:
    return json.dumps([f"{job}/{number}" for job, number in tiles])


class Books:
    """Money, submits and uploaded objects."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def bills(self, job: str) -> dict[int, Bill]:
        """What a job cost so far, by tile: of all its runs, and the seconds of the last one."""

        def work(db: sqlite3.Connection) -> dict[int, Bill]:
            bills: dict[int, Bill] = {}
            for number, cost, seconds in db.execute(BILLS, (job,)):
                bills[number] = Bill(bills.get(number, Bill()).cost_usd + cost, seconds)
            return bills

        return await self._database.read(work)

    async def bill(self, job: str) -> Bill:
        """What a job cost so far, all its tiles together."""
        return Bill.summed((await self.bills(job)).values())

    async def spending(self, now: float) -> Spending:
        """What was billed in this day and month, and what is in flight, as of one moment."""

        def work(db: sqlite3.Connection) -> Spending:
            billed = "SELECT total(cost_usd) FROM bill WHERE billed_at >= ?"
            # What failed for nothing says nothing of what the next one costs; and ten large ones may come together.
            paid = "SELECT cost_usd FROM bill WHERE cost_usd > 0 ORDER BY billed_at DESC LIMIT 100"
            most = db.execute(f"SELECT max(cost_usd) FROM ({paid})").fetchone()[0]
            flying = "SELECT count(*) FROM tile WHERE state IN ('submitting', 'submitted')"
            usual = budget.TYPICAL_PREDICT_SECONDS * budget.USD_PER_SECOND
            return Spending(
                day_usd=db.execute(billed, (budget.day_start(now),)).fetchone()[0],
                month_usd=db.execute(billed, (budget.month_start(now),)).fetchone()[0],
                in_flight=db.execute(flying).fetchone()[0],
                typical_usd=most or usual,
                is_priced=most is not None,
            )

        return await self._database.read(work)

    async def budget_is(self, budget: str, now: float) -> None:
        """The limits, as a text; where they were others, what the budget holds is to be looked at again."""

        def work(db: sqlite3.Connection) -> None:
            if db.execute("SELECT 1 FROM meta WHERE key = 'budget' AND value = ?", (budget,)).fetchone() is None:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('budget', ?)", (budget,))
                db.execute("UPDATE tile SET due_at = ? WHERE state = 'held' AND due_at < ?", (now, NEVER))

        await self._database.write(work)

    async def promised(self, folder: int | None = None, besides: Collection[tuple[str, int]] = ()) -> int:
        """Bytes, estimated, of the results that are on their way to staging, or to a folder's outbox.

        besides: tiles that are counted elsewhere.
        """
        others = _as_names(besides)

        def work(db: sqlite3.Connection) -> int:
            staged = folder is None
            rows = db.execute(PROMISED, (json.dumps(UNSTAGED if staged else UNDELIVERED), staged, folder, others))
            return int(rows.fetchone()[0] * RESULT_BYTES_PER_PIXEL)

        return await self._database.read(work)

    async def predictions(self, besides: Tile) -> set[str]:
        """Predictions that are known to be some other tile's: the last that were billed, and what is in flight."""
        return await self._database.read(lambda db: {row[0] for row in db.execute(PREDICTIONS, besides.key)})

    async def is_billed(self, prediction: str) -> bool:
        """Whether a prediction's end, and what it cost, is known."""
        sql = "SELECT 1 FROM bill WHERE prediction = ?"
        return await self._database.read(lambda db: db.execute(sql, (prediction,)).fetchone() is not None)

    async def submits(self, since: float) -> list[tuple[float, float | None]]:
        """The submits that left since then: when each left, and when its answer came (None: never)."""

        def work(db: sqlite3.Connection) -> list[tuple[float, float | None]]:
            return db.execute(SUBMITS, (since,)).fetchall()

        return await self._database.read(work)

    async def paces(self) -> dict[str, str]:
        """What was learnt of how long predictions take, by name."""
        sql = "SELECT substr(key, 6), value FROM meta WHERE key LIKE 'pace/%'"
        return await self._database.read(lambda db: dict(db.execute(sql).fetchall()))

    async def note_pace(self, name: str, value: str) -> None:
        """Something learnt, for the next start."""
        sql = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
        await self._database.write(lambda db: db.execute(sql, (f"pace/{name}", value)))

    async def unwanted_assets(self, limit: int, besides: Collection[tuple[str, int]] = ()) -> list[str]:
        """Uploaded objects that no prediction will read any more. besides: tiles that an upload may be under way of."""

        def work(db: sqlite3.Connection) -> list[str]:
            return [row[0] for row in db.execute(UNWANTED_ASSETS, (_as_names(besides), limit))]

        return await self._database.read(work)

    async def forget_asset(self, ref: str) -> None:
        """It is deleted, or meant to stay."""
        await self._database.write(lambda db: db.execute("DELETE FROM asset WHERE ref = ?", (ref,)))
