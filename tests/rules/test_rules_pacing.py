"""When to ask: what is learnt of how long predictions take, and where the questions are placed."""

import itertools
import json
import math
import random

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from rules_kit import quick

from daemon.rules.pacing import (
    BLIND_SECONDS_MAX,
    ENOUGH,
    PAUSE_SECONDS_MAX,
    SEEN_MAX,
    SPREAD_MIN,
    STRAGGLER,
    Paces,
    Timetable,
    Usual,
    poll_pause,
    took,
)

ages = st.floats(0, 1e7)
dice = st.floats(0, 1, exclude_max=True)
spreads = st.floats(SPREAD_MIN, 2)
usuals = st.builds(Usual, st.floats(0.05, 2000), spreads, spreads)
USUAL = Usual(16.0, 0.3, 0.3)
MEGAPIXEL = 1_000_000


def pause(age: float, usual: Usual | None = USUAL, *, told: bool = False, roll: float = 0.5) -> float:
    return poll_pause(age, usual, shortest=1, overdue_after=3600, told=told, dice=roll)


def asked(duration: float, usual: Usual | None, chance: random.Random, *, told: bool = False) -> list[float]:
    """At which ages a prediction is asked about; the last time it is over."""
    times = [0.0]
    while times[-1] < duration:
        times.append(times[-1] + pause(times[-1], usual, told=told, roll=chance.random()))
    return times[1:]


# Placing


@quick
@given(ages, st.none() | usuals, st.floats(0.05, 30), st.floats(60, 1e5), st.booleans(), dice)
def test_pauses_are_bounded(
    age: float, usual: Usual | None, shortest: float, overdue_after: float, told: bool, roll: float
) -> None:
    found = poll_pause(age, usual, shortest=shortest, overdue_after=overdue_after, told=told, dice=roll)
    assert found >= shortest
    assert found <= max(shortest, overdue_after * 1.1, 275)
    if usual is None and age <= overdue_after:
        assert found <= max(shortest, PAUSE_SECONDS_MAX * 1.1)


@quick
@given(ages, ages, st.none() | st.just(USUAL))
def test_a_straggler_is_asked_about_ever_more_seldom(one: float, other: float, usual: Usual | None) -> None:
    assume(usual is None or min(one, other) > 16.0 * math.exp(0.3 * STRAGGLER))
    young, old = (pause(age, usual) for age in sorted((one, other)))
    assert young <= old * 1.001


def test_in_numbers() -> None:
    assert pause(0.0) == pytest.approx(9.9, abs=0.5), "none while an end is very unlikely"
    around = [pause(age) for age in (12.0, 16.0, 20.0)]
    assert around == pytest.approx([1.2, 1.0, 1.0], abs=0.1), "close around the likely time"
    later = [pause(age) for age in (30.0, 100.0, 500.0, 2000.0)]
    assert later == pytest.approx([2.1, 3.8, 8.5, 10.0], abs=0.3), "then seldom"
    assert [pause(age, None) for age in (0.0, 20.0, 100.0, 3600.0)] == [1.0, pytest.approx(3.0), 10.0, 10.0]
    assert pause(0.0, Usual(9e4, 0.3, 0.3), told=True) == 3600.0, "but that it is overdue is noticed"
    assert pause(0.0, Usual(9e4, 0.3, 0.3)) == 20.0, "and what was true an hour ago may not be true now"
    assert pause(3700.0) == pytest.approx(15.0), "overdue: ever more seldom"
    assert pause(1e7, roll=1.0) == pytest.approx(275.0)


