"""What every clock promises: this machine's, those of the tests, and the simulation's in its own loop."""

import asyncio
import string
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from fakes.clock import FakeClock, HeldClock
from simulation.engine import Crash, Machine, SimClock, VirtualLoop

from daemon.adapters.clock import SystemClock
from daemon.ports import Clock

T = TypeVar("T")
PAUSE = 0.003  # seconds; the real clock really takes that long
DAY = 86_400.0


@dataclass
class Arena:
    """do: runs a test's steps in the loop that the clock needs."""

    clock: Clock
    do: Callable[[Coroutine[Any, Any, T]], T]

    async def during(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """What becomes of it while so much time passes."""
        task = asyncio.ensure_future(work)
        if isinstance(self.clock, HeldClock):
            await self.clock.let_pass(max(0.0, seconds))
        return await task


@pytest.fixture(params=["system", "fake", "held", "simulated"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    if request.param == "simulated":
        machine = Machine(0)
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(100.0)) as runner:
            machine.loop = runner.get_loop()  # type: ignore[assignment]
            yield Arena(SimClock(machine), runner.run)
    else:
        clock = {"system": SystemClock, "fake": FakeClock, "held": HeldClock}[request.param]()
        with asyncio.Runner() as runner:
            yield Arena(clock, runner.run)


# The fake one lets every sleeper through at once.
WITH_PATIENCE = pytest.mark.parametrize("arena", ["system", "held", "simulated"], indirect=True)


# Time, dice, tokens


def test_monotonic_time_never_goes_back(arena: Arena) -> None:
    async def steps() -> list[float]:
        moments = [arena.clock.monotonic()]
        for _ in range(3):
            await arena.during(arena.clock.sleep(PAUSE), PAUSE)
            moments += [arena.clock.monotonic() for _ in range(50)]
        return moments

    moments = arena.do(steps())
    assert moments == sorted(moments)
    assert moments[-1] - moments[0] >= 3 * PAUSE - 1e-6


def test_the_wall_clock_goes_as_fast_as_the_monotonic_one(arena: Arena) -> None:
    async def steps() -> tuple[float, float]:
        wall, monotonic = arena.clock.wall(), arena.clock.monotonic()
        await arena.during(arena.clock.sleep(PAUSE), PAUSE)
        return arena.clock.wall() - wall, arena.clock.monotonic() - monotonic

    assert arena.clock.wall() > 1_700_000_000
    by_the_wall, by_the_other = arena.do(steps())
    assert by_the_wall == pytest.approx(by_the_other, abs=0.5)


def test_dice_are_at_least_0_and_less_than_1(arena: Arena) -> None:
    assert all(0.0 <= arena.clock.dice() < 1.0 for _ in range(1000))


def test_real_dice_are_no_constant() -> None:
    for clock in (SystemClock(), SimClock(Machine(0))):
        rolled = [clock.dice() for _ in range(100)]
        assert len(set(rolled)) > 90
        assert min(rolled) < 0.2
        assert max(rolled) > 0.8


@pytest.mark.parametrize("bytes_", [8, 16, 32])
def test_tokens_are_hex_digits_and_never_the_same(arena: Arena, bytes_: int) -> None:
    tokens = [arena.clock.token(bytes_) for _ in range(500)]
    assert {len(token) for token in tokens} == {2 * bytes_}
    assert set("".join(tokens)) <= set(string.hexdigits.lower())
    assert len(set(tokens)) == 500


# Sleeping


@pytest.mark.parametrize("seconds", [PAUSE, 0.0, -1.0])
def test_a_sleep_takes_its_time_and_lets_others_run(arena: Arena, seconds: float) -> None:
    async def steps() -> float:
        ran = asyncio.Event()

        async def sleep() -> None:
            asyncio.get_running_loop().call_soon(ran.set)
            await arena.clock.sleep(seconds)
            assert ran.is_set()

        before = arena.clock.monotonic()
        await arena.during(sleep(), seconds)
        return arena.clock.monotonic() - before

    assert max(0.0, seconds) - 1e-6 <= arena.do(steps()) < 60.0


@WITH_PATIENCE
def test_sleepers_wake_in_the_order_of_their_times(arena: Arena) -> None:
    async def steps() -> list[int]:
        woken: list[int] = []

        async def sleep(times: int) -> None:
            await arena.clock.sleep(times * PAUSE)
            woken.append(times)

        async def all_() -> None:
            await asyncio.gather(*(sleep(times) for times in (3, 1, 2)))

        await arena.during(all_(), 3 * PAUSE)
        return woken

    assert arena.do(steps()) == [1, 2, 3]


@WITH_PATIENCE
def test_a_sleep_that_is_cancelled_ends_and_leaves_no_task(arena: Arena) -> None:
    async def steps() -> int:
        tasks = [asyncio.ensure_future(arena.clock.sleep(DAY))]
        tasks += [asyncio.ensure_future(arena.clock.wait(asyncio.Event(), each)) for each in (DAY, None)]  # type: ignore[arg-type]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 3
        for _ in range(3):
            await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert arena.do(steps()) == 1, "nobody is left but who asks"


# Waiting


@pytest.mark.parametrize("seconds", [DAY, 0.0, -1.0, None])
def test_what_has_come_already_is_not_waited_for(arena: Arena, seconds: float | None) -> None:
    async def steps() -> tuple[bool, float]:
        event, before = asyncio.Event(), arena.clock.monotonic()
        event.set()
        return await arena.clock.wait(event, seconds), arena.clock.monotonic() - before

    came, took = arena.do(steps())
    assert came is True
    assert took < 60.0


@pytest.mark.parametrize("seconds", [DAY, None])
def test_what_comes_ends_the_wait(arena: Arena, seconds: float | None) -> None:
    async def steps() -> tuple[bool, float]:
        event, before = asyncio.Event(), arena.clock.monotonic()
        waiting = asyncio.ensure_future(arena.clock.wait(event, seconds))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        event.set()
        return await waiting, arena.clock.monotonic() - before

    came, took = arena.do(steps())
    assert came is True
    assert took < 60.0


@pytest.mark.parametrize("seconds", [PAUSE, 0.0, -1.0])
def test_what_does_not_come_is_waited_for_so_long(arena: Arena, seconds: float) -> None:
    async def steps() -> tuple[bool, float]:
        before = arena.clock.monotonic()
        came = await arena.during(arena.clock.wait(asyncio.Event(), seconds), seconds)
        return came, arena.clock.monotonic() - before

    came, took = arena.do(steps())
    assert came is False
    assert max(0.0, seconds) - 1e-6 <= took < 60.0


# The simulated one alone


@pytest.mark.parametrize("arena", ["simulated"], indirect=True)
def test_virtual_time_costs_none(arena: Arena) -> None:
    async def steps() -> tuple[bool, float]:
        before = arena.clock.wall()
        await arena.clock.sleep(100 * DAY)
        return await arena.clock.wait(asyncio.Event(), DAY), arena.clock.wall() - before

    assert arena.do(steps()) == (False, 101 * DAY)


def test_a_clock_that_is_set_moves_the_wall_alone() -> None:
    machine = Machine(0)
    clock = SimClock(machine)
    wall, monotonic = clock.wall(), clock.monotonic()
    machine.skew = -7200.0
    assert (clock.wall() - wall, clock.monotonic() - monotonic) == (-7200.0, 0.0)


def test_a_boot_begins_its_own_monotonic_time_and_the_wall_goes_on() -> None:
    machine = Machine(0)
    first = SimClock(machine)
    machine.now += DAY
    second = SimClock(machine)
    assert second.wall() == first.wall()
    assert first.monotonic() - second.monotonic() == DAY


def test_nobody_sleeps_without_power() -> None:
    machine = Machine(0)
    machine.alive = False
    clock = SimClock(machine)
    for work in (clock.sleep(0.0), clock.wait(asyncio.Event(), 0.0)):
        with pytest.raises(Crash):
            work.send(None)
