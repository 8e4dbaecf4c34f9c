"""
TIFF: what stands before and after the plain pixels of a picture to make them a file that can be read strip by strip.

BigTIFF, little-endian, uncompressed, colours and alpha side by side, alpha not multiplied in. Pure.
"""

import struct
import sys

# Where the pixels begin: after the header.
DATA = 16
STRIP_ROWS = 8

SHORT, LONG, LONG8 = 3, 4, 16
CODES = {SHORT: "H", LONG: "I", LONG8: "Q"}

assert sys.byteorder == "little", "the pixels are written as they are in memory"


def frame(width: int, height: int, colours: int, has_alpha: bool, sample_bytes: int) -> tuple[bytes, bytes]:
    """The bytes before the pixels, and those after. colours: 1 or 3. sample_bytes: 1 or 2."""
    bands = colours + has_alpha
    row = width * bands * sample_bytes
    strips = range(0, height, STRIP_ROWS)
    offsets = [DATA + first * row for first in strips]
    sizes = [min(STRIP_ROWS, height - first) * row for first in strips]
    fields = [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [8 * sample_bytes] * bands),
        (259, SHORT, [1]),  # not compressed
        (262, SHORT, [2 if colours == 3 else 1]),  # RGB, or grey whose 0 is black
        (273, LONG8, offsets),
        (277, SHORT, [bands]),
        (278, LONG, [STRIP_ROWS]),
        (279, LONG8, sizes),
        (284, SHORT, [1]),  # side by side
        *([(338, SHORT, [2])] if has_alpha else []),  # not multiplied in
    ]
    directory = DATA + height * row
    values = directory + 8 + 20 * len(fields) + 8
    entries, tables = b"", b""
    for tag, kind, numbers in fields:
        packed = struct.pack(f"<{len(numbers)}{CODES[kind]}", *numbers)
        if len(packed) <= 8:
            place = packed.ljust(8, b"\0")
        else:
            place = struct.pack("<Q", values + len(tables))
            tables += packed
        entries += struct.pack("<HHQ", tag, kind, len(numbers)) + place
    start = struct.pack("<2sHHHQ", b"II", 43, 8, 0, directory)
    return start, struct.pack("<Q", len(fields)) + entries + bytes(8) + tables
