"""
The minute: how much of the limit on creates per minute is used, and that it is never exceeded.

The daemon's minute has sixty real seconds, so this stands idle for most of its time. Predictions are so short that the
slots would let more through than the minute does. In the middle of the first minute the daemon is killed, and started
again: it has to remember what left before.
"""

import signal
from pathlib import Path

from bench.aims import is_met
from bench.figure import Figure
from bench.processes import Daemon, Service, configure, drop, ready, results, running
from bench.schedule import most_within

MINUTE = 60.0
SCALE = 2


def measure(short: bool, work: Path) -> list[Figure]:
    """Long: two whole minutes and a bit. Short: the first create that has to wait for the minute's end."""
    creates_max, pictures, minutes, predict_seconds = (8, 12, 1, 0.15) if short else (100, 230, 2, 3.0)
    drop(work / "in", pictures)
    options = ["--creates-per-minute-max", str(creates_max), "--predict-seconds", str(predict_seconds)]
    with running(Service(*options, *ready(SCALE))) as service:
        api = f"creates_per_minute_max = {creates_max}\npoll_seconds_min = {0.05 if short else 1}"
        if short:
            api += "\ncreate_seconds_max = 4"  # So long a create that the kill cut off may still arrive.
        path = configure(work, service.base_url, scale=SCALE, api=api)
        with running(Daemon(path)) as killed:
            killed.expect_event("submitted", creates_max // 2)
            killed.end(signal.SIGKILL)
        with running(Daemon(path, "once")) as daemon:
            assert daemon.wait(600) == 0, daemon.lines[-10:]
        report = service.report()
    assert results(work / "out") == len(report["predictions"]) == pictures
    # What is refused has arrived, too.
    arrived = sorted(each["at"] for each in report["creates"])
    seconds = arrived[minutes * creates_max] - arrived[0]
    used, most, refused = minutes * MINUTE / seconds, most_within(arrived, MINUTE), len(report["refused"])
    aims = {"used": ">= 0.98", "most": f"<= {creates_max}", "refused": "<= 0"}
    limit = f"{creates_max} creates in any {MINUTE:g} s"
    detail = {"pictures": pictures, "seconds": seconds, "creates_counted": minutes * creates_max}
    return [
        Figure(
            "minute, used",
            used,
            "of the limit",
            limit,
            aims["used"],
            None if short else is_met(used, aims["used"]),
            detail,
        ),
        Figure("minute, most creates in any", most, "creates", limit, aims["most"], is_met(most, aims["most"])),
        Figure("minute, refused", refused, "x 429", limit, aims["refused"], is_met(refused, aims["refused"])),
    ]
