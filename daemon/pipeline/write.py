"""
Write: result and sidecar into the outbox, or the report of a failure; then the source, as the folder says.

The order is the promise: result, folder, sidecar, folder, and only then the source is touched and the ledger told. Each
part may be repeated after a crash. The results of a picture that was cut are joined in staging first. Fails as HOUSE
(disk full, outbox gone), ResultLost (a copy's result is nowhere), Unstaged (staging lost it, or a part of it).
"""

import contextlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.ports import Clock, Disk, Inbox
from daemon.ports_ledger import Deliveries, Ledger
from daemon.ports_pictures import Pictures
from daemon.rules import names, sidecar
from daemon.rules.faults import Blame, Changed, Fault
from daemon.rules.job import Picture, Tile, Whole
from daemon.rules.lifecycle import State
from daemon.rules.sidecar import ResultFacts
from daemon.rules.tiles import Rect, scaled
from daemon.rules.traits import NOT_KEPT, Finish, Traits

if TYPE_CHECKING:
    from daemon.config_model import FolderConfig

NAMES_MAX = 1000
CMYK_BANDS = 4
CONVERTED = "The picture's CMYK colours were converted to sRGB."
FACES = "The picture was cut: a face that lies in two of its parts was redrawn in each by itself."
LARGE_ENOUGH = "The picture is as large as skip_above asks for: this is a copy of it as it is, and nothing was paid."


