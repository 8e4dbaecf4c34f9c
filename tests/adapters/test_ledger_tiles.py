"""The ledger on pictures that were cut: their tiles stand or fall together, and what is paid is never paid again."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.facts import BILL, TWICE, bring, settled, sha

from daemon.adapters import ledger_desk
from daemon.adapters.ledger import SqliteLedger
from daemon.rules.admission import Decision
from daemon.rules.faults import NotAPicture
from daemon.rules.job import Bill, Look, Phase, Settled, Tile, Whole
from daemon.rules.lifecycle import (
    NEVER,
    Event,
    Failed,
    Held,
    Intended,
    Missing,
    Refused,
    Released,
    Spoiled,
    State,
    Uploaded,
    Wanted,
    Withdrawn,
)
from daemon.rules.names import KEY
from daemon.rules.sidecar import ResultFacts
from daemon.rules.tiles import Rect

S = State
RECTS = (Rect(0, 0, 4, 4), Rect(3, 0, 4, 4), Rect(6, 0, 4, 4))
GIVEN_UP = Failed("It is broken.", "Mend it.", "picture")
OVER = Held("The budget is reached.", "Wait.", 5_000.0)
DOUBT = Held("In doubt.", "Look.", NEVER)


@pytest.fixture
async def ledger(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(tmp_path / "ledger.db", clock)
    await ledger.open()
    assert await ledger.folder(b"/in/1", "oldest") == 1
    yield ledger
    await ledger.close()


def file(path: bytes = b"a.png", **more: object) -> Settled:
    return settled(path, **({"tiles": RECTS} | more))  # type: ignore[arg-type]


async def cut(ledger: SqliteLedger, *states: State, held: Held | None = None, **more: object) -> Whole:
    """A picture of three tiles, each brought to its state; the first ones first, so that a failure comes last."""
    admitted = file(**more)  # type: ignore[arg-type]
    await ledger.admit(admitted, "oldest", True, held, 2_000.0)
    job = admitted.recipe.job_id(admitted.content.sha256)
    for number, state in enumerate(states):
        await move(ledger, await ledger.tile((job, number)), state)
    return await ledger.whole(job)


async def move(ledger: SqliteLedger, tile: Tile, to: State) -> Tile:
    async def record(tile: Tile, event: Event, *, bill: Bill | None = None) -> Tile:
        return await ledger.record(tile, event, 2_001.0, bill=bill)

    return await bring(record, tile, to, now=2_001.0, result=b"result %d" % tile.number)


async def states(ledger: SqliteLedger, whole: Whole) -> list[State]:
    return [tile.state for tile in (await ledger.whole(whole.job.id)).tiles]


async def phases(ledger: SqliteLedger) -> dict[bytes, Phase]:
    return await ledger.read(
        lambda db: {path: Phase(phase) for path, phase in db.execute("SELECT path, phase FROM picture")}
    )


async def due(ledger: SqliteLedger, at: float = 9_000.0) -> list[tuple[str, int]]:
    """What could be paid for, or is held until now."""
    return [tile.key for tile in await ledger.due([S.ADMITTED, S.UPLOADED, S.HELD], [1], at, 99, [])]


# Admission


async def test_all_tiles_are_admitted_together_and_come_in_turn(ledger: SqliteLedger) -> None:
    whole = await cut(ledger)
    await ledger.admit(settled(b"b.png", b"b", look=Look(1, 1, 1)), "oldest", True, None, 2_000.0)
    assert [(tile.number, tile.rect, tile.state, tile.is_whole) for tile in whole.tiles] == [
        (number, rect, S.ADMITTED, False) for number, rect in enumerate(RECTS)
    ]
    found = await ledger.due([S.ADMITTED], [1], 2_000.0, 99, [])
    assert [tile.job.path for tile in found] == [b"b.png", *[b"a.png"] * 3], "by the folder's order"
    assert [tile.number for tile in found[1:]] == [0, 1, 2]


async def test_a_drop_that_is_held_is_held_in_all_its_tiles(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, held=DOUBT)
    assert await states(ledger, whole) == [S.HELD] * 3
    assert (await ledger.count(S.HELD), await ledger.count_jobs(S.HELD)) == (3, 1)
    assert await ledger.write(lambda db: ledger_desk.release(db, [whole.job.id], 2_000.0, 2)) == [whole.job.id]
    assert await states(ledger, whole) == [S.ADMITTED] * 3
    assert await ledger.books.unwanted_assets(9) == [], "nothing was being uploaded"


async def test_another_cut_where_nothing_came_of_the_first(ledger: SqliteLedger) -> None:
    """No upload's key comes again, and runs that were paid stay counted."""
    whole = await cut(ledger, S.SUBMITTED, tiles=())
    await ledger.record(whole.tiles[0], GIVEN_UP, 2_001.0, bill=BILL)
    decision = await ledger.admit(file(look=Look(1, 2, 3)), "oldest", True, None, 2_002.0)
    after = await ledger.whole(whole.job.id)
    assert decision is Decision.RETRY
    assert [(tile.rect, tile.state, tile.uploads) for tile in after.tiles] == [(rect, S.ADMITTED, 1) for rect in RECTS]
    assert [tile.submits for tile in after.tiles] == [1, 0, 0]
    assert after.job.content == file().content
    assert await phases(ledger) == {b"a.png": Phase.WAITING}


