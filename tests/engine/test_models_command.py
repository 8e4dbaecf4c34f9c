"""`esrgand models` as people type it, in real processes; and its download from a host on loopback."""

import contextlib
import hashlib
import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import checkpoints
import networks
import pytest

from daemon import models
from daemon.engine.catalogue import KNOWN, Known
from daemon.engine.model import ModelError
from daemon.engine.shelf import Shelf

PROGRAM = [sys.executable, "-m", "daemon.cli", "models"]


def clean(**more: str) -> dict[str, str]:
    """The environment without what could lead elsewhere."""
    kept = {key: value for key, value in os.environ.items() if "PROXY" not in key.upper() and key != "ESRGAND_CONFIG"}
    return kept | more


def run(*words: str | Path, **environ: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*PROGRAM, *map(str, words)], env=clean(**environ), capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_list_of_what_can_be_had(tmp_path: Path) -> None:
    status, out, err = run("--dir", tmp_path / "state")
    assert (status, err) == (0, "")
    for known in KNOWN:
        assert re.search(rf"{known.name} +x4 .*BSD-3-Clause +can be pulled", out)
    assert "67.0 MB" in out
    assert "can be pulled (default)" in out
    assert "esrgand models pull realesr-general-x4v3" in out
    assert not (tmp_path / "state").exists()


def test_what_is_added_is_listed(tmp_path: Path) -> None:
    networks.write(tmp_path, "mine", networks.nearest(2))
    official = checkpoints.save(tmp_path / "realesr-general-x4v3.pth", networks.random())
    config = tmp_path / "esrgand.toml"
    config.write_text('state_dir = "state"\n')
    status, out, err = run("add", tmp_path / "mine.bin", official, "--config", config)
    assert (status, err) == (0, "")
    assert "mine is installed: x2" in out
    assert "its authors say" in out
    status, out, err = run("--config", config, "list")
    assert (status, err) == (0, "")
    assert re.search(r"realesr-general-x4v3 +x4 +\S+ MB +not known +installed \(default\)", out)
    assert re.search(r"mine +x2 +\S+ MB +not known +installed", out)
    assert str(tmp_path / "state" / "models") in out


def test_what_is_damaged_is_said(tmp_path: Path) -> None:
    networks.write(tmp_path, "mine", networks.nearest(2))
    run("add", "--dir", tmp_path, tmp_path / "mine.bin")
    (tmp_path / "models" / "mine.bin").write_bytes(b"\xff" * 5000)
    status, out, err = run("--dir", tmp_path)
    assert status == 1
    assert re.search(r"mine +not known +damaged", out)
    assert err.startswith(f"esrgand: The model mine in {tmp_path}/models is damaged. mine.bin")


WRONG = {
    "nothing to add": (["add"], 64, "required: FILE"),
    "no name": (["pull"], 64, "required: NAME"),
    "another action": (["push"], 64, "push"),
    "a name that nobody knows": (["pull", "x4minus", "--dir", "state"], 64, "Known are: realesr-general-x4v3, "),
    "a name that is none": (["pull", "../\x1b[31m", "--dir", "state"], 64, "'../\\x1b[31m' is not known"),
    "no configuration": (["--config", "none.toml"], 78, "--dir DIR"),
    "a configuration that is none": (["--config", "wrong.toml"], 78, "not TOML"),
    "no such file": (["add", "none.pth", "--dir", "state"], 1, "none.pth: No such file or directory."),
    "no model": (["add", "wrong.toml", "--dir", "state"], 1, "a .pth, or a .param with its .bin, was expected"),
    "a web page": (["add", "page.pth", "--dir", "state"], 1, "page.pth cannot be used. It is not a file of torch.save"),
}


@pytest.mark.parametrize(("words", "status", "said"), list(WRONG.values()), ids=WRONG)
def test_what_is_wrong_is_a_sentence(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    (tmp_path / "wrong.toml").write_text("state_dir")
    (tmp_path / "page.pth").write_text("<html>")
    with contextlib.chdir(tmp_path):
        got, out, err = run(*words, PYTHONPATH=str(Path(models.__file__).parent.parent))
    assert (got, out) == (status, "")
    assert said in err
    assert "esrgand: " in err


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    """Python is told that there is no numpy."""
    networks.write(tmp_path, "mine", networks.nearest(2))
    code = "import sys; sys.modules['numpy'] = None; from daemon.cli import main; main(sys.argv[1:])"
    run("add", tmp_path / "mine.bin", "--dir", tmp_path)
    for words in (["add", tmp_path / "mine.bin"], ["pull", KNOWN[0].name], ["list"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "models", *words, "--dir", tmp_path],
            env=clean(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("esrgand: Networks need the packages numpy and ncnn; install them with: pip ")
    assert re.search(r"mine +not known +not looked at", done.stdout)


def test_a_network_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    """Through a proxy that refuses: nothing is asked of the true host."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        status, out, err = run("pull", KNOWN[0].name, "--dir", tmp_path / "state", HTTPS_PROXY=proxy)
        thread.join()
    assert status == 1
    assert "BSD-3-Clause, Copyright (c) 2021, Xintao Wang" in out
    assert f"Downloading 4.9 MB from https://github.com/xinntao/Real-ESRGAN/releases/download/{KNOWN[0].path}" in out
    assert "the proxy answered 403. Look at HTTPS_PROXY." in err


def test_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [*PROGRAM, "pull", KNOWN[0].name, "--dir", tmp_path / "state"],
            env=clean(HTTPS_PROXY=proxy),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert err == "esrgand: what came so far is kept; the same command goes on there.\nesrgand: interrupted.\n"


@contextmanager
def host(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if "PROXY" in name.upper()]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_proxy")
def test_what_is_pulled_is_not_pulled_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = checkpoints.save(tmp_path / "net.pth", networks.nearest(2)).read_bytes()
    known = Known("net", "net.pth", len(data), hashlib.sha256(data).hexdigest(), "a network for tests")
    shelf = Shelf(tmp_path / "models")
    with host(tmp_path) as releases:
        assert models.fetch(shelf, known, releases) == 0
    out = capsys.readouterr().out
    assert f"from {releases}net.pth" in out
    assert "net is installed: x2" in out
    assert models.fetch(shelf, known, "http://nowhere.invalid/") == 0
    assert "installed already" in capsys.readouterr().out


@pytest.mark.usefixtures("no_proxy")
def test_a_damaged_one_is_pulled_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = checkpoints.save(tmp_path / "net.pth", networks.nearest(2)).read_bytes()
    known = Known("net", "net.pth", len(data), hashlib.sha256(data).hexdigest(), "a network for tests")
    shelf = Shelf(tmp_path / "models")
    with host(tmp_path) as releases:
        models.fetch(shelf, known, releases)
        (shelf.folder / "net.bin").write_bytes(b"")
        assert models.fetch(shelf, known, releases) == 0
        assert shelf.find("net") is not None
        shutil.rmtree(shelf.folder)
        (tmp_path / "net.pth").unlink()
        with pytest.raises(ModelError, match="404"):
            models.fetch(shelf, known, releases)
    assert "is damaged" in capsys.readouterr().err
