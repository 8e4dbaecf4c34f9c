"""Cutting: everything once, nothing too large, and the memory it may take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.engine.tiling import EDGE, INNER_MIN, SIDE_MAX, Appetite, overlap_of, rows, spans


@given(
    length=st.integers(1, 5000),
    overlap=st.integers(0, 40),
    spare=st.integers(0, 300),
)
def test_every_pixel_is_made_once_and_its_surroundings_are_seen(length: int, overlap: int, spare: int) -> None:
    side = INNER_MIN + 2 * overlap + spare
    found = spans(length, side, overlap)
    edge = min(EDGE, overlap)
    assert [found[0].start, *(each.stop for each in found)] == [*(each.start for each in found), length]
    for each in found:
        assert each.start < each.stop
        assert each.high - each.low <= side
        assert each.low == max(each.start - overlap, -edge) or len(found) == 1
        assert each.high == min(each.stop + overlap, length + edge) or len(found) == 1
    sizes = [each.stop - each.start for each in found]
    assert max(sizes) - min(sizes) <= 1


def test_tiles_come_in_rows_from_the_top() -> None:
    plan = list(rows(100, 50, 64, 16))
    assert [down.start for down, _ in plan] == sorted(down.start for down, _ in plan)
    assert all(len(across) == len(plan[0][1]) for _, across in plan)


@pytest.mark.parametrize(("reach", "overlap"), [(1, 16), (18, 18), (34, 34), (40, 40), (351, 24)])
def test_the_overlap_makes_compact_networks_exact(reach: int, overlap: int) -> None:
    assert overlap_of(reach) == overlap


def test_memory_chooses_the_window() -> None:
    appetite = Appetite.between((32**2, 100_000_000 + 1024 * 3000), (64**2, 100_000_000 + 4096 * 3000))
    assert appetite == Appetite(100_000_000, 3000)
    side = appetite.side(256 << 20, 24)
    assert side is not None
    assert appetite.bytes_(side) <= (256 - 40) << 20 < appetite.bytes_(side + 1)
    assert appetite.side(appetite.least(24), 24) == 16 + 48
    assert appetite.side(appetite.least(24) - 100, 24) is None
    assert appetite.side(10**12, 24) == SIDE_MAX
    assert appetite.side(120_000_000, 24) is None
    assert Appetite(0, 0.0).side(64 << 20, 24) == SIDE_MAX
