"""
Budget: may another paid run start? Pure.

What is in flight is not billed yet, so it counts with what the service usually takes; ten in flight cannot overshoot
by ten.
"""

import datetime
from dataclasses import dataclass

USD_PER_SECOND = 0.0002475  # what the service bills for a second of prediction
TYPICAL_PREDICT_SECONDS = 16.1  # until we have seen predictions of our own


@dataclass(frozen=True, slots=True)
class Spending:
    """USD billed in this UTC day and month, what is in flight (runs), and what one run may well cost.

    is_priced: whether that comes from bills of our own. Until there is one, only one run at a time is a safe guess.
    """

    day_usd: float
    month_usd: float
    in_flight: int
    typical_usd: float
    is_priced: bool = True

    @property
    def is_a_guess(self) -> bool:
        """Whether another run would be one more at a price that nobody knows."""
        return self.in_flight > 0 and not self.is_priced


def over_budget(spending: Spending, day_max: float, month_max: float, now: float) -> tuple[str, float] | None:
    """None where another run fits, else the reason and the time (seconds since 1970) when it may fit again.

    day_max, month_max: USD; 0 is no limit.
    """
    expected = (spending.in_flight + 1) * spending.typical_usd
    more = f"and {spending.in_flight + 1} in flight would cost about {expected:.4f}"
    today = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if month_max and spending.month_usd + expected > month_max:
        next_month = (today.replace(day=1) + datetime.timedelta(days=32)).replace(day=1)
        said = f"The month's budget of {month_max:g} USD is reached: {spending.month_usd:.4f} are spent, {more}."
        return said, next_month.timestamp()
    if day_max and spending.day_usd + expected > day_max:
        tomorrow = today + datetime.timedelta(days=1)
        said = f"The day's budget of {day_max:g} USD is reached: {spending.day_usd:.4f} are spent, {more}."
        return said, tomorrow.timestamp()
    return None


def day_start(now: float) -> float:
    """Seconds since 1970 of the beginning of the UTC day."""
    return now - now % 86_400


def month_start(now: float) -> float:
    """Seconds since 1970 of the beginning of the UTC month."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return datetime.datetime(moment.year, moment.month, 1, tzinfo=datetime.UTC).timestamp()
