"""Outboxes: marked once, refused where they are another's, away where the marker is gone with its file system."""

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.adapters.disk import HouseDisk
from daemon.adapters.files import AnyPath, Files
from daemon.adapters.mounts import Mount
from daemon.adapters.outboxes import MARKER_BYTES_MAX, AnotherLedgers, Outboxes
from daemon.rules.faults import Blame, Fault, Gate, Outlook

OURS, THEIRS = "identity-of-the-tests", "another-identity"
LOCAL = Mount(Path("/"), "ext4", "/dev/sda1", "ext4 /dev/sda1 /")
OTHER_DISK = Mount(Path("/"), "ext4", "/dev/sdb1", "ext4 /dev/sdb1 /")
SHARE = Mount(Path("/mnt"), "cifs", "//nas/out", "cifs //nas/out /")


class MountedFiles(Files):
    """The real file system, but for what it says is mounted. writes_fail: with which error, below which folder."""

    def __init__(self, mounted: Mount | None = LOCAL) -> None:
        self.mounted = mounted
        self.fails: tuple[Path, int] | None = None

    def mount(self, path: Path) -> Mount | None:
        return self.mounted

    def open(self, path: AnyPath, mode: str) -> object:  # type: ignore[override]
        if mode != "rb" and self.fails is not None and Path(os.fsdecode(path)).parent == self.fails[0]:
            raise OSError(self.fails[1], os.strerror(self.fails[1]))
        return super().open(path, mode)  # type: ignore[arg-type]


class House:
    """A state directory and an outbox."""

    def __init__(self, root: Path) -> None:
        self.files = MountedFiles()
        self.register = root / "state" / "outboxes.json"
        self.outbox = root / "out"
        self.marker = self.outbox / ".esrgand.json"
        self.register.parent.mkdir()
        self.outbox.mkdir()

    def opened(self, identity: str = OURS, *, take_over: bool = False) -> Outboxes:
        """As a start does."""
        return Outboxes(self.files, self.register, identity, [self.outbox] if take_over else ())

    def registered(self) -> dict[str, str]:
        """Each outbox, and the identity of its mount."""
        value = json.loads(self.register.read_bytes())
        return {path: facts["identity"] for path, facts in value.items()}

    def another(self) -> Outboxes:
        """What another daemon has: a ledger and a state directory of its own."""
        (self.register.parent / "other").mkdir(exist_ok=True)
        return Outboxes(self.files, self.register.parent / "other" / "outboxes.json", THEIRS)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def refusal(outboxes: Outboxes, outbox: Path) -> Fault:
    """The fault that a check raises, which is the house's and closes the outbox's gate."""
    with pytest.raises(Fault) as caught:
        outboxes.check(outbox)
    assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, Gate.OUTBOX)
    return caught.value


def assert_anothers(outboxes: Outboxes, outbox: Path) -> None:
    fault = refusal(outboxes, outbox)
    assert isinstance(fault, AnotherLedgers)
    assert fault.said == f"The outbox {outbox} belongs to another ledger of esrgand."
    assert fault.outlook is Outlook.LASTING
    assert "--take-over" in fault.remedy
    assert "paid for, again" in fault.remedy, "what it costs is said before it is done"


def assert_away(outboxes: Outboxes, outbox: Path) -> None:
    fault = refusal(outboxes, outbox)
    assert not isinstance(fault, AnotherLedgers)
    assert fault.said == f"The outbox {outbox} is not the one that it was: the marker .esrgand.json is gone."
    assert fault.outlook is Outlook.PASSING, "it comes back without a person's telling us"
    assert "Mount it again" in fault.remedy
    assert "--take-over" in fault.remedy


# Marking


def test_a_new_outbox_is_marked_and_remembered(house: House) -> None:
    house.opened().check(house.outbox)
    marker = json.loads(house.marker.read_bytes())
    assert set(marker) == {"schema", "ledger", "note"}
    assert marker["schema"] == "esrgand/outbox/1"
    assert OURS not in house.marker.read_text(), "only a hash of the ledger's identity is shown"
    assert os.listdir(house.outbox) == [".esrgand.json"]
    assert house.registered() == {str(house.outbox): LOCAL.identity}


def test_what_is_ours_is_left_as_it_is(house: House) -> None:
    house.opened().check(house.outbox)
    before = house.marker.stat(), house.register.stat()
    for outboxes in (house.opened(), house.opened(take_over=True)):
        outboxes.check(house.outbox)
        outboxes.check(house.outbox)
    assert (house.marker.stat(), house.register.stat()) == before


