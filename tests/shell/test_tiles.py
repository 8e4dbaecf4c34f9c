"""Pictures that were cut, in the shell: parts are cut and uploaded, stopped together, joined and delivered."""

import asyncio
import dataclasses
import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pyvips
from fakes.clock import FakeClock
from fakes.facts import BILL, settled, sha
from fakes.pictures import FakePictures
from fakes.predictor import refused
from shell_kit import Host, House, SmallFiles, encoded, fly, house, wait_for_gates

import daemon
from daemon.pipeline.fetch import fetch
from daemon.pipeline.write import NOT_KEPT
from daemon.ports import mark
from daemon.rules.faults import Fault, Gate, NotAPicture
from daemon.rules.job import Tile, Whole
from daemon.rules.lifecycle import NEVER, Failed, Held, State
from daemon.rules.tiles import Rect
from daemon.rules.traits import Finish, Piece, Traits

SCHEMA = json.loads((Path(daemon.__file__).parent / "sidecar.schema.json").read_text())
RECTS = (Rect(0, 0, 4, 4), Rect(3, 0, 4, 4), Rect(6, 0, 4, 4))
DATA = b"a large picture"
JOINED = b"0,0=result 0+6,0=result 1+12,0=result 2"
GIVEN_UP = Failed("The model refuses it.", "Look at it.", "picture")
DOUBT = Held("In doubt.", "Look.", NEVER)


@dataclasses.dataclass
class Cuttery:
    """A house where pictures are cut."""

    house: House
    pictures: FakePictures

    async def admit(self, path: str = "a.png", data: bytes = DATA) -> Whole:
        """Drop a picture that is cut into three."""
        at_work = self.house.folders[0]
        self.house.drop(path, data)
        look = await at_work.inbox.look(os.fsencode(path))
        file = settled(os.fsencode(path), data, look=look, tiles=RECTS)
        await self.house.ledger.admit(file, "oldest", True, None, self.house.clock.wall())
        return await self.now(file.recipe.job_id(file.content.sha256))

    async def fetched(self, *numbers: int, path: str = "a.png") -> Whole:
        """One whose tiles with these numbers are in staging, with what is kept of the first."""
        whole = await self.admit(path)
        for number in numbers:
            tile = await self.house.bring(whole.tiles[number], State.READY)
            await self.stage(tile)
        return await self.now(whole.job.id)

    async def stage(self, tile: Tile) -> Tile:
        result = b"result %d" % tile.number
        self.house.disk.staged(tile).write_bytes(result)
        return await self.house.bring(tile, State.FETCHED, result)

    async def deliver(self) -> int:
        """Write all that is due now, once; how many that was."""
        due = await self.house.dispatcher.delivery.find(self.house.folders[0].id, 99, set())
        for picture, whole in due:
            await self.house.dispatcher.delivery.write(picture, whole)
        return len(due)

    async def now(self, job: str) -> Whole:
        return await self.house.ledger.whole(job)

    async def states(self, whole: Whole) -> list[State]:
        return [tile.state for tile in (await self.now(whole.job.id)).tiles]

    @property
    def staging(self) -> set[str]:
        """What is there, without the job's name."""
        return {name.partition(".")[2] for name in os.listdir(self.house.config.state_dir / "staging")}

    def sidecar(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.house.outbox / name).read_text())
        return found


@asynccontextmanager
async def cuttery(root: Path, clock: FakeClock, **more: Any) -> AsyncIterator[Cuttery]:
    pictures = FakePictures()
    async with house(root, clock, pictures=pictures, **more) as at_work:
        yield Cuttery(at_work, pictures)


@pytest.fixture
async def shop(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Cuttery]:
    async with cuttery(tmp_path, clock) as shop:
        yield shop


# Delivered


