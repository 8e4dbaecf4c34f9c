"""The benchmark's short form, so that it cannot rot: what is right is asserted here, and no time that anything took."""

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from bench import run, schedule
from bench.aims import is_met, ratio
from bench.chart import svg
from bench.figure import Figure
from bench.service import Limits, Service, parse


@pytest.mark.parametrize("name", ["occupancy", "minute", "network"])
def test_the_short_form_works(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All pictures done, nothing refused, and a table, JSON and a drawing of it. The others are in `test_costs`."""
    assert run.main(["--short", "--only", name, "--out", str(tmp_path)]) == 0, capsys.readouterr()
    figures = json.loads((tmp_path / "bench.json").read_text())["figures"]
    assert figures
    table = capsys.readouterr().out
    for figure in figures:
        assert math.isfinite(figure["value"])
        assert figure["met"] is not False
        assert f"\n{figure['name']}  " in table
    drawn = ElementTree.parse(tmp_path / "bench.svg").getroot()
    aimed = sum(ratio(figure["value"], figure["aim"]) is not None for figure in figures)
    assert len(drawn.findall("{*}rect")) == 1 + aimed
    refused = [figure["value"] for figure in figures if figure["name"].endswith(", refused")]
    assert set(refused) <= {0}


def test_a_measurement_that_breaks_is_no_success(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figures: list[Figure] = []
    assert run.collect(lambda short, work: 1 / 0, True, tmp_path, figures) is False
    assert run.collect(lambda short, work: [figure(">= 1", 0.9)], True, tmp_path, figures) is True
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert figures == [figure(">= 1", 0.9)]


def figure(aim: str, value: float) -> Figure:
    return Figure("f", value, "u", "a", aim, None)


@pytest.mark.parametrize(
    ("value", "aim", "expected"),
    [
        (0.9, ">= 0.9", 1.0),
        (1.8, "at least 0.9 of it", 2.0),
        (4, "<= 8 GETs", 2.0),
        (16, "at most 8", 0.5),
        (1, "<= 0", 0.0),
        (1, "as little as can be", None),
    ],
)
def test_how_a_figure_stands_to_its_aim(value: float, aim: str, expected: float | None) -> None:
    assert ratio(value, aim) == expected
    assert expected is None or is_met(value, aim) == (expected >= 1)


def test_none_of_what_there_should_be_none_of_is_right() -> None:
    assert is_met(0, "<= 0")
    ElementTree.fromstring(svg("<&>", [figure("<= 0", 0)]))


# What the service grants


def test_a_slot_is_taken_until_the_very_end() -> None:
    limits = Limits(2, 100, 60.0)
    limits.count(0.0, 10.0)
    limits.count(1.0, 9.0)
    assert "2 predictions" in limits.refusal(8.999)
    assert limits.refusal(9.0) == ""


def test_no_window_of_a_minute_has_one_too_many() -> None:
    limits = Limits(10, 3, 60.0)
    for now in (0.0, 20.0, 59.0):
        assert limits.refusal(now) == ""
        limits.count(now, now)
    assert "3 predictions" in limits.refusal(59.999)
    assert limits.refusal(60.0) == ""
    limits.count(60.0, 60.0)
    assert limits.refusal(79.0)
    assert limits.refusal(80.0) == ""


def test_the_nth_prediction_takes_as_long_for_everybody() -> None:
    options = ["--predict-seconds", "16", "--predict-sigma", "0.3"]
    first, same, other = (Service(parse([*options, "--seed", seed])) for seed in ("1", "1", "2"))
    times = [first.predict_seconds(n) for n in range(1000)]
    assert [same.predict_seconds(n) for n in reversed(range(1000))] == times[::-1]
    assert other.predict_seconds(0) != times[0]
    assert sorted(times)[500] == pytest.approx(16, rel=0.05)


# What a report says


def report(*predictions: tuple[float, float], gets: tuple[tuple[int, float, str], ...] = ()) -> dict[str, Any]:
    return {
        "predictions": [{"id": str(n), "begin": begin, "end": end} for n, (begin, end) in enumerate(predictions)],
        "gets": [{"id": str(n), "at": at, "status": status} for n, at, status in gets],
    }


def test_slots_that_are_always_full_are_all_occupied() -> None:
    full = report((0, 4), (0, 2), (2, 4), (4, 9), (4, 5), (5, 6))
    assert schedule.occupancy(full, 2) == 1.0
    assert schedule.refill_gaps(full, 2) == [0, 0, 0, 0]
    assert schedule.perfect_span(full, 2) == schedule.span(full) == 9
    assert schedule.strips(full, 2) == [[(0, 2), (2, 4), (4, 5), (5, 6)], [(0, 4), (4, 9)]]


def test_a_slot_that_waits_is_seen() -> None:
    late = report((0, 4), (0, 4), (5, 9), (6, 10), gets=((0, 2, "processing"), (0, 4.5, "success"), (0, 5, "success")))
    assert schedule.refill_gaps(late, 2) == [1, 2]
    assert schedule.occupancy(late, 2) == (4 + 4 + 1) / 12
    assert schedule.perfect_span(late, 2) == 8
    assert schedule.unnoticed(late) == [0.5]
    assert schedule.polls(late) == 3 / 4


def test_the_fullest_window_is_found() -> None:
    assert schedule.most_within([0, 1, 59.9, 60, 60.5, 61.5, 200], 60) == 4
    assert schedule.most_within([0, 60, 120], 60) == 1
    assert schedule.most_within([], 60) == 0
