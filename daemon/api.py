"""
Api: where the predictions are made: the hosted service, another machine, or the server in this very process.

The embedded server and its engine are ended by the stack that they are given. Raises Fault with a sentence where a
port, a folder or the engine that was asked for cannot be had.
"""

import hashlib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from daemon.config_values import EMBEDDED
from daemon.ports import Clock

if TYPE_CHECKING:
    from daemon.config_model import Config
    from daemon.local import Engine


@dataclass(frozen=True, slots=True)
class Api:
    """Where the predictions are made.

    name: as people know it. local: on this machine. warning: for every sidecar. engine: what upscales, where we know.
    """

    base_url: str
    key: str
    name: str
    local: bool
    warning: str = ""
    engine: str = ""

    @property
    def identity(self) -> str:
        """Which API and account this is. The embedded server's address and key change; its predictions stay."""
        return (
            self.name if self.name == EMBEDDED else f"{self.name}#{hashlib.sha256(self.key.encode()).hexdigest()[:12]}"
        )


async def start_embedded(
    config: "Config", data_dir: Path, clock: Clock, log: FilteringBoundLogger, stack: AsyncExitStack
) -> tuple[Api, "Engine"]:
    """The local prediction server, in this process, for nobody else: its key is known here alone."""
    from daemon.server import PredictionServer, ServerSettings

    key = clock.token(16)
    engine = choose_engine(config, clock, log.bind(part="server"), stack)
    # In flight: one more daemon's worth than we ever ask for, so that a restart's leftovers are no reason for a 429.
    settings = ServerSettings(
        data_dir=data_dir,
        key=key,
        in_flight_max=1000,
        creates_per_minute_max=100_000,
        pixels_max=config.api.pixels_max,
    )
    server = PredictionServer(settings, clock, engine.upscaler, log.bind(part="server"))
    base_url = await server.start("127.0.0.1", 0)
    stack.push_async_callback(server.close)
    return Api(base_url, key, EMBEDDED, local=True, warning=engine.warning, engine=engine.said), engine


def choose_engine(config: "Config", clock: Clock, log: FilteringBoundLogger, stack: AsyncExitStack) -> "Engine":
    """The embedded server's engine; `stack` ends it. Raises Fault."""
    from daemon import local  # Whoever talks to the hosted service needs no engine.

    wish = local.Wish(**config.server.model_dump())
    return local.choose(wish, [config.state_dir / local.MODELS], config.state_dir, clock, log, stack)
