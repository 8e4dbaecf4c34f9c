"""
Finish: the outbox's file, made from what the service gave back and what was kept of the source.

Where the service's one PNG is already all that is wanted, it stays as it is, byte for byte; where it lacks only
metadata, that is put in beside its compressed pixels. Everything else is written anew in one pass from top to bottom,
in exactly the size that was asked for. Fails as HOUSE: the parts were whole when they were fetched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from daemon.adapters import carrier, keepsake, pixels
from daemon.adapters.chunks import Misbuilt
from daemon.adapters.disk_faults import in_staging
from daemon.adapters.joining import alike, joined
from daemon.adapters.keepsake import Keepsake
from daemon.adapters.metadata import Metadata, sized
from daemon.adapters.metadata import kept as cleaned
from daemon.rules.faults import Fault, Gate
from daemon.rules.tiles import Rect
from daemon.rules.traits import NOT_KEPT, Finish

# A sixth larger than with level 6, in two fifths of the time: 16 s of CPU for 384 megapixels.
COMPRESSION, FILTER = 3, "sub"
WEBP = Lock()  # one at a time: it is the one format that is written from memory
NO_ALPHA = "The picture's transparency was lost: the service's result has none."
FLATTENED = "The picture's transparency was lost: a JPEG has none, so white is behind it."
SHALLOW = "The picture has 16 bits a colour, the service's result 8."
SHALLOW_FORMAT = "The result has 8 bits a colour, which is all that its format has."


@dataclass
class _Work:
    """changed: whether the pixels are any others than the one part's."""

    image: Any
    changed: bool = False
    warnings: list[str] = field(default_factory=list)


def finish(
    parts: Sequence[tuple[Path, Rect]], kept: Path | None, wanted: Finish, target: Path
) -> tuple[bool, list[str]]:
    """See `Pictures.finish`."""
    vips = pixels.vips()
    try:
        first = pixels.opened(parts[0][0])
        found = keepsake.read(kept) if kept is not None else Keepsake(cleaned(keepsake.blocks(first))[0])
        sake = found or Keepsake()
        # A folder may want less of it than another one with the same picture.
        metadata = cleaned(sake.metadata, strip_gps=True)[0] if wanted.strip_gps else sake.metadata
        is_less = metadata != sake.metadata
        metadata, warnings = carrier.fitting(sized(metadata, *wanted.size), wanted.format)
        work = _whole(parts, wanted)
        _with_alpha(work, sake.alpha, parts, wanted)
        _with_depth(work, wanted)
        warnings = [*work.warnings, *sake.warnings, *warnings, *([NOT_KEPT] if found is None else [])]
        if pixels.format_of(first) != wanted.format or work.changed or (kept is None and is_less):
            _write(work.image, metadata, wanted, target)
        elif kept is None or not metadata:
            return False, warnings
        else:
            carrier.insert_png(parts[0][0], metadata, target)
    except OSError as error:
        raise _cannot(wanted, str(error.strerror), Gate.STAGING) from error
    except Misbuilt as error:
        raise _cannot(wanted, "a part of it is damaged") from error
    except vips.Error as error:
        raise _cannot(wanted, pixels.first_line(error)) from None
    return True, warnings


def _cannot(wanted: Finish, why: str, gate: Gate | None = None) -> Fault:
    """gate: None where it may be about this picture alone, and others need not wait."""
    return in_staging(f"The result could not be written as {wanted.format} ({why}).", gate)


def _whole(parts: Sequence[tuple[Path, Rect]], wanted: Finish) -> _Work:
    """All parts as one picture of the wanted size, with the source's bands of colour."""
    bands = 1 if wanted.traits.bands == 1 else 3
    found = [pixels.opened(path) for path, _ in parts]
    work = _Work(None, changed=len(parts) > 1 or pixels.bands_of(found[0]) != bands)
    placed = []
    for image, (_, rect) in zip(alike(found, bands), parts, strict=True):
        size = (rect.width, rect.height)
        if (image.width, image.height) != size:
            work.changed = True
            if max(abs(image.width - size[0]), abs(image.height - size[1])) > 1:
                work.warnings += _resized(image, size, len(parts))
                image = pixels.resized(image, size)
        placed.append((pixels.fitted(image, size), rect))
    work.image = joined(placed, wanted.size)
    return work


