"""
What happens to the house: events are lost, the daemon stands still, two want the same outbox, somebody is in a hurry.

And what others may see, or put in its way: permissions, links, pictures that are bombs.
"""

import json
import os
import shutil
import signal
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.world import DAEMON, Daemon, Process, Server, config, encoded, esrgand, outbox

FLOOD = 30_000
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server", "--workers", "10")
    yield server
    server.end(signal.SIGKILL)


def set_up(folder: Path, server: Server, *, extra: str = "", **api: object) -> Path:
    """A configuration. api: further keys of that section."""
    path = config(folder, server.base_url, extra=extra)
    keys = "".join(f"{key} = {value}\n" for key, value in api.items())
    path.write_text(path.read_text().replace("[storage]", keys + "[storage]"))
    return path


def drop(folder: Path, count: int, first: int = 0, place: str = "in") -> None:
    for number in range(first, first + count):
        (folder / place / f"{number}.png").write_bytes(encoded(number, ".png"))


def counts(path: Path) -> dict[str, int]:
    """How many jobs are in each state that any is in."""
    return {state: n for state, n in json.loads(esrgand(path, "status", "--json"))["jobs"].items() if n}


def results(folder: Path) -> set[str]:
    """The results that have their sidecars, by name; nothing else may be there."""
    there = set(map(os.fsdecode, outbox(folder)))
    sidecars = {name for name in there if name.endswith(".json")}
    assert {name.removesuffix(".json") for name in sidecars} | sidecars == there
    return there - sidecars


# Standing still


def test_a_flood_of_files_while_it_stood_still_hides_no_picture(tmp_path: Path, server: Server) -> None:
    """The kernel's queue of events overflows; the scan is the truth."""
    assert int(QUEUE.read_text()) < FLOOD, "the flood has to be larger than the queue"
    path = set_up(tmp_path, server)
    daemon = Daemon(path)
    daemon.expect_event("watching")
    daemon.process.send_signal(signal.SIGSTOP)
    drop(tmp_path, 25)
    for number in range(FLOOD):
        os.mknod(tmp_path / "in" / f"{number}.txt")
    drop(tmp_path, 25, first=25)
    daemon.process.send_signal(signal.SIGCONT)
    daemon.expect_event("done", 50)
    assert counts(path) == {"done": 50}
    assert daemon.end() == 0
    assert len(server.predictions()) == 50
    assert results(tmp_path / "out") == {f"{number}_x4.png" for number in range(50)}
    shutil.rmtree(tmp_path / "in")  # Nobody wants to keep those.


def test_standing_still_until_the_service_is_done_makes_no_second_create(tmp_path: Path) -> None:
    """Every question about a prediction that was under way has long timed out by then."""
    server = Server(tmp_path / "server", "--workers", "10", "--predict-seconds", "3")
    path = set_up(tmp_path, server)
    drop(tmp_path, 10)
    daemon = Daemon(path)
    daemon.expect_event("submitted", 10)
    daemon.process.send_signal(signal.SIGSTOP)
    ended = 0

    def all_ended(line: str) -> bool:
        nonlocal ended
        ended += "prediction_succeeded" in line
        return ended == 10

    server.expect(all_ended, "end of all predictions")
    daemon.process.send_signal(signal.SIGCONT)
    daemon.expect_event("done", 10)
    assert counts(path) == {"done": 10}
    assert daemon.end() == 0
    assert len(server.predictions()) == 10
    assert len(results(tmp_path / "out")) == 10
    server.end(signal.SIGKILL)


# Two of them


def test_two_daemons_do_not_fill_one_outbox(tmp_path: Path, server: Server) -> None:
    """The second one is refused, until it is told to take over; then the first one stops, and neither pays twice."""
    path = set_up(tmp_path, server)
    second = tmp_path / "second.toml"
    second.write_text(path.read_text().replace('state_dir = "state"', 'state_dir = "second"'))
    first = Daemon(path)
    first.expect_event("watching")
    drop(tmp_path, 1)
    first.expect_event("done")
    said = esrgand(second, "run", status=78)
    assert f"The outbox {tmp_path / 'out'} belongs to another ledger of esrgand." in said
    assert "--take-over" in said
    assert len(server.predictions()) == 1

    (tmp_path / "in" / "0.png").unlink()
    taken = Daemon.__new__(Daemon)
    Process.__init__(taken, [*DAEMON, "run", "--config", str(second), "--take-over"])
    taken.expect_event("watching")
    drop(tmp_path, 2, first=1)
    taken.expect_event("done", 2)
    assert "belongs to another ledger" in first.expect_event("gate_closed")["reason"]
    assert len(server.predictions()) == 3, "the first one pays for nothing that it may not deliver"
    assert (first.end(), taken.end()) == (0, 0)
    assert "belongs to another ledger" in esrgand(path, "once", status=78)
    assert results(tmp_path / "out") == {"0_x4.png", "1_x4.png", "2_x4.png"}

    shutil.rmtree(tmp_path / "second")
    assert "belongs to another ledger" in esrgand(second, "once", status=78), "a ledger that was lost is another ledger"
    assert len(server.predictions()) == 3


