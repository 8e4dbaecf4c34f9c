"""
Lanczos: an engine that resamples with libvips. It adds no detail and says so.

The result is a PNG of exactly round(width * scale) by round(height * scale) pixels, at least one, without metadata or
profile, turned as the pixels of the source are, with alpha where the source has it. Pictures pass through in strips, so
memory does not grow with the result. A damaged source is an `UpscaleError` that no retry mends; a full disk is one that
passes.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from daemon.engine.resampling import resized
from daemon.server.upscaler import UpscaleError, UpscaleReport, open_picture


class LanczosUpscaler:
    """workers: how many pictures at once; each takes one thread. why: why it is this engine, for those who ask."""

    name = "lanczos resampling, not a neural network"

    def __init__(self, workers: int = 1, why: str = "") -> None:
        self._why = why
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="lanczos")

    async def upscale(self, source: Path, target: Path, scale: float, face_enhance: bool) -> UpscaleReport:
        """Run in the pool; a cancelled run ends its thread before it lets go."""
        stop = Event()
        run = asyncio.get_running_loop().run_in_executor(self._pool, resample, source, target, scale, stop)
        try:
            size = await asyncio.shield(run)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.gather(run, return_exceptions=True)
            raise
        lines = [f"resampled to {size[0]} x {size[1]}", *filter(None, [self._why])]
        if face_enhance:
            lines.append("face_enhance was asked for and not done: this engine cannot")
        return UpscaleReport(tuple(lines))


def resample(source: Path, target: Path, scale: float, stop: Event) -> tuple[int, int]:
    """Write the result and return its size. Setting `stop` from another thread ends it with an `UpscaleError`."""
    import pyvips

    # Without this libvips answers for a changed file from its memory, and takes a thread per core for each picture.
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)
    try:
        picture = open_picture(source)
        result = enlarge(picture, scale)
        result.set_progress(True)
        result.signal_connect("eval", lambda image, _: image.set_kill(stop.is_set()))
        result.pngsave(str(target), keep="none")
    except pyvips.Error:
        if stop.is_set():
            raise UpscaleError("The run was cancelled", retryable=True) from None
        # libvips does not say which side failed; a source that reads to its end leaves only the disk.
        if not decodes(source):
            raise UpscaleError("The input image could not be decoded", retryable=False) from None
        raise UpscaleError("The result could not be written", retryable=True) from None
    return result.width, result.height


def decodes(source: Path) -> bool:
    """Whether the picture can be read from its first to its last pixel."""
    import pyvips

    try:
        open_picture(source).avg()
    except (pyvips.Error, UpscaleError):
        return False
    return True


def enlarge(picture: Any, scale: float) -> Any:
    """The picture at `scale`, with the number format and the bands that it had; PNG makes RGB of CMYK."""
    width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return resized(picture, width, height, scale)