def _resized(image: Any, size: tuple[int, int], count: int) -> list[str]:
    what = "A part of the result" if count > 1 else "The service's result"
    return [
        f"{what} had {image.width} x {image.height} pixels and was resampled to {size[0]} x {size[1]}: it has no more"
        " detail than before."
    ]


def _with_alpha(work: _Work, alpha: bytes, parts: Sequence[tuple[Path, Rect]], wanted: Finish) -> None:
    """Put the source's transparency back, or take away what only the service saw."""
    if alpha:
        layer = pixels.vips().Image.new_from_buffer(alpha, "", access="sequential", fail_on="warning")
        layer = pixels.resized(layer, wanted.size)
        colours = pixels.opaque(work.image)
        if pixels.depth_of(layer) > pixels.depth_of(colours):
            layer = (layer / 257).rint().cast("uchar")
        elif pixels.depth_of(layer) < pixels.depth_of(colours):
            layer = (layer * 257).cast("ushort")
        work.image = colours.bandjoin(layer).copy(interpretation=colours.interpretation)
        work.changed = True
    elif work.image.hasalpha() and not wanted.traits.alpha:
        work.image = pixels.opaque(work.image)
        work.changed = True
    elif wanted.traits.alpha and not work.image.hasalpha():
        work.warnings.append(NO_ALPHA)
    if work.image.hasalpha() and wanted.format == "JPEG":
        if _is_clear(alpha, parts):
            work.warnings.append(FLATTENED)
        white = pixels.white_of(work.image)
        work.image = work.image.flatten(background=white, max_alpha=white)


def _is_clear(alpha: bytes, parts: Sequence[tuple[Path, Rect]]) -> bool:
    """Whether there is anything to be seen through; that costs a pass of its own."""
    if alpha:
        images = [pixels.vips().Image.new_from_buffer(alpha, "", access="sequential")]
    else:
        images = [image for path, _ in parts if (image := pixels.opened(path)).hasalpha()]
    return any(image[image.bands - 1].min() < pixels.white_of(image) for image in images)


def _with_depth(work: _Work, wanted: Finish) -> None:
    deep = pixels.depth_of(work.image) == 16
    if wanted.traits.depth == 16 and not deep:
        work.warnings.append(SHALLOW)
    if deep and wanted.format != "PNG":
        if wanted.traits.depth == 16:
            work.warnings.append(SHALLOW_FORMAT)
        grey = pixels.bands_of(work.image) == 1
        work.image = (work.image / 257).rint().cast("uchar").copy(interpretation="b-w" if grey else "srgb")


def _write(image: Any, metadata: Metadata, wanted: Finish, target: Path) -> None:
    image = image.copy(xres=1, yres=1)
    if wanted.format == "WEBP":
        with WEBP:
            data = image.webpsave_buffer(keep="none", Q=wanted.quality)
        target.write_bytes(carrier.webp(data, metadata, wanted.size, alpha=image.hasalpha()))
        return
    vips = pixels.vips()
    with target.open("wb") as file:
        sink = carrier.Inserting(file, carrier.carried(metadata, wanted.format), wanted.format)
        stream = vips.TargetCustom()
        stream.on_write(sink.write)
        try:
            if wanted.format == "JPEG":
                image.jpegsave_target(stream, keep="none", Q=wanted.quality)
            else:
                image.pngsave_target(stream, keep="none", compression=COMPRESSION, filter=FILTER)
        except vips.Error:
            if sink.error is not None:
                raise sink.error from None
            raise
        if sink.error is not None:
            raise sink.error
