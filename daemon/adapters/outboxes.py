"""
Outboxes: whose an outbox is, and whether it is the one that it was.

Each outbox carries a marker, `.esrgand.json`, with the sign of the ledger that fills it. Another ledger's marker is
refused: two daemons on one inbox would pay for each picture twice. A marker that is gone tells an empty mount point
from a file system that came back; which outboxes we have marked is kept beside the ledger, in `outboxes.json`.

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
from daemon.adapters.mounts import is_network
from daemon.rules.faults import Blame, Fault, Gate, Outlook

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
        self._register = os.fsencode(register)
        self._sign = hashlib.sha256(f"outbox/{identity}".encode()).hexdigest()[:32]
        self._take_over = set(take_over)
        self._marked: dict[str, str] | None = None
        # One for each outbox: marking one that hangs holds up no other.
        self._marking: dict[Path, threading.Lock] = {}
        self._registering = threading.Lock()

    def check(self, outbox: Path) -> None:
        """Return where the outbox is there and ours, having marked one that is new to us."""
        root = os.fsencode(outbox)
        if not self._is_settled(root):
            with self._marking.setdefault(outbox, threading.Lock()):
                self._settle(outbox, root)
        self._take_over.discard(outbox)

    def is_anothers(self, outbox: Path) -> bool:
        """Whether it carries another ledger's marker; changes nothing."""
        return self._read(os.fsencode(outbox)) not in (None, self._sign)

    def _is_settled(self, root: bytes) -> bool:
        """Whether it is ours, and known to be; the usual case."""
        if not self._files.is_folder(root):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root)
        return self._read(root) == self._sign and os.fsdecode(root) in self._known()

    def _settle(self, outbox: Path, root: bytes) -> None:
        there = self._read(root)
        marked = self._known().get(os.fsdecode(root))
        mount = self._files.mount(outbox)
        identity = mount.identity if mount is not None else ""
        if there != self._sign:
            if outbox not in self._take_over:
                if there is not None:
                    raise self._anothers(outbox)
                # On a local disk that is still the same one, somebody cleared everything out, the marker too.
                local = mount is not None and not is_network(mount.fstype)
                if marked is not None and not (local and marked == identity):
                    raise self._away(outbox)
            self._mark(root, replace=outbox in self._take_over)
            if self._read(root) != self._sign:
                raise self._anothers(outbox)  # Another daemon was quicker.
            marked = None
        if marked is None:
            self._files.clear_beside(self._temporary(root))
            # A marker that was there may be one whose folder could not be synced; a remembered one must not be lost.
            self._files.sync_folder(root)
            self._remember(os.fsdecode(root), identity)

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

    def _known(self) -> dict[str, str]:
        """Path to the mount's identity, of every outbox that we have marked."""
        with self._registering:
            if self._marked is None:
                known: dict[str, str] = {}
                if self._files.kind(self._register) == "file":
                    with self._files.open(self._register, "rb") as file:
                        known = _names(file.read())
                self._marked = known
            return self._marked

    def _remember(self, path: str, identity: str) -> None:
        """Write down what was marked. What could not be written is not known either, and is tried again."""
        with self._registering:
            known = {**(self._marked or {}), path: identity}
            try:
                self._files.write(self._register, json.dumps(known).encode(), replace=True)
            except OSError as error:
                place = self._register.decode("utf-8", "backslashreplace")
                raise Fault(
                    f"{place} cannot be written ({error.strerror}).",
                    blame=Blame.HOUSE,
                    gate=Gate.OUTBOX,
                    remedy="Look at the disk of the state directory; esrgand goes on by itself.",
                ) from error
            self._marked = known

    def _anothers(self, outbox: Path) -> Fault:
        return AnotherLedgers(
            f"The outbox {_shown(outbox)} belongs to another ledger of esrgand.",
            blame=Blame.HOUSE,
            outlook=Outlook.LASTING,
            gate=Gate.OUTBOX,
            remedy="Give each esrgand an outbox of its own. If that other ledger is gone for good, start once with "
            "--take-over; what still lies in the inbox is then upscaled, and paid for, again.",
        )

    def _away(self, outbox: Path) -> Fault:
        return Fault(
            f"The outbox {_shown(outbox)} is not the one that it was: the marker {os.fsdecode(MARKER)} is gone.",
            blame=Blame.HOUSE,
            gate=Gate.OUTBOX,
            remedy="Mount it again; results wait meanwhile. If it was emptied on purpose, start once with --take-over.",
        )


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _names(text: bytes) -> dict[str, str]:
    """A register that is damaged is one that knows nothing; markers that are there are still believed."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {path: identity for path, identity in value.items() if isinstance(identity, str)}
