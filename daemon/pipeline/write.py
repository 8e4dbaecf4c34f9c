"""
Write: result and sidecar into the outbox, or the report of a failure; then the source, as the folder says.

The order is the promise: result, folder, sidecar, folder, and only then the source is touched and the ledger told. Each
part may be repeated after a crash. Fails as HOUSE (disk full, outbox gone), ResultLost (a copy's result is nowhere),
Unstaged (staging lost it).
"""

import contextlib
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.ports import Clock, Disk, Inbox, Pictures
from daemon.ports_ledger import Deliveries, Ledger
from daemon.rules import names, sidecar
from daemon.rules.faults import Blame, Fault
from daemon.rules.job import Picture, Tile
from daemon.rules.lifecycle import State
from daemon.rules.sidecar import ResultFacts

if TYPE_CHECKING:
    from daemon.config_model import FolderConfig

NAMES_MAX = 1000


class Unstaged(Fault):
    """The staged result is not what was fetched."""

    def __init__(self) -> None:
        super().__init__("The staged result is gone or damaged; it is fetched again.", blame=Blame.HOUSE)


class ResultLost(Fault):
    """The result of an earlier picture with this content is in no outbox any more."""

    def __init__(self) -> None:
        super().__init__("The earlier result of this content is no longer in its outbox.", blame=Blame.HOUSE)


