"""
Poll: ask once how a prediction stands.

Takes a SUBMITTED tile; returns None while it is not over, else the event and the bill. A prediction that runs long is
never failed: it is asked for again. Fails as SERVICE (network, API) and Unknown (the API forgot the id).
"""

from daemon.ports import Predictor, Running, Succeeded
from daemon.rules import lifecycle, reactions
from daemon.rules.faults import Blame
from daemon.rules.job import Bill, Tile
from daemon.rules.lifecycle import Event, Failed, Spoiled


async def poll(tile: Tile, predictor: Predictor, submits_max: int) -> tuple[Event, Bill] | None:
    """The prediction's end, or None."""
    assert tile.prediction is not None
    progress = await predictor.get(tile.prediction)
    if isinstance(progress, Running):
        return None
    if isinstance(progress, Succeeded):
        return lifecycle.Succeeded(output_url=progress.output), Bill(progress.cost_usd, progress.predict_seconds)
    bill = Bill(progress.cost_usd)
    if not progress.passing:
        return Failed(
            reason=f"The service could not upscale it: {progress.reason}",
            remedy="Look at the picture; a changed one dropped in again is a new try.",
            blame=Blame.PICTURE.value,
        ), bill
    if reactions.submits_left(tile, submits_max) <= 0:
        return Failed(
            reason=f"It was submitted {tile.submits} times; the last run failed with: {progress.reason}",
            remedy="`esrgand retry` tries again, and pays again.",
            blame=Blame.SERVICE.value,
        ), bill
    return Spoiled(reason=progress.reason), bill
