"""The genuine small networks, in the folder that ESRGAND_TEST_MODELS names: what they make is super-resolution."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import pyvips
from engine_kit import image, pixels, worker

from daemon.engine.model import Model
from daemon.engine.resampling import resized
from daemon.engine.shelf import Shelf

pytest.importorskip("ncnn", reason="ncnn is not installed: pip install 'esrgand[local]'")

FOLDER = os.environ.get("ESRGAND_TEST_MODELS", "")
NAMES = ("realesr-general-x4v3", "realesr-animevideov3-x4")
SAMPLES = Path(__file__).parent.parent.parent / "daemon" / "samples"
pytestmark = pytest.mark.skipif(not FOLDER, reason="ESRGAND_TEST_MODELS names no folder with genuine networks")


def genuine(name: str) -> Model:
    found = Shelf(Path(FOLDER)).find(name)
    assert found is not None
    return found


def sample(name: str) -> pyvips.Image:
    picture = pyvips.Image.new_from_file(str(SAMPLES / name))
    return picture.flatten() if picture.hasalpha() else picture


def psnr(one: pyvips.Image, other: pyvips.Image) -> float:
    return 10 * math.log10(255**2 / ((one - other) ** 2).avg())


def energy(picture: pyvips.Image) -> float:
    """Of the gradients: how sharp it is."""
    values = pixels(picture).astype(np.float64)
    down, across = np.diff(values, axis=0), np.diff(values, axis=1)
    return float((down**2).mean() + (across**2).mean())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("picture", ["dawn.jpg", "cloth.webp"])
async def test_it_is_the_same_picture_and_sharper(tmp_path, name, picture):
    source = sample(picture)
    async with worker(tmp_path, genuine(name), threads=2) as bench:
        made = image(await bench.made(source, 4))
    assert (made.width, made.height) == (4 * source.width, 4 * source.height)
    assert psnr(made.shrink(4, 4), source) > 24
    smooth = resized(source, made.width, made.height, 4)
    assert energy(made) > energy(smooth)


@pytest.mark.parametrize("name", NAMES)
async def test_tiles_leave_no_seams(tmp_path, name):
    source = sample("dawn.jpg")
    made = {}
    for side in (512, 140):
        async with worker(tmp_path, genuine(name), threads=2, side_max=side, memory_max_mb=1200) as bench:
            made[side] = (await bench.made(source, 4)).astype(int)
            assert (len(bench.steps) > 1) == (side == 140)
    assert abs(made[512] - made[140]).max() <= 1


@pytest.mark.parametrize("name", NAMES)
async def test_the_rim_is_as_good_as_the_rest(tmp_path, name):
    """Beyond the picture its rim is repeated: a flat picture stays flat up to its last pixel."""
    async with worker(tmp_path, genuine(name), threads=2) as bench:
        made = await bench.made(image(np.full((40, 60, 3), 128, np.uint8)), 4)
    assert made.max() - made.min() <= 4
