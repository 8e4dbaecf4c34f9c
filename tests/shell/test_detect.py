"""Detection with a clock of our own, on real files: when a file is handed on, and that none is ever forgotten."""

import os
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest
from fakes.clock import FakeClock

from daemon.adapters.folder import DiskInbox
from daemon.pipeline.detect import HANDED_WAIT_SECONDS, WATCH_AGAIN_SECONDS, Detector
from daemon.ports import Scan, mark
from daemon.rules.faults import Blame, Fault
from daemon.rules.job import Look
from daemon.rules.names import Selection
from daemon.rules.settling import SOFT_SIGN_FACTOR, Candidate, Sign

QUIET, SCAN = 2.0, 10.0
SLACK = 0.2


class FakeWatcher:
    """The Watcher port: hints that a test gives, and a life that it takes. faults: of the next begins."""

    def __init__(self) -> None:
        self.hints: set[bytes] = set()
        self.lost = False
        self.alive = False
        self.faults: list[Fault] = []
        self.begun = self.ended = 0
        self.wake: Callable[[], None] = lambda: None

    def begin(self, wake: Callable[[], None]) -> None:
        self.begun += 1
        self.wake = wake
        if self.faults:
            raise self.faults.pop(0)
        self.alive = True

    def take(self) -> tuple[set[bytes], bool]:
        taken = self.hints, self.lost
        self.hints, self.lost = set(), False
        return taken

    def is_alive(self) -> bool:
        return self.alive

    def end(self) -> None:
        self.ended += 1
        self.alive = False


class Yard:
    """A detector on a real inbox, and what it handed on, with the time."""

    def __init__(self, root: Path, clock: FakeClock, watcher: FakeWatcher | None = None) -> None:
        self.root, self.clock = root, clock
        self.handed: list[tuple[float, bytes]] = []
        self.room = 1_000_000
        self.inbox = DiskInbox(root, Selection(["*.png"], []), recursive=True)
        self.detector = Detector(
            folder=1,
            inbox=self.inbox,
            clock=clock,
            quiet_seconds=QUIET,
            scan_seconds=SCAN,
            known=set(),
            has_room=lambda: len(self.handed) < self.room,
            hand=self.hand,
            wake=lambda: None,
            watcher=watcher,
        )

    def hand(self, candidate: Candidate) -> None:
        self.handed.append((self.clock.seconds, candidate.path))

    def write(self, path: str = "a.png", data: bytes = b"picture") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    async def look(self, path: bytes = b"a.png") -> Look:
        look = await self.inbox.look(path)
        assert look is not None
        return look

    async def let_pass(self, seconds: float) -> None:
        """Let time go by, and the detector do what is due."""
        end = self.clock.seconds + seconds
        while (wait := await self.detector.step()) <= end - self.clock.seconds:
            assert wait > 0
            self.clock.advance(wait)
        self.clock.seconds = end
        await self.detector.step()

    def times(self, path: bytes = b"a.png") -> list[float]:
        """When it was handed on."""
        return [time for time, handed in self.handed if handed == path]


@pytest.fixture
async def yard(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Yard]:
    (tmp_path / "in").mkdir()
    yard = Yard(tmp_path / "in", clock)
    yield yard
    yard.inbox.close()


@pytest.fixture
def watcher() -> FakeWatcher:
    return FakeWatcher()


@pytest.fixture
async def watched(tmp_path: Path, clock: FakeClock, watcher: FakeWatcher) -> AsyncIterator[Yard]:
    (tmp_path / "in").mkdir()
    yard = Yard(tmp_path / "in", clock, watcher)
    await yard.let_pass(1.0)
    yield yard
    yard.inbox.close()


# Quiet


async def test_a_file_that_is_there_at_the_start_has_to_be_quiet_too(yard: Yard) -> None:
    file = yard.write()
    os.utime(file, ns=(1, 1))
    await yard.let_pass(QUIET - 0.1)
    assert yard.handed == [], "its old date proves nothing: a copy may keep the date and still go on"
    await yard.let_pass(SLACK)
    assert yard.times() == [pytest.approx(QUIET, abs=SLACK)]
    await yard.let_pass(100)
    assert len(yard.handed) == 1, "once, while it is in hand"


async def test_a_slow_writer_is_waited_for(yard: Yard) -> None:
    for size in range(1, 9):
        yard.write(data=b"x" * size)
        await yard.let_pass(QUIET / 2)
    assert yard.handed == []
    await yard.let_pass(QUIET + SLACK)
    assert yard.times() == [pytest.approx(8 * QUIET / 2 + QUIET / 2, abs=QUIET / 2 + SLACK)]


