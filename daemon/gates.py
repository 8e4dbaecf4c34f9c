"""
Gates: what stands still for all while something that all need is broken.

A fault that is nobody's picture's closes a gate: said once, then silence. When its time is over one probe goes through;
if that fares well the gate opens, said once, else it stays closed for longer. Whoever waits at a gate keeps its place.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from daemon.ports import Clock
from daemon.rules import reactions
from daemon.rules.faults import Fault, Gate


def outbox_gate(folder: int) -> str:
    """The gate of a folder's outbox."""
    return f"{Gate.OUTBOX.value}:{folder}"


def room_gate(folder: int) -> str:
    """The gate of what would have no place in a folder's outbox."""
    return f"{Gate.ROOM.value}:{folder}"


def _disk(name: str) -> str:
    """Which disk a gate is about; of the others, the gate itself."""
    if name in (Gate.STAGING, Gate.ROOM):
        return Gate.STAGING.value
    return name.replace(f"{Gate.ROOM.value}:", f"{Gate.OUTBOX.value}:", 1)


@dataclass(slots=True)
class _Gate:
    """closings: since it was last open. closed_ever: what tells one closing from another. told: at its closing."""

    fault: Fault | None = None
    closed_until: float = 0.0
    closed_at: float = 0.0
    closings: int = 0
    closed_ever: int = 0
    probing: bool = False
    told: bool = False
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self) -> None:
        """Let everybody who waits look again."""
        self.moved.set()
        self.moved = asyncio.Event()


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed gate, for people. wall and pauses in seconds."""

    name: str
    fault: Fault
    closed_at: float


@dataclass(slots=True)
class Visit:
    """learnt: whether it shows that the gates may be open; not so where nothing was asked behind them.

    is_probe: whether it goes first, through a gate that is still closed. is_overtaken: whether one of the gates was
    closed behind it; who has not asked for anything yet turns back then.
    """

    is_probe: bool
    is_overtaken: Callable[[], bool]
    learnt: bool = True


class Gates:
    """All gates, by name: a Gate's value, or that and a folder's number. on_open: told when one opens."""

    def __init__(self, clock: Clock, log: FilteringBoundLogger) -> None:
        self._clock = clock
        self._log = log
        self.on_open: Callable[[], None] = lambda: None
        self._gates: dict[str, _Gate] = {}

    def closed(self) -> list[Closed]:
        """What is closed now."""
        return [
            Closed(name, gate.fault, gate.closed_at) for name, gate in self._gates.items() if gate.fault is not None
        ]

    def admits(self, name: str) -> bool:
        """Whether one would go through now without waiting, as the probe perhaps."""
        left = self.seconds_left(name)
        return left is None or (left <= 0 and not self._gates[name].probing)

    def neglected(self, seconds: float) -> list[str]:
        """The closed gates that nobody probes, although they might have been probed so long ago."""
        return [
            name
            for name, gate in self._gates.items()
            if gate.fault is not None and not gate.probing and -(self.seconds_left(name) or 0.0) >= seconds
        ]

    def seconds_left(self, name: str) -> float | None:
        """How long until a closed gate may be probed; None where it is open."""
        gate = self._gates.get(name)
        return None if gate is None or gate.fault is None else gate.closed_until - self._clock.monotonic()

    def close(self, name: str, fault: Fault) -> None:
        """Something that all need is broken."""
        gate = self._gates.setdefault(name, _Gate())
        now = self._clock.monotonic()
        until = now + reactions.gate_seconds(name, fault, gate.closings, self._clock.dice())
        if gate.fault is None:
            gate.closed_at = self._clock.wall()
            # One wrong key, or one full disk, may close several gates; that is told once.
            gate.told = not self._closed_with(name, fault)
            tell = self._log.warning if gate.told else self._log.debug
            tell("gate_closed", gate=name, reason=fault.said, remedy=fault.remedy)
        # Several that were under way fail of one cause: that is one closing.
        if gate.fault is None or gate.probing or now >= gate.closed_until:
            gate.closings += 1
            gate.closed_until = until
        elif fault.retry_after is not None:
            gate.closed_until = max(gate.closed_until, until)
        gate.fault, gate.probing = fault, False
        gate.closed_ever += 1
        gate.notify()

    def _closed_with(self, name: str, fault: Fault) -> list[_Gate]:
        """The other gates that are closed for the same reason: in the same words, or for the same disk."""
        return [
            gate
            for other, gate in self._gates.items()
            if other != name
            and gate.fault is not None
            and (gate.fault.said == fault.said or _disk(other) == _disk(name))
        ]

    def open(self, name: str) -> None:
        """Somebody got through."""
        gate = self._gates.get(name)
        if gate is not None and gate.fault is not None:
            fault, gate.fault, gate.closings, gate.probing = gate.fault, None, 0, False
            others = self._closed_with(name, fault) if gate.told else []
            for other in others:
                other.told = True  # Whoever opens last says that it is over.
            tell = self._log.info if gate.told and not others else self._log.debug
            tell("gate_opened", gate=name, seconds=round(self._clock.wall() - gate.closed_at, 3))
            gate.notify()
            self.on_open()

    async def wait(self, name: str) -> bool:
        """Return when one may go through; True where that is as the probe."""
        gate = self._gates.setdefault(name, _Gate())
        while gate.fault is not None:
            left = gate.closed_until - self._clock.monotonic()
            if left <= 0 and not gate.probing:
                gate.probing = True
                return True
            await self._clock.wait(gate.moved, None if gate.probing else left)
        return False

    @asynccontextmanager
    async def through(self, *names: str) -> AsyncIterator[Visit]:
        """Go through these gates, one after another; what happens inside opens or closes them.

        A fault inside closes the gate that it names (below one of `names`: `outbox:2` for OUTBOX) and goes on its way.
        """
        probes: list[str] = []
        entered: dict[str, int] = {}

        def overtaken() -> bool:
            return any(self._gates[name].closed_ever != times for name, times in entered.items())

        try:
            for name in names:
                if await self.wait(name):
                    probes.append(name)
            entered |= {name: self._gates[name].closed_ever for name in names}
            visit = Visit(bool(probes), overtaken)
            yield visit
        except Fault as fault:
            hit = next((name for name in names if fault.gate is not None and name.split(":")[0] == fault.gate), None)
            self._release(probes, hit)
            if hit is not None:
                self.close(hit, fault)
            raise
        except BaseException:
            self._release(probes, None)
            raise
        if not visit.learnt:
            self._release(probes, None)
            return
        for name in names:
            # One who started before a closing knows nothing of what closed it.
            if self._gates[name].closed_ever == entered[name]:
                self.open(name)

    def _release(self, probes: list[str], hit: str | None) -> None:
        """A probe that learnt nothing of its gate lets the next one try."""
        for name in probes:
            if name != hit:
                self._gates[name].probing = False
                self._gates[name].notify()