async def test_the_parts_are_joined_and_the_sidecar_has_them_all(shop: Cuttery) -> None:
    whole = await shop.fetched(0, 1)
    assert await shop.deliver() == 0
    shop.house.clock.advance(60.0)
    await shop.stage(await shop.house.bring(whole.tiles[2], State.READY))
    assert await shop.deliver() == 1
    assert (shop.house.outbox / "a_x2.png").read_bytes() == JOINED
    assert shop.pictures.finishes == [Finish((20, 8), "PNG", 92)]
    facts = shop.sidecar("a_x2.png.json")
    jsonschema.validate(facts, SCHEMA)
    assert (facts["source"]["width"], facts["result"]["width"], facts["result"]["height"]) == (10, 20, 8)
    assert facts["result"]["sha256"] == sha(JOINED)
    prediction = facts["prediction"]
    assert prediction.pop("tiles") == [
        {
            "id": f"prediction-{whole.job.id}-{number}",
            "left": rect.left,
            "top": 0,
            "width": 4,
            "height": 4,
            "submits": 1,
            "predict_seconds": BILL.predict_seconds,
            "cost_usd": BILL.cost_usd,
        }
        for number, rect in enumerate(RECTS)
    ]
    assert BILL.predict_seconds is not None
    assert prediction == {
        "api": "a fake",
        "submits": 3,
        "predict_seconds": pytest.approx(3 * BILL.predict_seconds),
        "cost_usd": pytest.approx(3 * BILL.cost_usd),
        "reused": False,
    }
    assert facts["warnings"] == [NOT_KEPT, "It was joined."], "nothing was kept when it was uploaded"
    assert facts["times"]["uploaded"] > facts["times"]["admitted"], "as the last tile was"
    assert await shop.states(whole) == [State.DONE] * 3
    assert shop.staging == set()


@pytest.mark.parametrize(("format_", "name"), [("jpeg", "a_x2.jpg"), ("webp", "a_x2.webp")])
async def test_they_are_joined_in_the_format_that_is_wanted(
    tmp_path: Path, clock: FakeClock, format_: str, name: str
) -> None:
    async with cuttery(tmp_path, clock, folder={"format": format_, "quality": 80}) as shop:
        await shop.fetched(0, 1, 2)
        assert await shop.deliver() == 1
        assert (shop.house.outbox / name).read_bytes() == JOINED, "and not converted again"
        assert shop.pictures.finishes == [Finish((20, 8), format_.upper(), 80)]


async def test_a_copy_gets_the_same(shop: Cuttery) -> None:
    await shop.fetched(0, 1, 2)
    await shop.deliver()
    await shop.admit("copy.png")
    assert await shop.deliver() == 1
    assert (shop.house.outbox / "copy_x2.png").read_bytes() == JOINED
    assert shop.sidecar("copy_x2.png.json")["prediction"]["reused"]
    assert len(shop.pictures.finishes) == 1, "from the first one's result"


async def test_a_copy_whose_result_nobody_has_is_fetched_again_in_all_its_parts(shop: Cuttery) -> None:
    whole = await shop.fetched(0, 1, 2)
    await shop.deliver()
    (shop.house.outbox / "a_x2.png").unlink()
    await shop.admit("copy.png")
    await shop.deliver()
    assert await shop.states(whole) == [State.READY] * 3
    for tile in (await shop.now(whole.job.id)).tiles:
        await shop.stage(tile)
    assert await shop.deliver() == 1
    assert (shop.house.outbox / "copy_x2.png").read_bytes() == JOINED
    assert [tile.submits for tile in (await shop.now(whole.job.id)).tiles] == [1, 1, 1]


@pytest.mark.parametrize("damage", ["gone", "changed"])
async def test_a_part_that_staging_lost_is_fetched_again_alone(shop: Cuttery, damage: str) -> None:
    whole = await shop.fetched(0, 1, 2)
    lost = shop.house.disk.staged(whole.tiles[1])
    lost.unlink() if damage == "gone" else lost.write_bytes(b"result X")
    await shop.deliver()
    assert await shop.states(whole) == [State.FETCHED, State.READY, State.FETCHED]
    assert os.listdir(shop.house.outbox) == [".esrgand-outbox"] or not os.listdir(shop.house.outbox)
    await shop.stage((await shop.now(whole.job.id)).tiles[1])
    assert await shop.deliver() == 1
    assert (shop.house.outbox / "a_x2.png").read_bytes() == JOINED


