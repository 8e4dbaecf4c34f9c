"""What a fault means, for each kind of fault in each state where a stage acts; and what a doubt about money may do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import EVENTS, NOW, a_tile, quick

from daemon.rules.faults import Blame, Changed, Created, Expired, Fault, Gate, NotAPicture, Outlook, Unknown
from daemon.rules.lifecycle import NEVER, Failed, Held, State, advance
from daemon.rules.reactions import LINKS_MAX, WRONG_RESULTS_MAX, doubt, gate_seconds, pause, react, submits_left

SERVICE, HOUSE, PICTURE = Blame.SERVICE, Blame.HOUSE, Blame.PICTURE
FAULTS = {
    "passing": Fault("It answers with 503.", blame=SERVICE, gate=Gate.API),
    "lasting": Fault("The key was refused.", blame=SERVICE, outlook=Outlook.LASTING, gate=Gate.API),
    "storage": Fault("The bucket is away.", blame=SERVICE, gate=Gate.STORAGE),
    "ungated": Fault("It was cut.", blame=SERVICE),
    "house": Fault("The disk is full.", blame=HOUSE, gate=Gate.STAGING),
    "maybe": Fault("It was cut.", blame=SERVICE, gate=Gate.API, created=Created.MAYBE),
    "picture": Fault("The model refuses it.", blame=PICTURE, outlook=Outlook.LASTING, remedy="Another one."),
    "wrong": NotAPicture("It is truncated."),
    "changed": Changed("It changed."),
    "unknown": Unknown("No such id."),
    "expired": Expired("The link is gone."),
}
# The event that is recorded, or - where the tile stays and waits.
TABLE = """
state      passing lasting storage ungated house   maybe picture wrong  changed unknown expired
admitted   -       -       -       -       -       -     failed  failed failed  -       -
uploaded   -       -       -       -       -       -     failed  failed failed  -       -
submitting refused refused refused refused refused -     failed  failed failed  refused refused
submitted  -       -       -       -       -       -     failed  failed failed  -       -
ready      -       -       -       -       -       -     -       -      -       -       expired
"""
(_, *KINDS), *ROWS = (line.split() for line in TABLE.strip().splitlines())
EXPECTED = {(state, kind): event for state, *row in ROWS for kind, event in zip(KINDS, row, strict=True)}
faults = st.builds(
    lambda blame, outlook, gate, wait: Fault("x", blame=blame, outlook=outlook, gate=gate, retry_after=wait),
    st.sampled_from([SERVICE, HOUSE]),
    st.sampled_from(Outlook),
    st.sampled_from([None, *Gate]),
    st.sampled_from([None, 0.0, 90.0]),
)
dice = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("state", "kind"), EXPECTED)
def test_every_fault_in_every_state(state: str, kind: str) -> None:
    tile, fault, expected = a_tile(State(state), submits=1), FAULTS[kind], EXPECTED[state, kind]
    reaction = react(tile, fault, NOW + 5, 0.5)
    assert (reaction.event.name if reaction.event else "-") == expected
    assert reaction.gate == (None if expected == "failed" else fault.gate)
    if reaction.event is not None:
        advance(tile, reaction.event, NOW + 5)
    elif state != "submitting":
        assert reaction.wait > 0, "the same again at once is a busy loop"
    if isinstance(reaction.event, Failed):
        assert (reaction.event.reason, reaction.event.remedy) == (fault.said, fault.remedy)
        assert reaction.event.blame == "picture"


def test_every_kind_of_fault_is_in_the_table() -> None:
    assert set(KINDS) == set(FAULTS)


@quick
@given(
    st.sampled_from([State.READY, State.SUBMITTED, State.ADMITTED, State.UPLOADED]), faults, st.integers(0, 10**6), dice
)
def test_what_is_nobodys_fault_fails_nobody(state: State, fault: Fault, attempts: int, roll: float) -> None:
    """However often it happens, and above all where the picture is paid for."""
    tile = a_tile(state, attempts=attempts)
    assert react(tile, fault, NOW + attempts, roll).event is None


@quick
@given(st.sampled_from(Blame), st.sampled_from(Outlook), st.sampled_from([None, *Gate]), st.integers(0, 99))
def test_an_ambiguous_create_decides_nothing(blame: Blame, outlook: Outlook, gate: Gate | None, attempts: int) -> None:
    """Not refused, not absent, not failed: it is looked up."""
    fault = Fault("x", blame=blame, outlook=outlook, gate=gate, created=Created.MAYBE)
    reaction = react(a_tile(State.SUBMITTING, attempts=attempts), fault, NOW, 0.5)
    assert (reaction.event, reaction.gate) == (None, gate)


def test_only_a_wrong_result_that_stays_wrong_is_given_up() -> None:
    fates = [react(a_tile(State.READY, wrongs=n), FAULTS["wrong"], NOW, 0.5) for n in range(WRONG_RESULTS_MAX)]
    events = [fate.event.name if fate.event else "-" for fate in fates[:-1]]
    assert events == (["-", "expired"] * WRONG_RESULTS_MAX)[: len(events)], "another link may lead to the right one"
    assert all(fate.wrong for fate in fates[:-1])
    assert sum(fate.wait for fate in fates) > 2 * 3600, "a host that has a bad hour costs no paid result"
    assert isinstance(fates[-1].event, Failed)
    assert react(a_tile(State.READY, attempts=99), FAULTS["wrong"], NOW, 0.5).event is None, "other faults do not count"


def test_links_that_lead_nowhere_for_an_hour_are_a_persons_affair() -> None:
    """It is paid for, so it is not given up; but nobody would ever learn of it."""
    tiles = [a_tile(State.READY, attempts=n) for n in range(LINKS_MAX + 1)]
    fates = [react(tile, FAULTS["expired"], NOW, 0.5) for tile in tiles]
    assert {fate.event.name for fate in fates[:-1] if fate.event} == {"expired"}
    assert sum(fate.wait for fate in fates) > 3600
    assert isinstance(fates[-1].event, Held)
    assert fates[-1].event.due_at == NEVER


def test_a_fresh_id_may_be_unknown_for_a_minute() -> None:
    tile = a_tile(State.SUBMITTED)
    assert react(tile, FAULTS["unknown"], NOW + 60, 0.5).event is None
    assert react(tile, FAULTS["unknown"], NOW + 61, 0.5).event == EVENTS["forgotten"]


# Pauses


@quick
@given(st.integers(0, 10**6), st.floats(0.1, 100), st.floats(100, 1000), dice)
def test_pauses_grow_within_bounds(tries: int, first: float, longest: float, roll: float) -> None:
    now = pause(tries, first, longest, roll)
    assert 0.8 * first <= now <= 1.2 * longest
    assert now <= pause(tries + 1, first, longest, roll)
    assert pause(tries, first, longest, 0) <= now <= pause(tries, first, longest, 0) * 1.5 + 1e-9


def test_pauses_in_numbers() -> None:
    assert [pause(tries, 2, 600, 0.5) for tries in (0, 1, 2, 9, 99)] == [2, 4, 8, 600, 600]
    assert [pause(0, 10, 600, roll) for roll in (0, 1)] == pytest.approx([8, 12])
    waits = [react(a_tile(attempts=n), FAULTS["ungated"], NOW, 0.5).wait for n in (0, 1, 2, 50)]
    assert waits == [2, 4, 8, 600]


def test_a_gate_stays_closed_for_as_long_as_asked_and_longer_each_time() -> None:
    asked = Fault("x", blame=SERVICE, retry_after=90)
    assert [gate_seconds("api", asked, closings, 0) for closings in (0, 5)] == [90, 90]
    assert 90 < gate_seconds("api", asked, 0, 0.9) < 100, "never before; not all at once"
    passing = [gate_seconds("api", FAULTS["passing"], closings, 0.5) for closings in range(12)]
    lasting = [gate_seconds("api", FAULTS["lasting"], closings, 0.5) for closings in range(12)]
    assert passing[:3] == [5, 10, 20]
    assert lasting[:3] == [60, 120, 240], "a refused key is not shown often"
    assert passing[-1] == lasting[-1] == 600
    limited = Fault("Slow down.", blame=SERVICE, gate=Gate.API, rate_limited=True)
    assert [gate_seconds("api", limited, closings, 0.5) for closings in (0, 1, 9)] == [30, 60, 600], "silence clears it"
    assert gate_seconds("poll", limited, 9, 0.5) == 600, "and nothing less does"
    limited.retry_after = 7
    assert gate_seconds("api", limited, 3, 0) == 7, "unless it says how much"
    assert gate_seconds("poll", FAULTS["passing"], 9, 0.5) == 60, "what is asked about is paid for"


# A submit in doubt


@quick
@given(
    st.lists(st.tuples(st.floats(0.1, 900), st.booleans()), min_size=1, max_size=40),
    st.floats(1, 600),
    st.sampled_from(["submitting", "forgotten"]),
)
def test_only_two_looks_after_the_grace_prove_absence(
    looks: list[tuple[float, bool]], create_seconds_max: float, doubted_by: str
) -> None:
    """Whatever the history answers and whenever it is asked, after a create and after an id that was forgotten."""
    tile = a_tile(State.SUBMITTING, intent_at=NOW, submits=1, absences=0)
    if doubted_by == "forgotten":
        tile = advance(a_tile(State.SUBMITTED, intent_at=NOW, submits=1, absences=1), EVENTS["forgotten"], NOW)
    now, proofs = NOW, 0
    for seconds, readable in looks:
        now += seconds
        late = now - NOW >= create_seconds_max * 1.5
        proofs += readable and late
        reaction = doubt(tile, readable, now - NOW, create_seconds_max)
        name = reaction.event.name if reaction.event else "-"
        expected = "-"
        if readable and late:
            expected = "missed" if proofs == 1 else "absent"
        elif not readable and now - NOW > 3600:
            expected = "held"
        assert name == expected
        assert reaction.gate is None
        if name in ("absent", "held"):
            return
        assert reaction.wait >= 1, "the history is not asked in a busy loop"
        if name == "missed":
            assert reaction.wait >= 20, "two looks at one moment are one"
            assert reaction.event is not None
            tile = advance(tile, reaction.event, now)


@pytest.mark.parametrize(("readable", "end", "seconds_max"), [(True, "absent", 90 + 20 + 20), (False, "held", 3660)])
def test_a_doubt_has_an_end(readable: bool, end: str, seconds_max: float) -> None:
    tile, now = a_tile(State.SUBMITTING, intent_at=NOW, submits=1), NOW
    for _ in range(1000):
        reaction = doubt(tile, readable, now - NOW, 60)
        if reaction.event is not None:
            tile = advance(tile, reaction.event, now)
        if tile.state is not State.SUBMITTING:
            break
        now += reaction.wait
    assert reaction.event is not None
    assert reaction.event.name == end
    assert now - NOW <= seconds_max
    assert tile.submits == 1, "it may have been paid for, so it stays counted"


def test_what_is_held_in_doubt_waits_for_a_person() -> None:
    tile = a_tile(State.SUBMITTING, intent_at=NOW)
    event = doubt(tile, False, 3601, 60).event
    assert event is not None
    assert advance(tile, event, NOW).due_at > NOW + 1000 * 365 * 86_400


def test_submits_left() -> None:
    assert submits_left(a_tile(submits=0), 2) == 2
    assert submits_left(a_tile(submits=2), 2) == 0
    assert submits_left(a_tile(submits=2, submits_granted=1), 2) == 1
    assert submits_left(a_tile(submits=3), 2) < 0, "a smaller limit after a restart"
