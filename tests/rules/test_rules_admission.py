"""What a settled file means, given what the ledger knows."""

import pytest
from rules_kit import a_job, a_picture

from daemon.rules.admission import Decision, Enough, decide, is_large_enough, parts, rank, refusal
from daemon.rules.faults import Blame, NotAPicture
from daemon.rules.job import Content, Look, Phase
from daemon.rules.lifecycle import State
from daemon.rules.tiles import Rect, cut

NEW, JOIN, RETRY, SAME = Decision.NEW, Decision.JOIN, Decision.RETRY, Decision.SAME
JOB = a_job().id
FILES = {
    b"a.jpg": Look(3, 20, 1),
    b"B.jpg": Look(1, 30, 2),
    b"c.jpg": Look(2, 10, 3),
}


@pytest.mark.parametrize("source_stays", [True, False])
@pytest.mark.parametrize("phase", [None, *Phase])
def test_content_that_no_job_has_is_a_new_job(phase: Phase | None, source_stays: bool) -> None:
    known = a_picture(phase=phase, job="another") if phase else None
    assert decide(known, JOB, None, source_stays) is NEW


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("phase", [None, *Phase])
@pytest.mark.parametrize("job", [JOB, "another"])
def test_content_that_a_job_has_is_never_a_new_job(state: State, phase: Phase | None, job: str) -> None:
    """Paid for once: whatever the picture was before, it joins; only a failed job is tried again."""
    known = a_picture(phase=phase, job=job) if phase else None
    delivered = phase is Phase.DELIVERED and job == JOB
    expected = RETRY if state is State.FAILED else SAME if delivered else JOIN
    assert decide(known, JOB, state, source_stays=True) is expected
    assert decide(known, JOB, state, source_stays=False) is (RETRY if state is State.FAILED else JOIN)


def test_a_picture_as_large_as_the_model_takes_is_sent() -> None:
    def content(width: int, height: int) -> Content:
        return Content("ab" * 32, 1, width, height, "PNG")

    assert refusal(content(1448, 1448), 2_096_704) is None
    assert refusal(content(1, 2_096_704), 2_096_704) is None
    fault = refusal(content(2_096_705, 1), 2_096_704)
    assert fault is not None
    assert (fault.blame, "2096705 x 1" in fault.said, bool(fault.remedy)) == (Blame.PICTURE, True, True)


def test_a_larger_one_is_cut_where_that_is_wanted_and_helps() -> None:
    large, thin = Content("ab" * 32, 1, 100, 80, "PNG"), Content("ab" * 32, 1, 100, 1, "PNG")

    def sent(content: Content, oversize: str, pixels_max: int = 5000) -> object:
        return parts(content, 2.0, pixels_max, oversize=oversize, overlap=8)

    whole = (Rect(0, 0, 100, 80),)
    assert [sent(large, oversize, 8000) for oversize in ("tile", "fail")] == [whole, whole]
    assert sent(large, "tile") == cut(100, 80, 5000, 8, 2.0)
    assert isinstance(sent(large, "fail"), NotAPicture)
    assert isinstance(sent(thin, "tile", 10), NotAPicture), "less than the overlap would be left"
    assert isinstance(sent(Content("ab" * 32, 1, 60_000, 60_000, "PNG"), "tile"), NotAPicture), "a bomb"


@pytest.mark.parametrize(
    ("skip_above", "width", "height", "enough"),
    [
        (None, 9000, 9000, False),
        (Enough(4000, 3000), 4000, 3000, True),
        (Enough(4000, 3000), 3000, 4000, True),
        (Enough(4000, 3000), 3999, 3000, False),
        (Enough(4000, 3000), 9000, 2999, False),
        (Enough(pixels=12_000_000), 4000, 3000, True),
        (Enough(pixels=12_000_000), 12_000_000, 1, True),
        (Enough(pixels=12_000_000), 4000, 2999, False),
    ],
)
def test_what_is_large_enough(skip_above: Enough | None, width: int, height: int, enough: bool) -> None:
    assert is_large_enough(Content("0", 1, width, height, "PNG"), skip_above) is enough


def test_what_does_not_decode_is_never_large_enough() -> None:
    assert not is_large_enough(Content("0", 1, 0, 0, ""), Enough())


@pytest.mark.parametrize(
    ("order", "expected"),
    [("oldest", b"c a B"), ("newest", b"B a c"), ("smallest", b"B c a"), ("name", b"a B c")],
)
def test_orders(order: str, expected: bytes) -> None:
    ranks = {path: rank(order, path, look) for path, look in FILES.items()}
    assert [path[:1] for path in sorted(FILES, key=lambda path: ranks[path])] == expected.split()
