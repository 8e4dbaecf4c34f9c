"""Room: nothing is paid for whose result would have no place to go."""

import errno
import os
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.predictor import refused
from shell_kit import House, SmallFiles, fly, fly_all, house, wait_for_gates

from daemon.departure import LOOK_AGAIN_SECONDS
from daemon.gates import outbox_gate, room_gate
from daemon.health import Health
from daemon.ports import Running
from daemon.room import FRESH_SECONDS
from daemon.rules.faults import Blame, Fault, Gate
from daemon.rules.lifecycle import State

RESULT_BYTES = 72  # what a picture of these tests may need
PLACES = ["staging", "out0"]
MADE = {"staging": RESULT_BYTES, "out0": 0}  # the outbox's file is made beside the result


def problems(house: House) -> list[str]:
    """What the status, and the health page, say is wrong."""
    folders = {folder.id: folder for folder in house.folders}
    now = house.clock.monotonic()
    return Health(house.clock, house.dispatcher, folders, started_at=now, ledger_at=now).problems()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [None, errno.EROFS, errno.EACCES, errno.EIO])
async def test_without_room_nothing_is_submitted_and_nothing_is_lost(
    tmp_path: Path, clock: FakeClock, place: str, error: int | None
) -> None:
    files = SmallFiles()
    async with house(tmp_path, clock, files=files) as at_work:
        tile = await at_work.uploaded()
        if error is None:
            files.rooms[place] = RESULT_BYTES + MADE[place] - 1
        else:
            files.broken[place] = OSError(error, os.strerror(error))
        for _ in range(4):
            tile = await fly(at_work, tile)
            assert (tile.state, tile.attempts, tile.wrongs, tile.submits) == (State.UPLOADED, 0, 0, 0)
            [closed] = at_work.gates.closed()
            assert closed.name == ("room" if place == "staging" else "room:1")
            assert place in closed.fault.said
            assert problems(at_work) == [f"{closed.fault.said} {closed.fault.remedy}"]
            wait_for_gates(at_work)
        assert at_work.predictor.urls == []
        assert [line["log_level"] for line in at_work.told("gate_closed")] == ["warning"], "it is said once"
        assert at_work.told("gate_opened") == []

        files.rooms.clear()
        files.broken.clear()
        assert (await fly(at_work, tile)).state is State.READY
        assert len(at_work.predictor.urls) == 1
        assert len(at_work.told("gate_opened")) == 1
        assert problems(at_work) == []


@pytest.mark.parametrize("place", PLACES)
async def test_the_last_byte_of_room_is_used(tmp_path: Path, clock: FakeClock, place: str) -> None:
    files = SmallFiles()
    files.rooms[place] = RESULT_BYTES + MADE[place]
    async with house(tmp_path, clock, files=files) as at_work:
        assert (await fly(at_work, await at_work.uploaded())).state is State.READY
        assert at_work.gates.closed() == []


async def test_a_full_disk_is_looked_at_seldom_and_by_one(tmp_path: Path, clock: FakeClock) -> None:
    files = SmallFiles()
    files.rooms["out0"] = 0
    async with house(tmp_path, clock, files=files) as at_work:
        tiles = [await at_work.uploaded(number) for number in range(10)]
        await fly_all(at_work, tiles)
        assert files.asked.count("out0") == 2, "whether it answers, and whether there is room"
        await fly_all(at_work, tiles)
        assert files.asked.count("out0") == 2
        for _ in range(8):
            wait_for_gates(at_work)
            clock.advance(5.0)
            await fly_all(at_work, [await at_work.now(tile) for tile in tiles])
        assert files.asked.count("out0") <= 18
        assert (at_work.gates.seconds_left("room:1") or 0) <= 30, "a person who made room is waiting"
        assert len(at_work.told("gate_closed")) == 1


async def test_it_goes_on_by_itself(tmp_path: Path, clock: FakeClock) -> None:
    """The lane sleeps until the gate may be probed; when it opens, everybody looks again."""
    files = SmallFiles()
    async with house(tmp_path, clock, files=files) as at_work:
        lanes = at_work.dispatcher.lanes
        tiles = [await at_work.uploaded(number) for number in range(3)]
        files.rooms["out0"] = 0
        await fly_all(at_work, tiles)
        assert await lanes["flight"].find(9, set()) == [], "no worker and no slot waits with them"
        wait_for_gates(at_work)
        clock.advance(5.0)
        await fly(at_work, await at_work.now(tiles[0]))  # Still none: now it waits for longer than the pictures do.
        clock.advance(6.0)
        assert await lanes["flight"].find(9, set()) == []
        due = await lanes["flight"].next_due()
        assert due == pytest.approx(clock.wall() + (at_work.gates.seconds_left("room:1") or 0.0))
        assert due > clock.wall()
        files.rooms.clear()
        wait_for_gates(at_work)
        clock.advance(5.0)
        found = await lanes["flight"].find(9, set())
        assert [tile.key for tile in found] == [tile.key for tile in tiles]
        for lane in at_work.dispatcher.all_lanes():
            lane.poked.clear()
        await fly(at_work, found[0])
        assert all(lane.poked.is_set() for lane in at_work.dispatcher.all_lanes())
        assert [(await fly(at_work, tile)).state for tile in found[1:]] == [State.READY, State.READY]


@pytest.mark.parametrize("place", PLACES)
async def test_those_in_flight_do_not_all_believe_in_the_same_room(
    tmp_path: Path, clock: FakeClock, place: str
) -> None:
    """What is promised to one is not free for the next, from its intent until its result is there."""
    files = SmallFiles()
    files.rooms[place] = 3 * RESULT_BYTES + MADE[place] + RESULT_BYTES // 2
    async with house(tmp_path, clock, files=files) as at_work:
        at_work.predictor.answers.extend([Running("processing")] * 30)
        tiles = await fly_all(at_work, [await at_work.uploaded(number) for number in range(10)])
        if len(at_work.predictor.urls) < 3:  # One may have stood aside: the clock runs fast while a thread works.
            wait_for_gates(at_work)
            clock.advance(LOOK_AGAIN_SECONDS)
            tiles = [tile if tile.state is State.READY else await fly(at_work, tile) for tile in tiles]
        assert len(at_work.predictor.urls) == 3
        assert sorted(tile.state for tile in tiles) == [State.READY] * 3 + [State.UPLOADED] * 7
        files.rooms[place] += 2 * RESULT_BYTES
        wait_for_gates(at_work)
        clock.advance(5.0)
        for _ in range(2):  # The first opens the gate for the others.
            tiles = [await at_work.now(tile) for tile in tiles]
            await fly_all(at_work, [tile for tile in tiles if tile.state is State.UPLOADED])
        assert len(at_work.predictor.urls) == 5


async def test_what_is_fetched_needs_no_more_room_in_staging_and_what_is_delivered_none(
    tmp_path: Path, clock: FakeClock
) -> None:
    files = SmallFiles()
    files.rooms |= {place: RESULT_BYTES + made for place, made in MADE.items()}
    async with house(tmp_path, clock, files=files) as at_work:
        one, other = await at_work.uploaded(0), await at_work.uploaded(1)
        one = await at_work.bring(await fly(at_work, one), State.FETCHED, b"result")
        assert (await fly(at_work, other)).state is State.UPLOADED
        assert [closed.name for closed in at_work.gates.closed()] == ["room:1"], "staging has room"
        at_work.disk.staged(one).write_bytes(b"result")
        for due in await at_work.dispatcher.delivery.find(1, 9, set()):
            await at_work.dispatcher.delivery.write(*due)
        wait_for_gates(at_work)
        clock.advance(5.0)
        assert (await fly(at_work, await at_work.now(other))).state is State.READY


async def test_a_full_outbox_holds_up_no_other_folder(tmp_path: Path, clock: FakeClock) -> None:
    files = SmallFiles()
    files.rooms["out0"] = 0
    async with house(tmp_path, clock, folders=2, files=files) as at_work:
        tiles = []
        for folder in range(2):
            tile = await at_work.admit("a.png", b"%d" % folder, folder=folder)
            await at_work.dispatcher.loading.load(tile)
            tiles.append(await at_work.now(tile))
        assert [tile.state for tile in await fly_all(at_work, tiles)] == [State.UPLOADED, State.READY]
        assert [closed.name for closed in at_work.gates.closed()] == ["room:1"]
        more = await at_work.admit("b.png", b"2", folder=1)
        await at_work.dispatcher.loading.load(more)
        found = await at_work.dispatcher.lanes["flight"].find(9, set())
        assert [tile.key for tile in found] == [more.key]


async def test_those_of_another_outbox_that_stand_ready_need_no_room_in_this_one(
    tmp_path: Path, clock: FakeClock
) -> None:
    files = SmallFiles()
    files.rooms["out1"] = RESULT_BYTES
    async with house(tmp_path, clock, folders=2, files=files) as at_work:
        ready = await at_work.uploaded()
        at_work.dispatcher.departure.expected[ready.key] = ready
        tile = await at_work.admit("a.png", b"small", folder=1)
        await at_work.dispatcher.loading.load(tile)
        assert (await fly(at_work, await at_work.now(tile))).state is State.READY
        assert at_work.gates.closed() == []


