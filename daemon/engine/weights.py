"""
Weights: whether a `.bin` file is what its `.param` needs, to the byte; and how one is written.

ncnn reads weights one after another and never looks at the end: a file that is too long, or full of 0xff, loads and
gives nonsense, and one that is too short may end the process. So every piece is walked here first, and every number
must be one. Memory: the largest piece. Raises `ModelError`; the system's own errors come as they are.
"""

import io
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from daemon.engine.layers import Piece
from daemon.engine.model import ModelError, extra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FP32_TAG = 0
FP16_TAG = 0x01306B47
INT8_TAG = 0x000D4B38
TAG_BYTES = 4
ALIGN_BYTES = 4
FP16_BITS, FP16_INFINITE = 0x7FFF, 0x7C00  # all but the sign; from here on it is no finite number
LARGEST = 1e6  # weights of networks are far below; what is above is noise read as numbers


def open_regular(path: Path) -> io.BufferedReader:
    """A file for reading, never a pipe or a device, which would hang or have no end. Raises ModelError, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelError(f"{path} is not a regular file.")
    return os.fdopen(descriptor, "rb")


def check(path: Path, pieces: Iterable[Piece]) -> None:
    """Walk a `.bin` from beginning to end."""
    with open_regular(path) as file:
        check_open(file, os.fstat(file.fileno()).st_size, path.name, pieces)


def check_open(file: BinaryIO, size: int, name: str, pieces: Iterable[Piece]) -> None:
    """Likewise, for a file that is open at its beginning, or bytes. size: of all of it. name: for a person."""
    if size == 0:
        raise ModelError(f"{name} is empty.")
    something, left = False, size
    for piece in pieces:
        data, half = _read(file, piece, left, name)
        left = size - file.tell()
        something |= _look_at(data, piece, half, name)
    if left:
        raise ModelError(f"{name} has {left} bytes more than its .param needs; they do not belong together.")
    if not something:
        raise ModelError(f"{name} holds nothing but zeros; copy it again.")


def _look_at(data: bytes, piece: Piece, half: bool, name: str) -> bool:
    """Every number must be a weight; whether there is anything but zeros."""
    with extra():
        import numpy as np
    if half:
        bits = np.frombuffer(data, "<u2", piece.count) & FP16_BITS
        fine, something = int(bits.max()) < FP16_INFINITE, bool(bits.any())
    else:
        numbers = np.frombuffer(data, "<f4", piece.count)
        # What is not a number lies between nothing.
        fine, something = bool(numbers.min() >= -LARGEST and numbers.max() <= LARGEST), bool(numbers.any())
    if not fine:
        raise ModelError(
            f"{name} holds what is no weight (in {piece.layer[:40]}); it is damaged, or not this .param's."
        )
    return something


def _is_half(tag: bytes, piece: Piece, name: str) -> bool:
    if len(tag) < TAG_BYTES:
        raise _short(name)
    flag = int.from_bytes(tag, "little")
    if flag == INT8_TAG:
        raise ModelError(f"{name} has weights of 8 bits; only those of 16 and 32 bits (fp16, fp32) are read here.")
    if flag not in (FP16_TAG, FP32_TAG):
        raise ModelError(
            f"{name} has weights stored in a way not known here (at {piece.layer[:40]}); it is damaged, or not this "
            ".param's."
        )
    return flag == FP16_TAG


def _read(file: BinaryIO, piece: Piece, left: int, name: str) -> tuple[bytes, bool]:
    """A piece's bytes without its tag, and whether they are fp16."""
    half = piece.flagged and _is_half(file.read(TAG_BYTES), piece, name)
    length = _aligned(piece.count * (2 if half else 4))
    # Asked for by a .param that may lie: no more is set aside than is there.
    data = file.read(length) if length <= left else b""
    if len(data) < length:
        raise _short(name)
    return data, half


def _short(name: str) -> ModelError:
    return ModelError(f"{name} is shorter than its .param needs; it may be cut off, copy it again.")


def _aligned(length: int) -> int:
    return -(-length // ALIGN_BYTES) * ALIGN_BYTES


def packed(weights: "NDArray[np.float32]", *, flagged: bool, name: str) -> bytes:
    """A piece as it lies in a `.bin`: fp16 where it has a tag, else fp32. name: for a person, should it not fit."""
    with extra():
        import numpy as np
    if not (np.abs(weights) <= np.finfo(np.float16).max).all():
        raise ModelError(f"{name} holds numbers that are no weights; the file is damaged.")
    data = weights.astype("<f2" if flagged else "<f4").tobytes()
    tag = struct.pack("<I", FP16_TAG) if flagged else b""
    return tag + data + bytes(_aligned(len(data)) - len(data))
