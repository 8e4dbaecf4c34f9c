"""
Desk: seeing and steering the ledger, for people; as functions on a connection.

The running daemon calls these in its ledger thread; without one the commands call them on a connection of their own
(read-only for seeing). Values are plain JSON. No URL of an asset or a result is ever shown.
"""

import dataclasses
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from daemon.adapters.records import (
    FAILED_HERE,
    PICTURE_SQL,
    count_stopped,
    counts_of,
    picture_from,
    tiles_of,
    whole_of,
    write_history,
)
from daemon.adapters.steps import record_all
from daemon.rules import budget, names, reactions
from daemon.rules.job import Picture, Tile
from daemon.rules.lifecycle import NEVER, Released, State
from daemon.rules.sidecar import timestamp

LISTED_MAX = 20
DAY_SECONDS = 86_400.0
# Kept are the lines that tell which picture paid, and what has no end yet or somebody still waits for.
PRUNE = """
    DELETE FROM history WHERE at < ? AND name NOT IN ('submitting', 'delivered') AND job IN (
        SELECT t.job FROM tile t WHERE NOT EXISTS (
            SELECT 1 FROM picture p WHERE p.job = t.job AND p.phase IN ('waiting', 'due')
        ) GROUP BY t.job HAVING max(t.state NOT IN ('done', 'failed')) = 0
    )
"""


def summary(db: sqlite3.Connection, now: float) -> dict[str, Any]:
    """What the ledger knows of all jobs: counts by state, spending, and who needs a person."""
    held, failed = _listed(db, State.HELD), _listed(db, State.FAILED)
    counts = {state.value: 0 for state in State}
    counts |= {state.value: count for state, count in counts_of(db).items()}
    pictures = dict(db.execute("SELECT phase, count(*) FROM picture GROUP BY phase").fetchall())
    spent = "SELECT total(cost_usd) FROM bill WHERE billed_at >= ?"
    return {
        "jobs": counts,
        "pictures": pictures,
        "spent": {
            "day_usd": round(db.execute(spent, (budget.day_start(now),)).fetchone()[0], 6),
            "month_usd": round(db.execute(spent, (budget.month_start(now),)).fetchone()[0], 6),
        },
        "held": held,
        "failed": failed,
        "more": {
            "held": count_stopped(db, State.HELD) - len(held),
            "failed": count_stopped(db, State.FAILED) - len(failed),
        },
    }


def _listed(db: sqlite3.Connection, state: State) -> list[dict[str, Any]]:
    where = FAILED_HERE if state is State.FAILED else f"t.state = '{state.value}'"
    # One line a picture: of its tiles the first that stopped, whose reason is why the others did.
    rows = db.execute(
        "SELECT t.job, j.path, t.reason, t.remedy, min(t.since), t.due_at FROM tile t JOIN job j ON j.id = t.job "
        f"WHERE {where} GROUP BY t.job ORDER BY min(t.since) DESC LIMIT ?",
        (LISTED_MAX,),
    )
    return [
        {
            "job": job,
            "picture": names.shown(path),
            "reason": reason,
            "remedy": remedy,
            "since": timestamp(since),
            **({"until": timestamp(due)} if state is State.HELD and due < NEVER else {}),
        }
        for job, path, reason, remedy, since, due in rows
    ]


def find_jobs(db: sqlite3.Connection, what: str) -> list[str]:
    """The jobs that a person means by a job's id (or its beginning), or by a picture's path."""
    if not what.startswith(("/", ".")) and len(what) >= 4 and all(digit in "0123456789abcdef" for digit in what):
        rows = db.execute("SELECT id FROM job WHERE id >= ? AND id < ? LIMIT 2", (what, what + "g")).fetchall()
        if rows:
            return [row[0] for row in rows]
    full = os.path.abspath(os.fsencode(what))  # noqa: PTH100  (links are not followed: the name is what counts)
    found = []
    for folder, inbox in db.execute("SELECT id, inbox FROM folder"):
        if full.startswith(inbox + b"/"):
            path = full[len(inbox) + 1 :]
            found += db.execute("SELECT job FROM picture WHERE folder = ? AND path = ?", (folder, path)).fetchall()
    found += db.execute(
        "SELECT job FROM picture WHERE path = ? OR outbox || x'2f' || result_path = ?", (os.fsencode(what), full)
    )
    return sorted({row[0] for row in found})


def show(db: sqlite3.Connection, job: str) -> dict[str, Any]:
    """All about a job: where it stands, its pictures, its bill, its history."""
    whole = whole_of(db, job)
    tile = whole.standing
    inboxes = dict(db.execute("SELECT id, inbox FROM folder").fetchall())
    history = db.execute("SELECT at, name, detail, number FROM history WHERE job = ? ORDER BY id", (job,))
    is_cut = len(whole.tiles) > 1
    cost = db.execute("SELECT total(cost_usd) FROM bill WHERE job = ?", (job,)).fetchone()[0]
    content = tile.job.content
    return {
        "job": job,
        "state": tile.state.value,
        "since": timestamp(tile.since),
        **({"due": timestamp(tile.due_at)} if tile.due_at < NEVER else {}),
        "reason": tile.reason,
        "remedy": tile.remedy,
        "recipe": tile.job.recipe.as_json(),
        "content": {"sha256": content.sha256, "bytes": content.bytes, "width": content.width, "height": content.height},
        "prediction": None if is_cut else tile.prediction,
        "attempts": tile.attempts,
        "submits": whole.submits,
        "cost_usd": round(cost, 9),
        **({"tiles": [_tile(each) for each in whole.tiles]} if is_cut else {}),
        "pictures": [_picture(picture, inboxes) for picture in _pictures(db, job)],
        "history": [
            {
                "at": timestamp(at),
                "event": name,
                **({"tile": number} if is_cut else {}),
                **({"detail": text} if text else {}),
            }
            for at, name, text, number in history
        ],
    }


