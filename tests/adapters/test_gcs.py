"""The bucket adapter against a server that refuses, forgets and lies; what it promises otherwise is in conformance/."""

import base64
import io
import json
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import google_crc32c
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fakes.clock import FakeClock
from google.auth import compute_engine, iam
from google.oauth2 import credentials as user_credentials

from daemon.adapters.gcs import GcsStorage, signing
from daemon.rules.faults import Blame, Changed, Fault, Gate, Outlook

PICTURE = b"a picture" * 1000


class Bucket:
    """Answers as the tests tell it to. `status`: of an upload. `back`: what a public read gives."""

    def __init__(self) -> None:
        self.status = 200
        self.body = ""
        self.holds = PICTURE
        self.back = (200, b"")
        self.settings: dict[str, object] = {}
        self.uploads = 0
        self.deletes: list[dict[str, str]] = []
        app = web.Application()
        app.router.add_post("/upload/storage/v1/b/{bucket}/o", self.upload)
        app.router.add_get("/storage/v1/b/{bucket}", self.bucket)
        app.router.add_get("/storage/v1/b/{bucket}/o/{name:.*}", self.stat)
        app.router.add_delete("/storage/v1/b/{bucket}/o/{name:.*}", self.delete)
        app.router.add_get("/{bucket}/{name:.*}", self.read)
        self.server = TestServer(app)

    def object(self) -> dict[str, object]:
        crc32c = base64.b64encode(google_crc32c.Checksum(self.holds).digest()).decode()
        return {"name": "esrgand/a", "size": str(len(self.holds)), "crc32c": crc32c, "generation": "77"}

    async def upload(self, request: web.Request) -> web.Response:
        self.uploads += 1
        await request.read()
        assert request.query["ifGenerationMatch"] == "0"
        if self.status != 200:
            return web.Response(status=self.status, text=self.body, content_type="application/json")
        return web.json_response(self.object())

    async def bucket(self, request: web.Request) -> web.Response:
        return web.json_response(self.settings)

    async def stat(self, request: web.Request) -> web.Response:
        return web.json_response(self.object())

    async def delete(self, request: web.Request) -> web.Response:
        self.deletes.append(dict(request.query))
        return web.Response(status=204)

    async def read(self, request: web.Request) -> web.Response:
        return web.Response(status=self.back[0], body=self.back[1])


