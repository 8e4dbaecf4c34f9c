"""Flight, where the money is: one intent, one create; what is in doubt is looked up and never repeated by reflex."""

import asyncio
import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.facts import BILL, settled
from fakes.predictor import FakePredictor, cut, refused
from shell_kit import House, SmallFiles, house

from daemon.gates import outbox_gate, room_gate
from daemon.health import Health
from daemon.ports import Progress, Running, Spoiled, mark
from daemon.rules.faults import Blame, Created, Fault, Gate, LedgerBroken, Outlook, Unknown
from daemon.rules.hooks import Hooks
from daemon.rules.job import Tile
from daemon.rules.lifecycle import NEVER, Expired, State, Withdrawn
from daemon.rules.reactions import DOUBT_SECONDS_MAX
from daemon.service import end_gently

DAY = 86_400.0


@pytest.fixture
async def at_work(tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    async with house(tmp_path, clock) as at_work:
        yield at_work


async def fly(house: House, tile: Tile) -> Tile:
    """Let it fly until it lands or waits; where it is then."""
    await house.dispatcher.flight.fly(tile)
    return await house.now(tile)


async def fly_all(house: House, tiles: list[Tile]) -> list[Tile]:
    await asyncio.gather(*(house.dispatcher.flight.fly(tile) for tile in tiles))
    return [await house.now(tile) for tile in tiles]


async def fault_of(house: House, tile: Tile) -> Fault:
    with pytest.raises(Fault) as caught:
        await house.dispatcher.flight.fly(tile)
    return caught.value


# The usual way


async def test_one_create_and_its_result(at_work: House) -> None:
    tile = await fly(at_work, await at_work.uploaded())
    assert (tile.state, tile.submits, tile.prediction) == (State.READY, 1, "prediction-1")
    assert at_work.predictor.urls == [tile.asset_url]
    assert await at_work.history(tile) == ["admitted", "uploaded", "submitting", "submitted", "ready"]
    assert await at_work.ledger.books.bill(tile.job.id) == BILL


async def test_the_intent_is_durable_before_the_create_leaves(at_work: House) -> None:
    """What another process reads from the disk while the POST is under way is what a restart would find."""
    seen = []

    async def look(image_url: str) -> None:
        db = sqlite3.connect(at_work.config.state_dir / "ledger.db")
        seen.append(db.execute("SELECT state, asset_url, submits FROM tile").fetchall())
        seen.append(db.execute("SELECT name FROM history ORDER BY id").fetchall()[-1])
        db.close()
        assert seen[0] == [("submitting", image_url, 1)]

    at_work.predictor.on_create = look
    await fly(at_work, await at_work.uploaded())
    assert seen[1] == ("submitting",)


async def test_without_a_record_nothing_leaves(at_work: House) -> None:
    tile = await at_work.uploaded()
    await at_work.ledger.write(lambda db: db.execute("ALTER TABLE history RENAME TO away"))
    with pytest.raises(LedgerBroken):
        await at_work.dispatcher.flight.fly(tile)
    assert at_work.predictor.urls == []


async def test_a_prediction_that_runs_is_asked_for_again(at_work: House) -> None:
    at_work.predictor.answers.extend([Running("created"), Running("processing"), Running("something new")])
    tile = await fly(at_work, await at_work.uploaded())
    assert tile.state is State.READY
    assert len(at_work.predictor.asked) == 4
    assert len(at_work.predictor.urls) == 1


async def test_one_that_is_overdue_is_said_once_and_never_given_up(at_work: House, clock: FakeClock) -> None:
    at_work.predictor.answers.extend([Running("created")] * 1_500)
    tile = await fly(at_work, await at_work.uploaded())
    assert tile.state is State.READY
    assert clock.seconds > DAY
    assert len(at_work.told("overdue")) == 1


async def test_stopping_leaves_it_where_a_restart_finds_it(at_work: House) -> None:
    async def stop(_: str) -> None:
        at_work.dispatcher.stopping.set()

    at_work.predictor.on_create = stop
    tile = await fly(at_work, await at_work.uploaded())
    assert (tile.state, at_work.predictor.asked) == (State.SUBMITTED, [])
    assert (await fly(at_work, await at_work.uploaded(1))).state is State.UPLOADED
    assert len(at_work.predictor.urls) == 1


async def test_a_create_that_is_under_way_is_waited_for(at_work: House) -> None:
    """Told to end, the program lets it be answered: its id is worth a look into the history."""
    under_way, answered = asyncio.Event(), asyncio.Event()

    async def hold(_: str) -> None:
        under_way.set()
        await answered.wait()

    at_work.predictor.on_create = hold
    tile = await at_work.uploaded()
    flying = asyncio.create_task(at_work.dispatcher.flight.fly(tile))
    await under_way.wait()
    ending = asyncio.create_task(end_gently([flying], at_work.dispatcher, asyncio.Event()))
    for _ in range(9):
        await at_work.ledger.counts()
    assert not ending.done()
    answered.set()
    await ending
    await asyncio.gather(flying, return_exceptions=True)
    tile = await at_work.now(tile)
    assert (tile.state, tile.prediction) == (State.SUBMITTED, "prediction-1")


# In doubt


async def test_a_create_in_doubt_that_arrived_is_found_and_goes_on(at_work: House) -> None:
    at_work.predictor.arrives = True
    at_work.predictor.creates.append(cut())
    tile = await fly(at_work, await at_work.uploaded())
    assert (tile.state, tile.prediction, tile.submits) == (State.READY, "prediction-1", 1)
    assert len(at_work.predictor.urls) == 1
    assert "found" in await at_work.history(tile)


async def test_a_create_in_doubt_is_not_repeated_before_it_is_proved_absent_twice(
    at_work: House, clock: FakeClock
) -> None:
    at_work.predictor.creates.append(cut())
    tile = await fly(at_work, await at_work.uploaded())
    assert tile.state is State.ADMITTED
    assert len(at_work.predictor.urls) == 1, "the second create is another step, with another URL"
    times = await at_work.ledger.deliveries.times(tile.job.id)
    assert times["missed"] >= times["submitting"] + 1.5 * at_work.config.api.create_seconds_max
    assert times["absent"] >= times["missed"] + 20
    assert (await at_work.history(tile)).count("missed") == 1
    assert len(at_work.predictor.searched) >= 3, "it was also looked for during the grace: it may well be there"
    old = at_work.predictor.urls[0]
    await at_work.dispatcher._upload(tile)
    tile = await fly(at_work, await at_work.now(tile))
    assert (tile.state, tile.submits) == (State.READY, 2)
    assert at_work.predictor.urls[1].partition("?")[0] != old.partition("?")[0]


async def test_one_that_turns_up_in_the_second_look_is_not_paid_twice(at_work: House) -> None:
    """The history lags; what was missed once may still be there."""
    at_work.predictor.creates.append(cut())
    tile = await at_work.uploaded()
    searched = 0
    find = at_work.predictor.find

    class Lagging(FakePredictor):
        async def find(self, model: str, image_url: str, since: float, others: Collection[str] = ()) -> str | None:
            nonlocal searched
            searched += 1
            if (await at_work.now(tile)).absences:
                at_work.predictor.made[image_url] = "prediction-late"
            return await find(model, image_url, since, others)

    lagging = Lagging()
    lagging.__dict__ = at_work.predictor.__dict__
    at_work.dispatcher.flight.predictor = lagging
    tile = await fly(at_work, tile)
    assert (tile.state, tile.prediction) == (State.READY, "prediction-late")
    assert (len(at_work.predictor.urls), tile.submits) == (1, 1)


async def test_an_unreadable_history_decides_nothing_and_then_a_person_does(at_work: House, clock: FakeClock) -> None:
    at_work.predictor.creates.append(cut())
    at_work.predictor.lookups.extend([Fault("The history is down.", blame=Blame.SERVICE)] * 1_000)
    before = clock.seconds
    tile = await fly(at_work, await at_work.uploaded())
    assert (tile.state, tile.due_at) == (State.HELD, NEVER)
    assert clock.seconds - before > DOUBT_SECONDS_MAX
    assert len(at_work.predictor.urls) == 1


async def test_a_machine_that_was_off_for_long_asks_the_history_before_a_person(
    tmp_path: Path, clock: FakeClock
) -> None:
    """A power cut, a day later the network that comes up after us: nobody has to look at that."""
    async with house(tmp_path, clock) as before:
        tile = await before.bring(await before.uploaded(), State.SUBMITTING)
    clock.seconds += DAY
    async with house(tmp_path, clock) as after:
        assert tile.asset_url is not None
        after.predictor.made[tile.asset_url] = "prediction-1"
        after.predictor.lookups.extend([Fault("There is no network yet.", blame=Blame.SERVICE)] * 3)
        tile = await fly(after, tile)
        assert (tile.state, tile.prediction, after.predictor.urls) == (State.READY, "prediction-1", [])


async def test_a_look_that_failed_proves_nothing(at_work: House) -> None:
    at_work.predictor.creates.append(cut())
    down = Fault("The history is down.", blame=Blame.SERVICE)
    at_work.predictor.lookups.extend([down, None, down, None, down, None, down, None])
    tile = await fly(at_work, await at_work.uploaded())
    assert (await at_work.history(tile)).count("missed") == 1
    assert len(at_work.predictor.urls) == 1


async def test_the_last_submit_in_doubt_is_a_persons_decision(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, api={"submits_max": 1}) as at_work:
        at_work.predictor.creates.append(cut())
        tile = await fly(at_work, await at_work.uploaded())
        assert (tile.state, tile.due_at, tile.submits) == (State.HELD, NEVER, 1)
        assert len(at_work.predictor.urls) == 1


async def test_a_forgotten_prediction_is_looked_up_and_not_made_again(at_work: House, clock: FakeClock) -> None:
    """A fresh id gets its time; one that stays unknown is looked for in the history, from where it was made."""
    at_work.predictor.answers.extend([Running("processing")] * 400 + [Unknown("Never heard of it.")] * 30)
    tile, left_at = await at_work.uploaded(), clock.wall()
    tile = await fly(at_work, tile)
    assert set(at_work.predictor.since) == {left_at}
    assert clock.wall() - left_at > 3600
    assert tile.state is State.READY
    assert "forgotten" in await at_work.history(tile)
    assert "found" in await at_work.history(tile)
    times = await at_work.ledger.deliveries.times(tile.job.id)
    assert times["forgotten"] - times["submitting"] > 60
    assert len(at_work.predictor.urls) == 1


@pytest.mark.parametrize("listed", [True, False])
async def test_what_was_billed_is_never_absent(at_work: House, clock: FakeClock, listed: bool) -> None:
    """Its link expired, and the service no longer knows the id: it was paid for, so no second run by itself."""
    tile = await fly(at_work, await at_work.uploaded())
    assert (tile.state, len(at_work.predictor.urls)) == (State.READY, 1)
    tile = await at_work.dispatcher.record(tile, Expired())
    clock.advance(DAY)
    at_work.predictor.answers.extend([Unknown("Never heard of it.")] * 30)
    if not listed:
        at_work.predictor.made.clear()
    tile = await fly(at_work, tile)
    assert "forgotten" in await at_work.history(tile)
    assert len(at_work.predictor.urls) == 1
    if listed:
        assert (tile.state, tile.prediction) == (State.READY, "prediction-1")
    else:
        assert (tile.state, tile.due_at) == (State.HELD, NEVER)
        assert "paid for" in tile.reason
        assert "prediction-1" in tile.reason


async def test_the_history_is_searched_from_the_services_own_time(at_work: House, clock: FakeClock) -> None:
    """Ours is fast when it leaves, and right when it is looked for: what is there must not lie before the beginning."""
    at_work.predictor.ahead = -600.0
    at_work.predictor.creates.append(cut())
    tile, left_at = await at_work.uploaded(), clock.wall()
    await fly(at_work, tile)
    assert set(at_work.predictor.since) == {left_at - 600.0}


async def test_what_another_api_or_account_was_asked_is_a_persons_decision(at_work: House) -> None:
    """Its id is unknown here, and so is its history: unknown is not absent, and another create may be a second bill."""
    at_work.predictor.creates.append(cut())
    at_work.predictor.lookups.extend([None] * 30)

    async def move_house(_: str) -> None:
        at_work.dispatcher.flight.api = "another"

    at_work.predictor.on_create = move_house
    tile = await fly(at_work, await at_work.uploaded())
    assert (tile.state, tile.due_at) == (State.HELD, NEVER)
    assert "another API address or key" in tile.reason
    assert len(at_work.predictor.urls) == 1


# Refused


async def test_a_429_gives_the_submit_back_and_closes_the_gate(at_work: House, clock: FakeClock) -> None:
    at_work.predictor.creates.append(refused(429, retry_after=100.0))
    fault = await fault_of(at_work, await at_work.uploaded())
    assert fault.gate is Gate.API
    tile = (await at_work.ledger.due([State.UPLOADED], [1], clock.wall(), 9, []))[0]
    assert (tile.submits, tile.attempts) == (0, 0)
    assert at_work.gates.seconds_left("api") is not None
    assert (at_work.gates.seconds_left("api") or 0) >= 100.0
    assert (await fly(at_work, tile)).state is State.UPLOADED, "it waits in the ledger, not in a slot"
    clock.advance(at_work.gates.seconds_left("api") or 0)
    tile = await fly(at_work, tile)
    assert (tile.state, tile.submits) == (State.READY, 1)
    assert at_work.gates.seconds_left("api") is None
    assert len(at_work.predictor.urls) == 2


async def test_a_create_in_doubt_closes_the_gate_for_the_others(at_work: House) -> None:
    at_work.predictor.creates.append(cut())
    await fly(at_work, await at_work.uploaded())
    assert len(at_work.told("gate_closed")) == 1


async def test_what_the_model_refuses_fails_that_picture_alone(at_work: House) -> None:
    at_work.predictor.creates.append(
        Fault("The model takes no such picture.", blame=Blame.PICTURE, outlook=Outlook.LASTING)
    )
    tile = await fly(at_work, await at_work.uploaded())
    assert (tile.state, tile.reason, tile.blame) == (State.FAILED, "The model takes no such picture.", "picture")
    assert at_work.gates.seconds_left("api") is None
    assert (await fly(at_work, await at_work.uploaded(1))).state is State.READY


async def test_a_picture_that_may_have_been_created_is_not_failed(at_work: House) -> None:
    fault = Fault("Who knows.", blame=Blame.PICTURE, created=Created.MAYBE)
    at_work.predictor.creates.append(fault)
    at_work.predictor.arrives = True
    assert (await fly(at_work, await at_work.uploaded())).state is State.READY
    assert len(at_work.predictor.urls) == 1


# Ends without a result


async def test_a_passing_failure_is_paid_and_tried_once_more(at_work: House) -> None:
    at_work.predictor.answers.append(Spoiled("CUDA out of memory", passing=True, cost_usd=0.001))
    tile = await fly(at_work, await at_work.uploaded())
    assert (tile.state, tile.submits) == (State.ADMITTED, 1)
    assert (await at_work.ledger.books.bill(tile.job.id)).cost_usd == 0.001
    await at_work.dispatcher._upload(tile)
    at_work.predictor.answers.append(Spoiled("CUDA out of memory", passing=True, cost_usd=0.001))
    tile = await fly(at_work, await at_work.now(tile))
    assert tile.state is State.FAILED, "two paid runs are all there are"
    assert (await at_work.ledger.books.bill(tile.job.id)).cost_usd == 0.002
    assert len(at_work.predictor.urls) == 2


async def test_a_lasting_failure_fails_with_the_services_words(at_work: House) -> None:
    at_work.predictor.answers.append(Spoiled("Input image is greater than the max", passing=False, cost_usd=0.0))
    tile = await fly(at_work, await at_work.uploaded())
    assert tile.state is State.FAILED
    assert "greater than the max" in tile.reason


async def test_no_submits_left_means_no_create(at_work: House) -> None:
    tile = await at_work.uploaded()
    await at_work.ledger.write(lambda db: db.execute("UPDATE tile SET submits = 2"))
    assert (await fly(at_work, await at_work.now(tile))).state is State.FAILED
    assert at_work.predictor.urls == []


async def test_trouble_with_questions_costs_nothing(at_work: House) -> None:
    """The prediction runs on: it is asked for again, nothing is created, and creates are not held up."""
    down = Fault("The API answered 503.", blame=Blame.SERVICE, gate=Gate.API)
    at_work.predictor.answers.extend([down] * 20)
    tile = await fly(at_work, await at_work.uploaded())
    assert tile.state is State.READY
    assert len(at_work.predictor.urls) == 1
    assert at_work.gates.seconds_left("api") is None
    assert [line["gate"] for line in at_work.told("gate_closed")] == ["poll"]
    assert len(at_work.told("gate_opened")) == 1


async def test_an_outage_is_over_for_all_as_soon_as_one_is_answered(at_work: House, clock: FakeClock) -> None:
    """Questions cost no attempts, and however long it was, the pauses stay short: what is in flight is paid for."""
    tiles = [await at_work.bring(await at_work.uploaded(number), State.SUBMITTED) for number in range(3)]
    at_work.predictor.made = {tile.key[0]: str(tile.prediction) for tile in tiles}
    answers = at_work.predictor.answers
    answers.extend([Fault("The API answered 503.", blame=Blame.SERVICE, gate=Gate.API)] * 100)
    over_at = 0.0
    get = at_work.predictor.get

    async def asked(prediction: str) -> Progress:
        nonlocal over_at
        over_at = over_at if answers else over_at or clock.seconds
        return await get(prediction)

    at_work.predictor.get = asked  # type: ignore[method-assign]
    tiles = await fly_all(at_work, tiles)
    assert [(tile.state, tile.attempts) for tile in tiles] == [(State.READY, 0)] * 3
    assert clock.seconds > 3600.0, "a long outage"
    assert clock.seconds - over_at < 30.0
    assert [len(at_work.told(event)) for event in ("gate_closed", "gate_opened")] == [1, 1]


async def test_a_prediction_that_is_answered_oddly_is_its_own_trouble_alone(at_work: House) -> None:
    at_work.predictor.answers.extend([Fault("It makes no sense.", blame=Blame.SERVICE)] * 5)
    tile = await fly(at_work, await at_work.uploaded())
    assert tile.state is State.READY
    assert at_work.told("gate_closed") == []


async def test_looks_for_submits_in_doubt_and_questions_are_told_apart(at_work: House) -> None:
    """Else each answered question would open what each failed look closes."""
    running = await at_work.bring(await at_work.uploaded(1), State.SUBMITTED)
    at_work.predictor.made["another"] = str(running.prediction)
    at_work.predictor.answers.extend([Running("processing")] * 40)
    at_work.predictor.arrives = True
    at_work.predictor.creates.append(cut())
    at_work.predictor.lookups.extend([Fault("The history is down.", blame=Blame.SERVICE)] * 20)
    tiles = await fly_all(at_work, [running, await at_work.uploaded()])
    assert [tile.state for tile in tiles] == [State.READY] * 2
    told = [(line["event"], line["gate"]) for line in at_work.log.entries if line["event"].startswith("gate_")]
    assert [each for each in told if each[1] != "api"] == [("gate_closed", "history"), ("gate_opened", "history")]


async def test_in_an_outage_no_create_leaves_that_nobody_could_find(at_work: House, clock: FakeClock) -> None:
    """The probe of the API is a question first: a create that is lost then is a person's to settle."""
    at_work.predictor.creates.append(cut())
    at_work.predictor.lookups.extend([Fault("The history is down.", blame=Blame.SERVICE)] * 1000)
    down = Fault("The API answered 503.", blame=Blame.SERVICE, gate=Gate.API)
    at_work.predictor.checks.extend([down] * 30)
    tiles = [await at_work.uploaded(number) for number in range(3)]
    assert (await fly(at_work, tiles[0])).state is State.HELD
    for _ in range(30):
        clock.advance(700.0)
        assert await fault_of(at_work, tiles[1]) is down
    assert len(at_work.predictor.urls) == 1
    clock.advance(700.0)
    assert (await fly(at_work, tiles[1])).state is State.READY
    assert (await fly(at_work, tiles[2])).state is State.READY
    assert at_work.predictor.checked == 31, "behind an open gate nobody asks first"


async def test_an_answered_question_says_nothing_of_creates(at_work: House) -> None:
    """The balance is as it was, and so is the silence that the service wants."""
    running = await at_work.bring(await at_work.uploaded(), State.SUBMITTED)
    at_work.predictor.made["x"] = str(running.prediction)
    at_work.gates.close("api", refused(402))
    assert (await fly(at_work, running)).state is State.READY
    assert [closed.name for closed in at_work.gates.closed()] == ["api"]
    assert not at_work.gates.admits("api")


async def test_a_create_says_nothing_of_the_storage(at_work: House, clock: FakeClock) -> None:
    """While that is away nothing is submitted that the service could not read; an upload shows when it is back."""
    tile = await at_work.uploaded()
    at_work.gates.close("storage", Fault("The bucket is away.", blame=Blame.SERVICE, gate=Gate.STORAGE))
    clock.advance(700.0)
    assert not at_work.dispatcher.flight.admits(1)
    assert (await fly(at_work, tile)).state is State.UPLOADED
    await at_work.uploaded(1)
    assert at_work.gates.closed() == []
    assert (await fly(at_work, tile)).state is State.READY
    at_work.storage.faults.append(Fault("It cannot sign.", blame=Blame.SERVICE, gate=Gate.STORAGE))
    await fault_of(at_work, await at_work.bring(await at_work.now(await at_work.admit("x.png", b"x")), State.UPLOADED))
    assert [closed.name for closed in at_work.gates.closed()] == ["storage"]


async def test_an_object_that_went_while_it_waited_is_uploaded_again(at_work: House, clock: FakeClock) -> None:
    """A rule cleans the bucket up; signing says nothing of that, and a dead URL would fail the picture."""
    tile = await at_work.uploaded()
    at_work.storage.objects.clear()
    clock.advance(DAY / 2)
    tile = await fly(at_work, tile)
    assert (tile.state, tile.submits, at_work.predictor.urls) == (State.ADMITTED, 0, [])
    await at_work.dispatcher._upload(tile)
    assert (await fly(at_work, await at_work.now(tile))).state is State.READY


# The last look before the money


async def test_a_picture_that_changed_or_left_is_withdrawn(at_work: House) -> None:
    tiles = [await at_work.uploaded(number) for number in range(2)]
    at_work.drop("0.png", b"another picture")
    (at_work.inbox / "1.png").unlink()
    assert [(await fly(at_work, tile)).state for tile in tiles] == [State.FAILED, State.FAILED]
    assert at_work.predictor.urls == []
    assert [len(await at_work.history(tile)) for tile in tiles] == [3, 3]
    assert await at_work.ledger.known(1) == []


async def test_a_copy_that_is_still_there_is_enough(at_work: House) -> None:
    tile = await at_work.uploaded()
    await at_work.admit("copy.png", b"picture 0")
    (at_work.inbox / "0.png").unlink()
    assert (await fly(at_work, tile)).state is State.READY


async def test_what_is_uploaded_is_what_was_admitted(at_work: House) -> None:
    """Even where a file changed without a trace in its date: another content would come out under this one's name."""
    tile = await at_work.admit(data=b"a picture")
    file = at_work.inbox / "a.png"
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"A")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    await at_work.dispatcher._upload(tile)
    tile = await at_work.now(tile)
    assert (tile.state, at_work.storage.puts) == (State.FAILED, [])
    assert (await at_work.history(tile))[-1] == "withdrawn"


