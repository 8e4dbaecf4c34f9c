"""
Loading: the lane that brings admitted tiles to where the service can read them.

What a tile is of its picture was decided when that was admitted. Where that is no longer what would be sent (the model
takes less now, or an older esrgand admitted it), and nothing of the picture is paid, it is not sent: it is looked at
again, as if it had just been dropped in.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from daemon.config_model import Config
from daemon.gates import Gates
from daemon.pipeline import upload
from daemon.ports import Sources
from daemon.rules import admission, names
from daemon.rules.faults import Fault, Gate, LedgerBroken
from daemon.rules.job import Tile
from daemon.rules.lifecycle import Held, State, Withdrawn
from daemon.sweep import Sweep
from daemon.world import Folder, World


@dataclass(slots=True)
class Loading:
    """record: tells the ledger, the log and the lanes. react: answers a fault. over_budget: whether it may not leave
    today.
    """

    config: Config
    world: World
    gates: Gates
    folders: Mapping[int, Folder]
    sweep: Sweep
    record: Callable[..., Awaitable[Tile]]
    react: Callable[[Tile, Fault], Awaitable[None]]
    sources: Callable[[Tile], Awaitable[Sources]]
    over_budget: Callable[[Tile], Awaitable[Held | None]]
    step: Callable[[], AbstractContextManager[None]]

    async def load(self, tile: Tile) -> None:
        """Upload one tile."""
        if not tile.is_whole and (tile := await self.world.ledger.now(tile)).state is not State.ADMITTED:
            self.sweep.soon()
            return  # It was stopped while it waited for a worker.
        sources = await self.sources(tile)
        if reason := await self._outdated(tile, sources):
            await self.record(tile, Withdrawn(reason))
            for id_ in {picture.folder for _, picture in sources}:
                self.folders[id_].detector.scan_soon()
            return
        # What the budget does not let pass today has no need to lie in a bucket until tomorrow.
        if held := await self.over_budget(tile):
            await self.record(tile, held)
            return
        key = names.asset_key(self.world.ledger.identity, tile.job.id, tile.number, tile.uploads)
        world = self.world
        try:
            async with self.gates.through(Gate.STORAGE, Gate.STAGING):
                sources = await self.sources(tile)
                # The folder that admitted it may not be configured any more, and a copy's is.
                ids = [tile.job.folder, *(picture.folder for _, picture in sources)]
                folder = next((self.folders[id_].config for id_ in ids if id_ in self.folders), None)
                piece = upload.piece_of(tile, self.config.api.pixels_max, folder)
                with self.step():
                    event = await upload.upload(tile, sources, world.storage, key, world.disk, world.pictures, piece)
        except LedgerBroken:
            raise
        except Fault as fault:
            await self.react(tile, fault)
        else:
            await self.record(tile, event)

    async def _outdated(self, tile: Tile, sources: Sources) -> str:
        """Why its picture has to be looked at again, or ""."""
        shrinks = any(self.folders[picture.folder].config.oversize == "shrink" for _, picture in sources)
        reason = admission.outdated(tile, self.config.api.pixels_max, shrinks=shrinks)
        # Another cut would pay for what is paid again: then it is made smaller instead, and its sidecar says so.
        if reason and not tile.is_whole and (await self.world.ledger.whole(tile.job.id)).is_paid:
            return ""
        return reason
