"""
Upload: bring an admitted picture, or a part of it, to where the service can read it.

Takes an ADMITTED tile and the files that have its content; returns Uploaded. Repeatable: the same key, the same bytes.
Fails as Vanished or Changed (no file has the content any more), SERVICE (storage), HOUSE (the inbox is unavailable, no
room in staging to cut in).
"""

from typing import BinaryIO

from daemon.ports import Disk, Inbox, Pictures, Sources, Storage
from daemon.rules.faults import Changed, Fault, Vanished
from daemon.rules.job import Picture, Tile
from daemon.rules.lifecycle import Uploaded
from daemon.rules.names import CONTENT_TYPES
from daemon.rules.traits import Piece

PAYLOAD_BYTES_PER_PIXEL = 9  # a PNG of noise, 16 bit and four channels, is a little larger than its pixels


async def upload(tile: Tile, sources: Sources, storage: Storage, key: str, disk: Disk, pictures: Pictures) -> Uploaded:
    """Put the content of the first source that still has it."""
    fault: Fault = Vanished("The picture is no longer in its inbox.")
    for inbox, picture in sources:
        try:
            return await _put(tile, inbox, picture, storage, key, disk, pictures)
        except (Vanished, Changed) as error:
            fault = error
    raise fault


async def _put(
    tile: Tile, inbox: Inbox, picture: Picture, storage: Storage, key: str, disk: Disk, pictures: Pictures
) -> Uploaded:
    content = tile.job.content
    async with inbox.copy(picture.path, picture.look) as (file, sha256):
        if sha256 != content.sha256:
            raise Changed("The picture changed without a trace in its date.")
        if not tile.is_whole:
            return await _put_part(tile, file, storage, key, disk, pictures)
        asset = await storage.put(key, file, content.bytes, CONTENT_TYPES[content.format])
    return Uploaded(asset_ref=asset.ref, asset_url=asset.url, asset_expires_at=asset.expires_at)


async def _put_part(tile: Tile, file: BinaryIO, storage: Storage, key: str, disk: Disk, pictures: Pictures) -> Uploaded:
    """Cut it out, and put that."""
    await disk.ready(None, tile.job.content.bytes + tile.rect.pixels * PAYLOAD_BYTES_PER_PIXEL)
    async with disk.outgoing(tile, file) as (source, payload):
        prepared = await pictures.prepare(source, Piece(tile.rect), payload, disk.keepsake(tile))
        await disk.secure(tile)
        async with disk.reading(payload) as part:
            asset = await storage.put(key, part, prepared.bytes, CONTENT_TYPES[prepared.format])
    return Uploaded(asset.ref, asset.url, asset.expires_at, prepared.likeness)
