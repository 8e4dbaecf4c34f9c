"""What the daemon tells a service manager, as systemd would hear it."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.world import KEY, Daemon, Server, config, encoded

MESSAGES_MAX = 50


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name_of(tmp_path))
        listener.settimeout(60)
        yield listener


def name_of(tmp_path: Path) -> str:
    """An abstract socket's name: a path may have 107 bytes only."""
    return f"esrgand-test-{os.getpid()}-{tmp_path.name}"


def hear(manager: socket.socket, word: str) -> list[str]:
    """Every message up to the one with this word; there are more of them for as long as the daemon lives."""
    heard: list[str] = []
    while not any(word in message for message in heard):
        assert len(heard) < MESSAGES_MAX, heard[-5:]
        heard.append(manager.recv(65536).decode())
    return heard


def test_it_is_ready_after_the_first_scan_and_tells_how_it_goes(tmp_path: Path, manager: socket.socket) -> None:
    server = Server(tmp_path / "server")
    path = config(tmp_path, server.base_url)
    path.write_text(path.read_text().replace('key_file = "key"', ""))
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "api-key").write_text(KEY)
    (tmp_path / "in" / "a.png").write_bytes(encoded(1, ".png"))
    env = {"NOTIFY_SOCKET": "@" + name_of(tmp_path), "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    daemon = Daemon(path, env=env | {"WATCHDOG_USEC": "180000000"})
    hear(manager, "READY=1")
    assert any("upload_received" in line for line in server.lines), "key and storage were looked at before that"
    hear(manager, "WATCHDOG=1")
    assert "1 done" in hear(manager, "1 done")[-1]

    daemon.process.send_signal(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in hear(manager, "RELOADING=1")[-1]
    hear(manager, "READY=1")
    (tmp_path / "in").rename(tmp_path / "gone")
    hear(manager, f"The inbox {tmp_path / 'in'} is ")
    daemon.process.send_signal(signal.SIGTERM)
    hear(manager, "STOPPING=1")
    assert daemon.end() == 0
    server.end()


def test_the_journal_gets_each_lines_priority(tmp_path: Path) -> None:
    path = config(tmp_path, "http://127.0.0.1:9/v1")
    daemon = Daemon(path, "once", env={"JOURNAL_STREAM": "8:1"})
    assert daemon.wait() == 1
    assert [line[:4] for line in daemon.lines if '"started"' in line] == ["<6>{"]
    assert next(line for line in daemon.lines if '"gate_closed"' in line).startswith("<4>{")