@pytest.mark.parametrize(("full", "goes"), [(["out0"], True), (["out1"], True), (["out0", "out1"], False)])
async def test_a_copy_in_another_folder_is_reason_enough_to_go(
    tmp_path: Path, clock: FakeClock, full: list[str], goes: bool
) -> None:
    files = SmallFiles()
    files.rooms |= dict.fromkeys(full, 0)
    async with house(tmp_path, clock, folders=2, files=files) as at_work:
        tile = await at_work.uploaded()
        await at_work.admit("copy.png", b"picture 0", folder=1)
        assert (await fly(at_work, tile)).state is (State.READY if goes else State.UPLOADED)
        assert len(at_work.predictor.urls) == goes
        expected = {room_gate(int(name[-1]) + 1) for name in full if goes is False or name == "out0"}
        assert {closed.name for closed in at_work.gates.closed()} == expected


async def test_an_outbox_that_takes_nothing_anyway_is_not_asked_for_room(tmp_path: Path, clock: FakeClock) -> None:
    """Its own gate has said so already; nothing is paid for it meanwhile, and nothing more is said."""
    files = SmallFiles()
    async with house(tmp_path, clock, files=files) as at_work:
        tile = await at_work.uploaded()
        at_work.gates.close(outbox_gate(1), Fault("It is gone.", blame=Blame.HOUSE, gate=Gate.OUTBOX))
        assert not at_work.dispatcher.departure.admits(1)
        assert (await fly(at_work, tile)).state is State.UPLOADED
        await at_work.admit("copy.png", b"picture 0")
        assert "out0" not in files.asked
        assert len(at_work.told("gate_closed")) == 1
        at_work.gates.open(outbox_gate(1))
        assert (await fly(at_work, tile)).state is State.READY


async def test_an_outbox_that_closes_on_the_way_stops_the_submit(tmp_path: Path, clock: FakeClock) -> None:
    """Between the look at the gates and the intent lie a look at the source and one at the storage."""
    files = SmallFiles()

    class Closing(SmallFiles):
        def room(self, folder: "os.PathLike[str] | bytes") -> int:  # type: ignore[override]
            at_work.gates.close(outbox_gate(1), Fault("It is gone.", blame=Blame.HOUSE, gate=Gate.OUTBOX))
            return super().room(folder)  # type: ignore[arg-type]

    files = Closing()
    async with house(tmp_path, clock, files=files) as at_work:
        tile = await at_work.uploaded()
        at_work.gates.open(outbox_gate(1))
        files.asked.clear()
        tile = await fly(at_work, tile)
        assert (tile.state, tile.attempts, at_work.predictor.urls) == (State.UPLOADED, 0, [])
        assert files.asked == ["out0", "staging"], "and then it was over"


async def test_a_probe_that_found_no_room_opens_no_other_gate(tmp_path: Path, clock: FakeClock) -> None:
    files = SmallFiles()
    async with house(tmp_path, clock, files=files) as at_work:
        tile = await at_work.uploaded()
        at_work.gates.close("api", refused())
        wait_for_gates(at_work)
        files.rooms["staging"] = 0
        assert (await fly(at_work, tile)).state is State.UPLOADED
        assert at_work.gates.seconds_left("api") is not None, "nobody asked the API"
        files.rooms.clear()
        wait_for_gates(at_work)
        clock.advance(5.0)
        assert (await fly(at_work, await at_work.now(tile))).state is State.READY
        assert at_work.gates.closed() == []


async def test_what_nobody_waits_for_any_more_does_not_wait_for_room(tmp_path: Path, clock: FakeClock) -> None:
    files = SmallFiles()
    files.rooms["out0"] = 0
    async with house(tmp_path, clock, files=files) as at_work:
        tile = await at_work.uploaded()
        await at_work.ledger.write(lambda db: db.execute("UPDATE picture SET phase = 'gone'"))
        assert (await fly(at_work, tile)).state is State.FAILED
        assert (at_work.predictor.urls, at_work.gates.closed()) == ([], [])


async def test_what_is_in_flight_already_needs_no_room_to_go_on(tmp_path: Path, clock: FakeClock) -> None:
    """It is paid for: its result may wait with the service, and then in staging."""
    files = SmallFiles()
    files.rooms |= dict.fromkeys(PLACES, 0)
    async with house(tmp_path, clock, files=files) as at_work:
        tile = await at_work.bring(await at_work.admit(), State.SUBMITTED)
        at_work.predictor.made = {"": str(tile.prediction)}
        assert (await fly(at_work, tile)).state is State.READY
        assert files.asked == []


async def test_an_outbox_that_answered_lately_is_not_asked_again(tmp_path: Path, clock: FakeClock) -> None:
    files = SmallFiles()
    async with house(tmp_path, clock, files=files) as at_work:
        room, asked = at_work.dispatcher.departure.room, []
        for seconds in (0.0, FRESH_SECONDS - 0.5, 0.5, 0.5):
            clock.advance(seconds)
            assert await room.answers(1)
            asked.append(files.asked.count("out0"))
        assert asked == [1, 1, 2, 2]
