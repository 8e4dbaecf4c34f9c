"""
Ports: what the inside asks of the outside, and what it may rely on.

Every method either does what it says or raises `Fault`; no other exception gets past an adapter. Each port that has a
fake has one conformance suite in `tests/conformance/`, run on the fake and on every real adapter.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from daemon.rules.hooks import Hook
from daemon.rules.job import Look, Picture, Tile, Whole
from daemon.rules.recipe import Recipe

T = TypeVar("T")


class Clock(Protocol):
    """Time and dice; nobody else reads the one or rolls the other."""

    def wall(self) -> float:
        """Seconds since 1970 in UTC. May jump: for records and for people, never to measure a pause."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def dice(self) -> float:
        """A random number in [0, 1)."""

    def token(self, bytes_: int) -> str:
        """An unguessable hex string of twice that many digits."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait for `event`, at most `seconds`; True where the event came."""


@dataclass(frozen=True, slots=True)
class Asset:
    """An uploaded copy that the service can read.

    ref: what `delete` needs, opaque, without secrets.
    url: unique to this upload; may carry a signature, so it never goes into a log or a sidecar.
    expires_at: seconds since 1970, or None where the URL lives as long as the object.
    """

    ref: str
    url: str
    expires_at: float | None


class Storage(Protocol):
    """Where the service reads a picture from."""

    async def put(self, key: str, source: BinaryIO, bytes_: int, content_type: str) -> Asset:
        """Store `bytes_` bytes of `source` (from its beginning) and return how to read them.

        key: safe ASCII `[a-z0-9/_.-]`, below the adapter's own prefix. Putting the same bytes under the same key again
        is fine; the object is whole or not there.
        """

    async def fresh(self, asset: Asset, *, look: bool) -> Asset | None:
        """The same object with a URL as fresh as can be had without uploading again; None where it is gone.

        look: whether to see if it is still there, where only the storage itself knows that.
        """

    async def delete(self, ref: str) -> None:
        """Remove the object; one that is gone already is fine."""

    async def discard(self, key: str) -> None:
        """Remove what a put of this key may have left behind whose answer got lost; nothing there is fine.

        A storage that gives its own names, and cannot know, leaves it to the object's expiry.
        """

    async def check(self) -> None:
        """Put, read back and delete a small object; raises the Fault that a picture would meet."""

    async def advice(self) -> list[str]:
        """What costs money or leaves things lying without being wrong, as sentences."""

    async def close(self) -> None:
        """Let go of connections and threads."""


@dataclass(frozen=True, slots=True)
class Running:
    """Not over: ask again. status: the API's own word."""

    status: str


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Over: the result is at `output` (public, for a day). cost_usd and predict_seconds: as billed."""

    output: str
    cost_usd: float
    predict_seconds: float | None


@dataclass(frozen=True, slots=True)
class Spoiled:
    """Over without a result. reason: the API's own text, made one line. passing: whether another run may do better."""

    reason: str
    passing: bool
    cost_usd: float


Progress = Running | Succeeded | Spoiled


class Predictor(Protocol):
    """The prediction API.

    ahead: seconds that its clock is ahead of ours, by its last answer; 0 where that is not known, or not much.
    """

    @property
    def ahead(self) -> float:
        """See above."""

    async def create(self, recipe: Recipe, image_url: str, hook: Hook | None = None) -> str:
        """Start a paid prediction and return its id. Called once per recorded intent and never repeated inside.

        hook: where the API should tell that it is over; no fault repeats it. Raises Fault with `created` NO where
        nothing was created for certain, MAYBE everywhere else.
        """

    async def get(self, prediction: str) -> Progress:
        """Ask once how a prediction stands. Raises Unknown where the API does not know the id."""

    async def find(self, model: str, image_url: str, since: float, others: Collection[str] = ()) -> str | None:
        """Search the account's history since `since` (seconds since 1970) for the prediction made from `image_url`.

        others: predictions that are known to be something else, and need not be asked for.

        None where the history as it stands now does not have it. Raises Fault where the history cannot be read.
        """

    async def download(self, url: str, sink: BinaryIO, bytes_max: int) -> int:
        """Write the body behind a result URL to `sink`; returns how many bytes. Never sends the key.

        Raises Expired where the link is gone, NotAPicture for a body above `bytes_max`, Fault for everything else.
        """

    async def check(self) -> None:
        """Ask something that costs nothing: raises the Fault that a create would meet, as far as that can show it."""

    async def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found: the files that `known` did not have, how many files there were in all, what was unreadable."""

    found: list[tuple[bytes, Look]]
    files: int
    unreadable: list[str]


class Inbox(Protocol):
    """A folder that pictures are dropped into. Paths are bytes, relative to it.

    While the inbox is unavailable (missing, or with another file system in its place) every call raises Fault (HOUSE),
    but for `takes`, `is_folder` and `why_ignored`, on which nothing hangs.

    visited: folders read so far, by all scans; while it grows, a scan that takes long makes progress.
    """

    visited: int

    async def scan(self, known: Collection[int], under: bytes = b"") -> Scan:
        """Every file that may be a picture, below `under`. known: `mark`s of files that need no second look."""

    async def look(self, path: bytes) -> Look | None:
        """The file's stat, or None where there is no such regular file."""

    def takes(self, path: bytes) -> bool:
        """Whether a scan would take a file of this path, by its name."""

    async def why_ignored(self, path: bytes) -> str:
        """Why a scan passes over what has this name, as a sentence, or ""."""

    async def is_folder(self, path: bytes) -> bool:
        """Whether it is a folder that a scan would enter."""

    def open(self, path: bytes, look: Look) -> AbstractAsyncContextManager[BinaryIO]:
        """The file, opened for reading. Raises Changed or Vanished where it is not what `look` says, on leaving too."""

    def copy(self, path: bytes, look: Look) -> AbstractAsyncContextManager[tuple[BinaryIO, str]]:
        """A private copy of the file, and its sha256: nothing in the inbox can change it or hold up who reads it.

        Raises as `open` does.
        """

    async def aside(self, work: Callable[[], T]) -> T:
        """Run what may hang as the folder does, in the folder's own threads."""

    async def archive(self, path: bytes, look: Look, to: Path) -> None:
        """Move a source away, keeping its place in the tree; nothing is overwritten. Changed or gone: left alone."""

    async def delete(self, path: bytes, look: Look) -> None:
        """Remove a source. Changed or gone: left alone."""


