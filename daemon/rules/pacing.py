"""
Pacing: when to ask how a prediction stands. Pure; the shell hands in the time and the dice.

How long predictions take is learnt, per recipe and size. From that follows how likely one ends at each moment of its
age, and questions are placed by it: none while an end is very unlikely, close together around the likely time, ever
further apart for stragglers. For a chance h of ending per second the pauses that cost least are sqrt(2 w / h), where w
is what a question is worth in unnoticed seconds (Barlow, Hunter, Proschan 1963; Keller 1974): that is the one number
here that is a matter of taste.
"""

import bisect
import json
import math
from collections import deque
from dataclasses import dataclass

# A question saved is worth this much unnoticed time, as a share of what a prediction usually takes. With times that
# spread by a third (one sigma) it means some seven questions a prediction and 3.5 % of its time unnoticed.
QUESTION_WORTH = 0.0045
# The same while the service tells us by webhooks: questions are for what it forgets to tell.
QUESTION_WORTH_TOLD = 0.5

SEEN_MAX = 48  # durations that are remembered for each size
SECONDS_MIN, SECONDS_MAX = 1e-3, 1e6  # of a duration: what is outside is a mistake, and would break the sums
ENOUGH = 12  # with fewer of the very size, the sizes next to it have their say
SPREAD_MIN, SPREAD_UNKNOWN = 0.03, 0.5  # sigma of the logarithm: never surer than this; and this before we know better
STRAGGLER = 2.0  # sigmas: what is older outlived nearly all others, and then as much as it took is still to come
AGE_SHARE = 0.15  # before anything is known: a pause is this share of the age
PAUSE_SECONDS_MAX = 10.0  # for what is a straggler, or of which nothing is known
BLIND_SECONDS_MAX = 20.0  # whatever was learnt, before the first question; then never longer than the age
OVERDUE_PAUSE_SECONDS_MAX = 250.0  # 275 with the jitter
JITTER = 0.1
STEPS = 64  # for each usual duration, when the questions are placed


@dataclass(frozen=True, slots=True)
class Usual:
    """How long predictions of a kind take. median: seconds. sooner, later: the logarithm's sigma on either side."""

    median: float
    sooner: float
    later: float

    def hazard(self, age: float) -> float:
        """The chance per second that one of this age ends now, as for a lognormal, and for stragglers 1 / age."""
        z = self._z(age)
        if z > STRAGGLER:
            return 1.0 / age
        density = math.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * self._spread(age) * age)
        return density / (0.5 * math.erfc(z / math.sqrt(2)))

    def is_straggler(self, age: float) -> bool:
        """Whether nearly all others were over at this age."""
        return age > self.median and self._z(age) > STRAGGLER

    def _spread(self, age: float) -> float:
        return self.sooner if age < self.median else self.later

    def _z(self, age: float) -> float:
        return math.log(age / self.median) / self._spread(age)


