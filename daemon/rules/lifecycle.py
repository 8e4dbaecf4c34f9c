"""
Lifecycle: every state, every event, every transition, in one table; everything that moves a tile stands here.

A state is a fact on disk. An event is what a stage learnt; its fields are the columns that it changes. `advance` is the
only way from one state to the next; an event that the table does not know in that state is a defect of ours and raises
`IllegalTransition`, before anything is recorded.
"""

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from daemon.rules.job import Tile


class State(StrEnum):
    """Where a tile is. The table in `TRANSITIONS` says where it can go."""

    ADMITTED = "admitted"  # settled, decodable, hashed, unique
    UPLOADED = "uploaded"  # the service can read the asset
    SUBMITTING = "submitting"  # a paid submit may have left the house
    SUBMITTED = "submitted"  # the API gave a prediction id
    READY = "ready"  # the API says that there is a result
    FETCHED = "fetched"  # the result is whole in staging
    DONE = "done"  # result and sidecar are in the outbox
    FAILED = "failed"  # given up; the reason is recorded
    HELD = "held"  # waits for a person's release, or for the budget's new day


class IllegalTransition(AssertionError):
    """An event that cannot happen in this state."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something learnt about a tile."""

    name: ClassVar[str] = "event"


@dataclass(frozen=True, slots=True)
class Uploaded(Event):
    """The storage has it. sent_width, sent_height: of what it has, where that was made smaller."""

    name: ClassVar[str] = "uploaded"
    asset_ref: str
    asset_url: str
    asset_expires_at: float | None
    likeness: str = ""
    sent_width: int | None = None
    sent_height: int | None = None


@dataclass(frozen=True, slots=True)
class Stale(Event):
    """The asset's URL is too old for the service to read, or its object is gone."""

    name: ClassVar[str] = "stale"


@dataclass(frozen=True, slots=True)
class Intended(Event):
    """We are about to submit; recorded before the POST, since the POST cannot be repeated."""

    name: ClassVar[str] = "submitting"
    intent_at: float
    api: str
    asset_url: str
    asset_expires_at: float | None


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """The service said that nothing was created."""

    name: ClassVar[str] = "refused"


@dataclass(frozen=True, slots=True)
class Accepted(Event):
    """The service gave us an id."""

    name: ClassVar[str] = "submitted"
    prediction: str


@dataclass(frozen=True, slots=True)
class Found(Event):
    """A submit in doubt stands in the history."""

    name: ClassVar[str] = "found"
    prediction: str


@dataclass(frozen=True, slots=True)
class Missed(Event):
    """Looked, after the grace, and the history did not have it; once is not enough."""

    name: ClassVar[str] = "missed"


@dataclass(frozen=True, slots=True)
class Absent(Event):
    """A submit in doubt is provably not in the history."""

    name: ClassVar[str] = "absent"


@dataclass(frozen=True, slots=True)
class Forgotten(Event):
    """The service does not know the id that it gave us."""

    name: ClassVar[str] = "forgotten"


@dataclass(frozen=True, slots=True)
class Succeeded(Event):
    """There is a result, and it is billed."""

    name: ClassVar[str] = "ready"
    output_url: str


@dataclass(frozen=True, slots=True)
class Spoiled(Event):
    """The prediction ended without a result for a passing reason; another run may do better."""

    name: ClassVar[str] = "spoiled"
    reason: str


@dataclass(frozen=True, slots=True)
class Expired(Event):
    """The result's link is gone; ask for a fresh one."""

    name: ClassVar[str] = "expired"


@dataclass(frozen=True, slots=True)
class Fetched(Event):
    """The result is whole, checked and synced in staging."""

    name: ClassVar[str] = "fetched"
    result_sha256: str
    result_bytes: int
    result_width: int
    result_height: int


@dataclass(frozen=True, slots=True)
class Skipped(Event):
    """It is large enough as it is: its source is the result."""

    name: ClassVar[str] = "skipped"
    result_sha256: str
    result_bytes: int
    result_width: int
    result_height: int


@dataclass(frozen=True, slots=True)
class Missing(Event):
    """The staged result is no longer what was fetched."""

    name: ClassVar[str] = "missing"


@dataclass(frozen=True, slots=True)
class Written(Event):
    """Every picture that waited for this has its result and its sidecar."""

    name: ClassVar[str] = "done"


@dataclass(frozen=True, slots=True)
class Wanted(Event):
    """A copy wants the result, and no outbox has it any more; the service may."""

    name: ClassVar[str] = "wanted"


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """Given up."""

    name: ClassVar[str] = "failed"
    reason: str
    remedy: str
    blame: str


@dataclass(frozen=True, slots=True)
class Withdrawn(Event):
    """The source left the inbox, or changed, before anything was paid."""

    name: ClassVar[str] = "withdrawn"
    reason: str
    remedy: str = ""
    blame: str = "picture"


@dataclass(frozen=True, slots=True)
class Held(Event):
    """Money in doubt, a budget reached, a big drop: waits for a release. due_at: when it is released by itself."""

    name: ClassVar[str] = "held"
    reason: str
    remedy: str
    due_at: float


@dataclass(frozen=True, slots=True)
class Released(Event):
    """A person, or the budget's new day, lets it go on. submits_granted: paid runs allowed beyond the usual."""

    name: ClassVar[str] = "released"
    submits_granted: int
    by_person: bool


