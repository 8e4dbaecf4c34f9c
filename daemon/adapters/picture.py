"""
Picture: decoding with libvips, in a small thread pool of its own.

One sequential pass that stops at the first warning tells a whole picture from a truncated or damaged one, in little
memory; what no decoder takes line by line is held to a limit. What libvips raises becomes a sign (a source may still be
on its way) or NotAPicture (a result must be whole).
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeVar

from daemon.adapters import chunks, colours
from daemon.adapters.disk_faults import in_staging
from daemon.adapters.finish import finish as finished
from daemon.adapters.likeness import look
from daemon.adapters.payload import prepare
from daemon.adapters.pixels import format_of, opened, traits_of, upright_size, vips
from daemon.ports_pictures import Aside, Reading
from daemon.rules import resemblance
from daemon.rules.admission import PIXELS_MAX
from daemon.rules.faults import Blame, Fault, NotAPicture
from daemon.rules.job import Content
from daemon.rules.settling import Sign
from daemon.rules.tiles import Rect
from daemon.rules.traits import Finish, Measured, Piece, Prepared

T = TypeVar("T")
TAIL_BYTES = 4096
SEEN_MAX = 1000  # pictures that wait for their upload; each takes less than a kilobyte
PNG_END = b"IEND\xaeB`\x82"
HASH_BYTES = 1 << 20
# Interlaced PNG, progressive JPEG and WebP are decoded whole: 89 megapixels of a camera's JPEG, 48 of WebP. A service
# has no reason to interlace; 48 megapixels that were took 171 MiB.
HELD_BYTES_MAX, HELD_RESULT_BYTES_MAX = 256 << 20, 128 << 20


class Seen:
    """How the sources that were decoded last look, by their sha256, so that an upload need not decode them again."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._looks: dict[str, str] = {}

    def note(self, sha256: str, likeness: str) -> None:
        """Remember one, and forget the oldest."""
        with self._lock:
            self._looks[sha256] = likeness
            while len(self._looks) > SEEN_MAX:
                del self._looks[next(iter(self._looks))]

    def recall(self, sha256: str) -> str:
        """The likeness, or "" where it is forgotten."""
        with self._lock:
            return self._looks.get(sha256, "")