@pytest.mark.parametrize("change", ["size", "date", "inode"])
async def test_every_sign_of_change_starts_again(yard: Yard, change: str) -> None:
    file = yard.write()
    os.utime(file, ns=(5, 5))
    await yard.let_pass(QUIET - 0.1)
    match change:
        case "size":
            file.write_bytes(b"picturE and more")
            os.utime(file, ns=(5, 5))
        case "date":
            os.utime(file, ns=(6, 6))
        case _:
            other = yard.write("other")
            os.utime(other, ns=(5, 5))
            other.rename(file)
    await yard.let_pass(QUIET - 0.1)
    assert yard.handed == []
    await yard.let_pass(QUIET)
    assert len(yard.handed) == 1


async def test_an_empty_file_is_not_a_picture_yet(yard: Yard) -> None:
    yard.write(data=b"")
    await yard.let_pass(600)
    assert yard.handed == []
    assert yard.detector.is_idle(), "a file that only waits for a change keeps nobody waiting"
    yard.write(data=b"picture")
    await yard.let_pass(SCAN + QUIET + SLACK)
    assert len(yard.handed) == 1


async def test_a_file_that_goes_before_it_settles_is_no_picture(yard: Yard) -> None:
    file = yard.write()
    await yard.let_pass(QUIET / 2)
    file.unlink()
    await yard.let_pass(100)
    assert (yard.handed, yard.detector.settling) == ([], {})
    assert yard.detector.is_idle()


async def test_what_is_known_is_not_looked_at_until_it_changes(yard: Yard) -> None:
    file = yard.write()
    yard.detector.known.add(mark(b"a.png", await yard.look()))
    await yard.let_pass(100)
    assert yard.handed == []
    os.utime(file, ns=(6, 6))
    await yard.let_pass(SCAN + QUIET + SLACK)
    assert len(yard.handed) == 1


# Scans and hints


async def test_a_scan_finds_what_nobody_hinted_at(yard: Yard) -> None:
    await yard.let_pass(1.0)
    yard.write("deep/er/a.png")
    await yard.let_pass(SCAN + QUIET + SLACK)
    assert yard.times(b"deep/er/a.png") == [pytest.approx(SCAN + QUIET, abs=SLACK)]


@pytest.mark.parametrize("hint", [b"deep/a.png", b"deep"], ids=["of the file", "of its folder"])
async def test_a_hint_shortens_the_wait_and_changes_nothing_else(
    watched: Yard, watcher: FakeWatcher, hint: bytes
) -> None:
    watched.write("deep/a.png")
    watcher.hints = {hint}
    scans = watched.detector.scans
    await watched.let_pass(QUIET - 0.1)
    assert watched.handed == [], "a hint is no proof of being complete"
    await watched.let_pass(SLACK)
    assert watched.times(b"deep/a.png") == [pytest.approx(1.0 + QUIET, abs=SLACK)]
    assert watched.detector.scans == scans
    await watched.let_pass(100)
    assert len(watched.handed) == 1, "the scan that comes later finds nothing new"


async def test_hints_of_what_is_no_picture_are_nothing(watched: Yard, watcher: FakeWatcher) -> None:
    watched.write("a.png.part")
    watched.write("@eaDir/a.png")
    (watched.root / "link.png").symlink_to("a.png.part")
    watcher.hints = {b"a.png.part", b"@eaDir", b"@eaDir/a.png", b"link.png", b"gone.png", b"gone", b"caf\xe9"}
    await watched.let_pass(100)
    assert (watched.handed, watched.detector.fault) == ([], None)


async def test_lost_hints_make_a_scan(watched: Yard, watcher: FakeWatcher) -> None:
    watched.write()
    watcher.lost = True
    await watched.let_pass(QUIET + SLACK)
    assert watched.times() == [pytest.approx(1.0 + QUIET, abs=SLACK)]


async def test_a_scan_can_be_asked_for(yard: Yard) -> None:
    await yard.let_pass(1.0)
    yard.write()
    yard.detector.scan_soon()
    await yard.let_pass(QUIET + SLACK)
    assert len(yard.handed) == 1


async def test_a_watcher_that_died_is_replaced_and_a_scan_finds_what_it_missed(
    watched: Yard, watcher: FakeWatcher
) -> None:
    assert watcher.begun == 1
    await watched.let_pass(WATCH_AGAIN_SECONDS)
    assert watcher.begun == 1, "a living one is left alone"
    watcher.alive = False
    watched.write()
    await watched.let_pass(QUIET + SLACK)
    assert (watcher.begun, watcher.alive, len(watched.handed)) == (2, True, 1)
    assert watcher.ended >= 1, "the dead one was let go"


