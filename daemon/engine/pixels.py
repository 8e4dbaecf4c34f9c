"""
Pixels: a picture that comes in rows and leaves in tiles, with memory for some rows of it and no more.

`Source` reads from top to bottom, once; alpha is looked at beforehand in a pass of its own. `Canvas` collects finished
tiles in a file without a name on the target's disk, and writes the PNG from there. Raises `Unreadable`, `OSError` and
`Unwritable` where the disk fails, and `MemoryError`. Only the worker imports this.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from daemon.engine import tiff
from daemon.engine.protocol import LOADERS
from daemon.engine.resampling import resized
from daemon.engine.tiling import Span

Raw = NDArray[Any]  # (rows, columns, bands), 8 or 16 bits

FORMATS: dict[str, Any] = {"uchar": np.uint8, "ushort": np.uint16}
# What grey is made of, as the hosted model's own code has it.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# A result of this many megapixels takes as long to pack hard as to compute; the files differ by a few per cent.
PNG_COMPRESSION = 3
# How libvips and its decoders say that.
NO_MEMORY = re.compile("out of memory|insufficient memory", re.IGNORECASE)


class Unreadable(Exception):
    """The picture is damaged."""


class Unwritable(Exception):
    """The result could not be written."""


@contextmanager
def _failing_as(kind: type[Exception]) -> Iterator[None]:
    """What libvips cannot do is the file's fault, but not where there was no memory for it."""
    try:
        yield
    except pyvips.Error as error:
        raise (MemoryError if NO_MEMORY.search(str(error)) else kind) from None


class Source:
    """A picture's rows. colours: 1 or 3. alpha: what each pixel of the alpha channel has, None where they differ.

    has_alpha: whether there is such a channel. full: the value of white.
    """

    def __init__(self, path: str, loader: str) -> None:
        picture = _opened(path, loader)
        self.width: int = picture.width
        self.height: int = picture.height
        self.has_alpha: bool = picture.hasalpha()
        self.colours: int = picture.bands - self.has_alpha
        self.format: str = picture.format
        self.interpretation: str = picture.interpretation
        self.dtype = FORMATS[self.format]
        self.full = int(np.iinfo(self.dtype).max)
        self.alpha: int | None = None
        with _failing_as(Unreadable):
            if self.has_alpha:
                stats = _opened(path, loader)[self.colours].stats()
                low, high = stats(0, 0)[0], stats(1, 0)[0]
                self.alpha = int(low) if low == high else None
                picture = _opened(path, loader)
            self._region = pyvips.Region.new(picture)
        self._first = 0
        self._rows: Raw = np.empty((0, self.width, picture.bands), self.dtype)

    @property
    def fills(self) -> bool:
        """Whether there can be pixels whose colour nobody sees."""
        return self.has_alpha and self.alpha is None

    def band(self, down: Span, reach: int) -> Raw:
        """The rows [low, high) of the span, as wide as the picture; beyond its rim the rim is repeated.

        Pixels without any opacity have the colour of their neighbours, up to `reach` pixels away. Spans must come from
        top to bottom.
        """
        more = reach if self.fills else 0
        low, high = max(0, down.low - more), min(self.height, down.high + more)
        self._advance(low, high)
        rows = self._rows[low - self._first : high - self._first]
        if self.fills:
            rows = filled(rows, reach)
        wanted = np.clip(np.arange(down.low, down.high), 0, self.height - 1) - low
        band: Raw = rows[wanted]
        return band

    def _advance(self, low: int, high: int) -> None:
        """Have the rows [low, high) in hand, and none before them."""
        end = self._first + len(self._rows)
        kept = self._rows[low - self._first :]
        if high > end:
            with _failing_as(Unreadable):
                fetched = self._region.fetch(0, end, self.width, high - end)
            fresh = np.frombuffer(fetched, self.dtype).reshape(high - end, self.width, -1)
            kept = np.concatenate([kept, fresh])
        self._rows, self._first = kept, low


def _opened(path: str, loader: str) -> Any:
    """The picture from top to bottom, in 8 or 16 bits, grey or RGB."""
    assert loader in LOADERS, "the server decides among these"
    with _failing_as(Unreadable):
        picture = getattr(pyvips.Image, loader)(path, access="sequential", fail_on="warning")
        if picture.interpretation not in ("srgb", "rgb", "rgb16", "b-w", "grey16"):
            picture = picture.colourspace("srgb")
        if picture.format not in FORMATS:
            picture = picture.cast("uchar")
    return picture


