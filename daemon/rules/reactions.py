"""
Reactions: what to do about a fault. A decision is a value made by a pure function; the dispatcher carries it out.

Two bounds: attempts bound time, submits bound money. A service's or a house's fault costs neither.
"""

from dataclasses import dataclass

from daemon.rules import verdicts
from daemon.rules.faults import Blame, Created, Fault, Gate, NotAPicture, Outlook, Unknown, Unlike
from daemon.rules.faults import Expired as LinkExpired
from daemon.rules.job import Tile
from daemon.rules.lifecycle import (
    TRANSITIONS,
    Absent,
    Event,
    Expired,
    Failed,
    Forgotten,
    Missed,
    Refused,
    State,
)

RETRY_SECONDS = 2.0
RETRY_SECONDS_MAX = 600.0
PAUSE_SECONDS_MAX = 3600.0  # no pause of ours, and none that we are asked for, is longer
GATE_SECONDS = 5.0
GATE_SECONDS_MAX = 600.0
DISK_SECONDS_MAX = 30.0
POLL_SECONDS_MAX = 60.0  # a question costs nothing, and what it asks about is paid for
RATE_SECONDS = 30.0  # quick retries prolong the service's block after a 429; silence clears it
LASTING_SECONDS = 60.0  # a refused key does not get better by being shown often
WRONG_RESULTS_MAX = 12  # downloads that were not the result; with their pauses more than two hours
UNLIKE_MAX = 2  # whole pictures that are not of the source: nothing will change them
WRONG_SECONDS = 5.0
LINKS_MAX = 14  # fresh links that lead nowhere; with their pauses about an hour

DOUBT_GRACE = 1.5  # times the request's time limit: by then a create that arrived is in the history
DOUBT_PAUSE_SECONDS = 20.0
DOUBT_LOOKS = 2  # absences after the grace that make a proof
DOUBT_SECONDS_MAX = 3600.0  # with no readable history for this long, a person decides


@dataclass(frozen=True, slots=True)
class Reaction:
    """event: to record, or None. gate: to close. wait: seconds before the next try. wrong: it was not the result."""

    event: Event | None = None
    gate: Gate | None = None
    wait: float = 0.0
    wrong: bool = False


def pause(tries: int, first: float, longest: float, dice: float) -> float:
    """Growing pauses: doubled each time, bounded, with a jitter of ±20 %. dice: in [0, 1)."""
    return min(first * 2.0 ** min(tries, 20), longest) * (0.8 + 0.4 * dice)


def gate_seconds(gate: str, fault: Fault, closings: int, dice: float) -> float:
    """How long a gate stays closed. closings: how often it was closed since it was last open."""
    if fault.retry_after is not None:
        # Honoured, and never less than a pause of our own that grows: some say 0 and go on refusing.
        return max(fault.retry_after * (1.0 + 0.1 * dice), pause(closings, 1.0, GATE_SECONDS_MAX, dice))
    first = LASTING_SECONDS if fault.outlook is Outlook.LASTING else GATE_SECONDS
    if fault.rate_limited:
        first = RATE_SECONDS
    longest = GATE_SECONDS_MAX
    if fault.gate in (Gate.OUTBOX, Gate.STAGING):
        # A look at a disk of our own costs nothing, and a person who mended it is waiting.
        longest = DISK_SECONDS_MAX
    elif gate == Gate.POLL and not fault.rate_limited:
        longest = POLL_SECONDS_MAX
    return pause(closings, first, longest, dice)


def failed(fault: Fault) -> Failed:
    """The event that gives up, in the fault's words."""
    return Failed(reason=fault.said, remedy=fault.remedy, blame=fault.blame.value)


def react(tile: Tile, fault: Fault, now: float, dice: float) -> Reaction:
    """What a fault in the tile's present step means. now: seconds since 1970."""
    wait = max(pause(tile.attempts, RETRY_SECONDS, RETRY_SECONDS_MAX, dice), fault.retry_after or 0.0)
    if tile.state is State.SUBMITTING:
        return _create_failed(tile, fault)
    if tile.state is State.SUBMITTED and isinstance(fault, Unknown):
        # A fresh id may not be known everywhere yet.
        return Reaction(event=Forgotten()) if now - tile.since > 60 else Reaction(wait=wait)
    if tile.state is State.READY:
        if isinstance(fault, LinkExpired):
            if tile.attempts >= LINKS_MAX:
                return Reaction(event=verdicts.result_gone())
            return Reaction(event=Expired(), wait=wait)
        if isinstance(fault, NotAPicture):
            if tile.wrongs + 1 >= (UNLIKE_MAX if isinstance(fault, Unlike) else WRONG_RESULTS_MAX):
                return Reaction(event=failed(fault))
            # Every second time the service is asked where it is now: another link may lead to the right one.
            event = Expired() if tile.wrongs % 2 else None
            return Reaction(event, wait=pause(tile.wrongs, WRONG_SECONDS, PAUSE_SECONDS_MAX, dice), wrong=True)
        return Reaction(gate=fault.gate, wait=wait)
    if fault.blame is Blame.PICTURE and Failed in TRANSITIONS[tile.state]:
        return Reaction(event=failed(fault))
    return Reaction(gate=fault.gate, wait=wait)


def is_due(due_at: float, now: float) -> bool:
    """Whether a due time has come; of anything but a held tile, which may be meant to wait for days.

    One that is further away than any pause of ours was written by a clock that has been set back since.
    """
    return not now < due_at <= now + PAUSE_SECONDS_MAX


def step_back(tile: Tile, dice: float) -> float:
    """Seconds to wait after a step back, ever longer for each."""
    return pause(tile.attempts, RETRY_SECONDS, RETRY_SECONDS_MAX, dice) if tile.attempts else 0.0


def _create_failed(tile: Tile, fault: Fault) -> Reaction:
    """After a create: only where nothing was created for certain may it be tried again."""
    assert tile.state is State.SUBMITTING
    if fault.created is Created.MAYBE:
        return Reaction(gate=fault.gate)
    if fault.blame is Blame.PICTURE:
        return Reaction(event=failed(fault))
    return Reaction(event=Refused(), gate=fault.gate)


def doubt(tile: Tile, found_nothing: bool, watched: float, create_seconds_max: float) -> Reaction:
    """After a look into the history that did not find a submit in doubt.

    found_nothing: True where the history was read and does not have it, False where it could not be read. watched:
    seconds that we waited ourselves. What the wall clock says of the time before may be wrong, and a machine that was
    off for a day has not found the history unreadable for a day.
    """
    assert tile.state is State.SUBMITTING
    grace = create_seconds_max * DOUBT_GRACE
    if not found_nothing:
        if watched > DOUBT_SECONDS_MAX:
            return Reaction(event=verdicts.unreadable_history())
        # Soon after the create others are as fresh, and not known everywhere yet: there is no reason to wait longer.
        return Reaction(wait=DOUBT_PAUSE_SECONDS * 2 if watched >= grace else max(1.0, grace - watched))
    if watched < grace:
        return Reaction(wait=max(1.0, min(grace - watched, DOUBT_PAUSE_SECONDS)))
    if tile.absences + 1 < DOUBT_LOOKS:
        return Reaction(event=Missed(), wait=DOUBT_PAUSE_SECONDS)
    return Reaction(event=Absent())


def submits_left(tile: Tile, submits_max: int) -> int:
    """How many paid runs this tile may still have."""
    return submits_max + tile.submits_granted - tile.submits
