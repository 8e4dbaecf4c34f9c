"""
Port of pictures: what the inside asks of a decoder.

Every method either does what it says or raises `Fault`. Large pictures go through in little memory, and nothing that
is not named here is kept of them.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from daemon.rules.job import Content
from daemon.rules.settling import Sign
from daemon.rules.tiles import Rect
from daemon.rules.traits import Finish, Measured, Piece, Prepared, Traits


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file holds. sign: why it may not be complete, or None; reason: the same as a sentence.

    The content's width and height are the upright picture's. With a hard sign it has no format and no size.
    """

    content: Content
    sign: Sign | None = None
    reason: str = ""
    traits: Traits = field(default_factory=Traits)


Aside = Callable[[Callable[[], Reading]], Awaitable[Reading]]


class Pictures(Protocol):
    """Decoding; every answer comes from one sequential pass over the whole file."""

    async def read(self, source: BinaryIO, aside: "Aside | None" = None) -> Reading:
        """Hash and decode a source. Raises Fault (HOUSE) only where it cannot be read at all.

        aside: an inbox's, to run in the inbox's own threads, which may hang as it does.
        """

    async def prepare(self, source: Path, piece: Piece, payload: Path, keepsake: Path | None) -> Prepared:
        """Write what is to be uploaded of a source, and what `finish` needs although the source may be gone by then.

        payload: gets the piece of the upright picture, without metadata, never worse than the source. keepsake: gets
        the metadata of the whole picture, or None where another piece's has it. Raises NotAPicture where the source
        does not decode, Fault (HOUSE) where the files cannot be written.
        """

    async def measure(self, path: Path, pixels_max: int, likeness: str = "") -> Measured:
        """Look at a result that must decode whole; raises NotAPicture where it does not, and, before decoding it,
        where it has more than `pixels_max` pixels.

        likeness: of the payload that it was made from; raises Unlike where the result does not look like it.
        """

    async def finish(
        self, parts: Sequence[tuple[Path, Rect]], keepsake: Path | None, finish: Finish, target: Path
    ) -> tuple[bool, list[str]]:
        """Make the outbox's file from the results of a picture's pieces; returns whether there was anything to do,
        and what has to be said about it, as sentences.

        parts: row by row, each with where it belongs in the whole result. Where the one part is already all that is
        wanted, no target is written. keepsake: None where the one part has all its metadata itself. Raises Fault
        (HOUSE).
        """
