"""
Verdicts: the ends and pauses that are about money, as events with their words for people. Pure.

What may have been paid for, or was, and has no result is never submitted again by itself: a person looks at the
account's history and decides.
"""

from daemon.rules.faults import Blame
from daemon.rules.job import Tile
from daemon.rules.lifecycle import NEVER, Event, Failed, Held


def no_submits_left(tile: Tile) -> Event:
    """Its paid runs are used up."""
    return Failed(
        reason=f"The service was asked {tile.submits} times without a result.",
        remedy="`esrgand retry` tries again, and pays again.",
        blame=Blame.SERVICE.value,
    )


def made_elsewhere() -> Event:
    """It was submitted to another API or with another key, whose history is not this one."""
    return Held(
        reason="It was submitted with another API address or key, where it may have been paid for.",
        remedy="Go back to those until it is done; `esrgand release` submits the picture again, and pays again.",
        due_at=NEVER,
    )


def paid_and_forgotten(tile: Tile) -> Event:
    """The service billed it, and does not know it any more."""
    return Held(
        reason=f"It was paid for, and the service no longer knows its prediction {tile.prediction}.",
        remedy="Ask the vendor for its result; `esrgand release` submits the picture again, and pays again.",
        due_at=NEVER,
    )


def result_gone() -> Event:
    """The service says that there is a result, and every link that it gives leads nowhere."""
    return Held(
        reason="It was paid for, and the service's links to its result lead nowhere.",
        remedy="Ask the vendor for the result; `esrgand release` submits the picture again, and pays again.",
        due_at=NEVER,
    )


def unreadable_history() -> Event:
    """Nobody could say for an hour whether a create arrived."""
    return Held(
        reason="A paid submit may or may not have arrived, and the service's history could not be read.",
        remedy="Look at the account's history; `esrgand release` submits the picture again.",
        due_at=NEVER,
    )


def doubtful(tile: Tile) -> Event:
    """The last submit that was allowed got lost."""
    return Held(
        reason=f"The service was asked {tile.submits} times, and the last submit is not in its history.",
        remedy="Look at the account's history; `esrgand release` submits the picture again.",
        due_at=NEVER,
    )


def over_budget(reason: str, due_at: float) -> Held:
    """No further paid run fits into the budget before `due_at`, seconds since 1970."""
    return Held(reason, "It goes on by itself then; `esrgand release` lets it pass now.", due_at)
