"""
Convert: the official networks, RRDBNet and SRVGGNetCompact, from their weights to ncnn's form.

The shapes of the weights decide which network it is and how large; every one must be there, fit, and have its place.
The networks are laid out as their authors' papers and checkpoints have them (arXiv:2107.10833 for both). Weights become
fp16, biases and slopes stay fp32. Input `data`, output `output`, colours from 0 to 1. Pure; raises `ModelError`.
"""

from collections import Counter
from typing import TYPE_CHECKING

from daemon.engine.form import MAGIC
from daemon.engine.layers import CHANNELS_MAX, COLOURS
from daemon.engine.model import SCALE_MAX, ModelError
from daemon.engine.weights import packed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    State = dict[str, Array]

KERNEL = 3
LEAK = "2.000000e-01"  # of each leaky ReLU in RRDBNet, and what a dense block's own part is multiplied by
DENSE = 5  # convolutions of a dense block
BLOCKS = 3  # dense blocks of an RRDB
RRDB_MAX = 64
COMPACT_MAX = 256


def convert(state: "State") -> tuple[str, bytes]:
    """The text of the `.param` and the content of the `.bin`."""
    made = _Made(dict(state))
    if "conv_first.weight" in state:
        _rrdb(made)
    elif "body.0.weight" in state:
        _compact(made)
    else:
        raise ModelError(
            "It is neither an RRDBNet nor an SRVGGNetCompact, the two networks of Real-ESRGAN; convert it to ncnn's "
            "form (.param and .bin) with the tools of its authors."
        )
    return made.finish()


class _Made:
    """The network as it grows: layers in order, and their weights. A blob may be used often: `finish` splits it."""

    def __init__(self, state: "State") -> None:
        self._state = state
        self._lines: list[tuple[str, str, list[str], str, str]] = []
        self._weights = bytearray()
        self.add("Input", "data", [], "data")

    def add(self, kind: str, name: str, bottoms: list[str], top: str, values: str = "") -> str:
        """A layer; returns the blob that it makes."""
        self._lines.append((kind, name, bottoms, top, values))
        return top

    def shape(self, key: str) -> tuple[int, ...]:
        """Of a weight that is not taken yet; () where there is none."""
        return self._state[key].shape if key in self._state else ()

    def convolution(self, key: str, source: str, channels: int, outputs: int | None = None, *, leaky: bool) -> str:
        """3 x 3, from `channels`, to `outputs` where those are known; its blob is called like the key."""
        shape = self.shape(f"{key}.weight")
        made = outputs if outputs is not None else (shape[0] if shape else 0)
        weight = self._take(f"{key}.weight", (made, channels, KERNEL, KERNEL))
        bias = self._take(f"{key}.bias", (made,))
        self._weights += packed(weight, flagged=True, name=key) + packed(bias, flagged=False, name=key)
        values = f"0={made} 1={KERNEL} 4=1 5=1 6={weight.size}" + (f" 9=2 -23310=1,{LEAK}" if leaky else "")
        return self.add("Convolution", key, [source], key, values)

    def prelu(self, key: str, source: str, channels: int) -> str:
        """One slope for each channel."""
        self._weights += packed(self._take(f"{key}.weight", (channels,)), flagged=False, name=key)
        return self.add("PReLU", key, [source], key, f"0={channels}")

    def enlarged(self, name: str, source: str, factor: int) -> str:
        """Nearest neighbour."""
        return self.add("Interp", name, [source], name, f"0=1 1={factor:e} 2={factor:e}")

    def sum(self, name: str, one: str, other: str) -> str:
        """one + other."""
        return self.add("BinaryOp", name, [one, other], name, "0=0")

    def fifth(self, name: str, part: str, whole: str) -> str:
        """part / 5 + whole."""
        return self.add("Eltwise", name, [part, whole], name, f"0=1 -23301=2,{LEAK},1.000000e+00")

    def _take(self, key: str, shape: tuple[int, ...]) -> "Array":
        array = self._state.pop(key, None)
        if array is None:
            raise ModelError(f"Its weights lack {key}; it is damaged, or not a network that is known here.")
        if array.shape != shape or 0 in shape or max(shape) > CHANNELS_MAX:
            raise ModelError(f"Its {key} has the shape {array.shape}, and {shape} was expected.")
        return array

    def finish(self) -> tuple[str, bytes]:
        """The text and the weights; the last blob is the output."""
        if self._state:
            left = sorted(self._state)
            raise ModelError(f"It has weights that no network known here has: {', '.join(left[:3])[:120]}.")
        uses = Counter(bottom for _, _, bottoms, _, _ in self._lines for bottom in bottoms)
        taken: Counter[str] = Counter()
        lines: list[str] = []
        blobs = 0
        last = self._lines[-1][3]
        for kind, name, bottoms, top, values in self._lines:
            ins = [_turn(bottom, taken) if uses[bottom] > 1 else bottom for bottom in bottoms]
            out = "output" if top == last else top
            lines.append(" ".join([f"{kind:<16} {name:<24} {len(ins)} 1", *ins, out, *([values] if values else [])]))
            blobs += 1
            if (count := uses[top]) > 1:
                outs = [f"{top}/{number}" for number in range(count)]
                lines.append(f"{'Split':<16} {top + '/':<24} 1 {count} {top} {' '.join(outs)}")
                blobs += count
        text = "\n".join([MAGIC, f"{len(lines)} {blobs}", *lines]) + "\n"
        return text, bytes(self._weights)