async def test_a_report_speaks_of_the_part_that_failed(shop: Cuttery) -> None:
    """What is paid stays where it is, also after a restart, for the day when somebody wants another try."""
    whole = await shop.fetched(0)
    submitted = await shop.house.bring(whole.tiles[1], State.SUBMITTED)
    await shop.house.dispatcher.record(submitted, GIVEN_UP, bill=BILL)
    assert await shop.states(whole) == [State.FETCHED, State.FAILED, State.FAILED]
    assert await shop.deliver() == 1
    report = shop.sidecar("a.png.error.json")
    assert (report["reason"], report["submits"]) == (GIVEN_UP.reason, 2)
    assert report["cost_usd"] == pytest.approx(2 * BILL.cost_usd)
    await shop.house.disk.prepare(await shop.house.ledger.jobs_in(State.FETCHED))
    assert shop.staging == {"0.result"}
    await shop.admit()
    assert await shop.states(whole) == [State.FETCHED, State.ADMITTED, State.ADMITTED]


@pytest.mark.parametrize("fails", [0, 1])
async def test_what_is_kept_goes_with_the_part_that_keeps_it(shop: Cuttery, fails: int) -> None:
    """It is made again when that part is uploaded again, and not otherwise."""
    whole = await shop.admit()
    for tile in whole.tiles:
        await shop.house.dispatcher.loading.load(tile)
    tiles = (await shop.now(whole.job.id)).tiles
    await shop.stage(await shop.house.bring(tiles[1 - fails], State.READY))
    await shop.house.dispatcher.record(await shop.house.bring(tiles[fails], State.SUBMITTED), GIVEN_UP, bill=BILL)
    assert await shop.deliver() == 1
    assert shop.staging == ({"1.result"} if fails == 0 else {"0.result", "0.kept"})


# Uploaded


async def test_a_part_is_cut_in_staging_and_uploaded(shop: Cuttery) -> None:
    whole = await shop.admit()
    await shop.house.dispatcher.loading.load(whole.tiles[1])
    tile = await shop.house.now(whole.tiles[1])
    assert (tile.state, tile.likeness) == (State.UPLOADED, "grey")
    assert list(shop.house.storage.objects.values()) == [b"3,0 of " + DATA]
    assert shop.staging == set(), "the first keeps for all"
    for other in (whole.tiles[0], whole.tiles[2]):
        await shop.house.dispatcher.loading.load(other)
    assert len(set(shop.house.storage.puts)) == 3, "each has an object of its own"


async def test_what_is_kept_is_there_when_they_are_joined(shop: Cuttery) -> None:
    whole = await shop.admit()
    for tile in whole.tiles:
        await shop.house.dispatcher.loading.load(tile)
    for tile in (await shop.now(whole.job.id)).tiles:
        await shop.stage(await shop.house.bring(tile, State.READY))
    await shop.house.disk.prepare(await shop.house.ledger.jobs_in(State.FETCHED))
    assert await shop.deliver() == 1
    assert (shop.house.outbox / "a_x2.png").read_bytes() == JOINED + b"+kept"
    assert shop.staging == set()


@pytest.mark.parametrize("error", [None, errno.EIO])
async def test_where_nothing_can_be_cut_uploads_wait(tmp_path: Path, clock: FakeClock, error: int | None) -> None:
    files = SmallFiles()
    async with cuttery(tmp_path, clock, files=files) as shop:
        whole = await shop.admit()
        if error is None:
            files.rooms["staging"] = len(DATA)
        else:
            files.broken["staging"] = OSError(error, os.strerror(error))
        await shop.house.dispatcher.loading.load(whole.tiles[0])
        assert [closed.name for closed in shop.house.gates.closed()] == [Gate.STAGING]
        tile = await shop.house.now(whole.tiles[0])
        assert (tile.state, tile.attempts) == (State.ADMITTED, 0)
        files.rooms.clear()
        files.broken.clear()
        wait_for_gates(shop.house)
        await shop.house.dispatcher.loading.load(tile)
        assert (await shop.house.now(tile)).state is State.UPLOADED
        assert shop.house.gates.closed() == []


