"""Bytes into `/hook/{token}`: heard where the secret is shown, refused everywhere else, and never believed or told."""

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fuzz_kit import TOKEN, documents, fuzz, hostile_text, quiet
from hypothesis import given
from hypothesis import strategies as st

from daemon.adapters.listener import BODY_BYTES_MAX, Ear, Listener

pytestmark = quiet

SECRET = "wh-5ecret-of-the-fuzz"
SECONDS_MAX = 20.0


@dataclass
class Ears:
    """What was heard, how often somebody was refused, and what nobody caught."""

    port: int = 0
    heard: list[str] = field(default_factory=list)
    refused: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self) -> None:
        self.refused += 1


@pytest.fixture
async def ears() -> AsyncIterator[Ears]:
    ears = Ears()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: ears.failures.append(context))

    async def status() -> dict[str, Any]:
        return {}

    listener = Listener(list, status, None, Ear(SECRET, ears.heard.append, ears.refuse))
    ears.port = await listener.start("127.0.0.1", 0)
    yield ears
    await listener.close()


@dataclass(frozen=True)
class Call:
    """One request. proof: how the secret is shown, if it is."""

    body: bytes
    proof: str
    fields: list[tuple[str, str]]
    sends: str

    def raw(self) -> bytes:
        given = list(self.fields)
        if self.proof == "secret":
            given.append(("X-Webhook-Secret", SECRET))
        elif self.proof == "signature":
            signed = hmac.new(SECRET.encode(), b"7." + self.body, hashlib.sha256).hexdigest()
            given += [("X-Webhook-Timestamp", "7"), ("X-Webhook-Signature", f"sha256={signed}")]
        elif self.proof == "wrong":
            given += [("X-Webhook-Secret", SECRET + "x"), ("X-Webhook-Signature", "00")]
        head = "".join(f"{name}: {value}\r\n" for name, value in given)
        length, body = f"Content-Length: {len(self.body)}\r\n", self.body
        if self.sends == "chunks":
            length = "Transfer-Encoding: chunked\r\n"
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part) + b"0\r\n\r\n"
        elif self.sends == "less":
            body = body[:-1]
        elif self.sends == "nonsense":
            length = "Content-Length: 12x\r\n"
        line = f"POST /hook/{TOKEN} HTTP/1.1\r\nHost: nas.example.org\r\nConnection: close\r\n"
        return (line + head + length + "\r\n").encode("utf-8", "replace") + body


bodies = st.one_of(
    documents.map(lambda value: json.dumps(value, default=str).encode("utf-8", "surrogatepass")),
    st.builds(
        lambda exec_id, status, output: json.dumps({"exec_id": exec_id, "status": status, "output": output}).encode(),
        st.sampled_from([TOKEN, "", "../../x", "a" * 5000]),
        st.sampled_from(["succeeded", "failed", "x"]),
        st.sampled_from(["file:///etc/passwd", "http://127.0.0.1/x", None]),
    ),
    st.binary(max_size=200),
    st.sampled_from([b"x" * BODY_BYTES_MAX, b"x" * (BODY_BYTES_MAX + 1), b"[" * 60_000]),
)
plain = hostile_text.map(lambda text: "".join(letter for letter in text if letter.isprintable())[:300])
fields = st.tuples(
    st.sampled_from(["Content-Type", "Content-Encoding", "X-Webhook-Timestamp", "Cookie", "Authorization", "Range"]),
    plain | st.sampled_from(["gzip", "application/json; charset=x", "br"]),
)
calls = st.builds(
    Call,
    bodies,
    st.sampled_from(["", "secret", "signature", "wrong"]),
    st.lists(fields, max_size=2, unique_by=lambda each: each[0]),
    st.sampled_from(["whole", "whole", "whole", "chunks", "less", "nonsense"]),
)


@fuzz()
@given(calls)
async def test_a_webhook_is_heard_where_it_shows_the_secret_and_nowhere_else(
    ears: Ears, caplog: pytest.LogCaptureFixture, call: Call
) -> None:
    before, refused = len(ears.heard), ears.refused
    reader, writer = await asyncio.open_connection("127.0.0.1", ears.port)
    async with asyncio.timeout(SECONDS_MAX):
        writer.write(call.raw())
        if call.sends in ("less", "nonsense"):
            writer.write_eof()  # Else what is missing would be waited for.
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    writer.close()
    heard = ears.heard[before:]
    status = int(answer.split()[1]) if answer else 0
    fits = len(call.body) <= BODY_BYTES_MAX and call.sends in ("whole", "chunks")
    signed_over = call.proof == "signature" and any(name == "X-Webhook-Timestamp" for name, _ in call.fields)
    if fits and call.proof in ("secret", "signature") and not signed_over and status != 400:
        assert (status, heard) == (204, [TOKEN])
    else:
        assert heard == [] or call.proof in ("secret", "signature")
        assert status in (0, 204, 400, 401, 408, 413)
    assert ears.refused - refused == (status == 401) or status == 0
    assert SECRET.encode() not in answer
    assert TOKEN.encode() not in answer
    assert ears.failures == []
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or TOKEN in record.getMessage()]
