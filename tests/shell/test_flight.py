"""Flight, where the money is: one intent, one create, and what becomes of it."""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.facts import BILL, settled
from fakes.predictor import FakePredictor, cut, refused
from shell_kit import House, fault_of, fly, fly_all, fly_off, house

from daemon.departure import LOOK_AGAIN_SECONDS
from daemon.ports import Progress, Running, Spoiled, mark
from daemon.rules.faults import Blame, Created, Fault, Gate, LedgerBroken, Outlook
from daemon.rules.hooks import Hooks
from daemon.rules.lifecycle import NEVER, State, Withdrawn
from daemon.service import end_gently

DAY = 86_400.0


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
    await at_work.dispatcher.loading.load(tile)
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
    assert not at_work.dispatcher.departure.admits(1)
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
    await at_work.dispatcher.loading.load(tile)
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
    await at_work.dispatcher.loading.load(tile)
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
        waiting = [await at_work.uploaded(number) for number in range(8)]
        flights = asyncio.ensure_future(fly_off(at_work, waiting))
        async with asyncio.timeout(20):
            await full.wait()
        for _ in range(20):
            await at_work.ledger.counts()
        assert (at_work.predictor.creating, at_work.dispatcher.turnstile.slots.locked()) == (3, True)
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
                tile = await at_work.uploaded(10 * part + number)
                while tile.state is State.UPLOADED:  # It stands aside now and then while the minute is full.
                    tile = await fly(at_work, tile)
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
        await at_work.dispatcher.loading.load(tile)
        assert (await fly(at_work, await at_work.now(tile))).state is State.READY


@pytest.mark.parametrize("runs", [1, 3, 8])
async def test_the_budget_holds_for_those_who_start_together(tmp_path: Path, clock: FakeClock, runs: int) -> None:
    """What is in flight is not billed yet; ten that look at the same moment must not all see room for one."""
    async with house(tmp_path, clock, budget={"usd_per_month_max": BILL.cost_usd * (runs + 0.5)}) as at_work:
        await at_work.ledger.write(
            lambda db: (
                db.execute("INSERT INTO folder VALUES (9, x'00')")
                and db.execute("INSERT INTO job VALUES ('past', 9, x'00', '', 0, 0, 0, '', '', 1.0, 0, '{}', '')")
                and db.execute("INSERT INTO bill VALUES ('past', 'past', 0, 0, ?, 1)", (BILL.cost_usd,))
            )
        )
        at_work.predictor.answers.extend([Running("processing")] * 30)
        tiles = await fly_off(at_work, [await at_work.uploaded(number) for number in range(10)])
        assert len(at_work.predictor.urls) == runs
        assert [tile.state for tile in tiles].count(State.HELD) == 10 - runs


async def test_with_a_budget_the_first_one_shows_the_price(tmp_path: Path, clock: FakeClock) -> None:
    """Ten at a price that nobody knows could be ten times what was meant."""
    async with house(tmp_path, clock, budget={"usd_per_day_max": 100}) as at_work:
        predictor, flight = at_work.predictor, at_work.dispatcher.flight
        may_end, together, get = asyncio.Event(), asyncio.Event(), predictor.get

        async def ends(prediction: str) -> Progress:
            await may_end.wait()
            return await get(prediction)

        async def hold(_: str) -> None:
            if predictor.creating == 4:
                together.set()
            await together.wait()

        predictor.get = ends  # type: ignore[method-assign]
        tasks = [asyncio.create_task(flight.fly(await at_work.uploaded(number))) for number in range(5)]
        async with asyncio.timeout(60):
            while sum(task.done() for task in tasks) < 4:
                await at_work.ledger.counts()
            assert len(predictor.urls) == 1
            may_end.set()
            await asyncio.gather(*tasks)
            left = await at_work.ledger.due([State.UPLOADED], [1], clock.wall() + LOOK_AGAIN_SECONDS, 9, [])
            assert [(tile.attempts, tile.submits) for tile in left] == [(0, 0)] * 4
            clock.advance(LOOK_AGAIN_SECONDS)
            predictor.on_create = hold  # Only if they go together does any of them come back.
            await fly_all(at_work, left)
        assert len(predictor.urls) == 5