def test_the_marker_of_one_ledger_is_the_same_in_all_its_outboxes(house: House, tmp_path: Path) -> None:
    (tmp_path / "out2").mkdir()
    ours = house.opened()
    ours.check(house.outbox)
    ours.check(tmp_path / "out2")
    assert (tmp_path / "out2" / ".esrgand.json").read_bytes() == house.marker.read_bytes()
    assert set(house.registered()) == {str(house.outbox), str(tmp_path / "out2")}


@pytest.mark.parametrize("name", [b"caf\xe9", "ü🎈".encode(), b"new\nline", b'"'])
def test_an_outbox_of_any_name(house: House, tmp_path: Path, name: bytes) -> None:
    outbox = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    outbox.mkdir()
    house.opened().check(outbox)
    (outbox / ".esrgand.json").unlink()
    house.files.mounted = OTHER_DISK
    said = refusal(house.opened(), outbox).said
    assert said.encode(), "it can be printed"
    assert "is gone" in said


def test_an_outbox_that_a_link_leads_to(house: House, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(house.outbox)
    house.opened().check(tmp_path / "link")
    assert house.marker.exists()


# Another's


def test_another_ledgers_outbox_is_refused_and_left_alone(house: House) -> None:
    house.another().check(house.outbox)
    before = house.marker.read_bytes()
    assert_anothers(house.opened(), house.outbox)
    assert_anothers(house.opened(), house.outbox)
    assert house.marker.read_bytes() == before
    assert not house.register.exists()


@pytest.mark.parametrize("mounted", [LOCAL, SHARE, None])
def test_it_is_refused_too_where_it_was_ours_once(house: House, mounted: Mount | None) -> None:
    """Somebody took it over while we were at work, or away."""
    ours = house.opened()
    ours.check(house.outbox)
    house.marker.unlink()
    house.another().check(house.outbox)
    house.files.mounted = mounted
    assert_anothers(ours, house.outbox)
    assert_anothers(house.opened(), house.outbox)


OTHER_SCHEMA = b'{"schema": "esrgand/outbox/2", "ledger": "0123"}'
GARBAGE = [
    *(b"", b"\x00\xff\xfe", b"no json", b"[]", b"null", b'"text"', b"[" * MARKER_BYTES_MAX, b'{"a":' * 700),
    *(b'{"schema": "esrgand/outbox/1"}', b'{"schema": "esrgand/outbox/1", "ledger": 5}', OTHER_SCHEMA),
    b'{"schema": "esrgand/outbox/1", "ledger": ""}',
]


@pytest.mark.parametrize("text", GARBAGE)
def test_a_marker_that_is_garbage_is_not_ours(house: House, text: bytes) -> None:
    house.marker.write_bytes(text)
    assert_anothers(house.opened(), house.outbox)
    assert house.marker.read_bytes() == text


def test_a_marker_that_is_too_long_is_not_ours(house: House) -> None:
    house.opened().check(house.outbox)
    marker = json.loads(house.marker.read_bytes()) | {"more": "x" * MARKER_BYTES_MAX}
    house.marker.write_text(json.dumps(marker))
    assert_anothers(house.opened(), house.outbox)


@pytest.mark.parametrize("kind", ["folder", "link to ours", "dangling link", "pipe"])
def test_what_is_no_file_is_no_marker_of_ours(house: House, tmp_path: Path, kind: str) -> None:
    match kind:
        case "folder":
            house.marker.mkdir()
        case "pipe":
            os.mkfifo(house.marker)  # Who opened it would wait for ever.
        case "dangling link":
            house.marker.symlink_to("nowhere")
        case _:
            house.opened().check(house.outbox)
            house.marker.rename(tmp_path / "ours")
            house.marker.symlink_to(tmp_path / "ours")
    before = house.marker.lstat()
    assert_anothers(house.opened(), house.outbox)
    assert house.marker.lstat() == before


# Two at the same time


class Meeting(MountedFiles):
    """Two daemons see no marker, and then both make one."""

    def __init__(self, meet: threading.Barrier) -> None:
        super().__init__()
        self.meet: threading.Barrier | None = meet

    def mount(self, path: Path) -> Mount | None:
        if self.meet is not None:
            meet, self.meet = self.meet, None
            meet.wait(60)  # Asked for once there is no marker, before one is made.
        return super().mount(path)


@pytest.mark.parametrize("links", [True, False])
def test_of_two_daemons_that_mark_at_the_same_time_one_wins(tmp_path: Path, links: bool) -> None:
    """Without hard links the quicker one may be overwritten; then it is told so by its next look."""
    house = House(tmp_path)
    for round_ in range(20):
        outbox = tmp_path / f"out {round_}"
        outbox.mkdir()
        meet = threading.Barrier(2)

        class NoLinks(Meeting):
            def link(self, old: AnyPath, new: AnyPath) -> None:
                raise PermissionError(1, "no hard links here")

        files = [(Meeting if links else NoLinks)(meet) for _ in range(2)]
        both = [
            Outboxes(each, house.register.with_name(f"{n} {round_}.json"), f"identity {n}")
            for n, each in enumerate(files)
        ]

        def outcome(outboxes: Outboxes, outbox: Path = outbox) -> bool:
            try:
                outboxes.check(outbox)
            except AnotherLedgers:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            first = list(pool.map(outcome, both))
        if links:
            assert sorted(first) == [False, True]
        assert sorted(map(outcome, both)) == [False, True]
        assert os.listdir(outbox) == [".esrgand.json"]


def test_threads_of_one_daemon_that_mark_at_the_same_time_do_not_disturb_each_other(house: House) -> None:
    """All outboxes come back at once, each with several results waiting."""
    outboxes = [house.outbox.with_name(f"out {n}") for n in range(4)]
    for outbox in outboxes:
        outbox.mkdir()
    for _ in range(10):
        ours = house.opened()
        meet = threading.Barrier(8)

        def check(outbox: Path, ours: Outboxes = ours, meet: threading.Barrier = meet) -> None:
            meet.wait(60)
            ours.check(outbox)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(check, outboxes * 2))  # Raises what any of them raised.
        assert set(house.registered()) == set(map(str, outboxes)), "none forgot what another wrote down"
        for outbox in outboxes:
            assert os.listdir(outbox) == [".esrgand.json"]
            (outbox / ".esrgand.json").unlink()
        house.register.unlink()


