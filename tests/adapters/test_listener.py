"""The daemon's own page: well or not, the status, the token, webhooks, and whoever means it no good."""

import asyncio
import contextlib
import gzip
import hashlib
import hmac
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from daemon.adapters.listener import Ear, Limits, Listener
from daemon.rules.faults import Blame, Fault, Outlook

TOKEN = "a-token-that-nobody-guesses-é"


class Page:
    """A listener and what stands behind it."""

    def __init__(self, token: str | None = None) -> None:
        self.problems: list[str] = []
        self.asked = 0
        self.listener = Listener(lambda: self.problems, self.status, token)
        self.base = ""

    async def status(self) -> dict[str, Any]:
        self.asked += 1
        return {"version": "0.1.0", "jobs": {"done": 3}}

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.base + path, headers=headers) as answer,
        ):
            return answer.status, await answer.json() if answer.content_type == "application/json" else None


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    page = Page()
    page.base = f"http://127.0.0.1:{await page.listener.start('127.0.0.1', 0)}"
    yield page
    await page.listener.close()


@pytest.fixture
async def guarded() -> AsyncIterator[Page]:
    page = Page(TOKEN)
    page.base = f"http://127.0.0.1:{await page.listener.start('127.0.0.1', 0)}"
    yield page
    await page.listener.close()


async def test_well_or_not(page: Page) -> None:
    assert await page.get("/healthz") == (200, {"ok": True, "problems": []})
    page.problems = ["The disk is full."]
    assert await page.get("/healthz") == (503, {"ok": False, "problems": ["The disk is full."]})
    page.problems = []
    assert (await page.get("/healthz"))[0] == 200


async def test_the_status(page: Page) -> None:
    assert await page.get("/status") == (200, {"version": "0.1.0", "jobs": {"done": 3}})


async def test_nothing_else_is_there(page: Page) -> None:
    assert (await page.get("/"))[0] == 404
    assert (await page.get("/status", "POST"))[0] == 405
    assert (await page.get("/healthz", "DELETE"))[0] == 405


@pytest.mark.parametrize("path", ["/healthz", "/status", "/", "/nowhere"])
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic abc", "Bearer " + TOKEN[:-1]])
async def test_without_the_token_there_is_nothing(guarded: Page, path: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    status, body = await guarded.get(path, **headers)
    assert status == 401
    assert guarded.asked == 0
    assert TOKEN not in str(body)


async def test_with_the_token_all_is_there(guarded: Page) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert (await guarded.get("/status", **headers))[0] == 200
    assert (await guarded.get("/healthz", **headers))[0] == 200


async def test_a_token_of_strange_bytes_is_wrong_and_no_failure(guarded: Page) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(guarded.base.rpartition(":")[2]))
    writer.write(b"GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(20):
        assert b" 401 " in await reader.readline()
        await reader.read()
    writer.close()
    await writer.wait_closed()


REBOUND = [
    *("evil.example.org", "127.0.0.1.nip.io", "localhost.evil.example.org:8484", "x", "2130706433", "127.1:80", "[x]")
]


@pytest.mark.parametrize("path", ["/status", "/healthz", "/", f"/hook/{'0' * 32}"])
@pytest.mark.parametrize("host", REBOUND)
async def test_a_web_page_whose_name_leads_here_reads_nothing(page: Page, path: str, host: str) -> None:
    """A browser on this machine would hand it the answer, as it takes this machine for the page's own."""
    assert (await page.get(path, Host=host))[0] == 403
    assert (await page.get(path, "POST", Host=host))[0] == 403
    assert page.asked == 0


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8484", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8484", "192.0.2.7:80"]
)
async def test_who_calls_it_by_an_address_is_answered(page: Page, host: str) -> None:
    assert (await page.get("/status", Host=host))[0] == 200


async def test_with_a_token_any_name_will_do(guarded: Page) -> None:
    assert (await guarded.get("/status", Host="nas.example.org", Authorization=f"Bearer {TOKEN}"))[0] == 200