async def test_an_inbox_that_is_away_withdraws_nothing(at_work: House) -> None:
    tile = await at_work.uploaded()
    at_work.inbox.rename(at_work.inbox.with_name("away"))
    fault = await fault_of(at_work, tile)
    assert fault.blame is Blame.HOUSE
    assert (await at_work.now(tile)).state is State.UPLOADED
    assert at_work.predictor.urls == []


async def test_a_url_that_is_too_old_is_made_anew_first(at_work: House) -> None:
    at_work.storage.url_seconds = 10
    tile = await fly(at_work, await at_work.uploaded())
    assert (tile.state, tile.submits) == (State.ADMITTED, 0)
    assert at_work.predictor.urls == []


async def test_a_probe_that_was_never_sent_opens_no_gate(at_work: House, clock: FakeClock) -> None:
    tile = await at_work.uploaded()
    (at_work.inbox / "0.png").unlink()
    at_work.gates.close("api", refused())
    clock.advance(1_000)
    assert (await fly(at_work, tile)).state is State.FAILED
    assert at_work.gates.seconds_left("api") is not None
    assert (await fly(at_work, await at_work.uploaded(1))).state is State.READY
    assert at_work.gates.seconds_left("api") is None


# Bounds


async def test_never_more_in_flight_than_slots(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, api={"in_flight_max": 3}) as at_work:
        may, full = asyncio.Event(), asyncio.Event()

        async def hold(_: str) -> None:
            if at_work.predictor.creating == 3:
                full.set()
            await may.wait()

        at_work.predictor.on_create = hold
        flights = asyncio.ensure_future(fly_all(at_work, [await at_work.uploaded(number) for number in range(8)]))
        async with asyncio.timeout(20):
            await full.wait()
        for _ in range(20):
            await at_work.ledger.counts()
        assert (at_work.predictor.creating, at_work.dispatcher.slots.locked()) == (3, True)
        may.set()
        assert {tile.state for tile in await flights} == {State.READY}
        assert (at_work.predictor.creating_most, len(at_work.predictor.urls)) == (3, 8)
        assert at_work.predictor.running_most <= 3


