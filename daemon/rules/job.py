"""
The words: picture, job, tile. Plain frozen values, as the ledger keeps them.

A picture is a file in an inbox. A job is one content under one recipe: what is paid for. Several pictures (copies) may
wait for one job. A tile is what travels: each job has at least one.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from daemon.rules.faults import Fault
from daemon.rules.lifecycle import State
from daemon.rules.names import shown
from daemon.rules.recipe import Recipe


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


@dataclass(frozen=True, slots=True)
class Job:
    """One content under one recipe. folder, path: where it was first seen; the ledger's number, and below its inbox."""

    id: str
    folder: int
    path: bytes
    content: Content
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Tile:
    """What travels. Times are seconds since 1970.

    due_at: not before. since: of the last transition. furthest: the highest milestone ever reached. attempts: of the
    present step. wrongs: downloads of the result that were not it. submits: paid runs that may exist.
    submits_granted: more, by a person's word. uploads: so far; makes each upload's key its own. absences: looks into
    the history that proved a submit in doubt absent. api: which API and account it was submitted to. released: a
    person let it pass, so no budget stops it. reason: of failed and held, a sentence. remedy: what helps.
    """

    job: Job
    number: int
    state: State
    due_at: float
    since: float
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

    @property
    def key(self) -> tuple[str, int]:
        """What names it."""
        return self.job.id, self.number

    @property
    def about(self) -> dict[str, object]:
        """What every log line about it carries."""
        return {"job": self.job.id, "picture": shown(self.job.path)}


@dataclass(frozen=True, slots=True)
class Settled:
    """A file that settled and was read. failure: why it cannot be sent, or None."""

    folder: int
    path: bytes
    look: Look
    detected_at: float
    content: Content
    recipe: Recipe
    failure: Fault | None


@dataclass(frozen=True, slots=True)
class Bill:
    """What was billed: USD, and the seconds of the prediction that made the result, where known."""

    cost_usd: float = 0.0
    predict_seconds: float | None = None


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
