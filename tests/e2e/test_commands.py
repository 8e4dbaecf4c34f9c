"""The commands as people type them: bad input, steering, reloading, ending; in real processes."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.world import DAEMON, KEY, Daemon, Emulator, Process, Server, config, encoded, esrgand, outbox

from daemon.commands import exposures
from daemon.config import Secret, parse

UNREACHABLE = "http://127.0.0.1:9/v1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    yield server
    server.end()


def rewritten(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def unknown_key(path: Path) -> None:
    rewritten(path, "poll_seconds_min", "pol_seconds_min")


def outbox_inside_inbox(path: Path) -> None:
    rewritten(path, 'outbox = "out"', 'outbox = "in/out"')


def no_inbox(path: Path) -> None:
    (path.parent / "in").rmdir()


def no_key(path: Path) -> None:
    rewritten(path, 'key_file = "key"', "")


def wrong_key(path: Path) -> None:
    (path.parent / "key").write_text("wrong")


def unreachable(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace(text.split('base_url = "')[1].split('"')[0], UNREACHABLE))


def no_state_dir(path: Path) -> None:
    rewritten(path, 'state_dir = "state"', 'state_dir = "key/state"')


@pytest.mark.parametrize(
    ("spoil", "status", "said"),
    [
        (unknown_key, 78, "did you mean poll_seconds_min?"),
        (outbox_inside_inbox, 78, "must lie outside the inbox"),
        (no_key, 78, "There is no API key"),
        (no_inbox, 1, "is not there"),
        (wrong_key, 1, "The API key was refused (401)."),
        (unreachable, 1, "cannot be reached: connection refused"),
        (no_state_dir, 1, "cannot be written"),
    ],
)
@pytest.mark.parametrize("command", ["once", "check"])
def test_bad_input_is_a_sentence_and_an_exit_status(
    tmp_path: Path, server: Server, spoil: Callable[[Path], None], status: int, said: str, command: str
) -> None:
    path = config(tmp_path, server.base_url)
    spoil(path)
    assert said in esrgand(path, command, status=status)


@pytest.mark.parametrize("command", ["once", "check"])
def test_a_bucket_that_does_not_exist_is_named(tmp_path: Path, server: Server, command: str) -> None:
    emulator = Emulator()
    path = config(tmp_path, server.base_url, storage='kind = "gcs"\nbucket = "no-such-bucket"\nurl = "public"')
    said = esrgand(path, command, status=1, env={"STORAGE_EMULATOR_HOST": emulator.url})
    assert "no-such-bucket" in said
    emulator.end(9)


@pytest.mark.parametrize("arguments", [["frobnicate"], ["retry"], ["release", "x", "--all"], ["run", "--nonsense"]])
def test_wrong_usage_has_a_status_of_its_own(arguments: list[str]) -> None:
    done = subprocess.run([*DAEMON, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "Traceback" not in done.stderr
    if arguments == ["retry"]:
        assert "retry: name a picture or a job, or --failed." in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["status"]])
def test_what_is_typed_often_imports_nothing_heavy(tmp_path: Path, server: Server, arguments: list[str]) -> None:
    if arguments == ["status"]:
        arguments = ["status", "--config", str(config(tmp_path, server.base_url))]
        Daemon(Path(arguments[2]), "once").wait()
    code = f"import sys, daemon.cli\ntry: daemon.cli.main({arguments!r})\nfinally: print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"google.cloud.storage", "pyvips", "aiohttp", "pydantic", "structlog", "rich", "watchdog"}
    assert heavy & set(done.stdout.split()) == set()


def test_check_and_estimate_say_what_is_and_spend_nothing(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    (tmp_path / "in" / "a.png").write_bytes(encoded(1, ".png"))
    (tmp_path / "in" / "copy of a.png").write_bytes(encoded(1, ".png"))
    (tmp_path / "in" / "b.png").write_text("no picture")
    assert "Everything works." in esrgand(path, "check")
    said = esrgand(path, "estimate")
    assert "In all: 1 to pay for" in said
    assert "skipped: b.png" in said
    assert server.predictions() == []
    assert outbox(tmp_path / "out") == {}


def test_check_says_what_is_open_to_others_what_is_taken_and_which_folder_is_gone(
    tmp_path: Path, server: Server
) -> None:
    path = config(tmp_path, server.base_url, extra='after_failure = "move"\nfailed = "bad"')
    taken = server.base_url.split("/")[2]
    rewritten(path, 'listen = "127.0.0.1:0"', f'listen = "{taken}"')
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "out").rmdir()
    said = esrgand(path, "check", status=1).splitlines()
    assert f"  WRONG [http] listen: {taken} cannot be used" in "\n".join(said)
    for name, place in (("outbox", "out"), ("failed", "bad")):
        assert any(line.startswith(f"  WRONG {name}: {tmp_path / place} is not there.") for line in said)
    assert any(line.startswith("  mind  state_dir: other users") for line in said)

    (tmp_path / "out").mkdir()
    rewritten(path, f'listen = "{taken}"', 'listen = "127.0.0.1:0"')
    (tmp_path / "key").chmod(0o644)
    once = Daemon(path, "once")
    assert once.wait() == 0
    assert "look into" in once.expect_event("state_dir_exposed")["reason"]
    assert "api.key_file" in once.expect_event("secret_exposed")["reason"]


def test_every_file_with_a_secret_that_others_read_is_told(tmp_path: Path) -> None:
    key = tmp_path / "gcs.json"
    key.touch()
    storage = f'[storage]\nbucket = "a-bucket"\ncredentials_file = "{key}"\n'
    made = parse(f'[[folder]]\ninbox = "in"\noutbox = "out"\n{storage}', tmp_path)
    key.chmod(0o644)
    told = [f"storage.credentials_file: everyone on this machine may read {key}; chmod 600 mends it."]
    assert exposures(made, Secret("x", "The key is open."), None) == ["The key is open.", *told]
    key.chmod(0o640)
    assert exposures(made, Secret("x"), None) == []
    key.chmod(0o644)
    key.write_text(KEY)
    command = ["serve", "--listen", "127.0.0.1:0", "--dir", str(tmp_path / "s"), "--key-file", str(key)]
    serve = Process([*DAEMON, *command])
    serve.expect(lambda line: "secret_exposed" in line and "--key-file" in line, "warning")
    serve.expect(lambda line: line.startswith("http"), "base URL")
    assert serve.end() == 0


def test_a_ledger_that_cannot_be_read_makes_no_outbox_anothers(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    assert Daemon(path, "once").wait() == 0
    ledger = tmp_path / "state" / "ledger.db"
    ledger.rename(tmp_path / "aside")
    said = esrgand(path, "check", status=1)
    assert "belongs to another ledger" in said, "a new one would be"
    assert "upscaled, and paid for, again" in said
    ledger.write_text("something else entirely" * 1000)
    said = esrgand(path, "check", status=1)
    assert "is damaged" in said
    assert "another ledger" not in said


def test_once_ends_with_3_where_a_picture_did_not_make_it(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url, extra="give_up_seconds = 0.1\nafter_failure = 'move'\nfailed = 'bad'")
    (tmp_path / "in" / "a.png").write_bytes(encoded(1, ".png"))
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "in" / "sub" / "b.png").write_text("no picture")
    once = Daemon(path, "once")
    assert once.wait() == 3
    assert set(outbox(tmp_path / "out")) == {b"a_x4.png", b"a_x4.png.json"}
    assert set(outbox(tmp_path / "bad")) == {b"sub/b.png", b"sub/b.png.error.json"}
    # Mended and dropped in again, it is another try, and takes its report away.
    (tmp_path / "in" / "sub" / "b.png").write_bytes(encoded(2, ".png"))
    assert Daemon(path, "once").wait() == 0
    assert b"sub/b_x4.png.json" in outbox(tmp_path / "out")
    assert b"sub/b.png.error.json" not in outbox(tmp_path / "bad")
    assert len(server.predictions()) == 2


def test_an_unfinished_file_is_left_for_later_by_once(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    (tmp_path / "in" / "half.jpg").write_bytes(encoded(1, ".jpg", 100, 100)[:-300])
    once = Daemon(path, "once")
    assert once.wait() == 3
    assert once.expect_event("not_ready")["picture"] == "half.jpg"
    assert outbox(tmp_path / "out") == {}


def test_a_phones_trailer_after_the_end_of_a_picture_is_waited_for_by_once(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    (tmp_path / "in" / "motion.jpg").write_bytes(encoded(1, ".jpg") + b"a short film")
    once = Daemon(path, "once")
    assert once.wait() == 0
    assert once.expect_event("not_ready")["sign"] == "soft"
    assert set(outbox(tmp_path / "out")) == {b"motion_x4.png", b"motion_x4.png.json"}


@pytest.mark.parametrize("after", ["archive", "delete"])
def test_the_source_goes_where_the_folder_says(tmp_path: Path, server: Server, after: str) -> None:
    path = config(tmp_path, server.base_url, extra=f"after = '{after}'\narchive = 'kept'\nscale = 2.5\nformat = 'webp'")
    (tmp_path / "in" / "trip").mkdir()
    (tmp_path / "kept").mkdir()
    data = encoded(1, ".jpg")
    (tmp_path / "in" / "trip" / "a.jpg").write_bytes(data)
    look = (tmp_path / "in" / "trip" / "a.jpg").stat()
    assert Daemon(path, "once").wait() == 0
    assert set(outbox(tmp_path / "out")) == {b"trip/a_x2.5.webp", b"trip/a_x2.5.webp.json"}
    assert outbox(tmp_path / "in") == {}
    assert outbox(tmp_path / "kept") == ({b"trip/a.jpg": data} if after == "archive" else {})
    # Dropped in again, even with its old date and, as it happens, its old inode, it is a new drop: and not a new bill.
    (tmp_path / "in" / "trip" / "a.jpg").write_bytes(data)
    os.utime(tmp_path / "in" / "trip" / "a.jpg", ns=(look.st_mtime_ns, look.st_mtime_ns))
    (tmp_path / "out" / "trip" / "a_x2.5.webp.json").unlink()
    assert Daemon(path, "once").wait() == 0
    sidecar = json.loads((tmp_path / "out" / "trip" / "a_x2.5.webp.json").read_text())
    assert sidecar["prediction"]["reused"] is True
    assert outbox(tmp_path / "in") == {}
    assert len(server.predictions()) == 1


def test_a_foreign_file_in_the_outbox_is_never_touched(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    (tmp_path / "out" / "a_x4.png").write_text("mine")
    (tmp_path / "out" / "b_x4.png.json").write_text("mine too")
    for name in ("a.jpg", "a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(encoded(len(name), Path(name).suffix))
    assert Daemon(path, "once").wait() == 0
    there = outbox(tmp_path / "out")
    assert there[b"a_x4.png"] == b"mine"
    assert there[b"b_x4.png.json"] == b"mine too"
    assert {b"a.jpg_x4.png.json", b"a.png_x4.png.json", b"b.png_x4.png.json"} < set(there)


def test_a_running_daemon_is_seen_steered_reloaded_and_ended(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url, extra="give_up_seconds = 0.1")
    daemon = Daemon(path)
    daemon.expect_event("watching")
    (tmp_path / "in" / "a.png").write_text("no picture")
    daemon.expect_event("reported")
    assert "failed: a.png" in esrgand(path, "status")
    shown = json.loads(esrgand(path, "show", str(tmp_path / "in" / "a.png")))
    assert shown["jobs"][0]["state"] == "failed"
    assert "a.png" in esrgand(path, "retry", "--failed")
    for running in ("retry", "release"):
        assert "is known of nothing.png" in esrgand(path, running, "nothing.png", status=1)
    daemon.expect_event("reported", 2)
    assert "Another esrgand" in esrgand(path, "once", status=1)

    esrgand(path, "backup", str(tmp_path / "copy.db"))
    assert "File exists" in esrgand(path, "backup", str(tmp_path / "copy.db"), status=1)
    unknown_key(path)
    daemon.process.send_signal(1)
    refused = daemon.expect_event("configuration_refused")
    assert f"{path}: api.pol_seconds_min: unknown key" in refused["reasons"][0]
    assert "the configuration of before stays" in refused["remedy"]
    rewritten(path, "pol_seconds_min", "poll_seconds_min")
    rewritten(path, 'outbox = "out"', 'outbox = "out2"')
    (tmp_path / "out2").mkdir()
    daemon.process.send_signal(1)
    daemon.expect_event("watching", 2)
    (tmp_path / "in" / "b.png").write_bytes(encoded(2, ".png"))
    daemon.expect_event("done")
    assert set(outbox(tmp_path / "out2")) == {b"b_x4.png", b"b_x4.png.json"}

    taken = server.base_url.split("/")[2]
    rewritten(path, 'listen = "127.0.0.1:0"', f'listen = "{taken}"')
    daemon.process.send_signal(1)
    unusable = daemon.expect_event("configuration_unusable")
    assert taken in unusable["reason"]
    assert "The configuration of before is taken up again." in unusable["remedy"]
    daemon.expect_event("watching", 3)
    assert "WRONG" not in esrgand(path, "check"), "it is our own daemon that runs"
    rewritten(path, f'listen = "{taken}"', 'listen = "127.0.0.1:0"')
    assert "0 lines" in esrgand(path, "prune", "1"), "all of it is of today"
    esrgand(path, "prune", "0", status=64)
    assert daemon.end() == 0
    assert "not running" in esrgand(path, "status")
    (tmp_path / "state" / "lock").unlink()
    assert "0 lines" in esrgand(path, "prune", "1")
    assert "nothing that failed is known of nothing.png." in esrgand(path, "retry", "nothing.png", status=1)
    assert "nothing that is held is known of nothing.png." in esrgand(path, "release", "nothing.png", status=1)
    assert "Nothing that is held was found." in esrgand(path, "release", "--all")
    assert (tmp_path / "state" / "lock").stat().st_mode & 0o777 == 0o600
    esrgand(path, "backup", str(tmp_path / "copy 2.db"))

    # The ledger is damaged: nothing starts on it, and the backup takes its place.
    ledger = tmp_path / "state" / "ledger.db"
    data = bytearray(ledger.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    ledger.write_bytes(data)
    what = str(tmp_path / "in" / "a.png")
    looks = [["status"], ["show", what], ["retry", what], ["retry", "--failed"], ["release", "--all"], ["prune", "1"]]
    for arguments in [["once"], ["check"], ["estimate"], ["backup", str(tmp_path / "copy 3.db")], *looks]:
        said = esrgand(path, *arguments, status=1)
        assert "is damaged" in said
        assert "Restore the last `esrgand backup`" in said
        assert "--take-over" not in said
    assert not (tmp_path / "copy 3.db").exists()
    ledger.write_bytes(b"")
    for command in ("once", "check", "status"):
        said = esrgand(path, command, status=1)
        assert "is empty, and was not. Restore the last `esrgand backup`" in said
    ledger.write_bytes((tmp_path / "copy 2.db").read_bytes())
    assert esrgand(path, "once").startswith("0 done, 0 failed, 0 held, 0 not ready.\n")


def test_a_big_drop_is_held_until_a_person_releases_it(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    path.write_text(path.read_text() + "[budget]\npictures_per_drop_max = 1\n")
    for n in range(4):
        (tmp_path / "in" / f"p{n}.png").write_bytes(encoded(n, ".png"))
    daemon = Daemon(path)
    daemon.expect_event("done")
    esrgand(path, "release", "--all")
    daemon.expect_event("done", 4)
    assert daemon.end() == 0


def test_it_ends_quickly_with_predictions_in_flight_and_goes_on_without_a_create(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", "--predict-seconds", "3", "--workers", "10")
    path = config(tmp_path, server.base_url)
    for n in range(12):
        (tmp_path / "in" / f"p{n}.png").write_bytes(encoded(n, ".png"))
    daemon = Daemon(path)
    daemon.expect_event("submitted", 10)
    assert daemon.end() == 0
    assert daemon.counted("done") == 0, "it did not wait for them"
    created = len(server.predictions())
    daemon = Daemon(path)
    daemon.expect_event("done", 12)
    assert daemon.end() == 0
    assert created == 10
    assert len(server.predictions()) == 12
    server.end()


def test_the_health_page_says_what_is_wrong_and_asks_for_its_token(tmp_path: Path, server: Server) -> None:
    path = config(tmp_path, server.base_url)
    (tmp_path / "token").write_text("token-of-the-tests")
    (tmp_path / "token").chmod(0o600)
    rewritten(path, 'listen = "127.0.0.1:0"', 'listen = "127.0.0.1:0"\ntoken_file = "token"')
    daemon = Daemon(path)
    daemon.expect_event("watching")
    url = f"http://127.0.0.1:{daemon.expect_event('listening')['port']}"
    assert ask(f"{url}/healthz")[0] == 401
    assert ask(f"{url}/healthz", "token-of-the-tests") == (200, {"ok": True, "problems": []})
    assert ask(f"{url}/status", "token-of-the-tests")[1]["running"] is True
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    daemon.expect_event("folder_unavailable")
    status, answer = ask(f"{url}/healthz", "token-of-the-tests")
    assert status == 503
    assert str(tmp_path / "in") in answer["problems"][0]
    (tmp_path / "elsewhere").rename(tmp_path / "in")
    daemon.expect_event("folder_available")
    assert daemon.end() == 0
    assert "token-of-the-tests" not in "\n".join(daemon.lines)


def ask(url: str, token: str = "") -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_demo_ends_with_every_sample_upscaled(tmp_path: Path) -> None:
    demo = Process([*DAEMON, "demo", "--dir", str(tmp_path / "d")])
    assert demo.wait() == 0, demo.lines
    names = {name for name in outbox(tmp_path / "d" / "outbox") if not name.endswith(b".json")}
    assert names == {b"cloth_x4.png", b"dawn_x4.png", b"rings_x4.png", b"waves_x4.png", b"word_x4.png"}
    assert any("lanczos resampling, not a neural network" in line for line in demo.lines)
    results = {line.removeprefix("done: outbox/") for line in demo.lines if line.startswith("done: ")}
    assert results == {os.fsdecode(name) for name in names}
    again = Process([*DAEMON, "demo", "--dir", str(tmp_path / "d")])
    assert again.wait() == 0
    assert not any('"submitting"' in line for line in again.lines)


def test_the_schema_is_printed() -> None:
    done = subprocess.run([*DAEMON, "schema"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["$id"] == "esrgand/sidecar/1"


def test_a_proxy_from_the_environment_is_used_for_what_is_not_on_this_machine(tmp_path: Path, server: Server) -> None:
    """The proxy is one that refuses: that it is named in the fault shows that it was asked."""
    path = config(tmp_path, "https://api.example.org/v1")
    said = esrgand(path, "check", status=1, env={"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""})
    assert "proxy" in said.lower()
    path = config(tmp_path, server.base_url)
    esrgand(path, "check", env={"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"})
