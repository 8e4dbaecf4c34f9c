"""The benchmarks of what the daemon costs, in their short form: that they measure what they say; never how fast."""

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import cost, large, latency, memory, scan
from bench.figure import Figure
from e2e.world import STARTED


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Each benchmark ends what it started, also where it fails."""
    before = list(STARTED)
    yield
    left = [process for process in STARTED if process not in before]
    for process in left:
        process.end(signal.SIGKILL)
        STARTED.remove(process)
    assert left == []


def check(figures: list[Figure], count: int) -> None:
    """So many, each with a value; the short form judges nothing."""
    assert len(figures) == len({figure.name for figure in figures}) == count
    for figure in figures:
        assert math.isfinite(figure.value)
        assert figure.value > 0
        assert figure.met is None
        assert figure.as_json()["detail"]


def test_cost_compares_daemon_and_script(tmp_path: Path) -> None:
    figures = cost.measure(True, tmp_path)
    check(figures, len(cost.SCALES))
    assert {figure.detail["pictures"] for figure in figures} == {cost.PICTURES_SHORT}


def test_latency_follows_each_picture(tmp_path: Path) -> None:
    figures = latency.measure(True, tmp_path)
    check(figures, len(latency.AIMS))
    assert figures[0].value <= figures[1].value <= figures[1].detail["seconds_max"] + 0.001
    assert figures[0].detail["pictures"] == latency.PICTURES_SHORT


def test_scan_sees_every_file(tmp_path: Path) -> None:
    [figure] = figures = scan.measure(True, tmp_path)
    check(figures, 1)
    assert figure.detail["files"] == scan.FILES_SHORT == sum(len(names) for *_, names in os.walk(tmp_path / "in"))


def test_memory_is_taken_when_all_is_admitted(tmp_path: Path) -> None:
    figures = memory.measure(True, tmp_path)
    check(figures, 2)
    assert [count for count, _ in figures[0].detail["peak_mib_by_admitted"]][-1] == memory.PICTURES_SHORT
    assert figures[0].value >= figures[0].detail["at_start_mib"]
    assert not (tmp_path / "large.png").exists()


def test_a_large_picture_comes_back_in_one_piece(tmp_path: Path) -> None:
    """And upright, which is asserted where it is measured."""
    figure = large.journey("sideways JPEG", True, tmp_path / "large")
    check([figure], 1)
    assert figure.detail["tiles"] == 20
    assert figure.value >= figure.detail["peak_before_joining_mib"] >= figure.detail["at_start_mib"]


@pytest.mark.parametrize(("percentile", "value"), [(50, 2.0), (75, 3.0), (76, 4.0), (99, 4.0), (100, 4.0)])
def test_a_percentile_is_a_value_that_was_measured(percentile: int, value: float) -> None:
    assert latency.ranked([4.0, 1.0, 3.0, 2.0], percentile) == value


def test_every_picture_of_a_drop_is_its_own(tmp_path: Path) -> None:
    memory.dropped(tmp_path, 3, memory.BYTES_SHORT)
    contents = {path.read_bytes() for path in tmp_path.iterdir()}
    assert [len(each) for each in contents] == [memory.BYTES_SHORT] * 3
