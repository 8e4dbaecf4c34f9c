"""
The words: picture, job, tile. Plain frozen values, as the ledger keeps them.

A picture is a file in an inbox. A job is one content under one recipe: what is paid for. Several pictures (copies) may
wait for one job. A tile is what travels: each job has at least one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from daemon.rules.faults import Fault
from daemon.rules.lifecycle import MILESTONES, STOPPED, UNPAID, State
from daemon.rules.names import shown
from daemon.rules.recipe import Recipe, size_fits
from daemon.rules.tiles import Rect
from daemon.rules.traits import Traits


class Look(NamedTuple):
    """What a stat says of a file: bytes, nanoseconds since 1970, inode. The same look is the same file."""

    size: int
    mtime_ns: int
    inode: int


class Phase(StrEnum):
    """How far a picture is; its job knows the rest."""

    WAITING = "waiting"  # for its job
    DUE = "due"  # its job has an end; result or report can be written
    DELIVERED = "delivered"  # result and sidecar are in the outbox
    FAILED = "failed"  # the report is in the outbox
    GONE = "gone"  # it left the inbox, or changed, before anything was paid


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a file. format: JPEG, PNG or WEBP, or "" where it does not decode; then width and height are 0."""

    sha256: str
    bytes: int
    width: int
    height: int
    format: str

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    @property
    def rect(self) -> Rect:
        """All of it."""
        return Rect(0, 0, self.width, self.height)


PLAIN = Traits()


@dataclass(frozen=True, slots=True)
class Job:
    """One content under one recipe. folder, path: where it was first seen; the ledger's number, and below its inbox.

    traits: None where an older esrgand admitted it, which did not look. note: what its sidecars have to warn of, a line
    for each warning.
    """

    id: str
    folder: int
    path: bytes
    content: Content
    recipe: Recipe
    traits: Traits | None = PLAIN
    note: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """What travels. Times are seconds since 1970.

    rect: what it is of the upright picture. due_at: not before. since: of the last transition. furthest: the highest
    milestone ever reached. attempts: of the present step. wrongs: downloads of the result that were not it. submits:
    paid runs that may exist. submits_granted: more, by a person's word. uploads: so far; makes each upload's key its
    own. absences: looks into the history that proved a submit in doubt absent. api: which API and account it was
    submitted to. released: a person let it pass, so no budget stops it. reason: of failed and held, a sentence.
    remedy: what helps. likeness: how the uploaded copy looks, for as long as a result is to be compared with it.
    sent_width, sent_height: of the uploaded copy, pixels; None where it went up in its own size.
    """

    job: Job
    number: int
    state: State
    due_at: float
    since: float
    rect: Rect
    furthest: int = 0
    attempts: int = 0
    wrongs: int = 0
    submits: int = 0
    submits_granted: int = 0
    uploads: int = 0
    asset_ref: str | None = None
    asset_url: str | None = None
    asset_expires_at: float | None = None
    intent_at: float | None = None
    absences: int = 0
    api: str | None = None
    prediction: str | None = None
    output_url: str | None = None
    result_sha256: str | None = None
    result_bytes: int | None = None
    result_width: int | None = None
    result_height: int | None = None
    released: bool = False
    reason: str = ""
    remedy: str = ""
    blame: str = ""
    likeness: str = ""
    sent_width: int | None = None
    sent_height: int | None = None

    @property
    def sent_size(self) -> tuple[int, int]:
        """Width and height of what the service got."""
        if self.sent_width is None or self.sent_height is None:
            return self.rect.width, self.rect.height
        return self.sent_width, self.sent_height

    @property
    def key(self) -> tuple[str, int]:
        """What names it."""
        return self.job.id, self.number

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its picture; else it has neighbours, and their fates hang together."""
        return self.rect == self.job.content.rect

    @property
    def about(self) -> dict[str, object]:
        """What every log line about it carries."""
        tile = {} if self.is_whole else {"tile": self.number}
        return {"job": self.job.id, "picture": shown(self.job.path), **tile}


@dataclass(frozen=True, slots=True)
class Whole:
    """A job with all its tiles, by number; there is at least one."""

    tiles: tuple[Tile, ...]

    @property
    def job(self) -> Job:
        """Whose they are."""
        return self.tiles[0].job

    @property
    def standing(self) -> Tile:
        """The tile that says where the job stands: the first that failed, or is held; else one that is least far."""
        for state in (State.FAILED, State.HELD):
            if stopped := [tile for tile in self.tiles if tile.state is state]:
                return min(stopped, key=lambda tile: tile.since)
        return min(self.tiles, key=lambda tile: MILESTONES.index(tile.state))

    @property
    def state(self) -> State:
        """Where the job stands."""
        return self.standing.state

    @property
    def submits(self) -> int:
        """Paid runs that may exist, of all."""
        return sum(tile.submits for tile in self.tiles)

    @property
    def is_paid(self) -> bool:
        """Whether there is, or may be, something of it that is paid and will not be paid again."""
        return any(tile.state not in (*UNPAID, *STOPPED) for tile in self.tiles)

    @property
    def result_size(self) -> tuple[int, int]:
        """Width and height of what comes of it: as it came where it came in one and in its size (engines round
        differently), else what was asked for. What was made smaller before it was sent comes too small."""
        one, content = self.tiles[0], self.job.content
        expected = self.job.recipe.result_size(content.width, content.height)
        if len(self.tiles) == 1 and one.result_width is not None and one.result_height is not None:
            came = one.result_width, one.result_height
            return came if size_fits(expected, came) else expected
        return expected


@dataclass(frozen=True, slots=True)
class Settled:
    """A file that settled and was read. failure: why it cannot be sent, or None.

    tiles: what is to be sent, one after another; empty is the whole picture in one. note: as in Job.
    """

    folder: int
    path: bytes
    look: Look
    detected_at: float
    content: Content
    recipe: Recipe
    failure: Fault | None
    tiles: tuple[Rect, ...] = ()
    traits: Traits = PLAIN
    note: str = ""

    @property
    def rects(self) -> tuple[Rect, ...]:
        """What its tiles are to be."""
        return self.tiles or (self.content.rect,)


@dataclass(frozen=True, slots=True)
class Bill:
    """What was billed: USD, and the seconds of the prediction that made the result, where known."""

    cost_usd: float = 0.0
    predict_seconds: float | None = None

    @classmethod
    def summed(cls, bills: Iterable["Bill"]) -> "Bill":
        """Of several tiles together; the seconds of those where they are known."""
        bills = list(bills)
        seconds = [bill.predict_seconds for bill in bills if bill.predict_seconds is not None]
        return cls(sum(bill.cost_usd for bill in bills), sum(seconds) if seconds else None)


@dataclass(frozen=True, slots=True)
class Picture:
    """A settled file. path: bytes, relative to the inbox. outbox and result_path: where its result's name is claimed.

    result_sha256: of the result that we last wrote there, or None.
    """

    id: int
    folder: int
    path: bytes
    look: Look
    job: str
    phase: Phase
    detected_at: float
    outbox: bytes | None
    result_path: bytes | None
    result_sha256: str | None
