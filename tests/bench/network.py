"""
Network: the whole time of the engine on this machine over that of a loop that only runs ncnn on the same tiles.

With the genuine general network where ESRGAND_TEST_MODELS names its folder, else with one made here. Whoever else wants
the cores slows both: they take turns, and the fastest of each counts.
"""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyvips
import structlog
from bench.aims import is_met
from bench.figure import Figure

from daemon.adapters.clock import SystemClock
from daemon.engine.model import Model
from daemon.engine.process import EngineProcess, Limits
from daemon.engine.protocol import Order
from daemon.engine.shelf import Shelf

GENUINE = "realesr-general-x4v3"
WIDTH, HEIGHT, SCALE = 640, 426, 4
TURNS = 3
AIM = "<= 1.25 of the bare loop"
BARE = Path(__file__).with_name("bare_network.py")
SAMPLE = Path(__file__).parent.parent.parent / "daemon" / "samples" / "dawn.jpg"


def measure(short: bool, work: Path) -> list[Figure]:
    """Nothing where ncnn is not installed."""
    if importlib.util.find_spec("ncnn") is None:
        print("network: ncnn is not installed: pip install 'esrgand[local]'", file=sys.stderr)
        return []
    return [asyncio.run(_measure(short, work))]


async def _measure(short: bool, work: Path) -> Figure:
    model = network(work)
    picture = work / "picture.png"
    sample = pyvips.Image.new_from_file(str(SAMPLE))
    width, height = (160, 107) if short else (WIDTH, HEIGHT)
    sample = sample.resize(width / sample.width, vscale=height / sample.height)
    # Noise, as every camera's pictures have: what is smooth packs faster.
    noisy = (sample + pyvips.Image.gaussnoise(width, height, mean=0, sigma=3)).cast("uchar")
    noisy.copy(interpretation="srgb").pngsave(str(picture))
    limits = Limits()
    process = EngineProcess(model, limits, SystemClock(), structlog.wrap_logger(None, processors=[_silence]))
    order = Order(str(picture), str(work / "result.png"), "pngload", SCALE)
    bare, whole, cold = [], [], 0.0
    try:
        began = time.perf_counter()
        _, ready = await process.perform(order)
        cold = time.perf_counter() - began
        for _ in range(1 if short else TURNS):
            bare.append(_bare(model, picture, limits.threads_really, ready.side, ready.overlap))
            began = time.perf_counter()
            done, _ = await process.perform(order)
            whole.append(time.perf_counter() - began)
    finally:
        await process.close()
    assert (done.width, done.height) == (SCALE * width, SCALE * height)
    value = min(whole) / min(bare)
    detail: dict[str, Any] = {
        "model": model.name,
        "picture": f"{width} x {height}",
        "threads": limits.threads_really,
        "tiles": done.tiles,
        "seconds, bare": min(bare),
        "seconds, engine": min(whole),
        "seconds, engine with its start": cold,
    }
    return Figure(
        "network",
        value,
        "x",
        "a loop that only runs ncnn",
        AIM,
        None if short or model.name != GENUINE else is_met(value, AIM),
        detail,
    )


def network(work: Path) -> Model:
    """The genuine one, or one made here that computes about as much."""
    folder = os.environ.get("ESRGAND_TEST_MODELS")
    found = Shelf(Path(folder)).find(GENUINE) if folder else None
    if found is not None:
        return found
    sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))
    import networks

    param, weights = networks.write(Path(tempfile.mkdtemp(dir=work)), "made", networks.random(features=64))
    return Model("made", param, weights, "data", "output", 4, networks.REACH, 64)


def _bare(model: Model, picture: Path, threads: int, side: int, overlap: int) -> float:
    arguments = [picture, model.param, model.weights, model.input, model.output, threads, side, overlap]
    done = subprocess.run(
        [sys.executable, "-P", BARE, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        # As anybody would run it: what the worker pays for keeping to its memory is the engine's.
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    return float(json.loads(done.stdout)["seconds"])


def _silence(*_: object) -> Any:
    raise structlog.DropEvent
