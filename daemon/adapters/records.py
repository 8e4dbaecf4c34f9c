"""
Records: the ledger's tables as functions on a connection, each to be called inside a transaction.

What belongs together is written together here: a tile's state, its pictures' phases, its bill, its line in the history.
A transition from a state that the tile has left meanwhile raises AssertionError: a defect, and nothing changes.
"""

import dataclasses
import json
import sqlite3
from typing import Any

from daemon.rules import lifecycle
from daemon.rules.admission import Decision, rank
from daemon.rules.job import Bill, Content, Job, Look, Phase, Picture, Settled, Tile
from daemon.rules.lifecycle import Event, Failed, State, Uploaded, Withdrawn, Written
from daemon.rules.names import KEY, asset_key
from daemon.rules.recipe import Recipe

TILE_COLUMNS = tuple(field.name for field in dataclasses.fields(Tile) if field.name not in ("job", "number"))
JOB_COLUMNS = ("folder", "path", "sha256", "bytes", "width", "height", "format", "model", "scale", "face_enhance")
PICTURE_SQL = (
    "p.id, p.folder, p.path, p.size, p.mtime_ns, p.inode, p.job, p.phase, p.detected_at, "
    "p.outbox, p.result_path, p.result_sha256"
)
TILE_SQL = ", ".join(["t.job", "t.number", *(f"t.{c}" for c in TILE_COLUMNS), *(f"j.{c}" for c in JOB_COLUMNS)])
TILE_FROM = f"SELECT {TILE_SQL} FROM tile t JOIN job j ON j.id = t.job"
QUIET_FIELDS = {"api", "asset_url", "output_url", "asset_ref", "asset_expires_at", "intent_at", "due_at"}


def tile_from(row: tuple[Any, ...]) -> Tile:
    """A tile from a row of TILE_FROM."""
    folder, path, sha256, bytes_, width, height, format_, model, scale, face = row[-len(JOB_COLUMNS) :]
    job = Job(row[0], folder, path, Content(sha256, bytes_, width, height, format_), Recipe(model, scale, bool(face)))
    values = dict(zip(TILE_COLUMNS, row[2 : -len(JOB_COLUMNS)], strict=True))
    values |= {"state": State(values["state"]), "released": bool(values["released"])}
    return Tile(job=job, number=row[1], **values)


def picture_from(row: tuple[Any, ...]) -> Picture:
    """A picture from a row of PICTURE_SQL."""
    id_, folder, path, size, mtime_ns, inode, job, phase, *rest = row
    return Picture(id_, folder, path, Look(size, mtime_ns, inode), job, Phase(phase), *rest)


# A failed job that somebody still has a picture of; one that was withdrawn, or whose pictures left, is nobody's.
FAILED_HERE = (
    "t.state = 'failed' AND EXISTS "
    "(SELECT 1 FROM picture p WHERE p.job = t.job AND p.phase IN ('waiting', 'due', 'failed'))"
)
# The day of a bill is the day when it was first heard of.
BILL = (
    "INSERT INTO bill VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (prediction) DO UPDATE "
    "SET cost_usd = excluded.cost_usd, predict_seconds = excluded.predict_seconds"
)


def identity_of(db: sqlite3.Connection) -> str:
    """The ledger's own name; made once."""
    return str(db.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()[0])


def tiles_of(db: sqlite3.Connection, job: str) -> list[Tile]:
    """A job's tiles, in order."""
    return [tile_from(row) for row in db.execute(f"{TILE_FROM} WHERE t.job = ? ORDER BY t.number", (job,))]


