"""
Outcome: how far `once` is, and what is told when it ends, however that comes about.

Whatever was there is accounted for: done, failed, held, not ready, and what is left for another run. A reason that many
pictures share is told once, with what a person can do.
"""

from dataclasses import dataclass

from daemon.adapters.ledger_desk import ends_since, held_reasons
from daemon.dispatcher import Dispatcher
from daemon.exits import Exit
from daemon.health import Health
from daemon.intake import Intake
from daemon.rules.faults import Blame, Outlook
from daemon.rules.lifecycle import MILESTONES, State
from daemon.rules.names import shown
from daemon.wiring import Wired

HOUSE_SECONDS = 30.0  # how long `once` waits for a disk or folder that a person has to mend
RESTS_MIN = 3  # between two steps a picture is in nobody's hands for a moment
MOVING = tuple(state for state in MILESTONES if state is not State.DONE)


@dataclass
class Outcome:
    """Of one run. started_at: wall, seconds. rested: so often in a row nothing was moving any more."""

    wired: Wired
    dispatcher: Dispatcher
    intake: Intake
    health: Health
    started_at: float
    rested: int = 0

    def is_stuck(self) -> bool:
        """Whether something is broken that waiting does not mend; to be asked again and again.

        What is one folder's trouble ends it only when the others' pictures are done.
        """
        patience = self.wired.world.clock.wall() - HOUSE_SECONDS
        closed = self.dispatcher.gates.closed()
        broken = [gate for gate in closed if gate.fault.blame is Blame.HOUSE and gate.closed_at < patience]
        if any(gate.fault.outlook is Outlook.LASTING for gate in closed) or any(
            ":" not in gate.name for gate in broken
        ):
            return True
        rests = (broken or self.intake.faults()) and self.intake.rests() and self.dispatcher.rests()
        self.rested = self.rested + 1 if rests else 0
        return self.rested >= RESTS_MIN

    async def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.intake.is_idle() and await self.dispatcher.is_idle()

    async def status(self) -> Exit:
        """What it came to, once it is over."""
        if self.dispatcher.sweep.problem:
            return Exit.HOUSE
        _, failed = await self.wired.ledger.read(lambda db: ends_since(db, self.started_at))
        held = await self.wired.ledger.count_jobs(State.HELD)
        return Exit.PICTURES if failed or held or self.intake.unready() else Exit.DONE

    async def summary(self) -> list[str]:
        """What became of everything, in lines for people."""
        ledger = self.wired.ledger
        done, failed = await ledger.read(lambda db: ends_since(db, self.started_at))
        held, waiting = await ledger.count_jobs(State.HELD), await ledger.count_jobs(*MOVING)
        unready = self.intake.unready()
        more = f", {waiting} waiting" if waiting else ""
        lines = [f"{done} done, {len(failed)} failed, {held} held, {len(unready)} not ready{more}."]
        lines += [f"failed: {shown(path)}: {reason}" for path, reason in failed]
        for count, reason, remedy in await ledger.read(held_reasons):
            lines.append(f"held: {count} picture{'s' * (count > 1)}: {reason} {remedy}".rstrip())
        lines += [f"not ready: {shown(path)}: {reason}" for _, path, reason in unready]
        return lines + [f"! {problem}" for problem in self.health.problems()]
