"""EXIF, XMP and IPTC: true for the upright result, without thumbnails, and without places where that is asked for."""

import pixel_kit as kit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.adapters import carrier, exif, keepsake, metadata
from daemon.adapters.metadata import Metadata

ORDERS = pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])


def number(data: bytes, order: str, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "little" if order == "<" else "big")


@ORDERS
@pytest.mark.parametrize("strip", [True, False])
def test_a_block_is_changed_in_place(order: str, strip: bool) -> None:
    """A maker's note stays where it was, or its own offsets would point at something else."""
    block = kit.exif(6, order)
    after = exif.cleaned(block, strip)
    assert after is not None
    assert after.index(b"MAKER-NOTE") == block.index(b"MAKER-NOTE")
    assert number(after, order, 18, 2) == 1
    assert b"-THUMB" not in after
    assert (b"GPS-" in after) is not strip
    assert (kit.SECRET in after) is not strip
    assert len(after) < len(block)
    assert exif.cleaned(after, strip) == after


@ORDERS
def test_numbers_of_pixels_are_the_results(order: str) -> None:
    """A short number becomes a long one: results are wide."""
    after = exif.sized(exif.cleaned(kit.exif(6, order), True) or b"", 104_000, 80)
    for tag, value in ((b"\xa0\x02", 104_000), (b"\xa0\x03", 80)):
        at = after.index(tag if order == ">" else tag[::-1])
        assert (number(after, order, at + 2, 2), number(after, order, at + 8, 4)) == (4, value)


def test_a_block_without_places_or_thumbnail() -> None:
    block = b"II*\0\x08\0\0\0\x01\0" + kit.entry("<", 0x0112, 3, 1, b"\x08\0") + bytes(4)
    assert exif.cleaned(block, True) == block.replace(b"\x08\0\0\0\0\0\0\0", b"\x01\0\0\0\0\0\0\0")


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\0",
        b"II*\0\x08\0\0\0\xff\xff" + bytes(40),
        b"II*\0\x08\0\0\0\x01\0" + kit.entry("<", 0x010F, 2, 1000, b"\x08\0\0\0") + bytes(4),
        b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        kit.exif(6)[:60],
        b"not a block at all, but some text",
    ],
)
def test_a_damaged_block_is_left_out(block: bytes) -> None:
    assert exif.cleaned(block, True) is None
    found, warnings = metadata.kept(Metadata(exif=b"Exif\0\0" + block), True)
    assert found.exif == b""
    assert warnings == (["The picture's EXIF data is damaged and was left out."] if block else [])


def test_a_thumbnail_that_lies_in_what_is_kept_spoils_the_block() -> None:
    """Blanking it would blank the rest."""
    block = bytearray(kit.exif(1))
    at = block.index(b"\x01\x02\x04\0")
    block[at + 8 : at + 12] = bytes(4)
    assert exif.cleaned(bytes(block), False) is None


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from("<>"),
    st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
    st.booleans(),
)
def test_any_block_is_cleaned_or_left_out(order: str, edits: list[tuple[int, int]], end: int, strip: bool) -> None:
    block = bytearray(kit.exif(6, order))
    for at, value in edits:
        block[at % len(block)] = value
    after = exif.cleaned(bytes(block[:end]), strip)
    if after is not None:
        assert len(after) <= len(block)
        assert exif.cleaned(after, strip) is not None
        exif.sized(after, 100, 100)


# XMP


@pytest.mark.parametrize("strip", [True, False])
def test_xmp_is_made_true(strip: bool) -> None:
    found, warnings = metadata.kept(Metadata(xmp=kit.XMP), strip)
    assert warnings == []
    assert b'tiff:Orientation="1"' in found.xmp
    assert b"Thumbnails" not in found.xmp
    assert b'dc:title="KEPT"' in found.xmp
    assert found.xmp.count(kit.SECRET) == (0 if strip else 2)
    assert found.xmp.count(b"<") == found.xmp.count(b">")
    assert b'exif:PixelXDimension="104"' in metadata.sized(found, 104, 80).xmp