# The marker is gone


def test_cleared_out_on_the_same_local_disk_it_is_marked_anew(house: House) -> None:
    for outboxes in (house.opened(), house.opened()):
        outboxes.check(house.outbox)
        before = house.marker.read_bytes()
        house.marker.unlink()
        outboxes.check(house.outbox)
        assert house.marker.read_bytes() == before
        house.marker.unlink()


# What was mounted when it was marked, and what is there when the marker is gone.
AWAY: list[tuple[Mount | None, Mount | None]] = [
    (LOCAL, OTHER_DISK),
    (SHARE, LOCAL),
    (SHARE, SHARE),
    (LOCAL, None),
    (None, None),
    (None, LOCAL),
    (LOCAL, SHARE),
]


@pytest.mark.parametrize(("before", "now"), AWAY)
@pytest.mark.parametrize("restart", [False, True])
def test_a_marker_that_went_with_its_file_system(
    house: House, tmp_path: Path, before: Mount | None, now: Mount | None, restart: bool
) -> None:
    """An empty mount point is not a new outbox, nor a share that another machine may have half mounted."""
    house.files.mounted = before
    ours = house.opened()
    ours.check(house.outbox)
    away = house.marker.rename(tmp_path / "away")
    house.files.mounted = now
    ours = house.opened() if restart else ours
    for _ in range(2):
        assert_away(ours, house.outbox)
        assert os.listdir(house.outbox) == [], "nothing is written to an empty mount point"
    away.rename(house.marker)
    house.files.mounted = before
    ours.check(house.outbox)
    house.files.mounted = now
    ours.check(house.outbox)


def test_a_marker_that_comes_back_under_another_device_is_believed(house: House) -> None:
    """The kernel numbers disks anew at every start; the marker is the better sign."""
    house.opened().check(house.outbox)
    house.files.mounted = OTHER_DISK
    house.opened().check(house.outbox)


# The mount is gone, and its empty mount point has a marker of ours


def below(house: House, **more: str) -> Mount:
    """A file system that is mounted above the outbox."""
    return replace(Mount(house.outbox.parent, "cifs", "//nas/out", "cifs //nas/out /"), **more)