@pytest.mark.parametrize("missing", [0, 1])
async def test_staging_must_have_room_for_what_is_joined(tmp_path: Path, clock: FakeClock, missing: int) -> None:
    files = SmallFiles()
    async with cuttery(tmp_path, clock, files=files) as shop:
        whole = await shop.admit()
        await shop.house.dispatcher.loading.load(whole.tiles[0])
        files.rooms["staging"] = 3 * (8 * 8 + 20 * 8) - missing
        tile = await fly(shop.house, await shop.house.now(whole.tiles[0]))
        assert tile.state is (State.UPLOADED if missing else State.READY)


# Made smaller


async def test_what_was_made_smaller_comes_in_the_size_that_was_asked_for(tmp_path: Path, clock: FakeClock) -> None:
    """And is known by what was sent, whatever the model takes by then: it is paid for."""
    shrinking: dict[str, Any] = {"folder": {"oversize": "shrink"}}
    async with cuttery(tmp_path, clock, **shrinking, api={"pixels_max": 4}) as shop:
        tile = await shop.house.admit()
        await shop.house.dispatcher.loading.load(tile)
        tile = await shop.house.bring(await shop.house.now(tile), State.READY)
        assert (tile.sent_size, tile.is_whole) == ((2, 1), True), "of 3 x 2"
    async with cuttery(tmp_path, clock, **shrinking, api={"pixels_max": 6}) as shop:
        event = await fetch(tile, Host(encoded(4, 2)), shop.house.disk, shop.pictures)
        tile = await shop.house.dispatcher.record(tile, event)
        assert (tile.state, tile.result_width, tile.result_height) == (State.FETCHED, 4, 2)
        assert (await shop.now(tile.job.id)).result_size == (6, 4)
        assert await shop.deliver() == 1
        assert shop.pictures.finishes == [Finish((6, 4), "PNG", 92)]
        facts = shop.sidecar("a_x2.png.json")
        assert (facts["result"]["width"], facts["result"]["height"]) == (6, 4)


@pytest.mark.parametrize("size", [(7, 4), (6, 4), (5, 3)])
async def test_a_pixel_more_or_less_of_one_in_a_piece_stays(shop: Cuttery, size: tuple[int, int]) -> None:
    """Engines round differently, and what came is not written anew for that."""
    tile = await shop.house.bring(await shop.house.admit(), State.READY)
    event = await fetch(tile, Host(encoded(*size)), shop.house.disk, shop.pictures)
    await shop.house.dispatcher.record(tile, event)
    assert (await shop.now(tile.job.id)).result_size == size


# The model takes less than it did


async def found_again(shop: Cuttery, path: str, data: bytes, failure: NotAPicture | None, *tiles: Rect) -> Whole:
    """What the next scan makes of a picture that has to be looked at again."""
    at_work = shop.house.folders[0]
    look = await at_work.inbox.look(os.fsencode(path))
    assert look is not None
    assert mark(os.fsencode(path), look) not in at_work.detector.known
    assert not at_work.detector.is_idle(), "`once` waits for that scan"
    file = settled(os.fsencode(path), data, look=look, tiles=tiles, failure=failure)
    await shop.house.ledger.admit(file, "oldest", True, None, shop.house.clock.wall())
    return await shop.now(file.recipe.job_id(file.content.sha256))


