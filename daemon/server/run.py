"""
Run: do the work of one prediction: bring the input here, look at it, hand it to the engine.

The result is in `target` when `run` returns. Raises `UpscaleError` for every reason that the client should hear, and
`OSError` where this machine's disk fails.
"""

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from yarl import URL

from daemon.server.outbound import Outbound
from daemon.server.settings import ServerSettings
from daemon.server.store import Store
from daemon.server.uploads import Uploads
from daemon.server.upscaler import UpscaleError, Upscaler, UpscaleReport, dimensions

# The path of a picture on our own file host. The name cannot be guessed, so the host and port before it, which change
# from run to run and with the road a client takes, need not be looked at.
OWN_PATH = re.compile(r"/(files|outputs)/([0-9a-f]{32}\.[a-z]{3,4})")


class Runner:
    """The engine with everything around it that a prediction needs."""

    def __init__(
        self, settings: ServerSettings, store: Store, uploads: Uploads, outbound: Outbound, upscaler: Upscaler
    ) -> None:
        self._settings = settings
        self._store = store
        self._uploads = uploads
        self._outbound = outbound
        self._upscaler = upscaler

    @property
    def engine(self) -> str:
        """What does the work."""
        return self._upscaler.name

    async def run(self, wanted: dict[str, Any], target: Path) -> UpscaleReport:
        """wanted: the `input` of a prediction, as it was accepted."""
        scale = wanted.get("scale", 4)
        if scale <= 0:
            raise UpscaleError("The scale must be greater than 0", retryable=False)
        with ExitStack() as stack:
            source = self._own(wanted["image"])
            if source is None:
                source = stack.enter_context(self._store.scratch())
                async with self._store.writing(source) as write:
                    await self._outbound.fetch(wanted["image"], write, self._settings.bytes_max)
            width, height = await self._measure(source)
            if width * height > self._settings.pixels_max:
                raise UpscaleError(
                    f"Input image of dimensions ({width}, {height}) greater than the max size that fits in GPU memory"
                    f" ({self._settings.pixels_max} pixels). Resize the input image and try again.",
                    retryable=False,
                )
            return await self._upscaler.upscale(source, target, float(scale), wanted.get("face_enhance", False))

    def _own(self, image: str) -> Path | None:
        own = OWN_PATH.fullmatch(URL(image).path)
        if own is None:
            return None
        kind, name = own.groups()
        if kind == "files":
            found = self._uploads.find(name)
            return found[0] if found else None
        path = self._store.path(kind, name)
        return path if path.is_file() else None

    async def _measure(self, source: Path) -> tuple[int, int]:
        try:
            return await self._store.do(dimensions, source)
        except FileNotFoundError:
            raise UpscaleError("The input image was deleted", retryable=False) from None
