"""
Bodies: what clients may ask for, checked before anything happens.

Pure. Everything that is not as it should be is a `Refusal` with the HTTP status and a sentence; 400 for a request that
cannot be understood, 422 for a value that cannot be met.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from yarl import URL

from daemon.rules.recipe import MODEL, SCALE_MAX

# The name of a result: unguessable, and no path.
OUTPUT_NAME = re.compile(r"[0-9a-f]{32}\.png")
INPUT_KEYS = {"image", "scale", "face_enhance"}
CREATE_KEYS = {"model", "version", "input", "webhook_url", "webhook_secret"}
# The types that can be uploaded, with the suffix of the public name.
SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}
EXPIRES_SECONDS_MAX = 604_800
URL_LENGTH_MAX = 8_192
ROWS_MAX = 100


class Refusal(Exception):
    """A request that is not met. message: a short name of the reason. details: a sentence."""

    def __init__(self, status: int, message: str, details: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Order:
    """A create that can be met. input: as sent."""

    input: dict[str, Any]
    webhook_url: str = field(default="", repr=False)
    webhook_secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """since: seconds since 1970. model: "" for all."""

    model: str
    since: float
    limit: int
    offset: int


def parse_create(body: bytes) -> Order:
    """The order in the body of a create."""
    asked = parse_object(body)
    if "model" not in asked:
        raise Refusal(400, "Bad request", "model is missing")
    if asked["model"] != MODEL:
        raise Refusal(404, "Model not found", f"the only model here is {MODEL}")
    refuse_unknown(asked, CREATE_KEYS)
    wanted = asked.get("input")
    if not isinstance(wanted, dict) or "image" not in wanted:
        raise Refusal(400, "Bad request", "input.image is missing")
    refuse_unknown(wanted, INPUT_KEYS)
    check_url("input.image", wanted["image"])
    scale = wanted.get("scale", 4)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale <= SCALE_MAX:
        raise Refusal(422, "Validation failed", "input.scale must be a number from 0 to 10")
    if not isinstance(wanted.get("face_enhance", False), bool):
        raise Refusal(422, "Validation failed", "input.face_enhance must be true or false")
    webhook_url, secret = asked.get("webhook_url") or "", asked.get("webhook_secret") or ""
    if webhook_url:
        check_url("webhook_url", webhook_url)
    if not isinstance(secret, str) or not secret.isascii() or not (secret == "" or secret.isprintable()):
        raise Refusal(422, "Validation failed", "webhook_secret must be printable ASCII")
    return Order(wanted, webhook_url, secret)


def parse_presign(body: bytes) -> tuple[str, int]:
    """The content type of the file to come, and for how many seconds it is to be kept."""
    asked = parse_object(body)
    content_type = asked.get("content_type")
    if not isinstance(content_type, str):
        raise Refusal(400, "Bad request", "content_type is missing")
    if content_type not in SUFFIXES:
        raise Refusal(422, "Validation failed", f"content_type must be one of {', '.join(SUFFIXES)}")
    if asked.get("file_type", "image") != "image":
        raise Refusal(422, "Validation failed", "file_type must be image")
    seconds = asked.get("expires_in_seconds", EXPIRES_SECONDS_MAX)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= EXPIRES_SECONDS_MAX:
        details = f"expires_in_seconds must be a whole number from 1 to {EXPIRES_SECONDS_MAX}"
        raise Refusal(422, "Validation failed", details)
    return content_type, seconds


def parse_history(query: Mapping[str, str]) -> HistoryQuery:
    """What a history request asks for; everything is optional."""
    since = 0.0
    if "from" in query:
        try:
            moment = datetime.fromisoformat(query["from"])
            if moment.tzinfo is None:
                raise ValueError
        except ValueError:
            raise Refusal(400, "Bad request", "from must be a time as in RFC 3339, with its offset from UTC") from None
        since = moment.timestamp()
    limit = parse_count(query, "limit", 20, ROWS_MAX)
    offset = parse_count(query, "offset", 0, 10**9)
    return HistoryQuery(query.get("model", ""), since, limit, offset)


def parse_count(query: Mapping[str, str], key: str, default: int, most: int) -> int:
    """A whole number from 0 to `most` in a query."""
    text = query.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
        raise Refusal(400, "Bad request", f"{key} must be a whole number from 0 to {most}")
    return int(text)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body has to be."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refusal(400, "Bad request", "the body is not JSON") from None
    if not isinstance(asked, dict):
        raise Refusal(400, "Bad request", "the body is not a JSON object")
    return asked


def refuse_unknown(asked: dict[str, Any], known: set[str]) -> None:
    """A key that means nothing here is somebody's mistake, better met at once."""
    unknown = sorted(set(asked) - known)
    if unknown:
        raise Refusal(422, "Validation failed", f"unknown key {unknown[0][:40]}")


def check_url(key: str, value: object) -> None:
    """A whole http or https URL of bounded length, or a refusal that does not repeat it."""
    sound = isinstance(value, str) and len(value) <= URL_LENGTH_MAX and value.isprintable() and " " not in value
    if sound:
        try:
            url = URL(str(value))
            sound = url.scheme in ("http", "https") and bool(url.host) and url.port != 0
        except ValueError:
            sound = False
    if not sound:
        raise Refusal(422, "Validation failed", f"{key} must be an http or https URL")
