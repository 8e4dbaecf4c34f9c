"""
Colours: what a PNG's gAMA and cHRM say of its colours, as an ICC profile.

They are an older way to say the same, browsers go by them, and without them a picture is too dark or too pale. As a
profile they are kept and converted as any other, in all formats. Older than them and stronger: an embedded profile,
`sRGB`, `cICP`. Values that cannot be meant count as none. Pure, but for reading the file.
"""

import contextlib
import struct
from typing import Any, BinaryIO

from daemon.adapters import chunks, pixels

GAMMA, SRGB_GAMMA, GAMMA_SLACK = 100_000, 45_455, 1_000
GAMMA_MIN, GAMMA_MAX = 20_000, 200_000
# White, red, green and blue: x and y, in hundred thousandths.
SRGB = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
PRIMARIES_SLACK = 300
D50 = (0.9642, 1.0, 0.8249)
BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]


Said = tuple[bytes, bytes]  # the bodies of gAMA and cHRM, as far as they count


def said(file: BinaryIO) -> Said:
    """What a file says; nothing where it is no PNG."""
    found = {b"gAMA": b"", b"cHRM": b""}
    with contextlib.suppress(chunks.Misbuilt):
        for kind, length in chunks.png_chunks(file):
            if kind in (b"sRGB", b"cICP", b"iCCP"):
                return b"", b""
            if kind == b"IDAT":
                break
            if kind in found and length == (4 if kind == b"gAMA" else 32):
                found[kind] = file.read(8 + length)[8:]
    return found[b"gAMA"], found[b"cHRM"]


def with_profile(image: Any, told: Said) -> Any:
    """The picture, with the profile that this comes to."""
    profile = profile_of(*told, grey=pixels.bands_of(image) == 1) if any(told) else b""
    if profile:
        image = image.copy()
        image.set_type(pixels.vips().GValue.blob_type, pixels.ICC, profile)
    return image


def profile_of(gamma: bytes, primaries: bytes, *, grey: bool) -> bytes:
    """A profile for the bodies of the two chunks; b"" where they say nothing that is not so anyway."""
    exponent = struct.unpack(">I", gamma)[0] if gamma else SRGB_GAMMA
    points = struct.unpack(">8I", primaries) if primaries else SRGB
    if not GAMMA_MIN <= exponent <= GAMMA_MAX:
        return b""
    as_srgb = all(abs(ours - theirs) <= PRIMARIES_SLACK for ours, theirs in zip(points, SRGB, strict=True))
    if abs(exponent - SRGB_GAMMA) <= GAMMA_SLACK and (as_srgb or grey):
        return b""
    try:
        columns = _columns(points)
    except ZeroDivisionError:
        return b""
    if max(abs(value) for column in columns for value in column) > 2:
        return b""
    return _icc(round(256 * GAMMA / exponent), () if grey else columns)


def _columns(points: tuple[int, ...]) -> tuple[Vector, Vector, Vector]:
    """Red, green and blue in XYZ, as they look under D50."""
    white, *primaries = (_xyz(points[n] / GAMMA, points[n + 1] / GAMMA) for n in range(0, 8, 2))
    red, green, blue = primaries
    shares = _times(_inverse(_turned((red, green, blue))), white)
    ours, theirs = _times(BRADFORD, white), _times(BRADFORD, D50)
    adapted = []
    for primary, share in zip(primaries, shares, strict=True):
        cones = _times(BRADFORD, (primary[0] * share, primary[1] * share, primary[2] * share))
        scaled = (cones[0] * theirs[0] / ours[0], cones[1] * theirs[1] / ours[1], cones[2] * theirs[2] / ours[2])
        adapted.append(_times(_inverse(BRADFORD), scaled))
    return adapted[0], adapted[1], adapted[2]


def _xyz(x: float, y: float) -> Vector:
    return x / y, 1.0, (1 - x - y) / y


def _times(matrix: Matrix, vector: Vector) -> Vector:
    first, second, third = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return first, second, third


def _turned(matrix: Matrix) -> Matrix:
    first, second, third = zip(*matrix, strict=True)
    return first, second, third


def _cross(one: Vector, other: Vector) -> Vector:
    return (
        one[1] * other[2] - one[2] * other[1],
        one[2] * other[0] - one[0] * other[2],
        one[0] * other[1] - one[1] * other[0],
    )


def _inverse(matrix: Matrix) -> Matrix:
    first, second, third = matrix
    columns = (_cross(second, third), _cross(third, first), _cross(first, second))
    determinant = sum(a * b for a, b in zip(first, columns[0], strict=True))
    rows = _turned(columns)
    return (
        (rows[0][0] / determinant, rows[0][1] / determinant, rows[0][2] / determinant),
        (rows[1][0] / determinant, rows[1][1] / determinant, rows[1][2] / determinant),
        (rows[2][0] / determinant, rows[2][1] / determinant, rows[2][2] / determinant),
    )


def _icc(exponent: int, columns: tuple[Vector, ...]) -> bytes:
    """A profile of version 2. exponent: in 256ths. columns: of red, green and blue; none for grey."""
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, exponent)
    name = b"As the PNG's gAMA and cHRM said\0"
    tags = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)),
        (b"cprt", b"text\0\0\0\0No copyright\0"),
        (b"wtpt", _point(D50)),
    ]
    for letter, column in zip((b"r", b"g", b"b"), columns, strict=False):
        tags += [(letter + b"XYZ", _point(column)), (letter + b"TRC", curve)]
    if not columns:
        tags.append((b"kTRC", curve))
    table, body, begin = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for tag, data in tags:
        table += tag + struct.pack(">II", begin + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    space = b"RGB " if columns else b"GRAY"
    head = struct.pack(">I4sI4s4s4s", 128 + len(table + body), b"none", 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _point(D50)[8:] + bytes(48)
    return head + table + body


def _point(values: Vector) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)
