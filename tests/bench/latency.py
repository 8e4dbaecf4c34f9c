"""
Latency: seconds from a picture's rename into the inbox to the arrival of its create at the service.

The daemon is idle, the picture is small, the service takes no time: what is left is noticing, settling, reading,
recording, uploading. The quiet time, for which a file must stay unchanged, is what a person chose and is taken off.
Both processes read the same monotonic clock. One picture follows the other when the daemon has told that the last one
is done and has deleted what it uploaded.
"""

import os
import statistics
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.figure import Figure
from bench.processes import Daemon, running
from bench.watched import Instant, enlarged, photograph, watching

QUIET_SECONDS = 0.3
AIMS = {50: 0.1, 99: 0.5}  # seconds, by percentile
SIZE = (140, 100)
SCALE = 2
PICTURES, PICTURES_SHORT = 60, 3


def measure(short: bool, work: Path) -> list[Figure]:
    """One figure for each percentile."""
    count = PICTURES_SHORT if short else PICTURES
    ways = []
    result = work / "result.png"
    enlarged(photograph(0, *SIZE), SCALE, result)
    with (
        running(Instant(result)) as service,
        watching(work, service.base_url, scale=SCALE, quiet_seconds=QUIET_SECONDS, level="debug") as daemon,
    ):
        for number in range(1, count + 1):
            ways.append(way(number, work, service, daemon))
        assert len(list((work / "out").glob("*.png"))) == count
    waits = [each["in all"] for each in ways]
    legs = {leg: round(statistics.median(each[leg] for each in ways), 4) for leg in ways[0]}
    detail = {"pictures": count, "quiet_seconds": QUIET_SECONDS, "seconds_max": max(waits), "median_seconds": legs}
    return [
        Figure(
            name=f"from rename to create, p{percentile}",
            value=round(ranked(waits, percentile), 4),
            unit="s",
            against="the quiet time, taken off",
            aim=f"<= {aim} s",
            met=None if short else ranked(waits, percentile) <= aim,
            detail=detail,
        )
        for percentile, aim in AIMS.items()
    ]


def ranked(values: list[float], percentile: int) -> float:
    """The value that so many per cent do not exceed."""
    return sorted(values)[-(-len(values) * percentile // 100) - 1]


def way(number: int, work: Path, service: Instant, daemon: Daemon) -> dict[str, float]:
    """One picture's way, in seconds without the quiet time: in all, and each leg of it."""
    name = f"{number:05}.png"
    photograph(number, *SIZE).pngsave(str(work / name))
    moved_at, wall = time.monotonic(), time.time()
    os.rename(work / name, work / "in" / name)
    created_at = float(service.expect_line("created", number))
    daemon.expect_event("done", picture=name)
    # The daemon's own look at its storage deleted one as well.
    service.expect_line("deleted", number + 1)
    return {
        "in all": round(created_at - moved_at - QUIET_SECONDS, 4),
        **dict(legs(daemon, name, wall, created_at - moved_at)),
    }


def legs(daemon: Daemon, name: str, moved_at: float, in_all: float) -> Iterator[tuple[str, float]]:
    """Where the time went, by the daemon's log, whose times have milliseconds of the wall clock."""
    told = {event["event"]: event for event in daemon.events if event.get("picture") == name}
    admitted = told["admitted"]
    passed = {
        "noticed": seconds(admitted) - admitted["seconds"],
        "settled and admitted": seconds(admitted) - QUIET_SECONDS,
        "uploaded": seconds(told["uploaded"]) - QUIET_SECONDS,
        "intent recorded": seconds(told["submitting"]) - QUIET_SECONDS,
        "create arrived": moved_at + in_all - QUIET_SECONDS,
    }
    before = moved_at
    for leg, after in passed.items():
        yield leg, round(after - before, 4)
        before = after


def seconds(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
