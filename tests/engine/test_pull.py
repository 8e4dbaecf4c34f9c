"""The puller, against hosts on loopback that do what hosts do: cut, stall, forget ranges, lie, send elsewhere."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import checkpoints
import networks
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes.clock import FakeClock

from daemon.engine.catalogue import Known
from daemon.engine.model import Model, ModelError
from daemon.engine.pull import CHUNK_BYTES, TRIES_MAX, pull
from daemon.engine.shelf import Shelf

SECONDS = 0.2  # of silence that are enough in a test


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint of more than one chunk."""
    state = networks.random(features=48)
    data = checkpoints.save(tmp_path_factory.mktemp("official") / "net.pth", state).read_bytes()
    assert len(data) > CHUNK_BYTES
    return data


@pytest.fixture
def known(content: bytes) -> Known:
    return Known("net", "v1/net.pth", len(content), hashlib.sha256(content).hexdigest(), "a network for tests")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "models")


@asynccontextmanager
async def serving(host: "Host"):
    app = web.Application()
    app.router.add_get("/{path:.*}", host.answer, allow_head=False)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


class Host:
    """A host that does what it is told, request by request; the last thing again and again."""

    def __init__(self, content: bytes, *steps: Callable[["Host", web.Request], Awaitable[web.StreamResponse]]) -> None:
        self.content = content
        self.steps = list(steps)
        self.ranges: list[str | None] = []
        self.paths: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        step = self.steps[min(len(self.ranges), len(self.steps) - 1)]
        self.ranges.append(request.headers.get("Range"))
        self.paths.append(request.path)
        return await step(self, request)


def begun(request: web.Request) -> int:
    return int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


async def good(host: Host, request: web.Request) -> web.StreamResponse:
    """As it should be."""
    return await part(host, request, len(host.content))


async def part(host: Host, request: web.Request, end: int, **more: str) -> web.StreamResponse:
    """What is asked for, and then a cut at `end`."""
    start, size = begun(request), len(host.content)
    if start >= size:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    answer = web.StreamResponse(status=206 if start else 200)
    answer.content_length = size - start
    if start:
        answer.headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    answer.headers.update(more)
    await answer.prepare(request)
    await answer.write(host.content[start:end])
    if end < size:
        cut(request)
    return answer


def cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.close()


def half(at: float) -> Callable[[Host, web.Request], Awaitable[web.StreamResponse]]:
    return lambda host, request: part(host, request, int(len(host.content) * at))


async def forgetful(host: Host, request: web.Request) -> web.StreamResponse:
    """No ranges here."""
    return web.Response(body=host.content)


def status(code: int) -> Callable[[Host, web.Request], Awaitable[web.StreamResponse]]:
    async def answer(host: Host, request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, body=b"x" * 100)

    return answer


def body(change: Callable[[bytes], bytes]) -> Callable[[Host, web.Request], Awaitable[web.StreamResponse]]:
    async def answer(host: Host, request: web.Request) -> web.StreamResponse:
        return web.Response(body=change(host.content))

    return answer


async def pulled(host: Host, known: Known, shelf: Shelf, clock: FakeClock | None = None, report=None) -> Model:
    async with serving(host) as releases:
        more = {} if report is None else {"report": report}
        return await pull(known, shelf, clock or FakeClock(), releases=releases, read_seconds_max=SECONDS, **more)


