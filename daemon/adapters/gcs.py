"""
GCS: the Storage port over a Google Cloud Storage bucket.

Promises: an object is whole and unchanged or not there (its crc32c is compared with what was read); an upload whose
answer was lost is recognised as done; a delete touches the generation that was put, nothing newer. The library is
synchronous and takes half a second to import: it is imported when first needed, in a thread pool of its own.

Fails as PICTURE (changed while it was read), HOUSE (cannot be read), else SERVICE with the gate STORAGE.
With STORAGE_EMULATOR_HOST set, calls go there without credentials, which then only sign.
"""

# google-auth has types for some of its functions only.
# mypy: allow-untyped-calls

import asyncio
import base64
import io
import json
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from daemon.adapters.gcs_faults import fault_of, foreign
from daemon.ports import Asset, Clock
from daemon.rules.faults import Blame, Changed, Fault, Gate, Outlook

SIGNED_SECONDS_MAX = 604_800  # V4 allows seven days.
RESUMABLE_BYTES_MIN = 8 * 1024 * 1024
CHUNK_BYTES = 2 * 1024 * 1024
TIMEOUT_SECONDS = (10, 60)  # to connect, to read
SAMPLE = b"esrgand checks that what it puts can be read"
SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)

T = TypeVar("T")


class GcsStorage:
    """The Storage port; `ref` is name#generation."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str,
        clock: Clock,
        credentials_file: Path | None = None,
        url: str = "signed",
        public_base_url: str = "",
        url_seconds: int = 86_400,
        uploads_max: int = 4,
        retry_seconds_max: float = 45.0,
    ) -> None:
        """url: signed or public. credentials_file: None for application default credentials."""
        self._bucket_name = bucket
        self._prefix = prefix
        self._clock = clock
        self._credentials_file = credentials_file
        self._signed = url == "signed"
        self._public_base_url = public_base_url.rstrip("/")
        self._url_seconds = min(url_seconds, SIGNED_SECONDS_MAX)
        self._retry_seconds_max = retry_seconds_max
        self._emulator = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
        # Not the default executor: that one looks names up. One thread more than uploads, for signing and deleting.
        self._threads_max = uploads_max + 1
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._client: Any = None
        self._signer: Any = None

    async def put(self, key: str, source: BinaryIO, bytes_: int, content_type: str) -> Asset:
        """Upload, and sign the URL; see the port."""
        return await self._in_thread(lambda: self._put(self._prefix + key, source, bytes_, content_type))

    async def fresh(self, asset: Asset, *, look: bool) -> Asset | None:
        """The same object, signed anew; see the port."""
        return await self._in_thread(lambda: None if look and not self._is_there(asset.ref) else self._asset(asset.ref))

    async def delete(self, ref: str) -> None:
        """Remove this generation of the object; one that is gone already is fine."""
        await self._in_thread(lambda: self._delete(ref))

    async def discard(self, key: str) -> None:
        """Remove the object of this key, whatever its generation."""
        await self._in_thread(lambda: self._delete(f"{self._prefix}{key}#"))

    async def check(self) -> None:
        """Put a small object, read it through its URL as the service would, delete it."""
        key = f"check-{self._clock.token(8)}"
        try:
            asset = await self.put(key, io.BytesIO(SAMPLE), len(SAMPLE), "text/plain")
            await self._in_thread(lambda: self._read_back(asset.url))
        finally:
            await self.discard(key)  # Also where its answer was lost.

    async def advice(self) -> list[str]:
        """What about the bucket costs money or leaves things lying, as sentences; empty where all is well."""
        return await self._in_thread(self._advice)

    async def close(self) -> None:
        """Let go of connections and threads; an upload that is under way ends by its own time limits."""
        threads, self._threads = self._threads, None
        client, self._client = self._client, None
        if threads:
            threads.shutdown(wait=False, cancel_futures=True)
        if client:
            client.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._threads_max, thread_name_prefix="gcs")
        # The context goes along, or log lines from the thread would lose their job.
        return await asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, self._guarded, work)

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except foreign() as error:
            # Not chained: the foreign exception may carry a URL with its signature, or a token.
            raise fault_of(error, self._bucket_name) from None

    def _put(self, name: str, source: BinaryIO, bytes_: int, content_type: str) -> Asset:
        from google.api_core.exceptions import PreconditionFailed

        crc32c = _crc32c(source, bytes_)
        blob = self._bucket().blob(name, chunk_size=CHUNK_BYTES if bytes_ > RESUMABLE_BYTES_MIN else None)
        try:
            blob.upload_from_file(
                source,
                rewind=True,
                size=bytes_,
                content_type=content_type,
                if_generation_match=0,
                checksum="crc32c",
                timeout=TIMEOUT_SECONDS,
                retry=self._retry(),
            )
        except PreconditionFailed:
            # Put before, or by this very call, whose first answer was lost.
            blob.reload(timeout=TIMEOUT_SECONDS, retry=self._retry())
            if (blob.crc32c, blob.size) != (crc32c, bytes_):
                # Of a try that a crash cut off before it was recorded, so that nobody reads it; what goes up of the
                # picture is another thing since then, as the configuration or the program is.
                self._delete(f"{name}#{blob.generation}")
                raise Fault(
                    "The bucket held what an earlier try had put there; it is put anew.", blame=Blame.SERVICE
                ) from None
        ref = f"{name}#{blob.generation}"
        if blob.crc32c != crc32c:
            self._delete(ref)
            raise Changed("The picture changed while it was uploaded.")
        return self._asset(ref)

    def _delete(self, ref: str) -> None:
        from google.api_core.exceptions import NotFound

        name, _, generation = ref.rpartition("#")
        try:
            blob = self._bucket().blob(name, generation=int(generation) if generation else None)
            blob.delete(timeout=TIMEOUT_SECONDS, retry=self._retry())
        except NotFound:
            pass

    def _is_there(self, ref: str) -> bool:
        name, _, generation = ref.rpartition("#")
        blob = self._bucket().blob(name, generation=int(generation))
        return bool(blob.exists(timeout=TIMEOUT_SECONDS, retry=self._retry()))

    def _asset(self, ref: str) -> Asset:
        name = ref.rpartition("#")[0]
        bucket = self._bucket()
        if not self._signed or self._signer is None:
            base = self._emulator or "https://storage.googleapis.com"
            return Asset(ref, f"{self._public_base_url or f'{base}/{self._bucket_name}'}/{quote(name)}", None)
        expires_at = self._clock.wall() + self._url_seconds
        url = bucket.blob(name).generate_signed_url(
            version="v4",
            expiration=timedelta(seconds=self._url_seconds),
            method="GET",
            credentials=self._signer,
        )
        return Asset(ref, url, expires_at)

    def _read_back(self, url: str) -> None:
        import requests

        with requests.Session() as session:
            session.trust_env = not self._emulator
            response = session.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        status = response.status_code
        if status != 200 or response.content != SAMPLE:
            raise Fault(
                f"What was just put into the bucket is not readable at its URL ({status}).",
                blame=Blame.SERVICE,
                outlook=Outlook.LASTING,
                remedy="Look at the clock of this machine, and whether the signing account may read the bucket."
                if self._signed
                else "Let allUsers read the bucket (role Storage Object Viewer), and look at public_base_url.",
                gate=Gate.STORAGE,
            )

    def _advice(self) -> list[str]:
        from google.api_core.exceptions import Forbidden

        bucket = self._bucket()
        try:
            bucket.reload(timeout=TIMEOUT_SECONDS, retry=self._retry())
        except Forbidden:
            return [f'The settings of the bucket "{self._bucket_name}" may not be read, so they were not looked at.']
        found = []
        if bucket.soft_delete_policy.retention_duration_seconds:
            days = bucket.soft_delete_policy.retention_duration_seconds / 86_400
            found.append(
                f'Soft delete is on for the bucket "{self._bucket_name}": what esrgand deletes is kept and billed '
                f"for {days:g} days. Switch it off where nothing else needs it."
            )
        if not any(_covers(rule, self._prefix) for rule in bucket.lifecycle_rules):
            found.append(
                f'No lifecycle rule deletes what is left under "{self._prefix}" in the bucket "{self._bucket_name}": '
                "add one with an age of 1 day or a little more, for uploads that a crash leaves behind."
            )
        return found

    def _retry(self) -> Any:
        from google.cloud.storage.retry import DEFAULT_RETRY

        return DEFAULT_RETRY.with_timeout(self._retry_seconds_max)

    def _bucket(self) -> Any:
        with self._lock:
            if self._client is None:
                self._connect()
            return self._client.bucket(self._bucket_name)

    def _connect(self) -> None:
        """Make the client, and what signs where URLs are signed."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client
        from requests.adapters import HTTPAdapter

        credentials: Any = None
        if not self._emulator or self._credentials_file:
            credentials = _credentials(self._credentials_file)
        if self._signed and credentials is not None:
            self._signer = signing(credentials)
        client = Client(project=None, credentials=AnonymousCredentials() if self._emulator else credentials)
        # Its pool has ten connections; each thread is to find one. No proxy stands between us and an emulator.
        for scheme in ("https://", "http://"):
            client._http.mount(scheme, HTTPAdapter(pool_maxsize=self._threads_max))
        client._http.trust_env = not self._emulator
        self._client = client


