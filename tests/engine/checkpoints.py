"""
Checkpoints for tests: files as `torch.save` writes them, made here byte by byte, without torch.

`Pickle` writes instruction by instruction as torch's own pickler does (protocol 2, a memo), so that a test can put any
hostile one in between.
"""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage"}


class Pickle:
    """A pickle that is being written. storages: what its tensors lie in, in the order of their keys, from `first`."""

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.code = bytearray(b"\x80\x02")
        self.storages: list[bytes] = []
        self._memo = 0

    def put(self) -> None:
        self.code += b"q" + bytes([self._memo]) if self._memo < 256 else b"r" + struct.pack("<I", self._memo)
        self._memo += 1

    def word(self, module: str, name: str) -> None:
        self.code += f"c{module}\n{name}\n".encode()
        self.put()

    def value(self, value: Any) -> None:
        match value:
            case None:
                self.code += b"N"
            case bool():
                self.code += b"\x88" if value else b"\x89"
            case int() if 0 <= value < 256:
                self.code += b"K" + bytes([value])
            case int() if -(2**31) <= value < 2**31:
                self.code += b"J" + struct.pack("<i", value)
            case int():
                data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
                self.code += b"\x8a" + bytes([len(data)]) + data
            case float():
                self.code += b"G" + struct.pack(">d", value)
            case str():
                self.code += b"X" + struct.pack("<I", len(value.encode())) + value.encode()
                self.put()
            case tuple():
                self.code += b"("
                for item in value:
                    self.value(item)
                self.code += b"t"
                self.put()
            case list():
                self.code += b"]"
                self.put()
                self.code += b"("
                for item in value:
                    self.value(item)
                self.code += b"e"
            case dict():
                self.code += b"}"
                self.put()
                self.items(value)
            case Raw():
                self.code += value.code
            case _:
                self.tensor(value)

    def items(self, value: dict[Any, Any]) -> None:
        self.code += b"("
        for key, item in value.items():
            self.value(key)
            self.value(item)
        self.code += b"u"

    def state(self, state: dict[str, Any]) -> None:
        """An OrderedDict with torch's `_metadata`, as `state_dict()` gives it."""
        self.ordered()
        self.items(state)
        self.code += b"}"
        self.put()
        self.value("_metadata")
        self.ordered()
        self.code += b"sb"

    def ordered(self) -> None:
        self.word("collections", "OrderedDict")
        self.code += b")R"
        self.put()

    def tensor(self, array: NDArray[Any], kind: str = "") -> None:
        """As it lies in memory: a view keeps its strides."""
        base = array if array.base is None else array.base
        offset = (array.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // array.itemsize
        strides = tuple(stride // array.itemsize for stride in array.strides)
        self.view(base.tobytes(), kind or KINDS[array.dtype.name], base.size, offset, array.shape, strides)

    def view(self, data: bytes, kind: str, count: int, offset: int, shape: Any, strides: Any) -> None:
        """A tensor, or what claims to be one."""
        self.word("torch._utils", "_rebuild_tensor_v2")
        self.code += b"(("
        self.value("storage")
        self.word("torch", kind)
        self.value(str(self.first + len(self.storages)))
        self.value("cpu")
        self.value(count)
        self.code += b"tQ"
        self.value(offset)
        self.value(shape)
        self.value(strides)
        self.code += b"\x89"
        self.ordered()
        self.code += b"tR"
        self.put()
        self.storages.append(data)

    def done(self) -> bytes:
        return bytes(self.code + b".")


class Raw:
    """Instructions in the place of a value."""

    def __init__(self, code: bytes) -> None:
        self.code = code


def save(path: Path, state: dict[str, Any], wrapper: str | None = "params_ema", **others: dict[str, Any]) -> Path:
    """A checkpoint with a state dict under `wrapper`, or bare, and others before it."""
    pickle = Pickle()
    if wrapper is None:
        pickle.state(state)
    else:
        pickle.code += b"}"
        pickle.put()
        pickle.code += b"("
        for name, each in {**others, wrapper: state}.items():
            pickle.value(name)
            pickle.state(each)
        pickle.code += b"u"
    return pack(path, pickle.done(), pickle.storages)


def pack(path: Path, contents: bytes, storages: list[bytes], root: str = "archive", first: int = 0) -> Path:
    """The container: nothing compressed, each entry under the folder `root`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as container:
        container.writestr(f"{root}/data.pkl", contents)
        for key, data in enumerate(storages, first):
            container.writestr(f"{root}/data/{key}", data)
        container.writestr(f"{root}/version", b"3\n")
    return path


def rrdb(blocks: int = 2, features: int = 8, growth: int = 4, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """A small RRDBNet x4 with random weights."""
    dice = np.random.default_rng(seed)
    state: dict[str, NDArray[np.float32]] = {}

    def add(key: str, inputs: int, outputs: int) -> None:
        kernel = dice.standard_normal((outputs, inputs, 3, 3)) / (3 * inputs**0.5)
        state[f"{key}.weight"] = kernel.astype(np.float16).astype(np.float32)  # what the converter keeps
        state[f"{key}.bias"] = (dice.standard_normal(outputs) * 0.1).astype(np.float32)

    add("conv_first", 3, features)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for number in range(1, 5):
                add(f"body.{block}.rdb{dense}.conv{number}", features + (number - 1) * growth, growth)
            add(f"body.{block}.rdb{dense}.conv5", features + 4 * growth, features)
    for key in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        add(key, features, features)
    add("conv_last", features, 3)
    return state
