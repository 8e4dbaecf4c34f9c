"""Every state, every event, every pair; and what a walk through the table may cost."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import EVENTS, NOW, a_tile, quick

from daemon.rules import lifecycle
from daemon.rules.lifecycle import IllegalTransition, State, advance, diagram

# The table once more, from the design and not from the code: state, then event>state.
TABLE = """
admitted   uploaded>uploaded skipped>fetched failed>failed withdrawn>failed held>held
uploaded   submitting>submitting stale>admitted failed>failed withdrawn>failed held>held
submitting submitted>submitted found>submitted refused>uploaded missed>submitting absent>admitted
submitting failed>failed held>held
submitted  ready>ready spoiled>admitted failed>failed forgotten>submitting
ready      fetched>fetched expired>submitted failed>failed held>held
fetched    done>done missing>ready
done       wanted>ready held>held
failed     retried>admitted
held       released>admitted
"""
ALLOWED: dict[tuple[str, str], str] = {
    (state, event): target
    for state, *arrows in map(str.split, TABLE.strip().splitlines())
    for event, target in (arrow.split(">") for arrow in arrows)
}
ORDER = ["admitted", "uploaded", "submitting", "submitted", "ready", "fetched", "done"]
README = Path(__file__).parents[2] / "README.md"


def reachable(start: str, without: Iterable[str] = ()) -> set[str]:
    found, todo = set(), [start]
    while todo:
        state = todo.pop()
        if state not in found:
            found.add(state)
            todo += [target for (of, event), target in ALLOWED.items() if of == state and event not in without]
    return found


def test_the_kit_has_one_event_of_each_kind() -> None:
    assert {type(event) for event in EVENTS.values()} == set(lifecycle.EVENTS)
    assert len(EVENTS) == len(lifecycle.EVENTS), "two events of one name would be one arrow in the diagram"
    assert {state for state, _ in ALLOWED} == set(State)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", list(State))
def test_every_pair(state: State, event: str) -> None:
    tile = a_tile(state, attempts=3, submits=1, absences=1, furthest=4, prediction="id-0", reason="before")
    before = dataclasses.asdict(tile)
    if (state, event) in ALLOWED:
        after = advance(tile, EVENTS[event], NOW + 5)
        assert after.state == ALLOWED[state, event]
        assert after.since == NOW + 5
    else:
        with pytest.raises(IllegalTransition, match=f"{event} .*{state}"):
            advance(tile, EVENTS[event], NOW + 5)
    assert dataclasses.asdict(tile) == before


@pytest.mark.parametrize(("state", "event"), ALLOWED)
def test_an_event_writes_its_own_columns(state: str, event: str) -> None:
    after = dataclasses.asdict(advance(a_tile(State(state)), EVENTS[event], NOW + 5))
    fields = dataclasses.asdict(EVENTS[event])
    counted = {"submits_granted", "by_person"}
    assert {name: after[name] for name in fields if name not in counted} == {
        name: value for name, value in fields.items() if name not in counted
    }


def test_every_state_is_reachable_and_can_still_end_well() -> None:
    assert reachable("admitted") == set(State)
    assert all("done" in reachable(state) for state in State)


def test_a_second_submit_needs_a_reason() -> None:
    """After an intent there is another only where nothing came of the first, or where a person wants it."""
    reasons = {"refused", "absent", "spoiled", "released", "retried"}
    assert "uploaded" not in reachable("submitting", without=reasons)
    for reason in reasons:
        assert "uploaded" in reachable("submitting", without=reasons - {reason}), f"{reason} is no way back"


def test_what_is_in_the_outbox_or_staging_is_never_given_up() -> None:
    assert not {("fetched", "failed"), ("fetched", "withdrawn"), ("done", "failed"), ("done", "withdrawn")} & set(
        ALLOWED
    )


walks = st.lists(st.tuples(st.integers(0, 27), st.booleans()), min_size=20, max_size=60)


@quick
@given(st.sampled_from(State), walks)
def test_counting_on_any_walk(start: State, walk: list[tuple[int, bool]]) -> None:
    """Submits bound money; attempts bound time, and are forgiven only on new ground or by a release or a retry."""
    tile = a_tile(start)
    submits = granted = furthest = absences = 0
    for choice, failed_once_more in walk:
        if failed_once_more:
            tile = dataclasses.replace(tile, attempts=tile.attempts + 1)
        possible = [event for state, event in ALLOWED if state == tile.state]
        event = possible[choice % len(possible)]
        attempts, uploads = tile.attempts, tile.uploads
        refused = event == "failed" and tile.state is State.SUBMITTING
        swept = event in ("failed", "withdrawn") and tile.state is State.ADMITTED
        before = tile.attempts
        tile = advance(tile, EVENTS[event], NOW)
        submits += {"submitting": 1, "refused": -1}.get(event, 0) - refused
        granted += {"released": 1}.get(event, 0)
        absences = 0 if event in ("submitting", "forgotten") else absences + (event == "missed")
        assert (tile.submits, tile.submits_granted, tile.absences) == (submits, granted, absences)
        # A key that may be swept is never used again.
        assert tile.uploads == uploads + (event == "uploaded") + swept
        ground = ORDER.index(tile.state) if tile.state in ORDER else 0
        if event in ("released", "retried"):
            furthest, attempts = 0, 0
        elif ground > furthest:
            furthest, attempts = ground, 0
        if event in ("stale", "expired", "missing", "spoiled"):
            attempts = before + 1  # A step back, so that a circle slows down.
        assert (tile.furthest, tile.attempts) == (furthest, attempts)


def test_a_new_intent_knows_nothing_of_the_last_one() -> None:
    tile = advance(a_tile(State.UPLOADED, prediction="id-0", absences=1), EVENTS["submitting"], NOW)
    assert (tile.prediction, tile.absences) == (None, 0)


@pytest.mark.parametrize("event", ["failed", "withdrawn"])
def test_what_failed_is_never_due(event: str) -> None:
    assert advance(a_tile(), EVENTS[event], NOW).due_at > NOW + 1000 * 365 * 86_400


def test_only_a_person_lets_a_tile_pass_the_budget() -> None:
    held = advance(a_tile(reason="x"), EVENTS["held"], NOW)
    assert (held.due_at, held.reason) == (NOW + 3600, "The budget is reached.")
    by_person = advance(held, EVENTS["released"], NOW)
    by_itself = advance(held, lifecycle.Released(submits_granted=0, by_person=False), NOW)
    assert (by_person.released, by_itself.released) == (True, False)
    assert (by_person.reason, by_person.remedy, by_person.due_at) == ("", "", NOW)
    failed = advance(by_person, EVENTS["failed"], NOW)
    assert not advance(failed, EVENTS["retried"], NOW).released, "a retry is not a release"


def test_the_diagram_is_the_table() -> None:
    first, *arrows = diagram().splitlines()
    assert first == "stateDiagram-v2"
    drawn = sorted(arrow.strip() for arrow in arrows)
    assert drawn == sorted(
        ["[*] --> admitted", "done --> [*]"]
        + [f"{state} --> {target}: {event}" for (state, event), target in ALLOWED.items()]
    )


def test_the_readme_shows_the_diagram() -> None:
    _, start, rest = README.read_text().partition("<!-- states -->")
    block, end, _ = rest.partition("<!-- /states -->")
    assert start, "README.md has no <!-- states -->"
    assert end, "README.md has no <!-- /states -->"
    assert block.strip() == f"```mermaid\n{diagram()}\n```"
