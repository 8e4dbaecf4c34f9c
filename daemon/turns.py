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
    """

    config: "Config"
    clock: Clock
    ledger: Ledger
    gates: Gates
    at_work: Mapping[int, Folder]
    admits: Callable[[int], bool]
    known: list[int] = field(default_factory=list)
    large: set[Key] = field(default_factory=set)
    _turn: int = 0

    def folders(self) -> list[int]:
        """The folders, each time with another one first: where there is room for one only, they take turns."""
        self._turn += 1
        start = self._turn % max(1, len(self.known))
        return self.known[start:] + self.known[:start]

    def _answering(self) -> list[int]:
        """Those where looking at a source would not wait for an inbox that is away, or hangs."""
        return [id_ for id_ in self.folders() if id_ not in self.at_work or self.at_work[id_].detector.fault is None]

    async def uploads(self, room: int, in_hand: Collection[Key]) -> list[Tile]:
        """Uploads run ahead of the slots, but not far: their URLs would grow old."""
        most = self.config.storage.uploads_max
        ahead = await self.ledger.count(State.UPLOADED) + len(in_hand)
        room = min(room, self.config.api.in_flight_max + most + RESERVE - ahead)
        if room <= 0:
            return []
        now, folders = self.clock.wall(), self._answering()
        found = await self.ledger.due((State.ADMITTED,), folders, now, room, in_hand)
        self.large.intersection_update(in_hand)
        room_for_large = max(1, most - 1) - len(self.large)
        large = [tile.key for tile in found if tile.job.content.bytes > LARGE_BYTES]
        self.large.update(large[: max(0, room_for_large)])
        if later := set(large[max(0, room_for_large) :]):
            besides = {*in_hand, *(tile.key for tile in found)}
            found = [tile for tile in found if tile.key not in later]
            room -= len(found)
            found += await self.ledger.due((State.ADMITTED,), folders, now, room, besides, bytes_max=LARGE_BYTES)
        return found

    async def flights(self, room: int, in_hand: Collection[Key]) -> list[Tile]:
        """What is in flight first; then what could leave."""
        # Whenever it is to be asked about next: it runs, and takes a slot.
        found = await self.ledger.due(IN_FLIGHT, self.folders(), NEVER, room, in_hand)
        if len(found) < room:
            ready, now = list(filter(self.admits, self._answering())), self.clock.wall()
            found += await self.ledger.due((State.UPLOADED,), ready, now, room - len(found), in_hand)
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
