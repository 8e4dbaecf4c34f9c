"""
Uploads: presigned places for input pictures, and the pictures in them.

A place takes one whole body, once, within its time, with the headers that were promised; what is cut, too large or
wrong leaves no trace and may be tried again. A picture can be read by whoever knows its name until it expires or is
deleted. Raises `Refusal`, and `OSError` where the disk fails.
"""

import hmac
import uuid
from collections.abc import AsyncIterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from daemon.ports import Clock
from daemon.server.bodies import SUFFIXES, Refusal
from daemon.server.settings import ServerSettings
from daemon.server.store import Store

TOKEN_HEADER = "x-upload-token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Upload:
    """name: of the public file. put_until, expires_at: seconds since 1970. bytes_: None until the picture is there."""

    id: str
    name: str = field(repr=False)
    signature: str = field(repr=False)
    token: str = field(repr=False)
    content_type: str
    put_until: float
    expires_at: float
    bytes_: int | None = None


class Uploads:
    """All places that have not expired."""

    def __init__(self, settings: ServerSettings, clock: Clock, store: Store, log: FilteringBoundLogger) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._log = log
        self._by_id: dict[str, Upload] = {}
        self._by_name: dict[str, Upload] = {}

    def load(self) -> None:
        """Read what an earlier process left."""
        for record in self._store.load("uploads"):
            try:
                self._publish(Upload(**record))
            except TypeError:
                self._log.warning("record_unreadable", kind="uploads", record=str(record.get("id")))
        self._store.keep_only("files", set(self._by_name))

    async def presign(self, content_type: str, seconds: int) -> Upload:
        """Make a place."""
        now, token = self._clock.wall(), self._clock.token
        expires_at = now + seconds
        upload = Upload(
            id=str(uuid.UUID(hex=token(16), version=4)),
            name=token(16) + SUFFIXES[content_type],
            signature=token(16),
            token=token(16),
            content_type=content_type,
            put_until=min(now + self._settings.put_seconds, expires_at),
            expires_at=expires_at,
        )
        await self._save(upload)
        return upload

    def admit(self, upload_id: str, signature: str, headers: Mapping[str, str]) -> Upload:
        """The place that a PUT may fill, judged by all that comes before its body."""
        upload = self._by_id.get(upload_id)
        if upload is None or not same(upload.signature, signature):
            raise Refusal(403, "Forbidden", "the signature does not match")
        if self._clock.wall() >= upload.put_until:
            raise Refusal(403, "Forbidden", "the URL has expired")
        if upload.bytes_ is not None:
            raise Refusal(409, "Conflict", "the URL has been used")
        if headers.get("Content-Type", "") != upload.content_type:
            raise Refusal(403, "Forbidden", f"the Content-Type must be {upload.content_type}")
        if not same(upload.token, headers.get(TOKEN_HEADER, "")):
            raise Refusal(403, "Forbidden", f"the header {TOKEN_HEADER} must be as it was given")
        self.check_size(int(headers.get("Content-Length", "0")))
        return upload

    async def receive(self, upload: Upload, chunks: AsyncIterable[bytes]) -> None:
        """Take the body; the picture is durable at the end."""
        size = 0
        with self._store.scratch() as draft:
            async with self._store.writing(draft) as write:
                async for chunk in chunks:
                    size += len(chunk)
                    self.check_size(size)
                    await write(chunk)
            if size == 0:
                raise Refusal(400, "Bad request", "the body is empty")
            # Two bodies may have been on their way at once, or the place be gone since.
            current = self._by_id.get(upload.id)
            if current is None or current.bytes_ is not None:
                raise Refusal(409, "Conflict", "the URL has been used")
            received = replace(upload, bytes_=size)
            self._publish(received)
            try:
                await self._store.do(self._store.keep, draft, "files", upload.name)
                await self._save(received)
            except OSError:
                self._publish(upload)
                raise
        self._log.info("upload_received", upload=upload.id, bytes=size)

    def check_size(self, size: int) -> None:
        """Refuse what is larger than an upload may be."""
        if size > self._settings.bytes_max:
            raise Refusal(413, "Payload too large", f"an upload has at most {self._settings.bytes_max} bytes")

    def find(self, name: str) -> tuple[Path, str] | None:
        """File and content type of a picture that can be read now."""
        upload = self._by_name.get(name)
        if upload is None or upload.bytes_ is None or self._clock.wall() >= upload.expires_at:
            return None
        return self._store.path("files", name), upload.content_type

    async def delete(self, upload_id: str) -> None:
        """Remove a place and its picture."""
        upload = self._by_id.pop(upload_id, None)
        if upload is None:
            raise Refusal(404, "Not found", "no file has this id")
        self._by_name.pop(upload.name)
        await self._store.do(self._store.remove, "uploads", f"{upload.id}.json")
        await self._store.do(self._store.remove, "files", upload.name)

    async def sweep(self) -> None:
        """Remove what has expired."""
        now = self._clock.wall()
        for upload in list(self._by_id.values()):
            if now >= upload.expires_at or (upload.bytes_ is None and now >= upload.put_until):
                await self.delete(upload.id)

    async def _save(self, upload: Upload) -> None:
        await self._store.do(self._store.save, "uploads", upload.id, asdict(upload))
        self._publish(upload)

    def _publish(self, upload: Upload) -> None:
        self._by_id[upload.id] = self._by_name[upload.name] = upload


def same(expected: str, given: str) -> bool:
    """Compare secrets in a time that does not tell how much of them was right."""
    return hmac.compare_digest(expected.encode(), given.encode(errors="replace"))
