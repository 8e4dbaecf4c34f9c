"""
Real-ESRGAN: the engine that runs the network, in a process of its own.

The result is a PNG of int(width * scale) by int(height * scale) pixels, at least one, in 8 or 16 bits and grey or RGB
as the source is, with its alpha and without metadata or profile, turned as its pixels are. What the worker cannot do,
or dies of, is an `UpscaleError`; a cancelled run ends its worker before it lets go.
"""

import asyncio
from pathlib import Path
from typing import Literal

from structlog.typing import FilteringBoundLogger

from daemon.engine.model import Model
from daemon.engine.process import EngineFailed, EngineProcess, Limits
from daemon.engine.protocol import Measure, Order, Step
from daemon.engine.speeds import Speed, Speeds
from daemon.ports import Clock
from daemon.server.upscaler import UpscaleError, UpscaleReport, loader_of

# What the result takes beside the network: reading, resampling, packing.
BESIDE = 1.1
# With a smaller picture the start of the worker counts for too much.
PIXELS_TELLING = 100_000
NO_FACES = (
    "face_enhance is not done on this machine: it needs GFPGAN, whose weights are partly for research only. "
    'Leave face_enhance out, or set [server] face_enhance = "ignore".'
)


class RealEsrganUpscaler:
    """faces: what becomes of a wish for face_enhance. speeds: where it is kept how fast this machine is."""

    def __init__(
        self,
        model: Model,
        limits: Limits,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        faces: Literal["refuse", "ignore"] = "refuse",
        speeds: Speeds | None = None,
    ) -> None:
        self.name = f"Real-ESRGAN ({model.name}) on this machine"
        self._model = model
        self._threads = limits.threads_really
        self._clock = clock
        self._faces = faces
        self._speeds = speeds
        self.worker = EngineProcess(model, limits, clock, log, on_step=self._step)
        self._log = log

    async def upscale(self, source: Path, target: Path, scale: float, face_enhance: bool) -> UpscaleReport:
        """One picture after the other."""
        if face_enhance and self._faces == "refuse":
            raise UpscaleError(NO_FACES, retryable=False)
        order = Order(str(source), str(target), loader_of(source), scale)
        began = self._clock.monotonic()
        try:
            done, ready = await self.worker.perform(order)
        except EngineFailed as error:
            raise UpscaleError(error.text, error.retryable) from None
        if done.pixels >= PIXELS_TELLING:
            await self._record(self._clock.monotonic() - began, done.pixels, ready.device)
        lines = [
            f"{done.tiles} tiles of at most {ready.side} px, overlap {ready.overlap} px, on {ready.device}",
            f"enlarged by {ready.scale}, then resampled to {done.width} x {done.height}",
            *ready.notes,
        ]
        if face_enhance:
            lines.append('face_enhance was asked for and is ignored, as [server] face_enhance = "ignore" says')
        return UpscaleReport(tuple(lines))

    async def measure(self) -> Speed:
        """How fast this machine is with this model, by one tile of nothing. Raises UpscaleError."""
        try:
            _, ready = await self.worker.perform(Measure())  # The first run is slower, and there is loading in it.
            began = self._clock.monotonic()
            done, _ = await self.worker.perform(Measure())
        except EngineFailed as error:
            raise UpscaleError(error.text, error.retryable) from None
        return await self._record((self._clock.monotonic() - began) * BESIDE, done.pixels, ready.device)

    async def close(self) -> None:
        """End the worker."""
        await self.worker.close()

    async def _record(self, seconds: float, pixels: int, device: str) -> Speed:
        speed = Speed(self._model.name, self._threads, device, seconds / max(1, pixels) * 1e6)
        return speed if self._speeds is None else await asyncio.to_thread(self._speeds.keep, speed)

    def _step(self, step: Step) -> None:
        self._log.debug("engine_tile", done=step.done, of=step.of)
