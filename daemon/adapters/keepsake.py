"""
Keepsake: what a result gets back from its source, in one file of our own, since the source may be gone by then.

A ZIP file with a member for each block that there is, so that a person can look into it: `icc`, `exif`, `xmp`, `iptc`,
`alpha.png` (of the upright source, in its own size), and `warnings`, a sentence a line. An empty one is fine. One that
is damaged, or lost, is none: the result was paid for, and the picture that it was kept of may be gone. Only an error
that passes is a house fault.
"""

import errno
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.adapters import exif, pixels
from daemon.adapters.disk_faults import LOST, in_staging
from daemon.adapters.metadata import RAW_EXIF, RAW_IPTC, Metadata, from_raw_profile

ALPHA, WARNINGS = "alpha.png", "warnings"
NAMES = ("icc", "exif", "xmp", "iptc")
# A place that does not exist is where a damaged table of contents leads to.
DAMAGED = {None, errno.EINVAL, *LOST}


@dataclass(frozen=True, slots=True)
class Keepsake:
    """alpha: a PNG of the transparency alone, or b"". warnings: what the result's sidecar has to say of the source."""

    metadata: Metadata = field(default_factory=Metadata)
    alpha: bytes = b""
    warnings: tuple[str, ...] = ()


def blocks(image: Any) -> Metadata:
    """A picture's metadata as it is."""
    found = {
        name: bytes(image.get(f"{name}-data")) if image.get_typeof(f"{name}-data") else b""
        for name in ("exif", "xmp", "iptc")
    }
    for name in image.get_fields():
        if name.startswith("png-comment-") and "Raw profile type " in name:
            raw = from_raw_profile(str(image.get(name)))
            if name.endswith(RAW_IPTC):
                found["iptc"] = raw
            elif name.endswith(RAW_EXIF) and raw.startswith(exif.HEAD):
                # Its orientation counts for nothing: neither libvips nor browsers go by it.
                found["exif"] = found["exif"] or raw
    return Metadata(pixels.profile(image), **found)


def write(path: Path, keepsake: Keepsake) -> None:
    """Write it whole; what was there goes. Raises OSError."""
    blocks = {name: getattr(keepsake.metadata, name) for name in NAMES} | {ALPHA: keepsake.alpha}
    blocks[WARNINGS] = "\n".join(keepsake.warnings).encode()
    with zipfile.ZipFile(path, "w") as file:
        # A damaged table of contents may leave members out.
        file.comment = _comment(blocks)
        for name, data in blocks.items():
            if data:
                # Without a date: the same source has the same keepsake.
                packing = zipfile.ZIP_STORED if name == ALPHA else zipfile.ZIP_DEFLATED
                file.writestr(zipfile.ZipInfo(name), data, packing)


def read(path: Path) -> Keepsake | None:
    """What was kept; None where it is not what was written. Raises Fault where it cannot be read now."""
    try:
        with zipfile.ZipFile(path) as file:
            blocks = {name: file.read(name) for name in file.namelist()}
            comment = file.comment
    except OSError as error:
        if error.errno in DAMAGED:
            return None
        raise in_staging(f"What was kept of a picture for its result cannot be read ({error.strerror}).") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError):
        return None
    if comment != _comment(blocks):
        return None
    warnings = blocks.get(WARNINGS, b"").decode().splitlines()
    return Keepsake(Metadata(*(blocks.get(name, b"") for name in NAMES)), blocks.get(ALPHA, b""), tuple(warnings))


def _comment(blocks: dict[str, bytes]) -> bytes:
    """What is in there."""
    return " ".join(sorted(name for name, data in blocks.items() if data)).encode()
