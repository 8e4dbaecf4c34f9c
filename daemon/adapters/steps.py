"""
Steps: how tiles move in the ledger, as functions on a connection, each to be called inside a transaction.

What belongs together is written together here: a tile's state, its pictures' phases, its bill, its line in the history,
and what it means for the other tiles of a picture that was cut: once one of them has failed or is held, those that are
not paid for stop with it. A transition from a state that the tile has left meanwhile raises AssertionError: a defect,
and nothing changes; but where the tile was stopped so while somebody worked on it, what he learnt comes too late.
"""

import dataclasses
import sqlite3
from collections.abc import Iterable

from daemon.adapters.records import (
    TILE_COLUMNS,
    identity_of,
    insert_tiles,
    set_phases,
    tile_now,
    tiles_of,
    traits_text,
    whole_of,
    write_asset,
    write_history,
)
from daemon.rules import lifecycle
from daemon.rules.admission import rank
from daemon.rules.job import Bill, Settled, Tile
from daemon.rules.lifecycle import (
    STOPPED,
    UNPAID,
    Event,
    Failed,
    Held,
    Released,
    Retried,
    State,
    Uploaded,
    Wanted,
    Withdrawn,
    Written,
)
from daemon.rules.names import KEY, asset_key

QUIET_FIELDS = {"api", "asset_url", "output_url", "asset_ref", "asset_expires_at", "intent_at", "due_at", "likeness"}
CUT_ANEW = "cut anew"  # of each tile, in the history: those of the same numbers before it were others
# The day of a bill is the day when it was first heard of.
BILL = (
    "INSERT INTO bill VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (prediction) DO UPDATE "
    "SET cost_usd = excluded.cost_usd, predict_seconds = excluded.predict_seconds"
)


def record(
    db: sqlite3.Connection, tile: Tile, event: Event, at: float, wait: float = 0.0, bill: Bill | None = None
) -> Tile:
    """Advance a tile, with all that hangs on it; returns it as it is now."""
    steps = [(tile, event)]
    if not tile.is_whole:
        steps += [(other, event) for other in tiles_of(db, tile.job.id) if _goes_along(other, tile, event, at)]
    return record_all(db, steps, at, wait, bill)


def _goes_along(other: Tile, tile: Tile, event: Event, at: float) -> bool:
    """Whether another tile of the picture takes the same step: a result is wanted again as a whole, or not at all."""
    if other.number == tile.number:
        return False
    if isinstance(event, Wanted | Held) and tile.state is State.DONE:
        return other.state is State.DONE
    # Those that a budget stopped together. A person's release says itself which.
    return isinstance(event, Released) and not event.by_person and other.state is State.HELD and other.due_at <= at


def record_all(
    db: sqlite3.Connection, steps: Iterable[tuple[Tile, Event]], at: float, wait: float = 0.0, bill: Bill | None = None
) -> Tile:
    """Advance tiles of one job together; returns the first as it is now. wait, bill: the first one's."""
    (tile, event), *more = steps
    new = _step(db, tile, event, at, wait, bill)
    for other, its_event in more:
        _step(db, other, its_event, at)
    if not tile.is_whole:
        _stop_others(db, tile.job.id, event, at)
        new = tile_now(db, tile)
    set_phases(db, tile.job.id)
    return new


def _step(
    db: sqlite3.Connection,
    tile: Tile,
    event: Event,
    at: float,
    wait: float = 0.0,
    bill: Bill | None = None,
    *,
    stops: bool = False,
) -> Tile:
    """One tile's part. stops: not by its own doing, so that an upload may be under way."""
    new = lifecycle.advance(tile, event, at)
    if wait:
        new = dataclasses.replace(new, due_at=at + wait)
    # Where it fails in the moment of its admission, no upload can have begun.
    is_dropped = stops or (isinstance(event, Failed | Withdrawn) and at != tile.since)
    is_dropped = is_dropped and tile.state is State.ADMITTED
    if is_dropped:
        new = dataclasses.replace(new, uploads=tile.uploads + 1)
    if not update(db, tile, new):
        if isinstance(event, Uploaded):
            write_asset(db, event.asset_ref, tile, at)  # Nobody will read it.
        return new
    if isinstance(event, Uploaded):
        write_asset(db, event.asset_ref, tile, at)
    if is_dropped:
        write_asset(db, KEY + asset_key(identity_of(db), *tile.key, tile.uploads), tile, at)
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
    return new


