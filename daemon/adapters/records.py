"""
Records: the ledger's tables as functions on a connection, each to be called inside a transaction.

Rows become plain values here and are written from them; how tiles move, with all that hangs on it, is in `steps.py`.
"""

import dataclasses
import functools
import json
import sqlite3
from typing import Any

from daemon.rules.admission import Decision, rank
from daemon.rules.job import Content, Job, Look, Phase, Picture, Settled, Tile, Whole
from daemon.rules.lifecycle import NEVER, STOPPED, State
from daemon.rules.recipe import Recipe
from daemon.rules.tiles import Rect
from daemon.rules.traits import Traits

TILE_COLUMNS = tuple(field.name for field in dataclasses.fields(Tile) if field.name not in ("job", "number", "rect"))
RECT_COLUMNS = ('"left"', "top", "width", "height")
JOB_COLUMNS = (
    *("folder", "path", "sha256", "bytes", "width", "height", "format"),
    *("model", "scale", "face_enhance", "traits", "note"),
)
PICTURE_SQL = (
    "p.id, p.folder, p.path, p.size, p.mtime_ns, p.inode, p.job, p.phase, p.detected_at, "
    "p.outbox, p.result_path, p.result_sha256"
)
TILE_SQL = ", ".join(
    ["t.job", "t.number", *(f"t.{c}" for c in (*TILE_COLUMNS, *RECT_COLUMNS)), *(f"j.{c}" for c in JOB_COLUMNS)]
)
TILE_FROM = f"SELECT {TILE_SQL} FROM tile t JOIN job j ON j.id = t.job"


def tile_from(row: tuple[Any, ...]) -> Tile:
    """A tile from a row of TILE_FROM."""
    folder, path, sha256, bytes_, width, height, format_, model, scale, face, traits, note = row[-len(JOB_COLUMNS) :]
    content, recipe = Content(sha256, bytes_, width, height, format_), Recipe(model, scale, bool(face))
    job = Job(row[0], folder, path, content, recipe, _traits_from(traits), note)
    *rest, left, top, width, height = row[2 : -len(JOB_COLUMNS)]
    values = dict(zip(TILE_COLUMNS, rest, strict=True))
    values |= {"state": State(values["state"]), "released": bool(values["released"])}
    return Tile(job=job, number=row[1], rect=Rect(left, top, width, height), **values)


@functools.lru_cache(1024)
def _traits_from(text: str) -> Traits | None:
    known = json.loads(text)
    return Traits(**known) if known else None


def traits_text(traits: Traits) -> str:
    """As the ledger keeps them."""
    return json.dumps(dataclasses.asdict(traits))


def picture_from(row: tuple[Any, ...]) -> Picture:
    """A picture from a row of PICTURE_SQL."""
    id_, folder, path, size, mtime_ns, inode, job, phase, *rest = row
    return Picture(id_, folder, path, Look(size, mtime_ns, inode), job, Phase(phase), *rest)


# A failed job that somebody still has a picture of; one that was withdrawn, or whose pictures left, is nobody's.
FAILED_HERE = (
    "t.state = 'failed' AND EXISTS "
    "(SELECT 1 FROM picture p WHERE p.job = t.job AND p.phase IN ('waiting', 'due', 'failed'))"
)


FETCHED_IN_VAIN = """
    SELECT count(*) FROM tile t WHERE t.state = 'fetched'
    AND EXISTS (SELECT 1 FROM tile o WHERE o.job = t.job AND o.state = 'failed')
"""


def identity_of(db: sqlite3.Connection) -> str:
    """The ledger's own name; made once."""
    return str(db.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()[0])


def tiles_of(db: sqlite3.Connection, job: str) -> list[Tile]:
    """A job's tiles, in order."""
    return [tile_from(row) for row in db.execute(f"{TILE_FROM} WHERE t.job = ? ORDER BY t.number", (job,))]


def whole_of(db: sqlite3.Connection, job: str) -> Whole:
    """A job that is known, with all its tiles."""
    return Whole(tuple(tiles_of(db, job)))


def tile_of(db: sqlite3.Connection, key: tuple[str, int]) -> Tile:
    """A tile as it is now."""
    return tile_from(db.execute(f"{TILE_FROM} WHERE t.job = ? AND t.number = ?", key).fetchone())


def tile_now(db: sqlite3.Connection, tile: Tile) -> Tile:
    """The same tile as it is now; one of a cut that its picture no longer has, has failed."""
    row = db.execute(f"{TILE_FROM} WHERE t.job = ? AND t.number = ?", tile.key).fetchone()
    return tile_from(row) if row else dataclasses.replace(tile, state=State.FAILED, due_at=NEVER)


def insert_job(db: sqlite3.Connection, job_id: str, file: Settled, order: str, at: float) -> list[Tile]:
    """A job with its tiles, admitted."""
    content, recipe = file.content, file.recipe
    values = (
        job_id,
        file.folder,
        file.path,
        *dataclasses.astuple(content),
        recipe.model,
        recipe.scale,
        recipe.face_enhance,
        traits_text(file.traits),
        file.note,
    )
    db.execute(f"INSERT INTO job VALUES ({', '.join('?' * len(values))})", values)
    job = Job(job_id, file.folder, file.path, content, recipe, file.traits, file.note)
    tiles = [Tile(job, n, State.ADMITTED, due_at=at, since=at, rect=rect) for n, rect in enumerate(file.rects)]
    insert_tiles(db, tiles, rank(order, file.path, file.look), State.ADMITTED.value)
    return tiles


def insert_tiles(db: sqlite3.Connection, tiles: list[Tile], rank_: int | bytes, name: str) -> None:
    """Tiles of a job, as they are. name: what the history calls it."""
    names = ("job", "number", "folder", "rank", *TILE_COLUMNS, *RECT_COLUMNS)
    for tile in tiles:
        columns = (*tile.key, tile.job.folder, rank_, *(getattr(tile, column) for column in TILE_COLUMNS))
        columns += dataclasses.astuple(tile.rect)
        db.execute(f"INSERT INTO tile ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", columns)
        write_history(db, tile.since, tile, name, {})


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


def write_asset(db: sqlite3.Connection, ref: str, tile: Tile, at: float) -> None:
    """An uploaded object, or what may become one."""
    db.execute("INSERT OR REPLACE INTO asset VALUES (?, ?, ?, ?)", (ref, *tile.key, at))


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
    """How many tiles are in each state. Of those that ended or stopped, how many jobs; of the failed, those that are
    still somebody's. What is fetched of a job that failed waits for a retry, and is not on its way."""
    rows = db.execute("SELECT state, count(*), sum(number = 0) FROM tile GROUP BY state")
    counts = {State(state): jobs if state == State.DONE else tiles for state, tiles, jobs in rows}
    for state in counts.keys() & set(STOPPED):
        counts[state] = count_stopped(db, state)
    if State.FETCHED in counts and State.FAILED in counts:
        counts[State.FETCHED] -= db.execute(FETCHED_IN_VAIN).fetchone()[0]
    return counts


def count_stopped(db: sqlite3.Connection, state: State) -> int:
    """How many jobs failed and are somebody's, or are held."""
    where = FAILED_HERE if state is State.FAILED else f"t.state = '{state.value}'"
    return int(db.execute(f"SELECT count(DISTINCT t.job) FROM tile t WHERE {where}").fetchone()[0])