async def test_a_folder_that_cannot_be_watched_is_scanned(watched: Yard, watcher: FakeWatcher) -> None:
    watcher.alive = False
    watcher.faults = [Fault("Too many watches.", blame=Blame.HOUSE)] * 2
    await watched.let_pass(WATCH_AGAIN_SECONDS * 1.5)
    assert watched.detector.watch_fault is not None
    assert watched.detector.fault is None, "it is available all the same"
    watched.write()
    await watched.let_pass(SCAN + QUIET + SLACK)
    assert len(watched.handed) == 1
    await watched.let_pass(WATCH_AGAIN_SECONDS * 2)
    assert (watched.detector.watch_fault, watcher.alive) == (None, True)
    assert watcher.begun <= 6, "tried again now and then, not at every step"


# A full window, a folder that is away


async def test_a_full_window_holds_back_and_loses_nothing(yard: Yard) -> None:
    for number in range(10):
        yard.write(f"{number}.png")
    yard.room = 3
    await yard.let_pass(60)
    assert len(yard.handed) == 3
    assert await yard.detector.step() <= HANDED_WAIT_SECONDS
    yard.room = 1_000_000
    await yard.let_pass(HANDED_WAIT_SECONDS + SLACK)
    assert {path for _, path in yard.handed} == {b"%d.png" % number for number in range(10)}
    assert len(yard.handed) == 10


async def test_a_folder_that_is_away_is_a_fault_and_nothing_is_gone(yard: Yard) -> None:
    yard.write("known.png")
    yard.detector.known.add(mark(b"known.png", await yard.look(b"known.png")))
    yard.write()
    await yard.let_pass(QUIET / 2)
    away = yard.root.rename(yard.root.with_name("away"))
    await yard.let_pass(SCAN * 5)
    assert yard.detector.fault is not None
    assert yard.detector.fault.blame is Blame.HOUSE
    assert yard.handed == []
    assert await yard.detector.step() == SCAN
    away.rename(yard.root)
    await yard.let_pass(SCAN + QUIET + SLACK)
    assert yard.detector.fault is None
    assert [path for _, path in yard.handed] == [b"a.png"], "what was known is still known"


async def test_a_folder_that_comes_back_empty_takes_nothing_from_what_is_known(yard: Yard) -> None:
    yard.write()
    known = {mark(b"a.png", await yard.look())}
    yard.detector.known |= known
    away = yard.root.rename(yard.root.with_name("away"))
    yard.root.mkdir()
    await yard.let_pass(SCAN * 3)
    assert yard.detector.known == known
    yard.root.rmdir()
    away.rename(yard.root)
    await yard.let_pass(SCAN * 3)
    assert yard.handed == []


# What comes back from a closer look


async def test_an_admitted_file_is_known(yard: Yard) -> None:
    yard.write()
    await yard.let_pass(QUIET + SLACK)
    assert not yard.detector.is_idle()
    yard.detector.admitted(b"a.png", await yard.look())
    assert yard.detector.is_idle()
    await yard.let_pass(100)
    assert len(yard.handed) == 1


async def test_a_file_that_changed_while_it_was_admitted_comes_again(yard: Yard) -> None:
    file = yard.write()
    await yard.let_pass(QUIET + SLACK)
    old = await yard.look()
    file.write_bytes(b"another picture")
    yard.detector.admitted(b"a.png", old)
    await yard.let_pass(SCAN + QUIET + SLACK)
    assert len(yard.handed) == 2


async def test_a_file_that_changes_while_it_is_in_hand_is_not_handed_on_twice(yard: Yard) -> None:
    """It comes again when the one who reads it is through."""
    file = yard.write()
    await yard.let_pass(QUIET + SLACK)
    file.write_bytes(b"another picture")
    await yard.let_pass(100)
    assert len(yard.handed) == 1
    yard.detector.changed(b"a.png")
    await yard.let_pass(SCAN + QUIET + SLACK)
    assert len(yard.handed) == 2


async def test_a_file_that_changed_under_the_reader_starts_again(yard: Yard) -> None:
    yard.write()
    await yard.let_pass(QUIET + SLACK)
    yard.detector.changed(b"a.png")
    await yard.let_pass(QUIET - 0.3)
    assert len(yard.handed) == 1
    await yard.let_pass(QUIET)
    assert len(yard.handed) == 2


