"""The words: what a job with several tiles is, taken together."""

import pytest
from rules_kit import a_tile

from daemon.rules.job import Bill, Whole
from daemon.rules.lifecycle import State
from daemon.rules.tiles import Rect

S = State
RECTS = (Rect(0, 0, 18, 20), Rect(12, 0, 18, 20), Rect(0, 0, 30, 20))


def whole(*states: State) -> Whole:
    """The later a tile stands here, the earlier it came to its state."""
    return Whole(
        tuple(a_tile(state, number=n, rect=RECTS[n], since=100.0 - n, reason=str(n)) for n, state in enumerate(states))
    )


@pytest.mark.parametrize(
    ("states", "number"),
    [
        ((S.FETCHED, S.READY), 1),
        ((S.ADMITTED, S.DONE), 0),
        ((S.SUBMITTED, S.UPLOADED, S.FETCHED), 1),
        ((S.ADMITTED, S.HELD), 1),
        ((S.HELD, S.FAILED, S.ADMITTED), 1),
        ((S.FAILED, S.READY, S.FAILED), 2),
        ((S.HELD, S.HELD), 1),
    ],
)
def test_where_a_job_stands(states: tuple[State, ...], number: int) -> None:
    """What stopped first is why the others did; else it is as far as the slowest."""
    assert whole(*states).standing.number == number
    assert whole(*states).state is states[number]


def test_one_that_is_all_of_its_picture_is_whole() -> None:
    assert [a_tile(rect=rect).is_whole for rect in RECTS] == [False, False, True]
    assert [sorted(a_tile(rect=rect, number=1).about) for rect in RECTS[1:]] == [
        ["job", "picture", "tile"],
        ["job", "picture"],
    ]


def test_the_size_of_a_result() -> None:
    """The service's own where it came in one: engines round differently."""
    one = a_tile(S.FETCHED, result_width=121, result_height=80)
    assert Whole((one,)).result_size == (121, 80)
    assert whole(S.FETCHED, S.FETCHED).result_size == (120, 80)


def test_bills_add_up() -> None:
    assert Bill.summed([]) == Bill(0.0, None)
    assert Bill.summed([Bill(0.5, None), Bill(0.25, 3.0), Bill(0.25, 4.0)]) == Bill(1.0, 7.0)
