"""Departure: everything that takes its time is done before a slot is asked for. Polls come when an end is likely."""

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.clock import HeldClock, settle
from fakes.facts import BILL
from fakes.predictor import DONE, FakePredictor, refused
from shell_kit import House, house

from daemon.departure import LOOK_SECONDS, READY_SECONDS_MAX
from daemon.dispatcher import READY
from daemon.ports import Asset, Progress, Running
from daemon.rules.faults import Blame, Fault, Gate
from daemon.rules.hooks import PATIENCE_SECONDS, TRUST_MIN, Hooks
from daemon.rules.job import Tile
from daemon.rules.lifecycle import Event, State, Succeeded
from daemon.rules.pacing import ENOUGH


class Scheduled(FakePredictor):
    """Predictions that take so many seconds. answered: which was asked about, when, and whether it was over."""

    def __init__(self, house: House, seconds: float) -> None:
        self.__dict__ = house.predictor.__dict__
        self.clock, self.seconds = house.clock, seconds
        self.ends: dict[str, float] = {}
        self.answered: list[tuple[str, float, bool]] = []
        house.change(predictor=self)

    async def create(self, *what: Any) -> str:
        prediction = await super().create(*what)
        self.ends[prediction] = self.clock.seconds + self.seconds
        return prediction

    async def get(self, prediction: str) -> Progress:
        over = self.clock.seconds >= self.ends[prediction]
        self.answered.append((prediction, self.clock.seconds, over))
        return DONE if over else Running("processing")


class Air:
    """Flights under way in a house whose time is in the test's hands."""

    def __init__(self, house: House, clock: HeldClock) -> None:
        self.house, self.clock = house, clock
        self.tasks: list[asyncio.Task[None]] = []
        self._disk = house.disk.ready  # Before a test looks who asks it.

    async def send(self, *tiles: Tile) -> None:
        self.tasks += [asyncio.create_task(self.house.dispatcher.flight.fly(tile)) for tile in tiles]
        await self.quiet()

    async def quiet(self) -> None:
        """Let everybody go on until all wait for time, or, for a while, for something else."""
        for _ in range(25):
            await settle()
            if self.clock.sleeping >= sum(not task.done() for task in self.tasks):
                return
            await self.house.ledger.counts()
            await self.house.folders[0].inbox.look(b"nothing")
            await self._disk(None, 0)
            await self._disk(self.house.outbox, 0)

    async def let_pass(self, seconds: float, step: float = 0.5) -> None:
        end = self.clock.seconds + seconds
        while self.clock.seconds < end - 1e-9:
            await self.clock.let_pass(min(step, end - self.clock.seconds))
            await self.quiet()

    async def state(self, tile: Tile) -> State:
        return (await self.house.now(tile)).state


@asynccontextmanager
async def flying(root: Path, **sections: Any) -> AsyncIterator[Air]:
    clock = HeldClock()
    async with house(root, clock, **sections) as at_work:
        air = Air(at_work, clock)
        try:
            yield air
        finally:
            for task in air.tasks:
                task.cancel()
            await asyncio.gather(*air.tasks, return_exceptions=True)


ONE_SLOT = {"api": {"in_flight_max": 1}}


def ends_written(air: Air) -> asyncio.Event:
    """To be set: until then no end is written down."""
    flight, written = air.house.dispatcher.flight, asyncio.Event()
    record = flight.record

    async def slow(tile: Tile, event: Event, **more: Any) -> Tile:
        if isinstance(event, Succeeded):
            await written.wait()
        return await record(tile, event, **more)

    flight.record = slow
    return written


async def test_a_slot_that_becomes_free_is_filled_with_nothing_but_a_create(tmp_path: Path) -> None:
    async with flying(tmp_path, **ONE_SLOT) as air:
        done: list[str] = []
        fresh = air.house.storage.fresh

        async def noted(asset: Asset, *, look: bool) -> Asset | None:
            done.append("URL")
            return await fresh(asset, look=look)

        air.house.storage.fresh = noted  # type: ignore[method-assign]
        ready = air.house.disk.ready

        async def room(outbox: Path | None, bytes_: int) -> None:
            done.extend(["room"] * (bytes_ > 0))
            await ready(outbox, bytes_)

        air.house.disk.ready = room  # type: ignore[method-assign]
        predictor = Scheduled(air.house, 3.0)
        tiles = [await air.house.uploaded(number) for number in range(2)]
        await air.send(tiles[0])
        await air.send(tiles[1])
        assert len(predictor.urls) == 1
        assert done.count("URL") == 2, "the second stands ready"
        assert await air.state(tiles[1]) is State.UPLOADED, "nothing is recorded before it may leave"
        done.clear()
        while len(predictor.urls) < 2:
            await air.let_pass(0.5)
        assert done == []
        over = next(at for _, at, over in predictor.answered if over)
        assert predictor.ends["prediction-2"] - 3.0 == over, "in the same moment"


