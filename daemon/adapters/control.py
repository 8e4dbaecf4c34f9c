"""
Control: how the commands talk to a running daemon: one JSON line to its socket, one JSON line back.

The socket lies in the state directory with mode 0600, so that whoever may read the ledger may steer, and nobody else.
It is reached through the directory's descriptor, since a socket's path may have 107 bytes only.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon.rules.faults import Blame, Fault

REQUEST_BYTES_MAX = 1 << 20
ANSWER_SECONDS_MAX = 60.0
Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """The same socket by a path that is short enough."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class ControlServer:
    """Answers requests on the socket."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. The caller holds the state directory's lock, so a socket that is there is a dead one's."""
        try:
            self._path.unlink(missing_ok=True)
            listener = self._bound()
        except OSError as error:
            raise Fault(
                f"The control socket {self._path} cannot be made ({error.strerror}).", blame=Blame.HOUSE
            ) from error
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=REQUEST_BYTES_MAX)

    def _bound(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(self._path) as address:
                listener.bind(address)
                # Until it listens nobody can connect, whatever the umask let through: and the umask is everybody's.
                Path(address).chmod(0o600)
        except OSError:
            listener.close()
            raise
        return listener

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = _parsed(await reader.readline())
            if request is None:
                return
            try:
                answer = await self._answer(request)
            except Fault as fault:
                answer = {"error": fault.said}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (ValueError, OSError):
            pass  # Not one of ours, or gone again.
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A request or an answer, or None where it is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Ask the running daemon; None where none listens. Raises Fault where it does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_SECONDS_MAX)
        try:
            with _short(path) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError as error:
            raise Fault(
                f"{path} may not be used: run this as the user that esrgand runs as.", blame=Blame.HOUSE
            ) from error
        except OSError as error:
            raise Fault(f"{path} cannot be used ({error.strerror}).", blame=Blame.HOUSE) from error
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                chunk = connection.recv(65536)
                if not chunk:
                    raise Fault("The running esrgand ended before it answered.", blame=Blame.HOUSE)
                answer += chunk
        except OSError as error:
            raise Fault(f"The running esrgand does not answer ({error}).", blame=Blame.HOUSE) from error
    result = _parsed(answer)
    if result is None:
        raise Fault(
            "What answers is not this esrgand.",
            blame=Blame.HOUSE,
            remedy="Restart the daemon where another version of it was installed meanwhile.",
        )
    return result
