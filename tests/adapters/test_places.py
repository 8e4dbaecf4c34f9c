"""Places: what a folder was on is remembered, and tells an empty mount point from a folder, and a disk from another."""

import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.adapters.files import AnyPath, Files
from daemon.adapters.folder import DiskInbox
from daemon.adapters.mounts import UNKNOWN, Mount, standing
from daemon.adapters.places import Places
from daemon.rules.faults import Blame, Changed, Fault, Gate, Vanished
from daemon.rules.names import Selection


class Machine:
    """A folder with an inbox and an archive in it, as mounts say. mounted: what both lie on at the moment."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.inbox, self.archive = folder, folder / "nas" / "in", folder / "nas" / "archive"
        self.register = folder / "mounts.json"
        for place in (self.inbox, self.archive):
            place.mkdir(parents=True)
        self.bare = Mount(Path("/"), "ext4", "/dev/sda1", "ext4 /dev/sda1 /", disk="fsid 1")
        self.nas = Mount(folder / "nas", "cifs", "//nas/pictures", "cifs //nas/pictures /")
        self.stick = Mount(folder / "nas", "vfat", "/dev/sdb1", "vfat /dev/sdb1 /", disk="uuid AB-CD")
        self.mounted: Mount | None = self.nas
        self.awaited = True
        self.opened: list[DiskInbox] = []

    def start(self) -> DiskInbox:
        """The inbox, as a start opens it."""
        self.opened.append(
            DiskInbox(
                self.inbox,
                Selection(["*.png"], []),
                recursive=True,
                places=Places(Files(), self.register),
                mount_at=lambda _: self.mounted,
                is_awaited=self._is_awaited,
            )
        )
        return self.opened[-1]

    async def _is_awaited(self) -> bool:
        return self.awaited

    def moved(self, mount: Mount, **more: str) -> Mount:
        """A mount that is a little different."""
        changed = replace(mount, **more)
        return replace(changed, identity=f"{changed.fstype} {changed.source} {changed.root}")


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for inbox in machine.opened:
        inbox.close()


async def fault_of(inbox: DiskInbox) -> Fault:
    with pytest.raises(Fault) as caught:
        await inbox.scan(())
    assert caught.value.blame is Blame.HOUSE
    return caught.value


# The inbox


@pytest.mark.parametrize("restart", [False, True])
async def test_an_empty_mount_point_is_not_the_inbox(machine: Machine, restart: bool) -> None:
    """A start before its share is mounted would take every picture for gone."""
    (machine.inbox / "a.png").write_bytes(b"picture")
    inbox = machine.start()
    look = await inbox.look(b"a.png")
    assert look is not None
    (machine.inbox / "a.png").rename(machine.folder / "away")
    machine.mounted = machine.bare
    inbox = machine.start() if restart else inbox
    assert (await fault_of(inbox)).said == f"The inbox {machine.inbox} is no longer on //nas/pictures."
    for ask in (inbox.look(b"a.png"), inbox.delete(b"a.png", look), inbox.archive(b"a.png", look, machine.folder)):
        with pytest.raises(Fault, match="no longer on"):
            await ask
    with pytest.raises(Fault) as caught:
        async with inbox.open(b"a.png", look):
            pytest.fail("it is not there")
    assert not isinstance(caught.value, Changed | Vanished)
    machine.awaited = False
    await fault_of(inbox)
    machine.mounted = machine.nas
    (machine.folder / "away").rename(machine.inbox / "a.png")
    assert (await inbox.scan(())).found == [(b"a.png", look)]


async def test_a_file_of_the_same_name_on_another_disk_is_not_looked_at(machine: Machine) -> None:
    """It looks different, which would mean that the picture changed."""
    machine.mounted = machine.stick
    inbox = machine.start()
    await inbox.scan(())
    machine.mounted = replace(machine.stick, disk="uuid 01-23")
    (machine.inbox / "a.png").write_bytes(b"another")
    with pytest.raises(Fault, match="another disk"):
        await inbox.look(b"a.png")


@pytest.mark.parametrize("restart", [False, True])
async def test_another_disk_waits_for_the_pictures_of_the_first(machine: Machine, restart: bool) -> None:
    machine.mounted = machine.stick
    inbox = machine.start()
    await inbox.scan(())
    (machine.inbox / "b.png").write_bytes(b"picture")
    machine.mounted = machine.moved(machine.stick, disk="uuid 01-23")
    inbox = machine.start() if restart else inbox
    fault = await fault_of(inbox)
    assert "has another disk in its place" in fault.said
    assert "--take-over" in fault.remedy
    machine.mounted = machine.stick
    assert (await inbox.scan(())).files == 1
    machine.mounted = machine.moved(machine.stick, disk="uuid 01-23")
    await fault_of(inbox)
    machine.awaited = False
    assert (await inbox.scan(())).files == 1, "the next card of a camera"
    machine.awaited = True
    assert (await machine.start().scan(())).files == 1
    machine.mounted = machine.stick
    await fault_of(inbox)


async def test_a_disk_that_comes_back_as_another_device_goes_on(machine: Machine) -> None:
    machine.mounted = machine.stick
    await machine.start().scan(())
    machine.mounted = machine.moved(machine.stick, source="/dev/sdc1")
    await machine.start().scan(())
    machine.mounted = machine.moved(machine.stick, source="/dev/sdc1", disk="")
    await machine.start().scan(())
    machine.mounted = machine.moved(machine.stick, source="/dev/sdd1")
    await machine.start().scan(())


async def test_a_mount_that_comes_late_is_taken(machine: Machine) -> None:
    machine.mounted = machine.bare
    inbox = machine.start()
    await inbox.scan(())
    machine.mounted = machine.nas
    await inbox.scan(())
    machine.mounted = machine.bare
    await fault_of(inbox)


async def test_where_nothing_is_known_of_mounts_all_goes_on(machine: Machine) -> None:
    inbox = machine.start()
    for mount in (None, machine.nas, None):
        machine.mounted = mount
        await inbox.scan(())


async def test_a_person_can_say_that_a_disk_is_gone_for_good(machine: Machine) -> None:
    await machine.start().scan(())
    machine.mounted = machine.bare
    await fault_of(machine.start())
    Places(Files(), machine.register).forget([machine.inbox, machine.folder])
    await machine.start().scan(())


async def test_without_a_register_it_is_remembered_for_the_run(machine: Machine) -> None:
    inbox = DiskInbox(machine.inbox, Selection(["*"], []), recursive=True, mount_at=lambda _: machine.mounted)
    machine.opened.append(inbox)
    await inbox.scan(())
    machine.mounted = machine.bare
    await fault_of(inbox)
    machine.mounted = machine.moved(machine.nas, source="//nas/other")
    assert "another disk" in (await fault_of(inbox)).said


# The archive


@pytest.mark.parametrize("restart", [False, True])
async def test_an_archive_that_is_away_swallows_nothing(machine: Machine, restart: bool) -> None:
    (machine.inbox / "a.png").write_bytes(b"picture")
    inbox = machine.start()
    await inbox.remember(machine.archive)
    look = await inbox.look(b"a.png")
    assert look is not None
    inbox = machine.start() if restart else inbox
    # The inbox is elsewhere, and stays.
    Places(Files(), machine.register).forget([machine.inbox])
    inbox = machine.start()
    machine.mounted = machine.bare
    with pytest.raises(Fault, match="is no longer on //nas/pictures") as caught:
        await inbox.archive(b"a.png", look, machine.archive)
    assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, Gate.OUTBOX)
    assert os.listdir(machine.archive) == []
    Places(Files(), machine.register).forget([machine.archive])
    await machine.start().archive(b"a.png", look, machine.archive)
    assert os.listdir(machine.archive) == ["a.png"]


async def test_an_archive_on_the_next_disk_takes_files(machine: Machine) -> None:
    (machine.inbox / "a.png").write_bytes(b"picture")
    machine.mounted = machine.stick
    places = Places(Files(), machine.register)
    places.put(machine.archive, replace(machine.stick, disk="uuid 01-23"))
    inbox = machine.start()
    look = await inbox.look(b"a.png")
    assert look is not None
    await inbox.archive(b"a.png", look, machine.archive)
    assert os.listdir(machine.archive) == ["a.png"]


async def test_an_archive_that_is_not_there_is_remembered_later(machine: Machine) -> None:
    machine.archive.rmdir()
    await machine.start().remember(machine.archive)
    assert not machine.register.exists()


# What became of a folder


PATH = Path("/srv/nas/in")
SHARE = Mount(Path("/srv/nas"), "cifs", "//nas/p", "cifs //nas/p /")
ROOT = Mount(Path("/"), "ext4", "/dev/sda1", "ext4 /dev/sda1 /", disk="fsid 1")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (SHARE, SHARE, "same"),
        (SHARE, ROOT, "away"),
        (ROOT, SHARE, "new"),
        (ROOT, replace(ROOT, source="/dev/nvme0n1p2", disk="fsid 2"), "same"),
        (SHARE, replace(SHARE, source="//nas/q"), "other"),
        (SHARE, replace(SHARE, fstype="autofs", source="systemd-1"), "away"),
        (replace(SHARE, fstype="autofs", source="systemd-1"), SHARE, "new"),
        # A sandbox mounts the folder itself once more; a start by hand does without.
        (replace(SHARE, point=PATH, root="/in"), SHARE, "same"),
        (SHARE, replace(SHARE, point=PATH, root="/in"), "same"),
        (SHARE, replace(SHARE, point=PATH, root="/other"), "new"),
        (SHARE, replace(SHARE, root="/other"), "other"),
        (replace(ROOT, point=PATH, root="/srv/nas/in"), ROOT, "same"),
        (replace(SHARE, point=Path("/elsewhere")), ROOT, "new"),
        (UNKNOWN, SHARE, "new"),
        # Names of different givers say nothing about one another.
        (replace(SHARE, disk="uuid 1"), replace(SHARE, disk="fsid 2"), "same"),
        (replace(SHARE, disk="uuid 1"), replace(SHARE, disk="uuid 2"), "other"),
    ],
)
def test_what_became_of_a_folder(before: Mount, now: Mount, expected: str) -> None:
    assert standing(before, now, PATH) == expected


# The register


def test_what_is_put_is_there_after_a_restart(tmp_path: Path) -> None:
    register = tmp_path / "mounts.json"
    strange = Path(os.fsdecode(b"/srv/caf\xe9"))
    mount = replace(SHARE, point=strange, source=os.fsdecode(b"\xff"), disk="uuid 1")
    Places(Files(), register).put(strange, mount)
    Places(Files(), register).put(PATH, None)
    assert Places(Files(), register).get(strange) == mount
    assert Places(Files(), register).get(PATH) == UNKNOWN
    assert Places(Files(), register).get(Path("/srv")) is None


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    places = Places(Files(), tmp_path / "mounts.json")
    places.put(PATH, SHARE)
    before = os.stat(tmp_path / "mounts.json")
    places.put(PATH, SHARE)
    places.forget([Path("/srv")])
    assert os.stat(tmp_path / "mounts.json") == before


class Broken(Files):
    def open(self, path: AnyPath, mode: str) -> object:  # type: ignore[override]
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    "ask", [lambda places: places.get(PATH), lambda places: places.put(PATH, SHARE)], ids=["read", "written"]
)
def test_a_register_that_cannot_be_used_is_told(tmp_path: Path, ask: Callable[[Places], object]) -> None:
    (tmp_path / "mounts.json").write_text("{}")
    places = Places(Broken(), tmp_path / "mounts.json", Gate.OUTBOX)
    with pytest.raises(Fault, match=r"mounts\.json cannot be read \(Input/output error\)") as caught:
        ask(places)
    assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, Gate.OUTBOX)


@pytest.mark.parametrize("value", [[], None, 5, {}, {"point": "/"}, {"point": 5}])
def test_a_record_that_is_damaged_is_none(tmp_path: Path, value: object) -> None:
    register = tmp_path / "mounts.json"
    Places(Files(), register).put(PATH, SHARE)
    register.write_text(json.dumps({**json.loads(register.read_text()), "/srv": value}))
    assert Places(Files(), register).get(Path("/srv")) is None
    assert Places(Files(), register).get(PATH) == SHARE