class Unstaged(Fault):
    """The staged results of these tiles are not what was fetched."""

    def __init__(self, tiles: Sequence[Tile]) -> None:
        self.tiles = tiles
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

    async def deliver(self, picture: Picture, whole: Whole, folder: "FolderConfig", inbox: Inbox) -> bool:
        """Write result and sidecar. Returns whether the job waits for nobody any more."""
        reused = await self._deliveries.is_reuse(picture)
        format_, warnings = _format(whole, folder)
        recalled, made = (
            self.disk.staged(whole.tiles[0]).with_suffix(f".{picture.id}.{name}") for name in ("recalled", "made")
        )
        if whole.job.recipe.is_unchanged:
            source = made
            await self._original(picture, whole, inbox, made)
        else:
            source, more = await self._source(whole, format_, folder, recalled, made)
            warnings = [*self.warnings, *warnings, *more]
        result = await self._place(picture, whole, folder, source, format_)
        times = await self._deliveries.times(whole.job.id)
        # An id that was found in the history counts like one that was answered; both may be pruned.
        if answered := [times[name] for name in ("submitted", "found") if name in times]:
            times["submitted"] = max(answered)
        written = self.clock.wall()
        text = sidecar.sidecar(
            picture,
            whole,
            inbox=bytes(folder.inbox),
            result=result,
            bills=await self.ledger.books.bills(whole.job.id),
            api=self.api,
            reused=reused,
            times=times | {"detected": picture.detected_at, "written": written},
            warnings=[*whole.job.note.splitlines(), *warnings],
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
            picture, whole, result, written, reused=reused, taken=folder.after != "keep"
        )
        # Delivered is delivered: what cannot be cleared away now is cleared away by the next start.
        with contextlib.suppress(Fault):
            await self.disk.remove(recalled)
            await self.disk.remove(made)
            if finished:
                await self.disk.clear(whole)
        return finished

    async def _original(self, picture: Picture, whole: Whole, inbox: Inbox, copy: Path) -> None:
        """Copy a picture that is its own result. Raises Vanished or Changed where it is not there any more."""
        async with inbox.copy(picture.path, picture.look) as (file, sha256):
            if sha256 != whole.job.content.sha256:
                raise Changed("The picture changed without a trace in its date.")
            await self.disk.take(file, copy)

    async def _source(
        self, whole: Whole, format_: str, folder: "FolderConfig", recalled: Path, made: Path
    ) -> tuple[Path, list[str]]:
        """Where the outbox's file is in staging, and what there is to say of it: made of the parts, or of what an
        earlier copy got."""
        lost = [tile for tile in whole.tiles if not await self.disk.is_staged(tile)]
        size, scale = whole.result_size, whole.job.recipe.scale
        if not lost:
            parts = [(self.disk.staged(tile), scaled(tile.rect, scale, size)) for tile in whole.tiles]
            kept = await self.disk.kept(whole.tiles[0])
            source, warnings = await self._finish(whole, format_, folder, parts, kept, made)
            return source, [*([NOT_KEPT] if kept is None else []), *warnings]
        if whole.state is not State.DONE:
            raise Unstaged(lost)
        for copy in await self._deliveries.copies(whole.job.id):
            if copy.outbox is None or copy.result_path is None or copy.result_sha256 is None:
                continue
            copy_format = names.FORMATS[copy.result_path.rpartition(b".")[2]]
            path = Path(os.fsdecode(copy.outbox + b"/" + copy.result_path))
            if copy_format in (format_, "PNG") and await self.disk.recall(path, copy.result_sha256, recalled):
                return await self._finish(whole, format_, folder, [(recalled, Rect(0, 0, *size))], None, made)
        raise ResultLost

    async def _finish(
        self,
        whole: Whole,
        format_: str,
        folder: "FolderConfig",
        parts: list[tuple[Path, Rect]],
        kept: Path | None,
        target: Path,
    ) -> tuple[Path, list[str]]:
        """Where the outbox's file is, and what there is to say of it."""
        size = whole.result_size
        traits = whole.job.traits or await self._traits_of(parts[0][0], size)
        finish = Finish(size, format_, folder.quality, traits, folder.strip_gps)
        written, warnings = await self.pictures.finish(parts, kept, finish, target)
        said = [CONVERTED] if traits.bands == CMYK_BANDS else []
        said += [FACES] if whole.job.recipe.face_enhance and len(whole.tiles) > 1 else []
        return target if written else parts[0][0], [*said, *warnings]

    async def _traits_of(self, part: Path, size: tuple[int, int]) -> Traits:
        """Where nobody looked at the source: what the service made of it stays as it is."""
        found = await self.pictures.measure(part, size[0] * size[1])
        return Traits(bands=found.bands, alpha=found.alpha, depth=found.depth)

    async def _place(
        self, picture: Picture, whole: Whole, folder: "FolderConfig", source: Path, format_: str
    ) -> ResultFacts:
        """Find a name that is free or ours, and put the result there."""
        outbox = bytes(folder.outbox)
        suffix = names.RESULT_SUFFIXES[format_]
        candidates = names.result_candidates(picture.path, folder.name, whole.job.recipe, suffix)
        for path in itertools.islice(candidates, NAMES_MAX):
            if await self.disk.is_foreign(folder.outbox, names.sidecar_of(path)):
                continue
            if not await self._deliveries.claim(picture, outbox, path):
                continue
            ours = picture.result_sha256 if (picture.outbox, picture.result_path) == (outbox, path) else None
            if ours is not None:
                # What stands there is about to change: the old sidecar must not vouch for it.
                await self.disk.discard(folder.outbox, names.sidecar_of(path))
            dated = picture.look.mtime_ns if folder.keep_mtime else None
            placed = await self.disk.place(source, folder.outbox, path, ours, dated)
            if placed is not None:
                return ResultFacts(path, *placed, *whole.result_size, format_)
        raise no_free_name(folder.outbox, picture)

    async def report(self, picture: Picture, whole: Whole, folder: "FolderConfig", inbox: Inbox) -> None:
        """Write the report of a failed picture beside where its result would be, or beside the moved picture."""
        report = sidecar.error_report(
            picture,
            whole,
            inbox=bytes(folder.inbox),
            bill=await self.ledger.books.bill(whole.job.id),
            failed_at=whole.standing.since,
            version=self.version,
        )
        place = report_place(folder)
        await self.disk.note(place, await self._report_name(picture, place, folder), as_text(report))
        if folder.failed is not None and place == folder.failed:
            await inbox.archive(picture.path, picture.look, folder.failed)
        taken = place == folder.failed
        await self._deliveries.reported(picture, whole, self.clock.wall(), taken=taken)

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


def _format(whole: Whole, folder: "FolderConfig") -> tuple[str, list[str]]:
    """The result's format, and what the sidecar has to say about it."""
    if whole.job.recipe.is_unchanged:
        return whole.job.content.format, [LARGE_ENOUGH]
    wanted = whole.job.content.format if folder.format == "source" else folder.format.upper()
    width, height = whole.result_size
    if max(width, height) > names.SIDES_MAX[wanted] or (wanted == "WEBP" and width * height > names.WEBP_PIXELS_MAX):
        return "PNG", [f"The result is a PNG: it is too large for a {wanted}."]
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