async def test_the_slot_is_free_before_the_end_is_written_down(tmp_path: Path) -> None:
    """The service has room as soon as it says so. What the disk of the ledger takes is not the next one's time."""
    async with flying(tmp_path, **ONE_SLOT) as air:
        predictor, written = Scheduled(air.house, 3.0), ends_written(air)
        tiles = [await air.house.uploaded(number) for number in range(2)]
        await air.send(*tiles)
        await air.let_pass(6.0)
        assert len(predictor.urls) == 2
        assert sorted([await air.state(tile) for tile in tiles]) == [State.SUBMITTED, State.SUBMITTED]
        written.set()
        await air.let_pass(20.0)
        assert [await air.state(tile) for tile in tiles] == [State.READY] * 2


async def test_with_a_budget_the_next_one_waits_for_the_bill(tmp_path: Path) -> None:
    async with flying(tmp_path, **ONE_SLOT, budget={"usd_per_day_max": BILL.cost_usd * 1.5}) as air:
        predictor = Scheduled(air.house, 3.0)
        tiles = [await air.house.uploaded(number) for number in range(2)]
        await air.send(*tiles)
        await air.let_pass(40.0)
        assert len(predictor.urls) == 1
        states = {await air.state(tile) for tile in tiles}
        assert State.READY in states
        assert states <= {State.READY, State.HELD, State.UPLOADED}


async def test_with_a_budget_the_slot_is_free_when_the_bill_is_written(tmp_path: Path) -> None:
    async with flying(tmp_path, **ONE_SLOT, budget={"usd_per_day_max": 100}) as air:
        await air.house.bring(await air.house.uploaded(9), State.READY)  # So the price is known.
        predictor, written = Scheduled(air.house, 3.0), ends_written(air)
        await air.send(*[await air.house.uploaded(number) for number in range(2)])
        await air.let_pass(6.0)
        assert len(predictor.urls) == 1
        written.set()
        await air.let_pass(6.0)
        assert len(predictor.urls) == 2


async def test_of_two_that_stand_ready_only_one_shows_the_price(tmp_path: Path) -> None:
    """When they got ready none was in flight; in the slot that is looked at again."""
    async with flying(tmp_path, api={"in_flight_max": 2}, budget={"usd_per_day_max": 100}) as air:
        predictor = Scheduled(air.house, 3.0)
        tiles = [await air.house.uploaded(number) for number in range(2)]
        async with AsyncExitStack() as taken:
            for _ in range(2):
                await taken.enter_async_context(air.house.dispatcher.turnstile.slot())
            await air.send(*tiles)
            assert (len(predictor.urls), len(air.house.dispatcher.departure.expected)) == (0, 2)
        await air.quiet()
        assert len(predictor.urls) == 1
        assert {await air.state(tile) for tile in tiles} == {State.SUBMITTED, State.UPLOADED}


async def test_two_that_leave_together_do_not_both_see_room_in_the_budget(tmp_path: Path) -> None:
    budget = {"usd_per_day_max": BILL.cost_usd * 2.5}
    async with flying(tmp_path, api={"in_flight_max": 2}, budget=budget) as air:
        await air.house.bring(await air.house.uploaded(9), State.READY)
        predictor = Scheduled(air.house, 3.0)
        tiles = [await air.house.uploaded(number) for number in range(2)]
        async with AsyncExitStack() as taken:
            for _ in range(2):
                await taken.enter_async_context(air.house.dispatcher.turnstile.slot())
            await air.send(*tiles)
        await air.quiet()
        assert len(predictor.urls) == 1
        assert {await air.state(tile) for tile in tiles} == {State.SUBMITTED, State.HELD}


