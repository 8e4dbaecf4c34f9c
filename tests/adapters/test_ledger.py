"""The ledger: what it decides, what stands or falls together, and that a restart reads what was recorded."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.clock import FakeClock
from fakes.facts import BILL, TWICE, bring, settled, sha

from daemon.adapters import ledger_desk
from daemon.adapters.ledger import DUE_TILES, SqliteLedger
from daemon.adapters.ledger_delivery import DUE_PICTURES
from daemon.adapters.ledger_desk import release, retry
from daemon.ports_ledger import Ledger
from daemon.rules.admission import Decision
from daemon.rules.budget import TYPICAL_PREDICT_SECONDS, USD_PER_SECOND, Spending
from daemon.rules.faults import LedgerBroken, NotAPicture
from daemon.rules.job import Bill, Look, Phase, Picture, Settled, Tile
from daemon.rules.lifecycle import (
    NEVER,
    Absent,
    Event,
    Expired,
    Failed,
    Held,
    Missing,
    Refused,
    Retried,
    State,
    Uploaded,
    Wanted,
    Withdrawn,
    Written,
)
from daemon.rules.names import KEY
from daemon.rules.recipe import Recipe
from daemon.rules.sidecar import ResultFacts

GIVEN_UP = Failed("It is broken.", "Mend it.", "picture")
HELD = Held("Too many.", "Release.", NEVER)
LARGEST = 2**63 - 1  # what a look may hold; see the folder


@pytest.fixture
async def ledger(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(tmp_path / "ledger.db", clock)
    await ledger.open()
    assert await ledger.folder(b"/in/1", "oldest") == 1
    yield ledger
    await ledger.close()


async def admit(
    ledger: Ledger, file: Settled | None = None, *, stays: bool = True, held: Held | None = None, at: float = 2_000.0
) -> tuple[Decision, Tile]:
    file = file or settled()
    decision = await ledger.admit(file, "oldest", stays, held, at)
    return decision, await ledger.tile((file.recipe.job_id(file.content.sha256), 0))


async def move(ledger: SqliteLedger, tile: Tile, to: State, now: float = 2_000.0) -> Tile:
    async def record(tile: Tile, event: Event, *, bill: Bill | None = None) -> Tile:
        return await ledger.record(tile, event, now, bill=bill)

    return await bring(record, tile, to, now=now)


async def phases(ledger: SqliteLedger) -> dict[bytes, Phase]:
    return await ledger.read(
        lambda db: {path: Phase(phase) for path, phase in db.execute("SELECT path, phase FROM picture")}
    )


async def dump(ledger: SqliteLedger) -> dict[str, list[Any]]:
    """Everything that is recorded."""
    tables = ("meta", "folder", "job", "tile", "picture", "bill", "asset", "history")
    return await ledger.read(lambda db: {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables})


async def deliver(ledger: SqliteLedger, path: bytes = b"a_x2.png") -> tuple[Picture, bool]:
    """Deliver the picture whose turn it is."""
    [(picture, tile)] = await ledger.deliveries.due([1], 1, [])
    assert await ledger.deliveries.claim(picture, b"/out", path)
    result = ResultFacts(path, sha(b"result"), 6, 6, 4, "PNG")
    return picture, await ledger.deliveries.delivered(picture, tile, result, 2_000.0, reused=False)


# Admission


async def test_a_new_content_is_a_new_job(ledger: SqliteLedger) -> None:
    decision, tile = await admit(ledger)
    assert decision is Decision.NEW
    assert (tile.state, tile.due_at, tile.submits) == (State.ADMITTED, 2_000.0, 0)
    assert (tile.job.path, tile.job.content, tile.job.recipe) == (b"a.png", settled().content, TWICE)
    assert await phases(ledger) == {b"a.png": Phase.WAITING}


@pytest.mark.parametrize("state", [state for state in State if state not in (State.FAILED, State.DONE, State.HELD)])
async def test_the_same_content_joins_the_job_wherever_it_is(ledger: SqliteLedger, state: State) -> None:
    _, tile = await admit(ledger)
    before = await move(ledger, tile, state)
    decision, after = await admit(ledger, settled(b"copy.png"))
    assert (decision, after) == (Decision.JOIN, before)
    assert set((await phases(ledger)).values()) == {Phase.DUE if state is State.FETCHED else Phase.WAITING}


async def test_a_copy_of_a_job_that_is_done_is_due_at_once(ledger: SqliteLedger) -> None:
    await move(ledger, (await admit(ledger))[1], State.FETCHED)
    assert await deliver(ledger)
    decision, tile = await admit(ledger, settled(b"copy.png"))
    assert (decision, tile.state) == (Decision.JOIN, State.DONE)
    assert await phases(ledger) == {b"a.png": Phase.DELIVERED, b"copy.png": Phase.DUE}
    assert [picture.path for picture, _ in await ledger.deliveries.due([1], 9, [])] == [b"copy.png"]


async def test_another_recipe_is_another_job(ledger: SqliteLedger) -> None:
    _, one = await admit(ledger)
    decision, other = await admit(ledger, settled(b"copy.png", recipe=Recipe(scale=4.0)))
    assert decision is Decision.NEW
    assert one.job.id != other.job.id


@pytest.mark.parametrize(("stays", "decision"), [(True, Decision.SAME), (False, Decision.JOIN)])
async def test_a_delivered_picture_that_was_touched(ledger: SqliteLedger, stays: bool, decision: Decision) -> None:
    """Where pictures stay, a new date alone is no new drop; where they leave, it was dropped in again."""
    await move(ledger, (await admit(ledger))[1], State.FETCHED)
    await deliver(ledger)
    touched = settled(look=Look(9, 5, 7))
    assert (await admit(ledger, touched, stays=stays))[0] is decision
    assert await ledger.known(1) == [(b"a.png", Look(9, 5, 7))]
    assert await phases(ledger) == {b"a.png": Phase.DELIVERED if stays else Phase.DUE}


async def test_a_changed_picture_is_a_new_job_that_keeps_its_results_name(ledger: SqliteLedger) -> None:
    await move(ledger, (await admit(ledger))[1], State.FETCHED)
    await deliver(ledger)
    decision, tile = await admit(ledger, settled(data=b"another picture"))
    assert decision is Decision.NEW
    [picture] = await ledger.deliveries.sources(tile.job.id)
    assert (picture.result_path, picture.result_sha256) == (b"a_x2.png", sha(b"result"))


async def test_a_failed_content_dropped_in_again_is_another_try(ledger: SqliteLedger) -> None:
    """For every picture that has it; runs that were paid stay counted."""
    _, tile = await admit(ledger)
    await admit(ledger, settled(b"copy.png"))
    tile = await move(ledger, tile, State.SUBMITTED)
    await ledger.record(tile, GIVEN_UP, 2_000.0, bill=BILL)
    for picture, failed in await ledger.deliveries.due([1], 9, []):
        await ledger.deliveries.reported(picture, failed, 2_000.0)
    assert set((await phases(ledger)).values()) == {Phase.FAILED}
    decision, tile = await admit(ledger, settled(look=Look(9, 5, 8)))
    assert (decision, tile.state, tile.reason, tile.submits) == (Decision.RETRY, State.ADMITTED, "", 1)
    assert set((await phases(ledger)).values()) == {Phase.WAITING}


async def test_what_cannot_be_sent_fails_at_once_with_its_reason(ledger: SqliteLedger) -> None:
    """It stays known, so that it is not read again and again; a second try is another failure."""
    broken = settled(failure=NotAPicture("It does not decode.", remedy="Save it again."))
    decision, tile = await admit(ledger, broken)
    assert (decision, tile.state) == (Decision.NEW, State.FAILED)
    assert (tile.reason, tile.remedy, tile.blame) == ("It does not decode.", "Save it again.", "picture")
    assert await phases(ledger) == {b"a.png": Phase.DUE}
    assert [path for path, _ in await ledger.known(1)] == [b"a.png"]
    decision, tile = await admit(ledger, dataclasses.replace(broken, look=Look(9, 5, 8)))
    assert (decision, tile.state) == (Decision.RETRY, State.FAILED)
    assert await phases(ledger) == {b"a.png": Phase.DUE}


async def test_a_drop_that_is_held_waits_for_its_release(ledger: SqliteLedger) -> None:
    _, tile = await admit(ledger, held=HELD)
    assert (tile.state, tile.reason, tile.due_at) == (State.HELD, "Too many.", NEVER)
    assert await ledger.due([State.HELD], [1], NEVER - 1, 9, []) == []
    assert await ledger.write(lambda db: release(db, [tile.job.id], 2_000.0, 2)) == [tile.job.id]
    tile = await ledger.tile(tile.key)
    assert (tile.state, tile.released, tile.reason) == (State.ADMITTED, False, ""), "the budget is not let pass"


async def test_an_undecodable_picture_of_a_large_drop_fails_and_is_not_held(ledger: SqliteLedger) -> None:
    _, tile = await admit(ledger, settled(failure=NotAPicture("It does not decode.")), held=HELD)
    assert tile.state is State.FAILED


async def test_a_budget_that_a_person_lets_pass_is_passed(ledger: SqliteLedger) -> None:
    _, tile = await admit(ledger, held=dataclasses.replace(HELD, due_at=5_000.0))
    await ledger.write(lambda db: release(db, [tile.job.id], 2_000.0, 2))
    assert (await ledger.tile(tile.key)).released


async def test_a_file_with_the_largest_numbers(ledger: SqliteLedger) -> None:
    look = Look(2**40, LARGEST, LARGEST)
    await admit(ledger, settled(look=look))
    assert await ledger.known(1) == [(b"a.png", look)]


# Recording


async def test_everything_is_recorded_or_nothing(ledger: SqliteLedger) -> None:
    """A transition whose last part fails leaves no trace of the others."""
    tile = await move(ledger, (await admit(ledger))[1], State.SUBMITTED)
    before = await dump(ledger)
    await ledger.write(lambda db: db.execute("ALTER TABLE history RENAME TO away"))
    with pytest.raises(LedgerBroken):
        await ledger.record(tile, GIVEN_UP, 2_000.0, bill=BILL)
    await ledger.write(lambda db: db.execute("ALTER TABLE away RENAME TO history"))
    assert await dump(ledger) == before


async def test_a_transition_brings_all_that_hangs_on_it(ledger: SqliteLedger) -> None:
    _, tile = await admit(ledger)
    await ledger.record(tile, Uploaded("ref", "https://x.test/?sig=secret", 9.0), 2_001.0)
    after = await dump(ledger)
    assert after["asset"] == [("ref", tile.job.id, 0, 2_001.0)]
    assert [(row[1], row[4]) for row in after["history"]] == [(2_000.0, "admitted"), (2_001.0, "uploaded")]
    assert "secret" not in str(after["history"])
    tile = await move(ledger, await ledger.tile(tile.key), State.FETCHED)
    after = await dump(ledger)
    assert after["bill"] == [(tile.prediction, tile.job.id, 0, 2_000.0, *dataclasses.astuple(BILL))]
    assert await phases(ledger) == {b"a.png": Phase.DUE}
    assert await ledger.tile(tile.key) == tile


async def test_a_bill_is_counted_once_for_one_prediction(ledger: SqliteLedger) -> None:
    tile = await move(ledger, (await admit(ledger))[1], State.FETCHED)
    tile = await ledger.record(tile, Missing(), 2_000.0)
    tile = await ledger.record(tile, Expired(), 2_000.0)
    await move(ledger, tile, State.FETCHED)
    assert await ledger.books.bill(tile.job.id) == BILL
    assert (await ledger.books.spending(2_000.0)).day_usd == BILL.cost_usd


async def test_a_stale_tile_is_a_defect_and_changes_nothing(ledger: SqliteLedger) -> None:
    """Two who work on one tile: the second must not undo what the first recorded."""
    _, stale = await admit(ledger)
    await move(ledger, stale, State.SUBMITTED)
    before = await dump(ledger)
    with pytest.raises(AssertionError, match="no longer admitted"):
        await ledger.record(stale, Uploaded("other", "https://x.test/", None), 2_002.0)
    with pytest.raises(AssertionError, match="no longer admitted"):
        await ledger.postpone(stale, 3_000.0, attempts=1)
    assert await dump(ledger) == before


async def test_an_illegal_transition_changes_nothing(ledger: SqliteLedger) -> None:
    _, tile = await admit(ledger)
    before = await dump(ledger)
    with pytest.raises(AssertionError, match="cannot happen"):
        await ledger.record(tile, Written(), 2_001.0)
    assert await dump(ledger) == before


async def test_a_wait_and_a_postponement_move_the_due_time(ledger: SqliteLedger) -> None:
    tile = await move(ledger, (await admit(ledger))[1], State.SUBMITTING)
    tile = await ledger.record(tile, Absent(), 2_000.0, wait=5.0)
    assert await ledger.due([State.ADMITTED], [1], 2_004.9, 9, []) == []
    assert await ledger.due([State.ADMITTED], [1], 2_005.0, 9, []) == [tile]
    tile = await ledger.postpone(tile, 2_050.0, attempts=3)
    assert tile.attempts == 3
    assert await ledger.due([State.ADMITTED], [1], 2_049.0, 9, []) == []
    assert await ledger.next_due([State.ADMITTED, State.READY], 2_005.0) == 2_050.0
    assert await ledger.next_due([State.READY], 2_005.0) is None


async def test_a_withdrawn_picture_is_gone_and_is_new_when_it_comes_back(ledger: SqliteLedger) -> None:
    _, tile = await admit(ledger)
    await ledger.record(tile, Withdrawn("It left."), 2_000.0)
    assert await phases(ledger) == {b"a.png": Phase.GONE}
    assert await ledger.known(1) == []
    assert await ledger.deliveries.due([1], 9, []) == []
    assert (await admit(ledger))[0] is Decision.RETRY
    assert await phases(ledger) == {b"a.png": Phase.WAITING}


async def test_a_persons_retry_gives_a_full_allowance(ledger: SqliteLedger) -> None:
    tile = await move(ledger, (await admit(ledger))[1], State.SUBMITTED)
    tile = await ledger.record(tile, GIVEN_UP, 2_000.0)
    [picture] = await ledger.write(lambda db: retry(db, [tile.job.id], 2_000.0))
    assert picture.path == b"a.png"
    assert await ledger.known(1) == []
    decision, tile = await admit(ledger)
    assert (decision, tile.submits, tile.submits_granted) == (Decision.RETRY, 1, 1)


# Whose turn it is


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("oldest", [b"b.png", b"C.png", b"a.png", b"d.png"]),
        ("newest", [b"d.png", b"a.png", b"C.png", b"b.png"]),
        ("smallest", [b"C.png", b"d.png", b"a.png", b"b.png"]),
        ("name", [b"a.png", b"b.png", b"C.png", b"d.png"]),
    ],
)
async def test_a_folders_order(ledger: SqliteLedger, order: str, expected: list[bytes]) -> None:
    """Also when the order is changed after they were admitted."""
    looks = {b"a.png": Look(3, 30, 1), b"b.png": Look(4, 10, 2), b"C.png": Look(1, 20, 3), b"d.png": Look(2, 40, 4)}
    for path, look in looks.items():
        await ledger.admit(settled(path, path, look=look), order, True, None, 2_000.0)

    async def turns() -> list[bytes]:
        return [tile.job.path for tile in await ledger.due([State.ADMITTED], [1], 2_000.0, 9, [])]

    assert await turns() == expected
    await ledger.folder(b"/in/1", "newest" if order != "newest" else "smallest")
    assert await turns() != expected
    await ledger.folder(b"/in/1", order)
    assert await turns() == expected


async def test_folders_take_turns(ledger: SqliteLedger) -> None:
    """A folder with thousands waiting does not keep another's one picture from its place."""
    assert await ledger.folder(b"/in/2", "oldest") == 2
    for number in range(9):
        await admit(ledger, settled(b"%d.png" % number, b"%d" % number, look=Look(1, number, number)))
    await admit(ledger, settled(b"x.png", b"x", folder=2))
    turns = [tile.job.path for tile in await ledger.due([State.ADMITTED], [1, 2], 2_000.0, 4, [])]
    assert turns == [b"0.png", b"x.png", b"1.png", b"2.png"]
    assert [t.job.path for t in await ledger.due([State.ADMITTED], [2], 2_000.0, 4, [])] == [b"x.png"]


