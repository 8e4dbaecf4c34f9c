"""
Picture: decoding with libvips, in a small thread pool of its own.

One sequential pass that stops at the first warning tells a whole picture from a truncated or damaged one, in little
memory. What libvips raises becomes a sign (a source may still be on its way) or NotAPicture (a result must be whole).
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from daemon.ports import Aside, Reading
from daemon.rules.faults import Blame, Fault, Gate, NotAPicture, Outlook
from daemon.rules.job import Content
from daemon.rules.settling import Sign
from daemon.rules.tiles import Rect
from daemon.rules.traits import Finish, Piece, Prepared

if TYPE_CHECKING:
    import pyvips

T = TypeVar("T")
FORMATS = {"jpegload": "JPEG", "pngload": "PNG", "webpload": "WEBP"}
TAIL_BYTES = 4096
PNG_END = b"IEND\xaeB`\x82"
HASH_BYTES = 1 << 20


def _vips() -> Any:
    """libvips, set up for a long life: no cache by file name, only well-tested loaders, no threads of its own."""
    import pyvips

    # Its warnings do not say which picture they are about, and a small file may cause them by the thousand.
    pyvips.logger.setLevel("CRITICAL")
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)
    pyvips.block_untrusted_set(True)
    return pyvips


class VipsPictures:
    """The Pictures port."""

    def __init__(self, threads: int = 2, pixels_max: int = 1_000_000_000) -> None:
        """pixels_max: sources above this are not decoded, whatever they are; their header is enough to refuse them."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="picture")
        self._pixels_max = pixels_max

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
        vips = _vips()
        try:
            digest, size, head, tail = _hashed(source)
        except OSError as error:
            raise Fault(f"The file cannot be read: {error.strerror}.", blame=Blame.HOUSE) from error
        empty = Content(digest, size, 0, 0, "")
        try:
            image = vips.Image.new_from_source(
                vips.Source.new_from_descriptor(source.fileno()), "", access="sequential", fail_on="warning"
            )
            format_ = FORMATS.get(str(image.get("vips-loader")).removesuffix("_source"), "")
            if not format_:
                kind = str(image.get("vips-loader")).split("load")[0].upper()
                return Reading(empty, Sign.HARD, f"It is a {kind} file; only JPEG, PNG and WebP can be sent.")
            if image.get_typeof("n-pages") and image.get("n-pages") > 1:
                return Reading(empty, Sign.HARD, "It is an animation; only still pictures can be sent.")
            content = Content(digest, size, image.width, image.height, format_)
            if content.pixels <= self._pixels_max:
                _decode(image)
        except vips.Error:
            # libvips' own words are shared by its threads: they may be about another picture.
            return Reading(empty, Sign.HARD, "It does not decode: it is damaged, cut short, or no picture at all.")
        soft = _soft_sign(format_, size, head, tail)
        return Reading(content, Sign.SOFT, soft) if soft else Reading(content)

    async def measure(self, path: Path, pixels_max: int) -> tuple[int, int, str]:
        """Width, height and format of a whole picture."""
        return await self._run(self._measure, path, pixels_max)

    def _measure(self, path: Path, pixels_max: int) -> tuple[int, int, str]:
        vips = _vips()
        try:
            image = vips.Image.new_from_file(str(path), access="sequential", fail_on="warning")
            if image.width * image.height > pixels_max:
                raise NotAPicture(
                    f"The result has {image.width} x {image.height} pixels, far more than were asked for."
                )
            _decode(image)
        except vips.Error:
            try:
                path.open("rb").close()  # That it cannot even be opened says nothing of what is in it.
            except FileNotFoundError:
                pass
            except OSError as error:
                raise Fault(
                    f"A staged result cannot be read ({error.strerror}).",
                    blame=Blame.HOUSE,
                    gate=Gate.STAGING,
                    remedy="Look at the disk of the state directory, and at the limit of open files.",
                ) from error
            raise NotAPicture("The result does not decode: it is damaged, cut short, or no picture at all.") from None
        format_ = FORMATS.get(str(image.get("vips-loader")), "")
        if format_ == "PNG" and PNG_END not in _tail(path):
            # All its pixels may be there, and others still call it damaged.
            raise NotAPicture("The result is cut short: it has no end.")
        return image.width, image.height, format_

    async def convert(self, source: Path, target: Path, format_: str, quality: int) -> None:
        """Write a result in another format."""
        await self._run(self._convert, source, target, format_, quality)

    def _convert(self, source: Path, target: Path, format_: str, quality: int) -> None:
        vips = _vips()
        try:
            image = vips.Image.new_from_file(str(source), access="sequential", fail_on="warning")
            if format_ == "JPEG":
                flat = image.flatten(background=255) if image.hasalpha() else image
                flat.jpegsave(str(target), Q=quality)
            elif format_ == "WEBP":
                image.webpsave(str(target), Q=quality)
            else:
                image.pngsave(str(target))
        except vips.Error as error:
            raise Fault(
                f"The result could not be written as {format_} ({_first_line(error)}).", blame=Blame.HOUSE
            ) from None

    async def prepare(self, source: Path, piece: Piece, payload: Path, keepsake: Path | None) -> Prepared:
        """Cut a piece out of a source."""
        raise Fault("This version cannot cut pictures yet.", blame=Blame.PICTURE, outlook=Outlook.LASTING)

    async def finish(
        self, parts: Sequence[tuple[Path, Rect]], keepsake: Path | None, finish: Finish, target: Path
    ) -> tuple[bool, list[str]]:
        """Join the results of several tiles."""
        raise Fault("This version cannot join results yet.", blame=Blame.HOUSE)


def _tail(path: Path) -> bytes:
    """The last bytes of a file."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read()


def _decode(image: "pyvips.Image") -> None:
    """Pull every pixel through, and keep none."""
    image.avg()


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


def _first_line(error: Exception) -> str:
    """libvips' own words, on one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[-1].strip() if lines else "no reason given"
    return re.sub(r"[^\x20-\x7e]", "?", text)[:200]
