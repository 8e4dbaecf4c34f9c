"""Fetch: only the whole result, of the size that was asked for, gets into staging."""

from typing import BinaryIO

import pytest
import pyvips
from fakes.predictor import FakePredictor
from shell_kit import House

from daemon.pipeline.fetch import fetch
from daemon.rules.faults import NotAPicture
from daemon.rules.job import Tile
from daemon.rules.lifecycle import State


def encoded(width: int, height: int, suffix: str = ".png") -> bytes:
    data: bytes = (pyvips.Image.black(width, height) + 90).cast("uchar").write_to_buffer(suffix)
    return data


RIGHT = encoded(6, 4)  # The pictures of these tests have 3 x 2 pixels, and are doubled.


class Host(FakePredictor):
    """What stands behind every link."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body

    async def download(self, url: str, sink: BinaryIO, bytes_max: int) -> int:
        sink.write(self.body)
        return len(self.body)


async def fetched(house: House, body: bytes) -> Tile:
    """What becomes of a picture with this result."""
    tile = await house.bring(await house.admit(), State.READY)
    world = house.dispatcher.world
    event = await fetch(tile, Host(body), house.disk, world.pictures, 10**9)
    return await house.dispatcher.record(tile, event)


async def test_the_right_result_is_staged(at_work: House) -> None:
    tile = await fetched(at_work, RIGHT)
    assert (tile.state, tile.result_width, tile.result_height) == (State.FETCHED, 6, 4)
    assert at_work.disk.staged(tile).read_bytes() == RIGHT


@pytest.mark.parametrize(
    "body",
    [
        encoded(6, 2),
        encoded(3, 2),
        encoded(4, 6),
        encoded(60, 40),
        encoded(6, 4, ".jpg"),
        encoded(6, 4, ".webp"),
        RIGHT[:-12],
        b"",
        b"<html>Please log in</html>",
    ],
    ids=["flat", "not enlarged", "turned", "too large", "a JPEG", "a WebP", "cut", "nothing", "a page"],
)
async def test_any_other_is_not(at_work: House, body: bytes) -> None:
    with pytest.raises(NotAPicture):
        await fetched(at_work, body)
    assert list((at_work.config.state_dir / "staging").iterdir()) == []


@pytest.mark.parametrize("size", [(7, 4), (5, 4), (6, 3), (7, 5)])
async def test_a_pixel_more_or_less_is_rounding(at_work: House, size: tuple[int, int]) -> None:
    tile = await fetched(at_work, encoded(*size))
    assert (tile.state, tile.result_width, tile.result_height) == (State.FETCHED, *size)
