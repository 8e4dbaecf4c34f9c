"""
Admit: a closer look at a quiet file; what comes out can be recorded, or waits with its reason.

Takes a candidate, returns Settled or Refused. The file is the same when it was opened, after it was hashed and decoded,
and under its name; else Changed or Vanished. Nothing is sent and nothing is recorded here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.ports import Clock, Inbox
from daemon.ports_pictures import Pictures
from daemon.rules import admission, settling
from daemon.rules.faults import Changed, Fault, NotAPicture, Vanished
from daemon.rules.job import Settled
from daemon.rules.recipe import UNCHANGED
from daemon.rules.settling import Candidate, Sign
from daemon.rules.tiles import Rect

if TYPE_CHECKING:
    from daemon.config_model import FolderConfig


@dataclass(frozen=True, slots=True)
class Refused:
    """Not ready: look closer again later."""

    sign: Sign
    reason: str


async def admit(
    candidate: Candidate,
    *,
    inbox: Inbox,
    pictures: Pictures,
    clock: Clock,
    folder: "FolderConfig",
    pixels_max: int,
) -> Settled | Refused:
    """Read the file whole and say what it is. Raises Changed and Vanished; every other fault is a Refused."""
    state = candidate.settling
    try:
        async with inbox.open(candidate.path, state.look) as source:
            reading = await pictures.read(source, inbox.aside)
    except (Changed, Vanished):
        raise
    except Fault as fault:
        return Refused(Sign.BUSY, fault.said)
    now = clock.monotonic()
    failure: NotAPicture | None = None
    tiles: tuple[Rect, ...] = ()
    recipe = folder.recipe
    if reading.sign is Sign.HARD:
        if not settling.is_given_up(state, now, folder.give_up_seconds):
            return Refused(Sign.HARD, reading.reason)
        failure = NotAPicture(reading.reason, remedy=admission.AS_TAKEN)
    elif reading.sign is Sign.SOFT and not state.softened:
        return Refused(Sign.SOFT, reading.reason)
    elif admission.is_large_enough(reading.content, folder.skip_above):
        recipe = UNCHANGED
    else:
        found = admission.parts(
            reading.content, recipe.scale, pixels_max, oversize=folder.oversize, overlap=folder.overlap
        )
        tiles, failure = ((), found) if isinstance(found, NotAPicture) else (found, None)
    return Settled(
        folder=candidate.folder,
        path=candidate.path,
        look=state.look,
        detected_at=clock.wall() - (now - state.since),
        content=reading.content,
        recipe=recipe,
        failure=failure,
        tiles=tiles,
        traits=reading.traits,
    )
