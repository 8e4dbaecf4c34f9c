"""The control socket: for its owner alone, at any length of path, and deaf to nonsense."""

import asyncio
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.adapters.control import REQUEST_BYTES_MAX, ControlServer, ask
from daemon.rules.faults import Blame, Fault


class Answerer:
    """Says back what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        if request.get("ask") == "fault":
            raise Fault("The ledger is busy.", blame=Blame.HOUSE)
        return {"heard": request}


@pytest.fixture
def answerer() -> Answerer:
    return Answerer()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Longer than a socket's name may be."""
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    return folder / "control.sock"


@pytest.fixture
async def server(path: Path, answerer: Answerer) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, answerer)
    await server.start()
    yield server
    await server.close()


async def asked(path: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    return await asyncio.to_thread(ask, path, request)


@contextmanager
def short(path: Path) -> Iterator[str]:
    """The same socket by a path that is short enough."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


async def said_to(path: Path, data: bytes) -> bytes:
    """What the daemon answers to these very bytes."""
    with short(path) as address:
        reader, writer = await asyncio.open_unix_connection(address)
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_question_is_answered(server: ControlServer, path: Path, answerer: Answerer) -> None:
    request = {"ask": "show", "what": "/in/caf\udce9 \n🎈.png"}
    assert await asked(path, request) == {"heard": request}
    assert answerer.asked == [request]


async def test_many_ask_at_once(server: ControlServer, path: Path) -> None:
    answers = await asyncio.gather(*(asked(path, {"ask": n}) for n in range(8)))
    assert answers == [{"heard": {"ask": n}} for n in range(8)]


async def test_the_socket_is_for_its_owner_alone(server: ControlServer, path: Path) -> None:
    mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert mode & 0o777 == 0o600
    assert (path.parent / "another").touch() is None
    assert (path.parent / "another").stat().st_mode & 0o777 == 0o644, "the mask is as it was"


async def test_the_mask_that_all_threads_share_is_left_alone(path: Path, answerer: Answerer) -> None:
    """Another thread may be making a result that is for others to read."""
    called: list[Any] = []
    server = ControlServer(path, answerer)
    before = os.umask(0o002)
    sys.setprofile(lambda _, event, what: called.append(what) if event == "c_call" else None)
    try:
        await server.start()
    finally:
        sys.setprofile(None)
        os.umask(before)
    assert called
    assert os.umask not in called
    assert path.stat().st_mode & 0o777 == 0o600
    await server.close()


async def test_a_fault_is_said_in_its_words(server: ControlServer, path: Path) -> None:
    assert await asked(path, {"ask": "fault"}) == {"error": "The ledger is busy."}


@pytest.mark.parametrize(
    "nonsense",
    [b"", b"\n", b"not json\n", b"{", b"[]\n", b'"text"\n', b"5\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n"],
    ids=range(9),
)
async def test_nonsense_is_met_and_the_next_one_is_answered(
    server: ControlServer, path: Path, answerer: Answerer, nonsense: bytes
) -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    assert await said_to(path, nonsense) == b""
    assert await asked(path, {"ask": "x"}) == {"heard": {"ask": "x"}}
    assert answerer.asked == [{"ask": "x"}]
    assert failures == []


async def test_a_request_without_end_is_cut_off(server: ControlServer, path: Path, answerer: Answerer) -> None:
    with pytest.raises(Fault):
        await asked(path, {"ask": "x" * (REQUEST_BYTES_MAX + 1)})
    assert answerer.asked == []
    assert await asked(path, {"ask": "x"}) == {"heard": {"ask": "x"}}


async def test_without_a_daemon_there_is_no_answer(path: Path, answerer: Answerer) -> None:
    assert await asked(path, {}) is None
    assert await asked(path.parent / "no folder" / "control.sock", {}) is None
    server = ControlServer(path, answerer)
    await server.start()
    await server.close()
    assert not path.exists()
    assert await asked(path, {}) is None


async def test_a_dead_daemons_socket_is_replaced(path: Path, answerer: Answerer) -> None:
    with socket.socket(socket.AF_UNIX) as dead, short(path) as address:
        dead.bind(address)
    assert await asked(path, {}) is None
    server = ControlServer(path, answerer)
    await server.start()
    assert await asked(path, {"ask": "x"}) == {"heard": {"ask": "x"}}
    await server.close()


async def test_a_daemon_that_ends_before_it_answers(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute, short(path) as address:
        mute.bind(address)
        mute.listen()
        asking = asyncio.create_task(asked(path, {"ask": "x"}))
        connection, _ = await asyncio.to_thread(mute.accept)
        connection.close()
        with pytest.raises(Fault, match="running esrgand"):
            await asking


@pytest.mark.parametrize("answer", [b"\n", b"[]\n", b"{\n", b'{"a": "\xff"}\n', b"[" * 5000 + b"\n"], ids=range(5))
async def test_an_answer_that_is_none_is_a_fault(path: Path, answer: bytes) -> None:
    """From a daemon of another version."""
    with socket.socket(socket.AF_UNIX) as stranger, short(path) as address:
        stranger.bind(address)
        stranger.listen()
        asking = asyncio.create_task(asked(path, {"ask": "x"}))
        connection, _ = await asyncio.to_thread(stranger.accept)
        await asyncio.to_thread(connection.recv, 1000)
        connection.sendall(answer)
        connection.close()
        with pytest.raises(Fault, match="not this esrgand"):
            await asking


async def test_a_state_directory_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(Fault, match="cannot be used"):
        await asked(tmp_path / "state" / "control.sock", {})


@pytest.mark.parametrize("kind", ["no folder", "a folder in its place"])
async def test_a_socket_that_cannot_be_made_is_a_fault(tmp_path: Path, answerer: Answerer, kind: str) -> None:
    path = tmp_path / "state" / "control.sock"
    if kind == "a folder in its place":
        path.mkdir(parents=True)
    with pytest.raises(Fault, match="control socket") as caught:
        await ControlServer(path, answerer).start()
    assert caught.value.blame is Blame.HOUSE
