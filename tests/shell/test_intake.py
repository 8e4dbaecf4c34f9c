"""Intake: from folders to the ledger, with real pictures; what is not ready waits, and nobody else waits for it."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import pyvips
from fakes.clock import FakeClock, HeldClock, settle
from shell_kit import House, house

from daemon.adapters.picture import VipsPictures
from daemon.intake import STEP_SECONDS, WORKERS, Intake
from daemon.ports_pictures import Aside, Pictures, Reading
from daemon.rules.faults import LedgerBroken
from daemon.rules.lifecycle import State
from daemon.rules.settling import Candidate
from daemon.rules.tiles import cut


def picture(width: int = 8, height: int = 6, shade: int = 100) -> bytes:
    data: bytes = (pyvips.Image.black(width, height) + shade).cast("uchar").write_to_buffer(".png")
    return data


class Shop:
    """Intake at work on a house; its clock runs as fast as its tasks go."""

    def __init__(self, house: House, pictures: Pictures | None = None) -> None:
        self.house = house
        world = house.dispatcher.world
        world = dataclasses.replace(world, pictures=pictures or world.pictures)
        self.queues: dict[int, asyncio.Queue[Candidate]] = {
            folder.id: asyncio.Queue(maxsize=8) for folder in house.folders
        }
        self.poked: list[State] = []
        self.stopping = asyncio.Event()
        wakes = {folder.id: asyncio.Event() for folder in house.folders}
        for folder in house.folders:
            queue = self.queues[folder.id]
            folder.detector.hand = queue.put_nowait
            folder.detector.has_room = lambda queue=queue: not queue.full()
            folder.detector.wake = wakes[folder.id].set
        folders = {folder.id: folder for folder in house.folders}
        self.intake = Intake(house.config, world, folders, wakes, self.queues, self.poked.append, self.stopping)

    async def until(self, true: Callable[[], bool]) -> None:
        """Return when it is so; the log is written at every change."""
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0)

    async def told(self, event: str, times: int = 1) -> list[dict[str, Any]]:
        """The lines of that event, once there are so many."""
        await self.until(lambda: len(self.house.told(event)) >= times)
        return self.house.told(event)


@asynccontextmanager
async def shop(
    root: Path, clock: FakeClock, pictures: Pictures | None = None, opened: House | None = None, **more: Any
) -> AsyncIterator[Shop]:
    """opened: a house that is open already."""
    async with nullcontext(opened) if opened is not None else house(root, clock, **more) as opened:
        shop = Shop(opened, pictures)
        async with asyncio.TaskGroup() as group:
            tasks = shop.intake.start(group)
            assert len(tasks) == len(opened.folders) * (1 + WORKERS)
            try:
                yield shop
            finally:
                for task in tasks:
                    task.cancel()


async def test_a_picture_is_read_and_recorded(tmp_path: Path, clock: FakeClock) -> None:
    async with shop(tmp_path, clock) as at_work:
        at_work.house.drop("trip/a.png", picture())
        [line] = await at_work.told("admitted")
        assert (line["picture"], line["decision"]) == ("trip/a.png", "new")
        tile = await at_work.house.ledger.tile((line["job"], 0))
        content = tile.job.content
        assert (content.width, content.height, content.format, content.bytes) == (8, 6, "PNG", len(picture()))
        await at_work.until(at_work.intake.is_idle)
        assert State.ADMITTED in at_work.poked


async def test_a_restart_reads_nothing_twice(tmp_path: Path, clock: FakeClock) -> None:
    async with shop(tmp_path, clock) as at_work:
        at_work.house.drop("a.png", picture())
        await at_work.told("admitted")
    async with shop(tmp_path, clock) as at_work:
        at_work.house.drop("b.png", picture(shade=50))
        [line] = await at_work.told("admitted")
        assert line["picture"] == "b.png"
        await at_work.until(at_work.intake.is_idle)
        assert len(at_work.house.told("admitted")) == 1


async def test_a_broken_picture_waits_with_its_reason_and_holds_up_nobody(tmp_path: Path, clock: FakeClock) -> None:
    async with shop(tmp_path, clock) as at_work:
        at_work.house.drop("0.png", picture()[:-20])
        at_work.house.drop("1.png", picture())
        [admitted] = await at_work.told("admitted")
        assert admitted["picture"] == "1.png"
        [waiting] = await at_work.told("not_ready")
        assert (waiting["picture"], waiting["sign"]) == ("0.png", "hard")
        [(_, path, reason)] = at_work.intake.unready()
        assert (path, reason) == (b"0.png", waiting["reason"])
        await at_work.told("failed")
        assert at_work.house.told("not_ready") == [waiting], "the same reason is said once"
        [failed] = at_work.house.told("failed")
        assert failed["picture"] == "0.png"
        assert "does not decode" in failed["reason"]
        assert clock.seconds >= 1_800, "after half an hour, not sooner"


async def test_a_broken_picture_that_is_mended_goes_on(tmp_path: Path, clock: FakeClock) -> None:
    async with shop(tmp_path, clock) as at_work:
        at_work.house.drop("a.png", picture()[:-20])
        await at_work.told("not_ready")
        at_work.house.drop("a.png", picture())
        await at_work.told("admitted")
        assert at_work.intake.unready() == []


async def test_a_soft_sign_is_accepted_the_second_time(tmp_path: Path, clock: FakeClock) -> None:
    async with shop(tmp_path, clock) as at_work:
        at_work.house.drop("a.png", picture() + b"trailer")
        [admitted] = await at_work.told("admitted")
        assert [line["sign"] for line in at_work.house.told("not_ready")] == ["soft"]
        assert (await at_work.house.ledger.tile((admitted["job"], 0))).job.content.format == "PNG"


async def test_too_many_pixels_fail_at_once_and_say_how_many(tmp_path: Path, clock: FakeClock) -> None:
    async with shop(tmp_path, clock, api={"pixels_max": 40}, folder={"oversize": "fail"}) as at_work:
        at_work.house.drop("a.png", picture())
        [failed] = await at_work.told("failed")
        assert "8 x 6" in failed["reason"]
        assert (await at_work.house.ledger.tile((failed["job"], 0))).state is State.FAILED


async def test_too_many_pixels_are_several_tiles(tmp_path: Path, clock: FakeClock) -> None:
    """What is cut is one picture to a person: of a drop, it counts once."""
    large = {"api": {"pixels_max": 40}, "folder": {"overlap": 1}, "budget": {"pictures_per_drop_max": 2}}
    async with shop(tmp_path, clock, **large) as at_work:
        for number in range(3):
            at_work.house.drop(f"{number}.png", picture(shade=number * 20))
        admitted = await at_work.told("admitted", 3)
        wholes = [await at_work.house.ledger.whole(str(line["job"])) for line in admitted]
        assert [[tile.rect for tile in whole.tiles] for whole in wholes] == [list(cut(8, 6, 40, 1, 2.0))] * 3
        assert sorted(whole.state for whole in wholes) == [State.ADMITTED, State.ADMITTED, State.HELD]
        assert len(wholes[0].tiles) > 1


async def test_a_big_drop_is_held_for_a_person(tmp_path: Path, clock: FakeClock) -> None:
    async with shop(tmp_path, clock, budget={"pictures_per_drop_max": 2}) as at_work:
        for number in range(5):
            at_work.house.drop(f"{number}.png", picture(shade=number * 20))
        await at_work.told("admitted", 5)
        counts = await at_work.house.ledger.counts()
        assert counts == {State.ADMITTED: 2, State.HELD: 3}


async def test_those_who_are_admitted_together_count_each_other(tmp_path: Path, clock: FakeClock) -> None:
    async with shop(tmp_path, clock, folders=4, budget={"pictures_per_drop_max": 3}) as at_work:
        for number in range(24):
            at_work.house.drop(f"{number}.png", picture(shade=number * 10), folder=number % 4)
        await at_work.told("admitted", 24)
        assert await at_work.house.ledger.counts() == {State.ADMITTED: 3, State.HELD: 21}


async def test_a_folder_that_goes_and_comes_is_told_once_each_and_others_go_on(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with shop(tmp_path, clock, folders=2) as at_work:
        await at_work.until(at_work.intake.is_idle)
        away = at_work.house.inbox.rename(tmp_path / "away")
        [gone] = await at_work.told("folder_unavailable")
        assert gone["inbox"] == str(at_work.house.inbox)
        assert len(at_work.intake.faults()) == 1
        before = clock.seconds
        at_work.house.drop("b.png", picture(), folder=1)
        await at_work.told("admitted")
        await at_work.until(lambda: clock.seconds > before + 100)
        away.rename(at_work.house.inbox)
        await at_work.told("folder_available")
        at_work.house.drop("a.png", picture(shade=7))
        await at_work.told("admitted", 2)
        assert len(at_work.house.told("folder_unavailable")) == 1
        assert len(at_work.house.told("folder_available")) == 1
        assert at_work.intake.faults() == []


async def test_a_picture_that_is_gone_when_its_turn_comes_is_forgotten(tmp_path: Path, clock: FakeClock) -> None:
    async with shop(tmp_path, clock) as at_work:
        file = at_work.house.drop("a.png", picture())
        detector = at_work.house.folders[0].detector
        hand = detector.hand

        def hand_late(candidate: Candidate) -> None:
            file.unlink()
            hand(candidate)

        detector.hand = hand_late
        await at_work.until(lambda: detector.scans > 0 and not file.exists() and not detector.settling)
        await at_work.until(at_work.intake.is_idle)
        assert await at_work.house.ledger.counts() == {}
        assert at_work.intake.faults() == []


class Defective(VipsPictures):
    """Meets a defect of ours with some files."""

    async def read(self, source: BinaryIO, aside: Aside | None = None) -> Reading:
        reading = await super().read(source)
        return reading if reading.content.width != 13 else 1 // 0  # type: ignore[return-value]


async def test_a_defect_with_one_file_stops_nothing(tmp_path: Path, clock: FakeClock) -> None:
    pictures = Defective()
    async with shop(tmp_path, clock, pictures) as at_work:
        at_work.house.drop("0.png", picture(width=13))
        await at_work.told("defect")
        at_work.house.drop("1.png", picture())
        [line] = await at_work.told("admitted")
        assert line["picture"] == "1.png"
        await at_work.told("defect", 2)
    pictures.close()


async def test_a_broken_ledger_ends_everything(tmp_path: Path, clock: FakeClock) -> None:
    async def break_it() -> None:
        async with shop(tmp_path, clock) as at_work:
            await at_work.house.ledger.write(lambda db: db.execute("DROP TABLE picture"))
            at_work.house.drop("a.png", picture())
            await at_work.until(lambda: False)

    with pytest.raises(ExceptionGroup) as caught:
        await break_it()
    assert caught.group_contains(LedgerBroken)


class Steps:
    """A detector that has nothing to do but what it is woken for. at: when it did. took: how long that takes."""

    fault = watch_fault = None

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.at: list[float] = []
        self.took = 0.0

    async def step(self) -> float:
        self.at.append(self.clock.seconds)
        self.clock.advance(self.took)
        return 100.0


async def test_the_first_hint_is_followed_at_once_and_of_a_burst_the_others_together(tmp_path: Path) -> None:
    clock = HeldClock()
    async with house(tmp_path, clock) as at_work:
        steps, wake = Steps(clock), asyncio.Event()
        folder = dataclasses.replace(at_work.folders[0], detector=steps)  # type: ignore[arg-type]
        world, wakes = at_work.dispatcher.world, {folder.id: wake}
        intake = Intake(at_work.config, world, {folder.id: folder}, wakes, {}, lambda _: None, asyncio.Event())
        watching = asyncio.create_task(intake.watch(folder))
        await clock.let_pass(10.0)
        for _ in range(3):
            wake.set()
            await settle()
        assert steps.at == [0.0, 10.0]
        await clock.let_pass(50.0)
        assert steps.at == [0.0, 10.0, 10.0 + STEP_SECONDS]
        steps.took = 1.0
        for _ in range(2):
            wake.set()
            await settle()
        assert steps.at[3:] == [60.0, 61.0], "what took longer than that has waited enough"
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