async def test_no_other_cut_where_something_is_paid(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.FETCHED)
    await ledger.record(whole.tiles[1], GIVEN_UP, 2_001.0)
    await ledger.admit(file(look=Look(1, 2, 3), tiles=RECTS[:1]), "oldest", True, None, 2_002.0)
    assert await states(ledger, whole) == [S.FETCHED, S.ADMITTED, S.ADMITTED]


async def test_who_works_on_a_part_of_another_cut_comes_too_late(ledger: SqliteLedger) -> None:
    """A copy in a folder that makes large pictures smaller is dropped in while a part of the first cut goes up."""
    whole = await cut(ledger)
    await ledger.record(whole.tiles[0], GIVEN_UP, 2_002.0)
    await ledger.admit(file(b"copy.png", tiles=(Rect(0, 0, 10, 4),)), "oldest", True, None, 2_003.0)
    assert [(tile.rect.width, tile.uploads) for tile in (await ledger.whole(whole.job.id)).tiles] == [(10, 1)]
    for old in whole.tiles[:2]:
        late = await ledger.record(old, Uploaded(f"late {old.number}", "https://x.test/", None), 2_004.0)
        assert late.state in (S.ADMITTED, S.FAILED)
        assert (await ledger.postpone(old, 9_999.0)).due_at != 9_999.0
    assert (await ledger.now(whole.tiles[1])).state is S.FAILED
    assert await states(ledger, whole) == [S.ADMITTED]
    assert {"late 0", "late 1"} <= set(await ledger.books.unwanted_assets(9))


async def test_a_folder_that_would_not_send_it_gets_what_another_sends(ledger: SqliteLedger) -> None:
    """And does not take it away from that one, in the middle of its upload."""
    whole = await cut(ledger)
    await ledger.admit(file(b"copy.png", failure=NotAPicture("Too large."), tiles=()), "oldest", True, None, 2_002.0)
    assert await states(ledger, whole) == [S.ADMITTED] * 3
    assert await phases(ledger) == {b"a.png": Phase.WAITING, b"copy.png": Phase.WAITING}


async def test_what_failed_and_cannot_be_sent_now_fails_for_that_reason(ledger: SqliteLedger) -> None:
    whole = await cut(ledger)
    await ledger.record(whole.tiles[0], Withdrawn("It left."), 2_002.0)
    refused = NotAPicture("Too large.", "Make it smaller.")
    decision = await ledger.admit(file(failure=refused, tiles=()), "oldest", True, None, 2_003.0)
    after = await ledger.whole(whole.job.id)
    assert (decision, after.state, after.standing.reason) == (Decision.RETRY, S.FAILED, "Too large.")
    assert await phases(ledger) == {b"a.png": Phase.DUE}


async def test_what_is_paid_of_it_is_not_given_up_for_that(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.FETCHED)
    await ledger.record(whole.tiles[1], GIVEN_UP, 2_002.0)
    refused = NotAPicture("Too large.", "Make it smaller.")
    await ledger.admit(file(failure=refused, tiles=()), "oldest", True, None, 2_003.0)
    assert await states(ledger, whole) == [S.FETCHED, S.FAILED, S.FAILED]


# One stops the others


