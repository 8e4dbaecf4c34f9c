"""
Joining: the results of a picture's tiles made one picture again, line by line.

Neighbours overlap. A network knows least about the pixels at the edge of what it was given, so the outer quarters of an
overlap are left out, and in the half between one tile fades into the other. Where both agree, nothing changes.

Rows are not put below each other with libvips' `join`: 1,024 lines below the end of one part it lets go of all that the
part was made of, and what the next part still reads of the same tile is then "out of order".
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from daemon.adapters import pixels
from daemon.rules.tiles import Rect

Part = tuple[Any, Rect]
STRIP = 16  # lines


def alike(images: Sequence[Any], bands: int) -> list[Any]:
    """With the same bands of colour (1 or 3) and depth; with alpha where one has it."""
    deep = any(pixels.depth_of(image) == 16 for image in images)
    clear = any(image.hasalpha() for image in images)
    return [_as(image, bands, deep=deep, clear=clear) for image in images]


def _as(image: Any, bands: int, *, deep: bool, clear: bool) -> Any:
    if bands == 1:
        image = pixels.grey(image)
    elif pixels.bands_of(image) < 3:
        rest = [image[1]] if image.hasalpha() else []
        space = "rgb16" if pixels.depth_of(image) == 16 else "srgb"
        image = image[0].bandjoin([image[0], image[0], *rest]).copy(interpretation=space)
    if deep and pixels.depth_of(image) == 8:
        image = (image * 257).cast("ushort").copy(interpretation="rgb16" if bands == 3 else "grey16")
    if clear and not image.hasalpha():
        image = image.bandjoin(pixels.white_of(image))
    return image


def joined(parts: Sequence[Part], size: tuple[int, int]) -> Any:
    """One picture of that size. parts: a grid, row by row, of images that are alike and as large as their places."""
    rows: dict[tuple[int, int], list[Part]] = {}
    for image, rect in parts:
        rows.setdefault((rect.top, rect.bottom), []).append((image, rect))
    spans = sorted(rows)
    lines = [
        _row([image for image, _ in row], [(rect.left, rect.right) for _, rect in row])
        for row in (sorted(rows[span], key=lambda part: part[1].left) for span in spans)
    ]
    whole = _stack(lines, spans, size) if len(lines) > 1 else lines[0]
    assert (whole.width, whole.height) == size, "the tiles cover the picture"
    # All that is above goes in thin strips, whatever comes after; else every tile is held in memory for 400 lines.
    return whole.sequential(tile_height=STRIP) if len(parts) > 1 else whole


def _row(images: list[Any], spans: list[tuple[int, int]]) -> Any:
    """Images side by side. spans: where each begins and ends."""
    ramps = _ramps(spans)
    pieces: list[Any] = []
    at = 0
    for n, (image, (begin, end)) in enumerate(zip(images, spans, strict=True)):
        ramp_begin, ramp_end = ramps[n] if n < len(ramps) else (end, end)
        if ramp_begin > at:
            pieces.append(image.crop(at - begin, 0, ramp_begin - at, image.height))
        if ramp_end > ramp_begin:
            length = ramp_end - ramp_begin
            ours = image.crop(ramp_begin - begin, 0, length, image.height)
            theirs = images[n + 1].crop(ramp_begin - spans[n + 1][0], 0, length, image.height)
            mask = _mask(0, length, length, across=True).embed(0, 0, length, image.height, extend="copy")
            pieces.append(_faded(ours, theirs, mask))
        at = ramp_end
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole.join(piece, "horizontal")
    return whole


def _stack(lines: list[Any], spans: list[tuple[int, int]], size: tuple[int, int]) -> Any:
    """Rows, one below the other, each as wide as the whole. spans: where each begins and ends."""
    whole = lines[0].embed(0, 0, *size)
    for line, (top, _), (begin, end) in zip(lines[1:], spans[1:], _ramps(spans), strict=True):
        mask = _mask(begin, end, size[1], across=False).embed(0, 0, *size, extend="copy")
        whole = _faded(whole, line.embed(0, top, *size), mask)
    return whole


def _ramps(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where each image fades into the next: the middle half of their overlap; none of them touches another."""
    middles = [(before[1] + after[0]) / 2 for before, after in pairwise(spans)]
    ramps = []
    for n, (before, after) in enumerate(pairwise(spans)):
        assert after[0] <= before[1], "neighbours have no gap between them"
        room = min(
            [(before[1] - after[0]) / 4]
            + ([(middles[n] - middles[n - 1]) / 2] if n else [])
            + ([(middles[n + 1] - middles[n]) / 2] if n + 1 < len(middles) else [])
        )
        ramps.append((round(middles[n] - room), round(middles[n] + room)))
    return ramps


def _mask(begin: int, end: int, length: int, *, across: bool) -> Any:
    """A line of so many pixels: 0 up to the beginning, 255 from the end on, rising between them."""
    ramp = bytes(round(255 * (n + 0.5) / (end - begin)) for n in range(end - begin))
    values = bytes(begin) + ramp + b"\xff" * (length - end)
    return pixels.vips().Image.new_from_memory(values, *((length, 1) if across else (1, length)), 1, "uchar")


def _faded(ours: Any, theirs: Any, mask: Any) -> Any:
    """The one where the mask is 0, the other where it is 255; where it is nothing else, only one of them is read."""
    return mask.ifthenelse(theirs, ours, blend=True).copy(interpretation=ours.interpretation)
