"""
Occupancy: how much of the 10 slots predicts while pictures wait; with polling, with webhooks, and with a plain script.

All times are a twentieth of real ones, so that an hour fits into minutes; what the machine itself takes (SQLite,
decoding, HTTP) is not shortened, so the figures are on the safe side. The three have the same pictures, and their n-th
predictions take the same time.
"""

import shutil
from pathlib import Path
from typing import Any

from bench.aims import is_met
from bench.figure import Figure
from bench.processes import Daemon, Plain, Service, configure, drop, ready, results, running
from bench.schedule import mean, occupancy, perfect_span, polls, refill_gaps, span, strips, unnoticed

SLOTS = 10
SCALE = 2
FASTER = 20
PREDICT_SECONDS, UPLOAD_SECONDS, DOWNLOAD_SECONDS = 16 / FASTER, 2 / FASTER, 3 / FASTER
POLL_SECONDS_MIN = 1 / FASTER
PLAIN_POLL_SECONDS = 2 / FASTER
PICTURES, PICTURES_SHORT = 200, 40
SEED = 7

OPTIONS = [
    *("--predict-seconds", str(PREDICT_SECONDS), "--predict-sigma", "0.3", "--seed", str(SEED)),
    *("--upload-seconds", str(UPLOAD_SECONDS), "--download-seconds", str(DOWNLOAD_SECONDS)),
    *("--creates-per-minute-max", "10000"),
]
API = f"poll_seconds_min = {POLL_SECONDS_MIN}\ncreates_per_minute_max = 10000"


def measure(short: bool, work: Path) -> list[Figure]:
    """The three, one after the other."""
    pictures = PICTURES_SHORT if short else PICTURES
    drop(work / "pictures", pictures)
    polling = ours(work / "polling", pictures, webhooks=False)
    webhooks = ours(work / "webhooks", pictures, webhooks=True)
    plain = theirs(work / "plain", pictures)
    refused = len(polling["refused"] + webhooks["refused"])

    def figure(name: str, value: float, unit: str, against: str, aim: str, **detail: Any) -> Figure:
        return Figure(name, value, unit, against, aim, None if short else is_met(value, aim), detail)

    slots, gets = "of 10 slots", "GETs a picture"
    all_, one = "every slot predicting, all the time", "one, at the end"
    fair = "a plain script: semaphore of 10, fixed polls"
    return [
        figure("occupancy, polling", occupancy(polling, SLOTS), slots, all_, ">= 0.95", **detail(polling)),
        figure("polls, polling", polls(polling), gets, one, "<= 8"),
        figure("occupancy, webhooks", occupancy(webhooks, SLOTS), slots, all_, ">= 0.98", **detail(webhooks)),
        figure("polls, webhooks", polls(webhooks), gets, one, "<= 2"),
        Figure("occupancy, plain script", occupancy(plain, SLOTS), slots, all_, "", None, common(plain)),
        figure("pace, polling", pace(polling) / pace(plain), "x plain", fair, ">= 1.3"),
        figure("pace, webhooks", pace(webhooks) / pace(plain), "x plain", fair, ">= 1.3"),
        Figure("occupancy, refused", refused, "x 429", "10 in flight", "<= 0", is_met(refused, "<= 0")),
    ]


def ours(folder: Path, pictures: int, *, webhooks: bool) -> dict[str, Any]:
    """What the service saw of the daemon."""
    prepare(folder)
    with running(Service(*OPTIONS, *ready(SCALE), *(["--webhooks"] if webhooks else []))) as service:
        path = configure(folder, service.base_url, scale=SCALE, api=API, webhooks=webhooks)
        with running(Daemon(path)) as daemon:
            daemon.expect_event("done", pictures)
            assert daemon.end() == 0, daemon.lines[-10:]
        report = service.report()
    told = [each["status"] for each in report["webhooks"]]
    assert set(told) == ({204} if webhooks else set()), "webhooks did not arrive, or came where none should"
    return checked(report, folder, pictures)


def theirs(folder: Path, pictures: int) -> dict[str, Any]:
    """What the service saw of the plain script."""
    prepare(folder)
    (folder / "out").mkdir()
    with running(Service(*OPTIONS, *ready(SCALE))) as service:
        with running(Plain(service.base_url, folder, PLAIN_POLL_SECONDS, SCALE)) as plain:
            assert plain.wait(600) == 0, plain.lines[-10:]
        return checked(service.report(), folder, pictures)


def prepare(folder: Path) -> None:
    shutil.copytree(folder.parent / "pictures", folder / "in")


def checked(report: dict[str, Any], folder: Path, pictures: int) -> dict[str, Any]:
    """A figure of a run in which a picture is missing, or was paid for twice, would say nothing."""
    assert results(folder / "out") == pictures
    assert len(report["predictions"]) == pictures
    return report


def pace(report: dict[str, Any]) -> float:
    """Pictures per second until the last prediction is over."""
    return len(report["predictions"]) / span(report)


def detail(report: dict[str, Any]) -> dict[str, Any]:
    """What the figures are made of where uploads run ahead: all that is late is the notice, or the machine.

    The latter is not shortened, so at real times it would weigh so many times less; the estimate is what that makes.
    """
    gap, late = mean(refill_gaps(report, SLOTS)), mean(unnoticed(report))
    predict_seconds = mean([each["end"] - each["begin"] for each in report["predictions"]])
    return {
        "from_notice_to_next_create_seconds_real": gap - late,
        "occupancy_estimated_unscaled": 1 / (1 + (late + (gap - late) / FASTER) / predict_seconds),
        **common(report),
    }


def common(report: dict[str, Any]) -> dict[str, Any]:
    """What the figures are made of; unscaled: as it would be if nothing were shortened."""
    pictures = len(report["predictions"])
    predicting = sum(each["end"] - each["begin"] for each in report["predictions"])
    seconds, perfect = span(report), perfect_span(report, SLOTS)
    gap, late = mean(refill_gaps(report, SLOTS)), mean(unnoticed(report))
    cycle = gap + predicting / pictures
    return {
        "pictures": pictures,
        "pictures_per_second": pace(report),
        "occupancy_until_the_last_end": predicting / (SLOTS * seconds),
        "occupancy_until_the_last_end_of_a_perfect_schedule": predicting / (SLOTS * perfect),
        "span_over_perfect_span": seconds / perfect,
        "polls": polls(report),
        "refill_gap_seconds_unscaled": gap * FASTER,
        "refill_gap_share": gap / cycle,
        "unnoticed_seconds_unscaled": late * FASTER,
        "unnoticed_share": late / cycle,
        "refused": len(report["refused"]),
        "late_timer_seconds_real": mean(report["late"]),
        "late_timer_seconds_max_real": max(report["late"]),
        "strips": strips(report, SLOTS),
    }
