"""What the tests of the engine share: models made here, pictures, and a worker that is ended again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import networks
import numpy as np
import pyvips
import structlog
from fakes.clock import FakeClock, HeldClock
from structlog.testing import LogCapture

from daemon.engine.model import Model
from daemon.engine.process import EngineProcess, Limits
from daemon.engine.protocol import Done, Order, Ready
from daemon.server.upscaler import loader_of


def model(folder: Path, state: networks.State, *, name: str = "made", reach: int = 1) -> Model:
    param, weights = networks.write(folder / "models", name, state)
    return Model(name, param, weights, "data", "output", networks.scale_of(state), reach, 16)


def captured() -> tuple[structlog.typing.FilteringBoundLogger, LogCapture]:
    capture = LogCapture()
    log = structlog.wrap_logger(
        None,
        processors=[capture],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=False,
    )
    return log, capture


class Bench:
    """A worker for one model."""

    def __init__(self, folder: Path, model: Model, limits: Limits, clock: FakeClock, **more) -> None:
        self.folder = folder
        self.log, self.capture = captured()
        self.steps: list[tuple[int, int]] = []
        self.on_step = lambda step: None
        self.process = EngineProcess(model, limits, clock, self.log, on_step=self._step, **more)

    def _step(self, step) -> None:
        self.steps.append((step.done, step.of))
        self.on_step(step)

    async def perform(self, source: bytes | pyvips.Image, scale: float) -> tuple[Done, Ready]:
        place = self.folder / "source"
        if isinstance(source, bytes):
            place.write_bytes(source)
        else:
            source.pngsave(str(place))
        return await self.process.perform(Order(str(place), str(self.folder / "target.png"), loader_of(place), scale))

    async def made(self, source: bytes | pyvips.Image, scale: float) -> np.ndarray:
        """Rows, columns, bands of the result."""
        await self.perform(source, scale)
        return pixels(pyvips.Image.new_from_buffer((self.folder / "target.png").read_bytes(), ""))


@asynccontextmanager
async def worker(folder: Path, model: Model, clock: FakeClock | None = None, **limits) -> AsyncIterator[Bench]:
    """Threads are few, since tests run beside one another."""
    bench = Bench(folder, model, Limits(**{"threads": 1, "memory_max_mb": 512, **limits}), clock or HeldClock())
    try:
        yield bench
    finally:
        await bench.process.close()


def pixels(image: pyvips.Image) -> np.ndarray:
    array = image.numpy()
    return array[:, :, None] if array.ndim == 2 else array


def noise(width: int, height: int, bands: int = 3, seed: int = 1, bits: int = 8) -> np.ndarray:
    dice = np.random.default_rng(seed)
    kind = np.uint8 if bits == 8 else np.uint16
    return dice.integers(0, 2**bits, (height, width, bands), kind)


def image(array: np.ndarray) -> pyvips.Image:
    grey, deep = array.shape[2] < 3, array.dtype == np.uint16
    kind = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
    return pyvips.Image.new_from_array(array).copy(interpretation=kind)


def smooth(width: int, height: int) -> np.ndarray:
    """A picture with edges and gradients, so that seams would show."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 90 * np.sin(x / (5 + band)) * np.cos(y / (7 - band)) + 30 * ((x + y) % 23 < 7) for band in range(3)]
    return np.clip(np.stack(waves, axis=2), 0, 255).astype(np.uint8)
