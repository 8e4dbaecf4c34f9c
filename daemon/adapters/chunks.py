"""
Chunks: PNG, JPEG and WebP files as the parts that they are made of, without a look at their pixels.

`scrubbed` copies a file without all that is not needed to decode it; `png_*`, `jpeg_*` and `webp_*` make and find
parts. A file that is not built as its format says raises Misbuilt; nothing else but OSError gets out.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
PNG_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
PNG_BANDS = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}
JPEG_HEAD, JPEG_END = b"\xff\xd8", b"\xff\xd9"
SOS, APP0, APP14, APP15, COM = 0xDA, 0xE0, 0xEE, 0xEF, 0xFE
RESTARTS = range(0xD0, 0xD8)
WEBP_NEEDED = (b"VP8X", b"ALPH", b"VP8 ", b"VP8L")
WEBP_ICC, WEBP_ALPHA, WEBP_EXIF, WEBP_XMP = 0x20, 0x10, 0x08, 0x04
BLOCK = 1 << 16


class Misbuilt(Exception):
    """The file is not built as its format says."""


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise Misbuilt
    return data


def copy_bytes(source: BinaryIO, target: BinaryIO, count: int) -> None:
    """Copy so many bytes from where a file stands."""
    while count:
        block = _exactly(source, min(count, BLOCK))
        target.write(block)
        count -= len(block)


def held_bytes(file: BinaryIO) -> float:
    """Bytes for each pixel that a decoder holds of the whole picture at once; 0 where it goes line by line."""
    file.seek(0)
    head = file.read(29)
    if head.startswith(PNG_HEAD):
        return PNG_BANDS.get(head[25], 4) * max(1, head[24] // 8) if head[28:] == b"\1" else 0
    if head.startswith(b"RIFF"):
        return 4
    if head.startswith(JPEG_HEAD):
        with contextlib.suppress(Misbuilt):
            return _progressive_bytes(file)
    return 0


def scrubbed(source: Path, target: Path, format_: str) -> None:
    """Copy what decodes to the same pixels, and nothing else: no metadata, no comments, nothing behind the end."""
    with source.open("rb") as file, target.open("wb") as copy:
        {"PNG": _scrub_png, "JPEG": _scrub_jpeg, "WEBP": _scrub_webp}[format_](file, copy)


# PNG


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A whole chunk, with its length and its check sum."""
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big")


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk up to IEND; the file stands at its length field. Who reads on seeks back."""
    file.seek(0)
    if file.read(len(PNG_HEAD)) != PNG_HEAD:
        raise Misbuilt
    kind, at = b"", len(PNG_HEAD)
    while kind != b"IEND":
        file.seek(at)
        length, kind = struct.unpack(">I4s", _exactly(file, 8))
        file.seek(at)
        yield kind, length
        at += length + 12


def is_animated_png(file: BinaryIO) -> bool:
    """Whether it is a PNG, and says that it has more than one frame."""
    with contextlib.suppress(Misbuilt):
        for kind, length in png_chunks(file):
            if kind == b"acTL" and length == 8:
                return int.from_bytes(_exactly(file, 12)[8:], "big") > 1
            if kind in (b"IDAT", b"IEND"):
                break
    return False


def _scrub_png(source: BinaryIO, target: BinaryIO) -> None:
    target.write(PNG_HEAD)
    for kind, length in png_chunks(source):
        if kind in PNG_NEEDED:
            copy_bytes(source, target, length + 12)
        elif not kind[0] & 0x20:
            raise Misbuilt  # It is needed, and nobody knows what for.


# JPEG


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """A whole segment, with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _progressive_bytes(file: BinaryIO) -> float:
    """Bytes for each pixel of a progressive JPEG, which is decoded whole; 0 for others."""
    file.seek(2)
    while True:
        marker = _marker(file)
        if marker in (SOS, 0xD9):
            return 0
        body = _exactly(file, max(0, int.from_bytes(_exactly(file, 2), "big") - 2))
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            sampled = [(part >> 4) * (part & 15) for part in body[7::3]]
            return 2 * sum(sampled) / max([1, *sampled]) if marker in (0xC2, 0xC6, 0xCA, 0xCE) else 0