async def refused(host: Host, known: Known, shelf: Shelf, clock: FakeClock | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        await pulled(host, known, shelf, clock)
    assert shelf.names() == []
    assert caught.value.text.endswith(".")
    return caught.value.text


def left(shelf: Shelf) -> set[str]:
    return {path.name for path in shelf.folder.iterdir()} - {".lock"}


WHOLE = {"net.param", "net.bin", "net.json"}
PART = ".net.pth.part"


async def test_what_is_pulled_is_installed(content: bytes, known: Known, shelf: Shelf) -> None:
    host, seen = Host(content, good), []
    model = await pulled(host, known, shelf, report=lambda done, total: seen.append((done, total)))
    assert shelf.find("net") == model
    assert left(shelf) == WHOLE
    note = shelf.note("net")
    assert note is not None
    assert (note.sha256, note.licence) == (known.sha256, "BSD-3-Clause")
    assert note.source.endswith("/v1/net.pth")
    assert (host.paths, host.ranges) == (["/v1/net.pth"], [None])
    assert seen[0] == (0, len(content))
    assert seen[-1] == (len(content), len(content))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


async def test_a_cut_is_gone_on_with(content: bytes, known: Known, shelf: Shelf) -> None:
    clock, host = FakeClock(), Host(content, half(0.3), half(0.6), good)
    await pulled(host, known, shelf, clock)
    assert host.ranges == [None, f"bytes={int(len(content) * 0.3)}-", f"bytes={int(len(content) * 0.6)}-"]
    assert clock.slept == [], "who gets on need not wait"


async def test_the_next_run_goes_on_where_the_last_one_ended(content: bytes, known: Known, shelf: Shelf) -> None:
    said = await refused(Host(content, half(0.3), status(503)), known, shelf)
    assert "MiB are here" in said
    assert left(shelf) == {PART}
    host = Host(content, good)
    await pulled(host, known, shelf)
    assert host.ranges == [f"bytes={int(len(content) * 0.3)}-"]
    assert left(shelf) == WHOLE


async def test_a_host_without_ranges_begins_again(content: bytes, known: Known, shelf: Shelf) -> None:
    host = Host(content, half(0.3), forgetful)
    await pulled(host, known, shelf)
    assert len(host.ranges) == 2


async def test_a_host_without_ranges_that_always_cuts_has_an_end(content: bytes, known: Known, shelf: Shelf) -> None:
    async def always(host: Host, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.content_length = len(host.content)
        await answer.prepare(request)
        await answer.write(host.content[: len(host.content) // 2])
        cut(request)
        return answer

    clock, host = FakeClock(), Host(content, always)
    assert "broke off" in await refused(host, known, shelf, clock)
    assert len(host.ranges) == 1 + TRIES_MAX
    assert clock.slept == [1.0, 2.0, 4.0]


async def test_a_slow_host_may_be_slow(content: bytes, known: Known, shelf: Shelf) -> None:
    async def slow(host: Host, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.content_length = len(host.content)
        await answer.prepare(request)
        for start in range(0, len(host.content), 5000):
            await answer.write(host.content[start : start + 5000])
            await asyncio.sleep(0)
        return answer

    await pulled(Host(content, slow), known, shelf)


async def test_a_host_that_falls_silent_is_asked_again(content: bytes, known: Known, shelf: Shelf) -> None:
    over = asyncio.Event()

    async def silent(host: Host, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.content_length = len(host.content)
        await answer.prepare(request)
        await answer.write(host.content[:1000])
        await over.wait()
        return answer

    host = Host(content, silent, good)
    try:
        await pulled(host, known, shelf)
    finally:
        over.set()
    assert host.ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize("known_size", [True, False])
async def test_another_file_is_refused(content: bytes, known: Known, shelf: Shelf, known_size: bool) -> None:
    if not known_size:
        known = Known(known.name, known.path, None, known.sha256, known.about)
    host = Host(content, body(lambda data: data[:-1] + b"x"))
    said = await refused(host, known, shelf)
    assert "sha256" in said
    assert "Nothing of it was kept" in said
    assert left(shelf) == set()
    assert len(host.ranges) == 1, "asking again would bring the same"


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1], lambda data: b""])
async def test_another_size_is_refused(
    content: bytes, known: Known, shelf: Shelf, change: Callable[[bytes], bytes]
) -> None:
    assert "expected" in await refused(Host(content, body(change)), known, shelf)
    assert left(shelf) == set()


async def test_more_than_was_said_is_refused(content: bytes, known: Known, shelf: Shelf) -> None:
    async def endless(host: Host, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(host.content)
        except ConnectionError:
            return answer

    assert "more than" in await refused(Host(content, endless), known, shelf)
    assert left(shelf) == set()


async def test_a_beginning_of_another_file_is_thrown_away(content: bytes, known: Known, shelf: Shelf) -> None:
    """It changed between two runs, or the disk did it harm."""
    shelf.folder.mkdir()
    (shelf.folder / PART).write_bytes(b"x" * 1000)
    host = Host(content, good)
    await pulled(host, known, shelf)
    assert host.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize("size_known", [True, False])
@pytest.mark.parametrize("more", [0, 1])
async def test_what_is_there_already(content: bytes, known: Known, shelf: Shelf, more: int, size_known: bool) -> None:
    """Whole, and only the installation was missing; or larger than it should be."""
    if not size_known:
        known = Known(known.name, known.path, None, known.sha256, known.about)
    shelf.folder.mkdir()
    (shelf.folder / PART).write_bytes(content + b"x" * more)
    host = Host(content, good)
    await pulled(host, known, shelf)
    ask = f"bytes={len(content) + more}-"
    assert host.ranges == ([None] * more if size_known else [ask] + [None] * more)
    assert left(shelf) == WHOLE


async def test_a_host_that_has_less_is_asked_from_the_beginning(content: bytes, known: Known, shelf: Shelf) -> None:
    shelf.folder.mkdir()
    (shelf.folder / PART).write_bytes(content[:5000])
    host = Host(content, status(416), good)
    await pulled(host, known, shelf)
    assert host.ranges == ["bytes=5000-", None]


@pytest.mark.parametrize("answer", ["bytes 0-9/10", "bytes 999-2000/*", "lines 1-2/3", ""])
async def test_another_part_is_not_taken(content: bytes, known: Known, shelf: Shelf, answer: str) -> None:
    async def other(host: Host, request: web.Request) -> web.StreamResponse:
        return web.Response(status=206, body=host.content[:50], headers={"Content-Range": answer})

    shelf.folder.mkdir()
    (shelf.folder / PART).write_bytes(content[:5000])
    host = Host(content, other, good)
    await pulled(host, known, shelf)
    assert host.ranges == ["bytes=5000-", None]


@pytest.mark.parametrize(("code", "words"), [(404, "no longer there"), (403, "does not give"), (401, "401")])
async def test_a_host_that_says_no_is_asked_once(
    content: bytes, known: Known, shelf: Shelf, code: int, words: str
) -> None:
    host = Host(content, status(code))
    said = await refused(host, known, shelf)
    assert words in said
    assert "models add" in said
    assert len(host.ranges) == 1


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_a_busy_host_is_asked_again(content: bytes, known: Known, shelf: Shelf, code: int) -> None:
    clock = FakeClock()
    await pulled(Host(content, status(code), status(code), good), known, shelf, clock)
    assert clock.slept == [1.0, 2.0]
    assert f"answered {code}" in await refused(Host(content, status(code)), known, Shelf(shelf.folder / "other"))


async def test_redirects_are_followed_with_the_range(content: bytes, known: Known, shelf: Shelf) -> None:
    async def elsewhere(host: Host, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/net.pth":
            raise web.HTTPFound("/assets/1?signature=secret")
        return await (half(0.5) if begun(request) == 0 else good)(host, request)

    host = Host(content, elsewhere)
    await pulled(host, known, shelf)
    assert host.paths == ["/v1/net.pth", "/assets/1"] * 2
    assert host.ranges[2] == host.ranges[3] == f"bytes={len(content) // 2}-"


@pytest.mark.parametrize("target", ["/v1/net.pth", "ftp://127.0.0.1/x", "http://[::bad/"])
async def test_redirects_that_lead_nowhere(content: bytes, known: Known, shelf: Shelf, target: str) -> None:
    async def elsewhere(host: Host, request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target})

    assert "leads" in await refused(Host(content, elsewhere), known, shelf)


async def test_an_address_where_nobody_is(known: Known, shelf: Shelf) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(ModelError, match="cannot be reached"):
        await pull(known, shelf, FakeClock(), releases=f"http://127.0.0.1:{port}/")


async def test_a_proxy_of_the_environment_is_used(
    content: bytes, known: Known, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode())
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await pull(known, shelf, FakeClock(), releases="http://releases.example/")
    assert asked == ["GET http://releases.example/v1/net.pth HTTP/1.1\r\n"]


async def test_a_full_disk_keeps_what_came(content: bytes, known: Known, shelf: Shelf) -> None:
    async with serving(Host(content, good)) as releases:
        with networks.room_for(1000), pytest.raises(ModelError, match=r"File too large.*kept"):
            await pull(known, shelf, FakeClock(), releases=releases)
    assert left(shelf) == {PART}
    host = Host(content, good)
    await pulled(host, known, shelf)
    assert host.ranges == ["bytes=1000-"]


async def test_ctrl_c_keeps_what_came(content: bytes, known: Known, shelf: Shelf) -> None:
    here, over = asyncio.Event(), asyncio.Event()

    async def held(host: Host, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.content_length = len(host.content)
        await answer.prepare(request)
        await answer.write(host.content[:1000])
        await over.wait()
        return answer

    def report(done: int, total: int | None) -> None:
        if done:
            here.set()

    async with serving(Host(content, held)) as releases:
        pulling = asyncio.create_task(pull(known, shelf, FakeClock(), report, releases=releases))
        await here.wait()
        with pytest.raises(ModelError, match="Somebody else"):
            await pull(known, shelf, FakeClock(), releases=releases)
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
        over.set()
    assert (shelf.names(), left(shelf)) == ([], {PART})
    assert (shelf.folder / PART).read_bytes() == content[:1000]


async def test_what_is_right_and_no_network_is_not_installed(shelf: Shelf) -> None:
    """Were the catalogue wrong: a sentence, and nothing on the shelf."""
    data = b"PK but no zip"
    known = Known("net", "net.pth", len(data), hashlib.sha256(data).hexdigest(), "")
    assert "cannot be used" in await refused(Host(data, good), known, shelf)


async def test_a_link_in_the_place_of_the_part_is_not_written_through(
    content: bytes, known: Known, shelf: Shelf, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("mine")
    shelf.folder.mkdir()
    (shelf.folder / PART).symlink_to(tmp_path / "mine")
    await refused(Host(content, forgetful), known, shelf)
    assert (tmp_path / "mine").read_text() == "mine"