@pytest.fixture
async def bucket(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    bucket = Bucket()
    await bucket.server.start_server()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", str(bucket.server.make_url("")).rstrip("/"))
    yield bucket
    await bucket.server.close()


@pytest.fixture
async def storage(bucket: Bucket, clock: FakeClock) -> AsyncIterator[GcsStorage]:
    storage = GcsStorage(bucket="pictures", prefix="esrgand/", clock=clock, url="public", retry_seconds_max=0.2)
    yield storage
    await storage.close()


async def put(storage: GcsStorage, data: bytes = PICTURE) -> str:
    return (await storage.put("a", io.BytesIO(data), len(data), "image/png")).ref


async def test_an_upload_whose_answer_was_lost_is_recognised(bucket: Bucket, storage: GcsStorage) -> None:
    bucket.status = 412
    assert await put(storage) == "esrgand/a#77"


async def test_what_an_earlier_try_put_under_our_name_makes_way(bucket: Bucket, storage: GcsStorage) -> None:
    """A crash came before it was recorded, and then other settings; it is one picture's trouble, and passes."""
    bucket.status, bucket.holds = 412, b"another one"
    with pytest.raises(Fault, match="put anew") as caught:
        await put(storage)
    assert (caught.value.gate, caught.value.outlook) == (None, Outlook.PASSING)
    assert bucket.deletes == [{"generation": "77", "prettyPrint": "false"}]


async def test_what_arrived_otherwise_than_it_was_read_is_taken_back(bucket: Bucket, storage: GcsStorage) -> None:
    bucket.holds = b"not what was sent"
    with pytest.raises(Changed):
        await put(storage)
    assert bucket.deletes == [{"generation": "77", "prettyPrint": "false"}]


async def test_a_delete_names_the_generation(bucket: Bucket, storage: GcsStorage) -> None:
    await storage.delete("esrgand/a#77")
    assert bucket.deletes[0]["generation"] == "77"


@pytest.mark.parametrize(
    ("status", "outlook", "words"),
    [
        (400, Outlook.LASTING, "refused (400): because"),
        (401, Outlook.LASTING, "credentials"),
        (403, Outlook.LASTING, 'refuses access to the bucket "pictures" (403): because'),
        (404, Outlook.LASTING, 'bucket "pictures" does not exist'),
        (429, Outlook.PASSING, "fault of its own (429)"),
        (503, Outlook.PASSING, "fault of its own (503)"),
    ],
)
async def test_refusals(bucket: Bucket, storage: GcsStorage, status: int, outlook: Outlook, words: str) -> None:
    bucket.status, bucket.body = status, json.dumps({"error": {"message": "because\nof it"}})
    with pytest.raises(Fault) as caught:
        await put(storage)
    fault = caught.value
    assert (fault.blame, fault.outlook, fault.gate) == (Blame.SERVICE, outlook, Gate.STORAGE)
    assert words in fault.said
    assert fault.remedy or outlook is Outlook.PASSING
    assert "http" not in "".join(traceback.format_exception(fault))


@pytest.mark.parametrize("body", ["", "[]", "<html>", '{"error": "text"}'])
async def test_a_refusal_in_any_shape(bucket: Bucket, storage: GcsStorage, body: str) -> None:
    bucket.status, bucket.body = 403, body
    with pytest.raises(Fault, match="403"):
        await put(storage)


async def test_a_server_that_is_gone(bucket: Bucket, storage: GcsStorage) -> None:
    await bucket.server.close()
    with pytest.raises(Fault) as caught:
        await put(storage)
    assert (caught.value.outlook, caught.value.gate) == (Outlook.PASSING, Gate.STORAGE)
    assert caught.value.remedy


async def test_a_source_that_cannot_be_read_is_the_houses_fault(storage: GcsStorage) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(Fault, match="Input/output error") as caught:
        await storage.put("a", Broken(PICTURE), 9, "image/png")
    assert caught.value.blame is Blame.HOUSE


async def test_check_reads_through_the_url(bucket: Bucket, storage: GcsStorage) -> None:
    bucket.holds = b"esrgand checks that what it puts can be read"
    bucket.back = (200, bucket.holds)
    await storage.check()
    bucket.back = (403, bucket.holds)
    with pytest.raises(Fault, match=r"at its URL \(403\)") as caught:
        await storage.check()
    assert "allUsers" in caught.value.remedy
    assert len(bucket.deletes) == 2, "what the check put is deleted, whatever it finds"


async def test_advice(bucket: Bucket, storage: GcsStorage) -> None:
    delete = {"action": {"type": "Delete"}, "condition": {"age": 1, "matchesPrefix": ["other/"]}}
    bucket.settings = {"softDeletePolicy": {"retentionDurationSeconds": "604800"}, "lifecycle": {"rule": [delete]}}
    soft, rule = await storage.advice()
    assert "7 days" in soft
    assert "lifecycle" in rule
    delete["condition"] = {"age": 1, "matchesPrefix": ["esr"]}
    bucket.settings = {"softDeletePolicy": {"retentionDurationSeconds": "0"}, "lifecycle": {"rule": [delete]}}
    assert await storage.advice() == []


async def test_a_public_url_can_lead_to_a_website(bucket: Bucket, clock: FakeClock) -> None:
    base = "https://pictures.example.org/"
    storage = GcsStorage(bucket="b", prefix="", clock=clock, url="public", public_base_url=base)
    asset = await storage.put("a/b.png", io.BytesIO(PICTURE), len(PICTURE), "image/png")
    assert (asset.url, asset.expires_at) == ("https://pictures.example.org/a/b.png", None)
    await storage.close()


async def test_signed_urls_are_v4_and_live_no_longer_than_that_allows(
    bucket: Bucket, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # Never asked for an emulator.
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {"type": "service_account", "client_email": "me@nowhere", "private_key": pem, "token_uri": "https://x"}
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    storage = GcsStorage(bucket="b", prefix="p/", clock=clock, credentials_file=file, url_seconds=9_999_999)
    asset = await storage.put("a.png", io.BytesIO(PICTURE), len(PICTURE), "image/png")
    url = urlsplit(asset.url)
    query = parse_qs(url.query)
    assert url.path == "/b/p/a.png"
    assert (query["X-Goog-Algorithm"], query["X-Goog-Expires"]) == (["GOOG4-RSA-SHA256"], ["604800"])
    assert asset.expires_at == clock.wall() + 604_800
    await storage.close()


@pytest.mark.parametrize("content", [None, "", "[]", '{"type": "service_account"}', '{"type": "what"}'])
async def test_credentials_that_are_none(tmp_path: Path, clock: FakeClock, content: str | None) -> None:
    file = tmp_path / "account.json"
    if content is not None:
        file.write_text(content)
    storage = GcsStorage(bucket="b", prefix="", clock=clock, credentials_file=file)
    with pytest.raises(Fault) as caught:
        await put(storage)
    assert (caught.value.outlook, caught.value.gate) == (Outlook.LASTING, Gate.STORAGE)
    assert "credentials" in caught.value.said
    assert caught.value.remedy
    await storage.close()


def test_iam_signs_for_an_account_without_a_key() -> None:
    signer = signing(compute_engine.Credentials(service_account_email="vm@nowhere.iam.gserviceaccount.com"))
    assert signer.signer_email == "vm@nowhere.iam.gserviceaccount.com"
    assert isinstance(signer.signer, iam.Signer)


def test_a_persons_credentials_cannot_sign() -> None:
    with pytest.raises(Fault) as caught:
        signing(user_credentials.Credentials(token="t"))
    assert "service account" in caught.value.remedy


def test_google_is_imported_only_when_needed() -> None:
    code = "import sys, daemon.adapters.gcs; sys.exit('google.cloud' in sys.modules or 'requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
