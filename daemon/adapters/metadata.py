"""
Metadata: what is kept of a source's EXIF, XMP, IPTC and profile while its pixels are away, and is made true again.

Pure: blocks of bytes in, blocks of bytes out. What is damaged or far too large is left out, with a sentence that says
so. XMP is changed as text: to take it apart as XML would rename what others put into it.
"""

import re
import zlib
from dataclasses import dataclass, replace

from daemon.adapters import exif

XMP_BYTES_MAX = 4 << 20
BLOCK_BYTES_MAX = 7_000_000  # libpng reads no larger ones
IPTC_RESOURCE = b"8BIM\x04\x04"
PHOTOSHOP = b"Photoshop 3.0\0"
RAW_IPTC = "Raw profile type iptc"
RAW_EXIF = ("Raw profile type exif", "Raw profile type APP1")  # before there was eXIf
NAME = rb"[A-Za-z_][\w.-]*"
# Where a picture was taken; a small copy of it; and what points at a second block, which is not kept.
GPS = rb":GPS[A-Za-z]*"
THUMBNAILS = rb":Thumbnails"
EXTENDED = rb":HasExtendedXMP"


@dataclass(frozen=True, slots=True)
class Metadata:
    """icc: a profile. exif: without "Exif" in front. xmp: a packet. iptc: IIM records. Each b"" where there is none."""

    icc: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""

    def __bool__(self) -> bool:
        return any((self.icc, self.exif, self.xmp, self.iptc))


def kept(raw: Metadata, strip_gps: bool = False) -> tuple[Metadata, list[str]]:
    """What of a source's blocks goes on with the upright picture, and what has to be said about the rest."""
    warnings = []
    found = {}
    block = raw.exif.removeprefix(exif.HEAD)
    found["exif"] = (exif.cleaned(block, strip_gps) if len(block) <= BLOCK_BYTES_MAX else None) if block else b""
    found["xmp"] = _clean_xmp(raw.xmp, strip_gps) if raw.xmp else b""
    found["iptc"] = _iptc(raw.iptc) if raw.iptc else b""
    if re.search(EXTENDED, raw.xmp):
        warnings.append("The second part of the picture's XMP data was left out.")
    for name, data in found.items():
        if data is None:
            warnings.append(f"The picture's {name.upper()} data is damaged and was left out.")
    icc = raw.icc
    if len(icc) > BLOCK_BYTES_MAX:
        icc = b""
        warnings.append("The picture's colour profile is far too large and was left out.")
    return Metadata(icc, *(found[name] or b"" for name in ("exif", "xmp", "iptc"))), warnings


def sized(metadata: Metadata, width: int, height: int) -> Metadata:
    """The same for a picture of that size."""
    xmp = metadata.xmp
    for name, value in {
        b"exif:PixelXDimension": width,
        b"exif:PixelYDimension": height,
        b"tiff:ImageWidth": width,
        b"tiff:ImageLength": height,
    }.items():
        xmp = _set(xmp, name, b"%d" % value)
    block = exif.sized(metadata.exif, width, height) if metadata.exif else b""
    return replace(metadata, exif=block, xmp=xmp)


# XMP


def _clean_xmp(packet: bytes, strip_gps: bool) -> bytes | None:
    packet = packet.rstrip(b"\0")
    if len(packet) > XMP_BYTES_MAX or b"\0" in packet or b"<" not in packet:
        return None
    for name in [EXTENDED, THUMBNAILS, *([GPS] if strip_gps else [])]:
        left = _without(packet, name)
        if left is None:
            return None
        packet = left
    return _set(packet, b"tiff:Orientation", b"1")


def _without(packet: bytes, name: bytes) -> bytes | None:
    """Without the properties of that name, attributes or elements, of any prefix; None where it is unclear."""
    packet = re.sub(rb"\s" + NAME + name + rb"""\s*=\s*("[^"]*"|'[^']*')""", b"", packet)
    begin = re.compile(b"<(" + NAME + name + rb")(?=[\s/>])")
    parts, at = [], 0
    while found := begin.search(packet, at):
        parts.append(packet[at : found.start()])
        head = packet.find(b">", found.end())
        if head < 0:
            return None
        if packet[head - 1 : head] == b"/":
            at = head + 1
            continue
        close = packet.find(b"</" + found[1] + b">", head)
        if close < 0:
            return None
        at = close + len(found[1]) + 3
    packet = b"".join(parts) + packet[at:]
    return None if re.search(name + rb"\s*([=>/]|$)", packet) else packet


def _set(packet: bytes, name: bytes, value: bytes) -> bytes:
    """Give a simple property another value, where it is there."""
    packet = re.sub(b"(\\s" + name + rb"\s*=\s*[\"'])[^\"'<>]*", rb"\g<1>" + value, packet)
    return re.sub(b"(<" + name + rb">)[^<>]*(?=</" + name + b">)", rb"\g<1>" + value, packet)


# IPTC


def _iptc(block: bytes) -> bytes | None:
    """The IIM records alone: Photoshop keeps thumbnails, and copies of EXIF and XMP, beside them."""
    if not block.startswith(PHOTOSHOP):
        return block if block[:1] == b"\x1c" else None
    at = len(PHOTOSHOP)
    while block[at : at + 4] == b"8BIM":
        name = at + 6
        size = name + (block[name] // 2 + 1) * 2 if name < len(block) else len(block)
        length = int.from_bytes(block[size : size + 4], "big")
        body = block[size + 4 : size + 4 + length]
        if len(body) != length:
            return None
        if block[at:].startswith(IPTC_RESOURCE):
            return body
        at = size + 4 + length + length % 2
    return b""


def photoshop(iptc: bytes) -> bytes:
    """IIM records as a JPEG's segment has them."""
    return PHOTOSHOP + IPTC_RESOURCE + b"\0\0" + len(iptc).to_bytes(4, "big") + iptc + b"\0" * (len(iptc) % 2)


def raw_profile(iptc: bytes) -> bytes:
    """IIM records as the body of a PNG's zTXt, the way ImageMagick began and ExifTool reads."""
    body = photoshop(iptc)[len(PHOTOSHOP) :]
    digits = body.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return RAW_IPTC.encode() + b"\0\0" + zlib.compress(f"\niptc\n{len(body):8}\n{lines}\n".encode())


def from_raw_profile(text: str) -> bytes:
    """The block in such a text, or b""."""
    try:
        block = bytes.fromhex("".join(text.split()[2:]))
    except ValueError:
        return b""
    return PHOTOSHOP + block if block.startswith(b"8BIM") else block
