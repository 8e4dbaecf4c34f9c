"""Tiles: they cover the picture, overlap as they should, are small enough, and so are the places of their results."""

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.rules.recipe import Recipe
from daemon.rules.tiles import GRID_MAX, TILES_MAX, Rect, cut, scaled, shrunk

sides = st.one_of(st.integers(1, 400), st.sampled_from([1, 2, 3, 60_000]))
overlaps = st.sampled_from([0, 1, 8, 32, 512])
scales = st.sampled_from([0.33, 0.5, 1, 1.5, 2, 2.5, 3, 3.14, 4, 10])


def spans(tiles: tuple[Rect, ...]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Of the columns and of the rows."""
    columns = sorted({(tile.left, tile.right) for tile in tiles})
    rows = sorted({(tile.top, tile.bottom) for tile in tiles})
    assert len(tiles) == len(set(tiles)) == len(columns) * len(rows), "it is a grid"
    return columns, rows


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.sampled_from([100, 1000, 20_000]), overlaps, scales)
def test_tiles_cover_the_picture(width: int, height: int, pixels_max: int, overlap: int, scale: float) -> None:
    try:
        tiles = cut(width, height, pixels_max, overlap, scale)
    except ValueError:
        widest = 2 * overlap + GRID_MAX
        assert widest * min(width, height, widest) > pixels_max or width * height > pixels_max * TILES_MAX / 9
        return
    assert len(tiles) <= TILES_MAX
    assert max(tile.pixels for tile in tiles) <= pixels_max
    assert list(tiles) == sorted(tiles, key=lambda tile: (tile.top, tile.left)), "row by row"
    size = Recipe(scale=scale).result_size(width, height)
    places = [scaled(tile, scale, size) for tile in tiles]
    for found, whole in zip(spans(tiles), (width, height), strict=True):
        assert (found[0][0], found[-1][1]) == (0, whole)
        for before, after in pairwise(found):
            # At least so many: where the scale is a fraction, edges are moved outwards to whole pixels of the result.
            assert before[1] - after[0] >= min(2 * overlap, before[1], whole - after[0])
    assert min(place.left for place in places) == min(place.top for place in places) == 0
    assert (max(place.right for place in places), max(place.bottom for place in places)) == size
    for tile, place in zip(tiles, places, strict=True):
        wanted = Recipe(scale=scale).result_size(tile.width, tile.height)
        # What the service makes of a tile is its place, but for what is rounded.
        assert max(abs(place.width - wanted[0]), abs(place.height - wanted[1])) <= 1
        assert min(place.width, place.height) >= 1
    for (_, end), (begin, _) in pairwise(sorted({(place.left, place.right) for place in places})):
        assert begin <= end, "nothing between them"


@pytest.mark.parametrize("scale", [1, 1.5, 2, 2.5, 3, 4])
def test_places_are_whole_pixels_where_the_scale_allows_it(scale: float) -> None:
    for tile in cut(997, 601, 20_000, 16, scale):
        assert (tile.left * scale % 1, tile.top * scale % 1) == (0, 0)


def test_fewest_tiles() -> None:
    """A camera's picture, and a panorama of the same size."""
    assert len(cut(6000, 4000, 2_096_704, 32, 4)) == 14
    assert len(cut(24_000, 1000, 2_096_704, 32, 4)) == 12


@pytest.mark.parametrize("size", [(60_000, 3000), (100_000, 2600), (1_000_000, 260), (16_000, 16_000)])
def test_what_cannot_be_cut_is_known_soon(size: tuple[int, int]) -> None:
    """A large overlap leaves little of each tile; the loop waits for the answer. (Without the limit: 18 seconds.)"""
    for overlap in (32, 512):
        for width, height in (size, size[::-1]):
            with contextlib.suppress(ValueError):
                assert len(cut(width, height, 2_096_704, overlap, 4)) <= TILES_MAX


@given(sides, sides, st.integers(1, 5000))
def test_shrunk_fits(width: int, height: int, pixels_max: int) -> None:
    wide, high = shrunk(width, height, pixels_max)
    assert 1 <= wide <= width
    assert 1 <= high <= height
    assert wide * high <= pixels_max