async def test_never_more_creates_in_a_minute_than_allowed(tmp_path: Path, clock: FakeClock) -> None:
    """Also across a restart. One flies after another, so that nothing else moves the clock."""
    times: list[float] = []

    async def note(_: str) -> None:
        times.append(clock.seconds)

    for part in range(2):
        async with house(tmp_path, clock, api={"creates_per_minute_max": 4}) as at_work:
            at_work.predictor.on_create = note
            for number in range(6):
                await fly(at_work, await at_work.uploaded(10 * part + number))
    assert len(times) == 12
    assert times[-1] < 200, "and not much fewer"
    for time in times:
        assert len([other for other in times if time <= other < time + 59.999]) <= 4


async def test_the_budget_holds_and_the_new_day_lets_go(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, budget={"usd_per_day_max": BILL.cost_usd * 2.5}) as at_work:
        tiles = [await fly(at_work, await at_work.uploaded(number)) for number in range(3)]
        assert [tile.state for tile in tiles] == [State.READY, State.READY, State.HELD]
        assert "day's budget" in tiles[2].reason
        assert tiles[2].due_at % DAY == 0
        assert clock.wall() < tiles[2].due_at <= clock.wall() + DAY
        assert len(at_work.predictor.urls) == 2
        clock.advance(tiles[2].due_at - clock.wall())
        await at_work.dispatcher._release(tiles[2])
        tile = await at_work.now(tiles[2])
        await at_work.dispatcher._upload(tile)
        assert (await fly(at_work, await at_work.now(tile))).state is State.READY