@pytest.mark.parametrize("event", [GIVEN_UP, OVER, DOUBT, Withdrawn("It left.")], ids=lambda event: event.name)
@pytest.mark.parametrize("state", [S.ADMITTED, S.UPLOADED])
async def test_one_that_stops_stops_what_is_not_paid(ledger: SqliteLedger, event: Event, state: State) -> None:
    whole = await cut(ledger, S.ADMITTED, state, S.UPLOADED)
    new = await ledger.record(whole.tiles[0], event, 2_002.0)
    after = await ledger.whole(whole.job.id)
    assert {tile.state for tile in after.tiles} == {new.state}
    assert {(tile.reason, tile.remedy, tile.due_at) for tile in after.tiles} == {(new.reason, new.remedy, new.due_at)}
    assert await due(ledger, 4_999.0) == []
    names = await ledger.read(lambda db: db.execute("SELECT name FROM history WHERE at = 2002 ORDER BY id").fetchall())
    assert names == [(event.name,)] * 3


@pytest.mark.parametrize("state", [S.SUBMITTING, S.SUBMITTED, S.READY, S.FETCHED])
@pytest.mark.parametrize("event", [GIVEN_UP, DOUBT], ids=lambda event: event.name)
async def test_what_is_paid_goes_on_to_its_end_and_stays(ledger: SqliteLedger, state: State, event: Event) -> None:
    whole = await cut(ledger, state)
    new = await ledger.record(whole.tiles[1], event, 2_002.0)
    assert await states(ledger, whole) == [state, new.state, new.state]
    await move(ledger, whole.tiles[0], S.FETCHED)
    assert await states(ledger, whole) == [S.FETCHED, new.state, new.state]
    assert not await ledger.deliveries.finish(whole.job.id, 2_003.0)
    assert whole.job.id in await ledger.jobs_in(S.FETCHED), "its part of staging is kept"


async def test_one_that_comes_back_finds_that_the_others_have_stopped(ledger: SqliteLedger) -> None:
    """It was in flight; nothing came of it, and another try would be paid for in vain."""
    whole = await cut(ledger, S.SUBMITTED, S.SUBMITTING)
    await ledger.record(whole.tiles[2], GIVEN_UP, 2_002.0)
    first, second, third = (await ledger.whole(whole.job.id)).tiles
    assert (await ledger.record(first, Spoiled("Memory."), 2_003.0, bill=BILL)).state is S.FAILED
    assert (await ledger.record(second, Refused(), 2_003.0)).state is S.FAILED
    first, second, third = (await ledger.whole(whole.job.id)).tiles
    assert (first.reason, second.reason, third.reason) == (GIVEN_UP.reason,) * 3
    assert (first.submits, second.submits) == (1, 0)
    assert (await ledger.books.bill(whole.job.id)).cost_usd == BILL.cost_usd


@pytest.mark.parametrize("event", [GIVEN_UP, OVER], ids=lambda event: event.name)
async def test_who_works_on_one_comes_too_late(ledger: SqliteLedger, event: Event) -> None:
    """Its upload is swept, its submit does not leave, and none of that is a defect."""
    whole = await cut(ledger, S.ADMITTED, S.UPLOADED)
    uploaded, admitted = whole.tiles[1], whole.tiles[2]
    new = await ledger.record(whole.tiles[0], event, 2_002.0)
    late = await ledger.record(admitted, Uploaded("late", "https://x.test/", None), 2_003.0)
    assert (late.state, late.asset_ref) == (new.state, None)
    late = await ledger.record(uploaded, Intended(2_003.0, "api", "https://x.test/", None), 2_003.0)
    assert (late.state, late.submits) == (new.state, 0)
    assert (await ledger.postpone(uploaded, 9_999.0)).due_at == new.due_at
    refs = await ledger.books.unwanted_assets(9, besides=[tile.key for tile in whole.tiles])
    assert set(refs) == {"late", uploaded.asset_ref}, "what may be on its way is swept once it is there"
    assert set(await ledger.books.unwanted_assets(9)) > set(refs)
    assert {ref for ref in await ledger.books.unwanted_assets(9) if ref.startswith(KEY)}
    assert (await ledger.tile(admitted.key)).uploads == 1, "and no other upload has its key"


async def test_a_defect_is_still_one(ledger: SqliteLedger) -> None:
    """Two who work on one tile: the second must not undo what the first recorded."""
    whole = await cut(ledger)
    await move(ledger, whole.tiles[0], S.SUBMITTED)
    with pytest.raises(AssertionError, match="taken from admitted to submitted"):
        await ledger.record(whole.tiles[0], Uploaded("other", "https://x.test/", None), 2_002.0)
    ready = await move(ledger, whole.tiles[1], S.READY)
    await move(ledger, ready, S.FETCHED)
    with pytest.raises(AssertionError, match="no longer ready"):
        await ledger.record(ready, GIVEN_UP, 2_002.0)


