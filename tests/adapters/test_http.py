"""Where the daemon may go, and what it makes of a network that fails."""

import asyncio
import datetime
import socket
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

from daemon.adapters.addresses import is_loopback, objection, reachable
from daemon.adapters.http import SESSION_ERRORS_MAX, SESSION_SECONDS_MAX, Http, Lane, Peer
from daemon.rules.faults import Created, Fault, Gate, Outlook

API = Peer("The prediction API", Gate.API)
RESULT = Peer("The host of the result", Gate.FETCH)
STORAGE = Peer("The prediction API's file storage", Gate.STORAGE)
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


LITERALS = [
    "10.0.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.192",
    "127.0.0.1",
    "127.0.0.1.",
    "0.0.0.0",
    "224.0.0.1",
    "[::1]",
    "[::]",
    "[::ffff:10.0.0.1]",
    "[64:ff9b::a00:1]",
    "[64:ff9b::7f00:1]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fd00::1]",
    "[ff02::1]",
    "[2002:7f00:1::]",
    "[2002:c0a8:101::1]",
    "[2001:0:7f00:1::1]",
    "[2001:db8::1]",
    "[64:ff9b:1::a00:1]",
    "[::127.0.0.1]",
    "[::a00:1]",
    "[fec0::1]",
    "[::ffff:0:127.0.0.1]",
]
SPELLINGS = [
    "127.1",
    "2130706433",
    "0x7f000001",
    "0X7F.1",
    "0177.0.0.1",
    "127.0.0.08",
    "0",
    "10.1",
    "8.8.2056",
    "1.2.3.4.5",
    "127。0。0。1",
    "①②⑦.0.0.1",
    "%31%32%37.0.0.1",
    "127.0.0.1%00.example.com",
]
NAMES = [
    "localhost",
    "LOCALHOST",
    "localhost.",
    "foo.localhost",
    "ip6-localhost",
    "intranet",
    "intranet.",
    "metadata.google.internal",
    "metadata.google.internal.",
    "nas.local",
    "router.home.arpa",
    "home.arpa",
    "host.localdomain",
    "a..example.com",
    ".example.com",
    "-",
]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "/a.png",
        "",
        "https://",
        "https://.",
        "https://[::1",
        *(f"https://{host}/a.png" for host in LITERALS + SPELLINGS + NAMES),
    ],
)
@pytest.mark.parametrize("proxied", [False, True])
async def test_a_result_never_leads_into_the_house(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, url: str, proxied: bool
) -> None:
    """Nor does a proxy hear of it, which would lead there."""
    if proxied:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{await closed_port()}")
    http = Http(clock, insecure_loopback=False, look_up=nobody)
    with pytest.raises(Fault) as caught:
        async with http.follow(url, RESULT, seconds=5.0, stall_seconds=5.0):
            pass
    assert caught.value.said.endswith("; it is not used."), "it must be refused, not tried"
    assert caught.value.gate is None
    await http.close()


async def nobody(host: str, port: int, family: int) -> list[object]:
    raise AssertionError(f"{host} must not be looked up")


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_the_world_is_reachable(address: str) -> None:
    assert reachable(address, loopback=False)
    assert objection(address, loopback=False) == ""


@pytest.mark.parametrize(
    "host", ["example.com", "Example.COM.", "a_b.example.com", "xn--ex-cja.com", "0x7f.example.com", "1.2.3.4.example"]
)
def test_names_of_the_world_are_fine(host: str) -> None:
    assert objection(host, loopback=False) == ""


def test_an_api_on_this_machine_may_name_this_machine() -> None:
    for host in ("localhost", "localhost.", "a.localhost", "127.0.0.1", "::1"):
        assert objection(host, loopback=True) == ""
    for host in ("intranet", "nas.local", "10.0.0.1", "127.1", "64:ff9b::7f00:1"):
        assert objection(host, loopback=True)


class Names:
    """A DNS: what a name leads to. Another name is not found; "?" stands for a DNS that is away."""

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int, family: int) -> list[tuple[object, ...]]:
        self.asked.append(host)
        found = self.addresses.get(host.replace(".", "_"))
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if found == ["?"]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
        return [(kind, socket.SOCK_STREAM, 6, "", (address, port)) for kind, address in zip(kinds, found, strict=True)]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["fe80::1%eth0"], ["2002:7f00:1::"]])
@pytest.mark.parametrize("proxied", [False, True])
async def test_a_name_that_leads_into_the_house_is_not_used(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, addresses: list[str], proxied: bool
) -> None:
    if proxied:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{await closed_port()}")
    names = Names(rebound_example_org=addresses)
    http = Http(clock, insecure_loopback=False, look_up=names)
    fault = await fault_of(http, "https://rebound.example.org/", Lane.FILES)
    assert fault.said == (
        "The prediction API at rebound.example.org has an address in a local network; it is not used."
    )
    assert names.asked == ["rebound.example.org"]
    await http.close()


async def test_a_proxy_is_asked_for_what_is_not_found_here(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that goes out through a proxy often has no DNS of its own."""
    lines: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    http = Http(clock, insecure_loopback=False, look_up=Names(away_example_org=["?"], found_example_org=["8.8.8.8"]))
    async with server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        for host in ("away", "found", "nowhere"):
            fault = await fault_of(http, f"https://{host}.example.org/", Lane.FILES)
            assert "status 403" in fault.said
    assert lines == [b"away.example.org:443", b"found.example.org:443", b"nowhere.example.org:443"]
    await http.close()


@pytest.mark.parametrize(("peer", "gate"), [(RESULT, None), (STORAGE, Gate.STORAGE)])
async def test_one_wrong_address_of_a_result_stops_no_other(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, peer: Peer, gate: Gate | None
) -> None:
    """An address for uploads is another matter: the next picture's has the same host."""
    http = Http(clock, insecure_loopback=True, look_up=Names(away_example_org=["?"]))

    async def gate_of(url: str) -> Gate | None:
        with pytest.raises(Fault) as caught:
            async with http.request(Lane.FILES, "GET", url, peer, seconds=5.0):
                pass
        return caught.value.gate

    app = web.Application()
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=own_certificate(tmp_path))
    assert await gate_of(str(server.make_url("/"))) is gate
    await server.close()
    assert await gate_of("https://nowhere.example.org/") is gate
    assert await gate_of(f"https://{'a' * 64}.example.org/") is gate
    assert await gate_of("https://nas.local/") is gate
    assert await gate_of("https://away.example.org/") is peer.gate
    assert await gate_of(f"http://127.0.0.1:{await closed_port()}/") is peer.gate, "most results come from one host"
    for status, closes in ((403, gate), (407, peer.gate), (503, peer.gate)):
        async with answering(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy)
            assert await gate_of("https://nowhere.example.org/") is closes
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:1")
    assert await gate_of("https://nowhere.example.org/") is peer.gate, "it is the proxy that is nowhere"
    await http.close()


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server with one answer for all."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


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


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback(f"{host}.example.org")
