"""
Admission: what a settled file means, given what the ledger already knows. Pure.

The same content under the same recipe is paid for once; a changed file under a known name is a new picture; a failed
one that is dropped in again is another try.
"""

import contextlib
from enum import StrEnum
from typing import NamedTuple

from daemon.rules.faults import NotAPicture
from daemon.rules.job import Content, Look, Phase, Picture, Tile
from daemon.rules.lifecycle import State
from daemon.rules.tiles import TILES_MAX, Rect, cut

PIXELS_MAX = 1_000_000_000  # what is larger is not even decoded
AS_TAKEN = "The service takes JPEG, PNG and WebP; save the picture as one of these."


class Enough(NamedTuple):
    """How large a picture has to be to need no upscaling, in pixels: its sides, and all of it; 0 asks for nothing."""

    longer: int = 0
    shorter: int = 0
    pixels: int = 0


class Decision(StrEnum):
    """What to record for a settled file."""

    NEW = "new"  # a new job
    JOIN = "join"  # another picture of a job that we have
    RETRY = "retry"  # the content of a failed job, dropped in again
    SAME = "same"  # delivered before, and still there: only its stat is new


def decide(known: Picture | None, job: str, state: State | None, source_stays: bool) -> Decision:
    """known: the picture under this name, if any. state: the job's, None where there is none.

    source_stays: whether delivered pictures stay in the inbox (`after = "keep"`); then a touched one is not a new drop.
    """
    if state is None:
        return Decision.NEW
    if state is State.FAILED:
        return Decision.RETRY
    if known is not None and known.job == job and known.phase is Phase.DELIVERED and source_stays:
        return Decision.SAME
    return Decision.JOIN


def parts(
    content: Content, scale: float, pixels_max: int, *, oversize: str, overlap: int
) -> tuple[Rect, ...] | NotAPicture:
    """What is to be sent of a decodable picture, or why it cannot be sent. oversize: tile, shrink or fail."""
    if oversize == "tile" and content.pixels <= TILES_MAX * pixels_max:
        with contextlib.suppress(ValueError):  # No part of it would be small enough.
            return cut(content.width, content.height, pixels_max, overlap, scale)
    if oversize == "shrink":
        return (content.rect,)
    return refusal(content, pixels_max) or (content.rect,)


def outdated(tile: Tile, pixels_max: int, *, shrinks: bool) -> str:
    """Why what was decided when its picture was admitted does not hold any more, a sentence; or "".

    shrinks: whether a folder that has the picture wants it made smaller.
    """
    if tile.job.traits is None:
        return "An older esrgand admitted it, and did not look at all that is in it; it is looked at again."
    if tile.rect.pixels > pixels_max and not shrinks:
        return "The model takes smaller pictures than when it was admitted; it is looked at again."
    return ""


def is_large_enough(content: Content, skip_above: Enough | None) -> bool:
    """Whether a picture needs no upscaling. A portrait is measured as it would be lying on its side."""
    if skip_above is None or not content.format:
        return False
    sides = sorted((content.width, content.height), reverse=True)
    return sides[0] >= skip_above.longer and sides[1] >= skip_above.shorter and content.pixels >= skip_above.pixels


def refusal(content: Content, pixels_max: int) -> NotAPicture | None:
    """Why a decodable picture cannot be sent in one piece, or None."""
    if content.pixels > pixels_max:
        return NotAPicture(
            f"The picture has {content.width} x {content.height} = {content.pixels / 1e6:.1f} megapixels; "
            f"the model takes {pixels_max / 1e6:.1f} in one piece.",
            remedy="Make the picture smaller and drop it in again.",
        )
    return None


def rank(order: str, path: bytes, look: Look) -> int | bytes:
    """What a folder's order sorts by, smallest first. order: oldest, newest, smallest or name."""
    match order:
        case "newest":
            return -look.mtime_ns
        case "smallest":
            return look.size
        case "name":
            return path.lower()
        case _:
            return look.mtime_ns
