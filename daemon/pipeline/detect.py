"""
Detect: one folder's settling, from a first look to a file that is worth a closer one.

The scan is the truth and the watcher's hints shorten the wait; both only ask for looks, and `rules/settling` decides.
`step` does what is due now and returns how long there is nothing to do; the loop round it is a thin shell. While a
folder is unavailable its fault is kept: nothing is new, nothing is gone, everything is looked at again later.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from daemon.ports import Clock, Inbox, Watcher, mark
from daemon.rules import settling
from daemon.rules.faults import Fault
from daemon.rules.job import Look
from daemon.rules.settling import Candidate, Settling, Sign

SETTLING_MAX = 200_000  # files on their way at once; a scan finds the others again
HANDED_WAIT_SECONDS = 0.5  # a full window is looked at again after this, or when a place is free
WATCH_AGAIN_SECONDS = 60.0
# Where events tell what is new, a scan is for what they missed: one that takes long is repeated less often, so that an
# inbox of a hundred thousand done pictures costs a hundredth of a core.
SCAN_SECONDS_CHEAP = 0.1
SCAN_SHARE = 0.01
SCAN_PAUSE_SECONDS_MAX = 60.0


@dataclass(slots=True)
class Detector:
    """has_room: whether the admission's queue takes another candidate. hand: puts one there. wake: from any thread."""

    folder: int
    inbox: Inbox
    clock: Clock
    quiet_seconds: float
    scan_seconds: float
    known: set[int]
    has_room: Callable[[], bool]
    hand: Callable[[Candidate], None]
    wake: Callable[[], None]
    watcher: Watcher | None = None
    give_up_seconds: float = math.inf
    files: int = 0
    scans: int = 0
    unreadable: list[str] = field(default_factory=list)
    fault: Fault | None = None
    watch_fault: Fault | None = None
    last_scan: float = 0.0
    settling: dict[bytes, Settling] = field(default_factory=dict)
    _turns: list[tuple[float, bytes]] = field(default_factory=list)
    _handed: set[bytes] = field(default_factory=set)
    _next_scan: float = 0.0
    _next_watch: float = 0.0

    async def step(self) -> float:
        """Do what is due; returns seconds until something will be. Raises nothing: a fault is kept in `fault`."""
        try:
            await self._follow_hints()
            if self.clock.monotonic() >= self._next_scan:
                await self._scan()
            await self._look_again()
            self.fault = None
        except Fault as fault:
            self.fault = fault
            self._next_scan = self.clock.monotonic() + self.scan_seconds
            return self.scan_seconds
        now = self.clock.monotonic()
        first_turn = self._turns[0][0] if self._turns else self._next_scan
        times = [self._next_scan, first_turn if self.has_room() else now + HANDED_WAIT_SECONDS]
        return max(min(times) - now, 0.02)

    def scan_soon(self) -> None:
        """Scan at the next step."""
        self._next_scan = 0.0
        self.wake()

    async def _follow_hints(self) -> None:
        if self.watcher is None:
            return
        now = self.clock.monotonic()
        aside, watcher = self.inbox.aside, self.watcher
        if not await aside(watcher.is_alive) and now >= self._next_watch:
            self._next_watch = now + WATCH_AGAIN_SECONDS
            self._next_scan = now
            await aside(watcher.end)
            try:
                await aside(lambda: watcher.begin(self.wake))
                self.watch_fault = None
            except Fault as fault:
                self.watch_fault = fault
        hints, overflow = watcher.take()
        if overflow:
            self._next_scan = now
            return
        for path in sorted(hints):
            look = await self.inbox.look(path) if self.inbox.takes(path) else None
            if look is not None:
                self._see(path, look)
            elif await self.inbox.is_folder(path):
                for found, its_look in (await self.inbox.scan(self.known, path)).found:
                    self._see(found, its_look)

    async def _scan(self) -> None:
        began = self.clock.monotonic()
        scan = await self.inbox.scan(self.known)
        self.files, self.unreadable = scan.files, scan.unreadable
        for path, look in scan.found:
            self._see(path, look)
        there = {path for path, _ in scan.found}
        if not scan.unreadable:
            for path in [path for path in self.settling if path not in there and path not in self._handed]:
                del self.settling[path]
        self.scans += 1
        self.last_scan = self.clock.monotonic()
        self._next_scan = self.last_scan + self._pause(self.last_scan - began)

    def _pause(self, took: float) -> float:
        """Seconds until the next scan after one that took so long."""
        if self.watcher is None or self.watch_fault is not None or took < SCAN_SECONDS_CHEAP:
            return self.scan_seconds
        return max(self.scan_seconds, min(took / SCAN_SHARE, SCAN_PAUSE_SECONDS_MAX))

    def _see(self, path: bytes, look: Look) -> None:
        """One look at one file."""
        if mark(path, look) in self.known:
            self.settling.pop(path, None)
            return
        now = self.clock.monotonic()
        old = self.settling.get(path)
        if old is None and len(self.settling) >= SETTLING_MAX:
            return
        new = (
            settling.begin(look, now, self.quiet_seconds)
            if old is None
            else settling.seen(old, look, now, self.quiet_seconds)
        )
        if new is not old:
            self.settling[path] = new
            heapq.heappush(self._turns, (new.due, path))

    async def _look_again(self) -> None:
        now = self.clock.monotonic()
        while self._turns and self._turns[0][0] <= now and self.has_room():
            turn, path = self._turns[0]
            state = self.settling.get(path)
            if state is None or state.due != turn or path in self._handed:
                heapq.heappop(self._turns)  # An older turn of a file that went on since.
                continue
            look = await self.inbox.look(path)
            if look is None:
                del self.settling[path]
                heapq.heappop(self._turns)
                continue
            self._see(path, look)
            if self.settling.get(path) is not state:
                heapq.heappop(self._turns)
                continue
            if not settling.is_quiet(state, now):
                self.settling[path] = settling.again(state, now)
                heapq.heapreplace(self._turns, (self.settling[path].due, path))
                continue
            heapq.heappop(self._turns)
            self._handed.add(path)
            self.hand(Candidate(self.folder, path, state))

    def admitted(self, path: bytes, look: Look) -> None:
        """The candidate is recorded: it needs no second look while its stat stays the same."""
        self._handed.discard(path)
        self.known.add(mark(path, look))
        self.settling.pop(path, None)
        self.wake()

    def refused(self, path: bytes, sign: Sign, reason: str) -> None:
        """The candidate is not ready: look closer again, later."""
        self._handed.discard(path)
        state = self.settling.get(path)
        if state is not None:
            state = settling.postponed(state, sign, reason, self.clock.monotonic(), self.give_up_seconds)
            self.settling[path] = state
            heapq.heappush(self._turns, (state.due, path))
        self.wake()

    def changed(self, path: bytes) -> None:
        """The candidate changed while it was read: it starts again."""
        self._handed.discard(path)
        state = self.settling.pop(path, None)
        if state is not None:
            state = settling.begin(state.look, self.clock.monotonic(), self.quiet_seconds)
            self.settling[path] = state
            heapq.heappush(self._turns, (state.due, path))
        self.wake()

    def forget(self, path: bytes, look: Look) -> None:
        """The file is to be looked at anew, although its stat did not change."""
        self.known.discard(mark(path, look))

    def is_idle(self) -> bool:
        """Whether nothing here is on its way, but for files that are waiting for a change."""
        is_seen = self.scans > 0 and self._next_scan > 0.0
        return is_seen and not self._handed and all(map(settling.is_stuck, self.settling.values()))
