"""Settled files, and tiles at any point of their journey, as the ledger takes them."""

import hashlib
from collections.abc import Awaitable
from typing import Protocol

from daemon.rules.faults import Fault
from daemon.rules.job import Bill, Content, Look, Settled, Tile
from daemon.rules.lifecycle import Accepted, Event, Fetched, Intended, State, Succeeded, Uploaded
from daemon.rules.recipe import Recipe
from daemon.rules.tiles import Rect

BILL = Bill(0.004, 16.1)
TWICE = Recipe(scale=2.0)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def settled(
    path: bytes = b"a.png",
    data: bytes = b"a picture",
    *,
    folder: int = 1,
    look: Look | None = None,
    recipe: Recipe = TWICE,
    failure: Fault | None = None,
    detected_at: float = 1_000.0,
    tiles: tuple[Rect, ...] = (),
) -> Settled:
    """A picture of 3 x 2 pixels that holds `data`; with tiles, of as many pixels as they cover."""
    look = look or Look(len(data), 1_700_000_000_000_000_000, 7)
    width, height = max((tile.right for tile in tiles), default=3), max((tile.bottom for tile in tiles), default=2)
    content = Content(sha(data), len(data), width, height, "PNG")
    return Settled(folder, path, look, detected_at, content, recipe, failure, tiles)


class Record(Protocol):
    """What moves a tile: the ledger's own, or the dispatcher's."""

    def __call__(self, tile: Tile, event: Event, *, bill: Bill | None = None) -> Awaitable[Tile]: ...


async def bring(record: Record, tile: Tile, to: State, *, now: float, result: bytes = b"") -> Tile:
    """Take a tile on its usual way, up to a state before DONE. result: what is said to be staged."""
    name = tile.job.id if tile.is_whole else f"{tile.job.id}-{tile.number}"
    url = f"https://storage.test/{name}?s=secret"
    wide, high = tile.job.recipe.result_size(tile.rect.width, tile.rect.height)
    way: dict[State, tuple[Event, Bill | None]] = {
        State.ADMITTED: (Uploaded(f"ref-{name}", url, None, "" if tile.is_whole else "grey"), None),
        State.UPLOADED: (Intended(now, "a fake", url, None), None),
        State.SUBMITTING: (Accepted(f"prediction-{name}"), None),
        State.SUBMITTED: (Succeeded("https://result.test/x.png"), BILL),
        State.READY: (Fetched(sha(result), len(result), wide, high), None),
    }
    while tile.state is not to:
        event, bill = way[tile.state]
        tile = await record(tile, event, bill=bill)
    return tile
