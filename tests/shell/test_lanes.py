"""Lanes: a bounded window, each thing in hand once, and a defect that stops nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fakes.clock import HeldClock, settle
from shell_kit import captured_log

from daemon.lanes import BENCH_SECONDS, IDLE_SECONDS_MAX, Lane
from daemon.rules.faults import Blame, Fault, LedgerBroken

WIDTH = 3


class Bench:
    """A lane over a list of things to do; each is worked on until the test ends it."""

    def __init__(self) -> None:
        self.clock = HeldClock()
        log, self.log = captured_log()
        self.things: list[int] = []
        self.asked: list[tuple[int, set[int]]] = []
        self.begun: list[int] = []
        self.ends: dict[int, asyncio.Future[None]] = {}
        self.due: float | None = None
        self.stopping = asyncio.Event()
        self.lane: Lane[int, int] = Lane(
            "lane", WIDTH, self.clock, self.find, lambda thing: thing, self.work, self.next_due, self.stopping, log
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def find(self, room: int, besides: set[int]) -> list[int]:
        self.asked.append((room, set(besides)))
        return [thing for thing in self.things if thing not in besides][:room]

    async def work(self, thing: int) -> None:
        self.begun.append(thing)
        self.ends[thing] = asyncio.get_running_loop().create_future()
        await self.ends[thing]
        self.things.remove(thing)

    async def next_due(self) -> float | None:
        return self.due

    async def start(self) -> None:
        self.tasks = [asyncio.create_task(self.lane.feed())]
        self.tasks += [asyncio.create_task(self.lane.labour()) for _ in range(WIDTH)]
        await settle()

    async def end(self, thing: int, error: BaseException | None = None) -> None:
        if error is None:
            self.ends[thing].set_result(None)
        else:
            self.ends[thing].set_exception(error)
        await settle()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    for task in bench.tasks:
        task.cancel()
    await asyncio.gather(*bench.tasks, return_exceptions=True)


async def test_the_window_is_bounded(bench: Bench) -> None:
    """However much there is to do, so many are at work and so many wait in memory."""
    bench.things = list(range(1_000))
    await bench.start()
    assert bench.begun == [0, 1, 2]
    assert len(bench.lane.in_hand) == 2 * WIDTH, "as many again lie ready, though nobody has ended yet"
    for thing in range(20):
        assert len(bench.lane.in_hand) <= 2 * WIDTH
        assert len(bench.begun) == thing + WIDTH
        await bench.end(thing)
        bench.lane.poke()
        await settle()
    assert bench.begun == list(range(20 + WIDTH)), "in the ledger's order"
    assert all(room <= WIDTH for room, _ in bench.asked)


async def test_each_is_in_hand_once(bench: Bench) -> None:
    bench.things = [0, 1, 2, 3]
    await bench.start()
    for _ in range(10):
        bench.lane.poke()
        await settle()
    assert bench.begun == [0, 1, 2]
    assert bench.lane.in_hand == {0, 1, 2, 3}
    for thing in range(4):
        await bench.end(thing)
    assert bench.begun == [0, 1, 2, 3]
    assert bench.lane.is_idle()


async def test_a_place_that_becomes_free_is_filled_at_once(bench: Bench) -> None:
    bench.things = [0]
    await bench.start()
    bench.things += [1, 2]
    await bench.end(0)
    assert bench.begun == [0, 1, 2]
    assert bench.clock.slept.count(0.0) == 0
    assert bench.clock.monotonic() == 0.0


async def test_a_poke_wakes_it(bench: Bench) -> None:
    await bench.start()
    bench.things = [7]
    await settle()
    assert bench.begun == []
    bench.lane.poke()
    await settle()
    assert bench.begun == [7]


async def test_without_a_poke_it_looks_when_something_is_due_and_now_and_then(bench: Bench) -> None:
    bench.due = bench.clock.wall() + 5
    await bench.start()
    bench.things, bench.due = [7], None
    await bench.clock.let_pass(4.9)
    assert bench.begun == []
    await bench.clock.let_pass(0.2)
    assert bench.begun == [7]
    looks = len(bench.asked)
    await bench.clock.let_pass(IDLE_SECONDS_MAX * 10)
    assert len(bench.asked) == looks + 10
    assert bench.lane.pulse >= bench.clock.monotonic() - IDLE_SECONDS_MAX


async def test_a_due_time_in_the_past_does_not_spin(bench: Bench) -> None:
    bench.due = 0.0
    await bench.start()
    await bench.clock.let_pass(1.0)
    assert len(bench.asked) <= 51


async def test_a_defect_benches_one_and_stops_nothing(bench: Bench) -> None:
    bench.things = [0, 1, 2, 3, 4]
    await bench.start()
    await bench.end(0, ZeroDivisionError("a defect"))
    assert bench.begun == [0, 1, 2, 3]
    [line] = [line for line in bench.log.entries if line["event"] == "defect"]
    assert (line["lane"], line["key"]) == ("lane", "0")
    for thing in (1, 2, 3, 4):
        await bench.end(thing)
    assert bench.begun == [0, 1, 2, 3, 4]
    await bench.clock.let_pass(BENCH_SECONDS * 0.9)
    assert bench.begun == [0, 1, 2, 3, 4]
    await bench.clock.let_pass(BENCH_SECONDS * 0.2)
    assert bench.begun == [0, 1, 2, 3, 4, 0], "then it is tried again"
    assert not any(task.done() for task in bench.tasks)


async def test_a_fault_is_no_defect(bench: Bench) -> None:
    bench.things = [0]
    await bench.start()
    await bench.end(0, Fault("The disk is full.", blame=Blame.HOUSE))
    assert bench.begun == [0, 0], "its gate or its due time holds it, not the lane"
    assert bench.log.entries == []
    assert bench.lane.benched == {}


async def test_a_broken_ledger_ends_it(bench: Bench) -> None:
    bench.things = [0]
    await bench.start()
    await bench.end(0, LedgerBroken("The ledger is gone."))
    ended = [task for task in bench.tasks if task.done()]
    assert [type(task.exception()) for task in ended] == [LedgerBroken]


async def test_one_who_is_cancelled_lets_go(bench: Bench) -> None:
    bench.things = [0]
    await bench.start()
    bench.tasks[1].cancel()
    await settle()
    assert bench.begun == [0, 0], "found again, and in another's hand"


async def test_stopping_begins_nothing_new(bench: Bench) -> None:
    bench.things = list(range(20))
    await bench.start()
    bench.stopping.set()
    for thing in range(WIDTH):
        await bench.end(thing)
    await bench.clock.let_pass(IDLE_SECONDS_MAX)
    assert bench.begun == [0, 1, 2]
    assert all(task.done() for task in bench.tasks)


async def test_a_poke_while_the_ledger_is_looked_at_is_not_lost(bench: Bench) -> None:
    """What it is about may have come just after the look."""
    looks = 0

    async def find(room: int, besides: set[int]) -> list[int]:
        nonlocal looks
        looks += 1
        if looks == 1:
            bench.lane.poke()
        return []

    bench.lane.find = find
    await bench.start()
    assert looks == 2
