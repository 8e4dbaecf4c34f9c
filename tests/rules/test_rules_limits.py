"""When a submit may leave. Times are eighths of a second, so that sums are exact."""

import heapq
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import quick

from daemon.rules.limits import GROW_SECONDS, SHRINK_SECONDS, Place, SlidingMinute, Window

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


# The window: what it is told (r: a refusal, a: a create that went through), with how many in flight, at which second,
# and its size after that.
STORIES = {
    "one refusal halves": (10, [("r", 10, 0, 5)]),
    "it halves what is in flight, not what could be": (10, [("r", 4, 0, 2)]),
    "an odd number loses the larger half": (10, [("r", 7, 0, 3)]),
    "never below one": (10, [("r", 1, 0, 1), ("r", 1, 100, 1), ("r", 0, 200, 1)]),
    "one at most is one at most": (1, [("r", 1, 0, 1), ("a", 0, 5, 1)]),
    "refusals that come together are one": (10, [("r", 10, 0, 5), ("r", 9, 1, 5), ("r", 5, 9.9, 5)]),
    "as long as they come, they are one": (10, [("r", 10, 0, 5), ("r", 9, 9, 5), ("r", 9, 18, 5), ("r", 9, 27, 5)]),
    "a refusal after a while halves again": (10, [("r", 10, 0, 5), ("r", 5, 10, 2), ("r", 2, 20, 1)]),
    "it stays while it is not quiet for long": (10, [("r", 10, 0, 5), ("a", 4, 29.9, 5)]),
    "it grows by one, and again half a minute later": (
        10,
        [("r", 10, 0, 5), ("a", 4, 30, 6), ("a", 5, 31, 6), ("a", 5, 59.9, 6), ("a", 5, 60, 7)],
    ),
    "a long silence is no reason to grow by more": (10, [("r", 10, 0, 5), ("a", 4, 10_000, 6), ("a", 4, 10_001, 6)]),
    "a refusal while it grows": (
        10,
        [("r", 10, 0, 5), ("a", 4, 30, 6), ("r", 6, 45, 3), ("a", 2, 74, 3), ("a", 2, 75, 4)],
    ),
    "never above the most": (3, [("r", 3, 0, 1), ("a", 0, 30, 2), ("a", 1, 60, 3), ("a", 2, 90, 3), ("a", 2, 120, 3)]),
    "nothing was refused": (10, [("a", 1, 0, 10), ("a", 9, 1_000, 10)]),
    "grown back, the next refusal halves at once": (2, [("r", 2, 0, 1), ("a", 0, 30, 2), ("r", 2, 31, 1)]),
}


@pytest.mark.parametrize("story", STORIES)
def test_a_refusal_halves_and_quiet_grows(story: str) -> None:
    most, happenings = STORIES[story]
    window = Window(most)
    for what, in_flight, now, size in happenings:
        if what == "r":
            window.refused(in_flight, float(now))
        else:
            window.accepted(float(now))
        assert window.size == size, (what, now)


@pytest.mark.parametrize("most", [1, 2, 10])
def test_the_window_bounds_what_may_leave_once_something_was_refused(most: int) -> None:
    window = Window(most)
    assert all(window.allows(in_flight) for in_flight in range(100)), "until then the slots alone are the bound"
    window.refused(most, 0.0)
    allowed = [in_flight for in_flight in range(100) if window.allows(in_flight)]
    assert allowed == (list(range(100)) if most == 1 else list(range(most // 2)))


# Each time: how long it was since the last, whether it was refused, and how many were in flight.
gaps = st.one_of(st.integers(0, 8 * 45), st.sampled_from([0, 8 * 10, 8 * 30])).map(lambda eighths: eighths / 8)


@quick
@given(st.integers(1, 40), st.lists(st.tuples(gaps, st.booleans(), st.integers(0, 40)), max_size=60))
def test_the_window_stays_within_its_bounds(most: int, happenings: list[tuple[float, bool, int]]) -> None:
    """Between 1 and the most; it shrinks by refusals alone, and grows by one at a time, in quiet half minutes."""
    window = Window(most)
    now = quiet_since = 0.0
    shrunk_at = -1e9
    for gap, is_refused, in_flight in happenings:
        now += gap
        before = window.size
        if is_refused:
            window.refused(in_flight, now)
            assert window.size <= before
            if window.size < before:
                assert before == most or now - quiet_since >= SHRINK_SECONDS
                assert window.size == max(1, min(before, in_flight) // 2)
                shrunk_at = now
            quiet_since = now
        else:
            window.accepted(now)
            assert window.size in (before, before + 1)
            if window.size > before:
                assert now - quiet_since >= GROW_SECONDS
                assert now - shrunk_at >= GROW_SECONDS
                quiet_since = now
            else:
                assert before == most or now - quiet_since < GROW_SECONDS
        assert 1 <= window.size <= most
        assert window.allows(0), "never so narrow that nothing could leave, or it would never grow back"


@quick
@given(st.integers(1, 40), st.integers(1, 40))
def test_it_grows_back_one_by_one(most: int, in_flight: int) -> None:
    """One create a second, none of them refused: the whole way takes half a minute for each that was lost."""
    window = Window(most)
    window.refused(in_flight, 0.0)
    lost = most - window.size
    sizes = []
    for second in range(1, 30 * most + 60):
        window.accepted(float(second))
        sizes.append(window.size)
    assert sizes == sorted(sizes)
    assert [sizes.index(size) + 1 for size in range(most - lost + 1, most + 1)] == [30 * n for n in range(1, lost + 1)]
