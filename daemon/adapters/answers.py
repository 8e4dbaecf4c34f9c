"""
Answers: what the prediction API's words mean. Pure; takes whatever JSON came and never raises, except `Fault` where an
answer that should settle a question does not.

The API's bodies come in many shapes, and a failure's text may quote the image's signed URL, our key, or where we hear
webhooks: what leaves here as text is one line without any of them.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote

from daemon.ports import Progress, Running, Spoiled, Succeeded
from daemon.rules.budget import TYPICAL_PREDICT_SECONDS, USD_PER_SECOND
from daemon.rules.faults import Blame, Fault, Gate

USD_MAX = 1e6  # No run costs that: it is a mistake, and as large a one as still lets sums be numbers.
TEXT_MAX = 300
RETRY_AFTER_MAX = 3600.0
ENCODINGS_MAX = 8
SECRET_LENGTH_MIN = 16  # What is shorter than any real key may be an innocent word.
DEPTH_MAX = 64  # Nothing that is read lies deeper.

_WELL = frozenset({"success", "succeeded", "completed"})
_ILL = frozenset({"error", "failed"})
_CANCELLED = frozenset({"cancelled", "canceled"})

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
# A URL inside a URL is percent-encoded, and inside that one once more: `%253F` is a `?` too.
_URL_QUERY = re.compile(r"(https?(?::|%(?:25)*3A)[^\s?\"'<>]*?)(?:\?|%(?:25)*3F)[^\s\"'<>]*", re.IGNORECASE)
# User and password of a URL; not its path, which may have an `@` of its own.
_URL_USER = re.compile(
    r"((?::|%(?:25)*3A)(?:\\*/|%(?:25)*2F){2})(?:(?!%(?:25)*(?:2F|3F|23))[^\s/?#\"<>\\])*(?:@|%(?:25)*40)",
    re.IGNORECASE,
)
# `signature=x`, `Signature: x`, `'X-Goog-Signature': 'x'`, and each of them within a text that was encoded once more.
_SIGNATURE = re.compile(
    r"((?:signature|security-token|\bsig)(?:\\*[\"']|%(?:25)*2[27])?\s*(?:=>|[:=]|%(?:25)*3[AD])\s*"
    r"(?:\\*[\"']|%(?:25)*2[27])?)[^\s&\"'<>\\]+",
    re.IGNORECASE,
)
# The last part of an address where we hear webhooks, wherever a proxy has put the rest; see rules/hooks.
_TOKEN = re.compile(r"(?:(?<![0-9a-z])|(?<=2f))[0-9a-f]{32}(?![0-9a-z])", re.IGNORECASE)

_LASTING_TEXTS = ("max size that fits in gpu memory", "cannot identify image", "could not decode", "validation error")
_PASSING_TEXTS = ("cuda out of memory", "provider_rate_limit", "provider_server_error", "network_error")


def progress(document: object) -> Progress:
    """How a prediction stands, from the body of a GET that was answered with 200."""
    if not isinstance(document, dict) or not isinstance(document.get("status"), str):
        raise Fault(
            "The prediction API answered with something that is not a prediction.", blame=Blame.SERVICE, gate=Gate.API
        )
    status = document["status"].strip().lower()
    if status in _WELL:
        url = next(_urls(document.get("output"), depth=4), None)
        if url is None:
            # Paid for: so it is asked for again, not made again.
            raise Fault("The prediction API says success but gives no result.", blame=Blame.SERVICE)
        return Succeeded(url, _cost(document, estimate=True), _number(_part(document, "metrics").get("predict_time")))
    if status in _ILL:
        why = reason(document)
        return Spoiled(why, _passes(document, why), _cost(document, estimate=False))
    if status in _CANCELLED:
        # Says nothing against the picture, so another run may do better; `submits_max` bounds what that can cost.
        return Spoiled("The prediction was cancelled.", True, _cost(document, estimate=False))
    return Running(one_line(status))


def prediction_id(document: object) -> str | None:
    """The id in a create's answer or in a row of the history; None where there is none that can be one."""
    if isinstance(document, dict):
        for key in ("predictionID", "id"):
            if is_id(value := document.get(key)):
                return str(value)
    return None


def is_id(value: object) -> bool:
    """Whether this may go into a path."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def reason(document: object) -> str:
    """Why the API failed or refused, as one line, wherever it says so."""
    if isinstance(document, dict):
        for words in (_words(document.get("output")), _words(document), _last_line(document.get("logs"))):
            if line := one_line(words):
                return line
    return (one_line(document) if isinstance(document, str) else "") or "The API gave no reason."


def one_line(text: str) -> str:
    """Printable, at most 300 characters, without queries and passwords of URLs, signatures and webhooks' tokens."""
    begin = text[: 10 * TEXT_MAX]  # Logs may have megabytes.
    plain = " ".join("".join(character if character.isprintable() else " " for character in begin).split())
    if len(begin) < len(text):
        plain = plain.rpartition(" ")[0] or plain  # Half a secret is one that no pattern knows.
    plain = _URL_USER.sub(r"\1…@", _URL_QUERY.sub(r"\1?…", plain))
    plain = _TOKEN.sub("…", _SIGNATURE.sub(r"\1…", plain))
    return plain if len(plain) <= TEXT_MAX else plain[: TEXT_MAX - 1] + "…"


