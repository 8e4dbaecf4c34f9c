"""
Hosted: the Predictor port over each::labs' prediction API.

Promises: a create is sent once and is never repeated inside; where it may have been billed the fault says MAYBE.
Statuses decide, bodies only explain. A result's link is data from outside: it never gets the key, and what it leads to
may not grow without limit.

Fails as PICTURE (400, 422), Unknown, Expired, NotAPicture (a result that is too large), HOUSE (the staging disk is
full), else SERVICE with the gate to close.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from typing import BinaryIO
from urllib.parse import quote, urlencode, urljoin, urlsplit

from daemon.adapters.answers import moment, prediction_id, progress, reason, same_url
from daemon.adapters.api import PREDICTIONS, Answer, Api
from daemon.adapters.http import Http, Lane, Peer
from daemon.ports import Clock, Progress
from daemon.rules.faults import Blame, Created, Expired, Fault, Gate, NotAPicture, Outlook, Unknown
from daemon.rules.hooks import Hook
from daemon.rules.recipe import MODEL, Recipe

POLL_SECONDS_MAX = 30.0
SKEW_SECONDS = 300.0  # How far the API's clock and ours may drift apart unseen when the history is searched.
FUTURE_SECONDS = 6 * 3600.0  # How far back is searched for a create that left in what is still the API's future.
ROW_SECONDS_SPARE = 86_400.0
HISTORY_ROWS = 100
HISTORY_PAGES_MAX = 50
UNANSWERED_MAX = 3  # so many predictions that the API does not tell about end a look into its history
DOWNLOAD_BYTES_PER_SECOND_MIN = 50_000
DOWNLOAD_SECONDS_MAX = 3600.0
BLOCK_BYTES = 256 * 1024
PASSING_REFUSALS = frozenset({408, 425, 429})  # A link that is refused with one of these may work later.

NOBODYS = "00000000-0000-0000-0000-000000000000"  # An id that is well-formed, and that no prediction has.

RESULT = Peer("The host of the result", Gate.FETCH)


class HostedPredictor:
    """The Predictor port."""

    def __init__(
        self,
        base_url: str,
        key: str,
        http: Http,
        clock: Clock,
        *,
        auth: str = "x-api-key",
        secrets: Collection[str] = (),
        create_seconds_max: float = 60.0,
        stall_seconds_max: float = 60.0,
    ) -> None:
        """auth: x-api-key or bearer. secrets: what no report may show, with the key.

        stall_seconds_max: the longest silence within a download.
        """
        self._api = Api(base_url, key, http, clock, auth=auth, peer=PREDICTIONS, secrets=secrets)
        self._base_url = base_url.rstrip("/")
        self._http = http
        self._clock = clock
        self._create_path = "/prediction/"
        self._create_seconds_max = create_seconds_max
        self._stall_seconds_max = stall_seconds_max

    async def create(self, recipe: Recipe, image_url: str, hook: Hook | None = None) -> str:
        """Start a paid prediction; see the port."""
        body = {"model": recipe.model, "input": recipe.input(image_url)}
        secrets: tuple[str, ...] = ()
        if hook is not None:
            body |= {"webhook_url": hook.url, "webhook_secret": hook.secret}
            secrets = (hook.url.rpartition("/")[2], hook.secret)
        try:
            async with asyncio.timeout(self._create_seconds_max):
                path = self._create_path
                answer = await self._post(path, body, secrets)
                if self._differs_by_slash(path, answer):
                    # A redirect has created nothing, so this is still the first create.
                    self._create_path = path = "/prediction" if path.endswith("/") else "/prediction/"
                    answer = await self._post(path, body, secrets)
        except TimeoutError:
            raise _in_doubt("The prediction API did not answer in time") from None
        if answer.good:
            prediction = prediction_id(answer.document)
            if prediction is None:
                raise _in_doubt(f"The prediction API accepted ({answer.status}) but gave no prediction id")
            return prediction
        if answer.status in (400, 422):
            why = reason(answer.document)
            if hook is not None and "webhook" in why.lower():
                raise Fault(
                    f"The prediction API refused our address for webhooks ({answer.status}): {why}",
                    blame=Blame.SERVICE,
                    outlook=Outlook.LASTING,
                    remedy='Correct [webhook] public_url, or set public_url = "" to ask by polling alone.',
                    gate=Gate.API,
                )
            raise Fault(
                f"The prediction API refused this picture ({answer.status}): {why}",
                blame=Blame.PICTURE,
                outlook=Outlook.LASTING,
                remedy="Mend the picture or the folder's recipe, then `esrgand retry`.",
            )
        if answer.status == 404:
            raise Fault(
                f'The prediction API does not know the model "{recipe.model}" (404).',
                blame=Blame.SERVICE,
                outlook=Outlook.LASTING,
                remedy="Look at [api] base_url, and whether the vendor still offers the model.",
                gate=Gate.API,
            )
        raise self._api.refusal(answer, created=Created.MAYBE)

    async def get(self, prediction: str) -> Progress:
        """Ask once how a prediction stands."""
        return progress(await self._prediction(prediction))

    async def find(self, model: str, image_url: str, since: float, others: Collection[str] = ()) -> str | None:
        """Look through the history; None only where every prediction that could be ours was seen and is not."""
        start = self._start(since)
        found = await self._find(model, image_url, start, others)
        if found is None and self._start(since) < start:
            # Only its answers told how far our clocks are apart: it was too short a look.
            found = await self._find(model, image_url, self._start(since), others)
        return found

    def _start(self, since: float) -> float:
        """Where the history has to begin, by the API's clock, for a create that left at `since` by ours.

        Ours may be wrong now, or may have been wrong then: the earliest of what that could mean is taken, since a
        history that begins too late would prove absent what is there, and cost a second bill.
        """
        ahead = self._api.skew
        now = self._clock.wall() + ahead
        start = min(since, since + ahead)
        return (start if start <= now else now - FUTURE_SECONDS) - SKEW_SECONDS

    async def _find(self, model: str, image_url: str, start: float, others: Collection[str]) -> str | None:
        unproven: Fault | None = None
        unanswered = 0
        async for candidate in self._history(model, start):
            if candidate in others:
                continue
            try:
                theirs = _image(await self._prediction(candidate))
            except Fault as fault:
                unproven = fault  # Another candidate may still settle it;
                unanswered += fault.gate is not None
                if fault.rate_limited or fault.outlook is Outlook.LASTING or unanswered == UNANSWERED_MAX:
                    break  # but not where the API wants to be left alone, or answers nobody.
                continue
            if theirs is not None and same_url(image_url, theirs):
                return candidate
        if unproven:
            raise _unread(unproven.said, unproven)
        return None

    async def download(self, url: str, sink: BinaryIO, bytes_max: int) -> int:
        """Write a result to `sink`, as far as it goes."""
        seconds = min(DOWNLOAD_SECONDS_MAX, 60.0 + bytes_max / DOWNLOAD_BYTES_PER_SECOND_MIN)
        total = 0
        async with self._http.follow(url, RESULT, seconds=seconds, stall_seconds=self._stall_seconds_max) as response:
            if 400 <= response.status < 500 and response.status not in PASSING_REFUSALS:
                # Some say 400 when a signature has expired, and to ask for a fresh link costs nothing.
                raise Expired(f"The link to the result no longer works ({response.status}).")
            if response.status != 200:
                raise Fault(
                    f"The host of the result answered with status {response.status}.",
                    blame=Blame.SERVICE,
                    gate=Gate.FETCH if response.status == 429 or response.status >= 500 else None,
                )
            async for block in response.content.iter_chunked(BLOCK_BYTES):
                total += len(block)
                if total > bytes_max:
                    # A fault of the service would be fetched again for ever; what is not the result, a few times.
                    raise NotAPicture(f"The result is larger than the {bytes_max} bytes that it may have.")
                _write(sink, block)
        return total

    @property
    def ahead(self) -> float:
        """Seconds that the API's clock is ahead of ours, by its last answer."""
        return self._api.skew

    async def check(self) -> None:
        """Look whether the API answers and takes the key, by asking for one row of the history."""
        try:
            await self._check_history()
        except Fault as fault:
            if fault.outlook is Outlook.LASTING or fault.rate_limited:
                raise
            # The history alone may be broken; creates need not wait for that.
            try:
                await self._prediction(NOBODYS)
            except Fault as other:
                if other.gate is not None:
                    raise fault from None

    async def _check_history(self) -> None:
        answer = await self._api.call("GET", f"/executions?{urlencode({'model': MODEL, 'limit': 1})}")
        if answer.status in (404, 405, 501):
            return  # No history here; but the key was not refused.
        if not answer.good:
            raise self._api.refusal(answer)
        if not isinstance(answer.document, dict):
            raise Fault(
                "What answers at [api] base_url is not the prediction API.",
                blame=Blame.SERVICE,
                outlook=Outlook.LASTING,
                remedy="Correct [api] base_url, and look for a proxy or a log-in page in between.",
                gate=Gate.API,
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def _post(self, path: str, body: object, secrets: Collection[str]) -> Answer:
        seconds = self._create_seconds_max
        return await self._api.call("POST", path, body=body, seconds=seconds, lane=Lane.CREATE, secrets=secrets)

    def _differs_by_slash(self, path: str, answer: Answer) -> bool:
        if not (300 <= answer.status < 400 and answer.location):
            return False
        asked = urlsplit(self._base_url + path)
        try:
            told = urlsplit(urljoin(asked.geturl(), answer.location))
        except ValueError:
            return False
        return told.netloc == asked.netloc and told.path != asked.path and told.path.strip("/") == asked.path.strip("/")

    async def _prediction(self, prediction: str) -> object:
        answer = await self._api.call("GET", f"/prediction/{quote(prediction, safe='')}", seconds=POLL_SECONDS_MAX)
        if answer.status == 404:
            raise Unknown(f"The prediction API does not know the prediction {prediction} (404).")
        if 400 <= answer.status < 500 and answer.status not in (401, 402, 403, 429):
            # It may be paid for, so it is asked for again, and nobody else has to wait for that.
            raise Fault(f"The prediction API does not tell about {prediction} ({answer.status}).", blame=Blame.SERVICE)
        if not answer.good:
            raise self._api.refusal(answer)
        return answer.document

    async def _history(self, model: str, start: float) -> AsyncIterator[str]:
        """The ids of all predictions since `start`; ends only where the history has ended."""
        begin = datetime.fromtimestamp(max(start, 0.0), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        seen: set[str] = set()
        before: list[str] = []
        offset = 0
        for _ in range(HISTORY_PAGES_MAX):
            query = urlencode({"model": model, "from": begin, "limit": HISTORY_ROWS, "offset": offset})
            rows, total = self._rows(await self._api.call("GET", f"/executions?{query}"))
            page: list[str] = []
            for row in rows:
                prediction = prediction_id(row)
                if prediction is None or not isinstance(row, dict):
                    raise _unread("the prediction API gave a row without an id")
                page.append(prediction)
                if prediction in seen:
                    continue  # Others were made meanwhile, and moved it to this page.
                seen.add(prediction)
                made = moment(row.get("created_at"))
                # A day to spare: the API's times may be those of another time zone, and one question more is cheap.
                if made is None or made >= start - ROW_SECONDS_SPARE:
                    yield prediction
            offset += len(rows)
            if not rows or (total is not None and offset >= total):
                return
            if page == before:
                raise _unread("the prediction API gave the same rows twice")
            before = page
        raise _unread(f"it has more than {HISTORY_PAGES_MAX * HISTORY_ROWS} rows since then")

    def _rows(self, answer: Answer) -> tuple[list[object], int | None]:
        """A page's rows, and how many there are in all where the API says so for certain."""
        if answer.status in (404, 405, 501):
            raise Fault(
                f"The prediction API offers no history ({answer.status}), so a lost answer cannot be looked up.",
                blame=Blame.SERVICE,
                outlook=Outlook.LASTING,
                remedy="Look at the vendor's page which predictions were made, then `esrgand release` what was not.",
            )
        if not answer.good:
            raise self._api.refusal(answer)
        document = answer.document
        if not isinstance(document, dict) or not isinstance(rows := document.get("executions"), list):
            raise _unread("the prediction API answered with something else")
        total = document.get("total_count")
        known = isinstance(total, int) and not isinstance(total, bool) and not document.get("total_capped")
        return rows, total if known else None


def _image(document: object) -> str | None:
    """The image that a prediction was made from; None where it is surely not one of ours."""
    given = document.get("input") if isinstance(document, dict) else None
    if not isinstance(given, dict) or "image" not in given:
        raise _unread("the prediction API does not say what a prediction was made from")
    return given["image"] if isinstance(given["image"], str) else None


def _in_doubt(said: str) -> Fault:
    return Fault(
        f"{said}; whether a prediction was made is looked up in the history.",
        blame=Blame.SERVICE,
        gate=Gate.API,
        created=Created.MAYBE,
    )


def _unread(why: str, cause: Fault | None = None) -> Fault:
    return Fault(
        f"The history of predictions cannot be read to its end: {why}",
        blame=Blame.SERVICE,
        outlook=cause.outlook if cause else Outlook.PASSING,
        remedy=cause.remedy if cause else "",
        gate=cause.gate if cause else None,
        retry_after=cause.retry_after if cause else None,
    )


def _write(sink: BinaryIO, block: bytes) -> None:
    try:
        sink.write(block)
    except OSError as error:
        raise Fault(
            f"The staging directory cannot be written to: {error.strerror or 'unknown error'}.",
            blame=Blame.HOUSE,
            gate=Gate.STAGING,
            remedy="Make room on the disk that holds state_dir.",
        ) from None