async def test_the_history_is_searched_from_when_it_left_and_not_from_when_it_was_ready(tmp_path: Path) -> None:
    async with flying(tmp_path, **ONE_SLOT) as air:
        Scheduled(air.house, 1000.0)
        tile = await air.house.uploaded()
        async with air.house.dispatcher.turnstile.slot():
            await air.send(tile)
            await air.let_pass(10.0)
        await air.quiet()
        assert (await air.house.now(tile)).intent_at == air.clock.wall()


HINDRANCES: dict[str, Callable[[House], None]] = {
    "it is to end": lambda house: house.dispatcher.stopping.set(),
    "another was refused": lambda house: house.gates.close("api", refused()),
    "the window is narrower": lambda house: house.dispatcher.turnstile.refused(),
}


@pytest.mark.parametrize("hindrance", HINDRANCES)
async def test_what_happens_while_it_waits_in_its_slot_for_the_budget_stops_it(tmp_path: Path, hindrance: str) -> None:
    async with flying(tmp_path, api={"in_flight_max": 2}, budget={"usd_per_day_max": 100}) as air:
        await air.house.bring(await air.house.uploaded(9), State.READY)
        predictor = Scheduled(air.house, 1000.0)
        tile, stile = await air.house.uploaded(), air.house.dispatcher.turnstile
        async with stile.slot():
            async with air.house.dispatcher.departure.purse:
                await air.send(tile)
                assert stile.flying == 2
                HINDRANCES[hindrance](air.house)
            await air.quiet()
            assert (predictor.urls, stile.flying, air.tasks[0].done()) == ([], 1, True)
        assert await air.state(tile) is State.UPLOADED


@pytest.mark.parametrize("hindrance", ["it is to end", "another was refused"])
async def test_what_happens_while_it_stands_ready_sends_it_away(tmp_path: Path, hindrance: str) -> None:
    async with flying(tmp_path, **ONE_SLOT) as air:
        Scheduled(air.house, 1000.0)
        tile = await air.house.uploaded()
        async with air.house.dispatcher.turnstile.slot():
            await air.send(tile)
            HINDRANCES[hindrance](air.house)
            await air.let_pass(LOOK_SECONDS)
            assert air.tasks[0].done()
        assert await air.state(tile) is State.UPLOADED


async def test_a_webhook_may_come_before_the_answer_of_the_create(tmp_path: Path) -> None:
    async with flying(tmp_path) as air:
        predictor, ears = Scheduled(air.house, 0.0), air.house.dispatcher.ears
        ears.hooks = hooks = Hooks("https://nas.test/hook", "", air.house.ledger.identity)
        tile = await air.house.uploaded()

        async def tell(_: str) -> None:
            ears.hear(hooks.token(await air.house.now(tile)))

        predictor.on_create = tell
        await air.send(tile)
        assert (await air.state(tile), air.clock.seconds) == (State.READY, 0.0), "it is asked about at once"


async def test_a_few_stand_ready_and_a_few_more_lie_in_the_lane(tmp_path: Path) -> None:
    async with flying(tmp_path, **ONE_SLOT) as air:
        Scheduled(air.house, 1000.0)
        for number in range(12):
            await air.house.uploaded(number)
        lane = air.house.dispatcher.lanes["flight"]
        air.tasks = [asyncio.create_task(lane.feed())]
        air.tasks += [asyncio.create_task(lane.labour()) for _ in range(lane.width)]
        await air.quiet()
        assert len(air.house.dispatcher.departure.expected) == READY
        assert len(lane.in_hand) == 1 + READY + READY


async def test_what_the_budget_holds_needs_no_slot(tmp_path: Path) -> None:
    async with flying(tmp_path, api={"in_flight_max": 1}, budget={"usd_per_day_max": BILL.cost_usd * 1.5}) as air:
        predictor = Scheduled(air.house, 1000.0)
        tiles = [await air.house.uploaded(number) for number in range(3)]
        first = await air.house.bring(tiles[0], State.READY)
        assert first.state is State.READY
        await air.send(tiles[1])
        await air.send(tiles[2])
        assert [await air.state(tile) for tile in tiles[1:]] == [State.HELD, State.HELD]
        assert (predictor.urls, air.house.dispatcher.turnstile.flying) == ([], 0)