def without(document: object, secrets: Collection[str]) -> object:
    """An answer in which `***` stands for every secret that it quotes, escaped in any usual way or not."""
    # The longest first, since one may begin with another.
    longest = sorted((secret for secret in secrets if len(secret) >= SECRET_LENGTH_MIN), key=len, reverse=True)
    patterns = [_spellings(secret) for secret in longest]
    return _replaced(document, re.compile("|".join(patterns)), DEPTH_MAX) if patterns else document


def same_url(ours: str, theirs: str) -> bool:
    """Whether two URLs are one, whatever happened to their percent-encoding and the order of their query."""
    return _canonical(ours) == _canonical(theirs)


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds from a Retry-After header, given as such or as a date; at most an hour."""
    text = (header or "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return min(float(text), RETRY_AFTER_MAX)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # The latter where its time zone has a dozen digits.
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(moment.timestamp() - now, 0.0), RETRY_AFTER_MAX)


def moment(value: object) -> float | None:
    """Seconds since 1970 from an RFC 3339 text or a number; None where it is neither."""
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value.strip())
            return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    return _number(value)


def _spellings(secret: str) -> str:
    """A pattern of all that JSON or a URL may make of a text, once or more: `\\/`, `\\u002f`, `%2F`, `%252F`."""
    return "".join(each if each.isalnum() else _spelling(each) for each in secret)


def _spelling(sign: str) -> str:
    digits = f"(?i:{ord(sign):02x})"
    return rf"(?:\\{{0,8}}{re.escape(sign)}|\\{{1,8}}u00{digits}|%(?:25){{0,8}}{digits})"


def _replaced(value: object, pattern: re.Pattern[str], depth: int) -> object:
    if isinstance(value, str):
        return pattern.sub("***", value)
    if isinstance(value, list):
        return [_replaced(item, pattern, depth - 1) for item in value] if depth else None
    if isinstance(value, dict):
        return {pattern.sub("***", key): _replaced(value[key], pattern, depth - 1) for key in value} if depth else None
    return value


def _canonical(url: str) -> tuple[str, list[str]]:
    # Undone to the bottom, and `+` taken for a space: two uploads never differ by encoding alone, while taking one URL
    # for two would pay twice. Stopped short, a URL with a `%` of its own would be another one when it is quoted back.
    for _ in range(ENCODINGS_MAX):
        url = unquote(url)
    address, _, query = url.replace("+", " ").partition("?")
    scheme, separator, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    default_port = {"https": ":443", "http": ":80"}.get(scheme.lower(), "")
    return f"{scheme.lower()}{separator}{host.lower().removesuffix(default_port)}{slash}{path}", sorted(
        query.split("&")
    )


def _urls(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(("https://", "http://")):
        yield value
    elif isinstance(value, list) and depth:
        for item in value:
            yield from _urls(item, depth - 1)
    elif isinstance(value, dict) and depth:
        for key in ("url", "image", "images", "output", "data"):
            yield from _urls(value.get(key), depth - 1)


def _words(value: object, depth: int = 4) -> str:
    """The texts of an error, outermost first: a text itself, an object's known keys, a list's items."""
    if isinstance(value, str):
        return value
    if depth and isinstance(value, list):
        return "; ".join(filter(None, (_words(item, depth - 1) for item in value)))
    if depth and isinstance(value, dict):
        keys = ("error_message", "error", "message", "details", "detail", "msg")
        # A dict, because the same sentence often stands under two keys.
        return ": ".join(dict.fromkeys(filter(None, (_words(value.get(key), depth - 1) for key in keys))))
    return ""


def _last_line(logs: object) -> str:
    lines = logs if isinstance(logs, list) else logs.splitlines() if isinstance(logs, str) else []
    return next((line for line in reversed(lines) if isinstance(line, str) and line.strip()), "")


def _passes(document: dict[str, object], why: str) -> bool:
    output = document.get("output")
    where = [document, output[0] if isinstance(output, list) and output else output]
    found = [item for item in where if isinstance(item, dict)]
    codes = [code for item in found if isinstance(code := item.get("error_code"), str)]
    text = " ".join([why, *codes]).lower()
    if any(known in text for known in _LASTING_TEXTS):
        return False
    return any(known in text for known in _PASSING_TEXTS) or any(item.get("retryable") is True for item in found)


def _cost(document: dict[str, object], *, estimate: bool) -> float:
    metrics = _part(document, "metrics")
    if document.get("billed") is False or metrics.get("billed") is False:
        return 0.0
    cost = _number(metrics.get("cost")) or 0.0
    if cost <= 0 and estimate:
        # With no word about either, what it usually takes: a budget must not take it for nothing.
        cost = (_number(metrics.get("predict_time")) or TYPICAL_PREDICT_SECONDS) * USD_PER_SECOND
    return min(cost, USD_MAX)


def _part(document: dict[str, object], key: str) -> Mapping[str, object]:
    part = document.get(key)
    return part if isinstance(part, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
