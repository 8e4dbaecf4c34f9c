"""
Turns: which picture comes next.

Within a folder its own order counts; folders take turns, so that five urgent pictures are not behind ten thousand of
another folder; and large uploads never have all upload workers, so that small ones pass them. What is in flight comes
before what could leave. A folder that does not answer is passed over, and holds up no other.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daemon.gates import Gates, outbox_gate, room_gate
from daemon.ports import Clock
from daemon.ports_ledger import Ledger
from daemon.rules.faults import Gate
from daemon.rules.job import Tile
from daemon.rules.lifecycle import NEVER, State
from daemon.world import Folder

if TYPE_CHECKING:
    from daemon.config_model import Config

RESERVE = 4  # uploaded pictures kept ready for a free slot, beyond as many as there are slots and upload workers
LARGE_BYTES = 4 << 20  # an upload of this size takes seconds on most uplinks
IN_FLIGHT = (State.SUBMITTED, State.SUBMITTING)
Key = tuple[str, int]


@dataclass(slots=True)
class Turns:
    """admits: whether a submit of a folder could leave now. known: every folder that the ledger ever knew: what is in
    flight goes on although its folder is no longer configured, as it is paid for. large: uploads in hand that are.
    served: the folder that was served last, by states.
    """

    config: "Config"
    clock: Clock
    ledger: Ledger
    gates: Gates
    at_work: Mapping[int, Folder]
    admits: Callable[[int], bool]
    known: list[int] = field(default_factory=list)
    large: set[Key] = field(default_factory=set)
    served: dict[tuple[State, ...], int] = field(default_factory=dict)

    async def due(
        self,
        states: tuple[State, ...],
        folders: Collection[int],
        room: int,
        in_hand: Collection[Key],
        *,
        at: float | None = None,
        bytes_max: int | None = None,
    ) -> list[Tile]:
        """What of these folders may take its next step; where there is room for one only, they take turns.

        at: by when it has to be due, seconds since 1970; now where it is None.
        """
        last = self.served.get(states)
        turn = self.known.index(last) + 1 if last in self.known else 0
        in_turn = [folder for folder in self.known[turn:] + self.known[:turn] if folder in folders]
        at = self.clock.wall() if at is None else at
        found = await self.ledger.due(states, in_turn, at, room, in_hand, bytes_max)
        if found:
            self.served[states] = found[-1].job.folder
        return found

    def _answering(self) -> list[int]:
        """Those where looking at a source would not wait for an inbox that is away, or hangs."""
        return [id_ for id_ in self.known if id_ not in self.at_work or self.at_work[id_].detector.fault is None]

    def _delivering(self) -> list[int]:
        """Those of which pictures could leave, as far as that is their own affair."""
        return [id_ for id_ in self._answering() if all(map(self.gates.admits, (outbox_gate(id_), room_gate(id_))))]

    async def uploads(self, room: int, in_hand: Collection[Key]) -> list[Tile]:
        """Uploads run ahead of the slots, but not far: their URLs would grow old."""
        most = self.config.storage.uploads_max
        folders, waiting = self._delivering(), (State.ADMITTED,)
        # What waits for its own outbox or inbox, perhaps for days, takes no place in the reserve from the others.
        ahead = await self.ledger.count_in(State.UPLOADED, folders) + len(in_hand)
        room = min(room, self.config.api.in_flight_max + most + RESERVE - ahead)
        if room <= 0:
            return []
        found = await self.due(waiting, folders, room, in_hand)
        self.large.intersection_update(in_hand)
        large = [tile.key for tile in found if tile.job.content.bytes > LARGE_BYTES]
        room_for_large = max(0, max(1, most - 1) - len(self.large))
        self.large.update(large[:room_for_large])
        if later := set(large[room_for_large:]):
            besides = {*in_hand, *(tile.key for tile in found)}
            found = [tile for tile in found if tile.key not in later]
            found += await self.due(waiting, folders, room - len(found), besides, bytes_max=LARGE_BYTES)
        return found

    async def flights(self, room: int, in_hand: Collection[Key]) -> list[Tile]:
        """What is in flight first; then what could leave."""
        # Whenever it is to be asked about next: it runs, and takes a slot.
        found = await self.due(IN_FLIGHT, self.known, room, in_hand, at=NEVER)
        if len(found) < room:
            ready = list(filter(self.admits, self._answering()))
            found += await self.due((State.UPLOADED,), ready, room - len(found), in_hand)
        return found

    async def next_flight(self) -> float | None:
        """When there may be more of them, seconds since 1970."""
        wall = self.clock.wall()
        due = await self.ledger.next_due((*IN_FLIGHT, State.UPLOADED), wall)
        gates: list[str] = [Gate.API, Gate.STORAGE, Gate.ROOM]
        gates += [gate(folder) for folder in self.at_work for gate in (outbox_gate, room_gate)]
        waits = [self.gates.seconds_left(gate) for gate in gates]
        times = [wall + wait for wait in waits if wait is not None and wait > 0]
        return min([*times, *([] if due is None else [due])], default=None)
