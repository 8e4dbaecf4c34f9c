"""
Vendor upload: the Storage port over the prediction API's own uploads; needs no bucket.

Promises: the key goes to the API alone, the picture goes to the presigned address with the headers it asks for and
nothing else. An object is whole or not there: its length is announced, and a source that ends early cuts the
connection.

Fails as PICTURE (larger than the service takes, changed while it was read), HOUSE (cannot be read), else SERVICE with
the gate STORAGE.
"""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Collection
from typing import BinaryIO

from daemon.adapters.answers import is_id, moment, reason
from daemon.adapters.api import UPLOADS, Answer, Api
from daemon.adapters.http import Http, Lane
from daemon.ports import Asset, Clock
from daemon.rules.faults import Blame, Changed, Fault, Gate, Outlook

BYTES_MAX = 100_000_000
BLOCK_BYTES = 256 * 1024
UPLOAD_BYTES_PER_SECOND_MIN = 50_000
SAMPLE = bytes.fromhex(  # A PNG of one pixel: what `check` puts.
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6360000000020001"
    "48afa4710000000049454e44ae426082"
)
_OWN_BUCKET = 'Use a bucket of your own ([storage] kind = "gcs").'


class VendorStorage:
    """The Storage port; `ref` is the id of the file at the vendor."""

    def __init__(
        self,
        base_url: str,
        key: str,
        http: Http,
        clock: Clock,
        *,
        auth: str = "x-api-key",
        secrets: Collection[str] = (),
        url_seconds: int = 86_400,
        stall_seconds_max: float = 60.0,
    ) -> None:
        """secrets: what no report may show, with the key. url_seconds: how long the file is to live.

        stall_seconds_max: the longest silence of an upload.
        """
        self._api = Api(base_url, key, http, clock, auth=auth, peer=UPLOADS, secrets=secrets)
        self._http = http
        self._clock = clock
        self._url_seconds = url_seconds
        self._stall_seconds_max = stall_seconds_max

    async def put(self, key: str, source: BinaryIO, bytes_: int, content_type: str) -> Asset:
        """Ask for an address and send the picture there. The vendor chooses the name; `key` is not needed."""
        if bytes_ > BYTES_MAX:
            raise Fault(
                f"The picture has {bytes_ / 1e6:.0f} MB; the API's own storage takes {BYTES_MAX / 1e6:.0f} MB at most.",
                blame=Blame.PICTURE,
                outlook=Outlook.LASTING,
                remedy=f"Make the file smaller. {_OWN_BUCKET}",
            )
        ask = {"content_type": content_type, "file_type": "image", "expires_in_seconds": self._url_seconds}
        answer = await self._api.call("POST", "/upload/presign", body=ask)
        if not answer.good:
            raise self._refusal(answer)
        given = answer.document if isinstance(answer.document, dict) else {}
        ref, address, url = given.get("id"), given.get("presigned_url"), given.get("public_url")
        required = given.get("required_headers") or {}
        if not is_id(ref) or not isinstance(address, str) or not isinstance(url, str) or not isinstance(required, dict):
            raise _refused("The prediction API's answer to an upload is not usable", outlook=Outlook.PASSING)
        headers = {"Content-Type": content_type, "Content-Length": str(bytes_)}
        headers |= {str(name): str(value) for name, value in required.items()}
        try:
            await self._send(address, headers, source, bytes_)
        except Fault:
            # It may have arrived all the same, and only we know its name.
            with contextlib.suppress(Fault):
                await self.delete(str(ref))
            raise
        expires_at = moment(given.get("expires_at"))
        return Asset(str(ref), url, expires_at if expires_at is not None else self._clock.wall() + self._url_seconds)

    async def fresh(self, asset: Asset, *, look: bool) -> Asset:
        """The same: the vendor's URL carries no signature to renew, and its end is known."""
        return asset

    async def delete(self, ref: str) -> None:
        """Remove the file; one that is gone already is fine."""
        answer = await self._api.call("DELETE", f"/files/{ref}")
        if not answer.good and answer.status not in (404, 410):
            raise self._refusal(answer)

    async def discard(self, key: str) -> None:
        """The API gives its own names, and lets what was uploaded expire."""

    async def check(self) -> None:
        """Put a picture of one pixel, read it back, delete it."""
        asset = await self.put("check", io.BytesIO(SAMPLE), len(SAMPLE), "image/png")
        try:
            async with self._http.follow(
                asset.url, UPLOADS, seconds=30.0, stall_seconds=self._stall_seconds_max
            ) as response:
                back = await response.content.read(len(SAMPLE) + 1) if response.status == 200 else b""
                if back != SAMPLE:
                    raise _refused(f"What was just uploaded cannot be read back (status {response.status})")
        finally:
            await self.delete(asset.ref)

    async def advice(self) -> list[str]:
        """Nothing: what is uploaded there expires by itself."""
        return []

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def _send(self, address: str, headers: dict[str, str], source: BinaryIO, bytes_: int) -> None:
        body = _Body(source, bytes_)
        try:
            async with self._http.request(
                Lane.FILES,
                "PUT",
                address,
                UPLOADS,
                seconds=60.0 + bytes_ / UPLOAD_BYTES_PER_SECOND_MIN,
                stall_seconds=self._stall_seconds_max,
                headers=headers,
                data=body.blocks(),
            ) as response:
                status = response.status
        except Fault as fault:
            raise body.fault or fault from None
        if status == 413:
            raise Fault(
                "The prediction API's file storage finds the picture too large (413).",
                blame=Blame.PICTURE,
                outlook=Outlook.LASTING,
                remedy=f"Make the file smaller. {_OWN_BUCKET}",
            )
        if not 200 <= status < 300:
            raise _refused(
                f"The prediction API's file storage refused an upload ({status})", outlook=Outlook.PASSING, remedy=""
            )

    def _refusal(self, answer: Answer) -> Fault:
        if answer.status in (404, 405, 501):
            return _refused(f"The prediction API offers no uploads here ({answer.status})")
        if answer.status in (400, 422):
            # It has not seen the picture, only its type and the wish for a lifetime: so this meets every picture.
            return _refused(
                f"The prediction API refused to take an upload ({answer.status}): {reason(answer.document)}"
            )
        return self._api.refusal(answer)


class _Body:
    """Exactly so many bytes of a source. fault: what was wrong with the source, where that ended the upload."""

    def __init__(self, source: BinaryIO, bytes_: int) -> None:
        self._source = source
        self._bytes = bytes_
        self.fault: Fault | None = None

    async def blocks(self) -> AsyncIterator[bytes]:
        """Read beside the loop, because the source may lie on a network disk; an exception cuts the connection."""
        left = self._bytes
        try:
            await asyncio.to_thread(self._source.seek, 0)
            while left:
                block = await asyncio.to_thread(self._source.read, min(left, BLOCK_BYTES))
                if not block:
                    self.fault = Changed("The picture became shorter while it was uploaded.")
                    raise self.fault
                left -= len(block)
                yield block
        except OSError as error:
            self.fault = Fault(f"The picture cannot be read: {error.strerror or 'unknown error'}.", blame=Blame.HOUSE)
            raise


def _refused(
    said: str,
    *,
    outlook: Outlook = Outlook.LASTING,
    remedy: str = f"Look at [api] base_url and [storage] kind. {_OWN_BUCKET}",
) -> Fault:
    return Fault(f"{said}.", blame=Blame.SERVICE, outlook=outlook, remedy=remedy, gate=Gate.STORAGE)
