"""The turnstile: a slot and a place in the minute are taken together, and held for nothing but what leaves now."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from fakes.clock import HeldClock, settle

from daemon.rules.limits import GROW_SECONDS, Place
from daemon.turnstile import Turnstile


class Visitor:
    """One who goes through and stays until the test lets go of the slot, or of the place in the minute."""

    def __init__(self, stile: Turnstile, seconds: float) -> None:
        self.slot, self.leaving = AsyncExitStack(), AsyncExitStack()
        self.task = asyncio.create_task(stile.enter(self.slot, self.leaving, seconds))

    @property
    def place(self) -> Place | None:
        """What it got; fails while it still waits."""
        return self.task.result()

    async def answered(self, at: float) -> None:
        assert self.place is not None
        self.place.answered_at = at
        await self.leaving.aclose()
        await settle()

    async def go(self) -> None:
        await self.leaving.aclose()
        await self.slot.aclose()
        await settle()


class Gate:
    """A turnstile of two slots and three places a minute."""

    def __init__(self) -> None:
        self.clock = HeldClock()
        self.stile = Turnstile(self.clock, 2, 3)
        self.visitors: list[Visitor] = []

    async def come(self, seconds: float = 100.0) -> Visitor:
        self.visitors.append(Visitor(self.stile, seconds))
        await settle()
        return self.visitors[-1]


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    for visitor in gate.visitors:
        visitor.task.cancel()
        await visitor.go()


async def test_two_pass_at_once_and_the_third_when_one_has_left(gate: Gate) -> None:
    first, second, third = [await gate.come() for _ in range(3)]
    assert first.place
    assert second.place
    assert not third.task.done()
    assert (gate.stile.flying, gate.stile.minute.reserved) == (2, 2), "who waits holds no place in the minute"
    await first.go()
    assert third.place
    assert gate.clock.seconds == 0.0, "at once"


async def test_who_waits_for_the_minute_holds_no_slot(gate: Gate) -> None:
    for _ in range(3):
        visitor = await gate.come()
        await visitor.answered(gate.clock.seconds)
        await visitor.go()
    fourth = await gate.come()
    assert (fourth.task.done(), gate.stile.flying, gate.stile.slots.locked()) == (False, 0, False)
    await gate.clock.let_pass(59.9)
    assert not fourth.task.done()
    await gate.clock.let_pass(0.2)
    assert fourth.place


async def test_where_only_an_answer_makes_room_that_is_waited_for(gate: Gate) -> None:
    """All places of the minute are held by creates that are not answered yet."""
    gate.stile = Turnstile(gate.clock, 9, 1)
    first, second = await gate.come(), await gate.come(1000.0)
    await gate.clock.let_pass(200.0)
    assert not second.task.done()
    await first.answered(gate.clock.seconds)
    await gate.clock.let_pass(59.9)
    assert not second.task.done()
    await gate.clock.let_pass(0.2)
    assert second.place


async def test_a_place_whose_create_never_left_is_free_at_once(gate: Gate) -> None:
    gate.stile = Turnstile(gate.clock, 9, 1)
    first, second = await gate.come(), await gate.come()
    await first.go()
    assert second.place
    assert gate.clock.seconds == 0.0


async def test_nobody_stands_there_for_longer_than_was_said(gate: Gate) -> None:
    for _ in range(2):
        await gate.come()
    third = await gate.come(5.0)
    await gate.clock.let_pass(4.9)
    assert not third.task.done()
    await gate.clock.let_pass(0.2)
    assert third.place is None
    assert (gate.stile.flying, gate.stile.minute.reserved) == (2, 2)


async def test_a_narrow_window_holds_back_until_there_is_room(gate: Gate) -> None:
    first = await gate.come()
    gate.stile.refused()
    assert not gate.stile.allows()
    second = await gate.come()
    assert not second.task.done(), "a slot is free, but the service wants fewer"
    gate.stile.doubt(1)
    await settle()
    assert second.place, "what most likely is not running does not count"
    gate.stile.doubt(-1)
    await first.go()
    await second.go()
    assert (gate.stile.flying, gate.stile.doubtful) == (0, 0)


async def test_what_was_in_flight_before_comes_first(gate: Gate) -> None:
    """After a restart: it runs, and takes a slot whenever one is free."""
    first, _ = await gate.come(), await gate.come()
    found = AsyncExitStack()
    waiting = asyncio.create_task(found.enter_async_context(gate.stile.slot()))
    await settle()
    third = await gate.come()
    await first.go()
    assert (waiting.done(), third.task.done()) == (True, False)
    await found.aclose()
    await settle()
    assert third.place


async def test_a_refusal_halves_what_flies_and_a_quiet_while_lets_one_more_in(gate: Gate) -> None:
    gate.stile = Turnstile(gate.clock, 10, 100)
    for _ in range(4):
        await gate.come()
    gate.stile.refused()
    assert gate.stile.window.size == 2, "of four that fly, not of ten that could"
    await gate.visitors[0].go()
    await gate.visitors[1].go()
    fifth = await gate.come()
    await gate.clock.let_pass(GROW_SECONDS)
    assert not fifth.task.done()
    gate.stile.accepted()
    await settle()
    assert fifth.place