@dataclass(frozen=True, slots=True)
class Retried(Event):
    """A person, or the same file dropped in again, wants another try."""

    name: ClassVar[str] = "retried"


NEVER = 1e15  # A due time that does not come: some 30 million years from now.

S = State
TRANSITIONS: dict[State, dict[type[Event], State]] = {
    S.ADMITTED: {Uploaded: S.UPLOADED, Skipped: S.FETCHED, Failed: S.FAILED, Withdrawn: S.FAILED, Held: S.HELD},
    S.UPLOADED: {
        Intended: S.SUBMITTING,
        Stale: S.ADMITTED,
        Failed: S.FAILED,
        Withdrawn: S.FAILED,
        Held: S.HELD,
    },
    S.SUBMITTING: {
        Accepted: S.SUBMITTED,
        Found: S.SUBMITTED,
        Refused: S.UPLOADED,
        Missed: S.SUBMITTING,
        Absent: S.ADMITTED,
        Failed: S.FAILED,
        Held: S.HELD,
    },
    S.SUBMITTED: {Succeeded: S.READY, Spoiled: S.ADMITTED, Failed: S.FAILED, Forgotten: S.SUBMITTING},
    S.READY: {Fetched: S.FETCHED, Expired: S.SUBMITTED, Failed: S.FAILED, Held: S.HELD},
    S.FETCHED: {Written: S.DONE, Missing: S.READY},
    S.DONE: {Wanted: S.READY, Held: S.HELD},
    S.FAILED: {Retried: S.ADMITTED},
    S.HELD: {Released: S.ADMITTED},
}

UNPAID = (S.ADMITTED, S.UPLOADED)  # nothing of it is paid, or can have been since it came here
STOPPED = (S.FAILED, S.HELD)
MILESTONES = (S.ADMITTED, S.UPLOADED, S.SUBMITTING, S.SUBMITTED, S.READY, S.FETCHED, S.DONE)
STAGED = MILESTONES[1:-1]  # something of it may lie in staging that is needed later
EVENTS = tuple(sorted({event for row in TRANSITIONS.values() for event in row}, key=lambda event: event.name))


def advance(tile: "Tile", event: Event, now: float) -> "Tile":
    """The tile after the event. now: seconds since 1970. Raises IllegalTransition."""
    target = TRANSITIONS[tile.state].get(type(event))
    if target is None:
        raise IllegalTransition(f"{event.name} cannot happen to a tile that is {tile.state}")
    changes: dict[str, object] = {"state": target, "since": now, "due_at": now}
    columns = {field.name for field in dataclasses.fields(tile)}
    changes |= {field.name: getattr(event, field.name) for field in dataclasses.fields(event) if field.name in columns}
    milestone = MILESTONES.index(target) if target in MILESTONES else 0
    if milestone > tile.furthest:
        # Attempts are forgiven only on new ground, so that no circle of failures goes on for ever.
        changes |= {"furthest": milestone, "attempts": 0}
    match event:
        case Uploaded():
            changes["uploads"] = tile.uploads + 1
        case Intended():
            # Counted before the POST: a run that may exist is a run.
            changes |= {"submits": tile.submits + 1, "absences": 0, "prediction": None}
        case Refused():
            changes["submits"] = tile.submits - 1
        case Stale() | Expired() | Missing() | Spoiled():
            # Steps back: each round of a circle waits longer than the one before.
            changes["attempts"] = tile.attempts + 1
        case Succeeded():
            changes |= {"reason": "", "remedy": "", "blame": ""}
        case Fetched():
            changes["wrongs"] = 0
        case Written():
            changes["likeness"] = ""  # Nobody compares it any more, and ledgers live long.
        case Missed():
            changes["absences"] = tile.absences + 1
        case Forgotten():
            # A doubt of its own: looks of an earlier one prove nothing.
            changes["absences"] = 0
        case Released() | Retried():
            changes |= {"attempts": 0, "wrongs": 0, "furthest": 0, "reason": "", "remedy": "", "blame": ""}
            # A person who lets a big drop pass, or settles a doubt, has not said that the budget may be passed.
            over_budget = tile.state is State.HELD and tile.due_at < NEVER
            changes["released"] = isinstance(event, Released) and event.by_person and over_budget
            if isinstance(event, Released):
                changes["submits_granted"] = tile.submits_granted + event.submits_granted
        case Failed() | Withdrawn():
            changes["due_at"] = NEVER
            if tile.state is State.ADMITTED:
                # An upload may have been under way: its key is swept, and never used again.
                changes["uploads"] = tile.uploads + 1
            if tile.state is State.SUBMITTING:
                # The only create that fails a picture is one that was refused: nothing was created.
                changes["submits"] = tile.submits - 1
    return dataclasses.replace(tile, **changes)  # type: ignore[arg-type]  # the columns are the events' own fields


def diagram() -> str:
    """The table as a Mermaid state diagram, as the README shows it."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.ADMITTED}"]
    for state, row in TRANSITIONS.items():
        lines += [f"    {state} --> {target}: {event.name}" for event, target in row.items()]
    return "\n".join([*lines, f"    {State.DONE} --> [*]"])
