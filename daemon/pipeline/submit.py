"""
Submit: the one step that cannot be repeated, and the look into the history that settles a doubt about it.

`look` is the last at the file before money is spent, `freshen` the last at its upload; what is intended is recorded
before `submit` sends it, once. Fails as SERVICE with `created` NO or MAYBE (API), or as HOUSE (the inbox is away).
"""

from collections.abc import Collection

from daemon.ports import Asset, Predictor, Sources, Storage
from daemon.rules.hooks import Hook
from daemon.rules.job import Tile
from daemon.rules.lifecycle import Accepted, Found, Withdrawn

URL_MARGIN_SECONDS = 600.0  # what a service that is busy may need before it reads the picture
FRESH_SECONDS = 3600.0  # an upload younger than this is still there: rules that clean a bucket up count in days


async def look(sources: Sources) -> Withdrawn | None:
    """What to record where none of the files is what was admitted any more, and nothing may be submitted."""
    for inbox, picture in sources:
        if await inbox.look(picture.path) == picture.look:
            return None
    return Withdrawn(reason="The picture left its inbox, or changed, before it was submitted.")


async def freshen(tile: Tile, storage: Storage, *, now: float, uploaded: float, url_seconds: float) -> Asset | None:
    """The upload with a URL that lives long enough; None where there is none, and nothing may be submitted.

    now, uploaded: seconds since 1970. url_seconds: the life of a fresh URL.
    """
    assert tile.asset_ref is not None
    assert tile.asset_url is not None
    old = Asset(tile.asset_ref, tile.asset_url, tile.asset_expires_at)
    asset = await storage.fresh(old, look=not 0 <= now - uploaded < FRESH_SECONDS)
    return None if asset is None or is_stale(asset, now, url_seconds) else asset


def is_stale(asset: Asset, now: float, url_seconds: float) -> bool:
    """Whether its URL may be too old before the service has read the picture. now: seconds since 1970."""
    return asset.expires_at is not None and asset.expires_at - now < min(URL_MARGIN_SECONDS, url_seconds / 4)


async def submit(tile: Tile, predictor: Predictor, hook: Hook | None = None) -> Accepted:
    """Send the create that was intended, with where to tell that it is over. Never call it twice for one intent."""
    assert tile.asset_url is not None
    return Accepted(prediction=await predictor.create(tile.job.recipe, tile.asset_url, hook))


async def look_up(tile: Tile, predictor: Predictor, others: Collection[str] = ()) -> Found | None:
    """Search the service's history for a submit in doubt; None where the history does not have it now.

    others: predictions that are known to be another's.
    """
    assert tile.asset_url is not None
    assert tile.intent_at is not None
    prediction = await predictor.find(tile.job.recipe.model, tile.asset_url, tile.intent_at, others)
    return Found(prediction=prediction) if prediction is not None else None