async def test_an_old_client_names_no_host_and_is_no_browser(page: Page) -> None:
    for said, status in ((b"", b"200"), (b"Host: evil.example.org\r\n", b"403"), (b"Host:\r\n", b"403")):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(page.base.rpartition(":")[2]))
        writer.write(b"GET /healthz HTTP/1.0\r\n" + said + b"\r\n")
        assert (await reader.readline()).split(b" ")[1] == status
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1"])
async def test_a_place_that_cannot_be_had_is_a_fault(host: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        page = Page()
        with pytest.raises(Fault, match=rf"\[http\] listen: {host}:{port}") as caught:
            await page.listener.start(host, port)
    assert (caught.value.blame, caught.value.outlook) == (Blame.HOUSE, Outlook.LASTING)
    assert caught.value.remedy
    await page.listener.close()


async def test_closed_is_closed(page: Page) -> None:
    await page.listener.close()
    with pytest.raises(aiohttp.ClientConnectionError):
        await page.get("/healthz")
    await page.listener.close()


# Webhooks


class Line:
    """One connection, spoken to byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def all(self, drip: bytes = b"") -> bytes:
        """All that comes until the other side closes; meanwhile it is sent more, a drop at a time."""
        came = bytearray()

        async def read() -> None:
            with contextlib.suppress(ConnectionError):
                while block := await self.reader.read(65536):
                    came.extend(block)

        reading = asyncio.ensure_future(read())
        async with asyncio.timeout(20):
            while not (await asyncio.wait({reading}, timeout=0.02 if drip else None))[0]:
                self.writer.write(drip)
        await reading
        return bytes(came)

    async def closed(self) -> None:
        """Close, whatever is still under way."""
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Hearing(Page):
    """A listener that hears webhooks."""

    def __init__(self, token: str | None = None, limits: Limits | None = None) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.refused = 0
        self.shown: dict[str, Any] = {}
        self.lines: list[Line] = []
        self.listener = Listener(list, self.show, token, Ear(SECRET, self.heard.append, self.refuse), limits)

    async def show(self) -> dict[str, Any]:
        return self.shown

    def refuse(self) -> None:
        self.refused += 1

    async def start(self) -> "Hearing":
        self.base = f"http://127.0.0.1:{await self.listener.start('127.0.0.1', 0)}"
        return self

    async def dial(self, *, said: bytes = b"") -> Line:
        line = Line(*await asyncio.open_connection("127.0.0.1", int(self.base.rpartition(":")[2])))
        self.lines.append(line)
        line.writer.write(said)
        return line

    async def answer(self, said: bytes, drip: bytes = b"") -> bytes:
        """What comes back until the listener closes the connection."""
        return await (await self.dial(said=said)).all(drip)

    async def is_well(self) -> bool:
        """Whether an honest question is answered, and an honest webhook is heard."""
        self.heard.clear()
        healthy = (await self.get("/healthz"))[0] == 200
        return healthy and (await self.answer(hook()))[:13] == NO_CONTENT and self.heard == [KNOWN]


Start = Callable[..., Awaitable[Hearing]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts listeners, and closes them and all connections to them at the end."""
    started: list[Hearing] = []

    async def begin(token: str | None = None, **limits: Any) -> Hearing:
        started.append(Hearing(token, Limits(**limits)))
        return await started[-1].start()

    yield begin
    for hearing in started:
        for line in hearing.lines:
            await line.closed()
        await hearing.listener.close()


SECRET = "wh-5ecre7-of-the-tests"
KNOWN = "f35117a8cd689aa9faa6b844dea0904d"
SHOWN = f"X-Webhook-Secret: {SECRET}\r\n"
NO_CONTENT = b"HTTP/1.1 204 "
LARGE = 20_000_000  # more than the buffers between two ends of a connection hold


def head(*headers: str, path: str = f"/hook/{KNOWN}", method: str = "POST", host: str = "localhost") -> bytes:
    """A request up to its body. headers: whole lines, with their ends."""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{''.join(headers)}\r\n".encode("latin-1")


def hook(body: bytes = b"{}", shown: str = SHOWN, path: str = f"/hook/{KNOWN}") -> bytes:
    """A whole webhook."""
    return head(shown, f"Content-Length: {len(body)}\r\n", path=path) + body


def without_date(answer: bytes) -> list[bytes]:
    return [line for line in answer.split(b"\r\n") if not line.startswith(b"Date: ")]


async def test_a_genuine_webhook_is_heard(start: Start) -> None:
    hearing = await start()
    assert (await hearing.answer(hook()))[:13] == NO_CONTENT
    signature = hmac.new(SECRET.encode(), b"17.{}", hashlib.sha256).hexdigest()
    signed = f"X-Webhook-Timestamp: 17\r\nX-Webhook-Signature: {signature}\r\n"
    assert (await hearing.answer(hook(shown=signed)))[:13] == NO_CONTENT
    assert hearing.heard == [KNOWN, KNOWN]
    assert hearing.refused == 0


@pytest.mark.parametrize("host", ["nas.example.org", "nas.example.org:443", "x"])
async def test_a_webhook_comes_by_any_name(start: Start, host: str) -> None:
    """A reverse proxy hands on the one that the service called; the secret is what is looked at."""
    hearing = await start()
    webhook = head(SHOWN, "Content-Length: 2\r\n", host=host) + b"{}"
    assert (await hearing.answer(webhook))[:13] == NO_CONTENT
    assert hearing.heard == [KNOWN]


async def test_nothing_can_be_learnt_from_the_answer(start: Start) -> None:
    """Known or not, late or again, whatever it says."""
    hearing = await start()
    first = without_date(await hearing.answer(hook()))
    for body in (b"", b"\xff\x00", b"[" * 9999, b'{"status": "failed"}'):
        for token in (KNOWN, "0" * 32, "x", "%2e%2e%00", "a" * 3000):
            assert without_date(await hearing.answer(hook(body, path=f"/hook/{token}"))) == first
    forged = {tuple(without_date(await hearing.answer(hook(b"{}", "", f"/hook/{t}")))) for t in (KNOWN, "0" * 32, "x")}
    assert len(forged) == 1
    assert next(iter(forged))[0].startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "X-Webhook-Secret:\r\n",
        f"X-Webhook-Secret: {SECRET}x\r\n",
        "X-Webhook-Secret: \xff\xfe\r\n",
        "X-Webhook-Timestamp: 17\r\nX-Webhook-Signature: \xed\xa0\x80\r\n",
        f"Authorization: Bearer {SECRET}\r\n",
    ],
)
async def test_a_webhook_without_the_secret_is_refused_and_not_heard(start: Start, shown: str) -> None:
    hearing = await start()
    assert b" 401 " in (await hearing.answer(hook(shown=shown)))[:16]
    assert (hearing.heard, hearing.refused) == ([], 1)
    assert await hearing.is_well()


