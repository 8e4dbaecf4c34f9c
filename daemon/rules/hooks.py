"""
Hooks: where the service may tell us that a prediction is over, and whether it is the service that tells. Pure.

A webhook is a hint that makes us ask now, never a fact, so the worst that a forged or repeated one can do is a question
too many. Each submit has an address of its own: its token is the same after a restart and cannot be guessed from
outside. Nothing here raises, whatever the headers hold.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.rules.job import Tile

TOKEN_DIGITS = 32
TRUST_STEP = 0.25  # how much one prediction says of the next
TRUST_MIN = 0.7  # from never heard of, five in a row; from always, two that were missed
MISSED_MAX = 5  # in a row, and a person should know
PATIENCE_SECONDS = 5.0  # a webhook may come a little later than an answer that we asked for


@dataclass(frozen=True, slots=True)
class Hook:
    """What a create tells the service: where to call, and what to show there. Neither belongs into a log."""

    url: str = field(repr=False)
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Hooks:
    """The addresses of all submits of one ledger.

    public_url: where the service reaches the listener from outside. identity: the ledger's, which nobody else knows.
    """

    public_url: str
    secret: str = field(repr=False)
    identity: str = field(repr=False)

    def token(self, tile: Tile) -> str:
        """The last part of the address of the tile's present submit: 32 hex digits."""
        submit = f"{tile.job.id}/{tile.number}/{tile.submits}"
        return hmac.new(self.identity.encode(), submit.encode(), hashlib.sha256).hexdigest()[:TOKEN_DIGITS]

    def hook(self, tile: Tile) -> Hook:
        """What the tile's present submit tells the service."""
        return Hook(f"{self.public_url.rstrip('/')}/{self.token(tile)}", self.secret)


@dataclass(slots=True)
class Trust:
    """Whether the service tells us when predictions are over, so that there is little need to ask.

    share: how often it did lately, 0 to 1. missed: how often it did not, in a row. awaited: submits that were over
    without its word, and until when that may still come, monotonic seconds.
    """

    share: float = 0.0
    missed: int = 0
    awaited: dict[str, float] = field(default_factory=dict)

    @property
    def told(self) -> bool:
        """Whether to rely on it."""
        return self.share >= TRUST_MIN

    def heard(self) -> None:
        """It told of an end."""
        self.missed = 0
        self.share += (1.0 - self.share) * TRUST_STEP

    def late(self, token: str) -> None:
        """It tells of what we know already; or of what nobody asked for."""
        if self.awaited.pop(token, None) is not None:
            self.heard()

    def silent(self, token: str, now: float) -> None:
        """We found an end by asking."""
        self.awaited[token] = now + PATIENCE_SECONDS

    def settle(self, now: float) -> None:
        """What did not come in time did not come."""
        for token in [token for token, until in self.awaited.items() if until <= now]:
            del self.awaited[token]
            self.missed += 1
            self.share -= self.share * TRUST_STEP


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a webhook comes from somebody who knows `secret`; without a secret its token alone decides.

    Documentation disagrees on how the service shows it: `X-Webhook-Secret` is the secret itself, `X-Webhook-Signature`
    the hex HMAC-SHA256 over `<X-Webhook-Timestamp>.<body>`. Either will do. The time is not looked at: a repeated
    webhook makes us ask once more, and that is all.
    """
    if not secret:
        return True
    given = {name.lower(): value for name, value in headers.items()}
    signed = _bytes(given.get("x-webhook-timestamp", "")) + b"." + body
    expected = hmac.new(_bytes(secret), signed, hashlib.sha256).hexdigest()
    signature = given.get("x-webhook-signature", "").strip().lower().removeprefix("sha256=")
    shown = hmac.compare_digest(_bytes(given.get("x-webhook-secret", "")), _bytes(secret))
    return hmac.compare_digest(_bytes(signature), expected.encode()) or shown


def _bytes(text: str) -> bytes:
    """Header values that were not UTF-8 hold surrogates, which a strict encoding raises on."""
    return text.encode("utf-8", "surrogatepass")