# In a hurry


def test_it_ends_in_time_and_at_once_when_it_is_told_so_twice(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", "--workers", "20", "--in-flight", "20", "--predict-seconds", "6")
    for name in ("in2", "out2"):
        (tmp_path / name).mkdir()
    second = '[[folder]]\ninbox = "in2"\noutbox = "out2"\nquiet_seconds = 0.3\nscan_seconds = 1'
    path = set_up(tmp_path, server, extra=second, in_flight_max=11)
    path.write_text(path.read_text().replace("create_seconds_max = 4", "create_seconds_max = 60"))
    drop(tmp_path, 10)
    daemon = Daemon(path)
    daemon.expect_event("submitted", 10)
    before = time.monotonic()
    assert daemon.end() == 0
    assert time.monotonic() - before < 20
    assert daemon.expect_event("stopping")["in_flight"] == 10

    daemon = Daemon(path)
    daemon.expect_event("watching")
    (tmp_path / "out2").rename(tmp_path / "away")
    drop(tmp_path, 1, first=10, place="in2")
    daemon.expect_event("gate_closed", gate="room:2")
    server.process.send_signal(signal.SIGSTOP)  # It hears the next create, and does not answer.
    (tmp_path / "away").rename(tmp_path / "out2")
    daemon.expect_event("submitting")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.expect_event("stopping")
    assert daemon.process.poll() is None, "a create is under way: its answer is waited for"
    before = time.monotonic()
    assert daemon.end() == 0
    assert time.monotonic() - before < 5
    server.process.send_signal(signal.SIGCONT)

    daemon = Daemon(path, "once")
    assert daemon.wait() == 0, daemon.lines[-20:]
    assert daemon.counted("submitting") == 0
    assert len(server.predictions()) == 11
    assert [len(results(tmp_path / name)) for name in ("out", "out2")] == [10, 1]
    server.end(signal.SIGKILL)


# What others may see


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o777


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_it_writes_is_for_itself_alone_but_for_results(tmp_path: Path, server: Server, umask: int) -> None:
    """Whatever the umask says; results, sidecars and reports are as it says."""
    path = set_up(tmp_path, server, extra='oversize = "fail"')
    (tmp_path / "in" / "trip").mkdir()
    drop(tmp_path, 1, place="in/trip")
    (tmp_path / "in" / "large.png").write_bytes(encoded(1, ".png", 1500, 1500))
    shell = ["sh", "-c", f'umask {umask:03o}; exec "$@"', "sh"]
    daemon = Daemon.__new__(Daemon)
    Process.__init__(daemon, [*shell, *DAEMON, "run", "--config", str(path)])
    daemon.expect_event("done")
    daemon.expect_event("reported")
    # A result that cannot be delivered stays in staging.
    (tmp_path / "out").rename(tmp_path / "away")
    state = tmp_path / "state"
    assert mode(state) == mode(state / "staging") == 0o700
    files = [each for each in state.rglob("*") if each.name not in ("staging", "outboxes.json", "mounts.json")]
    assert {each.name for each in files} >= {"ledger.db", "ledger.db-wal", "ledger.db-shm", "lock", "control.sock"}
    assert {each.name: mode(each) for each in files if mode(each) != 0o600} == {}
    (tmp_path / "away").rename(tmp_path / "out")
    written = {each: mode(each) for each in (tmp_path / "out").rglob("*")}
    names = {"trip", "0_x4.png", "0_x4.png.json", "large.png.error.json", ".esrgand.json"}
    assert {each.name for each in written} == names
    for each, bits in written.items():
        assert bits == (0o777 if each.is_dir() else 0o666) & ~umask, each
    assert daemon.end() == 0


# What is put in its way


def png(width: int, height: int, depth: int, *chunks: tuple[bytes, bytes], rows: bytes = b"") -> bytes:
    """A PNG in shades of grey. rows: compressed; without, it is as short as can be."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", rows or zlib.compress(b"\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in parts)


def squeezed(bytes_: int) -> bytes:
    """So many zeros, compressed."""
    press = zlib.compressobj(1)
    blocks = [press.compress(bytes(1 << 20)) for _ in range(bytes_ >> 20)]
    return b"".join([*blocks, press.compress(bytes(bytes_ & ((1 << 20) - 1))), press.flush()])


def jpeg_that_says(width: int, height: int) -> bytes:
    """A small JPEG whose header has another size."""
    data = encoded(1, ".jpg")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def peak_mib(daemon: Process) -> float:
    """The most memory that it ever had."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def test_pictures_that_are_bombs_are_refused_at_their_header(tmp_path: Path, server: Server) -> None:
    side = 30_000
    bombs = {
        "says.png": png(60_000, 60_000, 8),
        "is.png": png(side, side, 1, rows=squeezed(side * (side // 8 + 1))),
        "says.jpg": jpeg_that_says(65_500, 65_500),
    }
    # Small ones, with something in them that is not.
    plain = zlib.compress(bytes(32 * 25))
    zeros = squeezed(200 << 20)
    odd = {
        "text.png": png(24, 32, 8, (b"zTXt", b"Comment\0\0" + zeros), rows=plain),
        "profile.png": png(24, 32, 8, (b"iCCP", b"icc\0\0" + zeros), rows=plain),
    }
    path = set_up(tmp_path, server, extra="give_up_seconds = 2")
    daemon = Daemon(path)
    drop(tmp_path, 1)
    daemon.expect_event("done")
    before = peak_mib(daemon)
    for name, data in bombs.items():
        (tmp_path / "in" / name).write_bytes(data)
    daemon.expect_event("reported", len(bombs))
    for event in daemon.events:
        if event["event"] == "failed":
            assert "megapixels" in event["reason"]
            assert event["seconds"] < 10
    assert daemon.counted("failed") == len(bombs)
    for name, data in odd.items():
        (tmp_path / "in" / name).write_bytes(data)
    for name in odd:
        daemon.expect_event("done", picture=name)  # What nobody needs of them is not looked at.
    assert peak_mib(daemon) - before < 100
    assert daemon.end() == 0


def test_links_are_not_followed(tmp_path: Path, server: Server) -> None:
    """Not one that is dropped, and not one that takes the place of a picture, or of its folder, once it is admitted."""
    (tmp_path / "private").mkdir()
    private = tmp_path / "private" / "private.png"
    private.write_bytes(encoded(99, ".png"))
    path = set_up(tmp_path, server)
    (tmp_path / "in" / "trip").mkdir()
    (tmp_path / "in" / "link.png").symlink_to(private)
    (tmp_path / "in" / "folder").symlink_to(private.parent)
    daemon = Daemon(path)
    daemon.expect_event("watching")
    server.process.send_signal(signal.SIGSTOP)  # It answers no upload: four wait for it, and the fifth for them.
    drop(tmp_path, 4)
    daemon.expect_event("admitted", 4)
    drop(tmp_path, 1, first=4)
    drop(tmp_path, 1, first=5, place="in/trip")
    daemon.expect_event("admitted", 6)
    os.link(tmp_path / "in" / "trip" / "5.png", tmp_path / "private" / "5.png")
    (tmp_path / "in" / "trip").rename(tmp_path / "trip")
    (tmp_path / "in" / "trip").symlink_to(tmp_path / "private")
    victim = tmp_path / "in" / "4.png"
    (tmp_path / "link").symlink_to(private)
    (tmp_path / "link").rename(victim)
    server.process.send_signal(signal.SIGCONT)
    daemon.expect_event("done", 4)
    daemon.expect_event("withdrawn", 2, seconds=20)
    assert counts(path) == {"done": 4}
    victim.unlink()
    drop(tmp_path, 1, first=4)
    daemon.expect_event("done", 5)
    assert daemon.end() == 0
    assert len(server.predictions()) == 5
    assert results(tmp_path / "out") == {f"{number}_x4.png" for number in range(5)}
    secret = private.read_bytes()
    assert not [each for each in (tmp_path / "server").rglob("*") if each.is_file() and secret in each.read_bytes()]