@pytest.mark.parametrize("runs", [1, 3, 8])
async def test_the_budget_holds_for_those_who_start_together(tmp_path: Path, clock: FakeClock, runs: int) -> None:
    """What is in flight is not billed yet; ten that look at the same moment must not all see room for one."""
    async with house(tmp_path, clock, budget={"usd_per_month_max": BILL.cost_usd * (runs + 0.5)}) as at_work:
        await at_work.ledger.write(
            lambda db: (
                db.execute("INSERT INTO folder VALUES (9, x'00')")
                and db.execute("INSERT INTO job VALUES ('past', 9, x'00', '', 0, 0, 0, '', '', 1.0, 0)")
                and db.execute("INSERT INTO bill VALUES ('past', 'past', 0, 0, ?, 1)", (BILL.cost_usd,))
            )
        )
        at_work.predictor.answers.extend([Running("processing")] * 30)
        tiles = await fly_all(at_work, [await at_work.uploaded(number) for number in range(10)])
        assert len(at_work.predictor.urls) == runs
        assert [tile.state for tile in tiles].count(State.HELD) == 10 - runs


async def test_what_is_over_the_budget_is_not_even_uploaded(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, budget={"usd_per_day_max": 0.0001}) as at_work:
        tile = await at_work.admit()
        await at_work.dispatcher._upload(tile)
        tile = await at_work.now(tile)
        assert (tile.state, at_work.storage.puts) == (State.HELD, [])
        assert clock.wall() < tile.due_at <= clock.wall() + DAY


