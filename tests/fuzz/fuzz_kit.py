"""What the fuzz tests share: how many examples, hostile texts, JSON and dates, and what a text of ours must be like."""

import os
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from daemon.adapters.answers import RETRY_AFTER_MAX
from daemon.rules.faults import Fault

# Where something falls out, its example may be long.
quiet = pytest.mark.filterwarnings("ignore:Generating overly large repr")

KEY = "key-0123456789abcdef"
SIGNATURE = "5ec2e7f00d"
SIGNED = f"https://storage.googleapis.com/b/esrgand/ab%2Fc.png?X-Goog-Credential=a%40b&X-Goog-Signature={SIGNATURE}"
TOKEN = "f35117a8cd689aa9faa6b844dea0904d"
PASSWORD = "pa55word"
HOOK = f"https://me:{PASSWORD}@nas.example.org/hook/{TOKEN}"
TEXT_MAX = 1000  # characters; a sentence of ours, with one of theirs in it


def fuzz(share: float = 1.0) -> settings:
    """The same examples in every run. ESRGAND_FUZZ_EXAMPLES raises their number from 100, of slow tests by a share."""
    examples = max(1, round(int(os.environ.get("ESRGAND_FUZZ_EXAMPLES", "100")) * share))
    # Fixtures (a server, a folder) are shared by the examples of a test: the next example must survive the last one.
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


def encoded(times: int, url: str = SIGNED) -> str:
    """A URL as a service may quote it back: percent-encoded once more, and more."""
    for _ in range(times):
        url = quote(url, safe="")
    return url


# Controls, marks of direction, and surrogates that stand for nothing or for a byte.
any_text = st.text(st.characters(exclude_categories=()), max_size=30) | st.sampled_from(["a\ud800", "\udcffb"])
hostile_text = st.one_of(
    any_text,
    st.sampled_from(
        ["", "nan", "-inf", "1e999", "1_0", "٣", "0", "-1", "true", "\x1b[2J", "a\u202egnp", "\r\n\x85\u2028"]
    ),
    st.sampled_from([299, 300, 301, 5000, 20_000]).map(lambda count: "x" * count),
    st.builds(
        lambda before, times, after: before + encoded(times) + after,
        any_text,
        st.integers(0, 3),
        st.sampled_from(["", " ", "&x=1", "\n", '"', "\x00b"]),
    ),
    st.sampled_from(
        [
            f"signature={SIGNATURE}&x",
            f"no URL%3FX-Goog-Signature%253D{SIGNATURE}%2526",
            f"'X-Goog-Signature': '{SIGNATURE}'",
        ]
    ),
)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([2**63, -(2**63), 10**400, 1e308, 5e-324]))
leaves = st.one_of(st.none(), st.booleans(), numbers, hostile_text)


def json_values(keys: st.SearchStrategy[str], max_leaves: int = 12) -> st.SearchStrategy[object]:
    """Anything that JSON can say, and what only Python's reader lets through."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
        max_leaves=max_leaves,
    )


# The words that an answer of the prediction API may have, wherever they stand.
KEYS = [
    *("status", "output", "metrics", "logs", "error", "error_message", "error_code", "message", "details", "detail"),
    *("msg", "url", "image", "images", "data", "retryable", "billed", "cost", "predict_time", "id", "predictionID"),
    *("executions", "total_count", "total_capped", "created_at", "input", "__class__", ""),
]
STATUSES = ["success", "SUCCEEDED ", "completed", "error", "failed", "cancelled", "canceled", "created", "İ", ""]
values = json_values(st.one_of(st.sampled_from(KEYS), any_text))
predictions = st.builds(
    lambda status, metrics, rest: rest | {"status": status} | ({"metrics": metrics} if metrics is not None else {}),
    st.one_of(st.sampled_from(STATUSES), hostile_text, leaves),
    st.none() | values | st.fixed_dictionaries({}, optional={"cost": numbers | hostile_text, "predict_time": leaves}),
    st.dictionaries(st.sampled_from(KEYS), values, max_size=6),
)
documents = st.one_of(values, predictions)

digits = st.sampled_from([1, 12, 14, 20, 5000]).map(lambda count: "9" * count)
clock_digits = st.sampled_from(["00", "59", "61", "-1", "x"])
dates = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Mon", "", "x"]),
    st.sampled_from(["0", "1", "31", "-1", "99"]) | digits,
    st.sampled_from(["Jan", "Foo", "1", ""]),
    st.sampled_from(["1", "70", "2024", "9999"]) | digits,
    *(clock_digits, clock_digits, clock_digits),
    st.sampled_from(["GMT", "-0000", "+2359", "-9999", "EST", ""]) | digits.map("+{}".format),
)


def buried(value: object, depth: int, key: str | None) -> object:
    """A value below so many lists, or objects with this one key."""
    for _ in range(depth):
        value = [value] if key is None else {key: value}
    return value


def assert_plain(text: str, text_max: int = TEXT_MAX) -> None:
    """One printable line of bounded length without secrets."""
    assert text.isprintable(), ascii(text[:500])
    assert len(text) <= text_max, f"{len(text)} characters: {text[:100]}"
    for secret in (KEY, SIGNATURE, "X-Goog-Credential"):
        assert secret not in text, text


def assert_no_hook(text: str) -> None:
    """Nothing of where we hear webhooks but the host."""
    assert not [secret for secret in (TOKEN, PASSWORD) if secret in text], text


def assert_fault(fault: Fault) -> None:
    """What it says is for people, and the pause that it asks for is one."""
    assert_plain(fault.said)
    assert_plain(fault.remedy)
    assert fault.retry_after is None or 0 <= fault.retry_after <= RETRY_AFTER_MAX
