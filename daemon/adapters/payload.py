"""
Payload: what is uploaded of a picture, and what is kept of it for its result.

A part of the upright picture, without any metadata, and never worse than the source. Where the picture goes up whole
and as it is, its own compressed bytes go, scrubbed; else a PNG. (Lossless WebP is a sixth smaller for photographs,
larger for pages, has no 16 bit, and took up to eighteen times the CPU: not worth it.) Cut first, then turned, so that
little is in memory. Fails as NotAPicture (the source does not decode) and HOUSE (there is no room to write).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon.adapters import colours, pixels
from daemon.adapters import keepsake as keepsakes
from daemon.adapters.chunks import Misbuilt, scrubbed
from daemon.adapters.disk_faults import in_staging
from daemon.adapters.keepsake import Keepsake
from daemon.adapters.likeness import likeness
from daemon.adapters.metadata import kept
from daemon.rules.faults import Fault, NotAPicture
from daemon.rules.tiles import Rect
from daemon.rules.traits import Piece, Prepared, Traits

# Of libpng's levels and filters; for photographs about a tenth smaller than without filters, at the same speed.
COMPRESSION, FILTER = 6, "all"


def prepare(source: Path, piece: Piece, payload: Path, keepsake: Path | None, seen: str = "") -> Prepared:
    """See `Pictures.prepare`. seen: the likeness of the whole source, where it was decoded before."""
    vips = pixels.vips()
    try:
        with source.open("rb") as file:
            image = colours.with_profile(pixels.opened(source), colours.said(file))
        traits = pixels.traits_of(image)
        if keepsake is not None:
            _keep(source, image, traits, piece, keepsake)
        # What is scrubbed has the source's own compressed pixels, and looks as they do.
        scrubbed_as = _scrub(source, image, traits, piece, payload)
        format_ = scrubbed_as or _draw(image, traits, piece, payload)
        look = (scrubbed_as and seen) or likeness(pixels.opened(payload))
        return Prepared(format_, payload.stat().st_size, look)
    except OSError as error:
        raise _cannot(str(error.strerror)) from error
    except vips.Error as error:
        words = pixels.first_line(error)
        if not _decodes(source):
            raise NotAPicture("The picture does not decode: it is damaged or cut short.") from None
        raise _cannot(words) from None


def _cannot(why: str) -> Fault:
    return in_staging(f"The picture could not be made ready for its upload ({why}).")


def _decodes(source: Path) -> bool:
    """Whether it is the source that is damaged. That it cannot even be opened says nothing of what is in it."""
    try:
        source.open("rb").close()
    except OSError:
        return True
    try:
        pixels.opened(source).avg()
    except pixels.vips().Error:
        return False
    return True


def _converts(traits: Traits, piece: Piece) -> bool:
    return traits.bands == 4 or (piece.colour == "srgb" and traits.profile == "other")


def _scrub(source: Path, image: Any, traits: Traits, piece: Piece, payload: Path) -> str:
    """Copy the source's compressed pixels, where they are what is to go up; returns their format, or ""."""
    whole = piece.rect == Rect(0, 0, image.width, image.height) and piece.size in (None, (image.width, image.height))
    if not whole or traits.orientation != 1 or _converts(traits, piece) or (piece.keep_alpha and traits.alpha):
        return ""
    try:
        scrubbed(source, payload, pixels.format_of(image))
        copy = pixels.opened(payload)
    except (Misbuilt, pixels.vips().Error):
        return ""
    same = (copy.width, copy.height, copy.bands) == (image.width, image.height, image.bands)
    return pixels.format_of(image) if same else ""


def _draw(image: Any, traits: Traits, piece: Piece, payload: Path) -> str:
    """Write the pixels that are to go up as a PNG."""
    rect = pixels.lying(piece.rect, image.width, image.height, traits.orientation)
    part = image.crop(rect.left, rect.top, rect.width, rect.height)
    if piece.keep_alpha:
        # What the service would lay under it bleeds into the edges; the bare colours do not.
        part = pixels.opaque(part)
    if _converts(traits, piece):
        part = _in_srgb(part, traits)
    if piece.size is not None:
        part = pixels.resized(part, pixels.upright_size(*piece.size, traits.orientation))
    part = pixels.upright(part, traits.orientation).copy(xres=1, yres=1)
    part.pngsave(str(payload), keep="none", compression=COMPRESSION, filter=FILTER)
    return "PNG"


def _in_srgb(image: Any, traits: Traits) -> Any:
    """The colours in sRGB, by the picture's own profile; grey stays grey."""
    fallback = "cmyk" if traits.bands == 4 else "srgb"
    converted = image.icc_transform("srgb", depth=traits.depth, input_profile=fallback, **pixels.TRANSFORM)
    return pixels.grey(converted) if traits.bands == 1 else converted


def _keep(source: Path, image: Any, traits: Traits, piece: Piece, keepsake: Path) -> None:
    """Write the keepsake, with what has to be said about it."""
    raw = keepsakes.blocks(image)
    if _converts(traits, piece) or not traits.profile:
        raw = replace(raw, icc=b"")
    metadata, warnings = kept(raw)
    alpha = _alpha(source, traits) if piece.keep_alpha and traits.alpha else b""
    keepsakes.write(keepsake, Keepsake(metadata, alpha, tuple(warnings)))


def _alpha(source: Path, traits: Traits) -> bytes:
    """The transparency of the whole upright picture, as a PNG."""
    image = pixels.opened(source)
    layer = image[image.bands - 1].copy(interpretation="grey16" if traits.depth == 16 else "b-w", xres=1, yres=1)
    data: bytes = pixels.upright(layer, traits.orientation).pngsave_buffer(keep="none", compression=COMPRESSION)
    return data
