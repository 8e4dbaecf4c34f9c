"""
Tiles: how a picture that is larger than the model takes is cut, and where the results of its tiles belong. Pure.

The fewest tiles that fit, nearly equal, in rows and columns; neighbours overlap, so that each inner edge lies among the
other's pixels and can be blended away. Positions are such that they fall on whole pixels of the result wherever the
scale allows it.
"""

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

GRID_MAX = 32  # source pixels: positions are multiples of the scale's denominator where that is no larger


@dataclass(frozen=True, slots=True)
class Rect:
    """A part of a picture, in pixels; left and top of the picture are 0."""

    left: int
    top: int
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    @property
    def right(self) -> int:
        """The first column behind it."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """The first row below it."""
        return self.top + self.height


def cut(width: int, height: int, pixels_max: int, overlap: int, scale: float) -> tuple[Rect, ...]:
    """The tiles of an upright picture, row by row; one where it fits. overlap: pixels beyond each inner edge.

    Raises ValueError where no tile with that overlap is small enough.
    """
    if width * height <= pixels_max:
        return (Rect(0, 0, width, height),)
    step = Fraction(scale).limit_denominator(1000).denominator
    step = step if step <= GRID_MAX else 1
    best: tuple[int, int, int] | None = None
    for rows in range(1, height + 1):
        if best is not None and rows > best[0]:
            break
        tallest = _longest(height, rows, overlap, step)
        columns = _columns(width, pixels_max // max(1, tallest), overlap, step)
        if columns is not None and (best is None or (rows * columns, rows) < best[:2]):
            best = (rows * columns, rows, columns)
    if best is None:
        raise ValueError(f"no tile with an overlap of {overlap} pixels has {pixels_max} pixels or fewer")
    _, rows, columns = best
    return tuple(
        Rect(left, top, right - left, bottom - top)
        for top, bottom in _spans(height, rows, overlap, step)
        for left, right in _spans(width, columns, overlap, step)
    )


def shrunk(width: int, height: int, pixels_max: int) -> tuple[int, int]:
    """The largest size of the same shape that fits, pixels; the size itself where it does."""
    factor = min(1.0, math.sqrt(pixels_max / (width * height)))
    return max(1, math.floor(width * factor)), max(1, math.floor(height * factor))


def scaled(tile: Rect, scale: float, size: tuple[int, int]) -> Rect:
    """Where a tile's result belongs in the whole result of that size."""
    left, top = round(tile.left * scale), round(tile.top * scale)
    right, bottom = min(size[0], round(tile.right * scale)), min(size[1], round(tile.bottom * scale))
    return Rect(left, top, right - left, bottom - top)


def _columns(width: int, longest: int, overlap: int, step: int) -> int | None:
    """How many columns there have to be so that none is wider than `longest`."""
    if width <= longest:
        return 1
    room = longest - 2 * overlap
    if room < step:
        return None
    count = max(2, math.ceil(width / longest))
    while _longest(width, count, overlap, step) > longest:
        count += 1
        if count > math.ceil(width / step):
            return None
    return count


def _longest(length: int, count: int, overlap: int, step: int) -> int:
    return max(end - begin for begin, end in _spans(length, count, overlap, step))


def _spans(length: int, count: int, overlap: int, step: int) -> list[tuple[int, int]]:
    """Begin and end of each of `count` parts of a length, with their overlaps."""
    edges = [min(length, round(length * n / count / step) * step) for n in range(count)] + [length]
    reach = math.ceil(overlap / step) * step
    return [(max(0, begin - reach), min(length, end + reach)) for begin, end in itertools.pairwise(edges)]
