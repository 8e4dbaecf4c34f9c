"""An inbox whose mount hangs holds up its own folder, and nobody else."""

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from fakes.clock import FakeClock, settle
from shell_kit import House, house
from test_intake import picture, shop

from daemon.adapters.folder import DiskInbox
from daemon.rules.job import Look
from daemon.rules.lifecycle import State
from daemon.rules.names import Selection


class Hanging(DiskInbox):
    """What reads a file there does not come back before `back` is set."""

    def __init__(self, root: Path, back: threading.Event) -> None:
        super().__init__(root, Selection(["*.png"], []), recursive=True)
        self._back = back
        self.asked = threading.Event()

    def _open(self, path: bytes, look: Look) -> BinaryIO:
        self.asked.set()
        self._back.wait(60)
        return super()._open(path, look)


@pytest.fixture
def back() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def hang(at_work: House, back: threading.Event) -> Hanging:
    """Let the first folder's inbox hang."""
    folder = at_work.folders[0]
    inbox = Hanging(folder.config.inbox, back)
    folder.detector.inbox = inbox
    at_work.folders[0] = dataclasses.replace(folder, inbox=inbox)
    at_work.dispatcher.folders[folder.id] = at_work.folders[0]
    return inbox


async def test_the_other_folders_pictures_are_admitted(tmp_path: Path, clock: FakeClock, back: threading.Event) -> None:
    async with house(tmp_path, clock, folders=2) as opened:
        inbox = hang(opened, back)
        async with _shop(opened) as at_work:
            for number in range(5):
                opened.drop(f"{number}.png", picture(shade=number))
            await asyncio.to_thread(inbox.asked.wait, 20)
            opened.drop("other.png", picture(9, 9), folder=1)
            [line] = await at_work.told("admitted")
            assert line["picture"] == "other.png"
            back.set()
            assert len(await at_work.told("admitted", 6)) == 6
        inbox.close()


async def test_an_upload_that_hangs_gives_its_worker_back(
    tmp_path: Path, clock: FakeClock, back: threading.Event
) -> None:
    async with house(tmp_path, clock) as at_work:
        tile = await at_work.admit()
        inbox = hang(at_work, back)
        inbox.hang_seconds = 0.05
        await at_work.dispatcher._upload(tile)
        assert (await at_work.now(tile)).state is State.ADMITTED
        assert "does not answer" in at_work.told("postponed")[0]["reason"]
        back.set()
        await asyncio.to_thread(inbox._pool.shutdown)  # What was opened too late is closed again.
        await settle()


async def test_what_lies_in_a_folder_that_is_away_takes_no_slot(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, folders=2) as at_work:
        await at_work.uploaded()
        other = await at_work.admit("b.png", b"another", folder=1)
        await at_work.dispatcher._upload(other)
        at_work.folders[0].config.inbox.joinpath("0.png").unlink()
        at_work.folders[0].config.inbox.rmdir()
        await at_work.folders[0].detector.step()
        assert [tile.key for tile in await at_work.dispatcher._find_flights(5, set())] == [other.key]


def _shop(opened: House) -> Any:
    return shop(Path(), opened.clock, opened=opened)
