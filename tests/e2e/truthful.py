"""
A service whose every result can be foretold: the prediction server with an engine that repeats pixels.

    python tests/e2e/truthful.py FOLDER

Prints its base URL and lives until it is ended. As the hosted model does, it takes the pixels as the file has them and
gives back a PNG of them and of nothing else. What it was sent is kept in FOLDER/seen, so that a test may look into it.
FOLDER/lies.json says, by the width of what was sent, which results are wrong, and how: `black`, `sideways`, `mirrored`,
`inverted`, or `swapped` (with FOLDER/other.png). Each download is a line, `download NAME`.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pyvips
import structlog
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parent.parent))

from e2e.world import KEY, Process, Server

from daemon.adapters.clock import SystemClock
from daemon.server import PredictionServer, ServerSettings
from daemon.server.upscaler import UpscaleReport

LIES: dict[str, Callable[[Any], Any]] = {
    "black": lambda image: (image * 0).cast(image.format).copy(interpretation=image.interpretation),
    "sideways": lambda image: image.rot90(),
    "mirrored": lambda image: image.fliphor(),
    "inverted": lambda image: image.invert(),
}


class Repeating:
    """The engine."""

    name = "every pixel as often as the scale says"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = count()

    async def upscale(self, source: Path, target: Path, scale: float, face_enhance: bool) -> UpscaleReport:
        return await asyncio.to_thread(self.repeat, source, target, scale)

    def repeat(self, source: Path, target: Path, scale: float) -> UpscaleReport:
        (self.folder / "seen" / f"{next(self.count):03}").write_bytes(source.read_bytes())
        image = pyvips.Image.new_from_file(str(source), fail_on="warning")
        size = image.width, image.height
        lies = self.folder / "lies.json"
        word = json.loads(lies.read_text()).get(str(image.width)) if lies.exists() else None
        if word == "swapped":
            image = pyvips.Image.new_from_file(str(self.folder / "other.png"))
        elif word:
            image = LIES[word](image)
        image = image.resize(scale * size[0] / image.width, vscale=scale * size[1] / image.height, kernel="nearest")
        image.pngsave(str(target), keep="none")
        return UpscaleReport()


class Truthful(Server):
    """Its process."""

    def __init__(self, folder: Path) -> None:
        (folder / "seen").mkdir(parents=True)
        self.folder = folder
        Process.__init__(self, [sys.executable, __file__, str(folder)])
        self.base_url = self.expect(lambda line: line.startswith("http"), "base URL")

    @property
    def seen(self) -> list[bytes]:
        """What it was sent."""
        return [path.read_bytes() for path in sorted((self.folder / "seen").iterdir())]

    @property
    def downloads(self) -> list[str]:
        """Names of results, each as often as it was fetched."""
        return [line.split()[1] for line in self.lines if line.startswith("download ")]


@web.middleware
async def telling(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
    if request.method == "GET" and request.path.startswith("/outputs/"):
        sys.stdout.write(f"download {request.path.rpartition('/')[2]}\n")
        sys.stdout.flush()
    return await handler(request)


async def serve(folder: Path) -> None:
    """Until the process is told to end."""
    log = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(30)
    )
    settings = ServerSettings(
        data_dir=folder / "server", key=KEY, creates_per_minute_max=100_000, in_flight_max=100, workers=2
    )
    server = PredictionServer(settings, SystemClock(), Repeating(folder), log, troubles=[telling])
    sys.stdout.write(await server.start("127.0.0.1", 0) + "\n")
    sys.stdout.flush()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    await over.wait()
    await server.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