def signing(credentials: Any) -> Any:
    """Credentials that can sign; IAM signs for those without a key (Compute Engine, workload identity)."""
    from google.auth import iam
    from google.auth.credentials import Signing
    from google.auth.transport.requests import Request
    from google.oauth2 import service_account

    if isinstance(credentials, Signing):
        return credentials
    if getattr(credentials, "service_account_email", None) == "default":
        credentials.refresh(Request())  # The metadata server tells the account's real name.
    email = getattr(credentials, "service_account_email", None)
    if not email:
        raise Fault(
            "The Google credentials belong to a person and cannot sign URLs.",
            blame=Blame.SERVICE,
            outlook=Outlook.LASTING,
            remedy='Give [storage] credentials_file the key of a service account, or set url = "public".',
            gate=Gate.STORAGE,
        )
    return service_account.Credentials(
        signer=iam.Signer(Request(), credentials, email),
        service_account_email=email,
        token_uri="https://oauth2.googleapis.com/token",  # noqa: S106  (an address, not a secret)
    )


def _credentials(file: Path | None) -> Any:
    import google.auth
    from google.oauth2 import service_account

    if file is None:
        return google.auth.default(scopes=SCOPES)[0]
    try:
        if json.loads(file.read_bytes()).get("type") == "service_account":
            return service_account.Credentials.from_service_account_file(str(file), scopes=SCOPES)
        with warnings.catch_warnings():
            # It warns of files from strangers; this one is the administrator's own.
            warnings.simplefilter("ignore", DeprecationWarning)
            return google.auth.load_credentials_from_file(str(file), scopes=SCOPES)[0]
    except (OSError, ValueError, AttributeError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not one of Google's"
        raise Fault(
            f"The credentials file {file} cannot be used: {why}.",
            blame=Blame.SERVICE,
            outlook=Outlook.LASTING,
            remedy="Let [storage] credentials_file point to a service account's key (JSON) that the daemon may read.",
            gate=Gate.STORAGE,
        ) from None


def _crc32c(source: BinaryIO, bytes_: int) -> str:
    """The checksum as Google writes it, of exactly `bytes_` bytes."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    left = bytes_
    try:
        source.seek(0)
        while left and (block := source.read(min(left, CHUNK_BYTES))):
            checksum.update(block)
            left -= len(block)
    except OSError as error:
        raise Fault(f"The picture cannot be read: {error.strerror or 'unknown error'}.", blame=Blame.HOUSE) from None
    if left:
        raise Changed("The picture became shorter while it was uploaded.")
    return base64.b64encode(checksum.digest()).decode()


def _covers(rule: Any, prefix: str) -> bool:
    condition = rule.get("condition", {})
    return (
        rule.get("action", {}).get("type") == "Delete"
        and "age" in condition
        and any(prefix.startswith(begin) for begin in condition.get("matchesPrefix", [""]))
    )
