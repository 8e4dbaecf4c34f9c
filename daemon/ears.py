"""
Ears: who waits for the service's word on which submit. What it says is never believed; it only makes us ask now.

An ear is there from just before the create leaves, as a prediction may be over before its id is known, until its slot
is given back. Early, repeated, forged and unknown words are harmless; whether the service can be relied on to tell at
all is learnt from what it told.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from daemon.ports import Clock
from daemon.rules.hooks import MISSED_MAX, Hook, Hooks, Trust
from daemon.rules.job import Tile


@dataclass(slots=True)
class Ear:
    """token: of the submit; "" without webhooks. woken: somebody has to look. heard: the service says it is over."""

    token: str = ""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    heard: bool = False

    def wake(self) -> None:
        """Look, for whatever reason."""
        self.woken.set()

    def listen(self) -> bool:
        """Whether it was heard of since the last time."""
        heard, self.heard = self.heard, False
        self.woken.clear()
        return heard


@dataclass(slots=True)
class Ears:
    """hooks: where the service can tell us, or None. missing: that it does not was told."""

    clock: Clock
    log: FilteringBoundLogger
    hooks: Hooks | None = None
    trust: Trust = field(default_factory=Trust)
    open: dict[str, Ear] = field(default_factory=dict)
    missing: bool = False

    @property
    def told(self) -> bool:
        """Whether the service is relied on to tell."""
        return self.trust.told

    def ear(self, tile: Tile, stack: AsyncExitStack) -> Ear:
        """The ear of the tile's present submit, there until `stack` is closed."""
        if self.hooks is None:
            return Ear()
        token = self.hooks.token(tile)
        if token not in self.open:
            self.open[token] = Ear(token)
            stack.callback(self.open.pop, token)
        return self.open[token]

    def hook(self, tile: Tile) -> Hook | None:
        """What the tile's present submit tells the service."""
        return self.hooks.hook(tile) if self.hooks else None

    def hear(self, token: str) -> None:
        """The service says that a submit is over."""
        self.trust.late(token)
        if token in self.open:
            self.open[token].heard = True
            self.open[token].wake()

    def over(self, ear: Ear, *, heard: bool) -> None:
        """A prediction is over. heard: the service had told us."""
        if not ear.token:
            return
        if heard:
            self.trust.heard()
        else:
            self.trust.silent(ear.token, self.clock.monotonic())
        self.settle()

    def settle(self) -> None:
        """Where it turns out that the service does not tell, everybody who relied on it asks again by itself."""
        relied = self.told
        self.trust.settle(self.clock.monotonic())
        if self.trust.missed >= MISSED_MAX and not self.missing:
            self.missing = True
            remedy = "Look at [webhook] public_url and at the reverse proxy behind it; results come all the same."
            self.log.warning("webhooks_missing", reason="The service's webhooks do not arrive.", remedy=remedy)
        elif self.missing and self.told:
            self.missing = False
            self.log.info("webhooks_arrive")
        if relied and not self.told:
            for ear in self.open.values():
                ear.wake()