@pytest.mark.parametrize("state", [State.ADMITTED, State.UPLOADED])
async def test_one_that_is_too_large_by_now_is_looked_at_again(tmp_path: Path, clock: FakeClock, state: State) -> None:
    """It is neither sent in vain, nor made smaller where it is to be cut."""
    async with cuttery(tmp_path, clock) as shop:
        tile = await shop.house.admit()
        if state is State.UPLOADED:
            await shop.house.dispatcher.loading.load(tile)
    async with cuttery(tmp_path, clock, api={"pixels_max": 4}) as shop:
        tile = await shop.house.now(tile)
        if state is State.UPLOADED:
            tile = await fly(shop.house, tile)
        await shop.house.dispatcher.loading.load(tile)
        assert (await shop.house.now(tile)).state is State.FAILED
        assert (shop.house.predictor.urls, shop.house.storage.puts) == ([], [])
        cut = (Rect(0, 0, 2, 2), Rect(1, 0, 2, 2))
        whole = await found_again(shop, "a.png", b"a picture", None, *cut)
        assert [(part.rect, part.state) for part in whole.tiles] == [(rect, State.ADMITTED) for rect in cut]
        for part in whole.tiles:
            await shop.house.dispatcher.loading.load(part)
        assert await shop.states(whole) == [State.UPLOADED] * 2


async def test_one_that_may_not_be_sent_by_now_fails_for_that_reason(tmp_path: Path, clock: FakeClock) -> None:
    async with cuttery(tmp_path, clock) as shop:
        tile = await shop.house.admit()
    async with cuttery(tmp_path, clock, folder={"oversize": "fail"}, api={"pixels_max": 4}) as shop:
        await shop.house.dispatcher.loading.load(tile)
        whole = await found_again(shop, "a.png", b"a picture", NotAPicture("It is too large.", "Make it smaller."))
        assert (whole.state, whole.standing.reason) == (State.FAILED, "It is too large.")
        await shop.deliver()
        assert shop.sidecar("a.png.error.json")["remedy"] == "Make it smaller."


async def test_a_part_of_what_is_paid_already_is_made_smaller(tmp_path: Path, clock: FakeClock) -> None:
    """Another cut would pay for the whole picture again."""
    async with cuttery(tmp_path, clock) as shop:
        whole = await shop.fetched(0)
    async with cuttery(tmp_path, clock, api={"pixels_max": 9}) as shop:
        await shop.house.dispatcher.loading.load(whole.tiles[1])
        tile = await shop.house.now(whole.tiles[1])
        assert (tile.state, tile.sent_size) == (State.UPLOADED, (3, 3)), "of 4 x 4"
        assert await shop.states(whole) == [State.FETCHED, State.UPLOADED, State.ADMITTED]


async def test_what_an_older_esrgand_admitted_is_looked_at_again(shop: Cuttery) -> None:
    """It did not look at orientation and transparency, and without that the wrong thing is sent."""
    tile = await shop.house.admit()
    await shop.house.ledger.write(lambda db: db.execute("UPDATE job SET traits = '{}'"))
    await shop.house.dispatcher.loading.load(await shop.house.now(tile))
    assert shop.house.storage.puts == []
    whole = await found_again(shop, "a.png", b"a picture", None)
    assert (whole.state, whole.job.traits) == (State.ADMITTED, Traits())
    await shop.house.dispatcher.loading.load(whole.tiles[0])
    assert await shop.states(whole) == [State.UPLOADED]


async def test_what_an_older_esrgand_paid_for_is_delivered_as_it_came(shop: Cuttery) -> None:
    tile = await shop.house.bring(await shop.house.admit(), State.READY)
    await shop.house.ledger.write(lambda db: db.execute("UPDATE job SET traits = '{}'"))
    clear = pyvips.Image.black(6, 4, bands=4).copy(interpretation="srgb").cast("uchar").write_to_buffer(".png")
    event = await fetch(tile, Host(clear), shop.house.disk, shop.pictures)
    shop.house.disk.keepsake(tile).write_bytes(b"kept")
    await shop.house.dispatcher.record(await shop.house.now(tile), event)
    await shop.deliver()
    assert [(each.traits.bands, each.traits.alpha) for each in shop.pictures.finishes] == [(3, True)]