def columns(band: Raw, across: Span) -> Raw:
    """The columns [low, high) of a band; beyond the picture's rim the rim is repeated."""
    wanted = np.clip(np.arange(across.low, across.high), 0, band.shape[1] - 1)
    window: Raw = band[:, wanted]
    return window


def as_input(colours: Raw, full: int) -> NDArray[np.float32]:
    """One or three bands as the network takes them: three channels, 0 to 1; grey three times."""
    channels = np.moveaxis(colours, 2, 0).astype(np.float32) / np.float32(full)
    return np.repeat(channels, 3, axis=0) if len(channels) == 1 else channels


def as_pixels(result: NDArray[np.float32], colours: int, source: Source) -> Raw:
    """What the network gave, as pixels of the source's kind."""
    if colours == 1:
        result = np.tensordot(LUMA, result, axes=1)[None]
    scaled = np.clip(result, 0, 1) * np.float32(source.full)
    pixels: Raw = np.moveaxis(np.rint(scaled), 0, 2).astype(source.dtype)
    return pixels


def filled(rows: Raw, reach: int) -> Raw:
    """Give pixels without any opacity the mean colour of neighbours that have one, ring by ring, `reach` rings wide."""
    known = rows[:, :, -1] > 0
    if known.all() or not known.any():
        return rows
    result = rows.copy()
    height, width = known.shape
    # A frame, so that no neighbour lies outside.
    seen = np.pad(known, 1)
    colours = np.pad(rows[:, :, :-1].astype(np.float32), ((1, 1), (1, 1), (0, 0)))
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    for _ in range(reach):
        near = np.zeros((height, width), bool)
        for y, x in around:
            near |= seen[1 + y : 1 + y + height, 1 + x : 1 + x + width]
        at_y, at_x = np.nonzero(near & ~seen[1:-1, 1:-1])
        if not len(at_y):
            break
        total = np.zeros((len(at_y), colours.shape[2]), np.float32)
        count = np.zeros((len(at_y), 1), np.float32)
        for y, x in around:
            is_known = seen[at_y + 1 + y, at_x + 1 + x][:, None]
            total += colours[at_y + 1 + y, at_x + 1 + x] * is_known
            count += is_known
        mean = total / count
        colours[at_y + 1, at_x + 1] = mean
        result[at_y, at_x, :-1] = np.rint(mean)
        seen[at_y + 1, at_x + 1] = True
    return result


class Canvas:
    """The result as it grows, `scale` times the source; a context, which leaves nothing but the target.

    It grows as a TIFF, which libvips reads strip by strip. A raw file it would map into memory as a whole.
    """

    def __init__(self, source: Source, scale: int, folder: Path) -> None:
        self._source = source
        self._scale = scale
        self._size = source.width * scale, source.height * scale
        self._bands = source.colours + source.has_alpha
        self._pixel = self._bands * np.dtype(source.dtype).itemsize
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (closed with the context)

    def __enter__(self) -> "Canvas":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, tile: Raw, x: int, y: int) -> None:
        """A finished tile, whose place in the source is x, y."""
        for n, row in enumerate(np.ascontiguousarray(tile)):
            pixels = (y * self._scale + n) * self._size[0] + x * self._scale
            self._write(row.tobytes(), tiff.DATA + pixels * self._pixel)

    def save(self, target: str, factor: float) -> tuple[int, int]:
        """Write the PNG, `factor` times the size of the source, rounded down; returns that size."""
        size = max(1, int(self._source.width * factor)), max(1, int(self._source.height * factor))
        start, end = tiff.frame(*self._size, self._source.colours, self._source.has_alpha, self._pixel // self._bands)
        self._write(start, 0)
        self._write(end, tiff.DATA + self._size[0] * self._size[1] * self._pixel)
        with _failing_as(Unwritable):
            picture = pyvips.Image.tiffload(f"/proc/self/fd/{self._file.fileno()}", access="sequential")
            picture = picture.copy(interpretation=self._source.interpretation)
            if size != self._size:
                picture = resized(picture, *size, factor / self._scale)
            picture.pngsave(target, keep="none", compression=PNG_COMPRESSION)
        return size

    def _write(self, content: bytes, place: int) -> None:
        if os.pwrite(self._file.fileno(), content, place) != len(content):
            raise Unwritable
