"""What every storage promises: on the fakes, on a bucket (an emulator's), on the API's own uploads."""

import io
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from conformance_kit import Virtual
from e2e.world import BUCKET, Emulator
from fakes.clock import FakeClock
from fakes.storage import FakeStorage
from simulation.service import Faults, Service, SimStorage

from daemon.adapters.gcs import GcsStorage
from daemon.adapters.http import Http
from daemon.adapters.vendor_upload import VendorStorage
from daemon.ports import Storage
from daemon.rules.faults import Changed, Fault, Gate

KEY = "key-0123456789abcdef"
PICTURE = bytes(range(256)) * 4
LARGE = bytes(range(256)) * 40_000  # 10 MB: more than one piece for a bucket.


@dataclass
class Arena:
    storage: Storage
    wrong: Storage  # the same kind, with nothing behind it
    read: Callable[[str], Awaitable[bytes | None]]
    stored: Callable[[], Awaitable[int]]


@pytest.fixture(scope="session")
def emulator() -> Iterator[str]:
    emulator = Emulator()
    yield emulator.url
    emulator.end(signal.SIGKILL)


@pytest.fixture(params=["fake", "simulated", "gcs-signed", "gcs-public", "vendor"])
async def arena(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Arena]:
    if request.param == "fake":
        yield fake_arena(clock)
    elif request.param == "simulated":
        virtual = Virtual()
        yield sim_arena(virtual)
        virtual.close()
    elif request.param == "vendor":
        async for arena in vendor_arena(clock):
            yield arena
    else:
        request.getfixturevalue("monkeypatch").setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("emulator"))
        account = request.getfixturevalue("account")
        async for arena in gcs_arena(clock, request.getfixturevalue("emulator"), account, request.param[4:]):
            yield arena


def fake_arena(clock: FakeClock) -> Arena:
    storage = FakeStorage(clock)

    async def read(url: str) -> bytes | None:
        return storage.read(url)

    async def stored() -> int:
        return len(storage.objects)

    return Arena(storage, FakeStorage(clock, missing=True), read, stored)


def sim_arena(virtual: Virtual) -> Arena:
    def service(faults: Faults) -> Service:
        return Service(virtual.machine, 1, 1, 1, pytest.fail, faults)

    right, wrong = service(Faults()), service(Faults(storage=1.0))

    async def read(url: str) -> bytes | None:
        return right.objects.get(right.urls.get(url, ""))

    async def stored() -> int:
        return len(right.objects)

    def storage(behind: Service) -> Storage:
        part: Storage = virtual.part(SimStorage(behind, virtual.machine))
        return part

    return Arena(storage(right), storage(wrong), read, stored)


async def gcs_arena(clock: FakeClock, emulator: str, account: Path, url: str) -> AsyncIterator[Arena]:
    def storage(bucket: str) -> GcsStorage:
        return GcsStorage(
            bucket=bucket, prefix="esrgand/", clock=clock, credentials_file=account, url=url, uploads_max=2
        )

    async with aiohttp.ClientSession() as session:

        async def stored() -> int:
            async with session.get(f"{emulator}/storage/v1/b/{BUCKET}/o") as response:
                return len((await response.json()).get("items", []))

        async with session.get(f"{emulator}/wipe?keep-buckets=1") as response:
            assert response.status == 200
        right, wrong = storage(BUCKET), storage("no-such-bucket")
        yield Arena(right, wrong, reader(session), stored)
        await right.close()
        await wrong.close()


