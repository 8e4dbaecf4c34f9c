"""
What errors of a disk mean, in plain words: whose trouble it is, which gate it closes, and what a person can do.

A name that a file system does not take is one picture's trouble; everything else is the house's.
"""

import errno
import os
from pathlib import Path

from daemon.rules import names
from daemon.rules.faults import Blame, Fault, Gate


def shown(where: bytes | Path) -> str:
    """A path for people."""
    return names.shown(os.fsencode(where))


def mebibytes(bytes_: int) -> int:
    """So many, rounded up."""
    return -(-bytes_ // (1 << 20))


# What a file system says of one name that it does not take (a colon on FAT); nobody else has to wait for that.
NAME_REFUSED = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
# What says that a file's bytes are not to be had any more.
LOST = {errno.ENOENT, errno.EIO, errno.ESTALE, errno.EUCLEAN}
FULL = {errno.ENOSPC, errno.EDQUOT}


def fault_from(error: OSError, where: bytes | Path, gate: Gate) -> Fault:
    """What an error of the disk means, in plain words."""
    place = shown(where)
    said = {
        errno.ENOSPC: f"The disk of {place} is full",
        errno.EDQUOT: f"The quota of {place} is used up",
        errno.EROFS: f"{place} is read-only",
        errno.EACCES: f"{place} may not be written",
        errno.ENOENT: f"{place} is not there",
    }.get(error.errno or 0, f"{place} cannot be written ({error.strerror})")
    remedy = {
        errno.ENOSPC: "Make room",
        errno.EDQUOT: "Make room",
        errno.EACCES: "Give the user that esrgand runs as the right to write there",
        errno.ENOENT: "Mount it, or make the folder",
        errno.EROFS: "Mount it for writing (under systemd: name it in the unit's ReadWritePaths)",
    }.get(error.errno or 0, "Mend it")
    if error.errno in NAME_REFUSED:
        said = f"{place} takes no file of that name ({error.strerror})"
        return Fault(f"{said}.", blame=Blame.HOUSE, remedy="Give the picture another name, and drop it in again.")
    return Fault(f"{said}.", blame=Blame.HOUSE, gate=gate, remedy=f"{remedy}; esrgand goes on by itself.")


def in_staging(said: str, gate: Gate | None = Gate.STAGING) -> Fault:
    """Something in the state directory cannot be read or written. gate: None where others need not wait for it."""
    remedy = "Look at the disk of the state directory, and at the limit of open files."
    return Fault(said, blame=Blame.HOUSE, gate=gate, remedy=remedy)
