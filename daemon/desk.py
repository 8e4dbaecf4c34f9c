"""
Desk: what a running daemon answers to those who look at it or steer it, on the control socket and over HTTP.

Everything shown is plain JSON without secrets. What is steered is durable in the ledger before it is answered, and the
lanes are woken.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon import __version__
from daemon.adapters import ledger_desk
from daemon.adapters.database import backup
from daemon.dispatcher import Dispatcher
from daemon.health import Health
from daemon.intake import Intake
from daemon.rules.job import Picture
from daemon.rules.lifecycle import State
from daemon.rules.names import shown
from daemon.rules.sidecar import timestamp
from daemon.wiring import Wired

if TYPE_CHECKING:
    from daemon.config_model import Config

LISTED_MAX = 20


def in_short(counts: Mapping[State, int], problems: Sequence[str]) -> str:
    """One line for the service manager: what waits, what is in flight, what is done, and what is wrong."""
    waiting = counts.get(State.ADMITTED, 0) + counts.get(State.UPLOADED, 0)
    flying = counts.get(State.SUBMITTING, 0) + counts.get(State.SUBMITTED, 0)
    coming = counts.get(State.READY, 0) + counts.get(State.FETCHED, 0)
    done, failed, held = (counts.get(state, 0) for state in (State.DONE, State.FAILED, State.HELD))
    text = f"{waiting} waiting, {flying} in flight, {coming} coming, {done} done, {failed} failed, {held} held"
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{text}. {problems[0]}{more}" if problems else text


@dataclass
class Desk:
    """is_ready: whether the first scan is done."""

    config: "Config"
    wired: Wired
    dispatcher: Dispatcher
    intake: Intake
    health: Health
    is_ready: Callable[[], bool]

    async def status(self) -> dict[str, Any]:
        """What `esrgand status` and `/status` show."""
        clock = self.wired.world.clock
        now = clock.wall()
        summary = await self.wired.ledger.read(lambda db: ledger_desk.summary(db, now))
        return {
            "version": __version__,
            "running": True,
            "ready": self.is_ready(),
            "state_dir": str(self.config.state_dir),
            "problems": self.health.problems(),
            **summary,
            "slots": {
                "max": self.config.api.in_flight_max,
                "taken": summary["jobs"]["submitting"] + summary["jobs"]["submitted"],
            },
            "engine": self.wired.engine,
            "webhooks": self._webhooks(),
            "gates": [
                {"gate": gate.name, "reason": gate.fault.said, "since": timestamp(gate.closed_at)}
                for gate in self.dispatcher.gates.closed()
            ],
            "folders": [self._folder(id_) for id_ in self.wired.wakes],
        }

    def _webhooks(self) -> str:
        """Whether the service tells when predictions are over."""
        ears = self.dispatcher.ears
        if ears.hooks is None:
            return "off"
        return "arriving" if ears.told else "missing" if ears.missing else "not sure yet"

    def _folder(self, id_: int) -> dict[str, Any]:
        folder = self.intake.folders[id_]
        detector = folder.detector
        waiting = [(path, state) for path, state in detector.settling.items() if state.reason]
        clock = self.wired.world.clock
        return {
            "inbox": str(folder.config.inbox),
            "outbox": str(folder.config.outbox),
            "available": detector.fault is None,
            "files": detector.files,
            "settling": len(detector.settling),
            "seconds_since_scan": round(clock.monotonic() - detector.last_scan, 1) if detector.scans else None,
            "waiting": [{"picture": shown(path), "reason": state.reason} for path, state in waiting[:LISTED_MAX]],
        }

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request of the control socket."""
        what = str(request.get("what", ""))
        match request.get("ask"):
            case "status":
                return await self.status()
            case "show":
                return await self.show(what)
            case "retry":
                return await self.retry(None if request.get("all") else what)
            case "release":
                return await self.release(None if request.get("all") else what)
            case "backup":
                return {"bytes": await self._backup(Path(what))}
            case "prune":
                now = self.wired.world.clock.wall()
                return {"lines": await self.wired.ledger.write(lambda db: ledger_desk.prune(db, int(what), now))}
        return {"error": "This esrgand does not know that request."}

    async def _backup(self, target: Path) -> int:
        # In a thread of its own, on a connection of its own: the file may be on a share that hangs.
        thread = ThreadPoolExecutor(1, thread_name_prefix="backup")
        ledger = ledger_desk.state_paths(self.config.state_dir)[0]
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, backup, ledger, target)
        finally:
            thread.shutdown(wait=False)

    async def show(self, what: str) -> dict[str, Any]:
        """All about what a person means: jobs, and files that are not ready."""
        ledger = self.wired.ledger
        jobs = await ledger.read(lambda db: [ledger_desk.show(db, job) for job in ledger_desk.find_jobs(db, what)])
        waiting = [
            {"picture": shown(path), "inbox": str(folder.config.inbox), "reason": reason}
            for folder, path, reason in self.intake.unready()
            if shown(os.fsencode(what)) in (shown(path), shown(bytes(folder.config.inbox) + b"/" + path))
        ]
        if not jobs and not waiting:
            waiting = await self._ignored(what)
        return {"jobs": jobs, "waiting": waiting}

    async def _ignored(self, what: str) -> list[dict[str, str]]:
        """Why a file in one of the inboxes is no picture for us."""
        found = []
        for folder in self.intake.folders.values():
            inbox = bytes(folder.config.inbox) + b"/"
            path = os.fsencode(what)
            if path.startswith(inbox):
                reason = await folder.inbox.why_ignored(path.removeprefix(inbox))
                if reason:
                    found.append({"picture": shown(path.removeprefix(inbox)), "inbox": shown(inbox), "reason": reason})
        return found

    async def retry(self, what: str | None) -> dict[str, Any]:
        """Look again at failed pictures: one's, or all."""
        now = self.wired.world.clock.wall()

        def work(db: Any) -> list[Picture]:
            jobs = ledger_desk.failed_jobs(db) if what is None else ledger_desk.find_jobs(db, what)
            return ledger_desk.retry(db, jobs, now)

        pictures = await self.wired.ledger.write(work)
        for picture in pictures:
            folder = self.intake.folders.get(picture.folder)
            if folder is not None:
                folder.detector.forget(picture.path, picture.look)
                folder.detector.scan_soon()
        return {"retried": [ledger_desk.retried(picture) for picture in pictures]}

    async def release(self, what: str | None) -> dict[str, Any]:
        """Let held jobs go on: one, or all."""
        now, most = self.wired.world.clock.wall(), self.config.api.submits_max

        def work(db: Any) -> list[str]:
            jobs = ledger_desk.held_jobs(db) if what is None else ledger_desk.find_jobs(db, what)
            return ledger_desk.release(db, jobs, now, most)

        released = await self.wired.ledger.write(work)
        self.dispatcher.poke_all()
        return {"released": released}