async def test_a_picture_that_changes_while_it_stands_ready_is_withdrawn(tmp_path: Path) -> None:
    async with flying(tmp_path, **ONE_SLOT) as air:
        predictor = Scheduled(air.house, 1000.0)
        tiles = [await air.house.uploaded(number) for number in range(2)]
        await air.send(tiles[0])
        await air.send(tiles[1])
        air.house.drop("1.png", b"another picture")
        await air.let_pass(LOOK_SECONDS + 0.5)
        assert await air.state(tiles[1]) is State.FAILED
        assert (await air.house.history(tiles[1]))[-1] == "withdrawn"
        assert len(predictor.urls) == 1


async def test_a_picture_that_changes_while_room_is_looked_for_is_withdrawn(tmp_path: Path) -> None:
    """The last look at the file comes after all that may take its time."""
    async with flying(tmp_path) as air:
        predictor = Scheduled(air.house, 3.0)
        tile = await air.house.uploaded()
        fresh = air.house.storage.fresh

        async def slow(asset: Asset, *, look: bool) -> Asset | None:
            await air.clock.sleep(60.0)
            return await fresh(asset, look=look)

        air.house.storage.fresh = slow  # type: ignore[method-assign]
        await air.send(tile)
        air.house.drop("0.png", b"another picture")
        await air.let_pass(61.0)
        assert (await air.state(tile), predictor.urls) == (State.FAILED, [])


async def test_a_url_that_grew_too_old_at_the_turnstile_is_not_submitted(tmp_path: Path) -> None:
    """Of a storage that gives one URL for each upload; here with a short life."""
    async with flying(tmp_path, **ONE_SLOT, storage={"kind": "vendor", "url_seconds": 60.0}) as air:
        predictor = Scheduled(air.house, 20.0)
        tiles = [await air.house.uploaded(number) for number in range(2)]
        end = air.house.clock.wall() + 20.0

        async def same(asset: Asset, *, look: bool) -> Asset:
            return Asset(asset.ref, asset.url, end)

        air.house.storage.fresh = same  # type: ignore[method-assign]
        await air.send(tiles[0])
        await air.send(tiles[1])
        await air.let_pass(60.0)
        assert len(predictor.urls) == 1
        assert (await air.house.now(tiles[1])).submits == 0
        await air.send(await air.house.now(tiles[1]))
        assert await air.state(tiles[1]) is State.ADMITTED, "it is uploaded again"


async def test_who_stood_ready_for_long_stands_aside(tmp_path: Path) -> None:
    """There may be more urgent ones by now. Nothing has happened to it."""
    async with flying(tmp_path, **ONE_SLOT) as air:
        Scheduled(air.house, 1000.0)
        tiles = [await air.house.uploaded(number) for number in range(2)]
        await air.send(tiles[0])
        await air.send(tiles[1])
        await air.let_pass(READY_SECONDS_MAX - LOOK_SECONDS)
        assert not air.tasks[1].done()
        await air.let_pass(2 * LOOK_SECONDS)
        assert air.tasks[1].done()
        tile = await air.house.now(tiles[1])
        assert (tile.state, tile.submits, tile.attempts) == (State.UPLOADED, 0, 0)
        assert air.house.dispatcher.departure.expected == {}
        assert air.house.gates.closed() == []


# Asking


async def test_questions_come_when_an_end_is_likely_also_after_a_restart(tmp_path: Path) -> None:
    for part in range(2):
        async with flying(tmp_path) as air:
            predictor = Scheduled(air.house, 16.0)
            asked = []
            for number in range(12 if part == 0 else 1):
                tile = await air.house.uploaded(100 * part + number)
                await air.send(tile)
                began, before = air.clock.seconds, len(predictor.answered)
                while await air.state(tile) is not State.READY:
                    await air.let_pass(1.0, step=1.0)
                asked.append([round(at - began, 1) for _, at, _ in predictor.answered[before:]])
            if part == 0:
                assert len(asked[0]) > 8, "nothing is known yet"
                first = asked[-1]
            else:
                first = asked[0]
            assert first[0] > 12.0, "no question while an end is very unlikely"
            assert len(first) <= 4
            assert 16.0 <= first[-1] < 17.2


