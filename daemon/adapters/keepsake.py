"""
Keepsake: what a result gets back from its source, in one file of our own, since the source may be gone by then.

A ZIP file with a member for each block that there is, so that a person can look into it: `icc`, `exif`, `xmp`, `iptc`
and `alpha.png` (of the upright source, in its own size). An empty one is fine. A damaged one is the house's fault.
"""

import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.adapters import pixels
from daemon.adapters.metadata import RAW_IPTC, Metadata, from_raw_profile
from daemon.rules.faults import Blame, Fault, Gate

ALPHA = "alpha.png"
NAMES = ("icc", "exif", "xmp", "iptc")


@dataclass(frozen=True, slots=True)
class Keepsake:
    """alpha: a PNG of the transparency alone, or b""."""

    metadata: Metadata = field(default_factory=Metadata)
    alpha: bytes = b""


def blocks(image: Any) -> Metadata:
    """A picture's metadata as it is."""
    found = {
        name: bytes(image.get(f"{name}-data")) if image.get_typeof(f"{name}-data") else b""
        for name in ("exif", "xmp", "iptc")
    }
    for name in image.get_fields():
        if name.startswith("png-comment-") and name.endswith(RAW_IPTC):
            found["iptc"] = from_raw_profile(str(image.get(name)))
    return Metadata(pixels.profile(image), **found)


def write(path: Path, keepsake: Keepsake) -> None:
    """Write it whole; what was there goes. Raises OSError."""
    blocks = {name: getattr(keepsake.metadata, name) for name in NAMES} | {ALPHA: keepsake.alpha}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in blocks.items():
            if data:
                # Without a date: the same source has the same keepsake.
                packing = zipfile.ZIP_STORED if name == ALPHA else zipfile.ZIP_DEFLATED
                file.writestr(zipfile.ZipInfo(name), data, packing)


def read(path: Path) -> Keepsake:
    """What was kept. Raises Fault where it is not what was written."""
    try:
        with zipfile.ZipFile(path) as file:
            blocks = {name: file.read(name) for name in file.namelist()}
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise Fault(
            "What was kept of the picture for its result is gone or damaged.", blame=Blame.HOUSE, gate=Gate.STAGING
        ) from error
    return Keepsake(Metadata(*(blocks.get(name, b"") for name in NAMES)), blocks.get(ALPHA, b""))
