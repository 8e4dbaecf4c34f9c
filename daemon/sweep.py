"""
Sweep: uploaded objects that nobody will read any more are deleted, whatever the end of their jobs.

The ledger knows every object that was put, also one whose upload a crash cut off; nothing else in the bucket is ever
looked at. An object that cannot be deleted holds up no other: it is tried again, ever more seldom, and what is wrong is
told once.
"""

import asyncio
from collections.abc import Callable, Collection

from daemon.gates import Gates
from daemon.ports import Clock
from daemon.rules import names
from daemon.rules.faults import Fault, Gate
from daemon.rules.reactions import pause
from daemon.world import World

IDLE_SECONDS = 60.0
RETRY_SECONDS_MAX = 3600.0
BATCH = 100
FAILURES_MAX = 3  # in a row; then it is the storage, and not one object


class Sweep:
    """is_done: whether the last look left nothing to do now. problem: why objects stay, a sentence, or ""."""

    def __init__(
        self, world: World, gates: Gates, *, keep: bool, uploading: Callable[[], Collection[tuple[str, int]]]
    ) -> None:
        """keep: objects are meant to stay. uploading: tiles of which one may just be coming into being."""
        self._world = world
        self._gates = gates
        self._keep = keep
        self._uploading = uploading
        self._wake = asyncio.Event()
        # Objects that could not be deleted: how often that was tried, and when it is tried again, monotonic seconds.
        self._stuck: dict[str, tuple[int, float]] = {}
        self.is_done = False
        self.problem = ""

    @property
    def _clock(self) -> Clock:
        return self._world.clock

    def soon(self) -> None:
        """Something may have come to its end."""
        self.is_done = False
        self._wake.set()

    async def watch(self, stopping: asyncio.Event) -> None:
        """The loop round `step`."""
        while not stopping.is_set():
            wait = await self.step()
            await self._clock.wait(self._wake, wait)

    async def step(self) -> float:
        """Delete what is unwanted; returns how long to wait for the next look."""
        self._wake.clear()
        books, failures = self._world.ledger.books, 0
        # Where the storage is known to be away, nothing is asked of it.
        if not self._keep and self._gates.seconds_left(Gate.STORAGE) is not None:
            self.is_done = True
            return IDLE_SECONDS
        while refs := self._due(await books.unwanted_assets(BATCH + len(self._stuck), self._uploading())):
            for ref in refs:
                failures = 0 if await self._delete(ref) else failures + 1
                if failures == FAILURES_MAX:
                    self.is_done = True
                    return IDLE_SECONDS
        self.is_done = not self._wake.is_set()
        return IDLE_SECONDS

    def _due(self, refs: list[str]) -> list[str]:
        now = self._clock.monotonic()
        return [ref for ref in refs if self._stuck.get(ref, (0, now))[1] <= now]

    async def _delete(self, ref: str) -> bool:
        world, (tries, _) = self._world, self._stuck.get(ref, (0, 0.0))
        try:
            if self._keep:
                pass
            elif ref.startswith(names.KEY):
                await world.storage.discard(ref.removeprefix(names.KEY))
            else:
                await world.storage.delete(ref)
        except Fault as fault:
            wait = pause(tries, IDLE_SECONDS, RETRY_SECONDS_MAX, self._clock.dice())
            self._stuck[ref] = tries + 1, self._clock.monotonic() + wait
            tell = world.log.debug if self.problem else world.log.warning
            tell("delete_failed", reason=fault.said, remedy=fault.remedy)
            self.problem = f"Uploaded pictures could not be deleted: {fault.said} {fault.remedy}".strip()
            return False
        self._stuck.pop(ref, None)
        await world.ledger.books.forget_asset(ref)
        if self.problem and not self._stuck:
            self.problem = ""
            world.log.info("delete_works")
        return True