async def test_those_in_hand_do_not_hide_those_behind_them(ledger: SqliteLedger) -> None:
    for number in range(5):
        await admit(ledger, settled(b"%d.png" % number, b"%d" % number, look=Look(1, number, number)))
    hand = {tile.key for tile in await ledger.due([State.ADMITTED], [1], 2_000.0, 3, [])}
    left = await ledger.due([State.ADMITTED], [1], 2_000.0, 3, hand)
    assert [tile.job.path for tile in left] == [b"3.png", b"4.png"]


async def test_states_come_in_the_order_they_are_asked_in(ledger: SqliteLedger) -> None:
    await admit(ledger, settled(b"a.png", b"a", look=Look(1, 1, 1)))
    _, other = await admit(ledger, settled(b"b.png", b"b", look=Look(1, 2, 2)))
    await move(ledger, other, State.SUBMITTED)
    due = await ledger.due([State.SUBMITTED, State.ADMITTED], [1], 2_000.0, 9, [])
    assert [tile.state for tile in due] == [State.SUBMITTED, State.ADMITTED]
    assert await ledger.counts() == {State.SUBMITTED: 1, State.ADMITTED: 1}
    assert await ledger.count(State.SUBMITTED, State.ADMITTED, State.READY) == 2
    assert await ledger.jobs_in(State.SUBMITTED) == {other.job.id}


