"""
Fetch: bring a finished result into staging, whole.

Takes a READY tile, returns Fetched. The result decodes whole, has its size and is synced before the event exists.
Fails as SERVICE (network), Expired (the link is gone), NotAPicture (truncated, wrong), HOUSE (disk full).
"""

from daemon.ports import Disk, Predictor
from daemon.ports_pictures import Pictures
from daemon.rules.faults import NotAPicture, Unlike
from daemon.rules.job import Tile
from daemon.rules.lifecycle import Fetched
from daemon.rules.recipe import size_fits
from daemon.rules.tiles import shrunk

# A PNG of noise is a little larger than its pixels (16 bit, four channels); nothing honest is larger than that.
BYTES_PER_PIXEL_MAX = 9
BYTES_SPARE = 1 << 20


async def fetch(tile: Tile, predictor: Predictor, disk: Disk, pictures: Pictures, sent_max: int) -> Fetched:
    """Download, check, keep. sent_max: pixels; a picture that has more was made smaller before it was sent."""
    assert tile.output_url is not None
    sent = shrunk(tile.rect.width, tile.rect.height, sent_max)
    expected = tile.job.recipe.result_size(*sent)
    pixels_max = (expected[0] + 1) * (expected[1] + 1)
    async with disk.incoming(tile) as (file, path):
        await predictor.download(tile.output_url, file, pixels_max * BYTES_PER_PIXEL_MAX + BYTES_SPARE)
        file.close()
        try:
            found = await pictures.measure(path, pixels_max, tile.likeness)
        except Unlike:
            # A person may want to see it.
            await disk.reject(tile, path)
            raise
        if found.format != "PNG":
            raise NotAPicture(f"The service's result is not a PNG but {found.format or 'something else'}.")
        if not size_fits(expected, (found.width, found.height)):
            raise NotAPicture(
                f"The service's result has {found.width} x {found.height} pixels; "
                f"{expected[0]} x {expected[1]} were asked for."
            )
        sha256, size = await disk.keep(tile, path)
    return Fetched(result_sha256=sha256, result_bytes=size, result_width=found.width, result_height=found.height)