async def test_a_failure_weighs_more_than_a_hold(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.SUBMITTING, S.SUBMITTED)
    await ledger.record(whole.tiles[0], DOUBT, 2_002.0)
    await ledger.record(whole.tiles[1], GIVEN_UP, 2_003.0)
    assert await states(ledger, whole) == [S.HELD, S.FAILED, S.HELD]
    assert (await ledger.whole(whole.job.id)).state is S.FAILED
    assert await phases(ledger) == {b"a.png": Phase.DUE}
    await ledger.write(lambda db: ledger_desk.release(db, [whole.job.id], 2_004.0, 2))
    assert await states(ledger, whole) == [S.FAILED] * 3, "there is no sense in paying for the others"


# And back


async def test_a_retry_brings_back_what_failed_and_nothing_else(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.FETCHED, S.SUBMITTED)
    await ledger.record(whole.tiles[2], GIVEN_UP, 2_002.0)
    [(picture, now)] = await ledger.deliveries.due([1], 9, [])
    assert now.standing.reason == GIVEN_UP.reason
    await ledger.deliveries.reported(picture, now, 2_002.0)
    assert await ledger.read(lambda db: ledger_desk.ends_since(db, 0.0)) == (0, [(b"a.png", GIVEN_UP.reason)])
    assert len(await ledger.write(lambda db: ledger_desk.retry(db, [whole.job.id], 2_003.0))) == 1
    decision = await ledger.admit(file(), "oldest", True, None, 2_004.0)
    assert (decision, await states(ledger, whole)) == (Decision.RETRY, [S.FETCHED, S.SUBMITTED, S.ADMITTED])
    assert await phases(ledger) == {b"a.png": Phase.WAITING}
    assert [tile.submits for tile in (await ledger.whole(whole.job.id)).tiles] == [1, 1, 0]


async def test_all_that_failed_comes_back_together(ledger: SqliteLedger) -> None:
    whole = await cut(ledger)
    await ledger.record(whole.tiles[1], GIVEN_UP, 2_002.0)
    await ledger.admit(file(look=Look(1, 2, 3)), "oldest", True, None, 2_003.0)
    assert await states(ledger, whole) == [S.ADMITTED] * 3


async def test_a_retry_waits_for_what_is_held(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.SUBMITTING, S.SUBMITTED)
    await ledger.record(whole.tiles[0], DOUBT, 2_002.0)
    await ledger.record(whole.tiles[1], GIVEN_UP, 2_003.0)
    await ledger.admit(file(look=Look(1, 2, 3)), "oldest", True, None, 2_004.0)
    assert await states(ledger, whole) == [S.HELD] * 3
    await ledger.write(lambda db: ledger_desk.release(db, [whole.job.id], 2_005.0, 2))
    assert await states(ledger, whole) == [S.ADMITTED] * 3


async def test_what_a_budget_held_together_goes_on_together(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.FETCHED)
    await ledger.record(whole.tiles[1], OVER, 2_002.0)
    assert await due(ledger, 5_000.0) == [tile.key for tile in whole.tiles[1:]]
    held = await ledger.tile(whole.tiles[2].key)
    await ledger.record(held, Released(submits_granted=0, by_person=False), 5_000.0)
    assert await states(ledger, whole) == [S.FETCHED, S.ADMITTED, S.ADMITTED]


async def test_an_upload_whose_answer_got_lost_is_swept(ledger: SqliteLedger) -> None:
    """It was held before it was tried again, and is stopped in the moment of its release."""
    whole = await cut(ledger, S.SUBMITTED)
    await ledger.record(whole.tiles[1], OVER, 2_002.0)
    await ledger.record(whole.tiles[0], GIVEN_UP, 2_003.0)
    held = await ledger.tile(whole.tiles[1].key)
    await ledger.record(held, Released(submits_granted=0, by_person=False), 5_000.0)
    assert await states(ledger, whole) == [S.FAILED] * 3
    swept = await ledger.read(lambda db: db.execute("SELECT number FROM asset WHERE ref LIKE 'key:%'").fetchall())
    assert {number for (number,) in swept} == {1, 2}