@pytest.mark.parametrize("jump", [-1e8, 1e8])
async def test_a_clock_that_is_set_while_we_are_off_teaches_nothing(tmp_path: Path, jump: float) -> None:
    """How old those are that are found in flight is the wall clock's word; ten of them are enough to be believed."""
    async with flying(tmp_path) as air:
        predictor = Scheduled(air.house, 16.0)
        flight, ears = air.house.dispatcher.flight, air.house.dispatcher.ears
        hooks = ears.hooks = Hooks("https://nas.test/hook", "", air.house.ledger.identity)
        tile = await air.house.bring(await air.house.uploaded(), State.SUBMITTED)
        predictor.ends[str(tile.prediction)] = 20.0
        air.clock.start += jump
        await air.send(tile)
        await air.let_pass(20.0)
        ears.hear(hooks.token(tile))
        await air.let_pass(2.0)
        assert await air.state(tile) is State.READY
        usual = flight.paces.usual(flight._kind(tile), tile.job.content.pixels)
        assert usual is None or usual.median == BILL.predict_seconds


async def test_those_found_in_flight_are_not_asked_about_in_a_burst(tmp_path: Path) -> None:
    """One schedule for all: two questions are never closer than the shortest pause, shared by all slots."""
    async with flying(tmp_path) as air:
        predictor = Scheduled(air.house, 16.0)
        tiles = [await air.house.bring(await air.house.uploaded(n), State.SUBMITTED) for n in range(10)]
        predictor.ends = {str(tile.prediction): 0.0 for tile in tiles}
        await air.let_pass(1000.0, step=1000.0)
        await air.send(*tiles)
        await air.let_pass(3.0)
        times = sorted(at for _, at, _ in predictor.answered)
        assert len(times) == 10
        assert all(late - early == pytest.approx(0.1) for early, late in itertools.pairwise(times))


async def test_while_webhooks_come_there_is_one_question_a_picture(tmp_path: Path) -> None:
    async with flying(tmp_path) as air:
        predictor = Scheduled(air.house, 16.0)
        ears = air.house.dispatcher.ears
        ears.hooks = Hooks("https://nas.test/hook", "", air.house.ledger.identity)
        asked = []

        async def one(number: int, *, told: bool) -> None:
            tile = await air.house.uploaded(number)
            await air.send(tile)
            while await air.state(tile) is not State.SUBMITTED:
                await air.quiet()  # A machine that is busy takes longer for the looks.
            before, began = len(predictor.answered), air.clock.seconds
            while await air.state(tile) is not State.READY:
                if told and air.clock.seconds >= began + 16.0:
                    ears.hear(ears.hooks.token(await air.house.now(tile)))  # type: ignore[union-attr]
                await air.let_pass(0.5)
            asked.append(len(predictor.answered) - before)

        for number in range(10):
            await one(number, told=True)
        assert asked[-4:] == [1] * 4, "a safety net costs nothing while it is not needed"
        for number in range(10, 16):
            await one(number, told=False)
        assert ears.told is False
        assert asked[-1] > 1, "when they stay away, questions are asked as without them"
        assert max(asked[10:]) < 10
        assert air.house.dispatcher.flight.timetable._times == [], "who was told gave his place back"


async def test_a_word_that_comes_while_we_ask_was_heard(tmp_path: Path) -> None:
    async with flying(tmp_path) as air:
        predictor = Scheduled(air.house, 5.0)
        ears = air.house.dispatcher.ears
        hooks = ears.hooks = Hooks("https://nas.test/hook", "", air.house.ledger.identity)
        get = predictor.get

        async def slow(prediction: str) -> Progress:
            answer = await get(prediction)
            if answer is DONE:
                ears.hear(hooks.token(await air.house.now(tile)))
            return answer

        predictor.get = slow  # type: ignore[method-assign]
        tile = await air.house.uploaded()
        await air.send(tile)
        await air.let_pass(20.0)
        assert await air.state(tile) is State.READY
        assert ears.trust.share > 0
        assert ears.trust.awaited == {}


@pytest.mark.parametrize("trouble", ["an outage", "it tells before it knows"])
async def test_a_word_that_led_to_nothing_yet_is_not_forgotten(tmp_path: Path, trouble: str) -> None:
    """The service tells once. Who relied on it would wait for as long as such predictions usually take."""
    async with flying(tmp_path) as air:
        flight, ears = air.house.dispatcher.flight, air.house.dispatcher.ears
        hooks = ears.hooks = Hooks("https://nas.test/hook", "", air.house.ledger.identity)
        ears.trust.share = 1.0
        tile = await air.house.uploaded()
        for _ in range(ENOUGH):
            flight.paces.learn(flight._kind(tile), tile.job.content.pixels, 300.0)
        predictor = Scheduled(air.house, 20.0)
        get, failing = predictor.get, trouble == "an outage"

        async def broken(prediction: str) -> Progress:
            if failing:
                raise Fault("The API answered 503.", blame=Blame.SERVICE, gate=Gate.API)
            return await get(prediction)

        predictor.get = broken  # type: ignore[method-assign]
        await air.send(tile)
        await air.let_pass(20.0 if failing else 19.5)
        ears.hear(hooks.token(await air.house.now(tile)))
        await air.quiet()
        assert await air.state(tile) is State.SUBMITTED
        failing = False
        await air.let_pass(15.0)
        assert await air.state(tile) is State.READY
        assert ears.trust.share == 1.0, "it did tell"


