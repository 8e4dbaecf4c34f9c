"""One scene, the same in every size, so that a result that was made beforehand looks like whatever was sent."""

import pyvips


def scene(width: int, height: int) -> pyvips.Image:
    """Soft shapes in three colours, 30 to 210, in float."""
    xy = pyvips.Image.xyz(width, height)
    across, down = xy[0] * (1 / width), xy[1] * (1 / height)
    # In degrees, as libvips counts them.
    shapes = [((across * (200 * (band + 1)) + down * 300).sin() + 1) * 90 + 30 for band in range(3)]
    return shapes[0].bandjoin(shapes[1:])
