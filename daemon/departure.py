"""
Departure: from an uploaded picture to a prediction's id; here money is spent.

All that may take its time (the last looks at file, object, room and budget) is done before a slot is asked for, so that
a slot that becomes free is filled within one create's round trip. The intent is durable before the create leaves; a
create is sent once for one intent, and where its fate is unknown the history decides, never a reflex.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, field

from daemon.config_model import Config
from daemon.ears import Ears
from daemon.gates import Gates, Visit, outbox_gate, room_gate
from daemon.pipeline import submit
from daemon.ports import Asset, Sources
from daemon.room import Room
from daemon.rules import budget, reactions, verdicts
from daemon.rules.faults import Fault, Gate
from daemon.rules.job import Tile
from daemon.rules.lifecycle import Held, Intended, Refused, Stale, State
from daemon.rules.limits import Place
from daemon.turnstile import Turnstile
from daemon.world import World

LOOK_AGAIN_SECONDS = 5.0
LOOK_SECONDS = 2.0  # so often is the file of one who stands ready looked at
READY_SECONDS_MAX = 30.0  # who stood ready so long lets others have a go: there may be more urgent ones by now
Record = Callable[..., Awaitable[Tile]]


@dataclass(slots=True)
class Departure:
    """record: tells the ledger, the log and the lanes; all that happens here goes through it.

    expected: those who stand ready or leave, and whose results will need room.
    """

    config: Config
    world: World
    gates: Gates
    room: Room
    turnstile: Turnstile
    ears: Ears
    record: Record
    sources: Callable[[Tile], Awaitable[Sources]]
    stopping: asyncio.Event
    step: Callable[[], AbstractContextManager[None]]
    purse: asyncio.Lock = field(default_factory=asyncio.Lock)
    packing: asyncio.Lock = field(default_factory=asyncio.Lock)
    expected: dict[tuple[str, int], Tile] = field(default_factory=dict)

    def admits(self, folder: int) -> bool:
        """Whether a submit of this folder could leave now, or probe whether it can."""
        gates = [Gate.API, Gate.ROOM, outbox_gate(folder), room_gate(folder)]
        # Whether the storage is back is shown by an upload, never by a create that might find nothing to read.
        is_readable = self.gates.seconds_left(Gate.STORAGE) is None
        return is_readable and self.turnstile.allows() and all(map(self.gates.admits, gates))

    async def depart(self, tile: Tile, stack: AsyncExitStack) -> Tile:
        """Submit, once gates, minute and slots allow it; else the tile stays in its place. stack: holds the slot."""
        if not self.admits(tile.job.folder) or not reactions.is_due(tile.due_at, self.world.clock.wall()):
            return tile  # It waits in the ledger; no worker and no slot waits with it.
        if not await self.room.answers(tile.job.folder):
            return tile
        if reactions.submits_left(tile, self.config.api.submits_max) <= 0:
            return await self.record(tile, verdicts.no_submits_left(tile))
        async with self.gates.through(Gate.API) as visit:
            if visit.is_probe:
                # A question costs nothing; a create that is lost in an outage costs a person's time, or money.
                await self.world.predictor.check()
            visit.learnt = False  # Until a create was answered.
            try:
                ready = await self._prepare(tile)
                return await self._wait(tile, ready, visit, stack) if isinstance(ready, Asset) else ready
            finally:
                self.expected.pop(tile.key, None)

    async def _prepare(self, tile: Tile) -> Asset | Tile:
        """What its create will have the service read; or the tile as it is now, and nothing may leave."""
        asset = await self._freshen(tile) if self._is_as_it_would_be_now(tile) else None
        if asset is None:
            return await self.record(tile, Stale(), wait=reactions.step_back(tile, self.world.clock.dice()))
        if not await self._is_priced(tile) or not await self._has_room(tile):
            return await self.world.ledger.postpone(tile, self.world.clock.wall() + LOOK_AGAIN_SECONDS)
        held = await self.over_budget(tile)
        return asset if held is None else await self.record(tile, held)

    def _is_as_it_would_be_now(self, tile: Tile) -> bool:
        """Whether its upload is one that would be made now: an older esrgand's may not be upright, and what the model
        no longer takes would be refused."""
        width, height = tile.sent_size
        return tile.job.traits is not None and width * height <= self.config.api.pixels_max

    async def _has_room(self, tile: Tile) -> bool:
        """Whether its result will have a place, besides those of all who stand ready; then it is expected too."""
        async with self.packing:
            sources = await self.sources(tile)
            if not await self.room.is_there(tile, sources, list(self.expected.values())):
                return False
            self.expected[tile.key] = tile
            return True

    async def _freshen(self, tile: Tile) -> Asset | None:
        uploaded = (await self.world.ledger.deliveries.times(*tile.key)).get("uploaded", 0.0)
        now, url_seconds = self.world.clock.wall(), self.config.storage.url_seconds
        try:
            return await submit.freshen(tile, self.world.storage, now=now, uploaded=uploaded, url_seconds=url_seconds)
        except Fault as fault:
            if fault.gate is Gate.STORAGE:
                self.gates.close(fault.gate, fault)
            raise

    async def _wait(self, tile: Tile, asset: Asset, visit: Visit, stack: AsyncExitStack) -> Tile:
        """Stand at the turnstile; nothing but the file is looked at meanwhile."""
        end = self.world.clock.monotonic() + READY_SECONDS_MAX
        while not self.stopping.is_set() and not visit.is_overtaken():
            # Whoever is not there, or hangs, shall not find that out in a slot.
            sources = await self.sources(tile)
            if gone := await submit.look(sources):
                return await self.record(tile, gone)
            async with AsyncExitStack() as leaving:
                place = await self.turnstile.enter(stack, leaving, LOOK_SECONDS)
                if place is not None:
                    with self.step():
                        return await self._leave(tile, asset, visit, place, stack, sources)
            if self.world.clock.monotonic() >= end:
                break
        return tile

    async def _leave(
        self, tile: Tile, asset: Asset, visit: Visit, place: Place, stack: AsyncExitStack, sources: Sources
    ) -> Tile:
        """In the slot: one last stat of the file, what others may have spent meanwhile, the intent, the create."""
        if gone := await submit.look(sources):
            return await self.record(tile, gone)
        # With a budget one at a time, from the look at it to the intent that counts in it.
        async with self.purse if self.config.budget.is_set else nullcontext():
            if self.stopping.is_set() or visit.is_overtaken() or not self.turnstile.allows(besides=1):
                return tile
            if not await self._is_priced(tile):
                return await self.world.ledger.postpone(tile, self.world.clock.wall() + LOOK_AGAIN_SECONDS)
            now = self.world.clock.wall()
            if submit.is_stale(asset, now, self.config.storage.url_seconds):
                return tile  # It stood ready for too long; it is found again, and gets a fresh URL or is uploaded anew.
            since = min(now, now + self.world.predictor.ahead)  # where the history has to begin that would have it
            intended = Intended(since, self.world.api, asset.url, asset.expires_at)
            tile = await self.record(tile, await self.over_budget(tile) or intended)
        if tile.state is not State.SUBMITTING:
            return tile  # The budget, or another tile of its picture, has stopped it.
        visit.learnt = True
        return await self._create(tile, place, stack)

    async def _create(self, tile: Tile, place: Place, stack: AsyncExitStack) -> Tile:
        self.ears.ear(tile, stack)  # It may be over before the answer is here.
        try:
            accepted = await submit.submit(tile, self.world.predictor, self.ears.hook(tile))
        except Fault as fault:
            if fault.rate_limited:
                self.turnstile.refused()
            reaction = reactions.react(tile, fault, self.world.clock.wall(), self.world.clock.dice())
            self.world.log.info("create_failed", **tile.about, reason=fault.said, created=fault.created.value)
            if reaction.event is not None:
                tile = await self.record(tile, reaction.event)
            if isinstance(reaction.event, Refused):
                raise  # Closes the gate; the tile keeps its place.
            if reaction.gate is not None:
                self.gates.close(reaction.gate, fault)
            return tile
        finally:
            place.answered_at = self.world.clock.monotonic()
        self.turnstile.accepted()
        return await self.record(tile, accepted)

    async def over_budget(self, tile: Tile) -> Held | None:
        """Why the budget does not let it pass, or None."""
        limits, now = self.config.budget, self.world.clock.wall()
        if tile.released or not limits.is_set:
            return None
        spending = await self.world.ledger.books.spending(now)
        over = budget.over_budget(spending, limits.usd_per_day_max, limits.usd_per_month_max, now)
        return None if over is None else verdicts.over_budget(*over)

    async def _is_priced(self, tile: Tile) -> bool:
        """Whether a budget, where there is one, can tell what another run would cost; else the first one shows it."""
        if tile.released or not self.config.budget.is_set:
            return True
        return not (await self.world.ledger.books.spending(self.world.clock.wall())).is_a_guess
