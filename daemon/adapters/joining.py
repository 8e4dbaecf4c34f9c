"""
Joining: the results of a picture's tiles made one picture again, line by line.

Neighbours overlap. A network knows least about the pixels at the edge of what it was given, so the outer quarters of an
overlap are left out, and in the half between one tile fades into the other. Where both agree, nothing changes.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from daemon.adapters import pixels
from daemon.rules.tiles import Rect

Part = tuple[Any, Rect]


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
        _line([image for image, _ in row], [(rect.left, rect.right) for _, rect in row], across=True)
        for row in (sorted(rows[span], key=lambda part: part[1].left) for span in spans)
    ]
    whole = _line(lines, spans, across=False)
    assert (whole.width, whole.height) == size, "the tiles cover the picture"
    return whole


def _line(images: list[Any], spans: list[tuple[int, int]], *, across: bool) -> Any:
    """Images side by side, or one below the other. spans: where each begins and ends."""
    ramps = _ramps(spans)
    pieces: list[Any] = []
    at = 0
    for n, (image, (begin, end)) in enumerate(zip(images, spans, strict=True)):
        ramp_begin, ramp_end = ramps[n] if n < len(ramps) else (end, end)
        if ramp_begin > at:
            pieces.append(_slice(image, at - begin, ramp_begin - at, across=across))
        if ramp_end > ramp_begin:
            length = ramp_end - ramp_begin
            ours = _slice(image, ramp_begin - begin, length, across=across)
            theirs = _slice(images[n + 1], ramp_begin - spans[n + 1][0], length, across=across)
            pieces.append(_faded(ours, theirs, length, across=across))
        at = ramp_end
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole.join(piece, "horizontal" if across else "vertical")
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


def _slice(image: Any, begin: int, length: int, *, across: bool) -> Any:
    if across:
        return image.crop(begin, 0, length, image.height)
    return image.crop(0, begin, image.width, length)


def _faded(ours: Any, theirs: Any, length: int, *, across: bool) -> Any:
    """The one at the beginning, the other at the end."""
    place = pixels.vips().Image.xyz(ours.width, ours.height)[0 if across else 1]
    share = (place + 0.5) / length
    return (ours + (theirs - ours) * share).rint().cast(ours.format).copy(interpretation=ours.interpretation)
