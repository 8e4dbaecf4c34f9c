"""No paid run beyond the budget, and the day on which there is a new one."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import NOW, quick

from daemon.rules.budget import Spending, day_start, month_start, over_budget

UTC = datetime.UTC
moments = st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def at(*parts: int) -> float:
    return datetime.datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


@quick
@given(moments)
def test_days_and_months_are_those_of_utc(moment: datetime.datetime) -> None:
    now = moment.timestamp()
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    assert day_start(now) == midnight.timestamp()
    assert month_start(now) == midnight.replace(day=1).timestamp()


@quick
@given(moments)
def test_it_goes_on_at_the_next_day_or_month(moment: datetime.datetime) -> None:
    now, spent = moment.timestamp(), Spending(day_usd=2, month_usd=2, in_flight=0, typical_usd=0.1)
    day = over_budget(spent, 1, 0, now)
    month = over_budget(spent, 0, 1, now)
    assert day is not None
    assert month is not None
    assert day_start(day[1]) == day[1] == day_start(now) + 86_400
    assert month_start(month[1]) == month[1]
    assert month_start(month[1] - 1) == month_start(now)
    assert over_budget(spent, 1, 1, now) == month, "a new day does not help when the month is spent"


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        (at(2026, 11, 22, 12), at(2026, 11, 23), at(2026, 12, 1)),
        (at(2026, 12, 31, 23, 59, 59), at(2027, 1, 1), at(2027, 1, 1)),
        (at(2028, 2, 28), at(2028, 2, 29), at(2028, 3, 1)),
        (at(2027, 1, 31), at(2027, 2, 1), at(2027, 2, 1)),
    ],
)
def test_roll_over(now: float, day: float, month: float) -> None:
    spent = Spending(day_usd=1, month_usd=1, in_flight=0, typical_usd=0.1)
    said = "budget of 1 USD is reached: 1.0000 are spent, and 1 in flight would cost about 0.1000."
    assert over_budget(spent, 1, 0, now) == (f"The day's {said}", day)
    assert over_budget(spent, 0, 1, now) == (f"The month's {said}", month)


@quick
@given(st.integers(0, 40), st.integers(1, 12), st.lists(st.booleans(), max_size=120), st.sampled_from(["day", "month"]))
def test_ten_in_flight_do_not_overshoot(limit: int, slots: int, steps: list[bool], span: str) -> None:
    """Runs that cost 1 at most start and end in any order: the sum stays within the budget, and all of it is used."""
    spent = in_flight = 0
    for starts in steps:
        if not starts and in_flight:
            in_flight, spent = in_flight - 1, spent + 1
        elif starts and in_flight < slots:
            spending = Spending(day_usd=spent, month_usd=spent, in_flight=in_flight, typical_usd=1)
            limits = (limit, 0) if span == "day" else (0, limit)
            fits = over_budget(spending, *limits, NOW) is None
            assert fits == (limit == 0 or spent + in_flight + 1 <= limit)
            in_flight += fits
        assert limit == 0 or spent + in_flight <= limit


def test_no_limit_is_no_limit() -> None:
    assert over_budget(Spending(1e9, 1e9, 10, 1e6), 0, 0, NOW) is None


def test_day_and_month_are_each_their_own() -> None:
    assert over_budget(Spending(day_usd=0, month_usd=5, in_flight=0, typical_usd=0.1), 1, 0, NOW) is None
    assert over_budget(Spending(day_usd=0, month_usd=5, in_flight=0, typical_usd=0.1), 1, 6, NOW) is None
    assert over_budget(Spending(day_usd=0, month_usd=5, in_flight=9, typical_usd=0.1), 2, 6, NOW) is None
    assert over_budget(Spending(day_usd=0, month_usd=5, in_flight=10, typical_usd=0.1), 2, 6, NOW) is not None