@pytest.mark.parametrize(("sigma", "questions", "unnoticed"), [(0.1, 5.0, 0.04), (0.3, 8.0, 0.04), (0.5, 10.5, 0.05)])
def test_what_the_trade_comes_to(sigma: float, questions: float, unnoticed: float) -> None:
    """Lognormal times, learnt as they come: questions for each, and the share of the time that goes by unnoticed."""
    chance, paces = random.Random(4), Paces()
    asks, late, total = [], 0.0, 0.0
    for number in range(600):
        duration = 16.0 * math.exp(chance.gauss(0, sigma))
        times = asked(duration, paces.usual("x", MEGAPIXEL), chance)
        paces.learn("x", MEGAPIXEL, took([0.0, *times][-2], times[-1], None, told=False))
        if number >= 50:
            asks.append(len(times))
            late += times[-1] - duration
            total += duration
    assert sum(asks) / len(asks) <= questions
    assert late / total <= unnoticed


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5])
def test_while_the_service_tells_there_is_little_to_ask(sigma: float) -> None:
    chance = random.Random(4)
    usual = Usual(16.0, sigma, sigma)
    durations = [16.0 * math.exp(chance.gauss(0, sigma)) for _ in range(600)]
    needless = [len(asked(duration, usual, chance, told=True)) - 1 for duration in durations]
    assert sum(needless) / len(needless) < 0.5
    forgotten = [asked(duration, usual, chance, told=True)[-1] / duration for duration in durations]
    assert sum(forgotten) / len(forgotten) < 1.6, "what it forgets to tell is found all the same"


@pytest.mark.parametrize(("usually", "now"), [(120.0, 10.0), (300.0, 16.0), (1800.0, 16.0)])
def test_a_service_that_has_become_faster_is_noticed_at_once(usually: float, now: float) -> None:
    """The queue there is empty again: ten slots do not wait for as long as predictions took in the worst hour."""
    chance, paces, late = random.Random(4), Paces(), []
    for _ in range(SEEN_MAX):
        paces.learn("x", MEGAPIXEL, usually * math.exp(chance.gauss(0, 0.1)))
    for _ in range(SEEN_MAX):
        times = asked(now, paces.usual("x", MEGAPIXEL), chance)
        paces.learn("x", MEGAPIXEL, took([0.0, *times][-2], times[-1], None, told=False))
        late.append(times[-1] - now)
    assert max(late) < 30.0
    assert sum(late[-10:]) < 10 * now * 0.1


@quick
@given(ages, usuals, dice)
def test_however_wrong_what_was_learnt_is_a_question_comes_before_long(age: float, usual: Usual, roll: float) -> None:
    found = poll_pause(age, usual, shortest=1, overdue_after=1e9, told=False, dice=roll)
    assert found <= max(BLIND_SECONDS_MAX, age) * 1.1


def test_ten_that_started_together_are_asked_for_apart() -> None:
    for usual in (None, USUAL):
        for age in (10, 30, 300, 5000, 1e6):
            assert len({pause(age, usual, roll=roll / 10) for roll in range(10)}) == 10


@quick
@given(usuals, st.floats(1e-3, 1e5))
def test_a_hazard_is_a_chance_per_second(usual: Usual, age: float) -> None:
    assume(abs(math.log(age / usual.median)) < 35 * min(usual.sooner, usual.later))
    assert 0 <= usual.hazard(age) < math.inf
    if usual.is_straggler(age):
        assert usual.hazard(age) == 1 / age


# Learning


def test_nothing_is_known_at_first_and_one_is_a_hint() -> None:
    paces = Paces()
    assert paces.usual("x", MEGAPIXEL) is None
    paces.learn("x", MEGAPIXEL, 16.0)
    usual = paces.usual("x", MEGAPIXEL)
    assert usual is not None
    assert usual.median == 16.0
    assert usual.sooner > 0.3, "one is not enough to be sure"
    assert paces.usual("another recipe", MEGAPIXEL) is None


def test_many_that_are_alike_make_us_sure_and_new_ones_replace_the_old() -> None:
    paces = Paces()
    for _ in range(SEEN_MAX):
        paces.learn("x", MEGAPIXEL, 16.0)
    assert paces.usual("x", MEGAPIXEL) == Usual(16.0, SPREAD_MIN, SPREAD_MIN)
    for _ in range(SEEN_MAX):
        paces.learn("x", MEGAPIXEL, 4.0)
    assert paces.usual("x", MEGAPIXEL) == Usual(4.0, SPREAD_MIN, SPREAD_MIN)


