"""What the tests of the prediction server share: a bench with server and client, and an engine that a test can hold."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pyvips
import structlog
from aiohttp import web
from fakes.clock import FakeClock
from structlog.testing import LogCapture

from daemon.server import PredictionServer, ServerSettings, UpscaleReport

KEY = "a-key-that-nobody-guesses"
OVER = {"success", "error", "cancelled"}


class ServerClock(FakeClock):
    """The hourly sweep waits until the server closes; everything else passes at once."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        await event.wait()
        return True


class HeldUpscaler:
    """An engine that works when it may, and does what it is told."""

    name = "a fake engine"

    def __init__(self, *, held: bool = False, error: Exception | None = None) -> None:
        self.may = asyncio.Event()
        if not held:
            self.may.set()
        self.error = error
        self.begun = asyncio.Semaphore(0)
        self.calls: list[tuple[bytes, float, bool]] = []

    async def upscale(self, source: Path, target: Path, scale: float, face_enhance: bool) -> UpscaleReport:
        self.calls.append((source.read_bytes(), scale, face_enhance))
        self.begun.release()
        await self.may.wait()
        if self.error is not None:
            raise self.error
        target.write_bytes(b"a result")
        return UpscaleReport(("one line", "another"))


def image(width: int = 4, height: int = 3, suffix: str = ".png", colour: tuple[int, ...] = (10, 120, 240)) -> bytes:
    picture = (pyvips.Image.black(width, height, bands=len(colour)) + list(colour)).cast("uchar")
    return picture.copy(interpretation="srgb").write_to_buffer(suffix)


class Bench:
    """A running server and a client with its key."""

    def __init__(self, server, base: str, session: aiohttp.ClientSession, clock, upscaler, log: LogCapture) -> None:
        self.server, self.base, self.session, self.clock, self.upscaler = server, base, session, clock, upscaler
        self.log = log
        self.origin = base.removesuffix("/v1")

    async def call(self, method: str, path: str, body=None, headers=None):
        """Status and JSON of a call with the key."""
        headers = {"X-API-Key": KEY} if headers is None else headers
        async with self.session.request(method, f"{self.base}{path}", json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def post(self, image_url: str, **more):
        wanted = {"image": image_url, "scale": 2, "face_enhance": False, **more.pop("input", {})}
        return await self.call("POST", "/prediction", {"model": "real-esrgan", "input": wanted, **more})

    async def create(self, image_url: str, **more) -> str:
        status, answer = await self.post(image_url, **more)
        assert status == 200, answer
        return answer["predictionID"]

    async def get(self, prediction: str):
        status, answer = await self.call("GET", f"/prediction/{prediction}")
        assert status == 200, answer
        return answer

    async def over(self, prediction: str):
        """The prediction once it is over."""
        async with asyncio.timeout(20):
            while (answer := await self.get(prediction))["status"] not in OVER:
                pass
        return answer

    async def upload(self, content: bytes, content_type: str = "image/png") -> str:
        """A public URL of the server's own."""
        _, place = await self.call("POST", "/upload/presign", {"content_type": content_type, "file_type": "image"})
        headers = {"Content-Type": content_type, **place["required_headers"]}
        async with self.session.put(place["presigned_url"], data=content, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
        return place["public_url"]

    async def read(self, url: str) -> tuple[int, bytes]:
        async with self.session.get(url) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def bench(data_dir: Path, upscaler=None, clock=None, **settings) -> AsyncIterator[Bench]:
    capture = LogCapture()
    log = structlog.wrap_logger(
        None,
        processors=[capture],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=False,
    )
    clock = clock or ServerClock()
    upscaler = upscaler or HeldUpscaler()
    server = PredictionServer(ServerSettings(data_dir=data_dir, key=KEY, **settings), clock, upscaler, log)
    base = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            yield Bench(server, base, session, clock, upscaler, capture)
    finally:
        await server.close()


@asynccontextmanager
async def host(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Somebody else's web server: every request goes to `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
