"""Whatever JSON the prediction API answers with: a value, or a Fault in plain words; and no two uploads are one."""

import math
import re
from random import Random
from urllib.parse import quote

from fuzz_kit import (
    HOOK,
    KEYS,
    any_text,
    assert_fault,
    assert_no_hook,
    assert_plain,
    buried,
    dates,
    documents,
    encoded,
    fuzz,
    hostile_text,
    leaves,
    predictions,
    quiet,
)
from hypothesis import given
from hypothesis import strategies as st

from daemon.adapters import answers
from daemon.ports import Running, Spoiled, Succeeded
from daemon.rules.faults import Blame, Fault

pytestmark = quiet

burials = st.tuples(st.sampled_from([1, 5, 900, 5000]), st.sampled_from([None, "error", "output", "url"]))


def assert_money(cost: float, seconds: float | None = None) -> None:
    assert 0 <= cost <= answers.USD_MAX
    assert seconds is None or 0 <= seconds < math.inf


def assert_progress(document: object) -> None:
    progress: object
    try:
        progress = answers.progress(document)
    except Fault as fault:
        progress = fault
    match progress:
        case Fault():
            assert_fault(progress)
            assert progress.blame is Blame.SERVICE, "a body never blames the picture"
        case Running(status):
            assert_plain(status)
        case Spoiled(why, _, cost):
            assert_plain(why)
            assert why
            assert_money(cost)
        case Succeeded(url, cost, seconds):
            assert url.startswith(("https://", "http://"))
            assert_money(cost, seconds)


@fuzz(3)
@given(documents)
def test_any_answer_is_understood_or_a_fault(document: object) -> None:
    assert_progress(document)
    assert_plain(answers.reason(document))
    prediction = answers.prediction_id(document)
    assert prediction is None or quote(prediction, safe="") == prediction, "an id stays one step of a path"


@fuzz(0.4)
@given(predictions, st.sampled_from(["success", "error", "created"]), burials)
def test_an_answer_of_any_depth_is_understood_or_a_fault(
    document: dict[str, object], status: str, burial: tuple[int, str | None]
) -> None:
    deep = buried("bottom", *burial)
    assert_plain(answers.reason([deep]))
    for key in KEYS:
        assert_progress(document | {key: deep, "status": status})
        assert_progress(document | {"output": {key: deep}, "status": status})
        assert_plain(answers.reason({key: deep}))
        assert answers.prediction_id({key: deep}) is None


@fuzz(2)
@given(st.sampled_from(["success", "failed", "cancelled"]), leaves, leaves, st.sampled_from([None, True, False, 0]))
def test_any_bill_is_an_amount(status: str, cost: object, seconds: object, billed: object) -> None:
    metrics = {"cost": cost, "predict_time": seconds}
    assert_progress({"status": status, "output": "https://h/x.png", "metrics": metrics, "billed": billed})
    assert_progress({"status": status, "output": ["https://h/x.png"], "metrics": metrics | {"billed": billed}})


@fuzz(3)
@given(hostile_text, st.floats(0, 4e9))
def test_any_text_is_one_line_a_pause_a_moment_or_nothing(text: str, now: float) -> None:
    assert_plain(answers.one_line(text), answers.TEXT_MAX)
    pause = answers.retry_after(text, now)
    assert pause is None or 0 <= pause <= answers.RETRY_AFTER_MAX
    moment = answers.moment(text)
    assert moment is None or math.isfinite(moment)
    assert answers.is_id(text) is (re.fullmatch(r"[A-Za-z0-9_-]{1,128}", text, re.ASCII) is not None)


@fuzz(3)
@given(
    any_text,
    st.integers(0, 3),
    st.sampled_from(["", " ", "/", "&x=1", "?y", "\n", '"', "'}", "\x00b"]),
    st.integers(0, 20),
)
def test_no_text_tells_where_we_hear_webhooks(before: str, times: int, after: str, spaces: int) -> None:
    assert_no_hook(answers.one_line(before + " " * spaces * 150 + encoded(times, HOOK) + after))


@fuzz(3)
@given(dates, st.floats(0, 4e9))
def test_any_date_is_a_pause_or_nothing(date: str, now: float) -> None:
    pause = answers.retry_after(date, now)
    assert pause is None or 0 <= pause <= answers.RETRY_AFTER_MAX


unique_keys = st.text("abcABC019_.~-", min_size=1, max_size=24)
pairs = unique_keys.flatmap(
    lambda key: st.tuples(st.just(key), st.sampled_from([key, key.swapcase(), key + "0", key[1:]]) | unique_keys)
)
addresses = st.builds(
    "https://{}/{}/".format,
    st.sampled_from(["storage.googleapis.com", "Host.example.org", "h:8443"]),
    st.text("ab/ +é%=&;@:", max_size=12),
)
queries = st.lists(st.text("abc=+/% é", min_size=1, max_size=8), max_size=3)
encodings = st.lists(st.sampled_from(["", ":/?&=", ":/?&=@+~", "/"]), max_size=answers.ENCODINGS_MAX // 2)


def as_quoted(url: str, encodings: list[str], *, plus: bool) -> str:
    """As the API may give our URL back: percent-encoded some times, each time with other characters spared."""
    url = url.replace("%20", "+") if plus else url
    for safe in encodings:
        url = quote(url, safe=safe)
    return url


@fuzz(3)
@given(addresses, pairs, queries, st.randoms(), encodings, st.booleans())
def test_two_uploads_are_never_taken_for_one(
    address: str, keys: tuple[str, str], query: list[str], dice: Random, encodings: list[str], plus: bool
) -> None:
    """A create in doubt is settled by this: taking one for another loses a picture, missing ours pays twice."""
    address = quote(address, safe=":/")  # Our URLs are encoded once.
    ours, other = (f"{address}{key}?{'&'.join(query)}" for key in keys)
    again = f"{address}{keys[0]}?{'&'.join(dice.sample(query, len(query)))}"
    assert answers.same_url(ours, as_quoted(again, encodings, plus=plus))
    assert answers.same_url(ours, as_quoted(other, encodings, plus=plus)) is (keys[0] == keys[1])
