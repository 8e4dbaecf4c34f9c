"""
Carrier: metadata put into a result's bytes, whoever wrote its pixels.

libvips takes EXIF apart and writes another one, and knows no IPTC in PNG; so it writes bare pixels, and the blocks go
in here as they are, while the bytes pass. A block that is too large for the format is left out, with a sentence.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from daemon.adapters import chunks, exif
from daemon.adapters.metadata import Metadata, photoshop, raw_profile

XMP_IN_PNG = b"XML:com.adobe.xmp\0\0\0\0\0"
XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
ICC_IN_JPEG = b"ICC_PROFILE\0"
SEGMENT_BYTES_MAX = 65_533
ICC_PART_BYTES = 65_519
ICC_PARTS_MAX = 255
PNG_INTRO = len(chunks.PNG_HEAD) + 25  # signature and IHDR
COLOURS = (b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP")
TEXTS = {b"iTXt": b"XML:com.adobe.xmp\0", b"zTXt": b"Raw profile type iptc\0"}


def fitting(metadata: Metadata, format_: str) -> tuple[Metadata, list[str]]:
    """What the format has room for, and what has to be said about the rest."""
    if format_ != "JPEG":
        return metadata, []
    room = SEGMENT_BYTES_MAX
    over = {
        "exif": len(exif.HEAD + metadata.exif) > room,
        "xmp": len(XMP_IN_JPEG + metadata.xmp) > room,
        "iptc": len(photoshop(metadata.iptc)) > room,
        "icc": len(metadata.icc) > ICC_PART_BYTES * ICC_PARTS_MAX,
    }
    dropped = [name for name, is_over in over.items() if is_over]
    warnings = [f"The picture's {name.upper()} data is too large for a JPEG and was left out." for name in dropped]
    return replace(metadata, **dict.fromkeys(dropped, b"")), warnings


def carried(metadata: Metadata, format_: str) -> bytes:
    """The blocks as parts of a PNG or a JPEG."""
    return (_png if format_ == "PNG" else _jpeg)(metadata)


def _png(metadata: Metadata) -> bytes:
    parts = []
    if metadata.icc:
        parts.append(chunks.png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(metadata.icc)))
    if metadata.exif:
        parts.append(chunks.png_chunk(b"eXIf", metadata.exif))
    if metadata.xmp:
        parts.append(chunks.png_chunk(b"iTXt", XMP_IN_PNG + metadata.xmp))
    if metadata.iptc:
        parts.append(chunks.png_chunk(b"zTXt", raw_profile(metadata.iptc)))
    return b"".join(parts)


def _jpeg(metadata: Metadata) -> bytes:
    parts = []
    if metadata.exif:
        parts.append(chunks.jpeg_segment(0xE1, exif.HEAD + metadata.exif))
    if metadata.xmp:
        parts.append(chunks.jpeg_segment(0xE1, XMP_IN_JPEG + metadata.xmp))
    icc = [metadata.icc[at : at + ICC_PART_BYTES] for at in range(0, len(metadata.icc), ICC_PART_BYTES)]
    for number, part in enumerate(icc, 1):
        parts.append(chunks.jpeg_segment(0xE2, ICC_IN_JPEG + bytes([number, len(icc)]) + part))
    if metadata.iptc:
        parts.append(chunks.jpeg_segment(0xED, photoshop(metadata.iptc)))
    return b"".join(parts)


def _png_intro(data: bytes) -> int | None:
    return PNG_INTRO if len(data) >= PNG_INTRO else None


def _jpeg_intro(data: bytes) -> int | None:
    """Behind the JFIF segment, where there is one."""
    if len(data) < 6:
        return None
    end = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    return end if len(data) >= end else None


class Inserting:
    """Bytes on their way into a file, with others put in behind the format's first part."""

    def __init__(self, file: BinaryIO, parts: bytes, format_: str) -> None:
        self._file = file
        self._parts = parts
        self._intro: Callable[[bytes], int | None] = _png_intro if format_ == "PNG" else _jpeg_intro
        self._head: bytes | None = b""
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Take some; -1 where that failed, and then `error` says why."""
        try:
            if self._head is None:
                self._file.write(data)
                return len(data)
            self._head += bytes(data)
            at = self._intro(self._head)
            if at is not None:
                self._file.write(self._head[:at] + self._parts)
                self._file.write(self._head[at:])
                self._head = None
        except OSError as error:
            self.error = error
            return -1
        return len(data)


def insert_png(source: Path, metadata: Metadata, target: Path) -> None:
    """Copy a PNG with its compressed pixels as they are. What it says of the same things itself is left out."""
    with source.open("rb") as file, target.open("wb") as copy:
        copy.write(chunks.PNG_HEAD)
        for kind, length in chunks.png_chunks(file):
            if (metadata.icc and kind in COLOURS) or (metadata.exif and kind == b"eXIf"):
                continue
            if kind in TEXTS and _is_double(file, TEXTS[kind], metadata.xmp if kind == b"iTXt" else metadata.iptc):
                continue
            chunks.copy_bytes(file, copy, length + 12)
            if kind == b"IHDR":
                copy.write(_png(metadata))


def _is_double(file: BinaryIO, name: bytes, block: bytes) -> bool:
    """Whether the chunk that begins here tells what a block of ours tells."""
    head = file.read(8 + len(name))
    file.seek(-len(head), 1)
    return bool(block) and head[8:] == name


def webp(data: bytes, metadata: Metadata, size: tuple[int, int], alpha: bool) -> bytes:
    """A WebP of libvips with the blocks put in."""
    if not metadata:
        return data
    pixels = list(chunks.webp_parts(data))
    flags = (
        (chunks.WEBP_ICC if metadata.icc else 0)
        | (chunks.WEBP_EXIF if metadata.exif else 0)
        | (chunks.WEBP_XMP if metadata.xmp else 0)
        | (chunks.WEBP_ALPHA if alpha else 0)
    )
    head = bytes([flags, 0, 0, 0]) + b"".join((side - 1).to_bytes(3, "little") for side in size)
    parts = [chunks.webp_chunk(b"VP8X", head)]
    if metadata.icc:
        parts.append(chunks.webp_chunk(b"ICCP", metadata.icc))
    parts += [chunks.webp_chunk(kind, body) for kind, body in pixels if kind != b"VP8X"]
    if metadata.exif:
        parts.append(chunks.webp_chunk(b"EXIF", metadata.exif))
    if metadata.xmp:
        parts.append(chunks.webp_chunk(b"XMP ", metadata.xmp))
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
