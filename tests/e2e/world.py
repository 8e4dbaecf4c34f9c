"""A whole world of real processes for end-to-end tests: bucket emulator, prediction server, the daemon."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyvips

KEY = "key-4f1d9b7c-of-the-tests"
BUCKET = "pictures"
SECONDS_MAX = 120
DAEMON = [sys.executable, "-m", "daemon.cli"]
EMULATOR = f"""
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="{BUCKET}")
server.start()
print(server._api._httpd.server_address[1], flush=True)
input()
server.stop()
"""


STARTED: "list[Process]" = []


class Process:
    """A program whose lines are read as they come; `expect` waits for one, never for time."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200", **(env or {})},
            cwd=cwd,
            text=True,
            errors="backslashreplace",
        )
        STARTED.append(self)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._new.put(line)
        self._new.put(None)

    def expect(self, true: Callable[[str], bool], what: str, seconds: float = SECONDS_MAX) -> str:
        """The first line, from the beginning, for which it is true."""
        seen = 0
        while True:
            for line in self.lines[seen:]:
                seen += 1
                if true(line):
                    return line
            try:
                if self._new.get(timeout=seconds) is None and seen == len(self.lines):
                    raise AssertionError(f"it ended without {what}:\n" + "\n".join(self.lines[-30:]))
            except queue.Empty:
                raise AssertionError(f"no {what} in {seconds} s:\n" + "\n".join(self.lines[-30:])) from None

    def wait(self, seconds: float = SECONDS_MAX) -> int:
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        return status

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()


class Daemon(Process):
    """`esrgand run` or `esrgand once`, whose log is JSON lines."""

    def __init__(
        self, config: Path, command: str = "run", env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        super().__init__([*DAEMON, command, "--config", str(config)], env, cwd)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def counted(self, name: str) -> int:
        return sum(event["event"] == name for event in self.events)

    def expect_event(self, name: str, count: int = 1, seconds: float = SECONDS_MAX, **fields: Any) -> dict[str, Any]:
        """The count-th event of that name with these fields."""
        left = count

        def true(line: str) -> bool:
            nonlocal left
            if not line.startswith("{"):
                return False
            event = json.loads(line)
            if event["event"] == name and all(event.get(key) == value for key, value in fields.items()):
                left -= 1
            return left == 0

        return json.loads(self.expect(true, f"{count} x {name} {fields}", seconds))


class Server(Process):
    """`esrgand serve`."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(
            [*DAEMON, "serve", "--listen", "127.0.0.1:0", "--dir", str(folder), *options], {"ESRGAND_API_KEY": KEY}
        )
        self.base_url = self.expect(lambda line: line.startswith("http"), "base URL").split()[0]

    def get(self, path: str) -> Any:
        request = urllib.request.Request(self.base_url + path, headers={"X-API-Key": KEY})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def predictions(self) -> list[dict[str, Any]]:
        """Everything that was ever created: what would have been billed."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(f"/executions?limit=100&offset={len(found)}")["executions"]
            found += page
            if len(page) < 100:
                return found


class Emulator(Process):
    """A bucket."""

    def __init__(self) -> None:
        super().__init__([sys.executable, "-c", EMULATOR])
        self.url = "http://127.0.0.1:" + self.expect(str.isdigit, "port")

    def objects(self) -> list[str]:
        with urllib.request.urlopen(f"{self.url}/storage/v1/b/{BUCKET}/o", timeout=30) as response:
            return [item["name"] for item in json.load(response).get("items", [])]


def picture(seed: int, width: int = 32, height: int = 24) -> pyvips.Image:
    """A small picture that no other seed makes."""
    xy = pyvips.Image.xyz(width, height)
    bands = [(xy[0] * (seed % 7 + 3) + seed * 5) % 256, (xy[1] * (seed % 5 + 4)) % 256, (xy[0] + xy[1] + seed) % 256]
    return bands[0].bandjoin(bands[1:]).cast("uchar").copy(interpretation="srgb")


def encoded(seed: int, suffix: str, width: int = 32, height: int = 24) -> bytes:
    """Its bytes in a format: .jpg, .png or .webp."""
    options = {"lossless": True} if suffix == ".webp" else {}
    return picture(seed, width, height).write_to_buffer(suffix, **options)


def config(
    folder: Path, base_url: str, *, storage: str = 'kind = "vendor"', extra: str = "", inbox: str = "in"
) -> Path:
    """A configuration with one folder, quick for tests."""
    for name in ("in", "out"):
        (folder / name).mkdir(exist_ok=True)
    path = folder / "config.toml"
    path.write_text(
        f"""
state_dir = "state"
[[folder]]
inbox = "in"
outbox = "out"
quiet_seconds = 0.3
scan_seconds = 1
{extra}
[api]
key_file = "key"
base_url = "{base_url}"
poll_seconds_min = 0.2
create_seconds_max = 4
[storage]
{storage}
[http]
listen = "127.0.0.1:0"
[log]
level = "debug"
"""
    )
    key = folder / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    return path


def outbox(folder: Path) -> dict[bytes, bytes]:
    """Every file below a folder, by its relative name; but for the marker of an outbox."""
    root = os.fsencode(folder)
    found = {}
    for place, _, names in os.walk(root):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    found.pop(b".esrgand.json", None)
    return found


def esrgand(path: Path, *arguments: str, status: int = 0, env: dict[str, str] | None = None) -> str:
    """A command, beside a running daemon or not; what it printed."""
    command, *rest = arguments
    done = subprocess.run(
        [*DAEMON, command, "--config", str(path), *rest],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
        timeout=SECONDS_MAX,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr
