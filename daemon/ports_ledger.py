"""
Ports of the ledger: what the inside asks of the durable record.

Every method that changes something is durable when it returns. The only exception is LedgerBroken, and then nothing may
go on: without a record nothing moves. `adapters/ledger.py` says what stands or falls together.
"""

from collections.abc import Collection, Iterable
from typing import Protocol

from daemon.rules.admission import Decision
from daemon.rules.budget import Spending
from daemon.rules.job import Bill, Picture, Settled, Tile, Whole
from daemon.rules.lifecycle import Event, Held, State
from daemon.rules.sidecar import ResultFacts


class Deliveries(Protocol):
    """The ledger on pictures on their way to the outbox."""

    async def due(self, folders: Collection[int], limit: int, besides: Collection[int]) -> list[tuple[Picture, Whole]]:
        """Pictures of these folders whose job has an end, with the job."""

    async def still_due(self, picture: Picture) -> Whole | None:
        """The job as it is now, where the picture still waits for its end; else None."""

    async def sources(self, job: str) -> list[Picture]:
        """The pictures that wait for a job."""

    async def gone(self, job: str) -> list[Picture]:
        """The pictures of a job that left before anything was paid."""

    async def copies(self, job: str) -> list[Picture]:
        """The pictures under whose names a job's result was written."""

    async def is_reuse(self, picture: Picture) -> bool:
        """Whether the picture's job was paid for with another picture, or with an earlier drop of this one."""

    async def claim(self, picture: Picture, outbox: bytes, path: bytes) -> bool:
        """Reserve a name in an outbox; False where it is another picture's."""

    async def delivered(
        self, picture: Picture, whole: Whole, result: ResultFacts, at: float, *, reused: bool, taken: bool = False
    ) -> bool:
        """Result and sidecar are in the outbox. Returns whether that finished the job.

        taken: the source was taken out of the inbox, by us; what comes to its name later is new.
        """

    async def reported(self, picture: Picture, whole: Whole, at: float, *, taken: bool = False) -> None:
        """The report of a failed picture is in the outbox."""

    async def withdrawn(self, picture: Picture, whole: Whole, at: float, reason: str) -> None:
        """The picture was its own result, and left its inbox, or changed, before it was delivered."""

    async def finish(self, job: str, at: float) -> bool:
        """Where nobody waits for a fetched result any more, its job is done."""

    async def times(self, job: str, number: int | None = None) -> dict[str, float]:
        """When each milestone of a job was passed by its last tile, or by one tile, for the last time."""


class Books(Protocol):
    """The ledger on money, submits and uploaded objects."""

    async def bill(self, job: str) -> Bill:
        """What a job cost so far, all its tiles together."""

    async def bills(self, job: str) -> dict[int, Bill]:
        """What a job cost so far, by tile."""

    async def spending(self, now: float) -> Spending:
        """What was billed in this day and month, and what is in flight, as of one moment."""

    async def budget_is(self, budget: str, now: float) -> None:
        """The limits, as a text; where they were others, what the budget holds is to be looked at again."""

    async def promised(self, folder: int | None = None, besides: Collection[tuple[str, int]] = ()) -> int:
        """Bytes, estimated, of the results that are on their way to staging, or to a folder's outbox.

        besides: tiles that are counted elsewhere.
        """

    async def predictions(self, besides: Tile) -> set[str]:
        """Predictions that are known to be some other tile's: of the last days, and what is in flight."""

    async def is_billed(self, prediction: str) -> bool:
        """Whether a prediction's end, and what it cost, is known."""

    async def submits(self, since: float) -> list[tuple[float, float | None]]:
        """The submits that left since then, and when each was answered."""

    async def paces(self) -> dict[str, str]:
        """What was learnt of how long predictions take, as `note_pace` was told."""

    async def note_pace(self, name: str, value: str) -> None:
        """Something learnt, for the next start."""

    async def unwanted_assets(self, limit: int, besides: Collection[tuple[str, int]] = ()) -> list[str]:
        """Uploaded objects that no prediction will read any more. besides: tiles that may be being uploaded."""

    async def forget_asset(self, ref: str) -> None:
        """It is deleted, or meant to stay."""


class Ledger(Protocol):
    """The durable record; see `adapters/ledger.py` for what it promises. Raises LedgerBroken alone."""

    identity: str

    @property
    def deliveries(self) -> Deliveries:
        """Pictures on their way out."""

    @property
    def books(self) -> Books:
        """Money, submits, objects."""

    async def admit(self, file: Settled, order: str, source_stays: bool, held: Held | None, at: float) -> Decision:
        """Record a settled file."""

    async def record(self, tile: Tile, event: Event, at: float, *, wait: float = 0.0, bill: Bill | None = None) -> Tile:
        """The tile after the event; durable.

        One that was stopped meanwhile with another tile of its picture is returned as it is, and nothing is recorded.
        """

    async def postpone(self, tile: Tile, due_at: float, *, attempts: int = 0, wrongs: int = 0) -> Tile:
        """The same tile with a later due time. attempts, wrongs: how many more there were."""

    async def bring_forward(self, seconds: float, now: float) -> None:
        """The clock was set back by so much: what waits for a later time waits for an earlier one."""

    async def folders(self) -> list[int]:
        """Every folder that the ledger ever knew."""

    async def now(self, tile: Tile) -> Tile:
        """A tile as it is now; one of a cut that its picture no longer has, has failed."""

    async def whole(self, job: str) -> Whole:
        """A job as it is now."""

    async def due(
        self,
        states: Iterable[State],
        folders: Iterable[int],
        now: float,
        limit: int,
        besides: Collection[tuple[str, int]],
        bytes_max: int | None = None,
    ) -> list[Tile]:
        """Tiles that may take their next step. bytes_max: of small contents alone, among the first of each folder."""

    async def next_due(self, states: Iterable[State], now: float) -> float | None:
        """When the next tile of these states becomes due."""

    async def counts(self) -> dict[State, int]:
        """How many tiles are in each state; of those that ended or stopped, how many jobs."""

    async def count_in(self, state: State, folders: Collection[int]) -> int:
        """How many tiles of these folders are in a state."""

    async def count(self, *states: State) -> int:
        """How many tiles are in these states."""

    async def count_jobs(self, *states: State) -> int:
        """How many jobs have a tile in one of these states; one that has stopped is in no state that moves."""
