"""When a file is complete: properties of any series of looks. Times are eighths of a second: sums are exact."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import quick

from daemon.rules.job import Look
from daemon.rules.settling import Settling, Sign, again, begin, is_given_up, is_quiet, postponed, seen

PAUSE_MAX = 300.0
FILE = Look(10, 20, 30)
seconds = st.integers(1, 8 * 3600).map(lambda eighths: eighths / 8)
quiets = st.integers(1, 8 * 60).map(lambda eighths: eighths / 8)
looks = st.builds(Look, st.integers(1, 2), st.integers(0, 1), st.integers(0, 1))
steps = st.lists(st.tuples(seconds, looks, st.sampled_from(Sign)), max_size=25)


@quick
@given(steps, quiets, st.integers(0, 10**6))
def test_quiet_is_unchanged_for_long_enough(walk: list[tuple[float, Look, Sign]], quiet: float, start: int) -> None:
    """On any walk of looks and signs, from any start of the clock, counted along without the rules."""
    now = since = float(start)
    look, state = FILE, begin(FILE, now, quiet)
    needed = quiet
    for pause, new, sign in walk:
        now += pause
        state = seen(state, new, now, quiet)
        if new != look:
            look, since, needed = new, now, quiet
            assert state == begin(new, now, quiet), "whatever changed starts again, with nothing left of before"
        assert state.since == since
        assert is_quiet(state, now) == (now - since >= needed)
        assert not is_quiet(state, since + quiet - 1 / 8)
        if is_quiet(state, now):
            passed = now - since
            state = postponed(state, sign, "Not yet.", now)
            needed = max(quiet * 3, passed) if sign is Sign.SOFT else passed + min(passed, PAUSE_MAX)
            assert (state.due, state.since, state.reason) == (since + needed, since, "Not yet.")


@pytest.mark.parametrize("change", [Look(11, 20, 30), Look(10, 21, 30), Look(10, 20, 31), Look(9, 20, 30)])
def test_every_part_of_the_stat_counts(change: Look) -> None:
    state = begin(FILE, 0, 2)
    assert seen(state, Look(10, 20, 30), 1, 2) is state
    assert seen(state, change, 1, 2) == begin(change, 1, 2)


@pytest.mark.parametrize("sign", [Sign.HARD, Sign.BUSY])
@given(quiet=quiets)
@quick
def test_what_is_not_ready_is_looked_at_ever_more_seldom(sign: Sign, quiet: float) -> None:
    state, now, last = begin(FILE, 0, quiet), quiet, 0.0
    for _ in range(20):
        assert is_quiet(state, now)
        state = postponed(state, sign, "It does not decode.", now)
        pause = state.due - now
        assert last <= pause <= PAUSE_MAX
        assert pause == min(now, PAUSE_MAX), "the time doubles until the pause has its limit"
        assert not is_quiet(state, state.due - 1 / 8)
        now, last = state.due, pause
    assert last == PAUSE_MAX
    assert not state.softened


@quick
@given(quiets)
def test_a_soft_sign_triples_the_quiet_time_once(quiet: float) -> None:
    state = postponed(begin(FILE, 0, quiet), Sign.SOFT, "It has no end marker.", quiet)
    assert (state.due, state.softened) == (quiet * 3, True)
    assert not is_quiet(state, quiet * 3 - 1 / 8)
    assert is_quiet(state, quiet * 3)
    assert not seen(state, Look(11, 20, 30), quiet * 2, quiet).softened, "a changed file may show a soft sign anew"


@pytest.mark.parametrize("sign", [Sign.HARD, Sign.BUSY])
def test_a_soft_sign_after_a_long_wait_needs_no_longer_one(sign: Sign) -> None:
    state, now = begin(FILE, 0, 2), 2.0
    for _ in range(10):
        state = postponed(state, sign, "It is locked.", now)
        now = state.due
    state = postponed(state, Sign.SOFT, "It has no end marker.", now)
    assert state.due == now
    assert is_quiet(state, now)


@quick
@given(quiets, st.integers(0, 10**6))
def test_giving_up_takes_its_time_and_a_change_undoes_it(quiet: float, start: int) -> None:
    state, now = begin(FILE, start, quiet), start + quiet
    while not is_given_up(state, now, 1800):
        assert now < start + 1800
        state = postponed(state, Sign.HARD, "It does not decode.", now)
        now = state.due
    assert start + 1800 <= now <= start + 1800 + PAUSE_MAX
    changed = seen(state, Look(11, 20, 30), now, quiet)
    assert not is_given_up(changed, now + 1799, 1800)
    assert not is_quiet(changed, now + quiet - 1 / 8)
    assert changed.reason == ""


@quick
@given(quiets, st.lists(seconds, max_size=20))
def test_an_empty_file_is_never_quiet_and_is_not_forgotten(quiet: float, pauses: list[float]) -> None:
    empty, now, last = begin(Look(0, 20, 30), 0, quiet), 0.0, 0.0
    for _ in range(12):
        now = empty.due
        assert not is_quiet(empty, now)
        empty = again(empty, now)
        assert last <= empty.due - now <= PAUSE_MAX
        last = empty.due - now
    for pause in pauses:
        now += pause
        assert not is_quiet(empty, now)
        empty = seen(empty, Look(0, 20, 30), now, quiet)
    assert empty.reason
    filled: Settling = seen(empty, FILE, now, quiet)
    assert filled == begin(FILE, now, quiet)
    assert is_quiet(filled, now + quiet)


def test_what_never_decodes_is_given_up_on_time() -> None:
    """The pauses grow, and still one look comes at the very moment when it may be given up."""
    state = begin(FILE, 0.0, 2.0)
    now = state.due
    while not is_given_up(state, now, 1_800.0):
        state = postponed(state, Sign.HARD, "It does not decode.", now, 1_800.0)
        now = state.due
    assert now == 1_800.0
