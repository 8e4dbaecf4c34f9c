"""
Form: what a `.param` file says, taken apart: its layers, the blobs between them, and their parameters, typed.

Stricter than ncnn, which answers a crooked file with a crash or with nonsense: what is accepted here is read by ncnn
in the same way. What the layers do is the business of `layers.py`. What is wrong is a `ModelError` that names the line.
"""

import re
from dataclasses import dataclass

from daemon.engine.model import ModelError

MAGIC = "7767517"
TEXT_BYTES_MAX = 4 << 20  # the largest that we know, of a thousand layers, has a fiftieth of it
LAYERS_MAX = 20_000
WORD_CHARACTERS_MAX = 255  # more is cut off by ncnn
VALUE_CHARACTERS_MAX = 15  # likewise
IDS_MAX = 32
ARRAY_BASE = -23300  # ncnn's way to say: parameter 0 is an array
ARRAY_MAX = 64

_COUNT = re.compile(r"[0-9]{1,6}")
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}")
_FRACTION = re.compile(r"[+-]?(?=[0-9.]*[0-9])[0-9]*(?=[.eE])\.?[0-9]*([eE][+-]?[0-9]{1,2})?")
_PAIR = re.compile(r"(-?[0-9]{1,5})=(\S+)")

Number = int | float
Value = Number | tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One line. bottoms: blobs that go in. tops: blobs that come out. line: in the file, from 1."""

    kind: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    values: dict[int, Value]
    line: int

    def refuse(self, text: str) -> ModelError:
        """An error about this layer; text: what is wrong, without a full stop."""
        return ModelError(f"Line {self.line} ({self.kind} {self.name[:40]}): {text}.")

    def whole(self, key: int, default: int) -> int:
        """A whole number. ncnn would take the bits of anything else for one."""
        value = self.values.get(key, default)
        if not isinstance(value, int):
            raise self.refuse(f"parameter {key} must be a whole number")
        return value

    def fraction(self, key: int, default: float) -> float:
        """A number that is written with a point or an exponent, else ncnn would misread it."""
        value = self.values.get(key, default)
        if not isinstance(value, float):
            raise self.refuse(f"parameter {key} must be written with a decimal point")
        return value

    def array(self, key: int) -> tuple[float, ...]:
        """Numbers with a point; none where the parameter is not given."""
        value = self.values.get(key, ())
        if not isinstance(value, tuple) or not all(isinstance(each, float) for each in value):
            raise self.refuse(f"parameter {key} must be a list of numbers with a decimal point")
        return value


def parse(data: bytes) -> tuple[Layer, ...]:
    """The layers in their order. Every blob is made once, before it is used, and used once at most."""
    if len(data) > TEXT_BYTES_MAX:
        raise ModelError(f"The .param file has more than {TEXT_BYTES_MAX} bytes; no network's has.")
    if not data.strip():
        raise ModelError("The .param file is empty.")
    try:
        lines = [line.rstrip(" \t\r") for line in data.decode("ascii").split("\n")]
    except UnicodeDecodeError:
        raise ModelError("The .param file is not text; ncnn's binary form (.param.bin) is not read.") from None
    for number, line in enumerate(lines, 1):
        if not line.replace("\t", " ").isprintable():
            raise ModelError(f"Line {number} of the .param file has characters that are not text.")
    if lines[0].strip() != MAGIC:
        raise ModelError(f"The .param file does not begin with {MAGIC}: it is not in ncnn's form.")
    counts = lines[1].split() if len(lines) > 1 else []
    if len(counts) != 2 or not all(map(_COUNT.fullmatch, counts)):
        raise ModelError("Line 2 of the .param file must hold two whole numbers: how many layers and blobs there are.")
    layers = tuple(_layer(line, number) for number, line in enumerate(lines[2:], 3) if line.strip())
    if len(layers) != int(counts[0]) or len(layers) > LAYERS_MAX:
        raise ModelError(f"The .param file has {len(layers)} layers and says {counts[0]}; it may be cut off.")
    blobs = _blobs(layers)
    if blobs != int(counts[1]):
        raise ModelError(f"The .param file has {blobs} blobs and says {counts[1]}; it may be damaged.")
    return layers


def _layer(line: str, number: int) -> Layer:
    words = line.split()
    if len(words) < 4 or not all(map(_COUNT.fullmatch, words[2:4])):
        raise ModelError(f"Line {number} of the .param file is not a layer: type, name and two counts are expected.")
    if any(len(word) > WORD_CHARACTERS_MAX for word in words):
        raise ModelError(f"Line {number} of the .param file has a word of more than {WORD_CHARACTERS_MAX} characters.")
    ins, outs = int(words[2]), int(words[3])
    names, pairs = words[4 : 4 + ins + outs], words[4 + ins + outs :]
    if len(names) < ins + outs or any("=" in name for name in names):
        raise ModelError(f"Line {number} of the .param file must name {ins + outs} blobs.")
    layer = Layer(words[0], words[1], tuple(names[:ins]), tuple(names[ins:]), {}, number)
    for pair in pairs:
        key, value = _pair(pair, layer)
        if key in layer.values:
            raise layer.refuse(f"parameter {key} is given twice")
        layer.values[key] = value
    return layer


def _pair(pair: str, layer: Layer) -> tuple[int, Value]:
    match = _PAIR.fullmatch(pair)
    if match is None:
        raise layer.refuse(f"“{pair[:40]}” is not a parameter")
    key, text = int(match[1]), match[2]
    if 0 <= key < IDS_MAX:
        return key, _number(text, layer)
    if not 0 <= ARRAY_BASE - key < IDS_MAX:
        raise layer.refuse(f"there is no parameter {key}")
    count, *items = text.split(",")
    if not _COUNT.fullmatch(count) or int(count) != len(items) or len(items) > ARRAY_MAX:
        raise layer.refuse(f"the list of parameter {ARRAY_BASE - key} is not as long as it says")
    return ARRAY_BASE - key, tuple(_number(item, layer) for item in items)


def _number(text: str, layer: Layer) -> Number:
    if len(text) <= VALUE_CHARACTERS_MAX:
        if _WHOLE.fullmatch(text):
            return int(text)
        if _FRACTION.fullmatch(text):
            return float(text)
    raise layer.refuse(f"“{text[:40]}” is not a number")


def _blobs(layers: tuple[Layer, ...]) -> int:
    """How many there are. ncnn frees a blob once it is used: whoever came second would read freed memory."""
    made: set[str] = set()
    used: set[str] = set()
    for layer in layers:
        for blob in layer.bottoms:
            if blob not in made:
                raise layer.refuse(f"the blob {blob[:40]} is not made before it is used")
            if blob in used:
                raise layer.refuse(f"the blob {blob[:40]} is used twice without a Split")
            used.add(blob)
        for blob in layer.tops:
            if blob in made:
                raise layer.refuse(f"the blob {blob[:40]} is made twice")
            made.add(blob)
    return len(made)
