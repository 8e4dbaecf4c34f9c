"""
Disks that are full, read-only or gone, under a real daemon: real small file systems in a mount namespace.

Whatever happens to them: nothing is lost, nothing is paid for twice, nothing is marked failed. It is told once when
something closes and once when it opens, the status and the health page say it meanwhile, and it goes on by itself.
"""

import hashlib
import json
import signal
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.mounted import FILLER, Space
from e2e.world import Daemon, Server, config, encoded, outbox

RESULT_BYTES = 128 * 96 * 3  # what the result of one of these pictures may need, as the daemon reckons


class House:
    """A daemon in a namespace. Its folders have an inbox and an outbox each, by name; disks are plugged in by name."""

    def __init__(self, folder: Path, server: Server, *folders: str, in_flight_max: int = 10) -> None:
        self.folder = folder
        self.server = server
        self.space = Space(folder)
        self.folders = folders
        self.dropped: Counter[str] = Counter()
        more = "".join(
            f'[[folder]]\ninbox = "{n}-in"\noutbox = "{n}-out"\nquiet_seconds = 0.3\nscan_seconds = 1\n'
            for n in folders[1:]
        )
        for name in folders:
            (folder / f"{name}-in").mkdir()
            (folder / f"{name}-out").mkdir()
        self.path = config(folder, server.base_url, extra=more)
        text = self.path.read_text().replace('"in"', f'"{folders[0]}-in"').replace('"out"', f'"{folders[0]}-out"')
        self.path.write_text(text.replace("[storage]", f"in_flight_max = {in_flight_max}\n[storage]"))

    def inbox(self, name: str) -> Path:
        return self.folder / f"{name}-in"

    def outbox(self, name: str) -> Path:
        return self.folder / f"{name}-out"

    def staging(self) -> Path:
        return self.folder / "state" / "staging"

    def plug(self, name: str, point: Path, size: str = "4m") -> None:
        """A new disk at a place."""
        point.mkdir(parents=True, exist_ok=True)
        self.space.make(name, size)
        self.space.plug(name, point)

    def mark(self) -> None:
        """One life with nothing to do: it marks the outboxes."""
        assert self.space.daemon(self.path, "once").wait() == 0

    def start(self) -> Daemon:
        self.daemon = self.space.daemon(self.path)
        self.daemon.expect_event("watching")
        return self.daemon

    def drop(self, name: str, count: int = 1) -> None:
        """New pictures, as they are seen in the namespace."""
        for _ in range(count):
            number = sum(self.dropped.values())
            place = self.space.inside(self.inbox(name))
            (place / f"{number}.png").write_bytes(encoded(number, ".png"))
            self.dropped[name] += 1

    def problems(self) -> list[str]:
        """What is wrong now, as the health page says, and the status, and the status for people."""
        status = self._page("status")
        page = self._page("healthz")
        found: list[str] = page["problems"]
        assert (page["ok"], page["code"]) == ((False, 503) if found else (True, 200))
        assert status["problems"] == found
        if found:
            said = self.space.esrgand(self.path, "status")
            assert all(f"! {problem}" in said for problem in found)
        return found

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state that any is in."""
        return {state: count for state, count in self._page("status")["jobs"].items() if count}

    def _page(self, name: str) -> dict[str, Any]:
        port = self.daemon.expect_event("listening")["port"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=30) as response:
                return {"code": response.status, **json.load(response)}
        except urllib.error.HTTPError as error:
            return {"code": error.code, **json.load(error)}

    def told(self) -> dict[str, list[str]]:
        """What people were told of each place that results go to: an outbox, by number, or staging."""
        found: dict[str, list[str]] = {}
        for event in self.daemon.events:
            if event["event"] in ("gate_closed", "gate_opened") and event["level"] != "debug":
                _, _, number = event["gate"].partition(":")
                found.setdefault(f"outbox {number}" if number else "staging", []).append(event["event"])
        return found

    def finish(self, *troubled: str) -> None:
        """Everything came out, once, and the daemon ends.

        troubled: the places that it told of, once when the trouble began and once when it was over.
        """
        total = sum(self.dropped.values())
        self.daemon.expect_event("done", total)
        assert self.counts() == {"done": total}
        assert self.problems() == []
        assert self.told() == {place: ["gate_closed", "gate_opened"] for place in troubled}
        assert [event for event in self.daemon.events if event["event"] in ("defect", "failed", "write_failed")] == []
        assert self.daemon.counted("submitting") == self.daemon.counted("submitted") == total
        assert self.daemon.end() == 0
        self.check()

    def check(self) -> None:
        """Each picture was paid for once, and has its whole result with a sidecar that says the truth."""
        assert len(self.server.predictions()) == sum(self.dropped.values())
        for name in self.folders:
            there = outbox(self.space.inside(self.outbox(name)))
            there.pop(FILLER.encode(), None)
            sidecars = [each for each in there if each.endswith(b".json")]
            assert len(sidecars) == self.dropped[name]
            assert len(there) == 2 * len(sidecars), "nothing else was left behind"
            for sidecar in sidecars:
                told = json.loads(there[sidecar])["result"]["sha256"]
                assert hashlib.sha256(there[sidecar.removesuffix(b".json")]).hexdigest() == told

    def closed(self, gate: str) -> str:
        """Wait until a gate is told to be closed; the reason."""
        reason: str = self.daemon.expect_event("gate_closed", gate=gate, level="warning")["reason"]
        return reason


Build = Callable[..., House]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server", "--predict-seconds", "1", "--workers", "10")
    yield server
    server.end(signal.SIGKILL)


@pytest.fixture
def build(tmp_path: Path, server: Server) -> Iterator[Build]:
    """Makes a house; lets go of its namespace in the end."""
    built: list[House] = []

    def make(*folders: str, **more: int) -> House:
        built.append(House(tmp_path, server, *folders, **more))
        return built[-1]

    yield make
    for house in built:
        house.space.end()


def test_outboxes_that_take_nothing_cost_nothing(build: Build, server: Server) -> None:
    """One is full, one read-only, one unmounted since it was marked, before the daemon starts; one is well."""
    house = build("full", "read", "gone", "well")
    for name in ("full", "read", "gone"):
        house.plug(name, house.outbox(name), "1m")
    house.plug("well", house.outbox("well"), "0")  # A tmpfs without a limit tells of no room at all.
    house.mark()
    filler = house.space.fill(house.outbox("full"), left=RESULT_BYTES - 8192)
    house.space.set_read_only(house.outbox("read"), on=True)
    house.space.unplug(house.outbox("gone"))
    daemon = house.start()
    for name in house.folders:
        house.drop(name, 2)
    assert "MiB of room" in house.closed("room:1")
    assert "is read-only" in house.closed("outbox:2")
    assert "is no longer on disk-gone" in house.closed("outbox:3")
    daemon.expect_event("done", 2)
    daemon.expect_event("admitted", 8)
    problems = house.problems()
    assert len(problems) == 3
    for name in ("full", "read", "gone"):
        assert any(str(house.outbox(name)) in problem for problem in problems)
    counts = house.counts()
    # Whether one is uploaded before its folder's gate closes is a matter of milliseconds; afterwards none is.
    assert (counts.pop("admitted", 0) + counts.pop("uploaded", 0), counts) == (6, {"done": 2})
    assert len(server.predictions()) == 2, "nothing is paid for that has no place to go"
    assert list(house.space.inside(house.outbox("gone")).iterdir()) == [], "the empty mount point"
    filler.unlink()
    house.space.set_read_only(house.outbox("read"), on=False)
    house.space.plug("gone", house.outbox("gone"))
    house.finish("outbox 1", "outbox 2", "outbox 3")


def test_outboxes_that_break_with_pictures_in_flight(build: Build, server: Server) -> None:
    """What is paid for waits in staging, and what is not paid for yet waits for an outbox to put it into."""
    house = build("full", "read", "gone", "well")
    for name in ("full", "read", "gone"):
        house.plug(name, house.outbox(name), "1m")
    daemon = house.start()
    for name in house.folders:
        house.drop(name, 2)
    daemon.expect_event("submitted", 8)
    filler = house.space.fill(house.outbox("full"))
    house.space.set_read_only(house.outbox("read"), on=True)
    house.space.unplug(house.outbox("gone"))
    assert "is full" in house.closed("outbox:1")
    assert "is read-only" in house.closed("outbox:2")
    assert "is no longer on disk-gone" in house.closed("outbox:3")
    daemon.expect_event("done", 2)
    daemon.expect_event("fetched", 8)
    for name in house.folders:
        house.drop(name)
    daemon.expect_event("done", 3)
    assert len(house.problems()) >= 3
    counts = house.counts()
    assert (counts["fetched"], counts["done"]) == (6, 3)
    assert len(server.predictions()) == 9, "the others wait"
    assert list(house.space.inside(house.outbox("gone")).iterdir()) == [], "the empty mount point"
    filler.unlink()
    house.space.set_read_only(house.outbox("read"), on=False)
    house.space.plug("gone", house.outbox("gone"))
    house.finish("outbox 1", "outbox 2", "outbox 3")


def test_an_inbox_that_is_unmounted_and_comes_back(build: Build, server: Server) -> None:
    """Meanwhile nothing is new, nothing is gone, and the other folder goes on; what is in flight comes to its end."""
    house = build("card", "well", in_flight_max=2)
    house.plug("card", house.inbox("card"))
    daemon = house.start()
    house.drop("card", 5)
    daemon.expect_event("submitted", 2)
    daemon.expect_event("admitted", 5)
    house.space.unplug(house.inbox("card"))
    assert "is no longer on disk-card" in daemon.expect_event("folder_unavailable")["reason"]
    house.drop("well", 2)
    daemon.expect_event("done", 4)
    assert [str(house.inbox("card")) in problem for problem in house.problems()] == [True]
    # What is there instead is empty: that is no news of the pictures either.
    house.space.make("empty", "1m")
    house.space.plug("empty", house.inbox("card"))
    house.drop("well", 1)
    daemon.expect_event("done", 5)
    assert len(server.predictions()) == 5
    house.space.unplug(house.inbox("card"))
    house.space.plug("card", house.inbox("card"))
    house.finish()
    assert [daemon.counted(name) for name in ("folder_unavailable", "folder_available")] == [2, 1]
    assert (daemon.counted("admitted"), daemon.counted("withdrawn")) == (8, 0)


def test_an_inbox_with_another_disk_of_the_same_name_in_its_place(build: Build, server: Server) -> None:
    """What waits keeps its place until its disk is back; where nothing waits, the next disk is welcome."""
    house = build("card", in_flight_max=2)
    house.plug("card", house.inbox("card"))
    house.space.make_another("next", like="card")
    daemon = house.start()
    house.drop("card", 5)
    daemon.expect_event("submitted", 2)
    daemon.expect_event("uploaded", 5)
    house.space.unplug(house.inbox("card"))
    house.space.plug("next", house.inbox("card"))
    assert "has another disk in its place" in daemon.expect_event("folder_unavailable")["reason"]
    daemon.expect_event("done", 2)
    assert house.counts() == {"done": 2, "uploaded": 3}
    assert len(house.problems()) == 1
    house.space.unplug(house.inbox("card"))
    house.space.plug("card", house.inbox("card"))
    daemon.expect_event("done", 5)
    house.space.unplug(house.inbox("card"))
    house.space.plug("next", house.inbox("card"))
    house.drop("card", 2)
    house.finish()
    assert (daemon.counted("admitted"), daemon.counted("withdrawn")) == (7, 0)


def test_a_start_while_the_inbox_is_not_mounted(build: Build, server: Server) -> None:
    """The empty mount point tells nothing of the pictures, and neither does it at the next start."""
    house = build("card", "well", in_flight_max=2)
    house.plug("card", house.inbox("card"))
    daemon = house.start()
    house.drop("card", 5)
    daemon.expect_event("submitted", 2)
    daemon.expect_event("uploaded", 5)
    assert daemon.end() == 0
    house.space.unplug(house.inbox("card"))
    for _ in range(2):
        daemon = house.start()
        assert "is no longer on disk-card" in daemon.expect_event("folder_unavailable")["reason"]
        house.drop("well", 1)
        daemon.expect_event("done", picture=f"{sum(house.dropped.values()) - 1}.png")
        assert house.counts()["uploaded"] == 3
        assert daemon.end() == 0
    house.space.plug("card", house.inbox("card"))
    daemon = house.start()
    daemon.expect_event("done", 3)
    assert house.counts() == {"done": 7}
    assert (daemon.counted("admitted"), daemon.counted("withdrawn")) == (0, 0)
    assert daemon.end() == 0
    house.check()


def test_an_outbox_that_was_marked_before_its_disk_was_mounted(build: Build, server: Server) -> None:
    """The mount point has a marker of ours too; results do not go there any more."""
    house = build("late")
    house.mark()
    house.plug("late", house.outbox("late"), "1m")
    house.space.esrgand(house.path, "once", "--take-over")
    house.space.unplug(house.outbox("late"))
    daemon = house.start()
    house.drop("late", 1)
    assert "is no longer on disk-late" in daemon.expect_event("gate_closed", level="warning")["reason"]
    daemon.expect_event("uploaded")
    assert server.predictions() == []
    house.space.plug("late", house.outbox("late"))
    house.finish("outbox 1")


def test_a_staging_that_is_full_while_the_ledger_has_room(build: Build, server: Server) -> None:
    """What is paid for waits with the service, and nothing more is paid for, or made ready for its upload."""
    house = build("all")
    house.plug("staging", house.staging(), "24m")
    daemon = house.start()
    house.drop("all", 3)
    daemon.expect_event("submitted", 3)
    filler = house.space.fill(house.staging())
    assert "No space left" in house.closed("staging")
    house.drop("all", 3)
    daemon.expect_event("admitted", 6)
    assert any("staging" in problem for problem in house.problems())
    assert house.counts() == {"ready": 3, "admitted": 3}
    assert len(server.predictions()) == 3
    filler.unlink()
    house.finish("staging")


def test_a_state_directory_that_runs_full_costs_nothing(build: Build, server: Server) -> None:
    """Where only the spare is left, that is for the ledger. Where somebody takes that, too, nothing moves any more."""
    house = build("all")
    house.plug("state", house.folder / "state", "24m")
    filler = house.space.fill(house.folder / "state", left=6 << 20)
    daemon = house.start()
    house.drop("all", 10)
    daemon.expect_event("admitted", 10)
    assert "MiB of room" in house.closed("staging")
    assert len(house.problems()) == 1
    assert server.predictions() == []
    filler.unlink()
    daemon.expect_event("submitted", 2)
    assert house.told() == {"staging": ["gate_closed", "gate_opened"]}
    # In the middle of ten creates.
    filler = house.space.fill(house.folder / "state")
    assert daemon.wait() == 1
    errors = [event for event in daemon.events if event["level"] == "error"]
    assert len(errors) == 1, str(errors)
    [ended] = errors
    assert "ledger.db cannot be used: database or disk is full." in ended["reason"]
    assert "free space" in ended["remedy"]
    assert all(line.startswith("{") for line in daemon.lines), "no traceback"
    again = house.space.daemon(house.path, "once")
    assert again.wait() == 1
    assert "disk is full" in "".join(again.lines)
    assert all(line.startswith(("{", "esrgand: ")) for line in again.lines), "no traceback"
    filler.unlink()
    last = house.space.daemon(house.path, "once")
    assert last.wait() == 0, last.lines[-20:]
    assert last.lines[-1] == "10 done, 0 failed, 0 held, 0 not ready."
    house.check()