# Stopped together


@pytest.mark.parametrize("event", [GIVEN_UP, DOUBT], ids=lambda event: event.name)
async def test_an_upload_under_way_comes_too_late_and_is_swept(shop: Cuttery, event: Failed | Held) -> None:
    whole = await shop.admit()
    first, second = whole.tiles[:2]
    upload = shop.house.dispatcher.lanes["upload"]
    upload.in_hand.add(second.key)

    async def stop(_: Piece) -> None:
        await shop.house.dispatcher.record(first, event)
        await shop.house.dispatcher.sweep.step()

    shop.pictures.on_prepare = stop
    await shop.house.dispatcher.loading.load(second)
    upload.in_hand.clear()
    assert {tile.state for tile in (await shop.now(whole.job.id)).tiles} <= {State.FAILED, State.HELD}
    assert len(shop.house.storage.objects) == 1
    assert not shop.house.dispatcher.sweep.is_done
    await shop.house.dispatcher.sweep.step()
    assert shop.house.storage.objects == {}
    assert [line["step"] for line in shop.house.told("overtaken")] == ["uploaded"]
    assert shop.staging <= {"1.kept"}


async def test_one_that_waited_for_a_worker_is_not_uploaded(shop: Cuttery) -> None:
    whole = await shop.admit()
    await shop.house.dispatcher.record(whole.tiles[0], DOUBT)
    await shop.house.dispatcher.loading.load(whole.tiles[1])
    assert shop.house.storage.puts == []


@pytest.mark.parametrize("event", [GIVEN_UP, DOUBT], ids=lambda event: event.name)
async def test_one_that_is_ready_to_leave_stays(shop: Cuttery, event: Failed | Held) -> None:
    """It stands before a slot that is taken while another part of its picture is stopped."""
    whole = await shop.admit()
    for tile in whole.tiles[:2]:
        await shop.house.dispatcher.loading.load(tile)
    first, second, _ = (await shop.now(whole.job.id)).tiles
    await shop.house.dispatcher.record(first, event)
    assert (await fly(shop.house, second)).state in (State.FAILED, State.HELD)
    assert shop.house.predictor.urls == []
    assert (await shop.house.now(second)).submits == 0


@pytest.mark.parametrize(("create", "state"), [(None, State.READY), (refused(), State.FAILED)])
async def test_one_whose_create_is_under_way_goes_on_if_it_is_paid(
    shop: Cuttery, create: Fault | None, state: State
) -> None:
    whole = await shop.admit()
    for tile in whole.tiles[:2]:
        await shop.house.dispatcher.loading.load(tile)
    first, second, _ = (await shop.now(whole.job.id)).tiles

    async def stop(_: str) -> None:
        await shop.house.dispatcher.record(first, GIVEN_UP)

    shop.house.predictor.on_create = stop
    shop.house.predictor.creates.append(create)
    with nullcontext() if create is None else pytest.raises(Fault):
        await fly(shop.house, second)
    assert await shop.states(whole) == [State.FAILED, state, State.FAILED]
    assert (await shop.house.now(second)).submits == (create is None)


async def test_a_new_day_lets_all_of_them_go_on_once(shop: Cuttery) -> None:
    whole = await shop.admit()
    at = shop.house.clock.wall() + 60.0
    await shop.house.dispatcher.record(whole.tiles[0], Held("The budget is reached.", "Wait.", at))
    held = (await shop.now(whole.job.id)).tiles
    shop.house.clock.advance(61.0)
    await asyncio.gather(*(shop.house.dispatcher._release(tile) for tile in held[:1]))
    for tile in held[1:]:
        await shop.house.dispatcher._release(tile)
    assert await shop.states(whole) == [State.ADMITTED] * 3
    assert [line["tile"] for line in shop.house.told("released")] == [0]
