"""
Cost: CPU seconds of the daemon for one picture, over those of a bare script that does the least there is to do.

The service takes no time and is a process of its own, so all that is counted is the daemon's: settling, ledger, checks,
copies, log. Daemon and script take turns within one run, with other pictures of the same kind, so that a neighbour on
the machine slows both. The daemon is counted from when it has been watching to its last `done`; it also deletes what it
uploaded, which the script does not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.figure import Figure
from bench.processes import Daemon, running
from bench.watched import Instant, cpu_seconds, enlarged, photograph, watching
from e2e.world import SECONDS_MAX

BARE = Path(__file__).with_name("bare.py")
AIM = 1.5
SCALES = (4, 2)  # with the smaller result there is less decoding to hide behind
SIZE, SIZE_SHORT = (1400, 1000), (140, 100)
QUALITY = 96  # such a photograph has 1 MB
ROUNDS, ROUNDS_SHORT = 4, 1
PICTURES, PICTURES_SHORT = 6, 2  # in each round, for each of the two


def measure(short: bool, work: Path) -> list[Figure]:
    """One figure for each scale."""
    return [compare(scale, short, work / f"x{scale}") for scale in SCALES]


def compare(scale: int, short: bool, work: Path) -> Figure:
    """The daemon's CPU over the script's."""
    rounds, pictures = (ROUNDS_SHORT, PICTURES_SHORT) if short else (ROUNDS, PICTURES)
    size = SIZE_SHORT if short else SIZE
    (work / "out").mkdir(parents=True)
    (work / "bare").mkdir()
    result = work / "result.png"
    enlarged(photograph(0, *size), scale, result)
    ours = bare = 0.0
    with running(Instant(result)) as service, watching(work, service.base_url, scale=scale) as daemon:
        for number in range(rounds):
            paths = photographs(work / "next", 1 + 2 * number * pictures, 2 * pictures, size)
            bytes_ = paths[0].stat().st_size
            bare += of_script(service, work / "bare", scale, paths[:pictures])
            ours += of_daemon(daemon, work / "in", paths[pictures:], (number + 1) * pictures)
        assert len(list((work / "out").glob("*.png"))) == rounds * pictures
    each_ours, each_bare = (1000 * seconds / (rounds * pictures) for seconds in (ours, bare))
    ratio = ours / bare if bare else 0.0
    return Figure(
        name=f"CPU per picture, scale {scale}",
        value=round(ratio, 3),
        unit="times",
        against="a bare script with the same library calls",
        aim=f"<= {AIM}",
        met=None if short else ratio <= AIM,
        detail={
            "pictures": rounds * pictures,
            "bytes": bytes_,
            "pixels": size[0] * size[1],
            "result_bytes": result.stat().st_size,
            "daemon_ms_per_picture": round(each_ours, 2),
            "bare_ms_per_picture": round(each_bare, 2),
            "difference_ms_per_picture": round(each_ours - each_bare, 2),
        },
    )


def photographs(folder: Path, first: int, count: int, size: tuple[int, int]) -> list[Path]:
    """Files with so many pictures, in a folder beside the inbox."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{seed:05}.jpg" for seed in range(first, first + count)]
    for seed, path in enumerate(paths, first):
        photograph(seed, *size).jpegsave(str(path), Q=QUALITY)
    return paths


def of_daemon(daemon: Daemon, inbox: Path, paths: list[Path], done: int) -> float:
    """CPU seconds until so many are done in all."""
    before = cpu_seconds(daemon.process.pid)
    for path in paths:
        os.rename(path, inbox / path.name)
    daemon.expect_event("done", done)
    return cpu_seconds(daemon.process.pid) - before


def of_script(service: Instant, outbox: Path, scale: int, paths: list[Path]) -> float:
    """CPU seconds of the script's loop."""
    command = [sys.executable, str(BARE), service.base_url, str(outbox), str(scale), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS_MAX)
    answer = json.loads(done.stdout)
    assert answer["pictures"] == len(paths) == len(list(outbox.glob("*.png")))
    for path in (*outbox.glob("*.png"), *paths):
        path.unlink()
    return float(answer["cpu_seconds"])