# Deliveries


async def test_a_results_name_has_one_owner(ledger: SqliteLedger) -> None:
    await move(ledger, (await admit(ledger))[1], State.FETCHED)
    await move(ledger, (await admit(ledger, settled(b"b.png", b"b")))[1], State.FETCHED)
    claim = ledger.deliveries.claim
    (one, _), (other, _) = await ledger.deliveries.due([1], 9, [])
    assert await claim(one, b"/out", b"x.png")
    assert not await claim(other, b"/out", b"x.png")
    assert await claim(other, b"/out2", b"x.png")
    (one, _), _ = await ledger.deliveries.due([1], 9, [])
    assert (one.outbox, one.result_path, one.result_sha256) == (b"/out", b"x.png", None)
    assert await claim(one, b"/out", b"x.png"), "its own name, after a restart"
    assert await claim(one, b"/out", b"y.png")
    assert await claim(other, b"/out", b"x.png"), "a name that was given up is free"


async def test_a_job_is_done_with_its_last_picture(ledger: SqliteLedger) -> None:
    _, tile = await admit(ledger)
    await admit(ledger, settled(b"copy.png"))
    tile = await move(ledger, tile, State.FETCHED)
    assert not await ledger.deliveries.finish(tile.job.id, 2_000.0)
    [(first, _)] = await ledger.deliveries.due([1], 1, [])
    assert [p.path for p, _ in await ledger.deliveries.due([1], 9, [first.id])] == [b"copy.png"]
    assert (await deliver(ledger, b"a_x2.png"))[1] is False
    assert (await ledger.tile(tile.key)).state is State.FETCHED
    assert (await deliver(ledger, b"copy_x2.png"))[1] is True
    assert (await ledger.tile(tile.key)).state is State.DONE
    copies = await ledger.deliveries.copies(tile.job.id)
    assert [(copy.path, copy.result_path) for copy in copies] == [
        (b"a.png", b"a_x2.png"),
        (b"copy.png", b"copy_x2.png"),
    ]
    assert await ledger.deliveries.is_reuse(copies[1])


