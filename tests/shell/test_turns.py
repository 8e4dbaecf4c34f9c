"""Which picture comes next: folders take turns, and large uploads leave a worker to the small ones."""

from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.facts import settled
from shell_kit import House, house

from daemon.gates import outbox_gate, room_gate
from daemon.rules.faults import Blame, Fault
from daemon.rules.job import Content, Look, Tile
from daemon.rules.lifecycle import State
from daemon.turns import LARGE_BYTES, RESERVE

UPLOADS_MAX = 4


async def record(house: House, number: int, bytes_: int = 9, folder: int = 0) -> None:
    """A picture of that size, by what the ledger knows of it; the number is its age."""
    data = b"%d in %d" % (number, folder)
    file = settled(b"%d.png" % number, data, folder=house.folders[folder].id, look=Look(bytes_, number, number))
    content = Content(file.content.sha256, bytes_, 3, 2, "PNG")
    file = type(file)(file.folder, file.path, file.look, 0.0, content, file.recipe, None)
    await house.ledger.admit(file, "oldest", True, None, house.clock.wall())


def names(tiles: list[Tile]) -> list[str]:
    return [tile.job.path.decode().removesuffix(".png") for tile in tiles]


async def all_uploaded(house: House) -> set[tuple[str, int]]:
    """Everything that is uploaded."""
    return {tile.key for tile in await house.ledger.due([State.UPLOADED], [1, 2], house.clock.wall(), 99, [])}


async def test_five_urgent_ones_are_not_behind_a_thousand(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, folders=2) as at_work:
        for number in range(300):
            await record(at_work, number)
        for number in range(1000, 1005):
            await record(at_work, number, folder=1)
        turns = at_work.dispatcher.turns
        in_hand: set[tuple[str, int]] = set()
        order: list[str] = []
        for _ in range(4):
            found = await turns.uploads(3, in_hand)
            in_hand |= {tile.key for tile in found}
            order += names(found)
        assert len(order) == 12
        assert {str(number) for number in range(1000, 1005)} <= set(order), "every second one is theirs"
        assert [name for name in order if len(name) < 4] == [str(number) for number in range(7)], "oldest first"


async def test_they_take_turns_for_the_slots_as_well(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, folders=2) as at_work:
        for number in range(20):
            await record(at_work, number)
        for number in range(1000, 1005):
            await record(at_work, number, folder=1)
        for tile in await at_work.ledger.due([State.ADMITTED], [1, 2], clock.wall(), 99, []):
            await at_work.bring(tile, State.UPLOADED)
        turns, found = at_work.dispatcher.turns, []
        in_hand: set[tuple[str, int]] = set()
        for _ in range(14):
            [tile] = await turns.flights(1, in_hand)
            in_hand.add(tile.key)
            found.append(tile.job.folder)
            assert await turns.uploads(1, set()) == []
            assert await turns.flights(1, {*in_hand, *await all_uploaded(at_work)}) == [], "a look in vain is no turn"
        assert found == [1, 2] * 5 + [1] * 4, "where there is room for one only, another one is next"


async def test_the_folder_after_the_one_served_last_is_next(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, folders=2) as at_work:
        for number in range(4):
            await record(at_work, number)
            await record(at_work, number, folder=1)
        turns, in_hand = at_work.dispatcher.turns, set()
        folders = []
        for room in (2, 1, 2):
            found = await turns.uploads(room, in_hand)
            in_hand |= {tile.key for tile in found}
            folders.append([tile.job.folder for tile in found])
        assert folders == [[1, 2], [1], [2, 1]]


async def test_a_folder_that_is_away_is_passed_over(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, folders=2) as at_work:
        for number in range(3):
            await record(at_work, number)
            await record(at_work, number, folder=1)
        at_work.folders[0].detector.fault = Fault("It is away.", blame=Blame.HOUSE)
        found = await at_work.dispatcher.turns.uploads(9, set())
        assert [tile.job.folder for tile in found] == [2, 2, 2]


async def test_uploads_run_ahead_but_not_far(at_work: House) -> None:
    for number in range(60):
        await record(at_work, number)
    turns = at_work.dispatcher.turns
    reserve = 10 + UPLOADS_MAX + RESERVE
    found = await turns.uploads(99, set())
    assert len(found) == reserve
    for tile in found:
        await at_work.bring(tile, State.UPLOADED)
    assert await turns.uploads(99, set()) == []
    await at_work.bring(await at_work.now(found[0]), State.SUBMITTED)
    assert names(await turns.uploads(99, set())) == [str(reserve)]
    in_hand = {tile.key for tile in await turns.uploads(1, set())}
    assert await turns.uploads(99, in_hand) == [], "what is being uploaded counts as well"


async def test_large_uploads_leave_a_worker_to_the_small_ones(at_work: House) -> None:
    for number in range(6):
        await record(at_work, number, LARGE_BYTES + 1)
    for number in range(6, 9):
        await record(at_work, number, LARGE_BYTES)
    turns = at_work.dispatcher.turns
    found = await turns.uploads(UPLOADS_MAX, set())
    assert names(found) == ["0", "1", "2", "6"]
    in_hand = {tile.key for tile in found[:3]}
    assert names(await turns.uploads(1, in_hand)) == ["6"], "while three are under way"
    in_hand = {tile.key for tile in found[1:3]}
    assert names(await turns.uploads(1, in_hand)) == ["0"], "the next large one, when one is done"


async def test_alone_large_ones_wait_for_their_workers(at_work: House) -> None:
    for number in range(6):
        await record(at_work, number, LARGE_BYTES + 1)
    found = await at_work.dispatcher.turns.uploads(UPLOADS_MAX, set())
    assert names(found) == ["0", "1", "2"]
    assert await at_work.dispatcher.turns.uploads(1, {tile.key for tile in found}) == []


@pytest.mark.parametrize("uploads_max", [1, 2])
async def test_with_few_workers_large_ones_are_uploaded_all_the_same(
    tmp_path: Path, clock: FakeClock, uploads_max: int
) -> None:
    async with house(tmp_path, clock, storage={"kind": "vendor", "uploads_max": uploads_max}) as at_work:
        await record(at_work, 0, LARGE_BYTES + 1)
        await record(at_work, 1, 9)
        assert names(await at_work.dispatcher.turns.uploads(uploads_max, set())) == ["0", "1"][:uploads_max]


@pytest.mark.parametrize("reason", ["no room", "outbox away", "inbox away"])
async def test_what_waits_for_its_own_folder_takes_no_place_from_the_others(
    tmp_path: Path, clock: FakeClock, reason: str
) -> None:
    """Else a disk that is full over the weekend would stop every other folder."""
    async with house(tmp_path, clock, folders=2) as at_work:
        for number in range(60):
            await record(at_work, number)
        turns = at_work.dispatcher.turns
        for tile in await turns.uploads(99, set()):
            await at_work.bring(tile, State.UPLOADED)
        assert await turns.uploads(99, set()) == []
        fault = Fault("It is away, or full.", blame=Blame.HOUSE)
        if reason == "inbox away":
            at_work.folders[0].detector.fault = fault
        else:
            at_work.gates.close(room_gate(1) if reason == "no room" else outbox_gate(1), fault)
        for number in range(1000, 1005):
            await record(at_work, number, folder=1)
        found = await turns.uploads(99, set())
        assert names(found) == ["1000", "1001", "1002", "1003", "1004"]
        for tile in found:
            await at_work.bring(tile, State.UPLOADED)
        at_work.folders[0].detector.fault = None
        clock.advance(700.0)
        assert await turns.uploads(99, set()) == [], "when it may be probed all count again"
