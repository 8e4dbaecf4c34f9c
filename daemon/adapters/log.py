"""
Log: one line per fact, for people on a terminal and as JSON elsewhere, without secrets.

Every line, those of foreign libraries too (WARNING and above), goes through one chain: fields in a fixed order (time in
RFC 3339 and UTC, level, event, the rest), values made plain, secrets made `***`. What comes from outside cannot forge a
line: in the console format whatever does not print is escaped. A stream that takes no more (a full disk, a closed pipe)
loses lines and fails nobody. Nothing here raises.
"""

import datetime
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Literal, TextIO
from urllib.parse import quote

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from daemon.adapters.clock import SystemClock

SYSTEM_CLOCK = SystemClock()
DEPTH_MAX = 8
HIDDEN = "***"
COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}

# Names of fields, headers and query parameters whose values are hidden wherever they stand.
_NAMES = (
    r"(?:proxy-)?authorization|x-api-key|api[_-]?key|x-webhook-(?:secret|signature)|webhook[_-]secret|(?:set-)?cookie"
    r"|(?:access|id|refresh)[_-]token|x-(?:goog|amz)-[a-z-]+|signature|token|secret|password|googleaccessid|upload_id"
)
_FIELD = re.compile(_NAMES, re.IGNORECASE)
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # The query and the fragment of a URL, with JSON's escaped slashes too; then its user and password.
        (r"(https?:(?:\\?/){2}[^\s?#\"<>]*)([?#])[^\s\"<>]*", r"\1\2***"),
        (r"(https?:(?:\\?/){2})[^\s/?#@\"<>]*@", r"\1***@"),
        # `Authorization: Bearer abc` hides the rest of the line, because a scheme may take several words.
        (r"(authorization[\"']?\s*[:=,]\s*b?[\"']?)[^\"'\r\n]+", r"\1***"),
        # `X-API-Key: abc`, `'x-api-key': 'abc'`, `("x-api-key", "abc")`, `/path?token=abc`.
        (rf"(?<![\w-])((?:{_NAMES})(?:\\?[\"']?\s*[:=]|\\?[\"']\s*,)\s*b?\\?[\"']?)[^\s\"'&,;<>\\]+", r"\1***"),
        # The token of an address where we hear webhooks.
        (r"(/hook/)[0-9a-f]{32}\b", r"\1***"),
        (r"\b(bearer\s+)[\w.~+/=-]{8,}", r"\1***"),
    )
)
# Once a secret, always a secret: a key that was replaced at a reload stays out of the log.
_known: set[str] = set()

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}  # syslog's


def redact(text: str) -> str:
    """The text with known secrets, queries of URLs and values of secret headers replaced by `***`."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def configure(
    level: str,
    format: Literal["auto", "console", "json"],
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
    wall: Callable[[], float] = SYSTEM_CLOCK.wall,
) -> None:
    """Set up structlog and the standard library's logging; may be called again with other settings.

    level: debug, info, warning or error. stream: standard error where it is None. secrets: texts to hide wherever they
    turn up. wall: seconds since 1970, for the time of a line.
    """
    stream = stream or sys.stderr
    _known.update(form for secret in secrets if secret for form in (secret, quote(secret, safe="")))
    terminal = stream.isatty()
    as_console = format == "console" or (format == "auto" and terminal)
    # journald takes a line's priority from its beginning, and cuts that off.
    for_journal = stream is sys.stderr and "JOURNAL_STREAM" in os.environ and not terminal
    colours = terminal and not os.environ.get("NO_COLOR")

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        time = datetime.datetime.fromtimestamp(wall(), datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": time.replace("+00:00", "Z"), "level": method, "event": _plain(event.pop("event", ""), 0)}
        line |= {f"{key}_" if key in line else key: value for key, value in _plain_fields(event, 0).items()}
        text = _console(line, colours) if as_console else orjson.dumps(line).decode()
        return f"<{PRIORITIES.get(method, 6)}>{text}" if for_journal else text

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.format_exc_info, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=False,  # A reload may change everything above.
    )
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge(logging.WARNING))
    root.setLevel(logging.WARNING)
    # Google's libraries cut their logger off from the root where nobody has set it up.
    logging.getLogger("google").setLevel(logging.WARNING)
    logging.getLogger("google").propagate = True


class _Bridge(logging.Handler):
    """Hands the records of foreign libraries to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # Arguments that do not fit the message.
            message = str(record.msg)
        fields = {"exc_info": record.exc_info} if record.exc_info else {}
        level = min(record.levelno // 10 * 10, logging.CRITICAL)  # Libraries may have levels of their own.
        structlog.get_logger().log(level, message, logger=record.name, **fields)


class _Lines:
    """Writes finished lines, each with one call, so that lines of several threads do not mix."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # Nobody reads any more; the work goes on.
            pass

    debug = info = warning = warn = error = err = critical = fatal = exception = log = msg


def _plain_fields(fields: Mapping[Any, object], depth: int) -> dict[str, object]:
    plain = {_text(key if isinstance(key, str | bytes) else str(key)): value for key, value in fields.items()}
    return {key: HIDDEN if _FIELD.fullmatch(key) else _plain(value, depth) for key, value in plain.items()}


def _plain(value: object, depth: int) -> object:
    """The value in kinds that JSON knows, its texts without secrets; what nests too deep becomes an ellipsis."""
    match value:
        case None | bool() | float():
            return value
        case Enum():
            return _plain(value.value, depth)
        case int():
            return value if -(2**63) <= value < 2**64 else str(value)
        case str() | bytes():
            return _text(value)
        case os.PathLike():
            return _text(os.fspath(value))
        case dict() | list() | tuple() | set() | frozenset() if depth >= DEPTH_MAX:
            return "…"
        case dict():
            return _plain_fields(value, depth + 1)
        case list() | tuple() | set() | frozenset():
            return [_plain(each, depth + 1) for each in value]
        case _:
            return _text(str(value) if isinstance(value, BaseException) else repr(value))


def _text(value: str | bytes) -> str:
    r"""Text without secrets; what is not UTF-8 (in a str of a file name: its surrogates) as \xNN."""
    try:
        raw = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # Surrogates that stand for no byte.
        raw = str(value).encode(errors="backslashreplace")
    return redact(raw.decode(errors="backslashreplace"))


def _console(line: dict[str, object], colours: bool) -> str:
    exception = line.pop("exception", None)
    time, level, event = line.pop("time"), str(line.pop("level")), line.pop("event")
    paint = (lambda text, code: f"\x1b[{code}m{text}\x1b[0m") if colours else (lambda text, code: text)
    head = f"{time} {paint(f'{level:<8}', COLOURS.get(level, '0'))} {_printable(str(event))}"
    tail = [f"{_printable(key)}={paint(_word(value), '36')}" for key, value in line.items()]
    trace = [f"    | {_printable(each)}" for each in str(exception).splitlines()] if exception else []
    return "\n".join([" ".join([head, *tail]), *trace])


def _word(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    bare = not isinstance(value, str) or re.fullmatch(r"[^\s\"'=]+", text)
    return _printable(text if bare else '"' + text.replace('"', '\\"') + '"')


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