async def test_a_result_is_not_looked_for_under_a_name_that_has_another_content(ledger: SqliteLedger) -> None:
    """The picture was replaced: what lies under its name is still the old content's result, and no other's."""
    _, old = await admit(ledger)
    await move(ledger, old, State.FETCHED)
    await deliver(ledger, b"a_x2.png")
    _, new = await admit(ledger, settled(b"a.png", b"another picture"))
    assert [copy.path for copy in await ledger.deliveries.copies(old.job.id)] == [b"a.png"]
    assert await ledger.deliveries.copies(new.job.id) == []


async def test_only_pictures_of_our_folders_are_due(ledger: SqliteLedger) -> None:
    """Another's, which is no longer configured, does not stand in the way."""
    assert await ledger.folder(b"/in/2", "oldest") == 2
    for folder in (1, 2):
        file = settled(data=b"%d" % folder, folder=folder)
        await move(ledger, (await admit(ledger, file))[1], State.FETCHED)
    assert [picture.folder for picture, _ in await ledger.deliveries.due([2], 1, [])] == [2]
    assert await ledger.folders() == [1, 2]


@pytest.mark.parametrize("end", ["delivered", "reported"])
async def test_a_picture_that_was_replaced_while_it_was_written_still_waits(ledger: SqliteLedger, end: str) -> None:
    """What was written is remembered as ours; the picture's new content goes its own way."""
    tile = await move(ledger, (await admit(ledger))[1], State.FETCHED)
    [(picture, tile)] = await ledger.deliveries.due([1], 9, [])
    await ledger.deliveries.claim(picture, b"/out", b"a_x2.png")
    _, other = await admit(ledger, settled(data=b"another picture"))
    if end == "delivered":
        result = ResultFacts(b"a_x2.png", sha(b"result"), 6, 6, 4, "PNG")
        await ledger.deliveries.delivered(picture, tile, result, 2_000.0, reused=False)
    else:
        await ledger.deliveries.reported(picture, tile, 2_000.0)
    assert await phases(ledger) == {b"a.png": Phase.WAITING}
    [waiting] = await ledger.deliveries.sources(other.job.id)
    assert waiting.result_sha256 == (sha(b"result") if end == "delivered" else None)


