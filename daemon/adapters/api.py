"""
Api: one call to each::labs' API: its base, its key, JSON in and out, and what its refusals mean for everybody.

Returns an `Answer` for every status; raises Fault where there is none. The key is sent to the API alone, never to a
redirect, and is taken out of every answer that quotes it, as are the other secrets that the API was told.
"""

from collections.abc import Collection
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import orjson

from daemon.adapters.answers import retry_after, without
from daemon.adapters.http import Http, Lane, Peer
from daemon.ports import Clock
from daemon.rules.faults import Blame, Created, Fault, Gate, Outlook

ANSWER_BYTES_MAX = 4 * 1024 * 1024  # A prediction with long logs fits; what is longer is cut, and is nothing.

PREDICTIONS = Peer("The prediction API", Gate.API)
UPLOADS = Peer("The prediction API's file storage", Gate.STORAGE)


@dataclass(frozen=True, slots=True)
class Answer:
    """document: the body as JSON, None where it is none. retry_after: seconds. location: of a redirect."""

    status: int
    document: object
    retry_after: float | None
    location: str

    @property
    def good(self) -> bool:
        """Whether the API did what was asked."""
        return 200 <= self.status < 300


class Api:
    """The API as one key sees it."""

    def __init__(
        self,
        base_url: str,
        key: str,
        http: Http,
        clock: Clock,
        *,
        auth: str,
        peer: Peer,
        secrets: Collection[str] = (),
    ) -> None:
        """auth: x-api-key or bearer. secrets: what else no answer may bring into a report."""
        if not (key and key.isascii() and key.isprintable()) or " " in key:
            raise Fault(
                "The API key is empty or has characters that no key has.",
                blame=Blame.SERVICE,
                outlook=Outlook.LASTING,
                gate=peer.gate,
                remedy="Copy the key again, without line breaks and quotes, to where [api] key_file points.",
            )
        self._base = base_url.rstrip("/")
        self._secrets = (key, *secrets)
        self._headers = {
            "Accept": "application/json",
            **({"Authorization": f"Bearer {key}"} if auth == "bearer" else {"X-API-Key": key}),
        }
        self._http = http
        self._clock = clock
        self.peer = peer
        # How far the API's clock is ahead of ours, seconds, by its last answer; 0 before the first.
        self.skew = 0.0

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        seconds: float = 30.0,
        lane: Lane = Lane.API,
        secrets: Collection[str] = (),
    ) -> Answer:
        """One request and its whole answer; path begins with a slash. secrets: what else this one tells the API."""
        headers = {**self._headers, "Content-Type": "application/json"} if body is not None else self._headers
        data = orjson.dumps(body) if body is not None else None
        async with self._http.request(
            lane, method, self._base + path, self.peer, seconds=seconds, headers=headers, data=data
        ) as response:
            self.skew = skew(response.headers.get("Date"), self._clock.wall())
            raw = bytearray()
            async for block in response.content.iter_any():
                raw += block
                if len(raw) > ANSWER_BYTES_MAX:
                    break
            document = _json(raw) if len(raw) <= ANSWER_BYTES_MAX else None
            return Answer(
                status=response.status,
                # Some services quote what they refuse. JSON may escape it, so it is read first.
                document=without(document, (*self._secrets, *secrets)),
                retry_after=retry_after(response.headers.get("Retry-After"), self._clock.wall()),
                location=response.headers.get("Location", ""),
            )

    def refusal(self, answer: Answer, *, created: Created = Created.NO) -> Fault:
        """The fault behind a status that concerns everybody, not one picture or one id.

        created: what a 5xx leaves known of a create.
        """
        status = answer.status
        if status in (401, 403):
            said = f"The API key was refused ({status})."
            remedy = "Give a valid key (key_file, the credential api-key or ESRGAND_API_KEY), and look at [api] auth."
        elif status == 402:
            said = "The account's balance does not cover the pictures in flight (402)."
            remedy = "Top up the account at the API's vendor, or make [api] in_flight_max smaller."
        elif 300 <= status < 400:
            said = f"{self.peer.name} answered with a redirect ({status}), which is not followed."
            remedy = "Correct [api] base_url: it is the address of the API itself."
        else:
            said, remedy = f"{self.peer.name} answered with status {status}.", ""
            if status == 429:
                said = f"{self.peer.name} asks us to slow down (429)."
            elif status >= 500:
                said = f"{self.peer.name} has a fault of its own ({status})."
        return Fault(
            said,
            blame=Blame.SERVICE,
            outlook=Outlook.LASTING if remedy else Outlook.PASSING,
            remedy=remedy,
            gate=self.peer.gate,
            retry_after=answer.retry_after,
            created=Created.NO if 300 <= status < 500 else created,
            rate_limited=status == 429,
        )

    async def close(self) -> None:
        """Close the connections; another call makes new ones."""
        await self._http.close()


SKEW_SECONDS_MIN = 30.0  # A Date has whole seconds, and an answer takes its time.


def skew(date: str | None, now: float) -> float:
    """How far the clock that wrote a Date header is ahead of ours, seconds; 0 where it says nothing."""
    try:
        ahead = parsedate_to_datetime(date).timestamp() - now if date else 0.0
        return ahead if abs(ahead) > SKEW_SECONDS_MIN else 0.0
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _json(raw: bytearray) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