async def test_what_is_over_the_budget_is_not_even_uploaded(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, budget={"usd_per_day_max": 0.0001}) as at_work:
        tile = await at_work.admit()
        await at_work.dispatcher.loading.load(tile)
        tile = await at_work.now(tile)
        assert (tile.state, at_work.storage.puts) == (State.HELD, [])
        assert clock.wall() < tile.due_at <= clock.wall() + DAY


async def test_another_budget_is_taken_up_at_once(tmp_path: Path, clock: FakeClock) -> None:
    """What the old one holds until tomorrow is looked at again; the same one leaves it alone."""
    small, large = {"usd_per_day_max": 0.0001}, {"usd_per_day_max": 1}
    async with house(tmp_path, clock, budget=small) as at_work:
        await at_work.dispatcher.loading.load(await at_work.admit())
    for budget, due in ((small, 0), (large, 1)):
        async with house(tmp_path, clock, budget=budget) as again:
            assert len(await again.ledger.due([State.HELD], [1], clock.wall(), 9, [])) == due


async def test_what_runs_takes_a_slot_from_the_start(tmp_path: Path, clock: FakeClock) -> None:
    """Although it is not to be asked about yet: else a restart would have more in flight than the service allows."""
    async with house(tmp_path, clock) as at_work:
        tile = await at_work.bring(await at_work.uploaded(), State.SUBMITTED)
        await at_work.ledger.postpone(tile, clock.wall() + 600, attempts=1)
    async with house(tmp_path, clock) as again:
        assert [found.key for found in await again.dispatcher.turns.flights(9, set())] == [tile.key]


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
        await at_work.dispatcher.loading.load(await at_work.now(tile))
        assert (await fly(at_work, await at_work.now(tile))).state is State.READY


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
        again.change(api="another")
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
        stile = at_work.dispatcher.turnstile
        stile.window.refused(2, clock.monotonic())
        at_work.predictor.creates.append(cut())
        at_work.predictor.lookups.extend([Fault("The history is down.", blame=Blame.SERVICE)] * 30)
        admitted: list[bool] = []
        look_up = at_work.predictor.find

        class Watched(FakePredictor):
            async def find(self, *what: object) -> str | None:
                admitted.append(stile.allows())
                return await look_up(*what)

        watched = Watched()
        watched.__dict__ = at_work.predictor.__dict__
        at_work.change(predictor=watched)
        await fly(at_work, first)
        assert admitted[0] is False, "until a create cannot arrive any more it may be running"
        assert admitted[-1] is True
        assert (stile.flying, stile.doubtful) == (0, 0)
        assert (await at_work.now(second)).state is State.UPLOADED


async def test_a_webhook_ends_a_doubt(tmp_path: Path, clock: FakeClock) -> None:
    """The answer of the create was lost, and the service says by itself that it is over."""
    async with house(tmp_path, clock) as at_work:
        tile = await at_work.uploaded()
        ears = at_work.dispatcher.ears
        ears.hooks = Hooks("https://nas.test/hook", "", at_work.ledger.identity)
        at_work.predictor.creates.append(cut())
        at_work.predictor.lookups.append(Fault("The history is down.", blame=Blame.SERVICE))
        at_work.predictor.arrives = True
        began = clock.monotonic()
        find = at_work.predictor.find

        class Telling(FakePredictor):
            async def find(self, *what: object) -> str | None:
                ears.hear(ears.hooks.token(await at_work.now(tile)))
                return await find(*what)

        telling = Telling()
        telling.__dict__ = at_work.predictor.__dict__
        at_work.change(predictor=telling)
        tile = await fly(at_work, tile)
        assert tile.state is State.READY
        assert clock.monotonic() - began < 10


async def test_a_doubt_that_is_left_behind_counts_no_more(at_work: House) -> None:
    """Told to end while it looks: nobody holds that slot any more, and nobody doubts in it."""
    stile = at_work.dispatcher.turnstile

    class Ending(FakePredictor):
        async def find(self, *what: object) -> str | None:
            if stile.doubtful:
                at_work.dispatcher.stopping.set()
            raise Fault("The history is down.", blame=Blame.SERVICE)

    ending = Ending()
    ending.creates.append(cut())
    at_work.change(predictor=ending)
    assert (await fly(at_work, await at_work.uploaded())).state is State.SUBMITTING
    assert at_work.dispatcher.stopping.is_set()
    assert (stile.flying, stile.doubtful) == (0, 0)