def _tile(tile: Tile) -> dict[str, Any]:
    """One of several, in short; left, top, width and height in pixels of the source."""
    return {
        "tile": tile.number,
        **dataclasses.asdict(tile.rect),
        "state": tile.state.value,
        "since": timestamp(tile.since),
        "prediction": tile.prediction,
        "attempts": tile.attempts,
        "submits": tile.submits,
    }


def _pictures(db: sqlite3.Connection, job: str) -> list[Picture]:
    rows = db.execute(f"SELECT {PICTURE_SQL} FROM picture p WHERE job = ? ORDER BY id", (job,))
    return [picture_from(row) for row in rows]


def _picture(picture: Picture, inboxes: dict[int, bytes]) -> dict[str, Any]:
    facts = {**names.named(picture.path), "inbox": names.shown(inboxes[picture.folder]), "phase": picture.phase.value}
    if picture.outbox is not None and picture.result_path is not None:
        facts["result"] = names.shown(picture.outbox + b"/" + picture.result_path)
    return facts


def ends_since(db: sqlite3.Connection, at: float) -> tuple[int, list[tuple[bytes, str]]]:
    """How many pictures were delivered since then, and which failed and why."""
    done = db.execute("SELECT count(*) FROM history WHERE name = 'delivered' AND at >= ?", (at,)).fetchone()[0]
    failed = db.execute(
        "SELECT p.path, coalesce(t.reason, '') FROM history h JOIN picture p ON p.id = h.picture "
        "LEFT JOIN tile t ON t.job = h.job AND t.number = h.number "
        "WHERE h.name = 'reported' AND h.at >= ? GROUP BY p.id",
        (at,),
    )
    return int(done), failed.fetchall()


def is_inbox_awaited(db: sqlite3.Connection, inbox: bytes) -> bool:
    """Whether any picture of an inbox has neither been delivered nor reported."""
    sql = (
        "SELECT EXISTS (SELECT 1 FROM picture p JOIN folder f ON f.id = p.folder "
        "WHERE f.inbox = ? AND p.phase IN ('waiting', 'due'))"
    )
    return bool(db.execute(sql, (inbox,)).fetchone()[0])


def failed_jobs(db: sqlite3.Connection) -> list[str]:
    """Every job that failed and was not taken away."""
    return [row[0] for row in db.execute("SELECT DISTINCT job FROM tile WHERE state = 'failed'")]


def held_jobs(db: sqlite3.Connection) -> list[str]:
    """Every job that is held."""
    return [row[0] for row in db.execute("SELECT DISTINCT job FROM tile WHERE state = 'held'")]


def held_reasons(db: sqlite3.Connection) -> list[tuple[int, str, str]]:
    """Why pictures are held: how many for a reason, the reason, the remedy; the most frequent first."""
    rows = db.execute(
        "SELECT count(DISTINCT job), reason, remedy FROM tile WHERE state = 'held' GROUP BY reason, remedy "
        "ORDER BY count(DISTINCT job) DESC, reason LIMIT ?",
        (LISTED_MAX,),
    )
    return rows.fetchall()


def retry(db: sqlite3.Connection, jobs: Iterable[str], now: float) -> list[Picture]:
    """Let failed jobs be admitted anew, with a full allowance of paid runs. Returns the pictures to look at again."""
    again: list[Picture] = []
    for job in jobs:
        failed = [tile for tile in tiles_of(db, job) if tile.state is State.FAILED]
        for tile in failed:
            db.execute("UPDATE tile SET submits_granted = submits WHERE job = ? AND number = ?", tile.key)
            write_history(db, now, tile, "retry_asked", {})
        if failed:
            again += _pictures(db, job)
            db.execute("UPDATE picture SET phase = 'gone' WHERE job = ? AND phase IN ('failed', 'due')", (job,))
    return again


def retried(picture: Picture) -> str:
    """A picture that is tried again, for people."""
    name = names.shown(picture.path)
    return f"{name} (its file was moved away: drop it in again)" if picture.look.size < 0 else name


def release(db: sqlite3.Connection, jobs: Iterable[str], now: float, submits_max: int) -> list[str]:
    """Let held jobs go on. Returns those that were held."""
    released = []
    for job in jobs:
        held = [tile for tile in tiles_of(db, job) if tile.state is State.HELD]
        if held:
            grants = [Released(submits_granted=_missing(tile, submits_max), by_person=True) for tile in held]
            record_all(db, zip(held, grants, strict=True), now)
            if all(tile.due_at < NEVER for tile in held):
                # The whole picture may pass the budget: else a part in flight that comes back unpaid holds it again.
                # Where a doubt is settled besides, that part's next run has been given no such leave.
                db.execute("UPDATE tile SET released = 1 WHERE job = ?", (job,))
            released.append(job)
    return released


def prune(db: sqlite3.Connection, days: int, now: float) -> int:
    """Forget how jobs went that ended more than so many days ago; returns how many lines of history that were.

    What was paid, for which content, and what lies where in the outboxes is never forgotten. days: 1 or more.
    """
    assert days >= 1, "younger results may still be with the service"
    return db.execute(PRUNE, (now - days * DAY_SECONDS,)).rowcount


def _missing(tile: Tile, submits_max: int) -> int:
    """A release allows at least one paid run."""
    return max(0, 1 - reactions.submits_left(tile, submits_max))


def state_paths(state_dir: Path) -> tuple[Path, Path, Path]:
    """Ledger, lock and control socket of a state directory."""
    return state_dir / "ledger.db", state_dir / "lock", state_dir / "control.sock"
