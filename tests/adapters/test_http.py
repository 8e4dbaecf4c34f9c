"""Where the daemon may go, and what it makes of a network that fails."""

import asyncio
import datetime
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.clock import FakeClock

from daemon.adapters.http import SESSION_ERRORS_MAX, SESSION_SECONDS_MAX, Http, Lane, Peer, is_loopback
from daemon.rules.faults import Created, Fault, Gate, Outlook

API = Peer("The prediction API", Gate.API)
RESULT = Peer("The host of the result", Gate.FETCH)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def http(clock: FakeClock) -> AsyncIterator[Http]:
    http = Http(clock, insecure_loopback=True)
    yield http
    await http.close()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def closed_port() -> int:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def ask(http: Http, url: str, lane: Lane = Lane.CREATE, method: str = "POST", seconds: float = 5.0) -> int:
    async with http.request(lane, method, url, API, seconds=seconds) as response:
        await response.read()
        return response.status


async def fault_of(http: Http, url: str, lane: Lane = Lane.CREATE, seconds: float = 5.0) -> Fault:
    with pytest.raises(Fault) as caught:
        await ask(http, url, lane, seconds=seconds)
    return caught.value


async def test_refused_connection_has_sent_nothing(http: Http) -> None:
    fault = await fault_of(http, f"http://127.0.0.1:{await closed_port()}/")
    assert fault.said == "The prediction API at 127.0.0.1 cannot be reached: connection refused."
    assert (fault.created, fault.gate, fault.outlook) == (Created.NO, Gate.API, Outlook.PASSING)
    assert fault.remedy


async def test_unknown_name_has_sent_nothing(http: Http) -> None:
    fault = await fault_of(http, "https://api.invalid/")
    assert fault.said.startswith("The prediction API at api.invalid cannot be reached: ")
    assert "name" in fault.said
    assert fault.created is Created.NO


async def test_a_cut_connection_may_have_created(http: Http) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        await request.read()
        assert request.transport
        request.transport.abort()
        return web.Response()

    async with serving(cut) as url:
        fault = await fault_of(http, url)
    assert fault.created is Created.MAYBE
    assert fault.said == "The prediction API at 127.0.0.1 cut the connection."


async def test_silence_may_have_created(http: Http) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async with serving(silent) as url:
        fault = await fault_of(http, url, seconds=0.1)
    assert fault.created is Created.MAYBE
    assert "did not answer in time" in fault.said


async def test_what_is_not_http_may_have_created(http: Http) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example.org ESMTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    async with server:
        fault = await fault_of(http, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert fault.created is Created.MAYBE


async def test_a_certificate_of_nobody_has_sent_nothing(http: Http, tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        raise AssertionError("the request must not get here")

    app = web.Application()
    app.router.add_route("*", "/", answer)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=own_certificate(tmp_path))
    fault = await fault_of(http, str(server.make_url("/")))
    await server.close()
    assert "TLS certificate" in fault.said
    assert (fault.created, fault.outlook) == (Created.NO, Outlook.LASTING)


def own_certificate(directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    file = directory / "own.pem"
    file.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_a_signature_goes_out_verbatim_and_never_into_a_fault(http: Http) -> None:
    seen: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append(request.raw_path)
        assert request.transport
        request.transport.abort()
        return web.Response()

    query = "X-Goog-Credential=a%2Fb%40c&Signature=a%2Bb%2f%20secret"
    async with serving(note) as url:
        fault = await fault_of(http, f"{url}x?{query}")
    assert seen == [f"/x?{query}"]
    assert "secret" not in "".join(traceback.format_exception(fault))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "/a.png",
        "",
        "https://",
        "https://[::1",
        "https://10.0.0.1/a.png",
        "https://192.168.1.1/a.png",
        "https://169.254.169.254/latest/meta-data",
        "https://127.0.0.1/a.png",
        "https://0.0.0.0/a.png",
        "https://[::1]/a.png",
        "https://[::ffff:10.0.0.1]/a.png",
        "https://[64:ff9b::a00:1]/a.png",
        "https://[fe80::1]/a.png",
        "https://[fd00::1]/a.png",
        "https://224.0.0.1/a.png",
        "https://localhost/a.png",
        "https://127.1/a.png",
        "https://2130706433/a.png",
    ],
)
async def test_a_result_never_leads_into_the_house(clock: FakeClock, url: str) -> None:
    http = Http(clock, insecure_loopback=False)
    with pytest.raises(Fault) as caught:
        async with http.follow(url, RESULT, seconds=5.0, stall_seconds=5.0):
            pass
    assert "cannot be reached" not in caught.value.said, "it must be refused, not tried"
    await http.close()


