"""
Memory: the most that the daemon ever has in use, with a large drop waiting and every slot taken for ever.

Each picture of the drop has 1 MB that is really on the disk: a small PNG, quick to decode, with a chunk of ballast that
decoders pass over and that is read and hashed like any other byte. Where the disk has not the room for all of them,
there are fewer, and the figure says so. The other figure is the check of a result of 192 megapixels, near the largest
that the model's input and a scale of ten can make, in a process that does nothing else.
"""

import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

from bench.figure import Figure
from bench.processes import ENVIRONMENT, Daemon, running
from bench.watched import Instant, enlarged, memory_mib, photograph, watching
from e2e.world import SECONDS_MAX

PICTURES, PICTURES_SHORT = 20_000, 100
BYTES, BYTES_SHORT = 1_000_000, 10_000
IN_FLIGHT = 10
SPARE_BYTES = 15 << 30  # what the disk keeps free
ADMIT_SECONDS_MAX = 1800
AIM_MIB = 200
CHECK_SIZE, CHECK_SIZE_SHORT = (16_000, 12_000), (4_000, 3_000)
CHECK_AIM_MIB = 250

# Both in processes of their own: what the one has used is not to be seen in the other.
MAKE = """
import sys, pyvips
path, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pyvips.concurrency_set(1)
grain = pyvips.Image.gaussnoise(width // 4, height // 4, mean=128, sigma=30, seed=1)
picture = grain.bandjoin([grain.fliphor(), grain.flipver()]).cast("uchar").copy(interpretation="srgb")
picture.resize(4, kernel="linear").pngsave(path, compression=1, filter="sub")
"""
CHECK = """
import asyncio, re, sys
from pathlib import Path
from daemon.adapters.picture import VipsPictures
pictures = VipsPictures()
found = asyncio.run(pictures.measure(Path(sys.argv[1]), 1_000_000_000))
print(found.width, found.height, found.format)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
pictures.close()
"""


def measure(short: bool, work: Path) -> list[Figure]:
    """The daemon's peak, and the check's."""
    return [waiting(short, work / "drop"), checking(short, work)]


def waiting(short: bool, work: Path) -> Figure:
    """The daemon with a large drop."""
    pictures, bytes_ = (PICTURES_SHORT, BYTES_SHORT) if short else (PICTURES, BYTES)
    (work / "next").mkdir(parents=True)
    room = (shutil.disk_usage(work).free - SPARE_BYTES) // bytes_
    files = min(pictures, room)
    assert files > 2 * IN_FLIGHT, "the disk has no room for a drop"
    dropped(work / "next", files, bytes_)
    with (
        running(Instant(work / "no result", "--never")) as service,
        watching(work, service.base_url, quiet_seconds=1.0) as daemon,
    ):
        at_start = memory_mib(daemon.process.pid)
        # All at once, as one who moves a folder there.
        os.rename(work / "next", work / "in" / "drop")
        service.expect_line("created", IN_FLIGHT)
        track = [(0, round(at_start, 1)), *watched(daemon, files)]
        peak, now = (memory_mib(daemon.process.pid, what) for what in ("VmHWM", "VmRSS"))
        assert daemon.counted("submitted") == IN_FLIGHT, "more than the slots allow, or less"
    return Figure(
        name="memory with a large drop waiting",
        value=round(peak, 1),
        unit="MiB",
        against="nothing",
        aim=f"<= {AIM_MIB} MiB",
        met=None if short or files < pictures else peak <= AIM_MIB,
        detail={
            "pictures": files,
            "meant_pictures": pictures,
            "bytes_each": bytes_,
            "in_flight": IN_FLIGHT,
            "at_start_mib": round(at_start, 1),
            "at_end_mib": round(now, 1),
            "peak_mib_by_admitted": track,
            "choice": "real bytes, of which decoders skip all but a small picture; fewer where the disk has no room",
            "environment": ENVIRONMENT,
        },
    )


def watched(daemon: Daemon, files: int) -> list[tuple[int, float]]:
    """The peak so far, each time another quarter of the files is admitted."""
    track = []
    for count in sorted({files // 4, files // 2, files * 3 // 4, files}):
        daemon.expect_event("admitted", count, seconds=ADMIT_SECONDS_MAX)
        track.append((count, round(memory_mib(daemon.process.pid), 1)))
    return track


def dropped(folder: Path, count: int, bytes_: int) -> None:
    """So many pictures of so many bytes; no two are the same."""
    picture = photograph(1, 48, 36).pngsave_buffer(compression=1)
    # The signature and the header come first, the end last; what stands between may be joined by others.
    begin, rest = picture[:33], picture[33:]
    mark_bytes = len(chunk(b"teSt", bytes(8)))
    ballast = chunk(b"baLt", os.urandom(bytes_ - len(picture) - mark_bytes - 12))
    for number in range(count):
        with open(folder / f"{number:05}.png", "wb") as file:
            file.writelines([begin, chunk(b"teSt", struct.pack(">Q", number)), ballast, rest])


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG; one whose kind begins with a small letter is passed over by who does not know it."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def checking(short: bool, work: Path) -> Figure:
    """A process that decodes a large result as the daemon does."""
    width, height = CHECK_SIZE_SHORT if short else CHECK_SIZE
    path = work / "large.png"
    printed(MAKE, str(path), str(width), str(height))
    first, peak_kib = printed(CHECK, str(path)).splitlines()
    assert first == f"{width} {height} PNG"
    small = work / "small.png"
    enlarged(photograph(1, 16, 16), 1, small)
    of_small = int(printed(CHECK, str(small)).split()[-1]) / 1024
    peak, bytes_ = int(peak_kib) / 1024, path.stat().st_size
    path.unlink()
    return Figure(
        name="memory of checking a result",
        value=round(peak, 1),
        unit="MiB",
        against="nothing",
        aim=f"<= {CHECK_AIM_MIB} MiB at 192 megapixels",
        met=None if short else peak <= CHECK_AIM_MIB,
        detail={
            "megapixels": width * height / 1e6,
            "bytes": bytes_,
            "in_memory_mib": round(width * height * 3 / 2**20),
            "of_a_small_one_mib": round(of_small, 1),
        },
    )


def printed(script: str, *arguments: str) -> str:
    """What a script of its own process says."""
    command = [sys.executable, "-c", script, *arguments]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=5 * SECONDS_MAX)
    return done.stdout
