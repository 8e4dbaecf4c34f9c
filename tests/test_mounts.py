"""Mounts: which file system a folder lies on, and how to notice changes there."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.adapters.mounts import is_network, is_same_system, mount_at, mount_of, watch_kind

LINES = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:45 /export / rw - broken
31 22 0:46 / /srv/nas rw,relatime shared:5 master:2 - nfs4 nas:/pictures rw,vers=4.2
32 22 0:47 /sub /srv/my\040share\134x rw - cifs //nas/my\040share rw
33 22 0:48 / /srv/over rw - autofs systemd-1 rw
34 33 8:17 / /srv/over rw - ext4 /dev/sdb1 rw
35 22 0:50 / /srv/fuse rw - fuse.mergerfs pool rw
36 22 0:51 / /srv/stick rw - fuseblk /dev/sdc1 rw
37 22 0:52 / /srv/\377 rw - ext4 /dev/sdd1 rw

"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_bytes(LINES)
    return path


@pytest.mark.parametrize(
    ("path", "point", "fstype", "kind"),
    [
        ("/srv/nas/a/b", "/srv/nas", "nfs4", "polling"),
        ("/srv/nas", "/srv/nas", "nfs4", "polling"),
        ("/srv/nasty", "/", "ext4", "native"),
        ("/srv/my share\\x/a", "/srv/my share\\x", "cifs", "polling"),
        ("/srv/over/a", "/srv/over", "ext4", "native"),
        ("/srv/fuse/a", "/srv/fuse", "fuse.mergerfs", "polling"),
        ("/srv/stick/a", "/srv/stick", "fuseblk", "native"),
        ("/srv/\udcff/a", "/srv/\udcff", "ext4", "native"),
    ],
)
def test_the_longest_and_last_mount_holds_the_path(table: Path, path: str, point: str, fstype: str, kind: str) -> None:
    mount = mount_of(Path(path), table)
    assert mount is not None
    assert (mount.point, mount.fstype) == (Path(point), fstype)
    assert watch_kind(Path(path), table) == kind


def test_the_identity_says_what_is_mounted_and_not_when(table: Path) -> None:
    before = mount_of(Path("/srv/my share\\x"), table)
    table.write_bytes(LINES.replace(b"32 22 0:47", b"99 22 0:99"))
    assert mount_of(Path("/srv/my share\\x"), table) == before
    table.write_bytes(LINES.replace(b"0:47 /sub", b"0:47 /other"))
    after = mount_of(Path("/srv/my share\\x"), table)
    assert before is not None
    assert after is not None
    assert before.identity != after.identity


def test_a_disk_has_a_name_wherever_it_is_plugged_in(table: Path, tmp_path: Path) -> None:
    """As udev read it; the kernel's name for the device says nothing."""
    (tmp_path / "b0:51").write_text("I:1\nE:ID_FS_UUID_ENC=AB-CD\nE:ID_FS_UUID=AB-CD\nE:ID_FS_TYPE=ntfs\n")
    (tmp_path / "b0:50").write_bytes(b"E:ID_FS_TYPE=\xff\n")
    stick, fuse = (mount_of(Path(path), table, tmp_path) for path in ("/srv/stick/a", "/srv/fuse"))
    assert stick is not None
    assert fuse is not None
    assert (stick.disk, fuse.disk) == ("uuid AB-CD", "")
    table.write_bytes(LINES.replace(b"/dev/sdc1", b"/dev/sde1"))
    again = mount_of(Path("/srv/stick"), table, tmp_path)
    assert again is not None
    assert is_same_system(stick, again)
    (tmp_path / "b0:51").write_text("E:ID_FS_UUID=01-23\n")
    other = mount_of(Path("/srv/stick"), table, tmp_path)
    assert other is not None
    assert not is_same_system(again, other)
    assert is_same_system(other, replace(other, disk="")), "where only one of them has a name, the device tells"
    assert not is_same_system(stick, replace(other, disk=""))


def test_an_open_folder_knows_its_mount(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_PATH)
    try:
        assert mount_at(descriptor) == mount_of(tmp_path)
        assert mount_at(descriptor, tmp_path / "none") is None
    finally:
        os.close(descriptor)
    assert mount_at(descriptor) is None


def test_links_are_followed(table: Path, tmp_path: Path) -> None:
    (tmp_path / "inbox").symlink_to("/srv/nas/inbox")
    assert watch_kind(tmp_path / "inbox", table) == "polling"


def test_a_loop_of_links_is_no_reason_to_fall(table: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert mount_of(tmp_path / "loop", table) is not None


def test_where_nothing_is_known_folders_are_polled(tmp_path: Path) -> None:
    assert mount_of(tmp_path, tmp_path / "none") is None
    assert watch_kind(tmp_path, tmp_path / "none") == "polling"


@pytest.mark.parametrize(
    "fstype", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse.rclone", "9p", "ceph", "virtiofs"]
)
def test_network_kinds(fstype: str) -> None:
    assert is_network(fstype)


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuse.mergerfs", "fuseblk"])
def test_local_kinds(fstype: str) -> None:
    assert not is_network(fstype)


def test_the_real_table_knows_where_we_are(tmp_path: Path) -> None:
    mount = mount_of(tmp_path)
    assert mount is not None
    assert os.stat(mount.point).st_dev == os.stat(tmp_path).st_dev
