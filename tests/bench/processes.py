"""
The processes of a benchmark, each of its own, and what they are given: pictures and a configuration.

The daemon is the one that this process would import, wherever the benchmark itself lies: so PYTHONPATH alone decides
which checkout is measured.
"""

import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyvips
from bench.scene import scene
from e2e import world
from e2e.world import KEY, STARTED, Process

import daemon

TESTS = Path(__file__).parent.parent
SECRET = "wh-5ecre7-of-the-benchmark"
SIZES = ((24, 18), (48, 36), (64, 48), (96, 72), (120, 90), (160, 120))
SUFFIXES = (".jpg", ".png")
# The environment that the unit gives the daemon.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}

P = TypeVar("P", bound=Process)


class Service(Process):
    """`bench.service`, until it is killed."""

    def __init__(self, *options: str) -> None:
        super().__init__([sys.executable, "-m", "bench.service", *options], cwd=TESTS)
        self.base_url = self.expect(lambda line: line.startswith("http"), "base URL")

    def report(self) -> dict[str, Any]:
        """All that it saw."""
        with urllib.request.urlopen(self.base_url.removesuffix("/v1") + "/report", timeout=60) as response:
            return json.load(response)


class Daemon(world.Daemon):
    """`esrgand run`, with the environment that the unit gives it."""

    def __init__(self, config: Path, command: str = "run") -> None:
        # From a folder in which no other ./daemon stands first.
        place = {"PYTHONPATH": str(Path(daemon.__path__[0]).resolve().parent)}
        super().__init__(config, command, {**ENVIRONMENT, **place}, config.parent)


class Plain(Process):
    """`bench.plain`."""

    def __init__(self, base_url: str, folder: Path, poll_seconds: float, scale: int) -> None:
        command = [sys.executable, "-m", "bench.plain", base_url, str(folder / "in"), str(folder / "out")]
        super().__init__([*command, str(poll_seconds), str(scale)], cwd=TESTS)


@contextmanager
def running(process: P) -> Iterator[P]:
    """It, and nothing of it afterwards, whether the measuring goes well or not."""
    try:
        yield process
    finally:
        process.end(signal.SIGKILL)
        STARTED.remove(process)


def drop(inbox: Path, count: int) -> None:
    """Pictures of all sizes in turn, JPEG and PNG, no two of which are the same."""
    inbox.mkdir(parents=True, exist_ok=True)
    seen = set()
    for number in range(count):
        suffix = SUFFIXES[number // len(SIZES) % 2]
        width, height = SIZES[number % len(SIZES)]
        grain = pyvips.Image.gaussnoise(width, height, mean=0, sigma=6, seed=number)
        picture = (scene(width, height) + grain).cast("uchar").copy(interpretation="srgb")
        body: bytes = picture.write_to_buffer(suffix)
        seen.add(body)
        (inbox / f"{number:05}{suffix}").write_bytes(body)
    assert len(seen) == count


def ready(scale: int) -> list[str]:
    """The service's option for their results."""
    return ["--ready", *(f"{width * scale}x{height * scale}" for width, height in SIZES)]


def results(outbox: Path) -> int:
    """How many results there are."""
    return sum(name.endswith(".png") and not name.startswith(".") for name in os.listdir(outbox))


def configure(
    folder: Path,
    base_url: str,
    *,
    scale: float = 4,
    quiet_seconds: float = 0.3,
    scan_seconds: float = 1,
    api: str = "",
    webhooks: bool = False,
    level: str = "info",
) -> Path:
    """A configuration with one folder. api: further lines of that section."""
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, text in (("key", KEY), ("secret", SECRET)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    listen = f"127.0.0.1:{free_port()}" if webhooks else ""
    webhook = f'[webhook]\npublic_url = "http://{listen}/hook"\nsecret_file = "secret"' if webhooks else ""
    path = folder / "config.toml"
    path.write_text(
        f"""
state_dir = "state"
[[folder]]
inbox = "in"
outbox = "out"
scale = {scale}
quiet_seconds = {quiet_seconds}
scan_seconds = {scan_seconds}
[api]
key_file = "key"
base_url = "{base_url}"
{api}
[storage]
kind = "vendor"
[http]
listen = "{listen}"
[log]
level = "{level}"
format = "json"
{webhook}
"""
    )
    return path


def free_port() -> int:
    """One that nobody listens on now; the service has to be told before the daemon can take one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
