"""The API's own uploads when they refuse or answer oddly; what they promise otherwise is in conformance/."""

import io
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes.clock import FakeClock

from daemon.adapters.http import Http
from daemon.adapters.vendor_upload import BYTES_MAX, VendorStorage
from daemon.rules.faults import Blame, Fault, Gate, Outlook

GIVEN = {"id": "f1", "presigned_url": "{host}/put", "public_url": "{host}/get"}


class Vendor:
    def __init__(self) -> None:
        self.presign = web.Response()
        self.status = 200
        app = web.Application()
        app.router.add_post("/upload/presign", self.answer)
        app.router.add_put("/put", self.put)
        self.server = TestServer(app)

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        return self.presign

    async def put(self, request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=self.status)

    def give(self, **changed: object) -> None:
        host = str(self.server.make_url("/")).rstrip("/")
        given = {key: value.format(host=host) for key, value in GIVEN.items()} | changed
        self.presign = web.json_response(given)


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    vendor = Vendor()
    async with vendor.server:
        yield vendor


@pytest.fixture
async def storage(vendor: Vendor, clock: FakeClock) -> AsyncIterator[VendorStorage]:
    storage = VendorStorage(str(vendor.server.make_url("/")), "k", Http(clock, insecure_loopback=True), clock)
    yield storage
    await storage.close()


async def put_fault(storage: VendorStorage, source: io.BytesIO | None = None, bytes_: int = 3) -> Fault:
    with pytest.raises(Fault) as caught:
        await storage.put("a", source or io.BytesIO(b"abc"), bytes_, "image/png")
    return caught.value


async def test_too_large_is_not_even_tried(storage: VendorStorage) -> None:
    fault = await put_fault(storage, bytes_=BYTES_MAX + 1)
    assert (fault.blame, fault.outlook, fault.gate) == (Blame.PICTURE, Outlook.LASTING, None)
    assert "gcs" in fault.remedy


@pytest.mark.parametrize(
    ("status", "outlook"),
    [
        (400, Outlook.LASTING),
        (401, Outlook.LASTING),
        (404, Outlook.LASTING),
        (429, Outlook.PASSING),
        (500, Outlook.PASSING),
    ],
)
async def test_a_refused_presign_closes_the_gate(
    vendor: Vendor, storage: VendorStorage, status: int, outlook: Outlook
) -> None:
    vendor.presign = web.Response(status=status, headers={"Retry-After": "9"})
    fault = await put_fault(storage)
    assert (fault.blame, fault.outlook, fault.gate) == (Blame.SERVICE, outlook, Gate.STORAGE)
    assert fault.remedy or fault.retry_after == 9.0


@pytest.mark.parametrize(
    ("status", "blame", "outlook"),
    [
        (403, Blame.SERVICE, Outlook.PASSING),
        (413, Blame.PICTURE, Outlook.LASTING),
        (307, Blame.SERVICE, Outlook.PASSING),
        (503, Blame.SERVICE, Outlook.PASSING),
    ],
)
async def test_a_refused_upload(
    vendor: Vendor, storage: VendorStorage, status: int, blame: Blame, outlook: Outlook
) -> None:
    vendor.give()
    vendor.status = status
    fault = await put_fault(storage)
    assert (fault.blame, fault.outlook) == (blame, outlook)


@pytest.mark.parametrize(
    "changed",
    [
        {"id": None},
        {"id": "../x"},
        {"presigned_url": 7},
        {"presigned_url": "http://example.com/put"},
        {"presigned_url": "https://169.254.169.254/put"},
        {"public_url": None},
        {"required_headers": ["x"]},
        {"required_headers": {"x\r\ny": "z"}},
    ],
)
async def test_an_odd_answer(vendor: Vendor, storage: VendorStorage, changed: dict[str, object]) -> None:
    vendor.give(**changed)
    fault = await put_fault(storage)
    assert fault.gate is Gate.STORAGE
    assert "cannot be reached" not in fault.said, "it must be refused, not tried"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("2026-11-23T00:00:00Z", 1795392000.0), (1795392000, 1795392000.0), ("soon", None), (None, None)],
)
async def test_expiry(
    vendor: Vendor, storage: VendorStorage, clock: FakeClock, given: object, seconds: float | None
) -> None:
    vendor.give(expires_at=given)
    asset = await storage.put("a", io.BytesIO(b"abc"), 3, "image/png")
    assert asset.expires_at == (seconds or clock.wall() + 86_400)
    assert asset.ref == "f1"


async def test_a_source_that_cannot_be_read_is_the_houses_fault(vendor: Vendor, storage: VendorStorage) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    vendor.give()
    fault = await put_fault(storage, Broken(b"abc"))
    assert fault.blame is Blame.HOUSE
    assert "Input/output error" in fault.said