async def test_plain_http_is_for_an_api_on_loopback_alone(clock: FakeClock) -> None:
    http = Http(clock, insecure_loopback=False)
    for url in (f"http://127.0.0.1:{await closed_port()}/", "http://example.com/"):
        fault = await fault_of(http, url)
        assert "without encryption" in fault.said
        assert (fault.created, fault.outlook, fault.gate) == (Created.NO, Outlook.LASTING, Gate.API)


async def test_an_api_on_loopback_opens_loopback_and_nothing_else(http: Http) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text="here")

    async with (
        serving(answer) as url,
        http.follow(url, RESULT, seconds=5.0, stall_seconds=5.0) as response,
    ):
        assert await response.text() == "here"
    with pytest.raises(Fault, match="local network"):
        async with http.follow("https://192.168.1.1/", RESULT, seconds=5.0, stall_seconds=5.0):
            pass


@pytest.mark.parametrize(
    "target", ["https://10.0.0.1/", "http://example.com/", "gopher://x/", "https://[", "//169.254.169.254/"]
)
async def test_a_redirect_is_looked_at_like_the_first(http: Http, target: str) -> None:
    async def redirect(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target})

    async with serving(redirect) as url:
        with pytest.raises(Fault) as caught:
            async with http.follow(url, RESULT, seconds=5.0, stall_seconds=5.0):
                pass
    assert "cannot be reached" not in caught.value.said


@pytest.mark.parametrize(("hops", "arrives"), [(3, True), (4, False)])
async def test_three_redirects_are_enough(http: Http, hops: int, arrives: bool) -> None:
    async def redirect(request: web.Request) -> web.StreamResponse:
        hop = int(request.path[1:])
        return web.Response(status=302, headers={"Location": f"/{hop + 1}"}) if hop < hops else web.Response()

    async with serving(redirect) as url:
        with nullcontext() if arrives else pytest.raises(Fault, match="more than 3 times"):
            async with http.follow(f"{url}0", RESULT, seconds=5.0, stall_seconds=5.0) as response:
                assert response.status == 200


async def test_requests_are_not_redirected_by_themselves(http: Http) -> None:
    asked = 0

    async def redirect(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(status=307, headers={"Location": "/again"})

    async with serving(redirect) as url:
        assert await ask(http, url) == 307
    assert asked == 1


async def test_a_create_has_a_connection_of_its_own_and_is_not_repeated(http: Http) -> None:
    ports: list[int] = []

    async def once(request: web.Request) -> web.StreamResponse:
        assert request.transport
        ports.append(request.transport.get_extra_info("peername")[1])
        if len(ports) > 1:
            request.transport.abort()
        return web.Response(headers={"Connection": "keep-alive"})

    async with serving(once) as url:
        await ask(http, url)
        await fault_of(http, url)
    assert len(set(ports)) == len(ports) == 2


async def test_the_proxy_of_the_environment_is_asked(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:word@127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "direct.invalid")
        for lane in (Lane.CREATE, Lane.API, Lane.FILES):
            fault = await fault_of(http, "https://api.example.org/v1", lane)
            assert fault.said == "The proxy does not let us through to api.example.org (status 407)."
            assert "word" not in "".join(traceback.format_exception(fault))
            assert fault.created is Created.NO
        assert "direct.invalid" in (await fault_of(http, "https://direct.invalid/")).said
    assert len(lines) == 3
    assert all(line.startswith(b"CONNECT api.example.org:443") for line in lines)
    assert all(b"Proxy-Authorization: Basic" in line for line in lines)


async def test_a_proxy_that_is_gone(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{await closed_port()}")
    fault = await fault_of(http, "https://api.example.org/v1")
    assert fault.said == "The proxy at 127.0.0.1 cannot be reached: connection refused."
    assert fault.created is Created.NO


async def test_no_proxy_for_loopback(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response()

    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{await closed_port()}")
    async with serving(answer) as url:
        assert await ask(http, url) == 200


async def test_sessions_are_renewed(http: Http, clock: FakeClock) -> None:
    """After hours, and after errors in a row; a response that is open meanwhile is read to its end."""
    ports: list[int] = []

    async def note(request: web.Request) -> web.StreamResponse:
        assert request.transport
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.Response(body=b"x" * 1_000_000)

    async with serving(note) as url:
        await ask(http, url, Lane.API, "GET")
        await ask(http, url, Lane.API, "GET")
        clock.advance(SESSION_SECONDS_MAX + 1)
        async with http.request(Lane.API, "GET", url, API, seconds=5.0) as response:
            clock.advance(SESSION_SECONDS_MAX + 1)
            await ask(http, url, Lane.API, "GET")
            assert len(await response.read()) == 1_000_000
        for _ in range(SESSION_ERRORS_MAX):
            await fault_of(http, f"http://127.0.0.1:{await closed_port()}/", Lane.API)
        await ask(http, url, Lane.API, "GET")
    assert ports[0] == ports[1]
    assert len(set(ports[1:])) == 4


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback(f"{host}.example.org")
