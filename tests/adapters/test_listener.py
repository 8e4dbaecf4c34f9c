"""The daemon's own page: well or not, the status, the token, and a port that somebody else has."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from daemon.adapters.listener import Listener
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
