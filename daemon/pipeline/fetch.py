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
from daemon.rules.names import shown
from daemon.rules.recipe import size_fits

# A PNG of noise is a little larger than its pixels (16 bit, four channels); nothing honest is larger than that.
BYTES_PER_PIXEL_MAX = 9
BYTES_SPARE = 1 << 20


async def fetch(tile: Tile, predictor: Predictor, disk: Disk, pictures: Pictures) -> Fetched:
    """Download, check, keep."""
    assert tile.output_url is not None
    expected = tile.job.recipe.result_size(*tile.sent_size)
    pixels_max = (expected[0] + 1) * (expected[1] + 1)
    async with disk.incoming(tile) as (file, path):
        await predictor.download(tile.output_url, file, pixels_max * BYTES_PER_PIXEL_MAX + BYTES_SPARE)
        file.close()
        try:
            found = await pictures.measure(path, pixels_max, tile.likeness)
        except Unlike as fault:
            seen = await disk.reject(tile, path)
            remedy = f"Look at what came, in {shown(bytes(seen))}; `esrgand retry` tries again, and pays again."
            raise Unlike(fault.said, remedy) from fault
        if found.format != "PNG":
            raise NotAPicture(f"The service's result is not a PNG but {found.format or 'something else'}.")
        if not size_fits(expected, (found.width, found.height)):
            raise NotAPicture(
                f"The service's result has {found.width} x {found.height} pixels; "
                f"{expected[0]} x {expected[1]} were asked for."
            )
        sha256, size = await disk.keep(tile, path)
    return Fetched(result_sha256=sha256, result_bytes=size, result_width=found.width, result_height=found.height)