class VipsPictures:
    """The Pictures port."""

    def __init__(self, threads: int = 2, pixels_max: int = PIXELS_MAX) -> None:
        """pixels_max: sources above this are not decoded, whatever they are; their header is enough to refuse them."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="picture")
        self._pixels_max = pixels_max
        self._seen = Seen()

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def read(self, source: BinaryIO, aside: Aside | None = None) -> Reading:
        """Hash and decode a source."""
        if aside is not None:
            return await aside(lambda: self._read(source))
        return await self._run(self._read, source)

    def _read(self, source: BinaryIO) -> Reading:
        libvips = vips()
        try:
            digest, size, head, tail = _hashed(source)
            animated, held, told = _peeked(source)
        except OSError as error:
            raise Fault(f"The file cannot be read: {error.strerror}.", blame=Blame.HOUSE) from error
        empty = Content(digest, size, 0, 0, "")
        try:
            image = libvips.Image.new_from_source(
                libvips.Source.new_from_descriptor(source.fileno()), "", access="sequential", fail_on="warning"
            )
            format_ = format_of(image)
            if not format_:
                kind = str(image.get("vips-loader")).split("load")[0].upper()
                return Reading(empty, Sign.HARD, f"It is a {kind} file; only JPEG, PNG and WebP can be sent.")
            if animated or (image.get_typeof("n-pages") and image.get("n-pages") > 1):
                return Reading(empty, Sign.HARD, "It is an animation; only still pictures can be sent.")
            traits = traits_of(colours.with_profile(image, told))
            content = Content(digest, size, *upright_size(image.width, image.height, traits.orientation), format_)
            if content.pixels <= self._pixels_max:
                if held * content.pixels > HELD_BYTES_MAX:
                    return Reading(empty, Sign.HARD, "It is too large to be decoded in the way in which it was saved.")
                self._seen.note(digest, resemblance.as_text(look(image)))
        except libvips.Error:
            # libvips' own words are shared by its threads: they may be about another picture.
            return Reading(empty, Sign.HARD, "It does not decode: it is damaged, cut short, or no picture at all.")
        soft = _soft_sign(format_, size, head, tail)
        return Reading(content, Sign.SOFT, soft, traits) if soft else Reading(content, traits=traits)

    async def prepare(self, source: Path, piece: Piece, payload: Path, keepsake: Path | None) -> Prepared:
        """Make what is uploaded, and keep what the result gets back."""
        return await self._run(prepare, source, piece, payload, keepsake, self._seen.recall(piece.content))

    async def measure(self, path: Path, pixels_max: int, likeness: str = "") -> Measured:
        """Look at a whole picture."""
        return await self._run(self._measure, path, pixels_max, likeness)

    def _measure(self, path: Path, pixels_max: int, likeness: str) -> Measured:
        libvips = vips()
        try:
            image = opened(path)
            if image.width * image.height > pixels_max:
                raise NotAPicture(
                    f"The result has {image.width} x {image.height} pixels, far more than were asked for."
                )
            with path.open("rb") as file:
                if chunks.held_bytes(file) * image.width * image.height > HELD_RESULT_BYTES_MAX:
                    raise NotAPicture("The result is interlaced, and too large to be decoded in that way.")
            source = resemblance.from_text(likeness)
            found = look(image) if source is not None else None
            if found is None:
                _decode(image)
            format_ = format_of(image)
            # All its pixels may be there, and others still call it damaged.
            ended = format_ != "PNG" or PNG_END in _tail(path)
        except libvips.Error:
            try:
                path.open("rb").close()  # That it cannot even be opened says nothing of what is in it.
            except FileNotFoundError:
                pass
            except OSError as error:
                raise _unreadable(error) from error
            raise NotAPicture("The result does not decode: it is damaged, cut short, or no picture at all.") from None
        except OSError as error:
            raise _unreadable(error) from error
        if not ended:
            raise NotAPicture("The result is cut short: it has no end.")
        if source is not None and found is not None:
            resemblance.compare(source, found)
        traits = traits_of(image)
        return Measured(image.width, image.height, format_, traits.bands, traits.alpha, traits.depth)

    async def finish(
        self, parts: Sequence[tuple[Path, Rect]], keepsake: Path | None, finish: Finish, target: Path
    ) -> tuple[bool, list[str]]:
        """Make the outbox's file."""
        return await self._run(finished, parts, keepsake, finish, target)


def _unreadable(error: OSError) -> Fault:
    return in_staging(f"A staged result cannot be read ({error.strerror}).")


def _tail(path: Path) -> bytes:
    """The last bytes of a file."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read()


def _decode(image: Any) -> None:
    """Pull every pixel through, and keep none."""
    image.avg()


def _peeked(source: BinaryIO) -> tuple[bool, float, colours.Said]:
    """Whether it is an animated PNG, its `held_bytes`, and what it says of its colours.

    Then the descriptor stands at the beginning again.
    """
    with os.fdopen(source.fileno(), "rb", closefd=False) as file:
        found = chunks.is_animated_png(file), chunks.held_bytes(file), colours.said(file)
    os.lseek(source.fileno(), 0, os.SEEK_SET)
    return found


def _hashed(source: BinaryIO) -> tuple[str, int, bytes, bytes]:
    """sha256, size, the first and the last bytes of a file."""
    digest = hashlib.sha256()
    size = 0
    head = tail = b""
    source.seek(0)
    while chunk := source.read(HASH_BYTES):
        digest.update(chunk)
        size += len(chunk)
        head = head or chunk[:12]
        tail = (tail + chunk)[-TAIL_BYTES:]
    os.lseek(source.fileno(), 0, os.SEEK_SET)
    return digest.hexdigest(), size, head, tail


def _soft_sign(format_: str, size: int, head: bytes, tail: bytes) -> str:
    """Why a picture that decodes may still not be complete, as a sentence, or ""."""
    if size >= TAIL_BYTES and not tail.strip(b"\0"):
        return "It decodes, but ends in zeros, as a file does that is still being copied."
    ended = {
        "JPEG": tail.endswith(b"\xff\xd9"),
        "PNG": tail[-8:-4] == b"IEND",
        "WEBP": int.from_bytes(head[4:8], "little") + 8 == size,
    }[format_]
    return "" if ended else f"It decodes, but does not end as a {format_} file ends."
