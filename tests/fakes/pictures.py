"""Pictures as plain bytes, for tests of what lies above the Pictures port; the rest is real."""

import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from daemon.adapters import keepsake as keepsakes
from daemon.adapters.picture import VipsPictures
from daemon.rules.tiles import Rect
from daemon.rules.traits import Finish, Measured, Piece, Prepared


class AnyPictures(VipsPictures):
    """The Pictures port: what is uploaded is the source, byte for byte, and every result looks like it."""

    async def prepare(self, source: Path, piece: Piece, payload: Path, keepsake: Path | None) -> Prepared:
        shutil.copyfile(source, payload)
        if keepsake is not None:
            keepsakes.write(keepsake, keepsakes.Keepsake())
        return Prepared("PNG", payload.stat().st_size, "")

    async def finish(
        self, parts: Sequence[tuple[Path, Rect]], keepsake: Path | None, finish: Finish, target: Path
    ) -> tuple[bool, list[str]]:
        if len(parts) == 1 and finish.format == "PNG":
            return False, []
        return await super().finish(parts, keepsake, finish, target)

    async def measure(self, path: Path, pixels_max: int, likeness: str = "") -> Measured:
        return await super().measure(path, pixels_max)


class FakePictures(AnyPictures):
    """The Pictures port. on_prepare: is awaited inside each cut."""

    def __init__(self) -> None:
        super().__init__()
        self.on_prepare: Callable[[Piece], Awaitable[None]] | None = None
        self.finishes: list[Finish] = []

    async def prepare(self, source: Path, piece: Piece, payload: Path, keepsake: Path | None) -> Prepared:
        if self.on_prepare is not None:
            await self.on_prepare(piece)
        part = b"%d,%d of " % (piece.rect.left, piece.rect.top) + source.read_bytes()
        payload.write_bytes(part)
        if keepsake is not None:
            keepsake.write_bytes(b"kept")
        return Prepared("PNG", len(part), "grey")

    async def finish(
        self, parts: Sequence[tuple[Path, Rect]], keepsake: Path | None, finish: Finish, target: Path
    ) -> tuple[bool, list[str]]:
        if len(parts) == 1 and keepsake is None:
            return False, []  # The result of an earlier copy.
        self.finishes.append(finish)
        found = [b"%d,%d=%s" % (rect.left, rect.top, path.read_bytes()) for path, rect in parts]
        target.write_bytes(b"+".join(found + ([keepsake.read_bytes()] if keepsake is not None else [])))
        return True, ["It was joined."]
