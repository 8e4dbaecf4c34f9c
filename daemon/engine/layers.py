"""
Layers: what a network does to the size of a picture, how far it looks, and which weights it needs; from its form alone.

Known are the layer types of which super-resolution networks are made. Anything else is refused, because nobody could
say how many weights it takes, and ncnn loads too few or too many without a word. Pure; raises `ModelError`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from daemon.engine.form import Layer
from daemon.engine.model import SCALE_MAX, ModelError

COLOURS = 3
CHANNELS_MAX = 8192
KERNEL_MAX = 31
# How many numbers ncnn reads from the list of each activation: none, ReLU, leaky, clip, sigmoid, Mish, hard swish.
ACTIVATIONS = {0: 0, 1: 0, 2: 1, 3: 2, 4: 0, 5: 0, 6: 2}
INTERP_REACH = {1: 0, 2: 1, 3: 2}  # pixels, of nearest, bilinear, bicubic
TWO_OPERANDS = {0, 1, 2, 4, 5}  # add, subtract, multiply, maximum, minimum; not divide: it makes infinities


@dataclass(frozen=True, slots=True)
class Piece:
    """Weights that lie together in the `.bin`. flagged: a tag before them says how they are stored, else fp32."""

    layer: str
    count: int
    flagged: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a network is. scale, reach, features: see Model. pieces: its weights, in the order of the `.bin`."""

    input: str
    output: str
    scale: int
    reach: int
    features: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class _Blob:
    """channels: how many. size: its pixels for each source pixel, along a side. reach: in source pixels."""

    channels: int
    size: Fraction
    reach: Fraction


def survey(layers: tuple[Layer, ...]) -> Plan:
    """Follow a picture through the network."""
    blobs: dict[str, _Blob] = {}
    pieces: list[Piece] = []
    for layer in layers:
        if layer.kind not in KINDS:
            raise layer.refuse(f"layers of this type are not known here (known: {', '.join(KINDS)})")
        make, known, ins = KINDS[layer.kind]
        _look_at(layer, known, ins)
        made, weights = make(layer, [blobs[name] for name in layer.bottoms])
        if made.channels > CHANNELS_MAX or made.size > SCALE_MAX:
            raise layer.refuse("it makes a picture too large for any network")
        blobs |= dict.fromkeys(layer.tops, made)
        pieces += weights
    inputs = [layer.tops[0] for layer in layers if layer.kind == "Input"]
    used = {name for layer in layers for name in layer.bottoms}
    outputs = [name for name in blobs if name not in used]
    if len(inputs) != 1 or len(outputs) != 1 or inputs == outputs:
        raise ModelError(f"The network has {len(inputs)} inputs and {len(outputs)} outputs; it must have one of each.")
    end = blobs[outputs[0]]
    if end.channels != COLOURS or end.size.denominator != 1:
        raise ModelError(f"The network makes {end.channels} channels of x{end.size}; it must make {COLOURS}, whole.")
    if not pieces:
        raise ModelError("The network has no weights.")
    widest = max(blob.channels for blob in blobs.values())
    return Plan(inputs[0], outputs[0], int(end.size), math.ceil(end.reach), widest, tuple(pieces))


Made = tuple[_Blob, list[Piece]]


def _look_at(layer: Layer, known: set[int], ins: tuple[int, int]) -> None:
    least, most = ins
    if not least <= len(layer.bottoms) <= most:
        raise layer.refuse(f"it has {len(layer.bottoms)} blobs to work on")
    if not layer.tops or (len(layer.tops) > 1 and layer.kind != "Split"):
        raise layer.refuse(f"it makes {len(layer.tops)} blobs")
    # What we do not know may change what the layer does, or its weights; what is off is off.
    strange = [key for key, value in layer.values.items() if key not in known and value not in (0, 0.0)]
    if strange:
        raise layer.refuse(f"its parameter {strange[0]} is not known here")


def _input(layer: Layer, _: list[_Blob]) -> Made:
    if layer.whole(2, 0) not in (0, COLOURS):
        raise layer.refuse(f"it must take {COLOURS} channels")
    if layer.whole(0, 0) or layer.whole(1, 0):
        raise layer.refuse("it takes pictures of one size only; convert the network without a fixed size")
    return _Blob(COLOURS, Fraction(1), Fraction(0)), []


def _same(layer: Layer, ins: list[_Blob]) -> Made:
    return ins[0], []


def _relu(layer: Layer, ins: list[_Blob]) -> Made:
    layer.fraction(0, 0.0)
    return ins[0], []


def _prelu(layer: Layer, ins: list[_Blob]) -> Made:
    slopes = layer.whole(0, 0)
    if slopes not in (1, ins[0].channels):
        raise layer.refuse(f"it has {slopes} slopes for {ins[0].channels} channels")
    return ins[0], [Piece(layer.name, slopes, flagged=False)]


def _convolution(layer: Layer, ins: list[_Blob]) -> Made:
    outputs, kernel, weights = _kernel(layer, ins[0])
    dilation = layer.whole(2, 1)
    if layer.whole(12, dilation) != dilation or not 1 <= dilation <= KERNEL_MAX:
        raise layer.refuse("its dilation must be the same both ways")
    if layer.whole(3, 1) != 1 or layer.whole(13, 1) != 1:
        raise layer.refuse("it makes the picture smaller (stride); such networks are not known here")
    half, odd = divmod(kernel, 2)
    if not odd or set(_pads(layer)) != {half * dilation}:
        raise layer.refuse("its padding does not keep the picture's size")
    return _Blob(outputs, ins[0].size, ins[0].reach + half * dilation / ins[0].size), weights


def _deconvolution(layer: Layer, ins: list[_Blob]) -> Made:
    outputs, kernel, weights = _kernel(layer, ins[0])
    stride = layer.whole(3, 1)
    if layer.whole(13, stride) != stride or not 1 <= stride <= SCALE_MAX or layer.whole(2, 1) != 1:
        raise layer.refuse("its stride must be the same both ways, and its dilation 1")
    left, right, top, bottom = _pads(layer)
    more = layer.whole(18, 0)
    if {kernel - left - right + more, kernel - top - bottom + layer.whole(19, more)} != {stride}:
        raise layer.refuse("its padding does not make the picture larger by its stride")
    reach = ins[0].reach + math.ceil(Fraction(kernel, stride)) / ins[0].size
    return _Blob(outputs, ins[0].size * stride, reach), weights


def _kernel(layer: Layer, source: _Blob) -> tuple[int, int, list[Piece]]:
    """Outputs, the kernel's side, and weights of a convolution of either direction."""
    outputs, kernel, count = layer.whole(0, 0), layer.whole(1, 0), layer.whole(6, 0)
    if not 1 <= outputs <= CHANNELS_MAX or not 1 <= kernel <= KERNEL_MAX or layer.whole(11, kernel) != kernel:
        raise layer.refuse("its size is impossible, or its kernel is not square")
    if count != outputs * source.channels * kernel**2:
        needed = outputs * source.channels * kernel**2
        raise layer.refuse(f"it has {count} weights and needs {needed} for its {source.channels} channels")
    activation = layer.whole(9, 0)
    if ACTIVATIONS.get(activation) != len(layer.array(10)):
        raise layer.refuse("its activation is not known here, or lacks its numbers")
    weights = [Piece(layer.name, count, flagged=True)]
    if (bias := layer.whole(5, 0)) not in (0, 1):
        raise layer.refuse("parameter 5 must be 0 or 1")
    return outputs, kernel, weights + [Piece(layer.name, outputs, flagged=False)] * bias


def _pads(layer: Layer) -> tuple[int, int, int, int]:
    left = layer.whole(4, 0)
    top = layer.whole(14, left)
    return left, layer.whole(15, left), top, layer.whole(16, top)


def _shuffle(layer: Layer, ins: list[_Blob]) -> Made:
    factor = layer.whole(0, 1)
    if not 1 <= factor <= SCALE_MAX or ins[0].channels % factor**2:
        raise layer.refuse(f"{ins[0].channels} channels cannot be laid out x{factor}")
    return _Blob(ins[0].channels // factor**2, ins[0].size * factor, ins[0].reach), []


def _interp(layer: Layer, ins: list[_Blob]) -> Made:
    kind, factor = layer.whole(0, 0), layer.fraction(1, 1.0)
    if layer.fraction(2, 1.0) != factor or factor not in range(1, SCALE_MAX + 1):
        raise layer.refuse("it must enlarge by the same whole number both ways; take the network's x4 form")
    if kind not in INTERP_REACH:
        raise layer.refuse("it must be nearest, bilinear or bicubic")
    reach = ins[0].reach + INTERP_REACH[kind] / ins[0].size
    return _Blob(ins[0].channels, ins[0].size * int(factor), reach), []


def _binary(layer: Layer, ins: list[_Blob]) -> Made:
    if layer.whole(0, 0) not in TWO_OPERANDS:
        raise layer.refuse("its operation is not known here")
    if layer.whole(1, 0):
        layer.fraction(2, 0.0)
    if len(ins) != (1 if layer.whole(1, 0) else 2):
        raise layer.refuse("it needs two operands")
    return _together(layer, ins), []


def _eltwise(layer: Layer, ins: list[_Blob]) -> Made:
    if layer.whole(0, 0) not in (0, 1, 2) or len(layer.array(1)) not in (0, len(ins)):
        raise layer.refuse("its operation is not known here, or lacks its numbers")
    return _together(layer, ins), []


def _together(layer: Layer, ins: list[_Blob]) -> _Blob:
    if len({(blob.channels, blob.size) for blob in ins}) != 1:
        raise layer.refuse("its operands differ in size")
    return _Blob(ins[0].channels, ins[0].size, max(blob.reach for blob in ins))


def _concat(layer: Layer, ins: list[_Blob]) -> Made:
    if layer.whole(0, 0) != 0 or len({blob.size for blob in ins}) != 1:
        raise layer.refuse("it must lay channels of one size together")
    return _Blob(sum(blob.channels for blob in ins), ins[0].size, max(blob.reach for blob in ins)), []


MANY = 64
KERNEL = {0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16}
# What makes each, which parameters it may have, and how many blobs it works on, at least and at most.
KINDS: dict[str, tuple[Callable[[Layer, list[_Blob]], Made], set[int], tuple[int, int]]] = {
    "Input": (_input, {0, 1, 2}, (0, 0)),
    "Split": (_same, set(), (1, 1)),
    "Convolution": (_convolution, KERNEL, (1, 1)),
    "Deconvolution": (_deconvolution, KERNEL | {18, 19}, (1, 1)),
    "PReLU": (_prelu, {0}, (1, 1)),
    "ReLU": (_relu, {0}, (1, 1)),
    "PixelShuffle": (_shuffle, {0}, (1, 1)),
    "Interp": (_interp, {0, 1, 2}, (1, 1)),
    "BinaryOp": (_binary, {0, 1, 2}, (1, 2)),
    "Eltwise": (_eltwise, {0, 1}, (2, MANY)),
    "Concat": (_concat, {0}, (2, MANY)),
}
