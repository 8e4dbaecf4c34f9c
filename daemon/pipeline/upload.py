"""
Upload: bring an admitted picture to where the service can read it.

Takes an ADMITTED tile and the files that have its content; returns Uploaded. Repeatable: the same key, the same bytes.
Fails as Vanished or Changed (no file has the content any more), SERVICE (storage), HOUSE (the inbox is unavailable).
"""

from daemon.ports import Inbox, Sources, Storage
from daemon.rules.faults import Changed, Fault, Vanished
from daemon.rules.job import Picture, Tile
from daemon.rules.lifecycle import Uploaded
from daemon.rules.names import CONTENT_TYPES


async def upload(tile: Tile, sources: Sources, storage: Storage, key: str) -> Uploaded:
    """Put the content of the first source that still has it."""
    fault: Fault = Vanished("The picture is no longer in its inbox.")
    for inbox, picture in sources:
        try:
            return await _put(tile, inbox, picture, storage, key)
        except (Vanished, Changed) as error:
            fault = error
    raise fault


async def _put(tile: Tile, inbox: Inbox, picture: Picture, storage: Storage, key: str) -> Uploaded:
    content = tile.job.content
    async with inbox.copy(picture.path, picture.look) as (file, sha256):
        if sha256 != content.sha256:
            raise Changed("The picture changed without a trace in its date.")
        asset = await storage.put(key, file, content.bytes, CONTENT_TYPES[content.format])
    return Uploaded(asset_ref=asset.ref, asset_url=asset.url, asset_expires_at=asset.expires_at)