async def test_a_hard_sign_doubles_the_time_each_time(yard: Yard) -> None:
    """It goes on being looked at, ever more seldom, and a person sees why it waits."""
    yard.write()
    for _ in range(12):
        seen = len(yard.handed)
        while len(yard.handed) == seen:
            await yard.let_pass(1.0)
        yard.detector.refused(b"a.png", Sign.HARD, "It does not decode.")
    times = yard.times()
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == pytest.approx(QUIET, abs=1 + SLACK)
    assert times[1] >= 2 * QUIET
    assert pauses == sorted(pauses)
    assert 290 <= pauses[-1] <= 302
    assert yard.detector.settling[b"a.png"].reason == "It does not decode."
    assert yard.detector.is_idle()
    yard.write(data=b"whole picture")
    before = yard.clock.seconds
    await yard.let_pass(SCAN + QUIET + SLACK)
    assert yard.times()[-1] > before, "any change starts it again"
    assert yard.detector.settling[b"a.png"].reason == ""


async def test_a_soft_sign_triples_the_time_once(yard: Yard) -> None:
    yard.write()
    await yard.let_pass(QUIET + SLACK)
    yard.detector.refused(b"a.png", Sign.SOFT, "It has no end.")
    await yard.let_pass(QUIET * (SOFT_SIGN_FACTOR - 1) - 2 * SLACK)
    assert len(yard.handed) == 1
    await yard.let_pass(2 * SLACK)
    assert yard.times()[1] == pytest.approx(QUIET * SOFT_SIGN_FACTOR, abs=SLACK)
    assert yard.detector.settling[b"a.png"].softened, "the next closer look takes it as it is"


async def test_what_is_forgotten_is_looked_at_anew(yard: Yard) -> None:
    yard.write()
    look = await yard.look()
    yard.detector.known.add(mark(b"a.png", look))
    await yard.let_pass(SCAN * 2)
    yard.detector.forget(b"a.png", look)
    await yard.let_pass(SCAN + QUIET + SLACK)
    assert len(yard.handed) == 1


async def test_before_the_first_scan_nobody_is_idle(yard: Yard) -> None:
    assert not yard.detector.is_idle()
    await yard.detector.step()
    assert yard.detector.is_idle()
    assert (yard.detector.scans, yard.detector.files) == (1, 0)


async def test_thousands_of_files_settle_together(yard: Yard) -> None:
    """One scan, one quiet time, and all are handed on."""
    for number in range(2_000):
        yard.write(f"{number % 20}/{number}.png", b"%d" % number)
    await yard.let_pass(QUIET + SLACK)
    assert len(yard.handed) == 2_000
    assert yard.detector.files == 2_000


# What a scan costs


@pytest.mark.parametrize(("took", "pause"), [(0.05, SCAN), (0.3, 30.0), (5.0, 60.0), (0.11, 11.0)])
async def test_where_events_tell_a_long_scan_is_repeated_less_often(watched: Yard, took: float, pause: float) -> None:
    scan = watched.inbox.scan

    async def slow(known: set[int], under: bytes = b"") -> Scan:
        watched.clock.advance(took)
        return await scan(known, under)

    watched.inbox.scan = slow  # type: ignore[method-assign]
    watched.detector.scan_soon()
    assert await watched.detector.step() == pytest.approx(max(pause, SCAN))


async def test_where_nothing_tells_it_is_not(yard: Yard) -> None:
    scan = yard.inbox.scan

    async def slow(known: set[int], under: bytes = b"") -> Scan:
        yard.clock.advance(5.0)
        return await scan(known, under)

    yard.inbox.scan = slow  # type: ignore[method-assign]
    assert await yard.detector.step() == pytest.approx(SCAN)


async def test_nor_where_the_watcher_is_broken_or_a_scan_is_wanted_less_often(watched: Yard) -> None:
    scan = watched.inbox.scan

    async def slow(known: set[int], under: bytes = b"") -> Scan:
        watched.clock.advance(0.3)
        return await scan(known, under)

    watched.inbox.scan = slow  # type: ignore[method-assign]
    watched.detector.watch_fault = Fault("It cannot watch.", blame=Blame.HOUSE)
    watched.detector.scan_soon()
    assert await watched.detector.step() == pytest.approx(SCAN)
    watched.detector.watch_fault, watched.detector.scan_seconds = None, 45.0
    watched.detector.scan_soon()
    assert await watched.detector.step() == pytest.approx(45.0)
