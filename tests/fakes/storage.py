"""A bucket in memory, for tests of what lies above the Storage port."""

import io
from collections import deque
from typing import BinaryIO

from daemon.ports import Asset, Clock
from daemon.rules.faults import Blame, Changed, Fault, Gate, Outlook

BASE = "https://storage.test/bucket/"


class FakeStorage:
    """The Storage port. `faults`: raised by the next calls, one each, None lets a call pass. `objects`: by ref."""

    def __init__(self, clock: Clock, *, url_seconds: float | None = 86_400, missing: bool = False) -> None:
        self.clock = clock
        self.url_seconds = url_seconds
        self.missing = missing
        self.faults: deque[Fault | None] = deque()
        self.objects: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.deleted: list[str] = []
        self.closed = False
        self._signed: dict[str, tuple[str, float | None]] = {}

    def read(self, url: str) -> bytes | None:
        """What the service gets: None where the object is gone or the URL is too old."""
        ref, expires_at = self._signed.get(url, ("", None))
        if expires_at is not None and self.clock.wall() >= expires_at:
            return None
        return self.objects.get(ref)

    async def put(self, key: str, source: BinaryIO, bytes_: int, content_type: str) -> Asset:
        self._meet_fault()
        source.seek(0)
        data = source.read(bytes_)
        if len(data) < bytes_:
            raise Changed("The picture became shorter while it was uploaded.")
        self.objects[key] = data
        self.puts.append(key)
        return self._asset(key)

    async def fresh(self, asset: Asset, *, look: bool) -> Asset | None:
        self._meet_fault()
        return None if look and asset.ref not in self.objects else self._asset(asset.ref)

    async def delete(self, ref: str) -> None:
        self._meet_fault()
        self.objects.pop(ref, None)
        self.deleted.append(ref)

    async def discard(self, key: str) -> None:
        self._meet_fault()
        if self.objects.pop(key, None) is not None:
            self.deleted.append(key)

    async def check(self) -> None:
        asset = await self.put("check", io.BytesIO(b"x"), 1, "text/plain")
        await self.delete(asset.ref)

    async def advice(self) -> list[str]:
        return []

    async def close(self) -> None:
        self.closed = True

    def _asset(self, ref: str) -> Asset:
        url = f"{BASE}{ref}?signature={len(self._signed)}"
        expires_at = None if self.url_seconds is None else self.clock.wall() + self.url_seconds
        self._signed[url] = (ref, expires_at)
        return Asset(ref, url, expires_at)

    def _meet_fault(self) -> None:
        if self.missing:
            raise Fault(
                "The bucket does not exist.",
                blame=Blame.SERVICE,
                outlook=Outlook.LASTING,
                remedy="Make it.",
                gate=Gate.STORAGE,
            )
        if self.faults and (fault := self.faults.popleft()):
            raise fault