async def test_a_name_is_abandoned_when_its_picture_leaves_before_it_is_written(ledger: SqliteLedger) -> None:
    """What a crash left there is nobody's, where the picture was replaced by one that then left."""
    await move(ledger, (await admit(ledger))[1], State.FETCHED)
    [(picture, _)] = await ledger.deliveries.due([1], 9, [])
    await ledger.deliveries.claim(picture, b"/out", b"a_x2.png")
    assert await ledger.deliveries.abandoned() == [], "it is written again"
    _, other = await admit(ledger, settled(data=b"another picture"))
    assert await ledger.deliveries.abandoned() == [], "so is this one, under the same name"
    await ledger.record(other, Withdrawn("It left."), 2_000.0)
    assert await ledger.deliveries.abandoned() == [(b"/out", b"a_x2.png")]


async def test_a_job_that_nobody_waits_for_is_finished(ledger: SqliteLedger) -> None:
    """Its picture was replaced by another while it was fetched."""
    tile = await move(ledger, (await admit(ledger))[1], State.READY)
    await admit(ledger, settled(data=b"another"))
    assert not await ledger.deliveries.finish(tile.job.id, 2_000.0)
    tile = await move(ledger, tile, State.FETCHED)
    assert await ledger.deliveries.finish(tile.job.id, 2_000.0)
    assert (await ledger.tile(tile.key)).state is State.DONE