async def test_a_budgets_new_day_settles_no_doubt(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.SUBMITTING)
    await ledger.record(whole.tiles[1], OVER, 2_002.0)
    await ledger.record((await ledger.whole(whole.job.id)).tiles[0], DOUBT, 2_003.0)
    held = await ledger.tile(whole.tiles[1].key)
    await ledger.record(held, Released(submits_granted=0, by_person=False), 5_000.0)
    after = await ledger.whole(whole.job.id)
    assert [(tile.state, tile.reason) for tile in after.tiles] == [(S.HELD, DOUBT.reason)] * 3
    assert await due(ledger, 6_000.0) == []


@pytest.mark.parametrize(("held", "passes"), [(OVER, True), (DOUBT, False)], ids=["the budget", "a doubt"])
async def test_a_person_lets_a_whole_picture_pass_the_budget(ledger: SqliteLedger, held: Held, passes: bool) -> None:
    """Also the part that is in flight meanwhile, which may come back unpaid."""
    whole = await cut(ledger, S.SUBMITTED, S.FETCHED)
    await ledger.record(whole.tiles[2], held, 2_002.0)
    await ledger.write(lambda db: ledger_desk.release(db, [whole.job.id], 2_003.0, 2))
    back = await ledger.record((await ledger.whole(whole.job.id)).tiles[0], Spoiled("Memory."), 2_004.0, bill=BILL)
    assert (back.state, back.released) == (S.ADMITTED, passes)


async def test_a_release_grants_a_run_where_none_is_left(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.SUBMITTING)
    await ledger.record(whole.tiles[0], DOUBT, 2_002.0)
    await ledger.write(lambda db: ledger_desk.release(db, [whole.job.id], 2_003.0, 1))
    assert [tile.submits_granted for tile in (await ledger.whole(whole.job.id)).tiles] == [1, 0, 0]


# The end


async def test_a_job_is_done_when_all_its_tiles_are(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.FETCHED, S.FETCHED, S.READY)
    assert await phases(ledger) == {b"a.png": Phase.WAITING}
    await move(ledger, whole.tiles[2], S.FETCHED)
    assert await phases(ledger) == {b"a.png": Phase.DUE}
    [(picture, now)] = await ledger.deliveries.due([1], 9, [])
    assert [tile.number for tile in now.tiles] == [0, 1, 2]
    assert (now.state, now.submits, now.result_size) == (S.FETCHED, 3, (20, 8))
    assert {tile.likeness for tile in now.tiles} == {"grey"}
    assert await ledger.deliveries.still_due(picture) == now
    assert await ledger.deliveries.claim(picture, b"/out", b"a_x2.png")
    result = ResultFacts(b"a_x2.png", sha(b"r"), 1, 20, 8, "PNG")
    assert await ledger.deliveries.delivered(picture, now, result, 2_002.0, reused=False)
    done = await ledger.whole(whole.job.id)
    assert {(tile.state, tile.likeness) for tile in done.tiles} == {(S.DONE, "")}
    assert (await ledger.counts())[S.DONE] == 1, "pictures are counted, at the end"


async def test_a_part_that_staging_lost_is_fetched_again_alone(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.FETCHED, S.FETCHED, S.FETCHED)
    await ledger.record(whole.tiles[1], Missing(), 2_002.0)
    assert await states(ledger, whole) == [S.FETCHED, S.READY, S.FETCHED]
    assert await phases(ledger) == {b"a.png": Phase.WAITING}


@pytest.mark.parametrize(("event", "state"), [(Wanted(), S.READY), (DOUBT, S.HELD)])
async def test_what_is_done_is_wanted_as_a_whole(ledger: SqliteLedger, event: Event, state: State) -> None:
    whole = await cut(ledger, S.FETCHED, S.FETCHED, S.FETCHED)
    [(picture, now)] = await ledger.deliveries.due([1], 9, [])
    result = ResultFacts(b"a_x2.png", sha(b"r"), 1, 20, 8, "PNG")
    await ledger.deliveries.delivered(picture, now, result, 2_002.0, reused=False)
    await ledger.admit(file(b"copy.png"), "oldest", True, None, 2_003.0)
    await ledger.record((await ledger.whole(whole.job.id)).tiles[2], event, 2_004.0)
    assert await states(ledger, whole) == [state] * 3
    assert await phases(ledger) == {b"a.png": Phase.DELIVERED, b"copy.png": Phase.WAITING}


# Sums


