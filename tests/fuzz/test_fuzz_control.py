"""Bytes into the control socket and the daemon's page: answered or hung up on, and the next honest one is answered."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fuzz_kit import any_text, assert_fault, fuzz, hostile_text, json_values, quiet
from hypothesis import given
from hypothesis import strategies as st

from daemon.adapters.control import REQUEST_BYTES_MAX, ControlServer, ask
from daemon.adapters.listener import Listener
from daemon.rules.faults import Blame, Fault

pytestmark = quiet

ANSWER_BYTES_MAX = 64 * 1024
SECONDS_MAX = 20.0
TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture
def failures() -> list[dict[str, Any]]:
    """What nobody caught, as the loop heard of it."""
    return []


class Desk:
    """Reads a request as the daemon does: any word may be of any kind."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        what = str(request.get("what", ""))
        match request.get("ask"):
            case "status":
                return {"version": "1", "what": what}
            case "show":
                raise Fault("The ledger is busy.", blame=Blame.HOUSE)
        return {"error": "This esrgand does not know that request."}


@pytest.fixture
async def control(tmp_path: Path, failures: list[dict[str, Any]]) -> AsyncIterator[Path]:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    path = tmp_path / "control.sock"
    server = ControlServer(path, Desk())
    await server.start()
    yield path
    await server.close()


@pytest.fixture
async def page(failures: list[dict[str, Any]]) -> AsyncIterator[int]:
    async def status() -> dict[str, Any]:
        return {"version": "the status itself"}

    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    listener = Listener(list, status, TOKEN)
    yield await listener.start("127.0.0.1", 0)
    await listener.close()


async def said_to(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], pieces: list[bytes], *, is_over: bool = True
) -> bytes:
    """What comes back until the other side hangs up; that it does is asserted too. is_over: whether we say that too."""
    reader, writer = connection
    try:
        async with asyncio.timeout(SECONDS_MAX):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if is_over:
                writer.write_eof()
            return await reader.read(ANSWER_BYTES_MAX + 1)
    except OSError:
        return b""  # It hung up before it had heard all.
    finally:
        writer.close()


words = st.one_of(st.sampled_from(["ask", "what", "all", "status", "show", "retry", ""]), any_text)
requests = st.one_of(
    st.tuples(st.sampled_from(["status", "show", "release"]), json_values(words)).map(
        lambda request: json.dumps({"ask": request[0], "what": request[1]}).encode()
    ),
    st.dictionaries(words, json_values(words) | words, max_size=4).map(lambda request: json.dumps(request).encode()),
    st.integers(1, 3000).map(lambda depth: b'{"what":' + b"[" * depth + b"]" * depth + b', "ask": "status"}'),
    st.integers(1, 3000).map(lambda depth: b'{"ask":' * depth + b"1" + b"}" * depth),
    st.sampled_from([b"", b"null", b'{"ask": NaN}', b"9" * 5000, b"\xff\xfe{\0}\0", b" " * (REQUEST_BYTES_MAX + 9)]),
    st.binary(max_size=60),
)


@fuzz(2)
@given(st.lists(requests, max_size=3), st.sampled_from([b"\n", b"", b"\r\n", b"\n\n"]))
async def test_the_control_socket_answers_or_hangs_up(
    control: Path, failures: list[dict[str, Any]], lines: list[bytes], end: bytes
) -> None:
    answer = await said_to(await asyncio.open_unix_connection(control), [line + end for line in lines])
    if answer:
        assert answer.endswith(b"\n")
        assert isinstance(json.loads(answer), dict)
        assert answer.count(b"\n") == 1
    assert await asyncio.to_thread(ask, control, {"ask": "status", "what": "x"}) == {"version": "1", "what": "x"}
    assert failures == []


@fuzz()
@given(st.one_of(st.binary(max_size=80), requests, st.sampled_from([b"[]\n", b"{}\n{}\n", b"nan\n", b"\n", b"{}"])))
async def test_whatever_a_daemon_answers_is_a_value_or_a_fault(tmp_path: Path, answer: bytes) -> None:
    """One of another version, or one that ends just now."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    path = tmp_path / "control.sock"
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(serve, path)
    try:
        found: object = await asyncio.to_thread(ask, path, {"ask": "status"})
    except Fault as fault:
        found = fault
    finally:
        server.close()
    if isinstance(found, Fault):
        assert_fault(found)
    else:
        assert isinstance(found, dict)


LINES = [
    *b"GET /status HTTP/1.1|GET /healthz HTTP/1.1|POST /status HTTP/1.1|GET /status HTTP/9.9|GET".split(b"|"),
    *b"GET http://[ HTTP/1.1|GET //../\xff%00 HTTP/1.1|PRI * HTTP/2.0|GET /stat%75s HTTP/1.1".split(b"|"),
    *b"OPTIONS * HTTP/1.1|CONNECT h:1 HTTP/1.1".split(b"|"),
    b"GET /status?" + b"a" * 9000 + b" HTTP/1.1",
    b"\x16\x03\x01\x02\0",
]
FIELDS = [
    *b"Host: x|Content-Length: 99999999999|Content-Length: -1|Content-Length: 3|Expect: 100-continue| x".split(b"|"),
    *b"Transfer-Encoding: chunked|Transfer-Encoding: x|Upgrade: websocket|Connection: Upgrade".split(b"|"),
    *b"Authorization: Bearer|Authorization: Bearer \xff".split(b"|"),
    b"X: " + b"y" * 9000,
]
texts = hostile_text.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=30)
fields = st.builds(
    lambda name, value: name + b": " + value,
    st.sampled_from([b"Authorization", b"Cookie", b"Range", b"If-None-Match", b"Content-Type", b"X"]),
    texts.map(lambda text: b"Bearer " + text) | st.sampled_from([b"Bearer", b"Bearer \xff", b"Basic Og=="]) | texts,
)
# Whole requests, after which the connection ends; and what is none, after which we end it.
requests_of_a_page = st.builds(
    lambda line, given, fields: b"\r\n".join([line, b"Host: x", given, *fields, b"Connection: close", b"", b""]),
    st.sampled_from(LINES[:2]) | st.sampled_from(LINES),
    st.binary(max_size=12).map(lambda token: b"Authorization: Bearer " + re.sub(rb"[\x00-\x1f\x7f]", b"\xff", token)),
    st.lists(fields, max_size=1),
)
calls = st.builds(
    lambda line, fields, body: b"\r\n".join([line, *fields, b"", body]),
    st.sampled_from(LINES) | st.binary(max_size=40),
    st.lists(st.sampled_from(FIELDS) | fields | texts, max_size=4),
    st.binary(max_size=60),
)


@fuzz(2)
@given(requests_of_a_page.map(lambda call: ([call], False)) | st.lists(calls).map(lambda calls: (calls, True)))
async def test_the_page_answers_or_hangs_up(
    page: int, failures: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, calls: tuple[list[bytes], bool]
) -> None:
    """Without the token nothing but refusals comes back, whatever is sent."""
    pieces, is_over = calls
    answer = await said_to(await asyncio.open_connection("127.0.0.1", page), pieces, is_over=is_over)
    assert answer or is_over
    assert len(answer) <= ANSWER_BYTES_MAX
    assert TOKEN.encode() not in answer
    assert b"the status itself" not in answer
    assert not re.search(rb"^HTTP/1\.[01] [235]", answer, re.MULTILINE)
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
        session.get(f"http://127.0.0.1:{page}/status") as honest,
    ):
        assert await honest.json() == {"version": "the status itself"}
    assert failures == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
