"""
A daemon beside a service that takes no time, what the kernel says of it, and pictures like photographs.

Numbers come from /proc, of the whole process with all its threads.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyvips
from bench.processes import Daemon, configure, running
from bench.scene import scene
from e2e.world import Process

INSTANT = Path(__file__).with_name("instant.py")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SCAN_SECONDS = 10
PACE = "poll_seconds_min = 0.2\ncreates_per_minute_max = 10000"  # only the daemon itself limits it


class Instant(Process):
    """The service; see `instant`."""

    def __init__(self, result: Path, *options: str) -> None:
        super().__init__([sys.executable, str(INSTANT), str(result), *options])
        self.base_url = self.expect(lambda line: line.startswith("http"), "base URL")

    def expect_line(self, what: str, count: int) -> str:
        """The count-th line of that kind; what it is about."""
        left = count

        def true(line: str) -> bool:
            nonlocal left
            left -= line.startswith(f"{what} ")
            return left == 0

        return self.expect(true, f"{count} x {what}").split()[1]


@contextmanager
def watching(folder: Path, base_url: str, **settings: Any) -> Iterator[Daemon]:
    """A daemon over `folder`/in and `folder`/out that has scanned its inbox once. settings: as for `configure`."""
    with running(Daemon(configure(folder, base_url, scan_seconds=SCAN_SECONDS, api=PACE, **settings))) as daemon:
        daemon.expect_event("watching")
        yield daemon


def cpu_seconds(pid: int) -> float:
    """CPU of a process so far, user and system, all threads."""
    # The second field is a name in brackets, which may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def memory_mib(pid: int, what: str = "VmHWM") -> float:
    """Memory of a process in MiB: the most that it ever had in use, or (VmRSS) what it has now."""
    found = re.search(rf"^{what}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def photograph(seed: int, width: int, height: int) -> pyvips.Image:
    """Something with the detail of a photograph: soft shapes and grain. No other seed makes it.

    The shapes are always the same, so that one result looks like all of them.
    """
    grain = pyvips.Image.gaussnoise(width, height, sigma=36, mean=0, seed=seed).gaussblur(0.6)
    return (scene(width, height) + grain).cast("uchar").copy(interpretation="srgb").copy_memory()


def enlarged(picture: pyvips.Image, scale: float, path: Path) -> None:
    """Its result, as the service's own writer (OpenCV) compresses a PNG."""
    picture.resize(scale, kernel="lanczos3").pngsave(str(path), compression=1, filter="sub")