async def test_what_it_cost_is_the_sum(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.SUBMITTED, S.FETCHED)
    await ledger.record(whole.tiles[0], Spoiled("Memory."), 2_001.0, bill=Bill(0.001))
    assert await ledger.books.bills(whole.job.id) == {0: Bill(0.001), 1: BILL}
    assert await ledger.books.bill(whole.job.id) == Bill(BILL.cost_usd + 0.001, BILL.predict_seconds)


async def test_a_milestone_is_passed_by_the_last_tile(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.UPLOADED)
    later = await ledger.record(whole.tiles[1], Uploaded("r", "https://x.test/", None), 2_050.0)
    assert (await ledger.deliveries.times(whole.job.id))["uploaded"] == 2_050.0
    assert (await ledger.deliveries.times(whole.job.id, 0))["uploaded"] == 2_001.0
    assert (await ledger.deliveries.times(*later.key))["uploaded"] == 2_050.0


async def test_room_and_slots_are_counted_by_the_tile(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.SUBMITTED, S.READY, S.UPLOADED)
    each = TWICE.result_bytes(4, 4)
    assert await ledger.books.promised() == 2 * each
    assert await ledger.books.promised(1, [whole.tiles[0].key]) == each
    assert (await ledger.books.spending(2_002.0)).in_flight == 1


@pytest.mark.parametrize(("event", "state"), [(GIVEN_UP, S.FAILED), (DOUBT, S.HELD)])
async def test_ends_are_counted_in_pictures(ledger: SqliteLedger, event: Event, state: State) -> None:
    whole = await cut(ledger, S.FETCHED, S.UPLOADED)
    assert await ledger.counts() == {S.FETCHED: 1, S.UPLOADED: 1, S.ADMITTED: 1}
    assert await ledger.count_jobs(S.FETCHED, S.UPLOADED, S.ADMITTED) == 1
    await ledger.record((await ledger.whole(whole.job.id)).tiles[1], event, 2_002.0)
    assert await ledger.counts() == {S.FETCHED: 0 if state is S.FAILED else 1, state: 1}
    assert await ledger.count_jobs(S.FETCHED, S.UPLOADED, S.ADMITTED) == 0, "nothing of it moves"
    assert (await ledger.count_jobs(state), await ledger.count(state)) == (1, 2)


# For people


@pytest.mark.parametrize(("event", "where"), [(GIVEN_UP, "failed"), (DOUBT, "held")])
async def test_a_picture_is_listed_once(ledger: SqliteLedger, event: Event, where: str) -> None:
    whole = await cut(ledger)
    await ledger.record(whole.tiles[1], event, 2_002.0)
    summary = await ledger.read(lambda db: ledger_desk.summary(db, 2_003.0))
    assert [(each["job"], each["picture"]) for each in summary[where]] == [(whole.job.id, "a.png")]
    assert (summary["jobs"][where], summary["more"]) == (1, {"held": 0, "failed": 0})
    if where == "held":
        assert await ledger.read(ledger_desk.held_reasons) == [(1, DOUBT.reason, DOUBT.remedy)]
        assert await ledger.read(ledger_desk.held_jobs) == [whole.job.id]


async def test_a_picture_is_shown_with_its_tiles(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.FETCHED, S.UPLOADED)
    shown = await ledger.read(lambda db: ledger_desk.show(db, whole.job.id))
    assert (shown["state"], shown["prediction"], shown["submits"]) == ("admitted", None, 1)
    assert [(tile["tile"], tile["left"], tile["width"], tile["state"]) for tile in shown["tiles"]] == [
        (0, 0, 4, "fetched"),
        (1, 3, 4, "uploaded"),
        (2, 6, 4, "admitted"),
    ]
    assert {line["tile"] for line in shown["history"]} == {0, 1, 2}
    assert "secret" not in str(shown)


async def test_one_in_a_piece_is_shown_as_ever(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, S.FETCHED, tiles=())
    shown = await ledger.read(lambda db: ledger_desk.show(db, whole.job.id))
    assert "tiles" not in shown
    assert shown["prediction"] == whole.tiles[0].prediction
    assert not [line for line in shown["history"] if "tile" in line]


async def test_what_cannot_be_sent_fails_whatever_it_would_be_cut_into(ledger: SqliteLedger) -> None:
    whole = await cut(ledger, failure=NotAPicture("It does not decode."))
    assert await states(ledger, whole) == [S.FAILED] * 3
    assert await ledger.books.unwanted_assets(9) == []