def _marker(file: BinaryIO) -> int:
    """The next marker, which has to stand here; bytes of filling before it are passed over."""
    if _exactly(file, 1) != b"\xff":
        raise Misbuilt
    while (marker := _exactly(file, 1)) == b"\xff":
        pass
    return marker[0]


def _scrub_jpeg(source: BinaryIO, target: BinaryIO) -> None:
    if source.read(2) != JPEG_HEAD:
        raise Misbuilt
    target.write(JPEG_HEAD)
    while (marker := _marker(source)) != 0xD9:
        length = int.from_bytes(_exactly(source, 2), "big")
        if length < 2:
            raise Misbuilt
        body = _jpeg_kept(marker, _exactly(source, length - 2))
        if body is not None:
            target.write(jpeg_segment(marker, body))
        if marker == SOS:
            _copy_scan(source, target)
    target.write(JPEG_END)


def _jpeg_kept(marker: int, body: bytes) -> bytes | None:
    """A segment's body as far as it is needed, or None."""
    if marker == APP0:
        # Version and density say how to decode; a thumbnail may follow them.
        return body[:12] + b"\0\0" if body.startswith(b"JFIF\0") and len(body) >= 12 else None
    if marker == APP14:
        return body[:12] if body.startswith(b"Adobe") and len(body) >= 12 else None
    return None if APP0 <= marker <= APP15 or marker == COM else body


def _copy_scan(source: BinaryIO, target: BinaryIO) -> None:
    """Copy compressed data; the file is left at the marker that ends it."""
    while block := source.read(BLOCK):
        at = 0
        while (at := block.find(b"\xff", at)) >= 0:
            if at + 1 == len(block):
                following = source.read(1)
                if not following:
                    raise Misbuilt
                block += following
            if block[at + 1] and block[at + 1] not in RESTARTS:
                target.write(block[:at])
                source.seek(at - len(block), 1)
                return
            at += 2
        target.write(block)
    raise Misbuilt


# WebP


def webp_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk; the file stands at its body. Who reads on need not seek back."""
    file.seek(0)
    riff, size, webp = struct.unpack("<4sI4s", _exactly(file, 12))
    if (riff, webp) != (b"RIFF", b"WEBP"):
        raise Misbuilt
    at, end = 12, size + 8
    while at + 8 <= end:
        file.seek(at)
        kind, length = struct.unpack("<4sI", _exactly(file, 8))
        if at + 8 + length > end:
            raise Misbuilt
        yield kind, length
        at += 8 + length + length % 2


def webp_parts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each chunk of a whole file."""
    file = io.BytesIO(data)
    for kind, length in webp_chunks(file):
        yield kind, _exactly(file, length)


def webp_chunk(kind: bytes, body: bytes) -> bytes:
    """A whole chunk, with its length and what fills it up."""
    return struct.pack("<4sI", kind, len(body)) + body + b"\0" * (len(body) % 2)


def _scrub_webp(source: BinaryIO, target: BinaryIO) -> None:
    target.write(b"RIFF\0\0\0\0WEBP")
    for kind, length in webp_chunks(source):
        if kind == b"VP8X":
            body = bytearray(_exactly(source, length))
            if len(body) < 10:
                raise Misbuilt
            body[0] &= ~(WEBP_ICC | WEBP_EXIF | WEBP_XMP)
            target.write(webp_chunk(kind, bytes(body[:10])))
        elif kind in WEBP_NEEDED:
            target.write(struct.pack("<4sI", kind, length))
            copy_bytes(source, target, length)
            target.write(b"\0" * (length % 2))
    size = target.tell() - 8
    target.seek(4)
    target.write(size.to_bytes(4, "little"))