async def test_another_budget_is_taken_up_at_once(tmp_path: Path, clock: FakeClock) -> None:
    """What the old one holds until tomorrow is looked at again; the same one leaves it alone."""
    small, large = {"usd_per_day_max": 0.0001}, {"usd_per_day_max": 1}
    async with house(tmp_path, clock, budget=small) as at_work:
        await at_work.dispatcher._upload(await at_work.admit())
    for budget, due in ((small, 0), (large, 1)):
        async with house(tmp_path, clock, budget=budget) as again:
            assert len(await again.ledger.due([State.HELD], [1], clock.wall(), 9, [])) == due


async def test_what_runs_takes_a_slot_from_the_start(tmp_path: Path, clock: FakeClock) -> None:
    """Although it is not to be asked about yet: else a restart would have more in flight than the service allows."""
    async with house(tmp_path, clock) as at_work:
        tile = await at_work.bring(await at_work.uploaded(), State.SUBMITTED)
        await at_work.ledger.postpone(tile, clock.wall() + 600, attempts=1)
    async with house(tmp_path, clock) as again:
        assert [found.key for found in await again.dispatcher._find_flights(9, set())] == [tile.key]


async def test_a_restart_knows_what_was_spent(tmp_path: Path, clock: FakeClock) -> None:
    budget = {"usd_per_month_max": BILL.cost_usd * 1.5}
    async with house(tmp_path, clock, budget=budget) as at_work:
        assert (await fly(at_work, await at_work.uploaded())).state is State.READY
    async with house(tmp_path, clock, budget=budget) as again:
        assert (await again.uploaded(1)).state is State.HELD


