"""
Resampling: a picture at another size, by an antialiased Lanczos filter of three lobes, in strips.

Alpha weighs the colours while they are mixed. Raises `pyvips.Error` where the pixels cannot be read.
"""

import math
from typing import Any

LOBES = 3


def resized(picture: Any, width: int, height: int, scale: float) -> Any:
    """The picture at that size, with the number format and the bands that it had.

    scale: about what the new size is to the old one, to choose the way by.
    """
    work = picture.premultiply() if picture.hasalpha() else picture.cast("float")
    # libvips enlarges with a bicubic filter, whatever kernel is asked for; Lanczos it does when it reduces. So we
    # enlarge by a whole number ourselves and leave the rest of the way to it.
    factor = max(1, math.ceil(scale))
    if factor > 1:
        work = stretch(stretch(work, factor, across=False), factor, across=True)
    if (work.width, work.height) != (width, height):
        work = work.resize(width / work.width, vscale=height / work.height, kernel="lanczos3")
    if picture.hasalpha():
        work = work.unpremultiply()
    return work.rint().cast(picture.format).copy(interpretation=picture.interpretation)


def stretch(picture: Any, factor: int, across: bool) -> Any:
    """Enlarge along one axis: pixel n of the result is phase `n % factor` of the source at `n // factor`."""
    import pyvips

    phases = [picture.conv(mask(factor, phase, across), precision="float") for phase in range(factor)]
    phases = [phase.zoom(factor, 1) if across else phase.zoom(1, factor) for phase in phases]
    place = pyvips.Image.xyz(phases[0].width, phases[0].height)[0 if across else 1]
    # Whoever reads the result reads it once for each phase; without the cache it would be computed anew each time.
    return (place % factor).cast("uchar").case(phases).linecache(tile_height=16, access="sequential")


def mask(factor: int, phase: int, across: bool) -> Any:
    """The weights of the pixels around the source for one phase; they sum to one, so flat areas stay as they are."""
    import pyvips

    offset = (phase + 0.5) / factor - 0.5
    weights = [lanczos(tap - offset) for tap in range(-LOBES, LOBES + 1)]
    weights = [weight / sum(weights) for weight in weights]
    return pyvips.Image.new_from_array([weights] if across else [[weight] for weight in weights])


def lanczos(x: float) -> float:
    """The kernel: a sinc windowed by a wider one."""
    if x == 0:
        return 1.0
    if abs(x) >= LOBES:
        return 0.0
    turn = math.pi * x
    return LOBES * math.sin(turn) * math.sin(turn / LOBES) / turn**2
