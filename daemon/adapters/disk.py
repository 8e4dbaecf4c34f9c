"""
Disk: outboxes, besides staging; what is under its final name is whole and synced.

Everything is written under a name that starts with a dot, synced, then renamed, then its folder is synced. Nothing that
esrgand did not write is overwritten. Every OSError becomes Fault (HOUSE): a full disk, a folder that went away.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TypeVar

from daemon.adapters.disk_faults import FULL, fault_from, mebibytes, shown
from daemon.adapters.files import Files
from daemon.adapters.mounts import Mount
from daemon.adapters.outboxes import AnotherLedgers, Outboxes
from daemon.adapters.staging import Staging, disk_threads
from daemon.rules import names
from daemon.rules.faults import Blame, Fault, Gate

T = TypeVar("T")
LOOK_SECONDS_MAX = 10.0  # no look at how much room there is takes long, unless it hangs
START_SECONDS_MAX = 10.0  # what an outbox that hangs may hold up the start
NOTE_BYTES_MAX = 1 << 20
SPARE_BYTES = 8 << 20  # of the state directory's disk: what the ledger may still need


class HouseDisk(Staging):
    """The Disk port: staging in the state directory, outboxes anywhere.

    Each outbox has threads of its own, so that one whose mount hangs holds up no other.
    """

    def __init__(
        self, staging: Path, files: Files | None = None, make_pool: Callable[[int], Executor] = disk_threads
    ) -> None:
        super().__init__(staging, files, make_pool)
        self._mounts: dict[Path, Mount | None] = {}
        self._outboxes: Outboxes | None = None
        self._ours: frozenset[Path] = frozenset()
        self.look_seconds = LOOK_SECONDS_MAX

    async def fill(self, ours: Outboxes, roots: Iterable[Path], others: Iterable[Path]) -> None:
        """Say which outboxes are ours to mark. others: folders that we only write reports to.

        Raises AnotherLedgers; an outbox that is not there now is looked at again when it is written to.
        """
        self._outboxes, self._ours = ours, frozenset(roots)
        # All at once: those that hang are waited for together.
        looks = [self._at_start(root, partial(ours.check, root)) for root in self._ours]
        for outcome in await asyncio.gather(*looks, return_exceptions=True):
            if outcome is not None:
                raise outcome
        rest = sorted(set(others) - self._ours)
        found = await asyncio.gather(*(self._at_start(root, partial(self._files.mount, root)) for root in rest))
        self._mounts |= zip(rest, found, strict=True)

    async def _at_start(self, root: Path, work: Callable[[], T]) -> T | None:
        """Its outcome, or None where the place is not there or hangs."""
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                return await self._run(Gate.OUTBOX, root, work)
        except AnotherLedgers:
            raise
        except (Fault, TimeoutError):
            return None

    def _check(self, root: Path) -> None:
        """Raise where what was mounted here went away: below it lies a folder that only looks like it."""
        if self._outboxes is not None and root in self._ours:
            self._outboxes.check(root)
            return
        before, now = self._mounts.get(root), self._files.mount(root)
        if before is None or now is None or before.identity == now.identity:
            return
        if len(bytes(now.point)) > len(bytes(before.point)):
            self._mounts[root] = now  # The mount came late.
            return
        raise Fault(
            f"{root} is no longer on {before.source}.",
            blame=Blame.HOUSE,
            gate=Gate.OUTBOX,
            remedy="Mount it again; its results wait meanwhile.",
        )

    async def ready(self, outbox: Path | None, bytes_: int) -> None:
        """Return where staging (None) or an outbox takes files and has room for so many bytes."""
        root, spare, gate = (self._staging, SPARE_BYTES, Gate.STAGING) if outbox is None else (outbox, 0, Gate.OUTBOX)

        def work() -> int:
            if outbox is not None:
                self._check(outbox)
            return self._files.room(root)

        room = await self._run(gate, root, work, self.look_seconds)
        if room < bytes_ + spare:
            raise Fault(
                f"The disk of {shown(root)} has {room >> 20} MiB of room; the results on their way need some "
                f"{mebibytes(bytes_ + spare)} MiB.",
                blame=Blame.HOUSE,
                gate=gate,
                remedy="Make room; esrgand goes on by itself, and pays for nothing meanwhile.",
            )

    async def tidy(self, places: Iterable[tuple[bytes, bytes]]) -> None:
        """Remove what a crash left on its way to these names: outboxes, and paths in them.

        An outbox of ours that is not there now is tidied at another start.
        """
        files, by_root = self._files, {root: list[bytes]() for root in self._ours}
        for outbox, path in places:
            if (root := Path(os.fsdecode(outbox))) in by_root:
                by_root[root] += [outbox + b"/" + name for name in (path, names.sidecar_of(path))]

        def work(root: Path, finals: Iterable[bytes]) -> None:
            self._check(root)
            for final in finals:
                with contextlib.suppress(NotADirectoryError):
                    files.clear_beside(final)

        await asyncio.gather(
            *(self._at_start(root, partial(work, root, all_)) for root, all_ in by_root.items() if all_)
        )

    async def recall(self, path: Path, sha256: str, target: Path) -> bool:
        """Copy an earlier result into staging; False where it is not there any more, or not what it was."""
        root = next((root for root in self._ours if path.is_relative_to(root)), None)
        files = self._files

        def work() -> bool:
            if root is not None:
                self._check(root)
            try:
                if files.digest_of(path)[0] != sha256:
                    return False
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return False
            with files.open(target, "wb") as file:
                try:
                    return files.copy_synced(path, file)[0] == sha256
                except OSError as error:
                    if error.errno in FULL:
                        raise fault_from(error, self._staging, Gate.STAGING) from error
                    raise

        try:
            # One set of threads for all that lies in outboxes of former configurations.
            return await self._run(Gate.OUTBOX, root or Path(path.anchor), work, self.look_seconds)
        except Fault as fault:
            if fault.gate is Gate.STAGING:
                raise
            # Without a gate: it may be another folder's outbox.
            raise Fault(
                f"The outbox {shown(root or path.parent)}, where this content's result lies, is away.",
                blame=Blame.HOUSE,
                remedy="Mount it again; esrgand goes on by itself.",
            ) from fault

    async def place(
        self, source: Path, outbox: Path, path: bytes, ours: str | None, mtime_ns: int | None = None
    ) -> tuple[str, int] | None:
        """Put a result into the outbox."""
        final = os.fsencode(outbox) + b"/" + path
        files = self._files

        def work() -> tuple[str, int] | None:
            self._make_way(outbox, final)
            there = files.kind(final)
            if there is not None:
                digest = files.digest_of(source)
                old = files.digest_of(final)[0] if there == "file" else ""
                if old == digest[0]:
                    # Something came between the name and the record; perhaps even before its folder was synced.
                    files.clear_beside(final)
                    with files.open(final, "rb") as file:
                        files.sync(file)
                    files.sync_folder(final.rpartition(b"/")[0])
                    return digest
                if old != ours:
                    return None
            with files.temporary_beside(final) as (file, temporary):
                copied = files.copy_synced(source, file)
                if mtime_ns is not None:
                    files.date(file, mtime_ns)
                return copied if files.publish(file, temporary, final, replace=there is not None) else None

        return await self._run(Gate.OUTBOX, outbox, work)

    async def note(self, outbox: Path, path: bytes, text: bytes) -> None:
        """Put a sidecar or a report into the outbox."""
        final = os.fsencode(outbox) + b"/" + path

        def work() -> None:
            self._make_way(outbox, final)
            self._files.write(final, text, replace=True)

        await self._run(Gate.OUTBOX, outbox, work)

    def _make_way(self, outbox: Path, final: bytes) -> None:
        """The folders above a name in an outbox, where the outbox is there and ours."""
        self._check(outbox)
        try:
            self._files.make_folders(final.rpartition(b"/")[0], os.fsencode(outbox))
        except NotADirectoryError as error:
            # One picture's trouble, and nobody else has to wait for that.
            raise Fault(
                f"There is a file where the outbox {shown(outbox)} needs a folder for {names.shown(final)}.",
                blame=Blame.HOUSE,
                remedy="Move that file away; esrgand goes on by itself.",
            ) from error

    async def is_foreign(self, outbox: Path, path: bytes, inbox: str | None = None) -> bool:
        """Whether something that is neither a sidecar nor a report of ours (of that inbox) has that name."""

        def work() -> bool:
            final = os.fsencode(outbox) + b"/" + path
            kind = self._files.kind(final)
            if kind != "file":
                return kind is not None
            with self._files.open(final, "rb") as file:
                text = file.read(NOTE_BYTES_MAX)
            ours = b'"schema":"esrgand/' in text[:200].replace(b" ", b"")
            return not ours or (inbox is not None and _inbox_of(text) != inbox)

        return await self._run(Gate.OUTBOX, outbox, work)

    async def discard(self, outbox: Path, path: bytes) -> None:
        """Remove a sidecar or a report of ours, for good: what comes to stand beside it must not find it again.

        What a crash left on its way there goes with it.
        """
        final = os.fsencode(outbox) + b"/" + path

        def work() -> None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._files.unlink(final)
            with contextlib.suppress(OSError):  # It is in nobody's way.
                self._files.clear_beside(final)
            # Also where it was gone already: a try before this one may have failed here.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._files.sync_folder(final.rpartition(b"/")[0])

        await self._run(Gate.OUTBOX, outbox, work)


def _inbox_of(text: bytes) -> str | None:
    """Which inbox a sidecar or a report speaks of."""
    try:
        return str(json.loads(text)["source"]["inbox"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