async def test_a_result_that_is_wanted_again_makes_its_pictures_wait(ledger: SqliteLedger) -> None:
    tile = await move(ledger, (await admit(ledger))[1], State.FETCHED)
    await deliver(ledger)
    _, tile = await admit(ledger, settled(b"copy.png"))
    await ledger.record(tile, Wanted(), 2_000.0)
    assert await phases(ledger) == {b"a.png": Phase.DELIVERED, b"copy.png": Phase.WAITING}
    times = await ledger.deliveries.times(tile.job.id)
    assert times.keys() >= {"admitted", "uploaded", "submitting", "submitted", "ready", "fetched", "done", "wanted"}


# Books


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (State.UPLOADED, True),
        (State.SUBMITTING, True),
        (State.SUBMITTED, True),
        (State.READY, False),
        (State.FETCHED, False),
    ],
)
async def test_an_asset_is_wanted_while_the_service_may_read_it(
    ledger: SqliteLedger, state: State, wanted: bool
) -> None:
    tile = await move(ledger, (await admit(ledger))[1], state)
    assert await ledger.books.unwanted_assets(9) == ([] if wanted else [tile.asset_ref])
    await ledger.books.forget_asset(str(tile.asset_ref))
    assert await ledger.books.unwanted_assets(9) == []


@pytest.mark.parametrize("end", [GIVEN_UP, Withdrawn("It left."), HELD, None], ids=str)
async def test_an_asset_without_a_future_is_unwanted(ledger: SqliteLedger, end: Event | None) -> None:
    tile = await move(ledger, (await admit(ledger))[1], State.UPLOADED)
    old = tile.asset_ref
    if end is None:
        tile = await move(ledger, tile, State.SUBMITTING)
        tile = await ledger.record(tile, Absent(), 2_000.0)
        await ledger.record(tile, Uploaded("newer", "https://x.test/", None), 2_000.0)
    else:
        await ledger.record(tile, end, 2_000.0)
    assert await ledger.books.unwanted_assets(9) == [old]


@pytest.mark.parametrize("seconds", [5.0, -7200.0], ids=["later", "after the clock was set back"])
async def test_an_upload_that_may_have_been_under_way_is_swept(ledger: SqliteLedger, seconds: float) -> None:
    _, tile = await admit(ledger)
    await ledger.record(tile, Withdrawn("It left."), 2_000.0 + seconds)
    [ref] = await ledger.books.unwanted_assets(9)
    assert ref.startswith(KEY)
    await admit(ledger, settled(b"b.png", b"no picture", failure=NotAPicture("It is no picture.")))
    assert await ledger.books.unwanted_assets(9) == [ref], "none can have begun"


