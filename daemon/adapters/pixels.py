"""
Pixels: libvips set up for a long life, and the few words that all who use it share.

Pictures are opened for one sequential pass that stops at the first warning. What libvips raises goes to whoever asked:
only the caller knows whose fault it is. Nothing here writes.
"""

import re
from pathlib import Path
from typing import Any

from daemon.rules.tiles import Rect
from daemon.rules.traits import Traits

FORMATS = {"jpegload": "JPEG", "pngload": "PNG", "webpload": "WEBP"}
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
TURNS = {
    1: (),
    2: ("fliphor",),
    3: ("rot180",),
    4: ("flipver",),
    5: ("rot90", "fliphor"),
    6: ("rot90",),
    7: ("rot270", "fliphor"),
    8: ("rot270",),
}
STREAMED = (1, 2)  # orientations that a picture can be turned to line by line
GREY = [0.299, 0.587, 0.114]
ICC = "icc-profile-data"
# An embedded profile that moves none of these colours by more than this is sRGB, whatever its name.
PATCHES, SRGB_LEVELS_MAX = 6, 2
SPACES = {1: b"GRAY", 3: b"RGB ", 4: b"CMYK"}
TRANSFORM = {"embedded": True, "intent": "relative", "black_point_compensation": True}


def vips() -> Any:
    """libvips: no cache by file name, only well-tested loaders, no threads of its own."""
    import pyvips

    # Its warnings do not say which picture they are about, and a small file may cause them by the thousand.
    pyvips.logger.setLevel("CRITICAL")
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)
    pyvips.block_untrusted_set(True)
    return pyvips


def opened(path: Path) -> Any:
    """A file as libvips has it, to be read once from top to bottom."""
    return vips().Image.new_from_file(str(path), access="sequential", fail_on="warning")


def format_of(image: Any) -> str:
    """JPEG, PNG or WEBP, or "" for others."""
    return FORMATS.get(str(image.get("vips-loader")).removesuffix("_source"), "")


def depth_of(image: Any) -> int:
    """Bits of a band: 8 or 16."""
    return 16 if image.format == "ushort" else 8


def white_of(image: Any) -> int:
    """The largest value of a band."""
    return 65535 if depth_of(image) == 16 else 255


def bands_of(image: Any) -> int:
    """Bands of colour, without alpha."""
    return int(image.bands) - (1 if image.hasalpha() else 0)


def traits_of(image: Any) -> Traits:
    """What a picture has besides its pixels, by its header. A profile that is broken, or of other bands, is none."""
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    bands = bands_of(image)
    return Traits(
        orientation=orientation if orientation in TURNS else 1,
        bands=bands,
        alpha=bool(image.hasalpha()),
        depth=depth_of(image),
        profile=_profile_of(profile(image), bands),
    )


def profile(image: Any) -> bytes:
    """The embedded ICC profile, or b"" where it has none that says it is for these bands."""
    data = bytes(image.get(ICC)) if image.get_typeof(ICC) else b""
    fits = len(data) > 128 and data[36:40] == b"acsp" and data[16:20] == SPACES.get(bands_of(image))
    return data if fits else b""


def _profile_of(data: bytes, bands: int) -> str:
    """What a profile does to a few colours decides: names and versions are many, and some lie."""
    if not data or bands == 4:
        return "other" if data else ""
    libvips = vips()
    patches = _patches(libvips, bands)
    patches.set_type(libvips.GValue.blob_type, ICC, data)
    try:
        seen, fallen = (
            patches.icc_transform("srgb", input_profile=other, **TRANSFORM).copy_memory() for other in ("srgb", "p3")
        )
    except libvips.Error:
        return ""
    # libvips falls back to the other profile where the embedded one cannot be used.
    if (seen - fallen).abs().max() > 0:
        return ""
    return "srgb" if (seen - patches).abs().max() <= SRGB_LEVELS_MAX else "other"


def _patches(libvips: Any, bands: int) -> Any:
    """Colours from all over the space, a pixel each."""
    number = libvips.Image.xyz(PATCHES**bands, 1)[0]
    layers = [((number / PATCHES**n).floor() % PATCHES) * (255 / (PATCHES - 1)) for n in range(bands)]
    joined = layers[0].bandjoin(layers[1:]) if bands > 1 else layers[0]
    return joined.cast("uchar").copy(interpretation="srgb" if bands > 1 else "b-w")


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height of a picture when it is turned upright, and the other way round."""
    return (height, width) if orientation in SIDEWAYS else (width, height)


def lying(rect: Rect, width: int, height: int, orientation: int) -> Rect:
    """Where a part of the upright picture is in the picture as the file has it, of that width and height."""
    right, bottom = width - rect.left - rect.width, height - rect.top - rect.height
    if orientation in SIDEWAYS:
        right, bottom = width - rect.top - rect.height, height - rect.left - rect.width
        left, top = rect.top, rect.left
        return Rect(
            right if orientation in (7, 8) else left, bottom if orientation in (6, 7) else top, rect.height, rect.width
        )
    return Rect(
        right if orientation in (2, 3) else rect.left,
        bottom if orientation in (3, 4) else rect.top,
        rect.width,
        rect.height,
    )


def upright(image: Any, orientation: int) -> Any:
    """A picture turned; it is held in memory where that cannot be done line by line."""
    if orientation not in STREAMED:
        image = image.copy_memory()
    for turn in TURNS[orientation]:
        image = getattr(image, turn)()
    return image


def resized(image: Any, size: tuple[int, int]) -> Any:
    """Resampled (Lanczos) to exactly that size; transparent pixels lend no colour to their neighbours."""
    if (image.width, image.height) == size:
        return image
    across, down = size[0] / image.width, size[1] / image.height
    if image.hasalpha():
        scaled = image.premultiply().resize(across, vscale=down).unpremultiply()
        result = scaled.rint().cast(image.format).copy(interpretation=image.interpretation)
    else:
        result = image.resize(across, vscale=down)
    return fitted(result, size)


def fitted(image: Any, size: tuple[int, int]) -> Any:
    """Cut at the right and the bottom, or filled up with copies of the edge, to exactly that size."""
    if (image.width, image.height) == size:
        return image
    return image.embed(0, 0, *size, extend="copy")


def grey(image: Any) -> Any:
    """One band of colour instead of three; what was grey already keeps its values. Alpha stays."""
    if bands_of(image) < 3:
        return image
    weights = vips().Image.new_from_array([GREY])
    layer = image.extract_band(0, n=3).recomb(weights).rint().cast(image.format)
    layer = layer.copy(interpretation="grey16" if depth_of(image) == 16 else "b-w")
    return layer.bandjoin(image[image.bands - 1]) if image.hasalpha() else layer


def opaque(image: Any) -> Any:
    """The colours alone; those under transparency too."""
    return image.extract_band(0, n=bands_of(image)) if image.hasalpha() else image


def first_line(error: Exception) -> str:
    """libvips' own words, on one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[-1].strip() if lines else "no reason given"
    return re.sub(r"[^\x20-\x7e]", "?", text)[:200]
