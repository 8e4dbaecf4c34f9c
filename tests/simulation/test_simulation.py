"""
The whole pipeline under seeded faults and crashes, deterministic, with its promises looked at after every step.

`ESRGAND_SEEDS=2000:50000` runs other seeds than the first 2,000; `simulation/soak.py` runs for as long as you like.
"""

import os
import re

import pytest
from simulation.bugs import BUGS
from simulation.house import run

FIRST, LAST = (int(number) for number in os.environ.get("ESRGAND_SEEDS", "0:2000").split(":"))
CHUNK = 50
BUG_SEEDS = 400


@pytest.mark.parametrize("first", range(FIRST, LAST, CHUNK))
def test_every_promise_is_kept_whatever_happens(first: int) -> None:
    broken = {}
    crashes = runs = 0
    for seed in range(first, min(first + CHUNK, LAST)):
        report = run(seed)
        crashes += report.crashes
        runs += report.runs
        if report.wrong:
            broken[seed] = report.wrong[:2]
    assert broken == {}, f"PYTHONPATH=tests python -m simulation.soak --trace {next(iter(broken))}"
    assert crashes > CHUNK / 4, "it really crashes"
    assert runs > CHUNK, "it really works"


def test_everything_that_can_go_wrong_does() -> None:
    faults: dict[str, int] = {}
    for seed in range(100):
        for kind, count in run(seed).faults.items():
            faults[kind] = faults.get(kind, 0) + count
    assert set(faults) == {
        "forgotten for a while",
        *("refused connection", "402", "429", "lost before", "lost after", "hang", "spoiled"),
        *(
            "api call",
            "poll call",
            "history call",
            "fetch call",
            "expired",
            "bad body",
            "cut",
            "storage",
            "storage late",
        ),
    }


@pytest.mark.parametrize("seed", [7, 63, 92])
def test_a_seed_is_always_the_same_run(seed: int) -> None:
    assert run(seed).trace == run(seed).trace


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    """By what it breaks, and not by some trouble that it makes besides."""
    for seed in range(BUG_SEEDS):
        if any(re.search(BUGS[bug].found, wrong) for wrong in run(seed, BUGS[bug]).wrong):
            return
    pytest.fail(f"{BUG_SEEDS} seeds did not find it")
