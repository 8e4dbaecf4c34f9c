"""
Health: whether everything makes progress, and what is wrong in plain sentences.

Two grades. A problem is something that a person should mend (a refused key, a folder that is gone): `/healthz` says it.
A stall is the program itself standing still (a loop, the ledger, a worker): then the service manager's watchdog is no
longer fed, and it starts us again. A problem is never a reason to be started again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.dispatcher import Dispatcher
from daemon.lanes import IDLE_SECONDS_MAX
from daemon.ports import Clock
from daemon.world import Folder

LEDGER_SECONDS_MAX = 60.0
STEP_SECONDS_MAX = 2 * 3600.0  # longer than any download that is still allowed to go on
SCANS_MISSED_MAX = 5
SCAN_SECONDS_SPARE = 300.0  # a scan of a slow share takes its time


@dataclass
class Health:
    """ledger_at: when the ledger last answered, monotonic seconds; kept by whoever asks it.

    moves: how many folders each inbox's scans had visited, and when that was first seen.
    """

    clock: Clock
    dispatcher: Dispatcher
    folders: Mapping[int, Folder]
    started_at: float
    ledger_at: float
    moves: dict[int, tuple[int, float]] = field(default_factory=dict)

    def stalls(self) -> list[str]:
        """What stands still although nothing outside holds it."""
        now = self.clock.monotonic()
        found = []
        if now - self.ledger_at > LEDGER_SECONDS_MAX:
            found.append(f"The ledger has not answered for {now - self.ledger_at:.0f} s.")
        for lane in self.dispatcher.all_lanes():
            if now - max(lane.pulse, self.started_at) > 3 * IDLE_SECONDS_MAX:
                found.append(f"The {lane.name} lane has not moved for {now - lane.pulse:.0f} s.")
        for task, since in self.dispatcher.busy_tasks.items():
            if now - since > STEP_SECONDS_MAX:
                found.append(f"A step of {task.get_name()} has taken {now - since:.0f} s.")
        for folder in self.folders.values():
            limit = SCANS_MISSED_MAX * folder.config.scan_seconds + SCAN_SECONDS_SPARE
            last = max(folder.detector.last_scan, self._last_moved(folder, now))
            if folder.detector.fault is None and now - last > limit:
                found.append(f"{folder.config.inbox} has not been scanned for {now - last:.0f} s.")
        return found

    def _last_moved(self, folder: Folder, now: float) -> float:
        """When the folder's scans were last seen to move: a slow share's first scan may take an hour."""
        visited, since = self.moves.get(folder.id, (-1, self.started_at))
        if visited != folder.inbox.visited:
            since = now
            self.moves[folder.id] = (folder.inbox.visited, since)
        return since

    def problems(self) -> list[str]:
        """Everything that is wrong now."""
        found = self.stalls()
        for closed in self.dispatcher.gates.closed():
            found.append(f"{closed.fault.said} {closed.fault.remedy}".strip())
        for folder in self.folders.values():
            fault = folder.detector.fault
            if fault is not None:
                found.append(f"{fault.said} {fault.remedy}".strip())
            found += [f"{folder.config.inbox}: {said}" for said in folder.detector.unreadable]
        if self.dispatcher.sweep.problem:
            found.append(self.dispatcher.sweep.problem)
        defects = sum(len(lane.benched) for lane in self.dispatcher.all_lanes())
        if defects:
            found.append(f"{defects} pictures met a defect of esrgand; the log has it, and they are tried again.")
        return list(dict.fromkeys(found))  # One cause may close several gates.
