"""
EXIF: changed in place, so that makers' notes, whose offsets count from the beginning, stay readable.

An EXIF block is a small TIFF file: directories (IFDs) of entries that point at their values. What is taken out is
blanked. A block that is not built as it should be is None: it is dropped, and nobody guesses at it.
"""

import struct
from dataclasses import dataclass

HEAD = b"Exif\0\0"
IMAGE_WIDTH, IMAGE_HEIGHT, ORIENTATION, EXIF_IFD, GPS_IFD = 0x0100, 0x0101, 0x0112, 0x8769, 0x8825
STRIPS, STRIP_BYTES, THUMBNAIL, THUMBNAIL_BYTES = 0x0111, 0x0117, 0x0201, 0x0202
PIXEL_WIDTH, PIXEL_HEIGHT, INTEROP_IFD = 0xA002, 0xA003, 0xA005
SHORT, LONG = 3, 4
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
ENTRY = 12
IFDS_MAX = 8  # of a chain


class _Damaged(Exception):
    """It is not built as it should be."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """at: where it stands. place, length: of its value, which may be in the entry itself."""

    at: int
    tag: int
    type: int
    count: int
    place: int
    length: int


@dataclass(frozen=True, slots=True)
class _Ifd:
    """next: where the offset of the following directory stands."""

    at: int
    entries: tuple[_Entry, ...]
    next: int

    def entry(self, tag: int) -> _Entry | None:
        return next((entry for entry in self.entries if entry.tag == tag), None)

    def ranges(self) -> list[tuple[int, int]]:
        """What it takes up: itself, and the values that its entries point at."""
        return [(self.at, self.next + 4)] + [(entry.place, entry.place + entry.length) for entry in self.entries]


class _Tiff:
    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4], "")
        if not self.order:
            raise _Damaged

    def number(self, at: int, kind: str = "I") -> int:
        try:
            return int(struct.unpack_from(self.order + kind, self.data, at)[0])
        except struct.error:
            raise _Damaged from None

    def ifd(self, at: int) -> _Ifd:
        if at < 8:
            raise _Damaged
        count = self.number(at, "H")
        entries = tuple(self._entry(at + 2 + ENTRY * n) for n in range(count))
        ifd = _Ifd(at, entries, at + 2 + ENTRY * count)
        self.number(ifd.next)
        return ifd

    def _entry(self, at: int) -> _Entry:
        tag, type_, count = self.number(at, "H"), self.number(at + 2, "H"), self.number(at + 4)
        length = TYPE_BYTES.get(type_, 1) * count
        place = at + 8 if length <= 4 else self.number(at + 8)
        if place + length > len(self.data):
            raise _Damaged
        return _Entry(at, tag, type_, count, place, length)

    def sub(self, ifd: _Ifd, tag: int) -> _Ifd | None:
        entry = ifd.entry(tag)
        return self.ifd(self.number(entry.at + 8)) if entry is not None else None

    def values(self, entry: _Entry | None) -> list[int]:
        """The numbers of an entry of shorts or longs."""
        if entry is None or entry.type not in (SHORT, LONG):
            return []
        size = TYPE_BYTES[entry.type]
        kind = "H" if entry.type == SHORT else "I"
        return [self.number(entry.place + size * n, kind) for n in range(entry.count)]

    def set(self, entry: _Entry | None, type_: int, value: int) -> None:
        """Give an entry one number, where it is there."""
        if entry is not None:
            body = struct.pack(self.order + ("HII" if type_ == LONG else "HIH2x"), type_, 1, value)
            self.data[entry.at + 2 : entry.at + ENTRY] = body

    def remove(self, ifd: _Ifd, tag: int) -> None:
        entry = ifd.entry(tag)
        assert entry is not None
        end = ifd.next + 4
        self.data[entry.at : end] = self.data[entry.at + ENTRY : end] + bytes(ENTRY)
        struct.pack_into(self.order + "H", self.data, ifd.at, len(ifd.entries) - 1)


def cleaned(data: bytes, strip_gps: bool) -> bytes | None:
    """A block (without "Exif" in front) for the upright picture, without its thumbnail; None where it is damaged."""
    try:
        tiff = _Tiff(data)
        main = tiff.ifd(tiff.number(4))
        exif = tiff.sub(main, EXIF_IFD)
        kept = [main, *filter(None, [exif, tiff.sub(exif, INTEROP_IFD) if exif else None])]
        gps = [(ifd, sub) for ifd in kept if (sub := tiff.sub(ifd, GPS_IFD)) is not None]
        dropped = _thumbnails(tiff, main)
        if strip_gps:
            dropped += [range_ for _, sub in gps for range_ in sub.ranges()]
        else:
            kept += [sub for _, sub in gps]
        used = [range_ for ifd in kept for range_ in ifd.ranges()] + [(0, 8)]
        if any(begin < other_end and other < end for begin, end in dropped for other, other_end in used):
            return None
        tiff.set(main.entry(ORIENTATION), SHORT, 1)
        struct.pack_into("4x", tiff.data, main.next)
        for begin, end in dropped:
            tiff.data[begin:end] = bytes(end - begin)
        for ifd, _ in gps if strip_gps else []:
            tiff.remove(ifd, GPS_IFD)
        return _shortened(bytes(tiff.data), dropped, used)
    except _Damaged:
        return None


def _thumbnails(tiff: _Tiff, main: _Ifd) -> list[tuple[int, int]]:
    """What the directories behind the first take up, with the pictures that they describe."""
    found: list[tuple[int, int]] = []
    at = tiff.number(main.next)
    for _ in range(IFDS_MAX):
        if not at:
            return found
        ifd = tiff.ifd(at)
        found += ifd.ranges()
        for offsets, lengths in ((THUMBNAIL, THUMBNAIL_BYTES), (STRIPS, STRIP_BYTES)):
            pairs = zip(tiff.values(ifd.entry(offsets)), tiff.values(ifd.entry(lengths)), strict=False)
            found += [(begin, min(begin + length, len(tiff.data))) for begin, length in pairs if begin < len(tiff.data)]
        at = tiff.number(ifd.next)
    raise _Damaged


def _shortened(data: bytes, dropped: list[tuple[int, int]], used: list[tuple[int, int]]) -> bytes:
    """Without the blanks at the end."""
    end = len(data)
    for begin, behind in sorted(dropped, reverse=True):
        if behind + 1 >= end:  # A value may be followed by a byte that fills it up.
            end = min(end, begin)
    return data[: max([end, *(end for _, end in used)])]


def sized(data: bytes, width: int, height: int) -> bytes:
    """With the numbers of pixels, where it tells them; `data` comes from `cleaned`."""
    try:
        tiff = _Tiff(data)
        main = tiff.ifd(tiff.number(4))
        exif = tiff.sub(main, EXIF_IFD)
    except _Damaged:
        return data
    tiff.set(main.entry(IMAGE_WIDTH), LONG, width)
    tiff.set(main.entry(IMAGE_HEIGHT), LONG, height)
    if exif is not None:
        tiff.set(exif.entry(PIXEL_WIDTH), LONG, width)
        tiff.set(exif.entry(PIXEL_HEIGHT), LONG, height)
    return bytes(tiff.data)
