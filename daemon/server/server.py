"""
Server: the local prediction server as one thing that starts and closes.

`start` raises `Fault` (HOUSE) with a sentence where the port is taken or the directory cannot be used, and leaves
nothing behind. Everything else that can fail is answered to the client who asked.
"""

import asyncio
import errno
import ipaddress
from collections.abc import Sequence
from contextlib import AsyncExitStack

from aiohttp import web
from aiohttp.typedefs import Middleware
from structlog.typing import FilteringBoundLogger

from daemon.ports import Clock
from daemon.rules.faults import Blame, Fault, Outlook
from daemon.server.app import Api
from daemon.server.outbound import Outbound
from daemon.server.predictions import Counts, Predictions
from daemon.server.run import Runner
from daemon.server.settings import ServerSettings
from daemon.server.store import Store
from daemon.server.uploads import Uploads
from daemon.server.upscaler import Upscaler
from daemon.server.webhook import Webhooks

SWEEP_SECONDS = 3600.0
# How long a request that is being answered may take once the server closes.
GRACE_SECONDS = 2.0

__all__ = ["Counts", "PredictionServer"]


class PredictionServer:
    """Starts once and closes once; a new one on the same directory goes on where this one stopped."""

    def __init__(
        self,
        settings: ServerSettings,
        clock: Clock,
        upscaler: Upscaler,
        log: FilteringBoundLogger,
        *,
        troubles: Sequence[Middleware] = (),
    ) -> None:
        """troubles: middlewares that make faults on purpose, for tests of those who use the API."""
        self._clock = clock
        self._log = log
        self._store = Store(settings.data_dir, clock, log)
        self._outbound = Outbound()
        self._uploads = Uploads(settings, clock, self._store, log)
        runner = Runner(settings, self._store, self._uploads, self._outbound, upscaler)
        webhooks = Webhooks(clock, self._outbound, log)
        self._predictions = Predictions(settings, clock, self._store, runner, webhooks, log)
        self._api = Api(settings, self._store, self._predictions, self._uploads, log, troubles)
        self._engine = upscaler.name
        self._closing = asyncio.Event()
        self._exit = AsyncExitStack()

    async def start(self, host: str, port: int) -> str:
        """Listen (port 0: any free one), go on with what is unfinished, and return the base URL, `http://…/v1`."""
        async with AsyncExitStack() as stack:
            stack.callback(self._store.close)
            await self._store.do(self._store.open)
            await self._store.do(self._uploads.load)
            await self._store.do(self._predictions.load)
            await self._outbound.open()
            stack.push_async_callback(self._outbound.close)
            await self.sweep()
            stack.push_async_callback(self._predictions.close)
            base_url = await self._listen(stack, host, port)
            self._predictions.resume()
            sweeping = asyncio.create_task(self._sweep_hourly(), name="server-sweep")
            stack.push_async_callback(self._stop, sweeping)
            self._exit = stack.pop_all()
        self._log.info("server_started", base_url=base_url, engine=self._engine)
        return base_url

    async def close(self) -> None:
        """Finish the requests in hand, leave unfinished predictions to the next start."""
        await self._exit.aclose()
        self._log.info("server_closed")

    def counts(self) -> Counts:
        """How many predictions are kept, not over, over."""
        return self._predictions.counts()

    async def sweep(self) -> None:
        """Remove what has been kept for long enough."""
        try:
            await self._uploads.sweep()
            await self._predictions.sweep()
        except OSError as error:
            self._log.warning("sweep_failed", error=error.strerror)

    async def _listen(self, stack: AsyncExitStack, host: str, port: int) -> str:
        app_runner = web.AppRunner(self._api.application(), access_log=None, shutdown_timeout=GRACE_SECONDS)
        stack.push_async_callback(app_runner.cleanup)
        await app_runner.setup()
        try:
            await web.TCPSite(app_runner, host, port).start()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise Fault(
                f"Port {port} on {host} is already in use."
                if taken
                else f"The prediction server cannot listen on {host}, port {port}: {error.strerror}.",
                blame=Blame.HOUSE,
                outlook=Outlook.LASTING,
                remedy="Choose another port, or stop the program that has it." if taken else "Choose another address.",
            ) from None
        bound, bound_port = app_runner.addresses[0][:2]
        address = ipaddress.ip_address(bound)
        if address.is_unspecified:
            # "Everywhere" is no address to connect to.
            bound = "127.0.0.1" if address.version == 4 else "::1"
        return f"http://{f'[{bound}]' if address.version == 6 else bound}:{bound_port}/v1"

    async def _sweep_hourly(self) -> None:
        while not await self._clock.wait(self._closing, SWEEP_SECONDS):
            await self.sweep()

    async def _stop(self, sweeping: asyncio.Task[None]) -> None:
        self._closing.set()
        await sweeping
