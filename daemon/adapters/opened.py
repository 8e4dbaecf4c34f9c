"""
Opened: a file of an inbox that is open, and what it looks like.

Its blocks are counted, so that a large file on a slow share is not taken for a mount that hangs.
"""

import hashlib
import io
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import IO, Any, BinaryIO

from daemon.rules.faults import Blame, Fault
from daemon.rules.job import Look

COPY_BLOCK_BYTES = 1 << 20
# The ledger's integers have a sign; inodes of network file systems may use all 64 bits, and dates may lie past 2262.
LARGEST = 2**63 - 1


def look_from(status: os.stat_result) -> Look:
    """The part of a stat that tells whether a file changed."""
    return Look(status.st_size, max(-LARGEST, min(status.st_mtime_ns, LARGEST)), status.st_ino & LARGEST)


class OpenFile(io.BufferedReader):
    """Every block that is read shows that the mount does not hang: `moves` is called."""

    def __init__(self, descriptor: int, moves: Callable[[], None]) -> None:
        super().__init__(io.FileIO(descriptor, "rb"))
        self._moves = moves

    def read(self, size: int | None = -1, /) -> bytes:
        """As the built-in."""
        self._moves()
        return super().read(size)


def let_go(job: "Future[Any]") -> None:
    """A file that a hanging mount opens at last is nobody's any more."""
    if not job.cancelled() and job.exception() is None and isinstance(file := job.result(), OpenFile):
        file.close()


def copied(source: BinaryIO, target: IO[bytes]) -> str:
    """Copy a file to another one, and put that back to its beginning; returns the sha256. Raises Fault."""
    digest = hashlib.sha256()
    try:
        while block := source.read(COPY_BLOCK_BYTES):
            digest.update(block)
            target.write(block)
    except OSError as error:
        raise Fault(f"A picture cannot be copied ({error.strerror}).", blame=Blame.HOUSE) from error
    target.seek(0)
    return digest.hexdigest()
