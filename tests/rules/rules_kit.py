"""What the tests of the rules share: a tile, its picture, one event of each kind, and quick properties."""

from typing import Any

from hypothesis import HealthCheck, settings

from daemon.rules import lifecycle
from daemon.rules.job import Content, Job, Look, Phase, Picture, Tile, Whole
from daemon.rules.lifecycle import Event, State
from daemon.rules.recipe import Recipe

NOW = 1_790_000_000.0
SHA = "ab" * 32
SECRET = "X-Goog-Signature=5ecre7"

# The same examples in every run: a property that fails, fails for everybody.
# Nothing here depends on how fast or how busy the machine is.
quick = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def a_job(path: bytes = b"trip/a.jpg") -> Job:
    recipe = Recipe()
    return Job(recipe.job_id(SHA), 1, path, Content(SHA, 1000, 30, 20, "JPEG"), recipe)


def a_tile(state: State = State.ADMITTED, **columns: Any) -> Tile:
    known: dict[str, Any] = {"job": a_job(), "number": 0, "state": state, "due_at": NOW, "since": NOW}
    known |= columns
    return Tile(**({"rect": known["job"].content.rect} | known))


def a_whole(state: State = State.ADMITTED, **columns: Any) -> Whole:
    """A job with one tile."""
    return Whole((a_tile(state, **columns),))


def a_picture(path: bytes = b"trip/a.jpg", **columns: Any) -> Picture:
    known: dict[str, Any] = {
        "id": 1,
        "folder": 1,
        "path": path,
        "look": Look(1000, 1_700_000_000_123_456_789, 7),
        "job": a_job().id,
    }
    rest = {"phase": Phase.DUE, "detected_at": NOW, "outbox": None, "result_path": None, "result_sha256": None}
    return Picture(**(known | rest | columns))


# One of each kind, by name.
EVENTS: dict[str, Event] = {
    event.name: event
    for event in (
        lifecycle.Uploaded("ref", f"https://storage.example.org/o?{SECRET}", NOW + 86_400, "grey"),
        lifecycle.Skipped(SHA, 5000, 30, 20),
        lifecycle.Stale(),
        lifecycle.Intended(
            NOW, "https://api.example.org/v1#0123", f"https://storage.example.org/o?{SECRET}", NOW + 86_400
        ),
        lifecycle.Refused(),
        lifecycle.Accepted("id-1"),
        lifecycle.Found("id-1"),
        lifecycle.Missed(),
        lifecycle.Absent(),
        lifecycle.Forgotten(),
        lifecycle.Succeeded("https://results.example.org/r.png"),
        lifecycle.Spoiled("CUDA out of memory"),
        lifecycle.Expired(),
        lifecycle.Fetched(SHA, 5000, 120, 80),
        lifecycle.Missing(),
        lifecycle.Written(),
        lifecycle.Wanted(),
        lifecycle.Failed("It is not a picture.", "Save it again.", "picture"),
        lifecycle.Withdrawn("It left its inbox."),
        lifecycle.Held("The budget is reached.", "Wait.", NOW + 3600),
        lifecycle.Released(submits_granted=1, by_person=True),
        lifecycle.Retried(),
    )
}
