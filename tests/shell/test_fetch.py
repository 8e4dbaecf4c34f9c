"""Fetch: only the whole result, of the size that was asked for, gets into staging."""

import dataclasses
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.pictures import AnyPictures
from shell_kit import Host, House, encoded, house

from daemon.adapters import ledger_desk
from daemon.pipeline.fetch import fetch
from daemon.rules.faults import NotAPicture, Unlike
from daemon.rules.job import Tile
from daemon.rules.lifecycle import State
from daemon.rules.reactions import UNLIKE_MAX
from daemon.rules.traits import Measured

RIGHT = encoded(6, 4)  # The pictures of these tests have 3 x 2 pixels, and are doubled.


async def fetched(house: House, body: bytes) -> Tile:
    """What becomes of a picture with this result."""
    tile = await house.bring(await house.admit(), State.READY)
    world = house.dispatcher.world
    event = await fetch(tile, Host(body), house.disk, world.pictures)
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


class Doubter(AnyPictures):
    """Every result looks like another picture."""

    async def measure(self, path: Path, pixels_max: int, likeness: str = "") -> Measured:
        raise Unlike("It is another picture.")


async def rejected(house: House) -> tuple[Tile, Path]:
    """One that failed since all that came was another picture; and where that lies."""
    house.dispatcher.world = dataclasses.replace(house.dispatcher.world, predictor=Host(RIGHT))
    tile = await house.bring(await house.admit(), State.READY)
    for _ in range(UNLIKE_MAX):
        await house.dispatcher._fetch(await house.now(tile))
    return await house.now(tile), house.disk.staged(tile).with_suffix(".rejected.png")


async def test_another_picture_is_kept_for_a_person_who_is_told_where(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, pictures=Doubter()) as at_work:
        tile, place = await rejected(at_work)
        assert (tile.state, tile.reason) == (State.FAILED, "It is another picture.")
        assert str(place) in tile.remedy
    async with house(tmp_path, clock) as at_work:
        assert place.read_bytes() == RIGHT, "also after a restart"


async def test_it_goes_with_a_retry_that_succeeds(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, pictures=Doubter()) as at_work:
        tile, place = await rejected(at_work)
    async with house(tmp_path, clock) as at_work:
        await at_work.ledger.write(lambda db: ledger_desk.retry(db, [tile.job.id], clock.wall()))
        tile = await at_work.bring(await at_work.admit(), State.READY)
        assert place.exists()
        tile = await at_work.dispatcher.record(
            tile, await fetch(tile, Host(RIGHT), at_work.disk, at_work.dispatcher.world.pictures)
        )
        [(picture, whole)] = await at_work.dispatcher.delivery.find(at_work.folders[0].id, 9, set())
        await at_work.dispatcher.delivery.write(picture, whole)
        assert (await at_work.now(tile)).state is State.DONE
        assert list(place.parent.iterdir()) == []


async def test_it_goes_when_its_picture_is_another_one(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, pictures=Doubter()) as at_work:
        _, place = await rejected(at_work)
        await at_work.admit(data=b"another picture")
    async with house(tmp_path, clock) as at_work:
        assert not place.exists()
