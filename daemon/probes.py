"""
Probes: gates that nobody needs at the moment are looked at too.

Who waits at a closed gate probes it. Where nobody waits (the network was down at the start, and no picture has come
yet) a gate would stay closed, and be told as a problem, until somebody comes: so a look that costs nothing takes the
place of the probe. It opens the gate, or closes it for longer. Outboxes are looked at in any case.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from daemon.gates import Gates, outbox_gate
from daemon.rules.faults import Fault, Gate
from daemon.rules.lifecycle import State
from daemon.world import World

LOOK_SECONDS = 30.0
PATIENCE_SECONDS = 60.0  # so long those who wait have to come for it themselves
# The states whose tiles come to a gate by themselves. Uploads do not where the reserve is full: the storage is looked
# at in any case, and so are outboxes.
VISITORS = {
    Gate.API: (State.ADMITTED, State.UPLOADED),
    Gate.ROOM: (State.ADMITTED, State.UPLOADED),
    Gate.HISTORY: (State.SUBMITTING,),
    Gate.POLL: (State.SUBMITTED,),
    Gate.FETCH: (State.READY,),
    Gate.STAGING: (State.READY,),
}


class Probes:
    """outboxes: by folder."""

    def __init__(self, world: World, gates: Gates, outboxes: Mapping[int, Path]) -> None:
        self._world = world
        self._gates = gates
        self._outboxes = outboxes

    async def watch(self, stopping: asyncio.Event) -> None:
        """The loop round `step`."""
        while not stopping.is_set():
            await self.step()
            await self._world.clock.wait(stopping, LOOK_SECONDS)

    async def step(self) -> None:
        """Look at every outbox, and at every gate that nobody came to."""
        await asyncio.gather(*map(self._look_at, self._outboxes))
        for name in self._gates.neglected(PATIENCE_SECONDS):
            gate, _, folder = name.partition(":")
            if await self._world.ledger.count(*VISITORS.get(Gate(gate), ())):
                continue
            try:
                await self._look(Gate(gate), int(folder or 0))
            except Fault as fault:
                self._gates.close(name, fault)
            else:
                self._gates.open(name)

    async def _look_at(self, folder: int) -> None:
        """One that went away is told before somebody misses a result."""
        gate = outbox_gate(folder)
        if self._gates.seconds_left(gate) is None:
            try:
                await self._world.disk.ready(self._outboxes[folder], 0)
            except Fault as fault:
                self._gates.close(gate, fault)

    async def _look(self, gate: Gate, folder: int) -> None:
        world = self._world
        match gate:
            case Gate.API | Gate.POLL | Gate.HISTORY:
                await world.predictor.check()
            case Gate.STORAGE:
                await world.storage.check()
            case Gate.STAGING | Gate.ROOM | Gate.OUTBOX:
                await world.disk.ready(self._outboxes.get(folder), 0)
            case Gate.FETCH:
                pass  # Nobody waits for anything from there.