async def test_webhooks_need_no_bearer_token_and_give_none(start: Start) -> None:
    hearing = await start(TOKEN)
    assert (await hearing.answer(hook()))[:13] == NO_CONTENT
    for request in (
        head(SHOWN, path="/status", method="GET"),
        head(SHOWN, path="/healthz", method="GET"),
        head(SHOWN, method="GET"),
        head(SHOWN, path=f"/hook/{KNOWN}/../../status", method="GET"),
        head(SHOWN, "Content-Length: 0\r\n", path="/hook/"),
        head(SHOWN, "Content-Length: 0\r\n", path=f"/hook/{KNOWN}/x"),
        head(SHOWN, path="/nowhere", method="GET"),
    ):
        assert b" 401 " in (await hearing.answer(request))[:16]
    assert hearing.heard == [KNOWN]


async def test_without_webhooks_nobody_listens(page: Page) -> None:
    assert (await page.get(f"/hook/{KNOWN}", "POST"))[0] == 404


async def test_a_body_has_its_limit(start: Start) -> None:
    hearing = await start(linger_seconds=0.05)
    most = 64 * 1024
    assert (await hearing.answer(hook(b"x" * most)))[:13] == NO_CONTENT
    chunks = head(SHOWN, "Transfer-Encoding: chunked\r\n")
    assert (await hearing.answer(chunks + b"%x\r\n" % most + b"x" * most + b"\r\n0\r\n\r\n"))[:13] == NO_CONTENT
    hearing.heard.clear()
    # Said beforehand, and not said.
    assert b" 413 " in (await hearing.answer(head(SHOWN, f"Content-Length: {most + 1}\r\n")))[:16]
    assert b" 413 " in (await hearing.answer(chunks, drip=b"4000\r\n" + b"x" * 0x4000 + b"\r\n"))[:16]
    assert hearing.heard == []
    assert await hearing.is_well()


