"""
Delivery: the lane that ends a picture's journey, with its result in the outbox or with the report of its failure.

A result that staging lost is fetched again; a copy whose result nobody has any more is fetched again while the service
keeps it, and held for a person after that. A folder whose outbox is broken waits at a gate of its own.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from daemon.gates import Gates, outbox_gate
from daemon.pipeline.write import ResultLost, Unstaged
from daemon.rules import names
from daemon.rules.faults import Changed, Fault, Gate, LedgerBroken, Vanished
from daemon.rules.job import Picture, Tile, Whole
from daemon.rules.lifecycle import NEVER, Held, Missing, State, Wanted
from daemon.rules.reactions import pause, step_back
from daemon.world import Folder, World

RESULT_LIFE_SECONDS = 23 * 3600.0  # the service keeps outputs for a day
RETRY_SECONDS = 5.0
RETRY_SECONDS_MIN = 0.5
RETRY_SECONDS_MAX = 300.0


@dataclass(slots=True)
class Delivery:
    """record: tells the ledger, the log and the lanes. delays: when a picture may be tried again, monotonic
    seconds. failures: how often it was tried in vain.
    """

    world: World
    gates: Gates
    folders: Mapping[int, Folder]
    record: Callable[..., Awaitable[Tile]]
    step: Callable[[], AbstractContextManager[None]]
    delays: dict[int, float] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def find(self, id_: int, room: int, in_hand: set[int]) -> list[tuple[Picture, Whole]]:
        """Pictures of a folder whose job has an end."""
        now = self.world.clock.monotonic()
        self.delays = {picture: due for picture, due in self.delays.items() if due > now}
        folder = self.folders[id_]
        takes = folder.config.after != "keep" or folder.config.after_failure != "keep"
        # A source that is to be taken away cannot be while its inbox is, and who waits for that inbox hangs with it.
        if not self.gates.admits(outbox_gate(id_)) or (takes and folder.detector.fault is not None):
            return []
        return await self.world.ledger.deliveries.due([id_], room, [*in_hand, *self.delays])

    async def next_due(self, id_: int) -> float | None:
        """When a picture of a folder may be tried again, wall seconds."""
        clock = self.world.clock
        now = clock.monotonic()
        waits = [due - now for due in self.delays.values()]
        if (wait := self.gates.seconds_left(outbox_gate(id_))) is not None:
            waits.append(wait)
        return clock.wall() + max(min(waits), RETRY_SECONDS_MIN) if waits else None

    async def write(self, picture: Picture, whole: Whole) -> None:
        """Deliver or report one picture."""
        about = {"job": whole.job.id, "picture": names.shown(picture.path)}
        folder = self.folders[picture.folder]
        world = self.world
        try:
            async with self.gates.through(outbox_gate(picture.folder)) as visit:
                # It may have waited: the picture may have been replaced, its job tried again.
                current = await world.ledger.deliveries.still_due(picture)
                if current is None:
                    visit.learnt = False
                    return
                whole = current
                with self.step():
                    done = await self._end(picture, whole, folder)
        except Unstaged as lost:
            await self._fetch_again(lost.tiles)
        except ResultLost:
            async with self.asking:
                # Copies lose a result together; the first that says so has said it.
                whole = await world.ledger.whole(whole.job.id)
                if whole.state is State.DONE:
                    await self._want_again(whole)
        except LedgerBroken:
            raise
        except (Vanished, Changed) as gone:
            # Only a picture that is its own result is read again here. Should it come back, it is a new one.
            await world.ledger.deliveries.withdrawn(picture, whole, world.clock.wall(), gone.said)
            folder.detector.forget(picture.path, picture.look)
            world.log.info("withdrawn", **about, reason=gone.said)
        except Fault as fault:
            if fault.gate is Gate.STAGING:
                self.gates.close(fault.gate, fault)
            if fault.gate is None and picture.id not in self.failures:
                world.log.warning("write_failed", **about, reason=fault.said, remedy=fault.remedy)
            self._delay(picture)
        else:
            self.failures.pop(picture.id, None)
            seconds = round(world.clock.wall() - picture.detected_at, 3)
            world.log.info(done, **about, seconds=seconds)
            kept = folder.config.after_failure if whole.state is State.FAILED else folder.config.after
            if kept != "keep":
                folder.detector.forget(picture.path, picture.look)

    async def _end(self, picture: Picture, whole: Whole, folder: Folder) -> str:
        """Write the picture's end; returns what it is called in the log."""
        writer = self.world.writer
        if whole.state is State.FAILED:
            await writer.report(picture, whole, folder.config, folder.inbox)
            first = (await self.world.ledger.whole(whole.job.id)).tiles[0]
            if first.state is State.FAILED:
                with contextlib.suppress(Fault):
                    # Another try uploads it, and keeps it, again.
                    await self.world.disk.remove(self.world.disk.keepsake(first))
            return "reported"
        return "done" if await writer.deliver(picture, whole, folder.config, folder.inbox) else "delivered"

    async def _fetch_again(self, lost: Sequence[Tile]) -> None:
        """What staging lost, and no more: other parts of the result are still there."""
        async with self.asking:
            for tile in [await self.world.ledger.now(each) for each in lost]:
                if tile.state is State.FETCHED:
                    await self.record(tile, Missing(), wait=step_back(tile, self.world.clock.dice()))

    def _delay(self, picture: Picture) -> None:
        clock, failures = self.world.clock, self.failures.get(picture.id, 0)
        self.failures[picture.id] = failures + 1
        self.delays[picture.id] = clock.monotonic() + pause(failures, RETRY_SECONDS, RETRY_SECONDS_MAX, clock.dice())

    async def _want_again(self, whole: Whole) -> None:
        """A copy of a picture whose result nobody has any more: the service may, for a day; else a person decides.

        What is recorded of one tile is recorded of all.
        """
        job, now = whole.job.id, self.world.clock.wall()
        ready = [
            (await self.world.ledger.deliveries.times(job, n)).get("ready", 0.0) for n, _ in enumerate(whole.tiles)
        ]
        if all(tile.output_url is not None for tile in whole.tiles) and now - min(ready) < RESULT_LIFE_SECONDS:
            await self.record(whole.tiles[0], Wanted())
            return
        await self.record(
            whole.tiles[0],
            Held(
                reason="This content was upscaled and paid for before, and its result is in no outbox any more.",
                remedy="Put the result back, or let `esrgand release` upscale it again, and pay again.",
                due_at=NEVER,
            ),
        )
