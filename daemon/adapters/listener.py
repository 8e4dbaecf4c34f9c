"""
Listener: the daemon's own HTTP page: `/healthz`, `/status`, and `/hook/{token}` for the service's webhooks.

Off loopback a token is asked for (`Authorization: Bearer`), compared in constant time; webhooks show a secret of their
own instead. Where none is asked for, only who calls it by an address or by `localhost` is answered: a web page whose
own name leads here has a browser on this machine call it by that name.

Nothing of a webhook but its token is believed, and the token is never logged. What a client may send and how long it
may take are bounded, and a new connection costs the oldest its place where there are too many: a client that is slow,
idle or hostile holds up nobody else. A port that is in use raises Fault (HOUSE) with a sentence.
"""

import asyncio
import hmac
import logging
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger

from daemon.adapters.addresses import literal
from daemon.rules.faults import Blame, Fault, Outlook
from daemon.rules.hooks import is_genuine

BODY_BYTES_MAX = 64 * 1024
LINE_BYTES_MAX = 4096
HEADERS_MAX = 64

_PORT = re.compile(r":\d*$")

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take.

    idle_seconds: until a request's headers are whole, from the connection's begin or the answer before. body_seconds:
    for a webhook's body. linger_seconds: for what a client goes on sending after its answer. close_seconds: for what is
    being answered when the listener closes.
    """

    idle_seconds: float = 15.0
    body_seconds: float = 5.0
    linger_seconds: float = 1.0
    close_seconds: float = 1.0
    connections_max: int = 128


@dataclass(frozen=True, slots=True)
class Ear:
    """Who hears webhooks. hear: is told the token of a genuine one. refuse: is told that there was another one."""

    secret: str
    hear: Callable[[str], None]
    refuse: Callable[[], None]


class Listener:
    """problems: what is wrong now, sentences. status: the JSON that `esrgand status` shows. ear: None: no webhooks."""

    def __init__(
        self,
        problems: Callable[[], list[str]],
        status: Callable[[], Awaitable[dict[str, Any]]],
        token: str | None,
        ear: Ear | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._problems = problems
        self._status = status
        self._token = token
        self._ear = ear
        self._limits = limits or Limits()
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._hook_route: web.AbstractRoute | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[self._guard])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/status", self._show_status)
        if self._ear is not None:
            self._hook_route = app.router.add_post("/hook/{token}", partial(self._webhook, self._ear))
        runner = web.AppRunner(
            app,
            access_log=None,  # It would have the tokens in it.
            logger=LOGGER,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=self._limits.idle_seconds,
            lingering_time=self._limits.linger_seconds,
            shutdown_timeout=self._limits.close_seconds,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        await runner.setup()
        assert runner.server is not None
        connect = partial(self._connect, runner.server)
        try:
            self._server = await asyncio.get_running_loop().create_server(connect, host, port)
        except OSError as error:
            await runner.cleanup()
            raise Fault(
                f"[http] listen: {host}:{port} cannot be used ({os.strerror(error.errno or 0)}).",
                blame=Blame.HOUSE,
                outlook=Outlook.LASTING,
                remedy='Choose another port, or listen = "" for none.',
            ) from error
        self._runner = runner
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._runner is not None:
            assert self._runner.server is not None
            transports = [each.transport for each in self._runner.server.connections]
            await self._runner.cleanup()
            for transport in transports:
                if transport is not None:
                    transport.abort()  # Closing alone would wait for a client that does not read.
            self._runner = None

    def _connect(self, server: web.Server) -> asyncio.BaseProtocol:
        """Meet a new connection; the oldest make room for it."""
        there = [each for each in server.connections if each.transport is not None]
        for oldest in there[: max(0, len(there) + 1 - self._limits.connections_max)]:
            transport = oldest.transport
            assert transport is not None
            oldest.force_close()
            transport.abort()
        return server()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        is_webhook = self._hook_route is not None and request.match_info.route is self._hook_route
        if self._token is not None and not is_webhook:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode()):
                return web.json_response({"error": "A token is needed."}, status=401)
        if self._token is None and not is_webhook and not all(map(_is_ours, request.headers.getall("Host", ()))):
            return web.json_response({"error": "This is not the host that was asked for."}, status=403)
        return await handler(request)

    async def _healthz(self, _request: web.Request) -> web.StreamResponse:
        problems = self._problems()
        return web.json_response({"ok": not problems, "problems": problems}, status=503 if problems else 200)

    async def _show_status(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._status())

    async def _webhook(self, ear: Ear, request: web.Request) -> web.StreamResponse:
        """Hear a webhook; every genuine one gets the same answer, so that nothing can be learnt from it."""
        if (request.content_length or 0) > BODY_BYTES_MAX:
            return _last(413)
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await request.read()
        except TimeoutError:
            return _last(408)
        except web.HTTPRequestEntityTooLarge:
            return _last(413)
        except (web.RequestPayloadError, HttpProcessingError, OSError):
            return _last(400)
        if not is_genuine(ear.secret, request.headers, body):
            ear.refuse()
            return web.Response(status=401)
        ear.hear(request.match_info["token"])
        return web.Response(status=204)


def _is_ours(host: str) -> bool:
    """Whether a Host header has a name that nobody else can have given this machine."""
    name = _PORT.sub("", host.strip()).lower()
    return name == "localhost" or literal(name.removeprefix("[").removesuffix("]")) is not None


def _last(status: int) -> web.Response:
    """An answer after which the connection ends, because the rest of its request was not read."""
    response = web.Response(status=status)
    response.force_close()
    return response


def _is_our_doing(record: logging.LogRecord) -> bool:
    """Whether a record tells of a defect; what a client sends amiss is its own affair, and may have a token in it."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)


LOGGER = server_logger.getChild("listener")
LOGGER.addFilter(_is_our_doing)
