"""When to submit and when to ask. Times are eighths of a second, so that sums are exact."""

import heapq
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import quick

from daemon.rules.pacing import Place, SlidingMinute, poll_pause

latencies = st.integers(0, 8 * 90).map(lambda eighths: eighths / 8)
pauses = st.one_of(st.just(0.0), st.integers(0, 8 * 100).map(lambda eighths: eighths / 8))
# Of each submit: how long the dispatcher is idle before it, how long its answer takes, whether anything left at all.
plans = st.lists(st.tuples(pauses, latencies, st.sampled_from([True, True, True, False])), min_size=1, max_size=60)


def run(minute: SlidingMinute, plan: list[tuple[float, float, bool]]) -> list[tuple[float, float]]:
    """Submit as the shell does, each as soon as it may; returns when each that left did so, and when it was over."""
    now = 0.0
    flying: list[tuple[float, int, AbstractContextManager[Place], Place, bool]] = []
    sent: list[tuple[float, float]] = []
    for count, (idle, latency, leaves) in enumerate(plan):
        now += idle
        while True:
            while flying and flying[0][0] <= now:
                answered, _, context, place, left = heapq.heappop(flying)
                place.answered_at = answered if left else None
                context.__exit__(None, None, None)
            wait = minute.wait_seconds(now)
            if wait == 0.0:
                break
            assert wait is None or wait > 0
            answers = [flying[0][0]] if flying else []
            assert answers or wait is not None, "it waits for an answer when nothing is under way"
            now = min(answers + ([] if wait is None else [now + wait]))
        context = minute.place()
        heapq.heappush(flying, (now + latency, count, context, context.__enter__(), leaves))
        if leaves:
            sent.append((now, now + latency))
    return sent


@quick
@given(st.integers(1, 5), plans, st.lists(st.integers(-8 * 120, 0).map(lambda eighths: eighths / 8), max_size=8))
def test_never_more_in_a_minute_than_the_service_takes(
    most: int, plan: list[tuple[float, float, bool]], remembered: list[float]
) -> None:
    """However the network delays them: each arrives some time between leaving and its answer, at the worst moment."""
    minute = SlidingMinute(most)
    minute.remember(remembered)
    sent = run(minute, plan)
    for now, _ in sent:
        # This one arrives as soon as it leaves, every earlier one only with its answer.
        earlier = [answered for left, answered in sent if left <= now] + remembered
        assert sum(answered > now - 60 for answered in earlier) <= most


@quick
@given(st.data(), st.integers(1, 5), plans)
def test_any_arrivals_keep_the_limit(data: st.DataObject, most: int, plan: list[tuple[float, float, bool]]) -> None:
    sent = run(SlidingMinute(most), plan)
    arrivals = sorted(data.draw(st.floats(left, answered)) for left, answered in sent)
    assert all(later - earlier >= 60 for earlier, later in zip(arrivals, arrivals[most:], strict=False))


@quick
@given(st.integers(1, 8))
def test_the_whole_minute_is_used(most: int) -> None:
    """With answers at once: as many as allowed leave together, and as many again exactly a minute later."""
    sent = run(SlidingMinute(most), [(0.0, 0.0, True)] * (3 * most))
    assert [left for left, _ in sent] == [0.0] * most + [60.0] * most + [120.0] * most


def test_what_never_left_takes_no_place() -> None:
    minute = SlidingMinute(1)
    with minute.place():
        assert (minute.reserved, minute.wait_seconds(5.0)) == (1, None)
    assert (minute.reserved, minute.wait_seconds(5.0)) == (0, 0.0)


def test_a_place_whose_submit_failed_after_it_left_is_taken() -> None:
    minute = SlidingMinute(1)

    def submit() -> None:
        with minute.place() as place:
            place.answered_at = 5.0
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        submit()
    assert (minute.reserved, minute.wait_seconds(5.0), minute.wait_seconds(65.0)) == (0, 60.0, 0.0)


def test_a_restart_remembers() -> None:
    minute = SlidingMinute(2)
    minute.remember([-5.0, -50.0, -61.0])  # In no order, and one of them too old to count.
    assert minute.wait_seconds(0.0) == 10.0
    assert minute.wait_seconds(10.0) == 0.0
    minute = SlidingMinute(2)
    minute.remember([-5.0, -50.0, -40.0])
    assert minute.wait_seconds(0.0) == pytest.approx(10.0)
    assert minute.wait_seconds(10.0) == pytest.approx(10.0), "two of the three still count"
    assert minute.wait_seconds(20.0) == 0.0


ages = st.floats(0, 1e7)
dice = st.floats(0, 1, exclude_max=True)


@quick
@given(ages, st.floats(0.1, 30), st.floats(60, 1e5), dice)
def test_poll_pauses_are_bounded(age: float, shortest: float, overdue_after: float, roll: float) -> None:
    pause = poll_pause(age, shortest=shortest, overdue_after=overdue_after, dice=roll)
    assert shortest <= pause <= 300
    if age <= overdue_after:
        assert pause <= max(shortest, 10) * 1.2
    steady = poll_pause(age, shortest=shortest, overdue_after=overdue_after, dice=0)
    assert steady <= pause <= steady * 1.2


@quick
@given(ages, ages, dice)
def test_an_older_prediction_is_not_asked_for_more_often(one: float, other: float, roll: float) -> None:
    young, old = (poll_pause(age, shortest=1, overdue_after=3600, dice=roll) for age in sorted((one, other)))
    assert young <= old


def test_ten_that_started_together_are_asked_for_apart() -> None:
    for age in (0, 5, 30, 300, 5000, 1e6):
        pauses = {poll_pause(age, shortest=1, overdue_after=3600, dice=roll / 10) for roll in range(10)}
        assert len(pauses) == 10


def test_polling_in_numbers() -> None:
    def pause(age: float) -> float:
        return poll_pause(age, shortest=1, overdue_after=3600, dice=0)

    assert [pause(age) for age in (0, 20, 100, 3600)] == [1, 3, 10, 10]
    assert pause(3700) == pytest.approx(15), "overdue: ever more seldom"
    assert poll_pause(1e7, shortest=1, overdue_after=3600, dice=1) == 300