async def test_what_a_person_released_passes_the_budget(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, budget={"usd_per_day_max": 0.0001}) as at_work:
        tile = await at_work.admit()
        await at_work.ledger.write(lambda db: db.execute("UPDATE tile SET released = 1"))
        await at_work.dispatcher._upload(await at_work.now(tile))
        assert (await fly(at_work, await at_work.now(tile))).state is State.READY


# Room

RESULT_BYTES = 72  # what a picture of these tests may need
PLACES = ["staging", "out0"]


def problems(house: House) -> list[str]:
    """What the status, and the health page, say is wrong."""
    folders = {folder.id: folder for folder in house.folders}
    now = house.clock.monotonic()
    return Health(house.clock, house.dispatcher, folders, started_at=now, ledger_at=now).problems()


def wait_for_gates(house: House) -> None:
    """Let the time pass until every closed gate may be probed."""
    waits = [house.gates.seconds_left(closed.name) or 0.0 for closed in house.gates.closed()]
    house.clock.advance(max(waits, default=0.0))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [None, errno.EROFS, errno.EACCES, errno.EIO])
async def test_without_room_nothing_is_submitted_and_nothing_is_lost(
    tmp_path: Path, clock: FakeClock, place: str, error: int | None
) -> None:
    files = SmallFiles()
    async with house(tmp_path, clock, files=files) as at_work:
        tile = await at_work.uploaded()
        if error is None:
            files.rooms[place] = RESULT_BYTES - 1
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
    files.rooms[place] = RESULT_BYTES
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
    files.rooms[place] = 3 * RESULT_BYTES + RESULT_BYTES // 2
    async with house(tmp_path, clock, files=files) as at_work:
        at_work.predictor.answers.extend([Running("processing")] * 30)
        tiles = await fly_all(at_work, [await at_work.uploaded(number) for number in range(10)])
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
    files.rooms |= dict.fromkeys(PLACES, RESULT_BYTES)
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
            await at_work.dispatcher._upload(tile)
            tiles.append(await at_work.now(tile))
        assert [tile.state for tile in await fly_all(at_work, tiles)] == [State.UPLOADED, State.READY]
        assert [closed.name for closed in at_work.gates.closed()] == ["room:1"]
        more = await at_work.admit("b.png", b"2", folder=1)
        await at_work.dispatcher._upload(more)
        found = await at_work.dispatcher.lanes["flight"].find(9, set())
        assert [tile.key for tile in found] == [more.key]


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
        assert not at_work.dispatcher.flight.admits(1)
        assert (await fly(at_work, tile)).state is State.UPLOADED
        await at_work.admit("copy.png", b"picture 0")
        assert files.asked == []
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
        tile = await fly(at_work, await at_work.uploaded())
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
        tile = await at_work.bring(await at_work.uploaded(), State.SUBMITTED)
        at_work.predictor.made = {"": str(tile.prediction)}
        assert (await fly(at_work, tile)).state is State.READY
        assert files.asked == []


# Too many requests


def too_many(retry_after: float) -> Fault:
    return Fault(
        "The API answered 429.", blame=Blame.SERVICE, gate=Gate.API, rate_limited=True, retry_after=retry_after
    )


class Slow(FakePredictor):
    """Predictions end when they are let; until then nobody is answered."""

    def __init__(self, house: House) -> None:
        self.__dict__ = house.predictor.__dict__
        self.let: dict[str, asyncio.Event] = {}
        house.dispatcher.flight.predictor = self

    async def get(self, prediction: str) -> Progress:
        await self.let.setdefault(prediction, asyncio.Event()).wait()
        return await super().get(prediction)

    def end(self, *predictions: str) -> None:
        for prediction in predictions or list(self.running):
            self.let.setdefault(prediction, asyncio.Event()).set()


async def until(house: House, true: Callable[[], bool]) -> None:
    """Wait until the flights have come to that; each look at the ledger lets them go on."""
    async with asyncio.timeout(60):
        while not true():
            await house.ledger.counts()


