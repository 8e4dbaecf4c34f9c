"""
Upload: bring an admitted picture, or a part of it, to where the service can read it, upright and without metadata.

Takes an ADMITTED tile and the files that have its content; returns Uploaded. Repeatable: the same key, the same bytes.
Fails as Vanished or Changed (no file has the content any more), SERVICE (storage), HOUSE (the inbox is unavailable, no
room in staging).
"""

from typing import TYPE_CHECKING, BinaryIO

from daemon.ports import Disk, Sources, Storage
from daemon.ports_pictures import Pictures
from daemon.rules.faults import Changed, Fault, Vanished
from daemon.rules.job import Tile
from daemon.rules.lifecycle import Uploaded
from daemon.rules.names import CONTENT_TYPES
from daemon.rules.tiles import shrunk
from daemon.rules.traits import Piece

if TYPE_CHECKING:
    from daemon.config_model import FolderConfig

PAYLOAD_BYTES_PER_PIXEL = 9  # a PNG of noise, 16 bit and four channels, is a little larger than its pixels


def piece_of(tile: Tile, pixels_max: int, folder: "FolderConfig | None") -> Piece:
    """What is to be sent of a tile. folder: where it was found, or None where that is no longer configured."""
    return Piece(
        tile.rect,
        size=shrunk(tile.rect.width, tile.rect.height, pixels_max) if tile.rect.pixels > pixels_max else None,
        colour=folder.colour if folder else "keep",
        keep_alpha=tile.job.recipe.face_enhance,
        content=tile.job.content.sha256,
    )


async def upload(
    tile: Tile, sources: Sources, storage: Storage, key: str, disk: Disk, pictures: Pictures, piece: Piece
) -> Uploaded:
    """Put what is to be sent of the first source that still has the content."""
    fault: Fault = Vanished("The picture is no longer in its inbox.")
    for inbox, picture in sources:
        try:
            async with inbox.copy(picture.path, picture.look) as (file, sha256):
                if sha256 != tile.job.content.sha256:
                    raise Changed("The picture changed without a trace in its date.")
                return await _put(tile, file, storage, key, disk, pictures, piece)
        except (Vanished, Changed) as error:
            fault = error
    raise fault


async def _put(
    tile: Tile, file: BinaryIO, storage: Storage, key: str, disk: Disk, pictures: Pictures, piece: Piece
) -> Uploaded:
    """Make it ready, keep what its result gets back later, and put it."""
    width, height = piece.size or (tile.rect.width, tile.rect.height)
    await disk.ready(None, tile.job.content.bytes + width * height * PAYLOAD_BYTES_PER_PIXEL)
    async with disk.outgoing(tile, file) as (source, payload):
        # The first part keeps it for all.
        prepared = await pictures.prepare(source, piece, payload, disk.keepsake(tile) if tile.number == 0 else None)
        await disk.secure(tile)
        async with disk.reading(payload) as part:
            asset = await storage.put(key, part, prepared.bytes, CONTENT_TYPES[prepared.format])
    return Uploaded(asset.ref, asset.url, asset.expires_at, prepared.likeness, *(piece.size or (None, None)))
