"""
Configuration, the kinds of values: each takes what TOML gives and returns what the program works with, or says what
would be right.

Every check raises `ValueError` with a noun phrase that completes "it must be ...". Paths become absolute here; whether
anything lies at them is not looked at.
"""

import re
import string
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from daemon.rules.admission import Enough

EMBEDDED = "embedded"
NAME_FIELDS = {"stem", "scale", "model", "suffix"}
DAY_SECONDS = 86_400.0
HOST_MAX = 253
LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = rf"({LABEL}\.)*{LABEL}\.?"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine and nothing else."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def within(low: float, high: float) -> AfterValidator:
    """A number from `low` to `high`, both included."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(f"a number from {low:,g} to {high:,g}".replace(",", "_"))
        return value

    return AfterValidator(check)


def above_zero(high: float) -> AfterValidator:
    """A number above 0, at most `high`."""

    def check(value: float) -> float:
        if not 0 < value <= high:
            raise ValueError(f"a number above 0 and at most {high:g}")
        return value

    return AfterValidator(check)


def _place(value: object, info: ValidationInfo) -> object:
    """Make a path absolute: `~` is a home directory, and a relative one starts at the configuration file's folder."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("a path in quotes, not empty")
    base: Path = info.context["base"] if info.context else Path()
    try:
        return base / Path(value).expanduser()
    except RuntimeError:
        raise ValueError("a path whose ~ names a user of this machine") from None


def _place_or_none(value: object, info: ValidationInfo) -> object:
    return None if value in ("", None) else _place(value, info)


def _quiet(value: object) -> object:
    if isinstance(value, str):
        if value != "auto":
            raise ValueError('a number of seconds, or "auto"')
        return None
    return value


def _url(value: str, https_only: bool) -> str:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("a URL such as https://api.example.org/v1") from None
    if "@" in parts.netloc:
        raise ValueError("a URL without a user or a password in it")
    if parts.scheme != "https" and (https_only or parts.scheme != "http" or not is_loopback(host)):
        raise ValueError("a URL that starts with https://" + ("" if https_only else " (http:// only on this machine)"))
    if not host or "?" in value or "#" in value or not value.isprintable() or " " in value:
        raise ValueError("a URL such as https://api.example.org/v1, without ? and #")
    return value.rstrip("/")


def _base_url(value: str) -> str:
    return value if value == EMBEDDED else _url(value, https_only=False)


def _https_url(value: str) -> str:
    return _url(value, https_only=True) if value else ""


def _hook_url(value: str) -> str:
    return _url(value, https_only=False) if value else ""


def _result_name(value: str) -> str:
    try:
        fields = {(field, spec, how) for _, field, spec, how in string.Formatter().parse(value) if field is not None}
    except ValueError:
        raise ValueError("a name whose { and } come in pairs") from None
    if not fields <= {(field, "", None) for field in NAME_FIELDS}:
        raise ValueError("a name with no other fields than {stem}, {scale}, {model} and {suffix}")
    if ("stem", "", None) not in fields:
        raise ValueError("a name with {stem} in it, or all pictures would want the same one")
    if "/" in value or not value.isprintable() or value.startswith("."):
        raise ValueError("a name without / and control characters that does not start with a dot")
    return value


def _patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(value):
        raise ValueError("a list of patterns such as *.jpg, none of them empty")
    return value


def _bucket(value: str) -> str:
    if value and not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", value):
        raise ValueError("the bare name of a bucket, without gs:// and /")
    return value


def _prefix(value: str) -> str:
    if not re.fullmatch(r"([A-Za-z0-9_.-][A-Za-z0-9/_.-]*)?", value):
        raise ValueError("letters, digits, / _ . and -, with no / at the start")
    return value


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if ":" in host or host.startswith("["):
        try:
            right = host.startswith("[") and host.endswith("]") and ip_address(host[1:-1]).version == 6
        except ValueError:
            right = False
        if not right:
            raise ValueError("host:port with an IPv6 address in brackets, such as [::1]:8484")
    elif value and not (len(host) <= HOST_MAX and re.fullmatch(HOST, host)):
        raise ValueError("host:port, such as 127.0.0.1:8484, or empty")
    if value and not (re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 65_536):
        raise ValueError("host:port, such as 127.0.0.1:8484, or empty")
    return value


def _enough(value: object) -> object:
    """`4000 x 3000` or `12 megapixels`; "" is None."""
    if value is None or isinstance(value, Enough):
        return value
    text = value.strip().lower() if isinstance(value, str) else "?"
    if not text:
        return None
    if sides := re.fullmatch(r"([1-9][0-9]{0,5}) ?x ?([1-9][0-9]{0,5})", text):
        one, other = int(sides[1]), int(sides[2])
        return Enough(longer=max(one, other), shorter=min(one, other))
    size = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,6})?) ?(?:mp|megapixels?)", text)
    if size and (pixels := round(float(size[1]) * 1e6)):
        return Enough(pixels=pixels)
    raise ValueError('a size such as "4000 x 3000" or "12 megapixels", or empty')


Place = Annotated[Path, BeforeValidator(_place)]
OptionalPlace = Annotated[Path | None, BeforeValidator(_place_or_none)]
Patterns = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_patterns)]
Seconds = Annotated[float, above_zero(365 * DAY_SECONDS)]
QuietSeconds = Annotated[Seconds | None, BeforeValidator(_quiet)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
HttpsUrl = Annotated[str, AfterValidator(_https_url)]
HookUrl = Annotated[str, AfterValidator(_hook_url)]
SkipAbove = Annotated[Enough | None, BeforeValidator(_enough)]
ResultName = Annotated[str, AfterValidator(_result_name)]
Bucket = Annotated[str, AfterValidator(_bucket)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Listen = Annotated[str, AfterValidator(_listen)]
