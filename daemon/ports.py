"""
Ports: what the inside asks of the outside, and what it may rely on.

Every method either does what it says or raises `Fault`; no other exception gets past an adapter. Each port that has a
fake has one conformance suite in `tests/conformance/`, run on the fake and on every real adapter.
"""

import asyncio
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from daemon.rules.recipe import Recipe


class Clock(Protocol):
    """Time and dice; nobody else reads the one or rolls the other."""

    def wall(self) -> float:
        """Seconds since 1970 in UTC. May jump: for records and for people, never to measure a pause."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def dice(self) -> float:
        """A random number in [0, 1)."""

    def token(self, bytes_: int) -> str:
        """An unguessable hex string of twice that many digits."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait for `event`, at most `seconds`; True where the event came."""


@dataclass(frozen=True, slots=True)
class Asset:
    """An uploaded copy that the service can read.

    ref: what `delete` needs, opaque, without secrets.
    url: unique to this upload; may carry a signature, so it never goes into a log or a sidecar.
    expires_at: seconds since 1970, or None where the URL lives as long as the object.
    """

    ref: str
    url: str
    expires_at: float | None


class Storage(Protocol):
    """Where the service reads a picture from."""

    async def put(self, key: str, source: BinaryIO, bytes_: int, content_type: str) -> Asset:
        """Store `bytes_` bytes of `source` (from its beginning) and return how to read them.

        key: safe ASCII `[a-z0-9/_.-]`, below the adapter's own prefix. Putting the same bytes under the same key again
        is fine; the object is whole or not there.
        """

    async def fresh(self, asset: Asset) -> Asset:
        """The same object with a URL as fresh as can be had without uploading again."""

    async def delete(self, ref: str) -> None:
        """Remove the object; one that is gone already is fine."""

    async def check(self) -> None:
        """Put, read back and delete a small object; raises the Fault that a picture would meet."""

    async def close(self) -> None:
        """Let go of connections and threads."""


@dataclass(frozen=True, slots=True)
class Running:
    """Not over: ask again. status: the API's own word."""

    status: str


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Over: the result is at `output` (public, for a day). cost_usd and predict_seconds: as billed."""

    output: str
    cost_usd: float
    predict_seconds: float | None


@dataclass(frozen=True, slots=True)
class Spoiled:
    """Over without a result. reason: the API's own text, made one line. passing: whether another run may do better."""

    reason: str
    passing: bool
    cost_usd: float


Progress = Running | Succeeded | Spoiled


class Predictor(Protocol):
    """The prediction API."""

    async def create(self, recipe: Recipe, image_url: str) -> str:
        """Start a paid prediction and return its id. Called once per recorded intent and never repeated inside.

        Raises Fault with `created` NO where nothing was created for certain, MAYBE everywhere else.
        """

    async def get(self, prediction: str) -> Progress:
        """Ask once how a prediction stands. Raises Unknown where the API does not know the id."""

    async def find(self, model: str, image_url: str, since: float) -> str | None:
        """Search the account's history since `since` (seconds since 1970) for the prediction made from `image_url`.

        None where the history as it stands now does not have it. Raises Fault where the history cannot be read.
        """

    async def download(self, url: str, sink: BinaryIO, bytes_max: int) -> int:
        """Write the body behind a result URL to `sink`; returns how many bytes. Never sends the key.

        Raises Expired where the link is gone, Fault for everything else, a body above `bytes_max` too.
        """

    async def check(self) -> None:
        """Look whether the key is accepted, without creating anything."""

    async def close(self) -> None:
        """Let go of connections."""
