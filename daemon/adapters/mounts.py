"""
Mounts: on what kind of file system a folder lies, as Linux tells in /proc/self/mountinfo.

Where nothing can be told (another operating system, /proc hidden) the answer is None, and folders are polled: the
periodic scan finds every file anyway, so that polling costs a few seconds, while events that never come would only seem
to work. Links are followed, which waits for as long as a hanging mount hangs: call what takes a path in a thread.
Nothing here raises.
"""

import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

MOUNTINFO = Path("/proc/self/mountinfo")
BOOT = Path("/proc/sys/kernel/random/boot_id")
UDEV = Path("/run/udev/data")  # what udev read on each disk when it was plugged in
UUID = "E:ID_FS_UUID="
# `statvfs` tells what is written on the disk; of others it tells the device's number, which says nothing.
NAMED_BY_ITSELF = {"ext2", "ext3", "ext4", "btrfs"}
AUTOFS = "autofs"
MOUNTS_KEPT = 1024  # lines that need not be read anew: they are the same for days, and asked for with each result

NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs"),
    *("ceph", "glusterfs", "lustre", "gfs2", "ocfs2", "beegfs", "gpfs", "orangefs", "pvfs2", "davfs", "drvfs"),
    AUTOFS,  # A share that is not mounted yet.
}
NETWORK_FUSE = {
    *(
        "sshfs",
        "rclone",
        "s3fs",
        "gcsfuse",
        "goofys",
        "mount-s3",
        "davfs",
        "davfs2",
        "curlftpfs",
        "smbnetfs",
        "gvfsd-fuse",
    ),
    *("glusterfs", "ceph", "ceph-fuse", "juicefs", "mfs", "lizardfs", "seaweedfs", "vmhgfs-fuse", "osxfs", "grpcfuse"),
    *("google-drive-ocamlfuse", "onedriver", "blobfuse", "blobfuse2", "hdfs", "afp", "afpfs"),
}


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system.

    point: where. fstype: as the kernel calls it. source: the device or the share; may hold bytes that are not UTF-8.
    identity: what is mounted, the same after a network share was mounted again or the machine started anew. A local
    disk is named by its device, which the kernel may number differently after a start.
    root: which of its folders is mounted. disk: the file system's own name, wherever it is plugged in, after the name
    of who gave it; "" where it has none, or nobody tells.
    """

    point: Path
    fstype: str
    source: str
    identity: str
    root: str = "/"
    disk: str = ""


UNKNOWN = Mount(Path("/"), "", "", "")
# The same folder; an empty mount point that its file system left; another file system on that point; a new place.
Standing = Literal["same", "away", "other", "new"]


def mount_of(path: Path, mountinfo: Path = MOUNTINFO, udev: Path = UDEV) -> Mount | None:
    """The mount that `path` lies on, links followed, whether it exists or not; None where that is unknown."""
    try:
        lines = mountinfo.read_bytes().splitlines()
        real = os.path.realpath(path)  # Path.resolve raises on a loop of links, this does not.
    except (OSError, ValueError):
        return None
    found, its_line = None, b""
    for line in lines:
        mount = _parse(line)
        # Of several on the same point the last covers the others, so a tie goes to the later line.
        if mount is None or not _is_below(real, os.fspath(mount.point)):
            continue
        if found is None or mount.point.is_relative_to(found.point):
            found, its_line = mount, line
    return found and replace(found, disk=_disk(found, its_line, found.point, udev))


def mount_at(descriptor: int, mountinfo: Path = MOUNTINFO, udev: Path = UDEV) -> Mount | None:
    """The mount that an open folder lies on, whatever came over it or went away meanwhile; None where it is unknown."""
    try:
        facts = Path(f"/proc/self/fdinfo/{descriptor}").read_bytes()
        number = re.findall(rb"^mnt_id:\s*(\d+)$", facts, re.MULTILINE)[0] + b" "
        line = next(line for line in mountinfo.read_bytes().splitlines() if line.startswith(number))
    except (OSError, IndexError, StopIteration):
        return None
    mount = _parse(line)
    return mount and replace(mount, disk=_disk(mount, line, descriptor, udev))


def is_same_system(one: Mount, other: Mount) -> bool:
    """Whether both are one file system: by its own name where it has one, and else by its device or share."""
    if one.disk and other.disk and one.disk.split()[0] == other.disk.split()[0]:
        return one.disk == other.disk
    return (one.fstype, one.source) == (other.fstype, other.source)


def standing(before: Mount, now: Mount, path: Path) -> Standing:
    """What became of a folder that lay on one mount and now lies on another."""
    real = Path(os.path.realpath(path))
    if not (real.is_relative_to(before.point) and real.is_relative_to(now.point)):
        return "new"  # A link on the way leads elsewhere now: somebody meant that.
    if before.point == now.point == Path("/"):
        return "same"  # Without the root file system nobody is there to ask; it has other names after an installation.
    places = [Path(mount.root) / real.relative_to(mount.point) for mount in (before, now)]
    if is_same_system(before, now) and places[0] == places[1]:
        return "same"  # Also where a sandbox mounts the folder itself once more.
    if before.point == now.point and now.fstype != AUTOFS:
        return "other" if before.fstype != AUTOFS else "new"
    return "away" if before.point.is_relative_to(now.point) else "new"


def is_network(fstype: str) -> bool:
    """Whether another machine may write there without our kernel knowing, and locks are not to be trusted."""
    return fstype in NETWORK or fstype.removeprefix("fuse.") in NETWORK_FUSE


def watch_kind(path: Path, mountinfo: Path = MOUNTINFO) -> Literal["native", "polling"]:
    """How changes below `path` are noticed: natively only where the kernel sees all of them.

    Every FUSE file system is polled, the local ones too: files may change behind it. `fuseblk` is a disk and is not.
    """
    mount = mount_of(path, mountinfo)
    if mount is None or is_network(mount.fstype) or mount.fstype == "fuse" or mount.fstype.startswith("fuse."):
        return "polling"
    return "native"


def _is_below(real: str, point: str) -> bool:
    """As `Path.is_relative_to`, which takes ten times as long: this is asked of each mount, for each result."""
    return real == point or real.startswith(point if point == "/" else f"{point}/")


@lru_cache(MOUNTS_KEPT)
def _parse(line: bytes) -> Mount | None:
    """One line: `36 35 98:0 /root /point options [tags] - fstype source super-options`."""
    left, dash, right = line.partition(b" - ")
    fields, kinds = left.split(b" "), right.split(b" ")
    if not dash or len(fields) < 6 or len(kinds) < 2:
        return None
    root, point, fstype, source = (_decoded(each) for each in (fields[3], fields[4], kinds[0], kinds[1]))
    return Mount(Path(point), fstype, source, f"{fstype} {source} {root}", root)


def _disk(mount: Mount, line: bytes, place: Path | int, udev: Path) -> str:
    """The file system's own name: `who name`. Names of different givers are not compared."""
    try:
        if mount.fstype in NAMED_BY_ITSELF:
            return f"fsid {_fsid(place):x}"
        if mount.fstype == "tmpfs" and _fsid(place):
            # It has a number for as long as it lives, and lives no longer than until the next start.
            return f"{BOOT.read_text().strip()} {_fsid(place):x}"
        device = line.split(b" ")[2].decode()
        facts = (udev / f"b{device}").read_text("utf-8", "replace").splitlines()
        return "uuid " + next(fact.removeprefix(UUID) for fact in facts if fact.startswith(UUID))
    except (OSError, ValueError, StopIteration):
        return ""


def _fsid(place: Path | int) -> int:
    return os.statvfs(place).f_fsid


def _decoded(field: bytes) -> str:
    r"""The kernel writes space, tab, newline, backslash and # as \ and three octal digits."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8) & 255]), field))