def insert_job(db: sqlite3.Connection, job_id: str, file: Settled, order: str, at: float) -> Tile:
    """A job with its one tile, admitted."""
    content, recipe = file.content, file.recipe
    values = (
        job_id,
        file.folder,
        file.path,
        *dataclasses.astuple(content),
        recipe.model,
        recipe.scale,
        recipe.face_enhance,
    )
    db.execute("INSERT INTO job VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    tile = Tile(Job(job_id, file.folder, file.path, content, recipe), 0, State.ADMITTED, due_at=at, since=at)
    columns = {"job": job_id, "number": 0, "folder": file.folder, "rank": rank(order, file.path, file.look)}
    columns |= {column: getattr(tile, column) for column in TILE_COLUMNS}
    marks = ", ".join("?" * len(columns))
    db.execute(f"INSERT INTO tile ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values()))
    write_history(db, at, tile, State.ADMITTED.value, {})
    return tile


def upsert_picture(db: sqlite3.Connection, known: Picture | None, job: str, file: Settled, decision: Decision) -> None:
    """The picture that waits for the job."""
    look = file.look
    if known is None:
        db.execute(
            "INSERT INTO picture (folder, path, size, mtime_ns, inode, job, phase, detected_at) "
            "VALUES (?, ?, ?, ?, ?, ?, 'waiting', ?)",
            (file.folder, file.path, *look, job, file.detected_at),
        )
    elif decision is Decision.SAME:
        db.execute("UPDATE picture SET size = ?, mtime_ns = ?, inode = ? WHERE id = ?", (*look, known.id))
    else:
        db.execute(
            "UPDATE picture SET size = ?, mtime_ns = ?, inode = ?, job = ?, phase = 'waiting', detected_at = ? "
            "WHERE id = ?",
            (*look, job, file.detected_at, known.id),
        )
    if decision is Decision.RETRY and file.failure is None:
        db.execute("UPDATE picture SET phase = 'waiting' WHERE job = ? AND phase = 'failed'", (job,))


def record(
    db: sqlite3.Connection, tile: Tile, event: Event, at: float, wait: float = 0.0, bill: Bill | None = None
) -> Tile:
    """Advance a tile, with all that hangs on it."""
    new = lifecycle.advance(tile, event, at)
    if wait:
        new = dataclasses.replace(new, due_at=at + wait)
    update(db, tile, new)
    if isinstance(event, Uploaded):
        db.execute("INSERT OR REPLACE INTO asset VALUES (?, ?, ?, ?)", (event.asset_ref, *tile.key, at))
    # Where it fails in the moment of its admission, no upload can have begun.
    if isinstance(event, Failed | Withdrawn) and tile.state is State.ADMITTED and at != tile.since:
        key = asset_key(identity_of(db), tile.job.id, tile.number, tile.uploads)
        db.execute("INSERT OR REPLACE INTO asset VALUES (?, ?, ?, ?)", (KEY + key, *tile.key, at))
    if isinstance(event, Withdrawn):
        db.execute("UPDATE picture SET phase = 'gone' WHERE job = ? AND phase = 'waiting'", (tile.job.id,))
    detail = {k: v for k, v in dataclasses.asdict(event).items() if k not in QUIET_FIELDS and v not in ("", None)}
    if bill is not None and tile.prediction is not None:
        db.execute(
            BILL,
            (tile.prediction, *tile.key, at, bill.cost_usd, bill.predict_seconds),
        )
        detail |= {"cost_usd": bill.cost_usd}
    write_history(db, at, new, event.name, detail)
    set_phases(db, tile.job.id)
    return new


def update(db: sqlite3.Connection, old: Tile, new: Tile) -> None:
    """Replace a tile's columns; it must still be what it was."""
    sets = ", ".join(f"{column} = ?" for column in TILE_COLUMNS)
    done = db.execute(
        f"UPDATE tile SET {sets} WHERE job = ? AND number = ? AND state = ? AND since = ?",
        [*(getattr(new, column) for column in TILE_COLUMNS), *old.key, old.state, old.since],
    )
    assert done.rowcount == 1, f"tile {old.key} was no longer {old.state}"


def write_history(
    db: sqlite3.Connection, at: float, tile: Tile, name: str, detail: dict[str, Any], picture: int | None = None
) -> None:
    """One more line of the append-only history."""
    db.execute(
        "INSERT INTO history (at, job, number, name, picture, detail) VALUES (?, ?, ?, ?, ?, ?)",
        (at, *tile.key, name, picture, json.dumps(detail) if detail else None),
    )


def set_phases(db: sqlite3.Connection, job: str) -> None:
    """A job with an end makes its pictures due; one that goes on makes them wait again."""
    states = {row[0] for row in db.execute("SELECT state FROM tile WHERE job = ?", (job,))}
    ended = State.FAILED in states or states <= {State.FETCHED, State.DONE}
    was, now = (Phase.WAITING, Phase.DUE) if ended else (Phase.DUE, Phase.WAITING)
    db.execute("UPDATE picture SET phase = ? WHERE job = ? AND phase = ?", (now, job, was))


def counts_of(db: sqlite3.Connection) -> dict[State, int]:
    """How many tiles are in each state; of the failed, those that are still somebody's."""
    counts = {State(state): count for state, count in db.execute("SELECT state, count(*) FROM tile GROUP BY state")}
    if State.FAILED in counts:
        counts[State.FAILED] = db.execute(f"SELECT count(*) FROM tile t WHERE {FAILED_HERE}").fetchone()[0]
    return counts


def update_content(db: sqlite3.Connection, job: str, content: Content) -> None:
    """What is known of a content now: a decoder may have learnt to read it."""
    db.execute(
        "UPDATE job SET width = ?, height = ?, format = ? WHERE id = ?",
        (content.width, content.height, content.format, job),
    )


def finish(db: sqlite3.Connection, job: str, at: float) -> bool:
    """Where nobody waits for a fetched result any more, its job is done. Returns whether it is."""
    tiles = tiles_of(db, job)
    waiting = db.execute("SELECT 1 FROM picture WHERE job = ? AND phase IN ('waiting', 'due')", (job,)).fetchone()
    if waiting or any(tile.state is not State.FETCHED for tile in tiles):
        return False
    for tile in tiles:
        record(db, tile, Written(), at)
    return True