@pytest.mark.parametrize(
    "packet",
    [
        b"<x exif:GPSLatitude='1'/>",
        b'<x\n\texif:GPSLatitude = "1"/>',
        b'<x aux:GPSAltitude="1" other="2"/>',
        b"<x><exif:GPSLatitude>1</exif:GPSLatitude></x>",
        b"<x><exif:GPSVersionID/></x>",
        b'<x><exif:GPSStatus a="1">A</exif:GPSStatus ></x>',
        b"<x><exif:GPSLatitude>1</x>",
        b"<x><exif:GPSLatitude",
        b"<x exif:GPSLatitude=1/>",
        "<x exif:GPSLatitude='1'/>".encode("utf-16"),
    ],
)
def test_places_go_however_they_are_written(packet: bytes) -> None:
    """What cannot be taken apart for certain goes as a whole."""
    found, _ = metadata.kept(Metadata(xmp=packet), True)
    assert b"GPS" not in found.xmp
    assert b"G\0P\0S" not in found.xmp


def test_what_points_at_a_second_part_goes_and_is_told_of() -> None:
    """A JPEG has room for 64 KB; the rest is elsewhere in the file, and is not kept."""
    packet = b'<x xmpNote:HasExtendedXMP="0123456789ABCDEF" dc:title="KEPT"/>'
    found, warnings = metadata.kept(Metadata(xmp=packet), False)
    assert found.xmp == b'<x dc:title="KEPT"/>'
    assert warnings == ["The second part of the picture's XMP data was left out."]


def test_many_open_elements_take_no_time() -> None:
    packet = b"<x>" + b"<a:GPSx>" * 200_000
    assert metadata.kept(Metadata(xmp=packet), True)[0].xmp == b""


# IPTC


@pytest.mark.parametrize("iim", [kit.IIM, kit.IIM + b"\0", kit.IIM * 100])
def test_iptc_is_taken_from_among_photoshops_things(iim: bytes) -> None:
    found, warnings = metadata.kept(Metadata(iptc=kit.photoshop(iim)), False)
    assert (found.iptc, warnings) == (iim, [])
    assert metadata.kept(Metadata(iptc=metadata.photoshop(iim)), False)[0].iptc == iim


@pytest.mark.parametrize("block", [b"junk", kit.photoshop(kit.IIM)[:-3]])
def test_damaged_iptc_is_left_out(block: bytes) -> None:
    found, [warning] = metadata.kept(Metadata(iptc=block), False)
    assert found.iptc == b""
    assert "IPTC" in warning


@given(st.binary(max_size=200))
def test_any_iptc_is_taken_or_left_out(block: bytes) -> None:
    metadata.kept(Metadata(iptc=b"Photoshop 3.0\0" + block), False)
    metadata.kept(Metadata(iptc=block), False)
    metadata.from_raw_profile(block.decode("latin-1"))


# Limits, and the file


def test_what_is_far_too_large_is_left_out() -> None:
    found, warnings = metadata.kept(Metadata(icc=bytes(8 << 20), exif=bytes(8 << 20), xmp=b"<" * (5 << 20)), False)
    assert found == Metadata()
    assert len(warnings) == 3


@pytest.mark.parametrize("name", ["icc", "exif", "xmp", "iptc"])
def test_a_jpeg_has_no_room_for_everything(name: str) -> None:
    large = Metadata(**{name: bytes(17 << 20)})
    found, [warning] = carrier.fitting(large, "JPEG")
    assert found == Metadata()
    assert name.upper() in warning
    assert carrier.fitting(large, "PNG") == (large, [])


def test_a_damaged_keepsake_is_none(tmp_path) -> None:
    """Wherever the damage is: what was kept, or nothing; never something else, and never an error that stays."""
    path, kept = tmp_path / "keepsake", keepsake.Keepsake(Metadata(b"icc" * 50, b"exif", b"", b"iptc"), b"alpha" * 9)
    keepsake.write(path, kept)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at])
        assert keepsake.read(path) is None
        for change in (0x01, 0xFF):
            path.write_bytes(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
            found = keepsake.read(path)
            if found is not None:
                assert found == kept
    path.unlink()
    assert keepsake.read(path) is None


def test_a_keepsake_is_read_as_it_was_written(tmp_path) -> None:
    kept = keepsake.Keepsake(Metadata(b"icc", b"exif", b"", b"iptc"), b"alpha", ("One.", "Another."))
    keepsake.write(tmp_path / "keepsake", kept)
    assert keepsake.read(tmp_path / "keepsake") == kept
    keepsake.write(tmp_path / "keepsake", keepsake.Keepsake())
    assert keepsake.read(tmp_path / "keepsake") == keepsake.Keepsake()
