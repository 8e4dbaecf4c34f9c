"""
Intake: from the folders to the ledger.

One loop a folder steps its detector; what settles goes through a bounded `asyncio.Queue` to a few workers of the
folder's own, which read it whole and record it: a folder whose mount hangs holds up no other. A folder that becomes
unavailable is told once, and once more when it is back.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daemon.pipeline.admit import Refused, admit
from daemon.rules.admission import Decision
from daemon.rules.faults import Changed, Fault, LedgerBroken, Vanished
from daemon.rules.job import Settled
from daemon.rules.lifecycle import NEVER, Held, State
from daemon.rules.names import shown
from daemon.rules.settling import Candidate, Sign
from daemon.world import Folder, World

if TYPE_CHECKING:
    from daemon.config_model import Config

WINDOW = 64
WORKERS = 2
STEP_SECONDS = 0.05  # the first hint is followed at once; of a burst the others are followed together


@dataclass
class Intake:
    """poke: wakes the dispatcher's lane of a state. wakes: one event a folder, set when its detector should step."""

    config: "Config"
    world: World
    folders: Mapping[int, Folder]
    wakes: Mapping[int, asyncio.Event]
    queues: "Mapping[int, asyncio.Queue[Candidate]]"
    poke: Callable[[State], None]
    stopping: asyncio.Event
    counting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def watch(self, folder: Folder) -> None:
        """The loop round one folder's steps."""
        detector, wake, clock = folder.detector, self.wakes[folder.id], self.world.clock
        fault: Fault | None = None
        while not self.stopping.is_set():
            wake.clear()
            began = clock.monotonic()
            wait = await detector.step()
            # A folder that is gone cannot be watched either; that goes without saying.
            now = detector.fault or detector.watch_fault
            self._tell(folder, fault, now)
            fault = now
            if await clock.wait(wake, wait) and (rest := began + STEP_SECONDS - clock.monotonic()) > 0:
                await clock.sleep(rest)

    def _tell(self, folder: Folder, before: Fault | None, now: Fault | None) -> None:
        log = self.world.log.bind(inbox=str(folder.config.inbox))
        if now is not None and (before is None or before.said != now.said):
            name = "folder_unavailable" if folder.detector.fault else "folder_unwatched"
            log.warning(name, reason=now.said, remedy=now.remedy)
        if before is not None and now is None:
            log.info("folder_available")

    async def labour(self, folder: Folder) -> None:
        """One worker of a folder."""
        while not self.stopping.is_set():
            candidate = await self.queues[folder.id].get()
            try:
                await self._admit(candidate, folder)
            except (Changed, Vanished):
                folder.detector.changed(candidate.path)
            except LedgerBroken:
                raise
            except Exception:  # a defect of ours with one file, which must not stop all others
                self.world.log.exception("defect", picture=shown(candidate.path))
                folder.detector.refused(candidate.path, Sign.BUSY, "esrgand met a defect of its own; the log has it.")

    async def _admit(self, candidate: Candidate, folder: Folder) -> None:
        world, path = self.world, candidate.path
        outcome = await admit(
            candidate,
            inbox=folder.inbox,
            pictures=world.pictures,
            clock=world.clock,
            folder=folder.config,
            pixels_max=self.config.api.pixels_max,
        )
        if isinstance(outcome, Refused):
            if candidate.settling.reason != outcome.reason:
                world.log.info("not_ready", picture=shown(path), sign=outcome.sign.value, reason=outcome.reason)
            folder.detector.refused(path, outcome.sign, outcome.reason)
            return
        await self._record(outcome, folder)
        folder.detector.admitted(path, outcome.look)

    async def _record(self, file: Settled, folder: Folder) -> None:
        world = self.world
        now = world.clock.wall()
        keeps = folder.config.after == "keep"
        # One at a time from the count of what waits to the one that counts in it.
        async with self.counting if self.config.budget.pictures_per_drop_max else nullcontext():
            decision = await world.ledger.admit(file, folder.config.order, keeps, await self._hold(), now)
        fields: dict[str, object] = {
            "job": file.recipe.job_id(file.content.sha256),
            "picture": shown(file.path),
            "decision": decision.value,
            "seconds": round(now - file.detected_at, 3),
        }
        if file.failure is not None:
            fields["reason"] = file.failure.said
        if decision is not Decision.SAME:
            world.log.info("failed" if file.failure else "admitted", **fields)
        self.poke(State.ADMITTED)
        self.poke(State.DONE)

    async def _hold(self) -> Held | None:
        """Whether a new job has to wait for a person, since too much was dropped at once."""
        most = self.config.budget.pictures_per_drop_max
        if not most or await self.world.ledger.count_jobs(State.ADMITTED, State.UPLOADED) < most:
            return None
        return Held(
            reason=f"More than {most} pictures were waiting at once.",
            remedy="`esrgand release` lets them pass.",
            due_at=NEVER,
        )

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """All loops and workers, as tasks of the group."""
        loops = [group.create_task(self.watch(folder), name=f"folder {id_}") for id_, folder in self.folders.items()]
        for folder in self.folders.values():
            loops += [group.create_task(self.labour(folder), name=f"admit {folder.id}.{n}") for n in range(WORKERS)]
        return loops

    def is_idle(self) -> bool:
        """Whether every folder was scanned and nothing in them is on its way."""
        return all(folder.detector.is_idle() for folder in self.folders.values())

    def rests(self) -> bool:
        """The same of the folders that are there."""
        folders = self.folders.values()
        return all(folder.detector.fault is not None or folder.detector.is_idle() for folder in folders)

    def faults(self) -> list[Fault]:
        """The faults of folders that are unavailable now."""
        return [folder.detector.fault for folder in self.folders.values() if folder.detector.fault is not None]

    def unready(self) -> list[tuple[Folder, bytes, str]]:
        """The files that are quiet and still not pictures, each with the reason."""
        return [
            (folder, path, state.reason)
            for folder in self.folders.values()
            for path, state in folder.detector.settling.items()
            if state.reason
        ]
