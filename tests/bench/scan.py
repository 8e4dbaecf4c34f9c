"""
Scan: what looking at a large inbox costs in which everything is done.

The scan is the truth about an inbox, so it runs every few seconds for months: it may cost little more than the bare
walk of `os.scandir` and `stat` that it cannot do without. The two take turns in one process, and the best of each
counts, in seconds of CPU: neither waits for anything, and a neighbour that makes it wait is not its cost. In the long
form a real daemon sits over the same inbox, and the kernel says how much CPU it takes to do nothing.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import TimeoutExpired

from bench.figure import Figure
from bench.processes import running
from bench.watched import SCAN_SECONDS, Instant, cpu_seconds, enlarged, memory_mib, photograph, watching

from daemon.adapters.clock import SystemClock
from daemon.adapters.folder import DiskInbox
from daemon.adapters.ledger import SqliteLedger
from daemon.config_model import FolderConfig
from daemon.ports import mark
from daemon.rules.job import Content, Look, Settled
from daemon.rules.names import Selection
from daemon.rules.recipe import Recipe

FOLDERS = 100
FILES, FILES_SHORT = 100_000, 2_000
ROUNDS = 5
AIM = 1.5
IDLE_SECONDS = 60
IDLE_CPU_SECONDS_MAX = 1.2  # in a minute: a fiftieth of one core, of which a hundredth is what scans may take
BATCH = 5_000  # admissions in one go, so that they share their commits


def measure(short: bool, work: Path) -> list[Figure]:
    """The scan's ratio; in the long form the idle daemon's CPU too."""
    files = FILES_SHORT if short else FILES
    inbox = work / "in"
    planted(inbox, files)
    figure, looks = asyncio.run(compared(inbox, files, short))
    return [figure] if short else [figure, idle(work, looks)]


def planted(inbox: Path, files: int) -> None:
    """Files that are pictures by their names, evenly in folders."""
    for number in range(FOLDERS):
        folder = inbox / f"{number:03}"
        folder.mkdir(parents=True)
        for each in range(files // FOLDERS):
            (folder / f"IMG_{each:05}.jpg").write_bytes(b"x")


async def compared(inbox: Path, files: int, short: bool) -> tuple[Figure, list[tuple[bytes, Look]]]:
    """The best scan over the best walk, and what there is."""
    config = FolderConfig(inbox=inbox, outbox=inbox.with_name("out"))
    folder = DiskInbox(inbox, Selection(config.include, config.exclude), recursive=True)
    try:
        looks = (await folder.scan(())).found
        known = {mark(path, look) for path, look in looks}
        scans, walks = [], []
        for _ in range(ROUNDS):
            walks.append(timed(lambda: walked(inbox, files)))
            before = time.process_time()
            scan = await folder.scan(known)
            scans.append(time.process_time() - before)
            assert (scan.files, scan.found, scan.unreadable) == (files, [], [])
    finally:
        folder.close()
    ratio = min(scans) / min(walks)
    figure = Figure(
        name="a scan in which everything is known",
        value=round(ratio, 3),
        unit="times",
        against="a bare os.scandir and stat of every file",
        aim=f"<= {AIM}",
        met=None if short else ratio <= AIM,
        detail={
            "files": files,
            "folders": FOLDERS,
            "scan_cpu_seconds": [round(each, 4) for each in scans],
            "walk_cpu_seconds": [round(each, 4) for each in walks],
        },
    )
    return figure, looks


def timed(work: Callable[[], None]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def walked(root: Path, files: int) -> None:
    """The bare walk."""
    count, folders = 0, [os.fsencode(root)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)
                    count += 1
    assert count == files


def idle(work: Path, looks: list[tuple[bytes, Look]]) -> Figure:
    """CPU of a daemon that has nothing to do."""
    asyncio.run(recorded(work, looks))
    result = work / "result.png"
    enlarged(photograph(0, 16, 16), 2, result)
    with running(Instant(result)) as service, watching(work, service.base_url) as daemon:
        pid = daemon.process.pid
        begin = cpu_seconds(pid)
        try:
            daemon.process.wait(IDLE_SECONDS)
        except TimeoutExpired:
            pass
        spent, memory = cpu_seconds(pid) - begin, memory_mib(pid)
        assert not daemon.counted("admitted"), "it found something to do"
    return Figure(
        name="CPU of an idle daemon",
        value=round(spent * 60 / IDLE_SECONDS, 2),
        unit="s per minute",
        against="nothing",
        aim=f"<= {IDLE_CPU_SECONDS_MAX:g}",
        met=spent * 60 / IDLE_SECONDS <= IDLE_CPU_SECONDS_MAX,
        detail={
            "known_files": len(looks),
            "scan_seconds": SCAN_SECONDS,
            "measured_seconds": IDLE_SECONDS,
            "cpu_seconds_to_start": begin,
            "peak_mib": round(memory),
        },
    )


async def recorded(work: Path, looks: list[tuple[bytes, Look]]) -> None:
    """A ledger in which all these files are done."""
    (work / "state").mkdir(mode=0o700)
    ledger = SqliteLedger(work / "state" / "ledger.db", SystemClock())
    await ledger.open()
    now = SystemClock().wall()
    folder = await ledger.folder(os.fsencode(work / "in"), "oldest")
    for begin in range(0, len(looks), BATCH):
        settled = (
            Settled(folder, path, look, now, Content(hashlib.sha256(path).hexdigest(), 1, 3, 2, "JPEG"), Recipe(), None)
            for path, look in looks[begin : begin + BATCH]
        )
        await asyncio.gather(*(ledger.admit(each, "oldest", True, None, now) for each in settled))
    # Their whole journeys would take half an hour, and leave the same behind for whoever looks for something to do.
    await ledger.write(lambda db: db.execute("UPDATE tile SET state = 'done'").rowcount)
    await ledger.write(lambda db: db.execute("UPDATE picture SET phase = 'delivered'").rowcount)
    await ledger.close()