async def test_what_is_packed_stays_packed(start: Start) -> None:
    """A body that grows a thousandfold when it is unpacked is not unpacked."""
    hearing = await start()
    packed = gzip.compress(bytes(50_000_000))
    assert len(packed) < 64 * 1024
    request = head(SHOWN, "Content-Encoding: gzip\r\n", f"Content-Length: {len(packed)}\r\n") + packed
    assert (await hearing.answer(request))[:13] == NO_CONTENT


@pytest.mark.parametrize(
    ("said", "drop", "status"),
    [
        (b"", b"", b""),
        (b"POST /hook/", b"a", b""),
        (head(SHOWN)[:-2], b"X-A: b\r\n", b""),
        (head(SHOWN)[:-2] + b"X-A: ", b"b", b""),
        (head(SHOWN, "Content-Length: 60000\r\n"), b"", b" 408 "),
        (head(SHOWN, "Content-Length: 60000\r\n"), b"b", b" 408 "),
        (head(SHOWN, "Transfer-Encoding: chunked\r\n"), b"1\r\nb\r\n", b" 408 "),
        (head(SHOWN, "Content-Length: 60000\r\n", path="/healthz"), b"b", b" 405 "),
    ],
    ids=["silent", "first line", "headers", "one header", "no body", "body", "chunks", "another's body"],
)
async def test_who_is_slow_is_cut_off_and_holds_up_nobody(
    start: Start, said: bytes, drop: bytes, status: bytes
) -> None:
    hearing = await start(idle_seconds=0.3, body_seconds=0.3, linger_seconds=0.1)
    slow = asyncio.gather(*(hearing.answer(said, drop) for _ in range(20)))
    assert await hearing.is_well()
    async with asyncio.timeout(8):
        answers = await slow
    for answer in answers:
        assert status in answer[:16]
        assert answer.count(b"HTTP/1.") == (1 if status else 0)
    assert hearing.heard == [KNOWN], "the honest one alone"


async def test_a_second_request_has_no_more_time_than_the_first(start: Start) -> None:
    hearing = await start(idle_seconds=0.3)
    again = hook().replace(b"Connection: close\r\n", b"")
    assert (await hearing.answer(again + head(SHOWN)[:-2], b"X-A: b\r\n")).count(b"HTTP/1.") == 1


@pytest.mark.parametrize(
    ("said", "most", "count"),
    [
        (b"", Limits().connections_max, 200),
        (head(SHOWN)[:-2], 20, 90),
        (head(SHOWN, "Content-Length: 60000\r\n"), 20, 90),
        (head(path="/status", method="GET"), 6, 10),
    ],
    ids=["idle", "half a head", "half a body", "reads nothing"],
)
async def test_too_many_connections_cost_the_oldest(start: Start, said: bytes, most: int, count: int) -> None:
    hearing = await start(idle_seconds=60.0, body_seconds=60.0, connections_max=most)
    hearing.shown = {"much": "x" * LARGE}
    lines = [await hearing.dial(said=said) for _ in range(count)]
    assert await hearing.is_well()
    assert await hearing.is_well()
    for line in lines[: count - most]:
        assert len(await line.all()) < LARGE
    newest = lines[count - most + 4 :]
    assert newest
    assert not any(line.reader.at_eof() or line.reader.exception() for line in newest)


