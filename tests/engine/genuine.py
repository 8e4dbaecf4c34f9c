"""
Genuine networks, for tests that need them: a folder that ESRGAND_TEST_MODELS names, never part of the project.

Where it is not named such a test is skipped, aloud.
"""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.engine import form, layers, weights

VARIABLE = "ESRGAND_TEST_MODELS"
COMPACT = ("realesr-general-x4v3", "realesr-animevideov3-x4")


def param(name: str) -> Path:
    """The .param of a genuine network; its .bin lies beside it."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} names no folder with {name}.param and .bin")
    return Path(folder) / f"{name}.param"


def state(file: Path) -> dict[str, NDArray[np.float32]]:
    """The state dict of an SRVGGNetCompact, as its checkpoint had it, taken out of ncnn's files."""
    plan = layers.survey(form.parse(file.read_bytes()))
    data, at, arrays = file.with_suffix(".bin").read_bytes(), 0, []
    for piece in plan.pieces:
        half = piece.flagged and struct.unpack_from("<I", data, at)[0] == weights.FP16_TAG
        at += 4 * piece.flagged
        arrays.append(np.frombuffer(data, "<f2" if half else "<f4", piece.count, at).astype(np.float32))
        at += -(-piece.count * (2 if half else 4) // 4) * 4
    made: dict[str, NDArray[np.float32]] = {}
    rest, channels, index = iter(arrays), 3, 0
    for kernel in rest:
        bias = next(rest)
        made[f"body.{index}.weight"] = kernel.reshape(len(bias), channels, 3, 3)
        made[f"body.{index}.bias"] = bias
        channels = len(bias)
        if (slopes := next(rest, None)) is not None:
            made[f"body.{index + 1}.weight"] = slopes
        index += 2
    return made
