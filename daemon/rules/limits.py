"""
Limits: how many submits may leave, and how many may run, by what the service allows. Pure; the shell hands in the time.

The sliding minute: a submit holds its place from just before it leaves until a minute after its answer came, so that
whatever the network does in between, the service never counts more than the limit in any minute of its own.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
SHRINK_SECONDS = 10.0  # refusals that come together are one
GROW_SECONDS = 30.0  # as long as the service takes to forget a refusal


class SlidingMinute:
    """At most `creates_max` submits in any window of a minute, however long each takes."""

    def __init__(self, creates_max: int) -> None:
        self._creates_max = creates_max
        self._answered: deque[float] = deque()
        self.reserved = 0

    def remember(self, answered: list[float]) -> None:
        """Count the submits that a former run left behind. answered: when they were over, monotonic seconds."""
        self._answered.extend(sorted(answered))

    def wait_seconds(self, now: float) -> float | None:
        """0 where a submit may leave now, else how long to wait; None where only an answer can make room."""
        # One expression for both questions: two that round differently once let one submit too many pass.
        while self._answered and (left := self._answered[0] + WINDOW_SECONDS - now) <= 0:
            self._answered.popleft()
        if self.reserved + len(self._answered) < self._creates_max:
            return 0.0
        return left if self._answered else None

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """Hold a place; it is free again at once where nothing left, else a minute after the answer."""
        self.reserved += 1
        place = Place()
        try:
            yield place
        finally:
            self.reserved -= 1
            if place.answered_at is not None:
                self._answered.append(place.answered_at)


@dataclass(slots=True)
class Place:
    """A place in the minute. answered_at: monotonic seconds when its submit was over, None where none left."""

    answered_at: float | None = None


class Window:
    """How many predictions may be in flight now: additive increase, multiplicative decrease.

    The limit of the service may be lower than ours (it is while the balance is low), and it does not say so before it
    refuses. So a refusal halves what is in flight, and it grows back one at a time, for as long as it stays quiet.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed_at = 0.0
        self.size = most

    def allows(self, in_flight: int) -> bool:
        """Whether one more may leave. While nothing was refused the slots alone are the bound."""
        return self.size == self._most or in_flight < self.size

    def refused(self, in_flight: int, now: float) -> None:
        """Too many requests. in_flight: predictions that were running. now: monotonic seconds."""
        if self.size == self._most or now - self._changed_at >= SHRINK_SECONDS:
            self.size = max(1, min(self.size, in_flight) // 2)
        self._changed_at = now

    def accepted(self, now: float) -> None:
        """A create went through."""
        if self.size < self._most and now - self._changed_at >= GROW_SECONDS:
            self.size += 1
            self._changed_at = now
