"""Whatever bytes come back over the wire: a value, or a Fault in plain words; in doubt where it may be billed."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable

import pytest
from fakes.clock import FakeClock
from fuzz_kit import (
    HOOK,
    KEY,
    SIGNED,
    any_text,
    assert_fault,
    assert_no_hook,
    dates,
    documents,
    fuzz,
    hostile_text,
    leaves,
    quiet,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

from daemon.adapters.answers import is_id
from daemon.adapters.hosted import HostedPredictor
from daemon.adapters.http import Http
from daemon.ports import Running, Spoiled, Succeeded
from daemon.rules.faults import Blame, Created, Fault
from daemon.rules.recipe import Recipe

pytestmark = quiet


class Line:
    """A server that answers with the very bytes that a test gives it, and hangs up."""

    def __init__(self) -> None:
        self.answers: list[bytes] = [b""]
        self.requests: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            self.requests.append(head)
            writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            await writer.drain()
        except OSError:
            pass  # It hung up first, having heard enough.
        finally:
            writer.close()


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line()
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    line.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield line
    server.close()


@pytest.fixture
async def api(line: Line, clock: FakeClock) -> AsyncIterator[HostedPredictor]:
    http = Http(clock, insecure_loopback=True)
    api = HostedPredictor(f"{line.url}/v1", KEY, http, clock, create_seconds_max=20.0, stall_seconds_max=5.0)
    yield api
    await api.close()


def raw(status: bytes, headers: list[bytes], body: bytes, honest: bool) -> bytes:
    length = [b"Content-Length: %d" % len(body)] if honest else []
    return b"\r\n".join([b"HTTP/1.1 " + status, *length, *headers, b"", b""]) + body


bodies = st.one_of(
    documents.map(lambda document: json.dumps(document).encode()),
    st.sampled_from(
        [b"", b"{}", b"[" * 100_000, b'{"predictionID":"' + b"a" * 200 + b'"}', b"\xff", b"\0", b"1" * 5_000_000]
    ),
    st.sampled_from(["p1", "../../admin", "a/b", "", KEY]).map(lambda id_: json.dumps({"predictionID": id_}).encode()),
    st.binary(max_size=200),
)
texts = hostile_text.map(lambda text: text.encode("utf-8", "replace")) | st.binary()
HEADERS = [
    *b"Content-Encoding: gzip|Content-Encoding: br|Content-Encoding: deflate|Content-Type: text/html|no colon|: ".split(
        b"|"
    ),
    *b"Transfer-Encoding: chunked|Content-Length: 7|Content-Length: -1|Connection: close|Location: //[".split(b"|"),
    *b"Location: /v1/prediction|Date: Mon, 01 Jan 2001 00:00:00 GMT|Date: Fri, 31 Dec 9999 23:59:59 -2359".split(b"|"),
    b"X: " + b"y" * 100_000,
]
headers = st.one_of(
    st.sampled_from(HEADERS),
    st.builds(b"Retry-After: %b".__mod__, dates.map(str.encode)),
    st.builds(
        lambda name, value: name + b": " + value,
        st.sampled_from([b"Date", b"Retry-After", b"Location", b"Content-Type", b"Set-Cookie", b"Content-Length"]),
        texts,
    ),
)
# From 200 on: behind a status below that the client waits for another one until its time is over.
codes = st.one_of(
    st.sampled_from([200, 201, 202, 204, 302, 308, 400, 401, 402, 404, 408, 409, 422, 429, 500, 502, 520, 599]),
    st.integers(200, 999),
)
# What quotes our own request back, with its secrets.
echoes = st.sampled_from(["error", "message", "logs", "status"]).map(
    lambda key: json.dumps({"status": "failed", key: f"refused {KEY} for {SIGNED} and {HOOK}"}).encode()
)
responses = st.one_of(
    st.builds(raw, st.sampled_from([b"200 x", b"400 x", b"422 x"]), st.just([]), echoes, st.just(True)),
    st.builds(
        raw,
        codes.map(lambda code: b"%03d \xff" % code),
        st.lists(headers, max_size=3),
        bodies,
        st.sampled_from([True, True, True, False]),
    ),
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda rest: b"HTTP/1.1 20" + rest),
)


async def outcome(call: Awaitable[object]) -> object:
    """What it returned, or the fault that it raised; anything else fails the test."""
    try:
        return await call
    except Fault as fault:
        assert_fault(fault)
        assert_no_hook(fault.said)
        return fault


@fuzz(3)
@given(responses)
async def test_a_create_gives_an_id_or_a_fault_and_doubt_where_it_may_be_billed(
    api: HostedPredictor, line: Line, response: bytes
) -> None:
    line.answers, line.requests = [response], []
    told = re.match(rb"HTTP/\d\.\d ([34])\d\d ", response)
    found = await outcome(api.create(Recipe(), SIGNED))
    if isinstance(found, Fault):
        assert found.created is Created.MAYBE or told, "only a refusal or a redirect says that nothing was created"
        assert found.blame is Blame.SERVICE or re.match(rb"HTTP/\d\.\d 4(00|22) ", response)
    else:
        assert is_id(found)
    assert len(line.requests) == 1 or (told and told[1] == b"3" and len(line.requests) == 2), "paid for once"


@fuzz(2)
@given(responses)
async def test_a_question_is_answered_or_a_fault(api: HostedPredictor, line: Line, response: bytes) -> None:
    line.answers = [response]
    found = await outcome(api.get("p1"))
    if isinstance(found, Fault):
        assert (found.blame, found.created) == (Blame.SERVICE, Created.NO)
    else:
        assert isinstance(found, Running | Succeeded | Spoiled)
        assert_no_hook(found.reason if isinstance(found, Spoiled) else "")


rows = st.lists(
    st.one_of(
        st.builds(lambda id_, made: {"id": id_, "created_at": made}, st.sampled_from(["a", "b", "c"]), leaves),
        values,
    ),
    max_size=3,
)


@fuzz(2)
@given(rows, rows, st.lists(responses, min_size=1, max_size=4), st.booleans())
async def test_a_prediction_that_exists_is_never_called_absent(
    api: HostedPredictor,
    line: Line,
    clock: FakeClock,
    before: list[object],
    after: list[object],
    others: list[bytes],
    found: bool,
) -> None:
    """Absence means a second paid run: whatever stands beside ours in the history, it is found, or there is doubt."""
    ours = {"id": "ours", "created_at": clock.wall()}
    page = json.dumps({"executions": [*before, ours, *after], "total_count": 1})
    honest = json.dumps({"status": "created", "input": {"image": SIGNED}})
    line.answers = [raw(b"200 OK", [], body.encode(), True) for body in (page, honest)]
    if not found:
        line.answers[1:] = others
    assert await outcome(api.find("real-esrgan", SIGNED, clock.wall())) is not None


LOCATIONS = [
    "//[",
    "http://[::1",
    "http://10.0.0.1/",
    "https://192.168.0.1/",
    "file:///etc/passwd",
    "",
    "?",
    "http://u:p@h/",
]


@fuzz(2)
@given(responses, st.sampled_from(LOCATIONS) | any_text, hostile_text, st.integers(0, 300))
async def test_a_download_is_bounded_or_a_fault(
    api: HostedPredictor, line: Line, response: bytes, location: str, path: str, bytes_max: int
) -> None:
    redirect = raw(b"302 Found", [b"Location: " + location.encode("utf-8", "replace")], b"", True)
    url = f"{line.url}/{path}"
    for line.answers in ([response], [redirect, response]):
        sink = io.BytesIO()
        found = await outcome(api.download(url, sink, bytes_max))
        assert isinstance(found, Fault) or found == len(sink.getvalue())
        assert len(sink.getvalue()) <= bytes_max
    assert not any(KEY.encode() in request for request in line.requests)


# What the two tests above leave out, because it falls out today.


@pytest.mark.parametrize("status", [b"000 x", b"101 Switching Protocols"])
async def test_a_status_that_is_none_leaves_a_create_in_doubt(api: HostedPredictor, line: Line, status: bytes) -> None:
    line.answers = [raw(status, [], b"", True)]
    found = await outcome(api.create(Recipe(), SIGNED))
    assert isinstance(found, Fault)
    assert found.created is Created.MAYBE


@pytest.mark.parametrize(
    "date", [b"Mon, 01 Jan 999999999999 00:00:00 GMT", b"Mon, 01 Jan 2024 00:00:00 +99999999999999"]
)
async def test_a_date_that_is_none_is_no_failure(api: HostedPredictor, line: Line, date: bytes) -> None:
    line.answers = [raw(b"201 Created", [b"Date: " + date], b'{"predictionID": "p1"}', True)]
    assert await outcome(api.create(Recipe(), SIGNED)) == "p1"


@pytest.mark.parametrize("host", ["a" * 5000, "[fe80::1%\u202e]"])
async def test_a_host_from_outside_is_repeated_in_short(api: HostedPredictor, host: str) -> None:
    assert isinstance(await outcome(api.download(f"https://{host}/", io.BytesIO(), 1)), Fault)
