"""
Room: whether a result that is about to be paid for will have a place to go.

Staging and an outbox that waits for the result must both take it, besides the results that are on their way. Where
there is no room, or an outbox does not answer, submits wait at a gate of their own (`room`, `room:<folder>`); what was
paid for already goes on.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon.gates import Gates, outbox_gate, room_gate
from daemon.ports import Clock, Disk, Sources
from daemon.ports_ledger import Ledger
from daemon.rules.faults import Fault, Gate
from daemon.rules.job import Tile

FRESH_SECONDS = 5.0  # who answered so lately will answer again


@dataclass(slots=True)
class Room:
    """outboxes: by folder. looking: one at a time for each. answered: when it last answered, monotonic seconds."""

    clock: Clock
    gates: Gates
    ledger: Ledger
    disk: Disk
    outboxes: Mapping[int, Path]
    looking: dict[int, asyncio.Lock] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)

    async def answers(self, folder: int) -> bool:
        """Whether a folder's outbox answers at all: who asks it holds neither a slot nor a place in the minute.

        With an outbox that hangs, one who asks hangs for a few seconds, and nobody else.
        """
        gate = room_gate(folder)
        if folder not in self.outboxes:
            return True
        async with self.looking.setdefault(folder, asyncio.Lock()):
            if self.clock.monotonic() - self.answered.get(folder, float("-inf")) < FRESH_SECONDS:
                return True
            if not self.gates.admits(gate):
                return False  # The one before found out.
            try:
                async with self.gates.through(gate) as visit:
                    visit.learnt = False  # Whether there is room is another question.
                    await self.disk.ready(self.outboxes[folder], 0)
            except Fault as fault:
                self.gates.close(gate, fault)
                return False
            self.answered[folder] = self.clock.monotonic()
            return True

    async def is_there(self, tile: Tile, sources: Sources, expected: Collection[Tile]) -> bool:
        """Whether staging, and an outbox that waits for it, will take the result besides those on their way.

        expected: tiles that are about to leave, whether the ledger knows it yet or not.
        """
        leaving = {each.key for each in expected}
        needs = _result_bytes(tile)
        # The outbox's file may have to be made in staging, beside what it is made of.
        content = tile.job.content
        made = tile.job.recipe.result_bytes(content.width, content.height)
        staged = needs + made + sum(map(_result_bytes, expected))
        if not await self._is_ready(Gate.ROOM, None, staged + await self.ledger.books.promised(None, leaving)):
            return False
        for folder in dict.fromkeys(picture.folder for _, picture in sources):
            if not self.gates.admits(outbox_gate(folder)):
                continue
            there = sum(_result_bytes(each) for each in expected if each.job.folder == folder)
            needs_there = needs + there + await self.ledger.books.promised(folder, leaving)
            if await self._is_ready(room_gate(folder), self.outboxes[folder], needs_there):
                return True
        # Where nobody waits any more, the look at the sources says so.
        return not sources

    async def _is_ready(self, gate: str, outbox: Path | None, bytes_: int) -> bool:
        if not self.gates.admits(gate):
            return False
        try:
            await self.disk.ready(outbox, bytes_)
        except Fault as fault:
            self.gates.close(gate, fault)
            return False
        self.gates.open(gate)
        return True


def _result_bytes(tile: Tile) -> int:
    """How much room its result may need."""
    return tile.job.recipe.result_bytes(tile.rect.width, tile.rect.height)