class Flights:
    """Flights under way; they are ended with the test."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.tasks: list[asyncio.Task[None]] = []

    def send(self, tiles: list[Tile]) -> list[asyncio.Task[None]]:
        new = [asyncio.create_task(self.house.dispatcher.flight.fly(tile)) for tile in tiles]
        self.tasks += new
        return new

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def flights(at_work: House) -> AsyncIterator[Flights]:
    flights = Flights(at_work)
    yield flights
    await flights.end()


async def waiting(house: House) -> list[Tile]:
    """What could leave next, once its time has come."""
    wait_for_gates(house)
    house.clock.advance(5.0)
    return await house.ledger.due([State.UPLOADED], [1], house.clock.wall(), 99, [])


async def refuse_six_of_ten(house: House, flights: Flights) -> Slow:
    """Ten leave together; the service takes four, and wants to be asked again before the window grows by itself."""
    slow = Slow(house)
    together = asyncio.Event()

    async def hold(_: str) -> None:
        if slow.creating == 10:
            together.set()
        await together.wait()

    slow.on_create = hold
    slow.creates.extend([None] * 4 + [too_many(retry_after=10.0)] * 6)
    tasks = flights.send([await house.uploaded(number) for number in range(10)])
    await until(house, lambda: sum(task.done() for task in tasks) == 6)
    slow.on_create = None
    return slow


async def test_after_429s_no_more_run_than_half(at_work: House, flights: Flights) -> None:
    slow = await refuse_six_of_ten(at_work, flights)
    flight = at_work.dispatcher.flight
    assert (flight.window.size, len(slow.running)) == (5, 4), "six refusals that came together are one"
    left = await waiting(at_work)
    assert [(tile.attempts, tile.submits) for tile in left] == [(0, 0)] * 6
    tasks = flights.send(left)
    await until(at_work, lambda: sum(task.done() for task in tasks) == 5 and at_work.gates.closed() == [])
    assert (len(slow.running), slow.running_most, len(slow.urls)) == (5, 5, 11)
    assert not flight.admits(1)
    left = await waiting(at_work)
    assert [(tile.attempts, tile.submits) for tile in left] == [(0, 0)] * 5
    found = await at_work.dispatcher.lanes["flight"].find(99, set())
    assert {tile.state for tile in found} == {State.SUBMITTED}, "no worker waits with the others"
    await asyncio.gather(*flights.send(left))
    assert len(slow.urls) == 11
    slow.end("prediction-1")
    await until(at_work, lambda: len(slow.running) == 4)
    await until(at_work, lambda: flight.admits(1))
    flights.send(await waiting(at_work))
    await until(at_work, lambda: len(slow.running) == 5)
    assert slow.running_most == 5


async def test_those_who_are_on_their_way_already_are_no_exception(at_work: House, flights: Flights) -> None:
    """They have passed the gates, and wait for a slot, or for the minute, while others are refused."""
    slow = Slow(at_work)
    may = asyncio.Event()

    async def hold(_: str) -> None:
        await may.wait()

    slow.on_create = hold
    slow.creates.extend([None] * 4 + [too_many(retry_after=10.0)] * 6)
    tasks = flights.send([await at_work.uploaded(number) for number in range(14)])
    await until(at_work, lambda: slow.creating == 10)
    may.set()
    await until(at_work, lambda: sum(task.done() for task in tasks) == 10)
    assert (len(slow.running), len(slow.urls)) == (4, 10), "all submits are held for as long as the service asks"
    assert [(tile.attempts, tile.submits) for tile in await waiting(at_work)] == [(0, 0)] * 10


async def test_it_grows_back_one_at_a_time(at_work: House, flights: Flights, clock: FakeClock) -> None:
    slow = await refuse_six_of_ten(at_work, flights)
    slow.end(*(f"prediction-{number}" for number in range(1, 200)))
    await asyncio.gather(*flights.tasks, return_exceptions=True)
    window = at_work.dispatcher.flight.window
    refused_at, sizes = clock.seconds, [window.size]
    for number in range(100, 150):
        clock.advance(10.0)
        wait_for_gates(at_work)
        assert (await fly(at_work, await at_work.uploaded(number))).state is State.READY
        sizes += [window.size] if window.size != sizes[-1] else []
        if window.size == 10:
            break
    assert sizes == [5, 6, 7, 8, 9, 10]
    assert clock.seconds - refused_at >= 5 * 30


async def test_questions_are_asked_however_narrow_the_window_is(at_work: House, flights: Flights) -> None:
    """What is in flight, from a former run too, is none of its business."""
    tiles = [await at_work.bring(await at_work.uploaded(number), State.SUBMITTED) for number in range(3)]
    waits = await at_work.uploaded(3)
    at_work.predictor.made = {str(number): str(tile.prediction) for number, tile in enumerate(tiles)}
    slow = Slow(at_work)
    window = at_work.dispatcher.flight.window
    window.refused(1, 0.0)
    assert window.size == 1
    found = await at_work.dispatcher.lanes["flight"].find(9, set())
    assert {tile.key for tile in found[:3]} == {tile.key for tile in tiles}
    flights.send(tiles)
    await until(at_work, lambda: len(slow.let) == 3)
    assert [tile.key for tile in await at_work.dispatcher.lanes["flight"].find(9, set())] == [t.key for t in tiles]
    assert (await fly(at_work, waits)).state is State.UPLOADED
    slow.end(*(str(tile.prediction) for tile in tiles))
    await asyncio.gather(*flights.tasks)
    assert [(await at_work.now(tile)).state for tile in tiles] == [State.READY] * 3
    assert slow.urls == []
    slow.end("prediction-4", *(f"prediction-{n}" for n in range(9)))
    assert (await fly(at_work, waits)).state is State.READY


async def test_a_refusal_that_is_not_about_how_many_shrinks_nothing(at_work: House) -> None:
    at_work.predictor.creates.append(refused(402))
    await fault_of(at_work, await at_work.uploaded())
    assert at_work.dispatcher.flight.window.size == 10


# A restart


@pytest.mark.parametrize("arrived", [True, False])
async def test_cut_down_in_the_middle_of_a_create(tmp_path: Path, clock: FakeClock, arrived: bool) -> None:
    async with house(tmp_path, clock) as at_work:
        begun, never = asyncio.Event(), asyncio.Event()

        async def hang(image_url: str) -> None:
            if arrived:
                at_work.predictor.made[image_url] = "prediction-1"
            begun.set()
            await never.wait()

        at_work.predictor.on_create = hang
        flight = asyncio.create_task(at_work.dispatcher.flight.fly(await at_work.uploaded()))
        await begun.wait()
        flight.cancel()
        await asyncio.gather(flight, return_exceptions=True)
        made = at_work.predictor.made
    async with house(tmp_path, clock) as again:
        again.predictor.made = made
        [tile] = await again.ledger.due([State.SUBMITTING], [1], clock.wall(), 9, [])
        assert tile.submits == 1
        tile = await fly(again, tile)
        assert again.predictor.urls == []
        assert tile.state is (State.READY if arrived else State.ADMITTED)


async def test_what_was_submitted_to_another_api_is_not_absent_for_being_unknown_here(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with house(tmp_path, clock) as at_work:
        await at_work.bring(await at_work.uploaded(), State.SUBMITTING)
    async with house(tmp_path, clock) as again:
        again.dispatcher.flight.api = "another"
        [tile] = await again.ledger.due([State.SUBMITTING], [1], clock.wall(), 9, [])
        tile = await fly(again, tile)
        assert (tile.state, tile.due_at) == (State.HELD, NEVER)
        assert "another API" in tile.reason
        assert again.predictor.urls == []


async def test_a_restart_with_an_id_polls_and_creates_nothing(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock) as at_work:
        await at_work.bring(await at_work.uploaded(), State.SUBMITTED)
    async with house(tmp_path, clock) as again:
        [tile] = await again.ledger.due([State.SUBMITTED], [1], clock.wall(), 9, [])
        again.predictor.made = {"": str(tile.prediction)}
        assert (await fly(again, tile)).state is State.READY
        assert (again.predictor.urls, again.predictor.searched) == ([], [])


async def test_a_folder_that_is_no_longer_configured_keeps_what_is_paid(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, folders=2) as at_work:
        tile = await at_work.admit("a.png", b"x", folder=1)
        await at_work.bring(tile, State.SUBMITTED)
    async with house(tmp_path, clock) as again:
        assert [found.key for found in await again.dispatcher.lanes["flight"].find(9, set())] == [tile.key]


async def test_a_copy_that_comes_while_the_picture_is_withdrawn_is_not_forgotten(at_work: House) -> None:
    """What the ledger has as gone is looked at again by the next scan, whichever of the two came first."""
    tile = await at_work.uploaded()
    look = await at_work.folders[0].inbox.look(b"0.png")
    assert look is not None
    copy = settled(b"copy.png", b"picture 0", folder=at_work.folders[0].id, look=look, recipe=tile.job.recipe)

    async def admit() -> None:
        await at_work.ledger.admit(copy, "oldest", True, None, 1_000.0)
        at_work.folders[0].detector.admitted(b"copy.png", look)

    await asyncio.gather(at_work.dispatcher.record(tile, Withdrawn("It left.")), admit())
    rows = await at_work.ledger.read(lambda db: db.execute("SELECT path, phase FROM picture").fetchall())
    known = at_work.folders[0].detector.known
    assert [path for path, phase in rows if phase == "gone"]
    assert [path for path, phase in rows if phase == "gone" and mark(path, look) in known] == []


async def test_a_doubt_takes_no_place_in_a_small_window(tmp_path: Path, clock: FakeClock) -> None:
    """After a 429 one may be in flight; a submit that most likely never arrived must not be that one for an hour."""
    async with house(tmp_path, clock, api={"in_flight_max": 2}) as at_work:
        first, second = await at_work.uploaded(1), await at_work.uploaded(2)
        flight = at_work.dispatcher.flight
        flight.window.refused(2, clock.monotonic())
        at_work.predictor.creates.append(cut())
        at_work.predictor.lookups.extend([Fault("The history is down.", blame=Blame.SERVICE)] * 30)
        admitted: list[bool] = []
        look_up = at_work.predictor.find

        class Watched(FakePredictor):
            async def find(self, *what: object) -> str | None:
                admitted.append(flight.window.allows(flight.flying - flight.doubtful))
                return await look_up(*what)

        watched = Watched()
        watched.__dict__ = at_work.predictor.__dict__
        flight.predictor = watched
        await fly(at_work, first)
        assert admitted[0] is False, "until a create cannot arrive any more it may be running"
        assert admitted[-1] is True
        assert (flight.flying, flight.doubtful) == (0, 0)
        assert (await at_work.now(second)).state is State.UPLOADED


async def test_a_webhook_ends_a_doubt(tmp_path: Path, clock: FakeClock) -> None:
    """The answer of the create was lost, and the service says by itself that it is over."""
    async with house(tmp_path, clock) as at_work:
        tile = await at_work.uploaded()
        flight = at_work.dispatcher.flight
        flight.hooks = Hooks("https://nas.test/hook", "", at_work.ledger.identity)
        at_work.predictor.creates.append(cut())
        at_work.predictor.lookups.append(Fault("The history is down.", blame=Blame.SERVICE))
        at_work.predictor.arrives = True
        began = clock.monotonic()
        find = at_work.predictor.find

        class Telling(FakePredictor):
            async def find(self, *what: object) -> str | None:
                flight.hear(flight.hooks.token(await at_work.now(tile)))
                return await find(*what)

        telling = Telling()
        telling.__dict__ = at_work.predictor.__dict__
        flight.predictor = telling
        tile = await fly(at_work, tile)
        assert tile.state is State.READY
        assert clock.monotonic() - began < 10
