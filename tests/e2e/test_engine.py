"""The daemon with a network on this machine: real processes, a worker that is killed, and what is said of it all."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import pyvips
from world import DAEMON, Daemon, Process, config, esrgand, outbox, picture

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))

pytest.importorskip("ncnn", reason="ncnn is not installed: pip install 'esrgand[local]'")

import networks


def local(tmp_path: Path, state: networks.State, server: str = "") -> Path:
    path = config(tmp_path, "embedded")
    path.write_text(path.read_text() + f'[server]\nmodel = "made"\nthreads = 1\n{server}\n')
    (tmp_path / "state").mkdir(mode=0o700)
    networks.write(tmp_path / "state" / "models", "made", state)
    return path


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_worker_killed_in_the_middle_costs_one_attempt_and_no_picture(tmp_path: Path) -> None:
    path = local(tmp_path, networks.random(features=64), "memory_max_mb = 192")
    given = picture(3, 600, 500)
    given.pngsave(str(tmp_path / "in" / "a.png"))
    daemon = Daemon(path)
    daemon.expect_event("engine_tile", done=2)
    (worker,) = children(daemon.process.pid)
    os.kill(worker, signal.SIGKILL)
    daemon.expect_event("engine_died")
    daemon.expect_event("engine_started", 2)
    daemon.expect_event("done")
    assert daemon.end() == 0
    assert children_are_gone(worker)
    made = pyvips.Image.new_from_file(str(tmp_path / "out" / "a_x4.png"))
    assert (made.width, made.height) == (2400, 2000)
    sidecar = json.loads(outbox(tmp_path / "out")[b"a_x4.png.json"])
    assert sidecar["prediction"]["submits"] == 2
    assert sidecar["prediction"]["cost_usd"] == 0
    assert sidecar["warnings"] == ["Upscaled by Real-ESRGAN (made) on this machine."]


def children_are_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_the_daemon_takes_its_worker_along(tmp_path: Path) -> None:
    path = local(tmp_path, networks.random(features=64), "memory_max_mb = 192")
    picture(3, 900, 900).pngsave(str(tmp_path / "in" / "a.png"))
    daemon = Daemon(path)
    daemon.expect_event("engine_tile", done=2)
    (worker,) = children(daemon.process.pid)
    assert daemon.end() == 0
    assert children_are_gone(worker)


def test_everybody_is_told_which_engine_it_is(tmp_path: Path) -> None:
    path = local(tmp_path, networks.nearest(4))
    picture(3).pngsave(str(tmp_path / "in" / "a.png"))
    said = esrgand(path, "check")
    assert "the engine Real-ESRGAN (made) on this machine runs" in said
    said = esrgand(path, "estimate")
    assert "0 USD, about" in said
    assert "Real-ESRGAN (made)" in said
    daemon = Daemon(path)
    assert daemon.expect_event("started")["engine"] == "Real-ESRGAN (made) on this machine"
    assert "engine: Real-ESRGAN (made) on this machine" in esrgand(path, "status")
    daemon.expect_event("done")
    assert daemon.end() == 0


def test_what_is_missing_is_said_and_done_without(tmp_path: Path) -> None:
    path = local(tmp_path, networks.nearest(4))
    (tmp_path / "state" / "models" / "made.param").unlink()
    picture(3).pngsave(str(tmp_path / "in" / "a.png"))
    lack = f"the model made is not installed. Get it: esrgand models add FILE --dir {tmp_path / 'state'}"
    assert lack in esrgand(path, "check")
    daemon = Daemon(path)
    assert daemon.expect_event("engine")["why"] == lack
    daemon.expect_event("started")
    assert lack in esrgand(path, "status")
    daemon.expect_event("done")
    assert daemon.end() == 0
    (warning,) = json.loads(outbox(tmp_path / "out")[b"a_x4.png.json"])["warnings"]
    assert warning == f"Upscaled by lanczos resampling, not a neural network; {lack}."
    (record,) = [json.loads(each.read_bytes()) for each in (tmp_path / "state/server/predictions").iterdir()]
    assert lack in record["logs"]


def test_what_is_missing_and_was_asked_for_is_an_error_at_the_start(tmp_path: Path) -> None:
    path = local(tmp_path, networks.nearest(4), 'engine = "real-esrgan"')
    (tmp_path / "state" / "models" / "made.param").unlink()
    said = esrgand(path, "once", status=1)
    assert "esrgand models add FILE" in said


def test_the_server_alone_has_the_network_too(tmp_path: Path) -> None:
    networks.write(tmp_path / "models", "made", networks.nearest(4))
    server = Process(
        [
            *(*DAEMON, "serve", "--listen", "127.0.0.1:0", "--dir", str(tmp_path / "s")),
            *("--model", "made", "--models", str(tmp_path / "models"), "--threads", "1"),
        ],
        {"ESRGAND_API_KEY": "a-key"},
    )
    server.expect(lambda line: "serves, by Real-ESRGAN (made)" in line, "the engine's name")
    assert server.end() == 0
