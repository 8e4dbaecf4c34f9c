"""
Settling: when is a file complete? Pure; the looks and the time come from outside.

A file is complete when its size, mtime and inode were the same in every look for the quiet time, and it decodes whole.
There is one rule for start-up and for later. Whatever changes starts again; nothing that is not ready is forgotten, it
is looked at ever more seldom and shown as waiting with its reason.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from daemon.rules.job import Look

SOFT_SIGN_FACTOR = 3  # a soft sign triples the quiet time, once
PAUSE_SECONDS_MAX = 300.0  # the longest pause between two looks at a file that is not ready


class Sign(StrEnum):
    """What a closer look at a quiet file said."""

    HARD = "hard"  # it does not decode
    SOFT = "soft"  # it decodes, but its end is not what an end looks like
    BUSY = "busy"  # it could not be read: locked, no permission, an error of the disk


@dataclass(frozen=True, slots=True)
class Settling:
    """A file on its way to being a picture. Times are monotonic seconds.

    since: the first look that was the same as the last one. due: when to look again. quiet: what it waits for now.
    usual: the quiet time of a file without signs.
    reason: why it is not ready although it was quiet, a sentence, or "". sign: what said so, None for an empty file.
    """

    look: Look
    since: float
    due: float
    quiet: float
    usual: float
    reason: str = ""
    sign: Sign | None = None
    softened: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that was quiet for long enough. folder: the ledger's number. path: below its inbox."""

    folder: int
    path: bytes
    settling: Settling


def begin(look: Look, now: float, quiet: float) -> Settling:
    """The first look at a file."""
    reason = "" if look.size else "It is empty."
    return Settling(look=look, since=now, due=now + quiet, quiet=quiet, usual=quiet, reason=reason)


def seen(settling: Settling, look: Look, now: float, quiet: float) -> Settling:
    """One more look: a file that changed starts again."""
    return settling if look == settling.look else begin(look, now, quiet)


def again(settling: Settling, now: float) -> Settling:
    """The same file, not quiet yet, with its next look later; an empty one is looked at ever more seldom."""
    return replace(settling, due=now + min(max(now - settling.since, settling.quiet), PAUSE_SECONDS_MAX))


def is_quiet(settling: Settling, now: float) -> bool:
    """Whether the file was unchanged for as long as it now has to be; empty files are never complete."""
    return settling.look.size > 0 and now >= settling.since + settling.quiet


def postponed(settling: Settling, sign: Sign, reason: str, now: float, give_up_seconds: float = math.inf) -> Settling:
    """After a sign: wait longer before looking closer again, but not past the moment when it would be given up."""
    if sign is Sign.SOFT:
        quiet = max(settling.usual * SOFT_SIGN_FACTOR, now - settling.since)
        return replace(settling, quiet=quiet, due=settling.since + quiet, reason=reason, sign=sign, softened=True)
    # Doubled from what has already passed, so that the closer looks grow rare; the pause itself has a limit.
    passed = max(now - settling.since, settling.quiet)
    quiet = passed + min(passed, PAUSE_SECONDS_MAX)
    if now - settling.since < give_up_seconds < quiet:
        quiet = give_up_seconds
    return replace(settling, quiet=quiet, due=settling.since + quiet, reason=reason, sign=sign)


def is_stuck(settling: Settling) -> bool:
    """Whether only a change of the file would help. One with a soft sign is accepted by and by as it is."""
    return bool(settling.reason) and settling.sign is not Sign.SOFT


def is_given_up(settling: Settling, now: float, give_up_seconds: float) -> bool:
    """Whether a file with a hard sign was unchanged for so long that it will not get better."""
    return now - settling.since >= give_up_seconds
