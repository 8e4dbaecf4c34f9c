"""Pictures that are large enough: from the inbox to the outbox as they are, with nothing sent and nothing paid."""

import dataclasses
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fakes.clock import FakeClock
from fakes.facts import settled
from shell_kit import House, house

import daemon
from daemon.pipeline.write import LARGE_ENOUGH
from daemon.rules.admission import Decision
from daemon.rules.job import Tile
from daemon.rules.lifecycle import NEVER, Held, State
from daemon.rules.recipe import UNCHANGED

SCHEMA = json.loads((Path(daemon.__file__).parent / "sidecar.schema.json").read_text())
DATA = b"a large picture"


async def admit(house: House, path: str = "a.png", data: bytes = DATA, held: Held | None = None) -> Tile:
    """Drop a picture that is large enough, and record it."""
    house.drop(path, data)
    at_work = house.folders[0]
    look = await at_work.inbox.look(os.fsencode(path))
    assert look is not None
    file = settled(os.fsencode(path), data, folder=at_work.id, look=look, recipe=UNCHANGED)
    await house.ledger.admit(file, "oldest", at_work.config.after == "keep", held, house.clock.wall())
    at_work.detector.admitted(file.path, look)
    return await house.ledger.tile((UNCHANGED.job_id(file.content.sha256), 0))


async def deliver(house: House) -> int:
    """Write all that is due now, once; how many that was."""
    due = await house.dispatcher.delivery.find(house.folders[0].id, 99, set())
    for picture, whole in due:
        await house.dispatcher.delivery.write(picture, whole)
    return len(due)


def sidecar(house: House, name: str = "a_x1.png.json") -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((house.outbox / name).read_text())
    jsonschema.validate(facts, SCHEMA)
    return facts


@pytest.fixture
async def shop(tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    async with house(tmp_path, clock) as shop:
        yield shop


async def test_it_is_copied_as_it_is_and_nothing_is_paid(shop: House) -> None:
    tile = await admit(shop)
    assert (tile.state, tile.submits) == (State.FETCHED, 0)
    assert await deliver(shop) == 1
    assert (shop.outbox / "a_x1.png").read_bytes() == DATA
    facts = sidecar(shop)
    assert facts["warnings"] == [LARGE_ENOUGH]
    assert facts["recipe"] == {"model": "none", "scale": 1, "face_enhance": False}
    assert facts["result"]["sha256"] == facts["source"]["sha256"]
    assert (facts["result"]["width"], facts["result"]["height"]) == (3, 2)
    prediction = facts["prediction"]
    assert (prediction["id"], prediction["submits"], prediction["cost_usd"]) == (None, 0, 0)
    assert (await shop.now(tile)).state is State.DONE
    assert (shop.storage.puts, shop.predictor.urls) == ([], [])
    assert os.listdir(shop.config.state_dir / "staging") == []


async def test_nothing_is_said_of_an_engine_that_never_saw_it(shop: House) -> None:
    world = shop.dispatcher.delivery.world
    writer = dataclasses.replace(world.writer, warnings=("Upscaled by an engine.",))
    shop.dispatcher.delivery.world = dataclasses.replace(world, writer=writer)
    await admit(shop)
    assert await deliver(shop) == 1
    assert sidecar(shop)["warnings"] == [LARGE_ENOUGH]


async def test_each_copy_is_its_own_result(shop: House) -> None:
    await admit(shop)
    await deliver(shop)
    await admit(shop, "copy.png")
    (shop.outbox / "a_x1.png").unlink()
    assert await deliver(shop) == 1
    assert (shop.outbox / "copy_x1.png").read_bytes() == DATA
    assert (shop.outbox / "copy_x1.png.json").exists()


async def test_no_limit_holds_it(shop: House) -> None:
    tile = await admit(shop, held=Held("Too many at once.", "Look.", NEVER))
    assert tile.state is State.FETCHED


async def test_its_source_goes_only_when_the_copy_is_safe(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, folder={"after": "delete", "format": "jpeg"}) as shop:
        await admit(shop)
        assert await deliver(shop) == 1
        assert (shop.outbox / "a_x1.png").read_bytes() == DATA, "in no other format"
        assert not (shop.inbox / "a.png").exists()


@pytest.mark.parametrize("how", ["gone", "changed", "changed without a trace"])
async def test_one_that_left_before_it_was_copied_is_a_new_one_when_it_is_back(shop: House, how: str) -> None:
    tile = await admit(shop)
    file = shop.inbox / "a.png"
    before = file.stat()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(DATA[::-1])
        if how == "changed without a trace":
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await deliver(shop) == 1
    assert [path for path in os.listdir(shop.outbox) if not path.startswith(".")] == []
    assert [line["reason"] != "" for line in shop.told("withdrawn")] == [True]
    assert (await shop.now(tile)).state is State.DONE
    assert await deliver(shop) == 0
    assert await shop.ledger.known(shop.folders[0].id) == []
    assert shop.folders[0].detector.known == set()
    await admit(shop)
    assert await deliver(shop) == 1
    assert (shop.outbox / "a_x1.png").read_bytes() == DATA


async def test_the_same_content_is_upscaled_where_that_is_wanted(shop: House) -> None:
    await admit(shop)
    other = await shop.admit("other.png", DATA)
    assert other.state is State.ADMITTED
    assert other.job.recipe.scale == 2


async def test_a_touched_one_is_not_copied_again(shop: House) -> None:
    await admit(shop)
    await deliver(shop)
    os.utime(shop.inbox / "a.png", (1, 1))
    look = await shop.folders[0].inbox.look(b"a.png")
    file = settled(b"a.png", DATA, folder=shop.folders[0].id, look=look, recipe=UNCHANGED)
    assert await shop.ledger.admit(file, "oldest", True, None, shop.clock.wall()) is Decision.SAME
    assert await deliver(shop) == 0


@pytest.mark.parametrize("keep", [True, False])
async def test_a_result_may_be_dated_as_its_source(tmp_path: Path, clock: FakeClock, keep: bool) -> None:
    async with house(tmp_path, clock, folder={"keep_mtime": keep}) as shop:
        shop.drop("a.png", DATA)
        os.utime(shop.inbox / "a.png", ns=(0, 1_000_000_000_123_456_789))
        tile = await shop.admit_there("a.png", DATA)
        shop.disk.staged(tile).write_bytes(b"result")
        await shop.bring(tile, State.FETCHED, b"result")
        assert await deliver(shop) == 1
        dated = (shop.outbox / "a_x2.png").stat().st_mtime_ns == 1_000_000_000_123_456_789
        assert dated == keep
