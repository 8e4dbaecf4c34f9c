"""An inbox or an outbox whose mount hangs holds up its own folder, and nobody else."""

import asyncio
import dataclasses
import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pytest
from fakes.clock import FakeClock, settle
from shell_kit import House, SmallFiles, house
from test_intake import picture, shop

from daemon.adapters.files import AnyPath
from daemon.adapters.folder import THREADS, DiskInbox
from daemon.ports import Scan
from daemon.rules.faults import Fault
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
        await at_work.dispatcher.loading.load(tile)
        assert (await at_work.now(tile)).state is State.ADMITTED
        assert "does not answer" in at_work.told("postponed")[0]["reason"]
        back.set()
        await asyncio.to_thread(inbox._pool.shutdown)  # What was opened too late is closed again.
        await settle()


async def test_what_lies_in_a_folder_that_is_away_takes_no_slot(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, folders=2) as at_work:
        await at_work.uploaded()
        other = await at_work.admit("b.png", b"another", folder=1)
        await at_work.dispatcher.loading.load(other)
        at_work.folders[0].config.inbox.joinpath("0.png").unlink()
        at_work.folders[0].config.inbox.rmdir()
        await at_work.folders[0].detector.step()
        assert [tile.key for tile in await at_work.dispatcher.turns.flights(5, set())] == [other.key]


class HangingOutbox(SmallFiles):
    """What touches the first folder's outbox does not come back before `back` is set, once it is told to hang."""

    def __init__(self, back: threading.Event) -> None:
        super().__init__()
        self._back = back
        self.hangs = False
        self.met = threading.Event()

    def _touch(self, path: AnyPath) -> None:
        if self.hangs and b"/out0" in os.fsencode(path):
            self.met.set()
            self._back.wait(60)

    def room(self, folder: AnyPath) -> int:
        self._touch(folder)
        return super().room(folder)

    def open(self, path: AnyPath, mode: Literal["rb", "wb", "xb"]) -> BinaryIO:
        self._touch(path)
        return super().open(path, mode)


async def test_with_an_outbox_that_hangs_the_other_folders_go_on(
    tmp_path: Path, clock: FakeClock, back: threading.Event
) -> None:
    """Submits look for room in it, and hold no slot and nobody's purse meanwhile."""
    files = HangingOutbox(back)
    async with house(tmp_path, clock, folders=2, files=files) as at_work:
        flight = at_work.dispatcher.flight
        hanging = [await at_work.uploaded(number) for number in range(3)]
        other = await at_work.admit("b.png", b"another", folder=1)
        await at_work.dispatcher.loading.load(other)
        files.hangs = True
        stuck = [asyncio.create_task(flight.fly(tile)) for tile in hanging]
        await asyncio.to_thread(files.met.wait, 20)
        await flight.fly(await at_work.now(other))
        assert (await at_work.now(other)).state is State.READY
        assert at_work.dispatcher.turnstile.flying == 0
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        at_work.disk.look_seconds = 0.05
        await asyncio.gather(*map(flight.fly, hanging))
        assert [(await at_work.now(tile)).state for tile in hanging] == [State.UPLOADED] * 3
        assert [closed.name for closed in at_work.gates.closed()] == ["room:1"]
        assert "does not answer" in at_work.gates.closed()[0].fault.said
        back.set()


async def test_with_an_outbox_that_hangs_the_other_folders_results_are_delivered(
    tmp_path: Path, clock: FakeClock, back: threading.Event
) -> None:
    """Each outbox has workers of its own, however much waits for the one that hangs."""
    files = HangingOutbox(back)
    async with house(tmp_path, clock, folders=2, files=files) as at_work:
        for number in range(9):
            tile = await at_work.bring(await at_work.admit(f"{number}.png", b"%d" % number), State.READY)
            at_work.disk.staged(tile).write_bytes(b"result")
            await at_work.bring(tile, State.FETCHED, b"result")
        files.hangs = True
        async with asyncio.TaskGroup() as group:
            tasks = at_work.dispatcher.start(group)
            await asyncio.to_thread(files.met.wait, 20)
            other = await at_work.bring(await at_work.admit("b.png", b"another", folder=1), State.READY)
            at_work.disk.staged(other).write_bytes(b"result")
            await at_work.bring(other, State.FETCHED, b"result")
            async with asyncio.timeout(60):
                while not at_work.told("done"):
                    await asyncio.sleep(0)
            [line] = at_work.told("done")
            assert line["picture"] == "b.png"
            for task in tasks:
                task.cancel()
        back.set()


async def test_a_source_is_not_taken_from_an_inbox_that_is_away(tmp_path: Path, clock: FakeClock) -> None:
    """It would hang as the inbox does; the result waits in staging."""
    async with house(tmp_path, clock, folder={"after": "delete"}) as at_work:
        tile = await at_work.bring(await at_work.admit(), State.READY)
        at_work.disk.staged(tile).write_bytes(b"result")
        await at_work.bring(tile, State.FETCHED, b"result")
        away = at_work.inbox.rename(tmp_path / "away")
        await at_work.folders[0].detector.step()
        assert await at_work.dispatcher.delivery.find(1, 9, set()) == []
        away.rename(at_work.inbox)
        at_work.folders[0].detector.scan_soon()
        await at_work.folders[0].detector.step()
        assert len(await at_work.dispatcher.delivery.find(1, 9, set())) == 1


async def test_when_a_mount_is_back_nothing_has_piled_up(tmp_path: Path, back: threading.Event) -> None:
    """After a weekend there would be a thousand scans, which all ran one after the other."""
    scans, looks = [], []

    class Dead(DiskInbox):
        def _scan(self, known: Collection[int], under: bytes) -> Scan:
            scans.append(under)
            back.wait(60)
            return super()._scan(known, under)

    inbox = Dead(tmp_path, Selection(["*.png"], []), recursive=True)
    inbox.hang_seconds = 0.02
    for _ in range(10):
        with pytest.raises(Fault, match="does not answer"):
            await inbox.scan(())
    for _ in range(10):
        # Two threads are left to hang, and all others wait for one.
        with pytest.raises(Fault, match="does not answer"):
            await inbox.aside(lambda: looks.append(back.wait(60)))
    assert (len(scans), len(looks)) == (1, 0)
    back.set()
    inbox.hang_seconds = 60
    assert inbox._hanging is not None
    await asyncio.wrap_future(inbox._hanging)
    assert (await inbox.scan(())).files == 0, "it is well again"
    await asyncio.to_thread(inbox._pool.shutdown)
    assert (len(scans), len(looks)) == (2, THREADS - 1)


async def test_work_that_nobody_waits_for_any_more_is_not_begun(tmp_path: Path, back: threading.Event) -> None:
    inbox = DiskInbox(tmp_path, Selection(["*.png"], []), recursive=True)
    begun = []
    hanging = [asyncio.ensure_future(inbox.aside(lambda: back.wait(60))) for _ in range(THREADS)]
    waiting = asyncio.ensure_future(inbox.aside(lambda: begun.append(1)))
    await settle()
    waiting.cancel()
    await asyncio.wait([waiting])
    back.set()
    assert await asyncio.gather(*hanging) == [True] * THREADS
    await asyncio.to_thread(inbox._pool.shutdown)
    assert begun == []


def _shop(opened: House) -> Any:
    return shop(Path(), opened.clock, opened=opened)
