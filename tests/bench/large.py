"""
Large: the most memory that the daemon has in use for one camera's picture, in pieces there and in one piece back.

24 megapixels at scale 4 are 14 tiles, and a result of 384 megapixels. The prediction server is the one for a person's
own machine, in a process of its own, so all that is counted is the daemon's: decoding and cutting, the checks of what
came back, joining, writing, hashing. Its sideways picture (EXIF orientation 6) cannot be turned line by line. Each
source has a daemon of its own: what the one has used is not to be seen in the other. The time is the whole journey's,
most of it the server's resampling on the same cores; the daemon's own CPU stands beside it.
"""

import struct
import time
from pathlib import Path

import pyvips
from bench.figure import Figure
from bench.processes import ENVIRONMENT, Daemon, configure, running
from bench.watched import PACE, cpu_seconds, memory_mib, photograph
from e2e.world import Server

from daemon.config_model import ApiConfig, FolderConfig
from daemon.rules.tiles import cut

SIZE, SIZE_SHORT = (6000, 4000), (240, 160)
PIXELS_MAX_SHORT = 10_000
SCALE = 4
AIM_MIB = 300
SECONDS_MAX = 1800
SOURCES = {"PNG": (".png", 1), "JPEG": (".jpg", 1), "sideways JPEG": (".jpg", 6)}


def measure(short: bool, work: Path) -> list[Figure]:
    """The daemon's peak with each source."""
    return [journey(name, short, work / name.replace(" ", "-")) for name in SOURCES]


def journey(name: str, short: bool, work: Path) -> Figure:
    """One picture, from the inbox to the outbox."""
    suffix, orientation = SOURCES[name]
    width, height = SIZE_SHORT if short else SIZE
    work.mkdir(parents=True)
    source = work / f"large{suffix}"
    write(source, width, height, orientation)
    pixels_max = PIXELS_MAX_SHORT if short else ApiConfig().pixels_max
    overlap = FolderConfig.model_fields["overlap"].default
    tiles = len(cut(*((width, height) if orientation == 1 else (height, width)), pixels_max, overlap, SCALE))
    with running(Server(work / "server", "--workers", "2")) as server:
        config = configure(
            work, server.base_url, scale=SCALE, scan_seconds=10, api=f"{PACE}\npixels_max = {pixels_max}"
        )
        with running(Daemon(config)) as daemon:
            daemon.expect_event("watching")
            at_start = memory_mib(daemon.process.pid)
            began = time.monotonic()
            source.rename(work / "in" / source.name)
            daemon.expect_event("fetched", tiles, seconds=SECONDS_MAX)
            fetched, cpu_fetched = time.monotonic(), cpu_seconds(daemon.process.pid)
            peak_fetched = memory_mib(daemon.process.pid)
            daemon.expect_event("done", seconds=SECONDS_MAX)
            done, cpu = time.monotonic(), cpu_seconds(daemon.process.pid)
            peak = memory_mib(daemon.process.pid)
        assert len(server.predictions()) == tiles
    result = work / "out" / f"large_x{SCALE}.png"
    found = pyvips.Image.new_from_file(str(result), access="sequential")
    size = (width * SCALE, height * SCALE)
    assert (found.width, found.height) == (size if orientation == 1 else size[::-1])
    bytes_ = result.stat().st_size
    result.unlink()
    return Figure(
        name=f"memory for 24 megapixels at x4, {name}",
        value=round(peak, 1),
        unit="MiB",
        against="nothing",
        aim=f"<= {AIM_MIB} MiB",
        met=None if short else peak <= AIM_MIB,
        detail={
            "megapixels": width * height / 1e6,
            "result_megapixels": width * height * SCALE**2 / 1e6,
            "result_in_memory_mib": round(width * height * SCALE**2 * 3 / 2**20),
            "result_bytes": bytes_,
            "tiles": tiles,
            "at_start_mib": round(at_start, 1),
            "peak_before_joining_mib": round(peak_fetched, 1),
            "seconds": round(done - began, 1),
            "joining_seconds": round(done - fetched, 1),
            "daemon_cpu_seconds": round(cpu, 1),
            "joining_cpu_seconds": round(cpu - cpu_fetched, 1),
            "environment": ENVIRONMENT,
        },
    )


def write(path: Path, width: int, height: int, orientation: int) -> None:
    """Shapes and grain, of a size that `photograph` would hold in memory several times over."""
    picture = photograph(1, width // 4, height // 4).resize(4, kernel="linear")
    if path.suffix == ".png":
        picture.pngsave(str(path), compression=1, filter="sub")
        return
    # Of EXIF nothing but the orientation.
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    data = picture.jpegsave_buffer(Q=92, keep="none")
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
