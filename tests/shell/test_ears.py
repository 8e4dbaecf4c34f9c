"""Ears: a word of the service makes us ask now, and whether it can be relied on is learnt from what it told."""

from contextlib import AsyncExitStack
from typing import Any

import pytest
from fakes.clock import FakeClock
from shell_kit import captured_log
from structlog.testing import LogCapture

from daemon.ears import Ears
from daemon.rules.hooks import MISSED_MAX, PATIENCE_SECONDS, Hooks
from daemon.rules.job import Content, Job, Tile
from daemon.rules.lifecycle import State
from daemon.rules.recipe import Recipe


def a_tile(number: int = 0) -> Tile:
    job = Job(f"job-{number}", 1, b"a.png", Content("0" * 64, 9, 3, 2, "PNG"), Recipe())
    return Tile(job, 0, State.SUBMITTED, due_at=0.0, since=0.0, rect=job.content.rect, submits=1)


@pytest.fixture
def log() -> tuple[Any, LogCapture]:
    return captured_log()


@pytest.fixture
def ears(clock: FakeClock, log: tuple[Any, LogCapture]) -> Ears:
    return Ears(clock, log[0], Hooks("https://nas.test/hook", "secret", "identity"))


def token(ears: Ears, number: int = 0) -> str:
    assert ears.hooks is not None
    return ears.hooks.token(a_tile(number))


def one(ears: Ears, number: int, *, heard: bool) -> None:
    """A prediction that is told of, or is found over by asking."""
    with_ear = AsyncExitStack()
    ear = ears.ear(a_tile(number), with_ear)
    if heard:
        ears.hear(token(ears, number))
    ears.over(ear, heard=ear.listen())
    ears.open.pop(ear.token)


async def test_a_word_wakes_the_one_it_is_for_and_is_heard_once(ears: Ears) -> None:
    async with AsyncExitStack() as stack:
        first, second = ears.ear(a_tile(1), stack), ears.ear(a_tile(2), stack)
        assert ears.ear(a_tile(1), stack) is first
        ears.hear(token(ears, 1))
        ears.hear(token(ears, 1))
        assert (first.woken.is_set(), second.woken.is_set()) == (True, False)
        assert [first.listen(), first.listen()] == [True, False]
    assert ears.open == {}


async def test_unknown_and_late_words_do_nothing(ears: Ears) -> None:
    for forged in ("", "0" * 32, token(ears)):
        ears.hear(forged)
    assert (ears.open, ears.trust.share) == ({}, 0.0)


async def test_without_webhooks_there_is_nothing_to_hear(clock: FakeClock) -> None:
    ears = Ears(clock, captured_log()[0])
    async with AsyncExitStack() as stack:
        ear = ears.ear(a_tile(), stack)
        assert (ear.token, ears.open, ears.hook(a_tile())) == ("", {}, None)
        ears.over(ear, heard=False)
    clock.advance(60.0)
    ears.settle()
    assert (ears.told, ears.trust.share) == (False, 0.0)


async def test_it_is_relied_on_after_five_and_not_after_two_that_were_missed(ears: Ears, clock: FakeClock) -> None:
    told = []
    for number in range(5):
        one(ears, number, heard=True)
        told.append(ears.told)
    assert told == [False] * 4 + [True]
    for number in range(5, 20):
        one(ears, number, heard=True)
    told = []
    for number in range(20, 22):
        one(ears, number, heard=False)
        clock.advance(PATIENCE_SECONDS)
        ears.settle()
        told.append(ears.told)
    assert told == [True, False]


async def test_when_it_stays_away_all_who_relied_on_it_look_again(ears: Ears, clock: FakeClock) -> None:
    for number in range(9):
        one(ears, number, heard=True)
    async with AsyncExitStack() as stack:
        waiting = [ears.ear(a_tile(100 + number), stack) for number in range(3)]
        for number in range(9, 12):
            one(ears, number, heard=False)
        ears.settle()
        assert not any(ear.woken.is_set() for ear in waiting), "a word may be a little late"
        clock.advance(PATIENCE_SECONDS)
        ears.settle()
        assert not ears.told
        assert [(ear.woken.is_set(), ear.listen()) for ear in waiting] == [(True, False)] * 3


async def test_a_word_that_comes_just_after_the_answer_counts_all_the_same(ears: Ears, clock: FakeClock) -> None:
    """Else those who ask often would never learn that they need not."""
    for number in range(9):
        one(ears, number, heard=False)
        clock.advance(PATIENCE_SECONDS / 2)
        ears.hear(token(ears, number))
        ears.hear(token(ears, number))
    assert ears.told
    assert ears.trust.awaited == {}


async def test_a_word_that_comes_while_the_end_is_written_down_counts_too(ears: Ears) -> None:
    """With a budget the ear is there until the bill is in the ledger."""
    async with AsyncExitStack() as stack:
        ear = ears.ear(a_tile(), stack)
        ears.over(ear, heard=False)
        ears.hear(token(ears))
    assert (ears.trust.share > 0, ears.trust.awaited) == (True, {})


async def test_what_is_remembered_of_silence_is_bounded(ears: Ears, clock: FakeClock) -> None:
    for number in range(1000):
        one(ears, number, heard=False)
        clock.advance(1.0)
    assert len(ears.trust.awaited) <= PATIENCE_SECONDS + 1


async def test_that_they_do_not_arrive_is_told_once_and_that_they_do_again(
    ears: Ears, clock: FakeClock, log: tuple[Any, LogCapture]
) -> None:
    """Also where they never did: the address may be wrong, and results come all the same."""

    def told() -> list[str]:
        return [line["event"] for line in log[1].entries]

    for number in range(20):
        one(ears, number, heard=False)
        clock.advance(PATIENCE_SECONDS)
        assert told() == ([] if number < MISSED_MAX else ["webhooks_missing"])
    for number in range(20, 30):
        one(ears, number, heard=True)
    assert told() == ["webhooks_missing", "webhooks_arrive"]
    assert "public_url" in log[1].entries[0]["remedy"]