@pytest.mark.parametrize("restart", [False, True])
def test_a_marker_on_the_mount_point_is_not_believed_where_the_mount_is_away(house: House, restart: bool) -> None:
    """The first start came before the mount, and marked what lay below it."""
    house.opened().check(house.outbox)
    house.files.mounted = below(house)
    ours = house.opened()
    ours.check(house.outbox)
    assert house.registered() == {str(house.outbox): "cifs //nas/out /"}
    house.files.mounted = LOCAL
    ours = house.opened() if restart else ours
    for _ in range(2):
        fault = refusal(ours, house.outbox)
        assert fault.said == f"The outbox {house.outbox} is no longer on //nas/out."
        assert fault.outlook is Outlook.PASSING
    house.files.mounted = below(house)
    ours.check(house.outbox)
    house.files.mounted = LOCAL
    house.opened(take_over=True).check(house.outbox)
    house.opened().check(house.outbox)


def test_another_disk_under_the_same_device_is_not_adopted(house: House) -> None:
    """The next image on a loop device has its name."""
    disk = {"fstype": "ext4", "source": "/dev/loop0", "identity": "ext4 /dev/loop0 /"}
    house.files.mounted = below(house, **disk, disk="fsid 1")
    ours = house.opened()
    ours.check(house.outbox)
    house.marker.unlink()
    ours.check(house.outbox)
    assert house.marker.exists(), "somebody cleared it out"
    house.marker.unlink()
    house.files.mounted = below(house, **disk, disk="fsid 2")
    for outboxes in (ours, house.opened()):
        assert_away(outboxes, house.outbox)
    assert not house.marker.exists()


def test_the_same_disk_under_another_device_is_still_the_same_disk(house: House) -> None:
    disk = {"fstype": "ext4", "disk": "fsid 1"}
    house.files.mounted = below(house, **disk, source="/dev/sdb1")
    house.opened().check(house.outbox)
    house.marker.unlink()
    house.files.mounted = below(house, **disk, source="/dev/sdc1")
    house.opened().check(house.outbox)
    assert house.marker.exists()


# Taking over


def test_taking_over_adopts_once(house: House) -> None:
    house.another().check(house.outbox)
    ours = house.opened(take_over=True)
    ours.check(house.outbox)
    assert house.registered() == {str(house.outbox): LOCAL.identity}
    house.opened().check(house.outbox)
    assert_anothers(house.another(), house.outbox)
    house.marker.unlink()
    house.another().check(house.outbox)
    assert_anothers(ours, house.outbox)  # Not a second time: that would be a war of two daemons.


@pytest.mark.parametrize("mounted", [OTHER_DISK, SHARE, None])
def test_taking_over_is_for_an_outbox_that_was_emptied_on_purpose_too(house: House, mounted: Mount | None) -> None:
    house.opened().check(house.outbox)
    house.marker.unlink()
    house.files.mounted = mounted
    assert_away(house.opened(), house.outbox)
    house.opened(take_over=True).check(house.outbox)
    assert house.registered() == {str(house.outbox): mounted.identity if mounted else ""}
    house.opened().check(house.outbox)


def test_taking_over_what_is_ours_uses_it_up(house: House) -> None:
    house.opened().check(house.outbox)
    ours = house.opened(take_over=True)
    ours.check(house.outbox)
    house.marker.unlink()
    house.another().check(house.outbox)
    assert_anothers(ours, house.outbox)


def test_taking_over_waits_for_an_outbox_that_is_away(house: House) -> None:
    house.another().check(house.outbox)
    house.outbox.rename(house.outbox.with_name("away"))
    ours = house.opened(take_over=True)
    with pytest.raises(FileNotFoundError):
        ours.check(house.outbox)
    house.outbox.with_name("away").rename(house.outbox)
    ours.check(house.outbox)


@pytest.mark.parametrize("text", GARBAGE[:3])
def test_taking_over_replaces_garbage(house: House, text: bytes) -> None:
    house.marker.write_bytes(text)
    house.opened(take_over=True).check(house.outbox)
    house.opened().check(house.outbox)


def test_only_the_outbox_that_is_named_is_taken_over(house: House, tmp_path: Path) -> None:
    (tmp_path / "out2").mkdir()
    house.another().check(tmp_path / "out2")
    assert_anothers(house.opened(take_over=True), tmp_path / "out2")


# What the house gets wrong


def test_an_outbox_that_is_missing_is_not_made(house: House) -> None:
    house.opened().check(house.outbox)
    house.marker.unlink()
    house.outbox.rmdir()
    with pytest.raises(FileNotFoundError):
        house.opened().check(house.outbox)
    assert not house.outbox.exists()
    house.outbox.write_bytes(b"a file")
    with pytest.raises(FileNotFoundError):
        house.opened().check(house.outbox)