def _stop_others(db: sqlite3.Connection, job: str, event: Event, at: float) -> None:
    """Of a picture that lacks a part nothing more is paid for: its unpaid tiles fail, or are held, with that one."""
    whole = whole_of(db, job)
    cause = whole.standing
    if cause.state not in STOPPED:
        return
    stop: Event = Failed(cause.reason, cause.remedy, cause.blame)
    if cause.state is State.HELD:
        stop = Held(cause.reason, cause.remedy, cause.due_at)
    elif isinstance(event, Withdrawn):
        stop = event
    for tile in whole.tiles:
        if tile.state in UNPAID:
            _step(db, tile, stop, at, stops=True)


def update(db: sqlite3.Connection, old: Tile, new: Tile) -> bool:
    """Replace a tile's columns; it must still be what it was.

    False, and nothing done, where it was stopped with another tile of its picture while somebody worked on it.
    """
    sets = ", ".join(f"{column} = ?" for column in TILE_COLUMNS)
    done = db.execute(
        f"UPDATE tile SET {sets} WHERE job = ? AND number = ? AND state = ? AND since = ?",
        [*(getattr(new, column) for column in TILE_COLUMNS), *old.key, old.state, old.since],
    )
    if done.rowcount != 1 and not old.is_whole and old.state in UNPAID:
        now = tile_now(db, old)
        assert now.state in (*STOPPED, *UNPAID), f"tile {old.key} was taken from {old.state} to {now.state} by another"
        return False
    assert done.rowcount == 1, f"tile {old.key} was no longer {old.state}"
    return True


def retry(db: sqlite3.Connection, tiles: list[Tile], file: Settled, order: str, at: float) -> None:
    """The content of a failed job was dropped in again: what failed is tried again, and nothing else.

    Where nothing of it came to anything, it may be cut in another way than it was; runs that were paid stay counted.
    """
    job = tiles[0].job.id
    db.execute(
        "UPDATE job SET width = ?, height = ?, format = ?, traits = ?, note = ? WHERE id = ?",
        (file.content.width, file.content.height, file.content.format, traits_text(file.traits), file.note, job),
    )
    failed = [tile for tile in tiles if tile.state is State.FAILED]
    if len(failed) < len(tiles) or file.rects == tuple(tile.rect for tile in tiles):
        record_all(db, [(tile, Retried()) for tile in failed], at)
        return
    db.execute("DELETE FROM tile WHERE job = ?", (job,))
    now = dataclasses.replace(tiles[0].job, content=file.content, traits=file.traits, note=file.note)
    uploads = max(tile.uploads for tile in tiles)  # No key of theirs is used again.
    anew = [
        Tile(now, n, State.ADMITTED, due_at=at, since=at, rect=rect, uploads=uploads)
        for n, rect in enumerate(file.rects)
    ]
    for n, old in enumerate(tiles[: len(anew)]):
        anew[n] = dataclasses.replace(anew[n], submits=old.submits, submits_granted=old.submits_granted)
    insert_tiles(db, anew, rank(order, file.path, file.look), CUT_ANEW)


def finish(db: sqlite3.Connection, job: str, at: float) -> bool:
    """Where nobody waits for a fetched result any more, its job is done. Returns whether it is."""
    tiles = tiles_of(db, job)
    waiting = db.execute("SELECT 1 FROM picture WHERE job = ? AND phase IN ('waiting', 'due')", (job,)).fetchone()
    if waiting or any(tile.state is not State.FETCHED for tile in tiles):
        return False
    record_all(db, [(tile, Written()) for tile in tiles], at)
    return True
