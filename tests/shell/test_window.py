"""Too many requests: fewer in flight for a while, and all submits held for as long as the service asks."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from fakes.clock import FakeClock
from fakes.predictor import FakePredictor, refused
from shell_kit import House, fault_of, fly, wait_for_gates

from daemon.ports import Progress
from daemon.rules.faults import Blame, Fault, Gate
from daemon.rules.job import Tile
from daemon.rules.lifecycle import State


def too_many(retry_after: float) -> Fault:
    return Fault(
        "The API answered 429.", blame=Blame.SERVICE, gate=Gate.API, rate_limited=True, retry_after=retry_after
    )


class Slow(FakePredictor):
    """Predictions end when they are let; until then nobody is answered."""

    def __init__(self, house: House) -> None:
        self.__dict__ = house.predictor.__dict__
        self.let: dict[str, asyncio.Event] = {}
        house.change(predictor=self)

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
    departure, window = at_work.dispatcher.departure, at_work.dispatcher.turnstile.window
    assert (window.size, len(slow.running)) == (5, 4), "six refusals that came together are one"
    left = await waiting(at_work)
    assert [(tile.attempts, tile.submits) for tile in left] == [(0, 0)] * 6
    tasks = flights.send(left)
    await until(at_work, lambda: sum(task.done() for task in tasks) == 5 and at_work.gates.closed() == [])
    assert (len(slow.running), slow.running_most, len(slow.urls)) == (5, 5, 11)
    assert not departure.admits(1)
    left = await waiting(at_work)
    assert [(tile.attempts, tile.submits) for tile in left] == [(0, 0)] * 5
    found = await at_work.dispatcher.lanes["flight"].find(99, set())
    assert {tile.state for tile in found} == {State.SUBMITTED}, "no worker waits with the others"
    await asyncio.gather(*flights.send(left))
    assert len(slow.urls) == 11
    slow.end("prediction-1")
    await until(at_work, lambda: len(slow.running) == 4)
    await until(at_work, lambda: departure.admits(1))
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
    window = at_work.dispatcher.turnstile.window
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
    window = at_work.dispatcher.turnstile.window
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
    assert at_work.dispatcher.turnstile.window.size == 10