async def test_who_does_not_read_holds_up_no_end(start: Start) -> None:
    hearing = await start(close_seconds=0.1)
    hearing.shown = {"much": "x" * LARGE}
    line = await hearing.dial(said=head(path="/status", method="GET"))
    assert b" 200 " in await line.reader.readline()
    async with asyncio.timeout(10):
        await hearing.listener.close()
    assert len(await line.all()) < LARGE


HOSTILE = {
    "huge header": head("X-A: " + "b" * 5000 + "\r\n"),
    "huge name": head("X" * 5000 + ": b\r\n"),
    "huge line": head(path=f"/hook/{KNOWN}/" + "b" * 5000),
    "endless header": head()[:-2] + b"X-A: " + b"b" * 100_000,
    "many headers": head("X-A: b\r\n" * 70),
    "huge length": head(SHOWN, "Content-Length: " + "9" * 400 + "\r\n"),
    "negative length": head(SHOWN, "Content-Length: -1\r\n"),
    "two lengths": head(SHOWN, "Content-Length: 1\r\nContent-Length: 2\r\n") + b"xx",
    "length and chunks": head(SHOWN, "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
    "bad chunk": head(SHOWN, "Transfer-Encoding: chunked\r\n") + b"ZZ\r\nx",
    "later bad chunk": head(SHOWN, "Transfer-Encoding: chunked\r\n") + b"1\r\nx\r\nZZ\r\n",
    "bad chunk elsewhere": head("Transfer-Encoding: chunked\r\n", path="/healthz") + b"1\r\nx\r\nZZ\r\n",
    "no host": f"POST /hook/{KNOWN} HTTP/1.1\r\n\r\n".encode(),
    "bad host": f"POST http://[/hook/{KNOWN} HTTP/1.1\r\n\r\n".encode(),
    "bad method": f"\x16\x03 /hook/{KNOWN} HTTP/1.1\r\n\r\n".encode(),
    "bad version": f"POST /hook/{KNOWN} HTTP/9.1\r\n\r\n".encode(),
    "no http": f"/hook/{KNOWN}\r\n\r\n".encode(),
    "raw path": head(SHOWN, path=f"/hook/\xff\xfe{KNOWN}"),
    "nul": head(f"X-A: \0{KNOWN}\r\n"),
    "tunnel": head(SHOWN, path=f"/hook/{KNOWN}", method="CONNECT") + b"xyz",
    "upgrade": head("Upgrade: websocket\r\nContent-Length: 2\r\n").replace(b"close", b"upgrade") + b"{}xyz",
    "odd expectation": head(SHOWN, "Expect: 999-all\r\nContent-Length: 2\r\n") + b"{}",
}


STATUSES = {"tunnel": 404, "upgrade": 401, "odd expectation": 417}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_amiss_does_no_harm_and_is_not_logged(
    start: Start, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    hearing = await start(linger_seconds=0.05)
    status = (await hearing.answer(HOSTILE[name])).split(b" ")[1]
    assert int(status) == STATUSES.get(name, 400)
    assert hearing.heard == []
    assert await hearing.is_well()
    assert caplog.records == []


@pytest.mark.parametrize("body", ["Content-Length: 60000\r\n", "Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("way", ["abort", "end", "nonsense"])
async def test_who_goes_away_does_no_harm(start: Start, body: str, way: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    hearing = await start(body_seconds=0.3)
    line = await hearing.dial(said=head(SHOWN, body, "Expect: 100-continue\r\n"))
    assert b" 100 " in await line.reader.readline()  # It is being read.
    line.writer.write(b"5\r\nx")
    if way == "abort":
        await line.closed()
    elif way == "nonsense":
        line.writer.write(b"nonsense\r\n" * 6000)
        assert b" 500 " not in await line.all()
    else:
        line.writer.write_eof()
        await line.all()
    assert await hearing.is_well()
    assert caplog.records == []


async def test_a_defect_of_ours_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    hearing = await start()
    hearing.shown = {"not": {"JSON"}}
    assert (await hearing.get("/status"))[0] == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]
