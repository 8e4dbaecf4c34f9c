"""What a running daemon answers: a person's wish holds up no picture."""

import asyncio
import threading
from pathlib import Path

from daemon.adapters.database import Database, opened
from daemon.config import parse
from daemon.desk import Desk


async def test_a_backup_does_not_wait_for_the_ledger_nor_the_ledger_for_it(tmp_path: Path) -> None:
    """The file may be on a share that hangs."""
    (tmp_path / "state").mkdir()
    text = 'state_dir = "state"\n[[folder]]\ninbox = "in"\noutbox = "out"\n[storage]\nkind = "vendor"\n'
    database = Database(tmp_path / "state" / "ledger.db")
    await database.open()
    gate = threading.Event()
    busy = asyncio.ensure_future(database.read(lambda _: gate.wait(60)))
    desk = Desk(parse(text, tmp_path), None, None, None, None, lambda: True)  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        answer = await desk.answer({"ask": "backup", "what": str(tmp_path / "copy.db")})
    assert not busy.done()
    gate.set()
    await busy
    await database.close()
    assert answer == {"bytes": (tmp_path / "copy.db").stat().st_size}
    with opened(tmp_path / "copy.db", read_only=True):
        pass
