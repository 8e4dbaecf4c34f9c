"""How a run is put together: what may hang is asked together, and what is made keeps its order."""

import asyncio
from pathlib import Path

import structlog
from fakes.clock import FakeClock
from fakes.predictor import FakePredictor
from fakes.storage import FakeStorage

from daemon.adapters.disk import HouseDisk
from daemon.adapters.files import Files
from daemon.adapters.folder import DiskInbox
from daemon.adapters.ledger import SqliteLedger
from daemon.adapters.picture import VipsPictures
from daemon.config import parse
from daemon.config_model import FolderConfig
from daemon.ports import Inbox, Watcher
from daemon.rules.names import Selection
from daemon.wiring import Api, Parts, assemble

COUNT = 5


async def test_inboxes_are_looked_at_together_and_numbered_in_order(tmp_path: Path, clock: FakeClock) -> None:
    """Each may take its ten seconds to hang."""
    text = "".join(f'[[folder]]\ninbox = "in{n}"\noutbox = "out{n}"\n' for n in range(COUNT))
    for n in range(COUNT):
        (tmp_path / f"out{n}").mkdir()
    (tmp_path / "state").mkdir()
    config = parse(f'state_dir = "state"\n{text}[storage]\nkind = "vendor"\n', tmp_path)
    asked, all_asked = 0, asyncio.Event()

    async def inbox(folder: FolderConfig) -> tuple[Inbox, Watcher | None, float]:
        nonlocal asked
        asked += 1
        if asked == COUNT:
            all_asked.set()
        async with asyncio.timeout(20):
            await all_asked.wait()
        return DiskInbox(folder.inbox, Selection(folder.include, folder.exclude), recursive=True), None, 1.0

    ledger = SqliteLedger(tmp_path / "state" / "ledger.db", clock)
    disk, pictures = HouseDisk(tmp_path / "state" / "staging"), VipsPictures(pixels_max=1_000_000)
    parts = Parts(FakePredictor(), FakeStorage(clock), pictures, Files(), disk, ledger, inbox)
    api = Api("http://127.0.0.1:9/v1", "key", "nobody", local=True)
    wired = await assemble(config, api, parts, clock, structlog.get_logger())
    assert [folder.id for folder in wired.folders] == [1, 2, 3, 4, 5]
    assert [folder.config.inbox.name for folder in wired.folders] == [f"in{n}" for n in range(COUNT)]
    for folder in wired.folders:
        assert isinstance(folder.inbox, DiskInbox)
        folder.inbox.close()
    disk.close()
    pictures.close()
    await ledger.close()
