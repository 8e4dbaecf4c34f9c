"""However it ends: in time, with everything accounted for, and never with a traceback."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.world import DAEMON, SECONDS_MAX, Daemon, Process, Server, config, encoded, esrgand, outbox

UNREACHABLE = "http://127.0.0.1:9/v1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    yield server
    server.end(signal.SIGKILL)


@pytest.mark.parametrize(("command", "status"), [("run", 0), ("once", 3)])
def test_a_start_that_waits_for_an_answer_ends_when_it_is_told_to(
    tmp_path: Path, server: Server, command: str, status: int
) -> None:
    path = config(tmp_path, server.base_url)
    server.process.send_signal(signal.SIGSTOP)  # It takes the question for the key, and does not answer.
    daemon = Daemon(path, command)
    daemon.expect_event("started")
    before = time.monotonic()
    assert daemon.end() == status
    assert time.monotonic() - before < 5
    assert daemon.counted("stopping") == 1
    assert "watching" not in str(daemon.lines)


def test_a_configuration_that_is_taken_up_during_the_start_is_not_kept_waiting(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    server.process.send_signal(signal.SIGSTOP)
    daemon = Daemon(path)
    daemon.expect_event("started")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.expect_event("started", 2)
    server.process.send_signal(signal.SIGCONT)
    daemon.expect_event("watching")
    assert daemon.end() == 0


# What `once` has to say


def test_once_says_what_became_of_everything_where_the_api_is_down(tmp_path: Path) -> None:
    path = config(tmp_path, UNREACHABLE)
    said = esrgand(path, "once", status=1)
    first, second, *_ = said.splitlines()
    assert first == "0 done, 0 failed, 0 held, 0 not ready."
    assert second.startswith("! ")
    assert "cannot be reached" in second


def test_once_says_what_became_of_everything_where_the_inbox_is_gone(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    assert Daemon(path, "once").wait() == 0
    (tmp_path / "in").rename(tmp_path / "away")
    said = esrgand(path, "once", status=1)
    assert "0 done, 0 failed, 0 held, 0 not ready.\n" in said
    assert f"! The inbox {tmp_path / 'in'} is " in said


def test_once_tells_a_reason_for_holding_once_and_the_way_out(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    path.write_text(path.read_text() + "[budget]\npictures_per_drop_max = 1\n")
    for n in range(6):
        (tmp_path / "in" / f"{n}.png").write_bytes(encoded(n, ".png"))
    said = esrgand(path, "once", status=3)
    (line,) = [line for line in said.splitlines() if line.startswith("held:")]
    assert "More than 1 pictures were waiting at once." in line
    assert "esrgand release" in line
    held = int(line.split()[1])
    assert f"{6 - held} done, 0 failed, {held} held, 0 not ready." in said


def test_once_that_is_interrupted_says_how_far_it_came(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", "--predict-seconds", "600")
    path = config(tmp_path, server.base_url)
    (tmp_path / "in" / "a.png").write_bytes(encoded(1, ".png"))
    once = Daemon(path, "once")
    once.expect_event("submitted")
    assert once.end(signal.SIGINT) == 3
    assert "0 done, 0 failed, 0 held, 0 not ready, 1 waiting." in once.lines
    assert outbox(tmp_path / "out") == {}
    server.end(signal.SIGKILL)


# Output that nobody can read


def redirected(path: Path, redirection: str, *arguments: str) -> tuple[int, str]:
    """Its status, and what it printed where that was left open."""
    options = [] if arguments[0] in ("schema", "--help") else ["--config", str(path)]
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *DAEMON, *arguments, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    path = config(tmp_path, server.base_url)
    help_ = [] if unbuffered else [["--help"]]  # argparse itself lets that pass.
    for arguments in (["once"], ["status", "--json"], ["check"], ["schema"], *help_):
        for redirection, why in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
            status, said = redirected(path, redirection, *arguments)
            assert status == 1, (arguments, redirection)
            assert f"esrgand: standard output: {why}." in said, (arguments, redirection)
    assert redirected(path, "2>/dev/full", "show", "nothing")[0] == 1


def test_it_goes_on_where_nobody_reads_its_log(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    (tmp_path / "in" / "a.png").write_bytes(encoded(1, ".png"))
    assert redirected(path, "2>&- <&-", "once") == (0, "1 done, 0 failed, 0 held, 0 not ready.\n")
    daemon = Process(["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", *DAEMON, "run", "--config", str(path)])
    for _ in range(100):
        if "not running" not in (said := esrgand(path, "status")):
            break
    assert "1 done" in said
    assert daemon.end() == 0