def _turn(blob: str, taken: Counter[str]) -> str:
    """The next of a blob's copies."""
    taken[blob] += 1
    return f"{blob}/{taken[blob] - 1}"


def _compact(made: _Made) -> None:
    """SRVGGNetCompact: convolutions and PReLUs by turns, laid out as pixels; the source is added, enlarged."""
    last = 0
    while made.shape(f"body.{last + 2}.weight") and last < 2 * COMPACT_MAX:
        last += 2
    outputs = (made.shape(f"body.{last}.bias") or (0,))[0]
    scale = next((side for side in range(1, SCALE_MAX + 1) if COLOURS * side**2 == outputs), 0)
    if not scale or not last:
        raise ModelError(f"Its last layer makes {outputs} channels; 3, 12, 27, 48 … (x1, x2, x3, x4 …) were expected.")
    blob, channels = "data", COLOURS
    for index in range(0, last, 2):
        blob = made.convolution(f"body.{index}", blob, channels, leaky=False)
        channels = made.shape(f"body.{index + 1}.weight")[:1][0] if made.shape(f"body.{index + 1}.weight") else 0
        blob = made.prelu(f"body.{index + 1}", blob, channels)
    blob = made.convolution(f"body.{last}", blob, channels, outputs, leaky=False)
    fine = made.add("PixelShuffle", "pixels", [blob], "pixels", f"0={scale}")
    made.sum("sum", fine, made.enlarged("enlarged", "data", scale))


def _rrdb(made: _Made) -> None:
    """RRDBNet x4: dense blocks in blocks with a shortcut each, then twice nearest x2 and a convolution."""
    features, inputs, *_ = (*made.shape("conv_first.weight"), 0, 0)
    if inputs in (COLOURS * 4, COLOURS * 16):
        raise ModelError(
            f"It is a RRDBNet of x{2 if inputs == COLOURS * 4 else 1}, which is not known here; take RealESRGAN_x4plus "
            "for every scale: its result is made smaller as needed."
        )
    trunk = first = made.convolution("conv_first", "data", COLOURS, features, leaky=False)
    count = 0
    while made.shape(f"body.{count}.rdb1.conv1.weight") and count < RRDB_MAX:
        whole = trunk
        for block in range(1, BLOCKS + 1):
            trunk = _dense(made, f"body.{count}.rdb{block}", trunk, features)
        trunk = made.fifth(f"body.{count}", trunk, whole)
        count += 1
    trunk = made.convolution("conv_body", trunk, features, features, leaky=False)
    trunk = made.sum("sum", first, trunk)
    for step in ("1", "2"):
        trunk = made.enlarged(f"enlarged{step}", trunk, 2)
        trunk = made.convolution(f"conv_up{step}", trunk, features, features, leaky=True)
    trunk = made.convolution("conv_hr", trunk, features, features, leaky=True)
    made.convolution("conv_last", trunk, features, COLOURS, leaky=False)


def _dense(made: _Made, name: str, source: str, features: int) -> str:
    """Each convolution sees what came in and what all before it made; the fifth part of the last is added."""
    growth = (made.shape(f"{name}.conv1.weight") or (0,))[0]
    parts = [source]
    for number in range(1, DENSE):
        seen = _joined(made, f"{name}.seen{number}", parts)
        channels = features + (number - 1) * growth
        parts.append(made.convolution(f"{name}.conv{number}", seen, channels, growth, leaky=True))
    seen = _joined(made, f"{name}.seen{DENSE}", parts)
    last = made.convolution(f"{name}.conv{DENSE}", seen, features + (DENSE - 1) * growth, features, leaky=False)
    return made.fifth(name, last, source)


def _joined(made: _Made, name: str, parts: list[str]) -> str:
    return made.add("Concat", name, list(parts), name, "0=0") if len(parts) > 1 else parts[0]