# The files that have a job's content, each with the inbox that it lies in.
Sources = Sequence[tuple[Inbox, Picture]]


def mark(path: bytes, look: Look) -> int:
    """A file and its stat as one number, for a set of what is known; good within one process."""
    return hash((path, look.size, look.mtime_ns, look.inode))


class Disk(Protocol):
    """Staging and outboxes. What is there under its final name is whole and synced."""

    def staged(self, tile: Tile) -> Path:
        """Where a tile's result is staged."""

    def incoming(self, tile: Tile) -> AbstractAsyncContextManager[tuple[BinaryIO, Path]]:
        """A file in staging to receive a result; gone again unless `keep` is called inside."""

    async def keep(self, tile: Tile, incoming: Path) -> tuple[str, int]:
        """Sync an incoming file, give it its staged name; returns its sha256 and size in bytes."""

    async def reject(self, tile: Tile, incoming: Path) -> Path:
        """Set an incoming file aside, for a person who is told where; it goes away with the job."""

    async def is_staged(self, tile: Tile) -> bool:
        """Whether the staged file is what was fetched, by size and sha256."""

    async def ready(self, outbox: Path | None, bytes_: int) -> None:
        """Return where an outbox, or staging (None), is there, takes files and has room for so many bytes."""

    async def place(
        self, source: Path, outbox: Path, path: bytes, ours: str | None, mtime_ns: int | None = None
    ) -> tuple[str, int] | None:
        """Put a copy of `source` into the outbox: temporary name, sync, rename; returns its sha256 and size in bytes.

        ours: the sha256 of what we last wrote there. None, and nothing done, where the name is taken by something else.
        mtime_ns: what the copy is dated, nanoseconds since 1970; None is now.
        """

    async def note(self, outbox: Path, path: bytes, text: bytes) -> None:
        """Put a sidecar or a report into the outbox, replacing an older one: temporary name, sync, rename, sync."""

    async def is_foreign(self, outbox: Path, path: bytes, inbox: str | None = None) -> bool:
        """Whether there is something under a sidecar's or a report's name that is neither.

        inbox: as it stands in the report, where only one of this inbox will do.
        """

    async def discard(self, outbox: Path, path: bytes) -> None:
        """Remove a sidecar or a report of ours; gone already is fine."""

    async def recall(self, path: Path, sha256: str, target: Path) -> bool:
        """Copy an earlier result from its outbox to `target` in staging; False where nothing there has this content.

        Raises Fault where that outbox is away: nobody can tell then.
        """

    async def remove(self, path: Path) -> None:
        """Remove a file of ours from staging; gone already is fine."""

    async def clear(self, whole: Whole) -> None:
        """Remove what staging holds of a job that is over."""

    def keepsake(self, tile: Tile) -> Path:
        """Where is kept what a tile's result gets back later."""

    async def kept(self, tile: Tile) -> Path | None:
        """The same, where there is something."""

    async def secure(self, tile: Tile) -> None:
        """Sync what is kept of a tile, if anything is."""

    async def take(self, source: BinaryIO, path: Path) -> None:
        """Copy an open file to a path in staging, from its beginning."""

    def outgoing(self, tile: Tile, source: BinaryIO) -> AbstractAsyncContextManager[tuple[Path, Path]]:
        """A private copy of a source in staging, and a place for what is to be uploaded of it; for as long as that
        takes."""

    def reading(self, path: Path) -> AbstractAsyncContextManager[BinaryIO]:
        """A file in staging, opened."""


class Watcher(Protocol):
    """Hints of what changed in an inbox; never the truth. All but `take` may hang where the inbox's mount does."""

    def begin(self, wake: Callable[[], None]) -> None:
        """Start watching; `wake` is called, in another thread, when there is something to take. Raises Fault."""

    def take(self) -> tuple[set[bytes], bool]:
        """The paths hinted at since the last time, and whether hints were lost."""

    def is_alive(self) -> bool:
        """Whether it still watches the folder that is there now."""

    def end(self) -> None:
        """Stop watching; waits for the thread."""