class Vendor:
    """Presigned uploads as the API's documentation has them, and a file host that insists on the headers."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.count = 0
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/upload/presign", self.presign)
        app.router.add_put("/host/{id}", self.take)
        app.router.add_get("/host/{id}", self.give)
        app.router.add_delete("/v1/files/{id}", self.remove)
        self.server = TestServer(app)

    async def presign(self, request: web.Request) -> web.Response:
        if request.headers.get("X-API-Key") != KEY:
            return web.json_response({"error": "bad key"}, status=401)
        asked = await request.json()
        assert asked == {"content_type": "image/png", "file_type": "image", "expires_in_seconds": 86_400}
        self.count += 1
        file = str(self.server.make_url(f"/host/file-{self.count}"))
        return web.json_response(
            {
                "id": f"file-{self.count}",
                "presigned_url": f"{file}?Signature=a%2Fb%2Bc",
                "public_url": file,
                "expires_at": "2026-11-23T00:00:00Z",
                "required_headers": {"x-amz-meta-owner": "Some One", "content-type": "image/png"},
            }
        )

    async def take(self, request: web.Request) -> web.Response:
        verbatim = request.raw_path.endswith("?Signature=a%2Fb%2Bc")
        headers = request.headers
        if (
            not verbatim
            or headers.get("x-amz-meta-owner") != "Some One"
            or headers.getall("Content-Type") != ["image/png"]
        ):
            return web.Response(status=403)
        if "X-API-Key" in headers or "Content-Length" not in headers:
            return web.Response(status=400)
        self.files[request.match_info["id"]] = await request.read()
        return web.Response()

    async def give(self, request: web.Request) -> web.Response:
        body = self.files.get(request.match_info["id"])
        return web.Response(status=404) if body is None else web.Response(body=body)

    async def remove(self, request: web.Request) -> web.Response:
        known = self.files.pop(request.match_info["id"], None)
        return web.Response(status=404 if known is None else 204)


async def vendor_arena(clock: FakeClock) -> AsyncIterator[Arena]:
    vendor = Vendor()
    await vendor.server.start_server()
    nobody = TestServer(web.Application())
    await nobody.start_server()
    wrong_url = str(nobody.make_url("/v1"))
    await nobody.close()
    http = Http(clock, insecure_loopback=True)
    right = VendorStorage(str(vendor.server.make_url("/v1")), KEY, http, clock)
    wrong = VendorStorage(wrong_url, KEY, http, clock)

    async def stored() -> int:
        return len(vendor.files)

    async with aiohttp.ClientSession() as session:
        yield Arena(right, wrong, reader(session), stored)
    await right.close()
    await vendor.server.close()


def reader(session: aiohttp.ClientSession) -> Callable[[str], Awaitable[bytes | None]]:
    async def read(url: str) -> bytes | None:
        async with session.get(url) as response:
            return await response.read() if response.status == 200 else None

    return read


async def put(arena: Arena, key: str = "a/1.png", data: bytes = PICTURE) -> tuple[str, str]:
    asset = await arena.storage.put(key, io.BytesIO(data), len(data), "image/png")
    return asset.ref, asset.url


@pytest.mark.parametrize("data", [PICTURE, LARGE, b"x"], ids=["small", "large", "byte"])
async def test_what_was_put_reads_back(arena: Arena, data: bytes) -> None:
    _, url = await put(arena, data=data)
    assert await arena.read(url) == data


async def test_the_source_is_read_from_its_beginning_and_no_further_than_said(arena: Arena) -> None:
    source = io.BytesIO(PICTURE + b"more")
    source.seek(99)
    asset = await arena.storage.put("a", source, len(PICTURE), "image/png")
    assert await arena.read(asset.url) == PICTURE


async def test_putting_twice_is_fine(arena: Arena) -> None:
    """The same key may be put again and still reads back the same bytes."""
    await put(arena)
    _, url = await put(arena)
    assert await arena.read(url) == PICTURE


async def test_two_keys_have_two_urls(arena: Arena) -> None:
    _, first = await put(arena, "a/1.png", b"one")
    _, second = await put(arena, "a/2.png", b"two")
    assert first != second
    assert (await arena.read(first), await arena.read(second)) == (b"one", b"two")


async def test_discarding_takes_away_what_a_lost_answer_left(arena: Arena) -> None:
    """Where the storage goes by our keys; the API's own uploads go by names that only their answer tells."""
    asset = await arena.storage.put(KEY, io.BytesIO(PICTURE), len(PICTURE), "image/png")
    for _ in range(2):
        await arena.storage.discard(KEY)
    if isinstance(arena.storage, VendorStorage):
        await arena.storage.delete(asset.ref)
    assert await arena.read(asset.url) is None
    assert await arena.stored() == 0


async def test_deleted_is_unreadable_and_deleting_again_is_fine(arena: Arena) -> None:
    ref, url = await put(arena)
    await arena.storage.delete(ref)
    assert await arena.read(url) is None
    await arena.storage.delete(ref)
    assert await arena.stored() == 0


@pytest.mark.parametrize("data", [PICTURE, LARGE], ids=["small", "large"])
async def test_a_source_shorter_than_said_leaves_nothing(arena: Arena, data: bytes) -> None:
    with pytest.raises(Changed):
        await arena.storage.put("a", io.BytesIO(data), len(data) + 1, "image/png")
    assert await arena.stored() == 0


async def test_fresh_is_the_same_object_and_reads(arena: Arena) -> None:
    asset = await arena.storage.put("a", io.BytesIO(PICTURE), len(PICTURE), "image/png")
    fresh = await arena.storage.fresh(asset, look=True)
    assert fresh is not None
    assert fresh.ref == asset.ref
    assert await arena.read(fresh.url) == PICTURE


async def test_a_look_tells_of_an_object_that_went_meanwhile(arena: Arena) -> None:
    """A bucket that is cleaned up by a rule; the API's own uploads say when they end."""
    asset = await arena.storage.put("a", io.BytesIO(PICTURE), len(PICTURE), "image/png")
    await arena.storage.delete(asset.ref)
    fresh = await arena.storage.fresh(asset, look=True)
    assert fresh is None or (isinstance(arena.storage, VendorStorage) and fresh.expires_at is not None)


async def test_an_expiry_lies_ahead(arena: Arena, clock: FakeClock) -> None:
    asset = await arena.storage.put("a", io.BytesIO(PICTURE), len(PICTURE), "image/png")
    assert asset.expires_at is None or asset.expires_at > clock.wall()


async def test_a_ref_has_no_secret(arena: Arena) -> None:
    ref, url = await put(arena)
    assert "ignature" not in ref
    assert "?" not in url or url.partition("?")[2] not in ref


async def test_check_passes_and_leaves_nothing(arena: Arena) -> None:
    await arena.storage.check()
    assert await arena.stored() == 0


async def test_check_of_what_is_not_there_says_what_to_do(arena: Arena) -> None:
    with pytest.raises(Fault) as caught:
        await arena.wrong.check()
    assert caught.value.gate is Gate.STORAGE
    assert caught.value.remedy
    assert KEY not in caught.value.said


async def test_close_twice_is_fine(arena: Arena) -> None:
    await put(arena)
    await arena.storage.close()
    await arena.storage.close()
