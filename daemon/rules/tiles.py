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

TILES_MAX = 128  # of two megapixels: some 250, and half a dollar; what is larger is hardly a photograph
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


def cut(
    width: int, height: int, pixels_max: int, overlap: int, scale: float, count_max: int = TILES_MAX
) -> tuple[Rect, ...]:
    """The tiles of an upright picture, row by row; one where it fits. overlap: pixels beyond each inner edge.

    Raises ValueError where no tile with that overlap is small enough, or more than `count_max` would be needed.
    """
    if width * height <= pixels_max:
        return (Rect(0, 0, width, height),)
    step = Fraction(scale).limit_denominator(1000).denominator
    step = step if step <= GRID_MAX else 1
    best: tuple[int, int, int] | None = None
    for rows in range(1, min(height, count_max) + 1):
        if best is not None and rows > best[0]:
            break
        tallest = _longest(height, rows, overlap, step)
        columns = _columns(width, pixels_max // max(1, tallest), overlap, step, count_max // rows)
        if columns is not None and (best is None or (rows * columns, rows) < best[:2]):
            best = (rows * columns, rows, columns)
    if best is None:
        raise ValueError(f"{count_max} tiles with an overlap of {overlap} pixels have more than {pixels_max} pixels")
    _, rows, columns = best
    return tuple(
        Rect(left, top, right - left, bottom - top)
        for top, bottom in _spans(height, rows, overlap, step)
        for left, right in _spans(width, columns, overlap, step)
    )


def shrunk(width: int, height: int, pixels_max: int) -> tuple[int, int]:
    """The largest size of the same shape that fits, pixels; the size itself where it does."""
    factor = min(1.0, math.sqrt(pixels_max / (width * height)))
    wide, high = max(1, math.floor(width * factor)), max(1, math.floor(height * factor))
    # A line cannot become thinner.
    return min(wide, pixels_max // high or 1), min(high, pixels_max // wide or 1)


def scaled(tile: Rect, scale: float, size: tuple[int, int]) -> Rect:
    """Where a tile's result belongs in the whole result of that size; it has a pixel at least."""
    left, top = min(size[0] - 1, round(tile.left * scale)), min(size[1] - 1, round(tile.top * scale))
    right, bottom = min(size[0], round(tile.right * scale)), min(size[1], round(tile.bottom * scale))
    return Rect(left, top, max(1, right - left), max(1, bottom - top))


def _columns(width: int, longest: int, overlap: int, step: int, count_max: int) -> int | None:
    """How many columns there have to be so that none is wider than `longest`."""
    if width <= longest:
        return 1
    for count in range(max(2, math.ceil(width / max(1, longest))), min(count_max, math.ceil(width / step)) + 1):
        if _longest(width, count, overlap, step) <= longest:
            return count
    return None


def _longest(length: int, count: int, overlap: int, step: int) -> int:
    return max(end - begin for begin, end in _spans(length, count, overlap, step))


def _spans(length: int, count: int, overlap: int, step: int) -> list[tuple[int, int]]:
    """Begin and end of each of `count` parts of a length, with their overlaps."""
    edges = [min(length, round(length * n / count / step) * step) for n in range(count)] + [length]
    reach = math.ceil(overlap / step) * step
    return [(max(0, begin - reach), min(length, end + reach)) for begin, end in itertools.pairwise(edges)]
