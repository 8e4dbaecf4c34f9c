"""
Likeness: how a picture looks, in a few hundred characters. `daemon.rules.resemblance` compares.

Every pixel is read, once, from top to bottom, so taking it also finds damage anywhere in the file. A first shrinking by
whole numbers is libvips'; the rest is exact averages over a grid of cells, so that a picture and its enlargement have
the same cells, whatever their sizes.
"""

from itertools import pairwise
from typing import Any

from daemon.adapters import pixels
from daemon.rules import resemblance
from daemon.rules.resemblance import CELLS, SMALL, Cells, Look

FINE = 6 * CELLS  # shrunk by libvips to no fewer pixels a side than this


def likeness(image: Any) -> str:
    """The whole picture's likeness."""
    return resemblance.as_text(look(image))


def look(image: Any) -> Look:
    """The same, as values."""
    across, down = max(1, image.width // FINE), max(1, image.height // FINE)
    small = _bands(image).shrinkv(down, ceil=True).shrinkh(across, ceil=True)
    if small.bands == 3:
        small = small.bandjoin(255)
    values = small.cast("float").write_to_memory()
    cells = _averages(
        memoryview(values).cast("f"), small.width, small.height, image.width / across, image.height / down
    )
    return Look(cells, min(image.width, image.height) < SMALL)


def _bands(image: Any) -> Any:
    """Red, green and blue times alpha, and alpha where there is any, in 0 to 255."""
    if pixels.depth_of(image) == 16:
        image = (image / 257).cast("uchar")
    colours = pixels.opaque(image)
    alpha = image[image.bands - 1] if image.hasalpha() else None
    if colours.bands != 3:
        colours = colours[0].bandjoin([colours[0], colours[0]])
    if alpha is None:
        return colours
    return (colours * alpha / 255).rint().cast("uchar").bandjoin(alpha)


def _averages(values: "memoryview[float]", width: int, height: int, exact_width: float, exact_height: float) -> Cells:
    """The average of each cell. exact_width, exact_height: without the part of the last pixel that is not there."""
    row_bytes = width * 4
    columns = _shares(width, exact_width)
    cells: Cells = []
    lines: list[list[float]] = [_line(values[y * row_bytes : (y + 1) * row_bytes], columns) for y in range(height)]
    for shares in _shares(height, exact_height):
        total = [0.0] * (CELLS * 4)
        for y, share in shares:
            for n, value in enumerate(lines[y]):
                total[n] += share * value
        cells += [(total[n], total[n + 1], total[n + 2], total[n + 3]) for n in range(0, CELLS * 4, 4)]
    return cells


def _line(values: "memoryview[float]", columns: list[list[tuple[int, float]]]) -> list[float]:
    return [sum(values[x * 4 + band] * share for x, share in shares) for shares in columns for band in range(4)]


def _shares(count: int, length: float) -> list[list[tuple[int, float]]]:
    """For each cell the pixels that lie in it, each with its share of the cell."""
    edges = [length * n / CELLS for n in range(CELLS + 1)]
    shares = []
    for begin, end in pairwise(edges):
        inside = [(n, min(end, n + 1) - max(begin, n)) for n in range(int(begin), min(count, int(end) + 1))]
        shares.append([(n, part / (end - begin)) for n, part in inside if part > 0])
    return shares