@pytest.mark.parametrize("error", [30, 13, 28], ids=["read-only", "no permission", "full"])
def test_an_outbox_that_takes_no_marker_is_not_remembered(house: House, error: int) -> None:
    house.files.fails = house.outbox, error
    ours = house.opened()
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            ours.check(house.outbox)
        assert caught.value.errno == error
        assert not house.register.exists()
        assert os.listdir(house.outbox) == []
    house.files.fails = None
    ours.check(house.outbox)


def test_what_could_not_be_written_down_is_not_known_and_tried_again(house: House) -> None:
    """Else a restart would take an empty mount point for a new outbox."""
    house.files.fails = house.register.parent, 28
    ours = house.opened()
    for _ in range(2):
        assert str(house.register) in refusal(ours, house.outbox).said, "it is not the outbox's disk that is full"
    house.files.fails = None
    ours.check(house.outbox)
    assert house.registered() == {str(house.outbox): LOCAL.identity}


REGISTERS: list[Callable[[Path], object]] = [
    lambda register: register.unlink(),
    lambda register: register.write_bytes(b""),
    lambda register: register.write_bytes(b"[" * 100_000),
    lambda register: register.write_bytes(b'["' + bytes([255])),
    lambda register: register.write_bytes(b"[]"),
    lambda register: register.write_bytes(b'{"/somewhere": 5}'),
]


@pytest.mark.parametrize("spoil", REGISTERS)
def test_a_register_that_is_damaged_knows_nothing_and_markers_are_still_believed(
    house: House, spoil: Callable[[Path], object]
) -> None:
    house.opened().check(house.outbox)
    spoil(house.register)
    house.opened().check(house.outbox)
    assert house.registered() == {str(house.outbox): LOCAL.identity}
    spoil(house.register)
    house.marker.unlink()
    house.another().check(house.outbox)
    assert_anothers(house.opened(), house.outbox)


def test_a_register_keeps_what_is_right_in_it(house: House) -> None:
    house.register.write_text(json.dumps({"/gone": "ext4 /dev/sdc1 /", "/strange": None}))
    house.opened().check(house.outbox)
    assert house.registered() == {"/gone": "ext4 /dev/sdc1 /", str(house.outbox): LOCAL.identity}


def test_what_a_crash_left_of_marking_goes_away(house: House) -> None:
    """It came between the marker's name and the end of its temporary one."""

    class Dying(MountedFiles):
        def unlink(self, path: AnyPath) -> None:
            if Path(os.fsdecode(path)).parent == house.outbox and house.marker.exists():
                raise KeyboardInterrupt
            super().unlink(path)

    with pytest.raises(KeyboardInterrupt):
        Outboxes(Dying(), house.register, OURS).check(house.outbox)
    assert len(os.listdir(house.outbox)) == 2, "the crash is what it was meant to be"
    house.opened().check(house.outbox)
    assert os.listdir(house.outbox) == [".esrgand.json"]


# Through the disk


async def test_the_disk_refuses_anothers_outbox_at_the_start_and_later(house: House, tmp_path: Path) -> None:
    disk = HouseDisk(tmp_path / "staging", house.files)
    house.another().check(house.outbox)
    with pytest.raises(AnotherLedgers):
        await disk.fill(house.opened(), [house.outbox], [])
    for write in (disk.ready(house.outbox, 0), disk.note(house.outbox, b"a.json", b"{}")):
        with pytest.raises(AnotherLedgers):
            await write
    assert os.listdir(house.outbox) == [".esrgand.json"]
    disk.close()


async def test_an_outbox_that_is_away_does_not_hold_up_the_start(house: House, tmp_path: Path) -> None:
    disk = HouseDisk(tmp_path / "staging", house.files)
    house.opened().check(house.outbox)
    house.marker.unlink()
    house.files.mounted = None
    missing = tmp_path / "missing"
    await disk.fill(house.opened(), [house.outbox, missing], [])
    (tmp_path / "result").write_bytes(b"the result")
    for outbox, said in ((house.outbox, "is not the one that it was"), (missing, "is not there")):
        for write in (
            disk.place(tmp_path / "result", outbox, b"a.png", None),
            disk.place(tmp_path / "result", outbox, b"trip/a.png", None),
            disk.note(outbox, b"a.png.json", b"{}"),
            disk.ready(outbox, 0),
        ):
            with pytest.raises(Fault, match=said) as caught:
                await write
            assert caught.value.gate is Gate.OUTBOX
    assert os.listdir(house.outbox) == []
    assert not missing.exists()
    missing.mkdir()
    await disk.ready(missing, 0)
    assert os.listdir(missing) == [".esrgand.json"], "one that is there only now is marked now"
    disk.close()
