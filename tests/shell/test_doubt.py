"""Doubt: a create whose answer got lost is looked up, and never repeated by reflex."""

from collections.abc import Collection
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.predictor import FakePredictor, cut
from shell_kit import House, fly, house
from test_departure import flying

from daemon.ports import Running
from daemon.rules.faults import Blame, Fault, Unknown
from daemon.rules.hooks import Hooks
from daemon.rules.lifecycle import NEVER, Expired, State
from daemon.rules.reactions import DOUBT_SECONDS_MAX

DAY = 86_400.0


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
    await at_work.dispatcher.loading.load(tile)
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
    at_work.change(predictor=lagging)
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
        at_work.change(api="another")

    at_work.predictor.on_create = move_house
    tile = await fly(at_work, await at_work.uploaded())
    assert (tile.state, tile.due_at) == (State.HELD, NEVER)
    assert "another API address or key" in tile.reason
    assert len(at_work.predictor.urls) == 1


async def test_looks_that_come_early_prove_no_absence(tmp_path: Path) -> None:
    """A webhook that comes twice, or webhooks that stay away, make everybody look; the history lags all the same."""
    async with flying(tmp_path) as air:
        at_work = air.house
        ears = at_work.dispatcher.ears
        ears.hooks = Hooks("https://nas.test/hook", "", at_work.ledger.identity)
        at_work.predictor.creates.append(cut())
        tile = await at_work.uploaded()
        await air.send(tile)
        await air.let_pass(1.5 * at_work.config.api.create_seconds_max)
        assert "missed" in await at_work.history(tile)
        searched = len(at_work.predictor.searched)
        for _ in range(3):
            ears.hear(ears.hooks.token(await at_work.now(tile)))
            await air.let_pass(0.5)
        assert len(at_work.predictor.searched) == searched + 3
        assert await air.state(tile) is State.SUBMITTING
        await air.let_pass(60.0)
        times = await at_work.ledger.deliveries.times(tile.job.id)
        assert times["absent"] >= times["missed"] + 20
