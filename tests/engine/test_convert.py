"""The road of an official checkpoint: our writer, the reader, the converter, ncnn; against plain arithmetic."""

from pathlib import Path

import checkpoints
import genuine
import networks
import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.engine import checkpoint
from daemon.engine.convert import convert
from daemon.engine.model import Model, ModelError
from daemon.engine.shelf import inspect

Array = NDArray[np.float32]
HALF_ROUNDING = 2e-3  # of a colour from 0 to 1, after a few layers with weights of eleven bits
FLOAT_ROUNDING = 2e-5


def picture(height: int = 17, width: int = 21, seed: int = 3) -> Array:
    return np.random.default_rng(seed).random((3, height, width), np.float32)


def converted(folder: Path, state: dict[str, Array], wrapper: str | None = "params_ema") -> Model:
    """Through a file, as an official one comes."""
    text, data = convert(checkpoint.read(checkpoints.save(folder / "net.pth", state, wrapper)))
    param, bin_ = folder / "net.param", folder / "net.bin"
    param.write_text(text)
    bin_.write_bytes(data)
    return inspect("net", param, bin_)


def convolved(source: Array, state: dict[str, Array], key: str) -> Array:
    """A convolution of 3 x 3, by the book."""
    kernel, bias = state[f"{key}.weight"], state[f"{key}.bias"]
    edged = np.pad(source, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(edged, (3, 3), axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, kernel, optimize=True) + bias[:, None, None]


def leaky(source: Array) -> Array:
    return np.where(source > 0, source, source * np.float32(0.2))


def enlarged(source: Array, scale: int) -> Array:
    return source.repeat(scale, 1).repeat(scale, 2)


def compact(source: Array, state: dict[str, Array]) -> Array:
    """SRVGGNetCompact."""
    made = source
    for key, kind in networks.layers(state):
        if kind == "Convolution":
            made = convolved(made, state, key)
        else:
            made = np.where(made > 0, made, made * state[f"{key}.weight"][:, None, None])
    scale = networks.scale_of(state)
    _, height, width = made.shape
    pixels = made.reshape(3, scale, scale, height, width).transpose(0, 3, 1, 4, 2).reshape(3, height * scale, -1)
    return pixels + enlarged(source, scale)


def dense(source: Array, state: dict[str, Array], name: str) -> Array:
    parts = [source]
    for number in range(1, 5):
        parts.append(leaky(convolved(np.concatenate(parts), state, f"{name}.conv{number}")))
    return convolved(np.concatenate(parts), state, f"{name}.conv5") * np.float32(0.2) + source


def rrdb(source: Array, state: dict[str, Array], blocks: int) -> Array:
    """RRDBNet."""
    first = made = convolved(source, state, "conv_first")
    for block in range(blocks):
        inner = made
        for number in (1, 2, 3):
            inner = dense(inner, state, f"body.{block}.rdb{number}")
        made = inner * np.float32(0.2) + made
    made = first + convolved(made, state, "conv_body")
    for key in ("conv_up1", "conv_up2"):
        made = leaky(convolved(enlarged(made, 2), state, key))
    return convolved(leaky(convolved(made, state, "conv_hr")), state, "conv_last")


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("wrapper", ["params_ema", None])
def test_nearest_stays_nearest(tmp_path: Path, scale: int, wrapper: str | None) -> None:
    model = converted(tmp_path, networks.nearest(scale, body=2), wrapper)
    assert (model.scale, model.reach, model.input, model.output) == (scale, 4, "data", "output")
    assert np.array_equal(networks.run(model.param, model.weights, picture()), enlarged(picture(), scale))


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_compact_network_computes_what_it_should(tmp_path: Path, scale: int) -> None:
    state = networks.random(scale)
    model = converted(tmp_path, state)
    made = networks.run(model.param, model.weights, picture())
    assert (model.scale, model.reach) == (scale, networks.REACH)
    assert np.abs(made - compact(picture(), state)).max() < HALF_ROUNDING
    param, bin_ = networks.write(tmp_path, "direct", state)
    assert np.abs(networks.run(param, bin_, picture()) - compact(picture(), state)).max() < FLOAT_ROUNDING


@pytest.mark.parametrize(("blocks", "features", "growth"), [(1, 8, 4), (2, 16, 8), (3, 5, 3)])
def test_a_dense_network_computes_what_it_should(tmp_path: Path, blocks: int, features: int, growth: int) -> None:
    state = checkpoints.rrdb(blocks, features, growth)
    model = converted(tmp_path, state)
    made, wanted = networks.run(model.param, model.weights, picture()), rrdb(picture(), state, blocks)
    assert (model.scale, model.reach, model.features) == (4, 15 * blocks + 4, features + 4 * growth)
    assert wanted.std() > 0.1, "there is something to compare"
    assert np.abs(made - wanted).max() < FLOAT_ROUNDING * np.abs(wanted).max()


@pytest.mark.parametrize("away", [networks.REACH - 1, networks.REACH])
def test_the_random_network_reaches_exactly_so_far(tmp_path: Path, away: int) -> None:
    param, bin_ = networks.write(tmp_path, "net", networks.random())
    whole, tile, side = picture(40, 40), 8, 16
    around = np.ascontiguousarray(whole[:, side - away : side + tile + away, side - away : side + tile + away])
    cut = networks.run(param, bin_, around)[:, 4 * away : -4 * away, 4 * away : -4 * away]
    full = networks.run(param, bin_, whole)[:, 4 * side : 4 * (side + tile), 4 * side : 4 * (side + tile)]
    differ = (np.rint(cut * 255) != np.rint(full * 255)).mean()
    assert differ > 0.1 if away < networks.REACH else differ == 0


@pytest.mark.parametrize("name", genuine.COMPACT)
def test_a_genuine_network_comes_out_byte_for_byte(tmp_path: Path, name: str) -> None:
    """Taken out of its authors' .bin, saved as a checkpoint, read, converted: the same .bin, and the same picture."""
    param = genuine.param(name)
    model = converted(tmp_path, genuine.state(param))
    assert model.weights.read_bytes() == param.with_suffix(".bin").read_bytes()
    theirs = networks.run(param, param.with_suffix(".bin"), picture())
    assert np.array_equal(networks.run(model.param, model.weights, picture()), theirs)
    assert (model.scale, model.reach) == (4, {"realesr-general-x4v3": 34}.get(name, 18))


def without(state: dict[str, Array], key: str) -> dict[str, Array]:
    return {name: array for name, array in state.items() if name != key}


WRONG = {
    "of another family": ({"layers.0.attn.qkv.weight": np.ones((3, 3), np.float32)}, "neither"),
    "without a bias": (without(networks.random(), "body.4.bias"), "lack body.4.bias"),
    "without its slopes": (without(networks.random(), "body.3.weight"), r"body.3.weight"),
    "with more than it needs": (networks.random() | {"extra": np.ones(1, np.float32)}, "extra"),
    "with one layer": ({k: v for k, v in networks.random().items() if k.startswith("body.0.")}, "last layer"),
    "of no whole scale": (networks.random() | {"body.10.bias": np.ones(50, np.float32)}, "50 channels"),
    "with a larger kernel": (networks.random() | {"body.2.weight": np.ones((16, 16, 5, 5), np.float32)}, "shape"),
    "with fewer slopes": (networks.random() | {"body.3.weight": np.ones(1, np.float32)}, "shape"),
    "with numbers for a kernel": (networks.random() | {"body.0.weight": np.ones((), np.float32)}, "shape"),
    "with nothing in a kernel": (networks.random() | {"body.0.weight": np.ones((0, 3, 3, 3), np.float32)}, "shape"),
    "not a number": (networks.random() | {"body.0.bias": np.full(16, np.nan, np.float32)}, "no weights"),
    "infinite": (networks.random() | {"body.3.weight": np.full(16, np.inf, np.float32)}, "no weights"),
    "too large for 16 bits": (networks.random() | {"body.0.weight": np.full((16, 3, 3, 3), 1e5)}, "weights"),
    "RRDB of x2": (checkpoints.rrdb() | {"conv_first.weight": np.ones((8, 12, 3, 3), np.float32)}, "x2"),
    "RRDB of x1": (checkpoints.rrdb() | {"conv_first.weight": np.ones((8, 48, 3, 3), np.float32)}, "x1"),
    "RRDB without its end": (without(checkpoints.rrdb(), "conv_last.weight"), "conv_last.weight"),
    "RRDB without a block's middle": (without(checkpoints.rrdb(), "body.1.rdb2.conv3.weight"), "rdb2.conv3"),
    "RRDB with a gap": (without(checkpoints.rrdb(), "body.0.rdb1.conv1.weight"), "body.0"),
    "RRDB of nothing": ({"conv_first.weight": np.ones((), np.float32)}, "conv_first"),
}  # fmt: skip


@pytest.mark.parametrize(("state", "words"), list(WRONG.values()), ids=WRONG)
def test_what_is_not_known_is_a_sentence(state: dict[str, Array], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        convert(state)
    assert caught.value.text.endswith(".")