class Paces:
    """How long predictions took lately: the last ones of each kind (API and recipe) and size, in seconds."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[int, deque[float]]] = {}

    def learn(self, kind: str, pixels: int, seconds: float) -> tuple[str, str]:
        """One more. Returns what to keep for a restart: a name and a value, for `recall`."""
        size = _size(pixels)
        seen = self._seen.setdefault(kind, {}).setdefault(size, deque(maxlen=SEEN_MAX))
        seen.append(min(max(seconds, SECONDS_MIN), SECONDS_MAX))
        return f"{kind}/{size}", json.dumps([round(each, 3) for each in seen])

    def recall(self, name: str, value: str) -> None:
        """What an earlier run learnt; what cannot be read is learnt anew."""
        kind, _, size = name.rpartition("/")
        try:
            seen = [float(each) for each in json.loads(value) if SECONDS_MIN <= each <= SECONDS_MAX]
            self._seen.setdefault(kind, {})[int(size)] = deque(seen, maxlen=SEEN_MAX)
        except (ValueError, TypeError, OverflowError):
            return

    def usual(self, kind: str, pixels: int) -> Usual | None:
        """What is to be expected of a prediction; None where nothing is known of its kind."""
        sizes = self._seen.get(kind, {})
        here = _size(pixels)
        known: list[float] = []
        for size in sorted(sizes, key=lambda size: abs(size - here)):
            known += sizes[size]
            if len(known) >= ENOUGH:
                break
        if not known:
            return None
        known.sort()
        median = _quantile(known, 0.5)
        # Two that were never seen, so that few which are alike do not make us sure.
        known = sorted([*known, median * math.exp(-SPREAD_UNKNOWN), median * math.exp(SPREAD_UNKNOWN)])
        sooner = math.log(median / _quantile(known, 0.16))
        later = math.log(_quantile(known, 0.84) / median)
        return Usual(median, max(SPREAD_MIN, sooner), max(SPREAD_MIN, later))


def took(asked: float, now: float, predict_seconds: float | None, *, told: bool) -> float:
    """How long a prediction took, as far as that can be known. All in seconds of its age.

    asked: when it was last not over. now: when it was over. predict_seconds: what the service says, which may leave out
    how long it waited there, and is 0 where it does not know. told: the service said so at once.
    """
    if told:
        return now
    if predict_seconds and asked <= predict_seconds <= now:
        return predict_seconds
    return (asked + now) / 2


def poll_pause(
    age: float, usual: Usual | None, *, shortest: float, overdue_after: float, told: bool, dice: float
) -> float:
    """Seconds until the next question about a prediction that is `age` seconds old.

    usual: what is known of such predictions. shortest: between two questions about one. told: webhooks come. Ever more
    seldom once it is overdue; stretched or shortened a little by the dice, so that those that started together are not
    asked for together.
    """
    jitter = 1.0 - JITTER + 2 * JITTER * dice
    if age > overdue_after:
        longest = min(OVERDUE_PAUSE_SECONDS_MAX, max(PAUSE_SECONDS_MAX, (age - overdue_after) * AGE_SHARE))
        return max(shortest, min(age * AGE_SHARE, longest) * jitter)
    if usual is None:
        return max(shortest, min(age * AGE_SHARE, PAUSE_SECONDS_MAX) * jitter)
    worth = usual.median * (QUESTION_WORTH_TOLD if told else QUESTION_WORTH)
    pause = _until_next(age, usual, worth)
    if not told:
        # What was true an hour ago may not be true now, and ten slots must not wait for as long as it took then.
        pause = min(pause, PAUSE_SECONDS_MAX if usual.is_straggler(age) else max(BLIND_SECONDS_MAX, age))
    return max(shortest, min(pause, max(shortest, overdue_after - age)) * jitter)


def _until_next(age: float, usual: Usual, worth: float) -> float:
    """How long until the density of questions, sqrt(h / 2 w), has added up to one more."""
    # Before six sigmas no end was ever likely.
    time = max(age, usual.median * math.exp(-6 * usual.sooner))
    step = usual.median / STEPS
    due = 0.0
    while True:
        density = math.sqrt(usual.hazard(time + step / 2) / (2 * worth))
        if due + density * step >= 1.0:
            return time + (1.0 - due) / density - age
        due += density * step
        time += step
        step = max(step, time / STEPS)


class Timetable:
    """One schedule for all questions, so that they are never asked in bursts. spacing: seconds between any two."""

    def __init__(self, spacing: float) -> None:
        self._spacing = spacing
        self._times: list[float] = []

    def reserve(self, wanted: float) -> float:
        """The first time from `wanted` on that is far enough from all others. It is to be given back by `free`."""
        at = wanted
        for other in self._times[bisect.bisect_right(self._times, at - self._spacing) :]:
            if other - at >= self._spacing:
                break
            at = other + self._spacing
        bisect.insort(self._times, at)
        return at

    def free(self, at: float) -> None:
        """The question is asked, or is not to be asked any more."""
        self._times.remove(at)


def _size(pixels: int) -> int:
    """Sizes that are alike: each is half as large again, roughly, as the one before."""
    return round(2 * math.log2(max(1, pixels)))


def _quantile(values: list[float], share: float) -> float:
    """Of sorted values, with a straight line between two."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)
