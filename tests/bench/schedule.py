"""
What a service's report says about how well its slots and its minute were used. Pure.

Takes what `bench.service` reports: times in seconds of one clock. A slot is one of those that the service grants; it
holds nothing of the client's, so nothing here depends on how a client is built.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

Report = dict[str, Any]


def occupancy(report: Report, slots: int) -> float:
    """The share of all slots that were predicting, from the first create to the last: while pictures waited."""
    begins = [each["begin"] for each in report["predictions"]]
    first, last = min(begins), max(begins)
    busy = sum(min(each["end"], last) - each["begin"] for each in report["predictions"])
    return busy / (slots * (last - first))


def span(report: Report) -> float:
    """Seconds from the first create to the end of the last prediction."""
    return max(each["end"] for each in report["predictions"]) - min(each["begin"] for each in report["predictions"])


def perfect_span(report: Report, slots: int) -> float:
    """The same for the same predictions in the same order, where each begins the moment a slot is free."""
    free = [0.0] * slots
    for each in report["predictions"]:
        heapq.heapreplace(free, free[0] + each["end"] - each["begin"])
    return max(free)


def refill_gaps(report: Report, slots: int) -> list[float]:
    """Seconds between an end and the create that took its slot, as far as there was one."""
    ends = sorted(each["end"] for each in report["predictions"])
    begins = sorted(each["begin"] for each in report["predictions"])
    return [begin - end for end, begin in zip(ends, begins[slots:], strict=False)]


def unnoticed(report: Report) -> list[float]:
    """Seconds between each end and the first question that was answered with it."""
    told: dict[str, float] = {}
    for get in report["gets"]:
        if get["status"] == "success":
            told.setdefault(get["id"], get["at"])
    return [told[each["id"]] - each["end"] for each in report["predictions"] if each["id"] in told]


def polls(report: Report) -> float:
    """Questions for each prediction, in the mean."""
    asked = Counter(get["id"] for get in report["gets"])
    return asked.total() / len(report["predictions"])


def most_within(times: Sequence[float], seconds: float) -> int:
    """The most of these times in any window of that length; both ends of one are not in it together."""
    ordered, first, most = sorted(times), 0, 0
    for count, time in enumerate(ordered, start=1):
        while time - ordered[first] >= seconds:
            first += 1
        most = max(most, count - first)
    return most


def strips(report: Report, slots: int) -> list[list[tuple[float, float]]]:
    """For each slot, when it was predicting: begin and end, seconds since the first create."""
    rows: list[list[tuple[float, float]]] = [[] for _ in range(slots)]
    ordered = sorted((each["begin"], each["end"]) for each in report["predictions"])
    zero = ordered[0][0]
    for begin, end in ordered:
        # Whichever has been free for longest: no create arrives while all are taken.
        row = min(rows, key=lambda row: row[-1][1] if row else 0.0)
        row.append((round(begin - zero, 3), round(end - zero, 3)))
    assert all(one[1] <= other[0] + 0.001 for row in rows for one, other in pairwise(row))
    return rows


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
