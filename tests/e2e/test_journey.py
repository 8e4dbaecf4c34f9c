"""The whole journey, in real processes: bucket, prediction server and daemon, on pictures that come in every way."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pyvips
from e2e.world import BUCKET, KEY, Daemon, Emulator, Server, config, encoded, esrgand, outbox

SCHEMA = json.loads((files("daemon") / "sidecar.schema.json").read_text())
SUFFIXES = (".jpg", ".png", ".webp")
SLOW_WRITER = """
import sys, threading
data = sys.stdin.buffer.read()
with open(sys.argv[1], "wb") as file:
    for start in range(0, len(data), len(data) // 39 + 1):
        file.write(data[start:start + len(data) // 39 + 1])
        file.flush()
        threading.Event().wait(0.2)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server", "--predict-seconds", "0.2", "--usd-per-second", "0.01")
    yield server
    server.end()


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    emulator = Emulator()
    yield emulator
    emulator.end(9)


def check_sidecars(inbox: Path, out: Path, scale: float = 4) -> dict[bytes, dict[str, Any]]:
    """Every result has its sidecar, every sidecar its result, and both say the truth; by the source's name."""
    there = outbox(out)
    found: dict[bytes, dict[str, Any]] = {}
    for name, data in there.items():
        if not name.endswith(b".json") or name.endswith(b".error.json"):
            continue
        sidecar = json.loads(data)
        jsonschema.validate(sidecar, SCHEMA)
        result = there[name.removesuffix(b".json")]
        assert hashlib.sha256(result).hexdigest() == sidecar["result"]["sha256"]
        image = pyvips.Image.new_from_buffer(result, "", fail_on="warning")
        image.avg()
        source = next(path for path in sources(inbox) if shown(path) == sidecar["source"]["path"])
        original = pyvips.Image.new_from_buffer((inbox_file(inbox, source)), "")
        assert (image.width, image.height) == (round(original.width * scale), round(original.height * scale))
        assert sidecar["source"]["sha256"] == hashlib.sha256(inbox_file(inbox, source)).hexdigest()
        found[source] = sidecar
    results = [name for name in there if not name.endswith(b".json")]
    assert all(name + b".json" in there for name in results)
    assert not [name for name in there if os.path.basename(name).startswith(b".")], "leftovers"
    return found


def sources(inbox: Path) -> list[bytes]:
    return list(outbox(inbox))


def inbox_file(inbox: Path, name: bytes) -> bytes:
    with open(os.path.join(os.fsencode(inbox), name), "rb") as file:
        return file.read()


def shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def drop_everything(tmp: Path, inbox: Path) -> tuple[set[bytes], set[bytes], subprocess.Popen[bytes]]:
    """60 pictures in every way a picture comes, and what is none. Returns the good names, the bad names, a writer."""
    good: set[bytes] = set()
    root = os.fsencode(inbox)
    staging = tmp / "elsewhere"
    staging.mkdir()
    for n in range(12):  # cp
        name = f"copied {n}{SUFFIXES[n % 3]}"
        (inbox / name).write_bytes(encoded(n, SUFFIXES[n % 3]))
        good.add(name.encode())
    for n in range(12, 24):  # mv
        name = f"moved-{n}{SUFFIXES[n % 3]}"
        (staging / name).write_bytes(encoded(n, SUFFIXES[n % 3]))
        (staging / name).rename(inbox / name)
        good.add(name.encode())
    tree = staging / "tree"
    for n in range(24, 44):  # cp -r of 20 folders
        place = tree / f"d{n % 5}" / f"e{n}"
        place.mkdir(parents=True)
        (place / f"p{n}{SUFFIXES[n % 3]}").write_bytes(encoded(n, SUFFIXES[n % 3]))
        good.add(os.fsencode(Path("tree") / f"d{n % 5}" / f"e{n}" / f"p{n}{SUFFIXES[n % 3]}"))
    shutil.copytree(tree, inbox / "tree")
    odd = [b"with space.png", "\N{CAT FACE}.webp".encode(), b"new\nline.png", b"latin-\xe9.jpg", b"LOUD.JPG"]
    odd += [b"x.jpg/inside.png", b"-rf.png", b"%s{stem}.png", b'"quoted".jpg', "\u202egpj.exe.jpg".encode()]
    os.mkdir(root + b"/x.jpg")
    for n, name in enumerate(odd, start=44):
        with open(root + b"/" + name, "wb") as file:
            file.write(encoded(n, os.fsdecode(os.path.splitext(name)[1].lower())))
        good.add(name)
    for n in range(54, 59):  # the same content twice: paid once
        name = f"copied {n - 54} again{SUFFIXES[(n - 54) % 3]}"
        shutil.copyfile(inbox / f"copied {n - 54}{SUFFIXES[(n - 54) % 3]}", inbox / name)
        good.add(name.encode())
    writer = subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(inbox / "slow.png")], stdin=subprocess.PIPE)
    assert writer.stdin is not None
    writer.stdin.write(encoded(60, ".png", 300, 200))
    writer.stdin.close()
    good.add(b"slow.png")
    (inbox / "truncated.jpg").write_bytes(encoded(61, ".jpg", 200, 200)[:-900])
    (inbox / "text.png").write_text("this is no picture")
    (inbox / "empty.png").touch()
    (inbox / "link.png").symlink_to(inbox / "copied 0.jpg")
    return good, {b"truncated.jpg", b"text.png"}, writer


def test_every_good_picture_comes_out_once_and_every_bad_one_is_explained(
    tmp_path: Path, server: Server, emulator: Emulator, account: Path
) -> None:
    storage = f'kind = "gcs"\nbucket = "{BUCKET}"\ncredentials_file = "{account}"'
    path = config(tmp_path, server.base_url, storage=storage, extra="give_up_seconds = 4")
    daemon = Daemon(path, env={"STORAGE_EMULATOR_HOST": emulator.url})
    daemon.expect_event("watching")
    good, bad, writer = drop_everything(tmp_path, tmp_path / "in")
    daemon.expect_event("done", len(good) - 5)
    daemon.expect_event("reported", len(bad))
    status = json.loads(esrgand(path, "status", "--json"))
    waiting = {each["picture"]: each["reason"] for folder in status["folders"] for each in folder["waiting"]}
    assert waiting == {"empty.png": "It is empty."}
    assert "link" in esrgand(path, "show", str(tmp_path / "in" / "link.png"))
    assert daemon.end() == 0
    assert writer.wait() == 0

    sidecars = check_sidecars(tmp_path / "in", tmp_path / "out")
    assert set(sidecars) == good
    reports = {name for name in outbox(tmp_path / "out") if name.endswith(b".error.json")}
    assert reports == {name + b".error.json" for name in bad}
    contents = {sidecar["source"]["sha256"] for sidecar in sidecars.values()}
    assert len(contents) == 55
    assert len(server.predictions()) == len(contents), "one create for each distinct content"
    assert sum(sidecar["prediction"]["reused"] for sidecar in sidecars.values()) == len(good) - len(contents)
    assert emulator.objects() == [], "what was uploaded is deleted"
    everything = "\n".join(daemon.lines) + "".join(map(repr, outbox(tmp_path / "out").values()))
    for secret in (KEY, "X-Goog-Signature", "X-Goog-Credential", "PRIVATE KEY"):
        assert secret not in everything


def test_kills_at_any_point_lose_nothing_and_pay_nothing_twice(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    for n in range(24):
        (tmp_path / "in" / f"p{n}{SUFFIXES[n % 3]}").write_bytes(encoded(n, SUFFIXES[n % 3]))
    kills = ["admitted", "uploaded", "submitting", "submitted", "ready", "fetched", "done", "submitting", "fetched"]
    for n, name in enumerate(kills):
        daemon = Daemon(path)
        daemon.expect_event(name, n % 3 + 1)
        assert daemon.end(9) == -9
    daemon = Daemon(path, "once")
    assert daemon.wait() == 0, daemon.lines[-20:]
    daemon.end()
    assert len(check_sidecars(tmp_path / "in", tmp_path / "out")) == 24
    assert len(server.predictions()) == 24
    assert not list((tmp_path / "state" / "staging").iterdir())


def test_what_is_large_enough_is_copied_and_dated_as_it_was(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url, extra='skip_above = "300 x 200"\nafter = "delete"\nkeep_mtime = true')
    large, small = encoded(1, ".jpg", 200, 300), encoded(2, ".jpg", 299, 200)
    for name, data in {"large.jpg": large, "small.jpg": small}.items():
        (tmp_path / "in" / name).write_bytes(data)
        os.utime(tmp_path / "in" / name, (1e9, 1e9))
    assert "1 to upscale" in esrgand(path, "estimate")
    daemon = Daemon(path, "once")
    assert daemon.wait() == 0, daemon.lines[-20:]
    daemon.end()
    out = tmp_path / "out"
    assert {name for name in os.listdir(out) if not name.startswith(".")} == {
        *("large_x1.jpg", "large_x1.jpg.json", "small_x4.png", "small_x4.png.json")
    }
    assert (out / "large_x1.jpg").read_bytes() == large
    assert [(out / name).stat().st_mtime for name in ("large_x1.jpg", "small_x4.png")] == [1e9, 1e9]
    sidecar = json.loads((out / "large_x1.jpg.json").read_text())
    jsonschema.validate(sidecar, SCHEMA)
    assert "skip_above" in sidecar["warnings"][0]
    assert len(server.predictions()) == 1
    assert os.listdir(tmp_path / "in") == []
    assert not list((tmp_path / "state" / "staging").iterdir())
