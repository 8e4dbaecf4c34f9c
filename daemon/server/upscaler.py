"""
Upscaler: the port behind which an engine makes pictures larger, and how a source picture is opened for it.

An engine either writes the whole result to `target` or raises `UpscaleError`; nothing else gets past it. It may be
cancelled at any moment and then stops soon. `open_picture` takes whole JPEG, PNG and WebP files and raises
`UpscaleError` for everything else, before any decoder has seen it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class UpscaleReport:
    """lines: what a person may want to know of the run, for the prediction's `logs`."""

    lines: tuple[str, ...] = ()


class UpscaleError(Exception):
    """A run that gave no result.

    text: a sentence for the client. retryable: whether the same request may do better later.
    code: for machines; follows from `retryable` where it is not given.
    """

    def __init__(self, text: str, retryable: bool, code: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.retryable = retryable
        self.code = code or ("PROVIDER_SERVER_ERROR" if retryable else "INVALID_INPUT")


class Upscaler(Protocol):
    """An engine. name: what it really is, shown wherever a result of its work is."""

    name: str

    async def upscale(self, source: Path, target: Path, scale: float, face_enhance: bool) -> UpscaleReport:
        """Write `source` (JPEG, PNG or WebP) enlarged by `scale` (> 0 to 10) to `target` as PNG."""


def loader_of(path: Path) -> str:
    """The name of libvips's loader for a picture, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(12)
    # The loader is chosen by us, so that no rarely tested one ever meets bytes from outside.
    if head.startswith(b"\xff\xd8\xff"):
        return "jpegload"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "pngload"
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "webpload"
    raise UpscaleError("The input is not a JPEG, PNG or WebP image", retryable=False)


def open_picture(path: Path) -> Any:
    """The picture as libvips has it, read once from top to bottom; damage shows when the pixels are read."""
    # Start-up without a picture does not pay for libvips.
    import pyvips

    loader = loader_of(path)
    try:
        return getattr(pyvips.Image, loader)(str(path), access="sequential", fail_on="warning")
    except pyvips.Error:
        raise UpscaleError("The input image could not be decoded", retryable=False) from None


def dimensions(path: Path) -> tuple[int, int]:
    """Width and height as the file's header has them; EXIF orientation is ignored."""
    picture = open_picture(path)
    return picture.width, picture.height
