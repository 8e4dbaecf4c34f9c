"""
Listener: the daemon's own HTTP page: `/healthz` and `/status`.

Off loopback a token is asked for (`Authorization: Bearer`), compared in constant time. Bodies are not read at all. A
port that is in use raises Fault (HOUSE) with a sentence.
"""

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from daemon.rules.faults import Blame, Fault, Outlook


class Listener:
    """problems: what is wrong now, sentences. status: the JSON that `esrgand status` shows."""

    def __init__(
        self,
        problems: Callable[[], list[str]],
        status: Callable[[], Awaitable[dict[str, Any]]],
        token: str | None,
    ) -> None:
        self._problems = problems
        self._status = status
        self._token = token
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        app = web.Application(client_max_size=1024, middlewares=[self._guard])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/status", self._show_status)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=15, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise Fault(
                f"[http] listen: {host}:{port} cannot be used ({os.strerror(error.errno or 0)}).",
                blame=Blame.HOUSE,
                outlook=Outlook.LASTING,
                remedy='Choose another port, or listen = "" for none.',
            ) from error
        self._runner = runner
        address: tuple[str, int] = runner.addresses[0]
        return address[1]

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self._token is not None:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode()):
                return web.json_response({"error": "A token is needed."}, status=401)
        return await handler(request)

    async def _healthz(self, _request: web.Request) -> web.StreamResponse:
        problems = self._problems()
        return web.json_response({"ok": not problems, "problems": problems}, status=503 if problems else 200)

    async def _show_status(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._status())
