"""
Local: which engine the prediction server on this machine gets, and what is said where it is not the network.

`auto` takes what there is, and says aloud what it took. `real-esrgan` is a `Fault` (HOUSE) with a remedy where ncnn or
the model is not there. Nothing heavy is imported, and no worker started, before there is a picture.
"""

import importlib.util
import shlex
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from structlog.typing import FilteringBoundLogger

from daemon.config import STATE_DIR
from daemon.engine import catalogue
from daemon.engine.model import Model, ModelError
from daemon.engine.process import Limits
from daemon.engine.shelf import Shelf
from daemon.engine.speeds import Speed, Speeds
from daemon.ports import Clock
from daemon.rules.faults import Blame, Fault, Outlook
from daemon.server import LanczosUpscaler, RealEsrganUpscaler, UpscaleError, Upscaler

MODELS = "models"
SPEEDS = "engine.json"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for; the fields of [server]."""

    engine: Literal["auto", "real-esrgan", "lanczos"] = "auto"
    model: str = "realesr-general-x4v3"
    threads: int = 0
    memory_max_mb: int = 1024
    vulkan: str = "off"
    face_enhance: Literal["refuse", "ignore"] = "refuse"

    @property
    def limits(self) -> Limits:
        """What the worker may take."""
        return Limits(self.threads, self.memory_max_mb, self.vulkan)


@dataclass(frozen=True, slots=True)
class Engine:
    """upscaler: what will do the work. why: why it is not the network, where that was not asked for.

    network: the same engine where it is the network.
    """

    upscaler: Upscaler
    why: str = ""
    network: RealEsrganUpscaler | None = None

    @property
    def said(self) -> str:
        """One line for people: what it is, and why."""
        return f"{self.upscaler.name}{f': {self.why}' if self.why else ''}"

    @property
    def warning(self) -> str:
        """A sentence for every sidecar: results may be told apart by it later."""
        return f"Upscaled by {self.upscaler.name}{f'; {self.why}' if self.why else ''}".rstrip(".") + "."

    async def speed(self) -> Speed | None:
        """How fast the network is here, by running it for a moment; None for other engines. Raises Fault."""
        if self.network is None:
            return None
        try:
            return await self.network.measure()
        except UpscaleError as error:
            raise Fault(
                f"{error.text.rstrip('.')}.",
                blame=Blame.HOUSE,
                outlook=Outlook.LASTING,
                remedy="Look at `esrgand models` and at [server].",
            ) from None


@dataclass(frozen=True, slots=True)
class Lack:
    """Why the network cannot run, without a full stop, and what to do, a sentence."""

    what: str
    remedy: str


def network(wish: Wish, folders: Sequence[Path], has_ncnn: Callable[[], bool] | None = None) -> Model | Lack:
    """The model that would run, or what is missing.

    folders: where models may be, the first one with it has it.
    """
    if not (has_ncnn or _has_ncnn)():
        return Lack("ncnn is not installed", "Get it: pip install 'esrgand[local]'")
    found: Model | None = None
    for folder in folders:
        try:
            found = found or Shelf(folder).find(wish.model)
        except ModelError as error:
            return Lack(error.text.rstrip("."), "Look at `esrgand models`.")
    if found is None:
        return Lack(f"the model {wish.model} is not installed", f"Get it: {_pull(wish.model, folders[0])}")
    return found


def _pull(model: str, folder: Path) -> str:
    """The command that brings the model to where it was looked for."""
    what = "add FILE" if catalogue.named(model) is None else f"pull {model}"
    usual = Path(STATE_DIR, MODELS)
    where = f" --dir {shlex.quote(str(folder.parent))}" if folder.name == MODELS and folder != usual else ""
    return f"esrgand models {what}{where}"


def choose(
    wish: Wish,
    folders: Sequence[Path],
    state_dir: Path,
    clock: Clock,
    log: FilteringBoundLogger,
    stack: AsyncExitStack,
    *,
    workers: int = 1,
    has_ncnn: Callable[[], bool] | None = None,
) -> Engine:
    """The engine; `stack` ends it. workers: of the engine that resamples. Raises Fault."""
    found = None if wish.engine == "lanczos" else network(wish, folders, has_ncnn)
    if isinstance(found, Model):
        upscaler = RealEsrganUpscaler(
            found, wish.limits, clock, log, faces=wish.face_enhance, speeds=Speeds(state_dir / SPEEDS)
        )
        stack.push_async_callback(upscaler.close)
        engine = Engine(upscaler, network=upscaler)
    elif found is not None and wish.engine == "real-esrgan":
        raise Fault(
            f'The engine "real-esrgan" cannot run: {found.what}.',
            blame=Blame.HOUSE,
            outlook=Outlook.LASTING,
            remedy=found.remedy,
        )
    else:
        why = f"{found.what}. {found.remedy}" if found is not None else ""
        engine = Engine(LanczosUpscaler(workers, why), why)
    log.info("engine", engine=engine.upscaler.name, **({"why": engine.why} if engine.why else {}))
    return engine


def known_speed(wish: Wish, state_dir: Path) -> Speed | None:
    """How fast the network was here when it last ran."""
    return Speeds(state_dir / SPEEDS).find(wish.model, wish.limits.threads_really)


def _has_ncnn() -> bool:
    return importlib.util.find_spec("ncnn") is not None
