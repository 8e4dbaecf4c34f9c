"""
Networks for tests, made here: no download, and what they do is known beforehand.

A network is a state dict as the official checkpoints have it (SRVGGNetCompact: `body.0.weight` …), of numpy arrays.
`write` puts it down in ncnn's form, fp32, by a few lines of its own: the converter is checked against them.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[np.float32]]

CENTRE = (slice(None), slice(None), 1, 1)
REACH = 6  # of `random`: one pixel for each of its convolutions


def nearest(scale: int, features: int = 8, body: int = 1) -> State:
    """Exactly nearest-neighbour, bit for bit: the convolutions end in nothing, the upsampled input is added."""
    first = np.zeros((features, 3, 3, 3), np.float32)
    first[CENTRE] = np.eye(features, 3, dtype=np.float32)
    middle = np.zeros((features, features, 3, 3), np.float32)
    middle[CENTRE] = np.eye(features, dtype=np.float32)
    last = np.zeros((3 * scale**2, features, 3, 3), np.float32)
    return _state([first, *[middle] * body, last])


def random(scale: int = 4, features: int = 16, seed: int = 1) -> State:
    """Six random convolutions: each result pixel depends on source pixels exactly 6 away, and on none beyond.

    Outer taps weigh more than inner ones, so that the farthest pixel is seen in eight bits. Flat grey stays near grey.
    """
    dice = np.random.default_rng(seed)
    profile = np.array([1.0, 0.3, 1.0], np.float32)
    ring = np.outer(profile, profile)
    sizes = [3, *[features] * (REACH - 1), 3 * scale**2]
    kernels = []
    for inputs, outputs in pairwise(sizes):
        kernel = dice.standard_normal((outputs, inputs, 3, 3)).astype(np.float32) * ring
        kernel *= np.float32(1.0 / np.sqrt(inputs * np.square(ring).sum()))
        kernels.append(kernel)
    kernels[0] -= kernels[0].mean(axis=(1, 2, 3), keepdims=True)  # What is flat is nothing to them.
    kernels[-1] *= np.float32(0.3)
    state = _state(kernels, slope=0.5)
    for key in state:
        if key.endswith("bias"):
            state[key] = (dice.standard_normal(state[key].shape) * 0.01).astype(np.float32)
    return state


def _state(kernels: list[NDArray[np.float32]], slope: float = 1.0) -> State:
    state: State = {}
    for index, kernel in enumerate(kernels):
        state[f"body.{2 * index}.weight"] = kernel
        state[f"body.{2 * index}.bias"] = np.zeros(len(kernel), np.float32)
        if index < len(kernels) - 1:
            state[f"body.{2 * index + 1}.weight"] = np.full(len(kernel), slope, np.float32)
    return state


def scale_of(state: State) -> int:
    """By the last layer: it makes three colours of scale² pixels."""
    last = max(int(key.split(".")[1]) for key in state)
    return round((len(state[f"body.{last}.bias"]) / 3) ** 0.5)


def layers(state: State) -> Iterator[tuple[str, str]]:
    """The key and the type of each layer, in order."""
    for index in range(1 + max(int(key.split(".")[1]) for key in state)):
        yield f"body.{index}", "PReLU" if index % 2 else "Convolution"


def write(folder: Path, name: str, state: State) -> tuple[Path, Path]:
    """NAME.param and NAME.bin in ncnn's form, blobs `data` and `output`, weights fp32."""
    lines = ["Input in 0 1 data", "Split fork 1 2 data straight b0"]
    weights = bytearray()
    blobs = ["data", "straight", "b0"]
    for count, (key, kind) in enumerate(layers(state), 1):
        weight = state[f"{key}.weight"]
        lines.append(f"{kind} {key} 1 1 b{count - 1} b{count} 0={len(weight)}")
        if kind == "Convolution":
            lines[-1] += f" 1=3 4=1 5=1 6={weight.size}"
            weights += bytes(4) + weight.astype("<f4").tobytes() + state[f"{key}.bias"].astype("<f4").tobytes()
        else:
            weights += weight.astype("<f4").tobytes()
        blobs.append(f"b{count}")
    scale = scale_of(state)
    lines += [
        f"PixelShuffle shuffle 1 1 {blobs[-1]} fine 0={scale}",
        f"Interp near 1 1 straight large 0=1 1={scale}.0 2={scale}.0",
        "BinaryOp sum 2 1 fine large output 0=0",
    ]
    blobs += ["fine", "large", "output"]
    folder.mkdir(parents=True, exist_ok=True)
    param, file = folder / f"{name}.param", folder / f"{name}.bin"
    param.write_text("\n".join(["7767517", f"{len(lines)} {len(blobs)}", *lines]) + "\n")
    file.write_bytes(weights)
    return param, file


def run(param: Path, weights: Path, pixels: NDArray[np.float32], *, fp16: bool = False) -> NDArray[np.float32]:
    """What bare ncnn makes of a picture (channels, height, width), from 0 to 1."""
    import ncnn

    net = ncnn.Net()
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, fp16 and "bf16" not in option)
    net.opt.num_threads = 1
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(weights)) == 0
    with net.create_extractor() as extractor:
        assert extractor.input("data", ncnn.Mat(pixels).clone()) == 0
        status, made = extractor.extract("output")
        assert status == 0
        return np.array(made)


@contextmanager
def room_for(bytes_: int) -> Iterator[None]:
    """Inside, no file may become larger: what a full disk is like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