async def test_spending_is_by_day_and_month_with_what_is_in_flight(ledger: SqliteLedger) -> None:
    """Of UTC; 1970 had a first of January too."""
    assert await ledger.books.spending(0.0) == Spending(
        0.0, 0.0, 0, TYPICAL_PREDICT_SECONDS * USD_PER_SECOND, is_priced=False
    )
    day = 86_400.0
    for number, at in enumerate((10.0, day + 10.0, 32 * day)):
        tile = (await admit(ledger, settled(b"%d.png" % number, b"%d" % number)))[1]
        await move(ledger, tile, State.READY, now=at)
    for number, state in enumerate((State.SUBMITTING, State.SUBMITTED, State.UPLOADED)):
        await move(ledger, (await admit(ledger, settled(b"x%d.png" % number, b"x%d" % number)))[1], state)
    cost = BILL.cost_usd
    assert await ledger.books.spending(day + 20.0) == Spending(2 * cost, 3 * cost, 2, pytest.approx(cost))
    assert await ledger.books.spending(33 * day) == Spending(0.0, cost, 2, pytest.approx(cost))
    tile = await move(ledger, (await admit(ledger, settled(b"y.png", b"y")))[1], State.SUBMITTED)
    await ledger.record(tile, GIVEN_UP, 33 * day, bill=Bill(0.0, 1.0))
    assert (await ledger.books.spending(33 * day)).typical_usd == pytest.approx(cost), "the next one is not for nothing"
    tile = await move(ledger, (await admit(ledger, settled(b"z.png", b"z")))[1], State.SUBMITTED)
    await ledger.record(tile, GIVEN_UP, 33 * day, bill=Bill(9 * cost, 1.0))
    assert (await ledger.books.spending(33 * day)).typical_usd == pytest.approx(9 * cost), "there may be more like that"


async def test_submits_are_remembered_with_their_answers(ledger: SqliteLedger) -> None:
    tile = await move(ledger, (await admit(ledger))[1], State.SUBMITTING, now=2_000.0)
    assert await ledger.books.submits(1_999.0) == [(2_000.0, None)], "nobody knows when the service got it"
    tile = await ledger.record(tile, Refused(), 2_003.0)
    tile = await move(ledger, tile, State.SUBMITTING, now=2_010.0)
    await move(ledger, tile, State.SUBMITTED, now=2_012.0)
    assert await ledger.books.submits(1_999.0) == [(2_000.0, 2_003.0), (2_010.0, 2_012.0)]
    assert await ledger.books.submits(2_005.0) == [(2_010.0, 2_012.0)]


@pytest.mark.parametrize("state", [*State])
async def test_a_result_is_promised_a_place_until_it_is_there(ledger: SqliteLedger, state: State) -> None:
    """In staging from the intent until it was fetched, in the outbox until it was delivered."""
    tile = (await admit(ledger))[1]
    match state:
        case State.DONE:
            await move(ledger, tile, State.FETCHED)
            await deliver(ledger)
        case State.FAILED | State.HELD:
            await ledger.record(tile, GIVEN_UP if state is State.FAILED else HELD, 2_000.0)
        case _:
            await move(ledger, tile, state)
    room = 6 * 4 * 3
    unstaged = state in (State.SUBMITTING, State.SUBMITTED, State.READY)
    assert await ledger.books.promised() == (room if unstaged else 0)
    assert await ledger.books.promised(1) == (room if unstaged or state is State.FETCHED else 0)


async def test_what_is_promised_adds_up_for_each_outbox_and_for_staging(ledger: SqliteLedger) -> None:
    """3 x 2 pixels at scale 2 are 72 bytes, at scale 2.5 some 112, in the folder that the job came from."""
    assert await ledger.folder(b"/in/2", "oldest") == 2
    assert [await ledger.books.promised(folder) for folder in (None, 1, 2)] == [0, 0, 0]
    half = Recipe(scale=2.5)
    for number, (folder, recipe, state) in enumerate(
        [(1, TWICE, State.SUBMITTED), (1, TWICE, State.FETCHED), (2, half, State.READY), (2, TWICE, State.UPLOADED)]
    ):
        file = settled(b"%d.png" % number, b"%d" % number, folder=folder, recipe=recipe)
        await move(ledger, (await admit(ledger, file))[1], state)
    assert [await ledger.books.promised(folder) for folder in (None, 1, 2)] == [72 + 112, 2 * 72, 112]
    for recipe in (TWICE, Recipe(scale=4.0)):
        assert recipe.result_bytes(3, 2) == 3 * 3 * 2 * recipe.scale**2, "the same estimate in both places"


# A restart


