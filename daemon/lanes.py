"""
Lanes: a bounded window on the ledger, and workers that empty it.

Each lane has an `asyncio.Queue` of bounded size, filled from the ledger by `refill`, and a fixed number of workers.
What is in hand is in hand once. A lane that is poked looks at the ledger again, else it sleeps until the next due time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from structlog.typing import FilteringBoundLogger

from daemon.ports import Clock
from daemon.rules.faults import Fault, LedgerBroken

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
BENCH_SECONDS = 600.0
IDLE_SECONDS_MAX = 30.0  # a lane looks at least this often, so that its pulse can be felt


@dataclass
class Lane(Generic[T, K]):
    """find: up to that many things to do, besides those in hand. next_due: when more will be, in wall seconds, or None.

    width: workers. ahead: things that lie ready for them, as many as there are workers where it is 0.
    work: carries one out; a Fault that it lets out is a house's or service's, and the thing is found again later.
    """

    name: str
    width: int
    clock: Clock
    find: Callable[[int, set[K]], Awaitable[list[T]]]
    key: Callable[[T], K]
    work: Callable[[T], Awaitable[None]]
    next_due: Callable[[], Awaitable[float | None]]
    stopping: asyncio.Event
    log: FilteringBoundLogger
    ahead: int = 0
    pulse: float = 0.0
    benched: dict[K, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue: asyncio.Queue[T] = asyncio.Queue(maxsize=self.ahead or self.width)
        self.poked = asyncio.Event()
        self.in_hand: set[K] = set()

    def poke(self) -> None:
        """There may be something to do."""
        self.poked.set()

    async def refill(self) -> float:
        """Fill the window; returns seconds until it is worth looking again."""
        room = self.queue.maxsize - self.queue.qsize()
        now = self.clock.monotonic()
        self.benched = {key: until for key, until in self.benched.items() if until > now}
        if room > 0:
            for thing in await self.find(room, self.in_hand | self.benched.keys()):
                self.in_hand.add(self.key(thing))
                self.queue.put_nowait(thing)
        self.pulse = now
        due = await self.next_due()
        return IDLE_SECONDS_MAX if due is None else max(0.02, min(due - self.clock.wall(), IDLE_SECONDS_MAX))

    async def feed(self) -> None:
        """The loop round `refill`."""
        while not self.stopping.is_set():
            self.poked.clear()
            wait = await self.refill()
            await self.clock.wait(self.poked, wait)

    async def labour(self) -> None:
        """One worker."""
        while not self.stopping.is_set():
            thing = await self.queue.get()
            if self.queue.empty():
                self.poke()
            key = self.key(thing)
            try:
                await self.work(thing)
            except LedgerBroken:
                raise
            except Fault:
                # Its gate is closed, or its due time is set: it is found again.
                pass
            except Exception:  # a defect of ours with one picture, which must not stop all others
                self.log.exception("defect", lane=self.name, key=str(key))
                self.benched[key] = self.clock.monotonic() + BENCH_SECONDS
            finally:
                self.in_hand.discard(key)
                self.poke()

    def is_idle(self) -> bool:
        """Whether nothing is in hand."""
        return not self.in_hand