async def test_when_webhooks_stay_away_nobody_is_asked_about_before_an_end_is_likely(tmp_path: Path) -> None:
    """Whoever relied on them thinks again, and that is all."""
    async with flying(tmp_path) as air:
        predictor, flight = Scheduled(air.house, 16.0), air.house.dispatcher.flight
        ears = flight.ears
        ears.hooks, ears.trust.share = Hooks("https://nas.test/hook", "", air.house.ledger.identity), TRUST_MIN
        tiles = [await air.house.uploaded(number) for number in range(3)]
        for _ in range(ENOUGH):
            flight.paces.learn(flight._kind(tiles[0]), tiles[0].job.content.pixels, 16.0)
        await air.send(*tiles)
        ears.trust.silent("another", air.clock.seconds)
        another = await air.house.bring(await air.house.uploaded(9), State.SUBMITTED)
        predictor.ends[str(another.prediction)] = math.inf
        await air.let_pass(PATIENCE_SECONDS + 1.0)
        await air.send(another)  # Who is just about to wait finds out, for all.
        assert (ears.told, predictor.answered) == (False, [])
        await air.let_pass(13.0)
        assert {await air.state(tile) for tile in tiles} == {State.READY}


# What was found in flight


async def test_one_that_is_to_be_left_alone_for_a_while_is(tmp_path: Path) -> None:
    async with flying(tmp_path) as air:
        predictor = Scheduled(air.house, 0.0)
        tile = await air.house.bring(await air.house.uploaded(), State.SUBMITTED)
        predictor.ends[str(tile.prediction)] = math.inf
        tile = await air.house.ledger.postpone(tile, air.clock.wall() + 100.0, attempts=1)
        await air.send(tile)
        await air.let_pass(99.0, step=99.0)
        assert predictor.answered == []
        await air.let_pass(9.0)
        assert len(predictor.answered) == 1, "once soon, for it may be over; then as its age says"


@pytest.mark.parametrize(("age", "learnt"), [(10.0, None), (1000.0, BILL.predict_seconds)])
async def test_what_was_over_while_nobody_looked_teaches_what_the_service_says(
    tmp_path: Path, age: float, learnt: float | None
) -> None:
    """And that no webhook came says nothing: nobody listened."""
    async with flying(tmp_path) as air:
        predictor, flight = Scheduled(air.house, 0.0), air.house.dispatcher.flight
        flight.ears.hooks = Hooks("https://nas.test/hook", "", air.house.ledger.identity)
        tile = await air.house.bring(await air.house.uploaded(), State.SUBMITTED)
        predictor.ends[str(tile.prediction)] = 0.0
        await air.let_pass(age, step=age)
        await air.send(tile)
        await air.let_pass(2.0)
        assert await air.state(tile) is State.READY
        usual = flight.paces.usual(flight._kind(tile), tile.job.content.pixels)
        assert (usual and usual.median) == learnt
        assert flight.ears.trust.awaited == {}
        air.house.change(api="another")
        assert flight.paces.usual(flight._kind(tile), tile.job.content.pixels) is None


async def test_what_it_waited_with_the_service_counts_as_well(tmp_path: Path) -> None:
    """The bill says 16 seconds, and when those were over we asked, and it was not."""
    async with flying(tmp_path) as air:
        Scheduled(air.house, 30.0)
        tile = await air.house.uploaded()
        await air.send(tile)
        await air.let_pass(40.0, step=1.0)
        flight = air.house.dispatcher.flight
        usual = flight.paces.usual(flight._kind(tile), tile.job.content.pixels)
        assert usual is not None
        assert usual.median == pytest.approx(30.0, abs=4.0)
