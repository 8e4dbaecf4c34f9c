"""
Tiling: how a picture is cut for the network, so that any size passes through bounded memory. Pure.

Each tile's own part is `[x, x + width)`; the network sees a window that is larger by the overlap, and what lies outside
the tile's own part is thrown away. Around the picture lie `EDGE` more pixels that repeat its rim (clamped, not
reflected), so that the network's own zeros beyond its input are never near what is kept. With an overlap of the
network's reach the tiles are exactly what the whole picture would have given.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

EDGE = 10
OVERLAP_MIN = 16
# Compact networks reach 18 and 34 pixels and become exact. The large one reaches hundreds, and hardly depends on those
# beyond this; a wider overlap would only cost time.
EXACT_REACH_MAX = 40
OVERLAP_OF_THE_LARGE = 24
# A tile's own part is no smaller: below that the overlap is nearly all the work.
INNER_MIN = 16
# Nor is a window larger: more gains nothing, and progress would not show.
SIDE_MAX = 512


# What rows of the picture, resampling and packing may take, and by how much an estimate may be wrong.
SPARE = 0.15
SPARE_BYTES_MIN = 40 << 20
# The result of a pixel alone takes about that: a smaller estimate is a kernel that does not tell.
BY_PIXEL_MIN = 500.0


@dataclass(frozen=True, slots=True)
class Span:
    """Along one axis, in source pixels: [start, stop) is kept, [low, high) is seen; low may be below 0, high beyond."""

    start: int
    stop: int
    low: int
    high: int


def overlap_of(reach: int) -> int:
    """Source pixels that a window has more on each side."""
    return max(OVERLAP_MIN, reach if reach <= EXACT_REACH_MAX else OVERLAP_OF_THE_LARGE)


def spans(length: int, side: int, overlap: int) -> list[Span]:
    """Cut `length` pixels into parts of about the same size, none of whose windows has more than `side` pixels."""
    edge = min(EDGE, overlap)
    if length + 2 * edge <= side:
        return [Span(0, length, -edge, length + edge)]
    count = math.ceil(length / max(1, side - 2 * overlap))
    cuts = [n * length // count for n in range(count + 1)]
    return [
        Span(start, stop, max(start - overlap, -edge), min(stop + overlap, length + edge))
        for start, stop in pairwise(cuts)
    ]


def rows(width: int, height: int, side: int, overlap: int) -> Iterator[tuple[Span, list[Span]]]:
    """The tiles row by row: the row's span down the picture, and the spans across it."""
    across = spans(width, side, overlap)
    for down in spans(height, side, overlap):
        yield down, across


@dataclass(frozen=True, slots=True)
class Appetite:
    """What a network takes, as measured. fixed: bytes however small the window. by_pixel: bytes for each of its."""

    fixed: int
    by_pixel: float

    @classmethod
    def between(cls, small: tuple[int, int], large: tuple[int, int]) -> "Appetite":
        """From two runs, each the pixels of its window and the most bytes that were taken."""
        (few, little), (many, much) = small, large
        by_pixel = max(BY_PIXEL_MIN, (much - little) / (many - few))
        return cls(max(0, round(little - few * by_pixel)), by_pixel)

    def bytes_(self, side: int) -> int:
        """What a square window of this side takes."""
        return round(self.fixed + self.by_pixel * side * side)

    def least(self, overlap: int) -> int:
        """The limit below which there is no window."""
        wanted = self.bytes_(INNER_MIN + 2 * overlap)
        return round(max(wanted + SPARE_BYTES_MIN, wanted / (1 - SPARE)))

    def side(self, bytes_max: int, overlap: int) -> int | None:
        """The largest window that fits beside all else; None where not even the smallest does."""
        least = INNER_MIN + 2 * overlap
        room = bytes_max - max(SPARE_BYTES_MIN, bytes_max * SPARE) - self.fixed
        if self.bytes_(least) > room + self.fixed:
            return None
        most = SIDE_MAX if self.by_pixel == 0 else math.isqrt(int(room / self.by_pixel))
        return max(least, min(SIDE_MAX, most))
