"""
Outboxes: whose an outbox is, and whether it is the one that it was.

Each outbox carries a marker, `.esrgand.json`, with the sign of the ledger that fills it. Another ledger's marker is
refused: two daemons on one inbox would pay for each picture twice. A marker that is gone tells an empty mount point
from a file system that came back; which outboxes we have marked, and on which mounts, is kept beside the ledger, in
`outboxes.json`.

To be called in a thread. Raises OSError, and Fault where the outbox is another's or is away.
"""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Collection
from pathlib import Path

from daemon.adapters.files import Files
from daemon.adapters.mounts import Mount, is_network, is_same_system, standing
from daemon.adapters.places import Places
from daemon.rules.faults import Blame, Fault, Gate, Outlook
from daemon.rules.names import shown

MARKER = b".esrgand.json"
SCHEMA = "esrgand/outbox/1"
MARKER_BYTES_MAX = 4096


class AnotherLedgers(Fault):
    """The outbox is filled by another ledger."""


class Outboxes:
    """The outboxes that we fill."""

    def __init__(self, files: Files, register: Path, identity: str, take_over: Collection[Path] = ()) -> None:
        """register: the file that remembers what was marked. identity: the ledger's; only a hash of it is shown.

        take_over: outboxes that are to be marked anew, once, whatever they carry.
        """
        self._files = files
        self._places = Places(files, register, Gate.OUTBOX)
        self._sign = hashlib.sha256(f"outbox/{identity}".encode()).hexdigest()[:32]
        self._take_over = set(take_over)
        # One for each outbox: marking one that hangs holds up no other.
        self._marking: dict[Path, threading.Lock] = {}

    def check(self, outbox: Path) -> None:
        """Return where the outbox is there and ours, having marked one that is new to us."""
        root = os.fsencode(outbox)
        if not self._is_settled(outbox, root):
            with self._marking.setdefault(outbox, threading.Lock()):
                self._settle(outbox, root)
        self._take_over.discard(outbox)

    def is_anothers(self, outbox: Path) -> bool:
        """Whether it carries another ledger's marker; changes nothing."""
        return self._read(os.fsencode(outbox)) not in (None, self._sign)

    def _is_settled(self, outbox: Path, root: bytes) -> bool:
        """Whether it is ours, and where it is known to be; the usual case."""
        if not self._files.is_folder(root):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root)
        before = self._places.get(outbox)
        return self._read(root) == self._sign and before is not None and self._files.mount(outbox) in (before, None)

    def _settle(self, outbox: Path, root: bytes) -> None:
        there = self._read(root)
        before, now = self._places.get(outbox), self._files.mount(outbox)
        became = standing(before, now, outbox) if before is not None and now is not None else "new"
        take_over = outbox in self._take_over
        if before is not None and became == "away" and there in (None, self._sign) and not take_over:
            # Whatever marker the mount point has, from a time before there was a mount.
            raise self._away(outbox, f"is no longer on {shown(os.fsencode(before.source))}")
        if there != self._sign:
            if not take_over:
                if there is not None:
                    raise self._anothers(outbox)
                if before is not None and not (became == "same" and _is_cleared(before, now)):
                    raise self._away(outbox, f"is not the one that it was: the marker {os.fsdecode(MARKER)} is gone")
            self._mark(root, replace=take_over)
            if self._read(root) != self._sign:
                raise self._anothers(outbox)  # Another daemon was quicker.
            before = None
        if before is None:
            self._files.clear_beside(self._temporary(root))
            # A marker that was there may be one whose folder could not be synced; a remembered one must not be lost.
            self._files.sync_folder(root)
        if before is None or now is not None:
            self._places.put(outbox, now)

    def _mark(self, root: bytes, *, replace: bool) -> None:
        text = {
            "schema": SCHEMA,
            "ledger": self._sign,
            "note": "esrgand fills this folder. The marker keeps a second one out, and tells a folder from an empty "
            "mount point; leave it here.",
        }
        # A temporary name of our own: another daemon may be marking it at this moment.
        with self._files.temporary_beside(self._temporary(root)) as (file, temporary):
            file.write((json.dumps(text, indent=2) + "\n").encode())
            self._files.sync(file)
            self._files.publish(file, temporary, root + b"/" + MARKER, replace=replace)

    def _temporary(self, root: bytes) -> bytes:
        return root + b"/" + MARKER + b"." + self._sign.encode()

    def _read(self, root: bytes) -> str | None:
        """The sign in the marker, "" where it is not one of esrgand's, None where there is no marker."""
        path = root + b"/" + MARKER
        kind = self._files.kind(path)
        if kind is None:
            return None
        if kind != "file":
            return ""
        with self._files.open(path, "rb") as file:
            text = file.read(MARKER_BYTES_MAX)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return ""
        sign = value.get("ledger") if isinstance(value, dict) and value.get("schema") == SCHEMA else ""
        return sign if isinstance(sign, str) else ""

    def _anothers(self, outbox: Path) -> Fault:
        return AnotherLedgers(
            f"The outbox {shown(os.fsencode(outbox))} belongs to another ledger of esrgand.",
            blame=Blame.HOUSE,
            outlook=Outlook.LASTING,
            gate=Gate.OUTBOX,
            remedy="Give each esrgand an outbox of its own. If that other ledger is gone for good, start once with "
            "--take-over; what still lies in the inbox is then upscaled, and paid for, again.",
        )

    def _away(self, outbox: Path, why: str) -> Fault:
        return Fault(
            f"The outbox {shown(os.fsencode(outbox))} {why}.",
            blame=Blame.HOUSE,
            gate=Gate.OUTBOX,
            remedy="Mount it again; results wait meanwhile. If it was emptied on purpose, start once with --take-over.",
        )


def _is_cleared(before: Mount, now: Mount | None) -> bool:
    """Whether somebody cleared everything out, the marker too: on a local disk that is still the same one."""
    return now is not None and not is_network(now.fstype) and is_same_system(before, now)