async def test_a_restart_reads_what_was_recorded(ledger: SqliteLedger, tmp_path: Path) -> None:
    await admit(ledger, settled(b"caf\xe9\n.png"))
    await move(ledger, (await admit(ledger, settled(b"b.png", b"b")))[1], State.FETCHED)
    await ledger.record((await admit(ledger, settled(b"c.png", b"c")))[1], GIVEN_UP, 2_000.0)
    before, identity = await dump(ledger), ledger.identity
    await ledger.close()
    again = SqliteLedger(tmp_path / "ledger.db", FakeClock())
    again._clock.token(16)  # The dice of another start.
    await again.open()
    assert again.identity == identity != ""
    assert await again.folder(b"/in/1", "oldest") == 1
    assert await dump(again) == before
    await again.close()


async def test_two_ledgers_have_two_identities(tmp_path: Path, clock: FakeClock) -> None:
    ledgers = [SqliteLedger(tmp_path / name, clock) for name in ("one.db", "two.db")]
    for each in ledgers:
        await each.open()
    assert ledgers[0].identity != ledgers[1].identity
    for each in ledgers:
        await each.close()


async def test_retried_keeps_the_count_of_uploads(ledger: SqliteLedger) -> None:
    """Each upload has a key of its own, so that each submit has a URL of its own: the way back to a lost answer."""
    tile = await move(ledger, (await admit(ledger))[1], State.UPLOADED)
    tile = await ledger.record(tile, GIVEN_UP, 2_000.0)
    tile = await ledger.record(tile, Retried(), 2_000.0)
    assert (tile.state, tile.uploads) == (State.ADMITTED, 1)


async def test_what_was_withdrawn_is_not_counted_as_failed(ledger: SqliteLedger) -> None:
    """A file that a person took away before it was paid is nobody's failure."""
    _, tile = await admit(ledger)
    await ledger.record(tile, Withdrawn("It left."), 2_000.0)
    assert (await ledger.counts())[State.FAILED] == 0
    summary = await ledger.read(lambda db: ledger_desk.summary(db, 2_000.0))
    assert (summary["jobs"]["failed"], summary["failed"]) == (0, [])
    await admit(ledger, settled(b"b.png", b"no picture", failure=NotAPicture("It is no picture.")))
    assert (await ledger.counts())[State.FAILED] == 1


async def test_pruning_forgets_how_it_went_and_nothing_that_was_paid(ledger: SqliteLedger) -> None:
    day = ledger_desk.DAY_SECONDS

    async def prune(days: int, now: float) -> int:
        return await ledger.write(lambda db: ledger_desk.prune(db, days, now))

    _, tile = await admit(ledger)
    await move(ledger, tile, State.FETCHED, now=1_000.0)
    await admit(ledger, settled(b"copy.png"))
    await admit(ledger, settled(b"b.png", b"b"), held=HELD)
    for state in (State.ADMITTED, State.SUBMITTED):
        name = f"{state}.png".encode()
        await move(ledger, (await admit(ledger, settled(name, name)))[1], state)
    before = await dump(ledger)
    assert await prune(1, 9 * day) == 0, "somebody waits for each of them"
    picture, _ = await deliver(ledger)
    assert await prune(1, 9 * day) == 0, "for this one too, since there is a copy"
    await deliver(ledger, b"copy_x2.png")
    before = await dump(ledger)
    assert await prune(1, day + 999.0) == 0, "not old enough"
    assert await prune(1, 9 * day) > 0
    after = await dump(ledger)
    assert [table for table in before if before[table] != after[table]] == ["history"]
    assert {row for row in before["history"] if row[2] != tile.job.id} <= set(after["history"])
    assert await ledger.deliveries.is_reuse(picture), "dropped in again, it does not say that it paid"
    assert await ledger.books.bill(tile.job.id) == BILL
    assert await prune(1, 9 * day) == 0


@pytest.mark.parametrize(
    ("question", "marks", "index"), [(DUE_PICTURES, 2, "picture_due"), (DUE_TILES, 5, "tile_in_turn")]
)
async def test_a_look_for_work_reads_no_more_than_it_finds(
    ledger: SqliteLedger, question: str, marks: int, index: str
) -> None:
    """Asked for with every admission: a walk through the ledger each time would make 20,000 pictures wait for hours."""
    plan = await ledger.read(lambda db: db.execute(f"EXPLAIN QUERY PLAN {question}", ["[1]"] * marks).fetchall())
    steps = [row[3] for row in plan]
    assert index in steps[0]
    assert not [step for step in steps if "TEMP B-TREE" in step]
