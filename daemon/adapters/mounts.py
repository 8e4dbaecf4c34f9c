"""
Mounts: on what kind of file system a folder lies, as Linux tells in /proc/self/mountinfo.

Where nothing can be told (another operating system, /proc hidden) the answer is None, and folders are polled: the
periodic scan finds every file anyway, so that polling costs a few seconds, while events that never come would only seem
to work. Links are followed, which waits for as long as a hanging mount hangs: call `mount_of` and `watch_kind` in a
thread. Nothing here raises.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MOUNTINFO = Path("/proc/self/mountinfo")

NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs"),
    *("ceph", "glusterfs", "lustre", "gfs2", "ocfs2", "beegfs", "gpfs", "orangefs", "pvfs2", "davfs", "drvfs"),
    "autofs",  # A share that is not mounted yet.
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
    """

    point: Path
    fstype: str
    source: str
    identity: str


def mount_of(path: Path, mountinfo: Path = MOUNTINFO) -> Mount | None:
    """The mount that `path` lies on, links followed, whether it exists or not; None where that is unknown."""
    try:
        lines = mountinfo.read_bytes().splitlines()
        real = Path(os.path.realpath(path))  # Path.resolve raises on a loop of links, this does not.
    except (OSError, ValueError):
        return None
    found = None
    for mount in filter(None, map(_parse, lines)):
        # Of several on the same point the last covers the others, so a tie goes to the later line.
        if real.is_relative_to(mount.point) and (found is None or mount.point.is_relative_to(found.point)):
            found = mount
    return found


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


def _parse(line: bytes) -> Mount | None:
    """One line: `36 35 98:0 /root /point options [tags] - fstype source super-options`."""
    left, dash, right = line.partition(b" - ")
    fields, kinds = left.split(b" "), right.split(b" ")
    if not dash or len(fields) < 6 or len(kinds) < 2:
        return None
    root, point, fstype, source = (_decoded(each) for each in (fields[3], fields[4], kinds[0], kinds[1]))
    return Mount(point=Path(point), fstype=fstype, source=source, identity=f"{fstype} {source} {root}")


def _decoded(field: bytes) -> str:
    r"""The kernel writes space, tab, newline, backslash and # as \ and three octal digits."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8) & 255]), field))