@dataclass(frozen=True, slots=True)
class Writer:
    """api: the base URL, for the sidecar. version: ours. warnings: what every sidecar has to say."""

    ledger: Ledger
    disk: Disk
    pictures: Pictures
    clock: Clock
    api: str
    version: str
    warnings: tuple[str, ...] = ()

    @property
    def _deliveries(self) -> Deliveries:
        return self.ledger.deliveries

    async def deliver(self, picture: Picture, tile: Tile, folder: "FolderConfig", inbox: Inbox) -> bool:
        """Write result and sidecar. Returns whether the job waits for nobody any more."""
        reused = await self._deliveries.is_reuse(picture)
        format_, warnings = _format(tile, folder)
        recalled, converted = (
            self.disk.staged(tile).with_suffix(f".{picture.id}.{name}") for name in ("recalled", "converted")
        )
        source, source_format = await self._source(tile, format_, recalled)
        if format_ != source_format:
            await self.pictures.convert(source, converted, format_, folder.quality)
            source = converted
        result = await self._place(picture, tile, folder, source, format_)
        times = await self._deliveries.times(tile.job.id)
        # An id that was found in the history counts like one that was answered; both may be pruned.
        if answered := [times[name] for name in ("submitted", "found") if name in times]:
            times["submitted"] = max(answered)
        written = self.clock.wall()
        text = sidecar.sidecar(
            picture,
            tile,
            inbox=bytes(folder.inbox),
            result=result,
            bill=await self.ledger.books.bill(tile.job.id),
            api=self.api,
            reused=reused,
            times=times | {"detected": picture.detected_at, "written": written},
            warnings=[*self.warnings, *warnings],
            version=self.version,
        )
        await self.disk.note(folder.outbox, names.sidecar_of(result.path), as_text(text))
        await self._discard_report(picture, folder)
        if folder.after == "archive":
            assert folder.archive is not None
            await inbox.archive(picture.path, picture.look, folder.archive)
        elif folder.after == "delete":
            await inbox.delete(picture.path, picture.look)
        finished = await self._deliveries.delivered(
            picture, tile, result, written, reused=reused, taken=folder.after != "keep"
        )
        # Delivered is delivered: what cannot be cleared away now is cleared away by the next start.
        with contextlib.suppress(Fault):
            await self.disk.remove(recalled)
            await self.disk.remove(converted)
            if finished:
                await self.disk.remove(self.disk.staged(tile))
        return finished

    async def _source(self, tile: Tile, format_: str, recalled: Path) -> tuple[Path, str]:
        """Where the result's bytes are in staging, and their format; recalled from an earlier copy where need be."""
        if await self.disk.is_staged(tile):
            return self.disk.staged(tile), "PNG"
        if tile.state is not State.DONE:
            raise Unstaged
        for copy in await self._deliveries.copies(tile.job.id):
            if copy.outbox is None or copy.result_path is None or copy.result_sha256 is None:
                continue
            copy_format = names.FORMATS[copy.result_path.rpartition(b".")[2]]
            path = Path(os.fsdecode(copy.outbox + b"/" + copy.result_path))
            if copy_format in (format_, "PNG") and await self.disk.recall(path, copy.result_sha256, recalled):
                return recalled, copy_format
        raise ResultLost

    async def _place(
        self, picture: Picture, tile: Tile, folder: "FolderConfig", source: Path, format_: str
    ) -> ResultFacts:
        """Find a name that is free or ours, and put the result there."""
        outbox = bytes(folder.outbox)
        suffix = names.RESULT_SUFFIXES[format_]
        candidates = names.result_candidates(picture.path, folder.name, tile.job.recipe, suffix)
        for path in itertools.islice(candidates, NAMES_MAX):
            if await self.disk.is_foreign(folder.outbox, names.sidecar_of(path)):
                continue
            if not await self._deliveries.claim(picture, outbox, path):
                continue
            ours = picture.result_sha256 if (picture.outbox, picture.result_path) == (outbox, path) else None
            if ours is not None:
                # What stands there is about to change: the old sidecar must not vouch for it.
                await self.disk.discard(folder.outbox, names.sidecar_of(path))
            placed = await self.disk.place(source, folder.outbox, path, ours)
            if placed is not None:
                assert tile.result_width is not None
                assert tile.result_height is not None
                return ResultFacts(path, *placed, tile.result_width, tile.result_height, format_)
        raise no_free_name(folder.outbox, picture)

    async def report(self, picture: Picture, tile: Tile, folder: "FolderConfig", inbox: Inbox) -> None:
        """Write the report of a failed picture beside where its result would be, or beside the moved picture."""
        report = sidecar.error_report(
            picture,
            tile,
            inbox=bytes(folder.inbox),
            bill=await self.ledger.books.bill(tile.job.id),
            failed_at=tile.since,
            version=self.version,
        )
        place = report_place(folder)
        await self.disk.note(place, await self._report_name(picture, place, folder), as_text(report))
        if folder.failed is not None and place == folder.failed:
            await inbox.archive(picture.path, picture.look, folder.failed)
        taken = place == folder.failed
        await self._deliveries.reported(picture, tile, self.clock.wall(), taken=taken)

    async def _report_name(self, picture: Picture, place: Path, folder: "FolderConfig") -> bytes:
        """The name of its report: its own, or one that is free.

        Folders may share an outbox, and each has pictures of its own under the same names.
        """
        inbox = names.text_of(bytes(folder.inbox))
        for count in range(1, NAMES_MAX):
            name = names.report_of(picture.path + (b"~%d" % count if count > 1 else b""))
            if not await self.disk.is_foreign(place, name, inbox):
                return name
        raise no_free_name(place, picture)

    async def _discard_report(self, picture: Picture, folder: "FolderConfig") -> None:
        """A picture that succeeds takes its report away."""
        place = report_place(folder)
        await self.disk.discard(place, await self._report_name(picture, place, folder))


def _format(tile: Tile, folder: "FolderConfig") -> tuple[str, list[str]]:
    """The result's format, and what the sidecar has to say about it."""
    wanted = tile.job.content.format if folder.format == "source" else folder.format.upper()
    assert tile.result_width is not None
    assert tile.result_height is not None
    if max(tile.result_width, tile.result_height) > names.SIDES_MAX[wanted]:
        return "PNG", [f"The result is a PNG: no {wanted} can be as large as it is."]
    return wanted, []


def no_free_name(outbox: Path, picture: Picture) -> Fault:
    """What stands in an outbox under all the names that a picture's result, or report, may have."""
    return Fault(
        f"{outbox} has no free name left for {names.shown(picture.path)}.",
        blame=Blame.HOUSE,
        remedy="Clear out what has that name; esrgand goes on by itself.",
    )


def report_place(folder: "FolderConfig") -> Path:
    """The folder that reports go to."""
    return folder.failed if folder.after_failure == "move" and folder.failed is not None else folder.outbox


def as_text(value: dict[str, object]) -> bytes:
    """Two-space JSON with a line end, as people and diff tools like it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