def test_each_size_has_a_pace_of_its_own_and_helps_the_others_until_they_have() -> None:
    paces = Paces()
    for _ in range(ENOUGH):
        paces.learn("x", 2 * MEGAPIXEL, 30.0)
    small = paces.usual("x", 10_000)
    assert small is not None
    assert small.median == 30.0
    for _ in range(ENOUGH):
        paces.learn("x", 10_000, 3.0)
    medians = [usual.median for size in (10_000, 2 * MEGAPIXEL) if (usual := paces.usual("x", size))]
    assert medians == [3.0, 30.0]


@quick
@given(st.lists(st.tuples(st.sampled_from(["x", "api/y"]), st.integers(0, 10**9), st.floats(0, 1e6)), max_size=80))
def test_a_restart_keeps_it(learnt: list[tuple[str, int, float]]) -> None:
    paces, again = Paces(), Paces()
    kept = dict(paces.learn(kind, pixels, round(seconds, 3)) for kind, pixels, seconds in learnt)
    for name, value in kept.items():
        again.recall(name, value)
    for kind, pixels, _ in learnt:
        assert again.usual(kind, pixels) == paces.usual(kind, pixels)


@quick
@given(st.text(max_size=20), st.one_of(st.text(max_size=40), st.recursive(st.none() | st.floats(), st.lists).map(str)))
@example("x/3", "[1, null]")
@example("x/3", "[NaN, -1, 0, Infinity]")
@example("x/3", '{"a": 1}')
@example("x/3", "[true, 1e999, 16.0]")
@example("x", "[1]")
@example("x/3", "[1e308, 1e308, 1e308]")
@example("x/3", "[5e-324, 5e-324, 5e-324]")
def test_whatever_is_recalled_does_no_harm(name: str, value: str) -> None:
    paces = Paces()
    paces.recall(name, value)
    paces.learn("x", 3, 16.0)
    usual = paces.usual("x", 3)
    assert usual is not None
    for age in (0.0, 1.0, 100.0):
        assert pause(age, usual) >= 1.0


def test_what_is_kept_is_small() -> None:
    """Also when much more was kept by another version."""
    paces, again = Paces(), Paces()
    for number in range(500):
        name, value = paces.learn("x", MEGAPIXEL, 1000.0 + number / 7)
    assert len(json.loads(value)) == SEEN_MAX
    assert len(value) < 600
    again.recall(name, json.dumps([16.0] * 500))
    assert len(json.loads(again.learn("x", MEGAPIXEL, 16.0)[1])) == SEEN_MAX


def test_how_long_it_took() -> None:
    assert took(15.0, 16.0, None, told=False) == 15.5
    assert took(15.0, 16.0, 15.2, told=False) == 15.2
    assert took(15.0, 16.0, 9.0, told=False) == 15.5, "it waited in the service's queue, which counts as well"
    assert took(0.0, 16.0, 9.0, told=True) == 16.0
    assert took(0.0, 16.0, 0.0, told=False) == 8.0, "the service does not say"


# The timetable


@quick
@given(st.lists(st.floats(0, 50), min_size=1, max_size=60), st.floats(0.01, 2))
def test_no_two_questions_are_closer_than_the_spacing(wanted: list[float], spacing: float) -> None:
    table = Timetable(spacing)
    given_ = [table.reserve(at) for at in wanted]
    assert all(got >= at for got, at in zip(given_, wanted, strict=True)), "never sooner than wanted"
    ordered = sorted(given_)
    assert all(late - early >= spacing * (1 - 1e-9) for early, late in itertools.pairwise(ordered))
    for at in given_:
        table.free(at)
    assert table.reserve(wanted[0]) == wanted[0]


def test_a_place_that_is_given_back_is_free() -> None:
    table = Timetable(1.0)
    assert [table.reserve(5.0) for _ in range(3)] == [5.0, 6.0, 7.0]
    table.free(6.0)
    assert [table.reserve(5.0), table.reserve(5.0)] == [6.0, 8.0]
    assert table.reserve(3.5) == 3.5, "there is room before them"
