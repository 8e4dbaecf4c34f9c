"""
Places: what each folder lay on when it was last well, kept in a small file beside the ledger.

A mount that is away leaves an empty folder that looks like any other. Only who remembers that something was mounted
there can tell, and has to remember it across restarts. What could not be written down is not known either.

To be called in a thread, of which there may be several. Raises Fault, and OSError where an archive is not there.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from daemon.adapters.files import Files
from daemon.adapters.mounts import UNKNOWN, Mount, Standing, standing
from daemon.adapters.way import Way
from daemon.rules.faults import Blame, Fault, Gate
from daemon.rules.names import shown


class Places:
    """Paths, as they are configured, and the mounts that they were on."""

    def __init__(self, files: Files, register: Path | None, gate: Gate | None = None) -> None:
        """register: the file; without one all is forgotten with this run. gate: closed where it cannot be used."""
        self._files = files
        self._register = register
        self._gate = gate
        self._known: dict[str, Mount] | None = None
        self._lock = threading.Lock()

    def get(self, path: Path) -> Mount | None:
        """What a folder was on, or None where that was never seen."""
        with self._lock:
            return self._read().get(os.fspath(path))

    def put(self, path: Path, mount: Mount | None) -> None:
        """What a folder is on; None: nobody knows."""
        with self._lock:
            known, new = self._read(), mount or UNKNOWN
            if known.get(os.fspath(path)) != new:
                self._write({**known, os.fspath(path): new})

    def compare(self, path: Path, now: Mount | None) -> tuple[Standing, Mount]:
        """What became of a folder, and what it was on; remembers what it is on, unless that is another's place."""
        if now is None:
            return "same", UNKNOWN
        before = self.get(path)
        if before == now:
            return "same", now  # The usual case, and asked for every file.
        found: Standing = "new" if before is None else standing(before, now, path)
        # The disk's own name is not always told; once known it is kept.
        if found == "new" or (found == "same" and before is not None and (now.disk or not before.disk)):
            self.put(path, now)
        return found, before or now

    def check_archive(self, to: bytes, mount_at: Callable[[int], Mount | None]) -> None:
        """Raise where an archive is not there (OSError), or is an empty mount point that its mount left."""
        place = Path(os.fsdecode(to))
        with Way(to) as way:
            found, before = self.compare(place, mount_at(way.descriptor))
        if found == "away":
            raise Fault(
                f"{shown(to)} is no longer on {shown(os.fsencode(before.source))}.",
                blame=Blame.HOUSE,
                gate=Gate.OUTBOX,
                remedy="Mount it again; esrgand goes on by itself.",
            )
        if found == "other":
            self.forget([place])  # The next disk, since the last one was full: whatever is there takes files.

    def forget(self, paths: Iterable[Path]) -> None:
        """Whatever these folders are on from now on is right."""
        with self._lock:
            known, gone = self._read(), set(map(os.fspath, paths))
            if gone & known.keys():
                self._write({path: mount for path, mount in known.items() if path not in gone})

    def _read(self) -> dict[str, Mount]:
        if self._known is None:
            text = b"{}"
            try:
                if self._register is not None and self._files.kind(self._register) == "file":
                    with self._files.open(self._register, "rb") as file:
                        text = file.read()
            except OSError as error:
                raise self._fault("read", error) from error
            self._known = _mounts(text)
        return self._known

    def _write(self, known: dict[str, Mount]) -> None:
        value = {path: {**asdict(mount), "point": os.fspath(mount.point)} for path, mount in known.items()}
        try:
            if self._register is not None:
                self._files.write(os.fsencode(self._register), json.dumps(value, indent=1).encode(), replace=True)
        except OSError as error:
            raise self._fault("written", error) from error
        self._known = known

    def _fault(self, what: str, error: OSError) -> Fault:
        return Fault(
            f"{shown(os.fsencode(self._register or ''))} cannot be {what} ({error.strerror}).",
            blame=Blame.HOUSE,
            gate=self._gate,
            remedy="Look at the disk of the state directory; esrgand goes on by itself.",
        )


def _mounts(text: bytes) -> dict[str, Mount]:
    """A register that is damaged is one that knows nothing."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {path: mount for path, facts in value.items() if (mount := _mount(facts)) is not None}


def _mount(facts: object) -> Mount | None:
    if isinstance(facts, str):
        # The first outboxes were remembered by their mount's identity alone: where it was, nobody knows.
        return Mount(UNKNOWN.point, "", "", facts)
    names = ("fstype", "source", "identity", "root", "disk", "point")
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), str) for name in names):
        return None
    return Mount(Path(facts["point"]), *(facts[name] for name in names[:-1]))
