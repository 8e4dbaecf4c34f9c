"""What is read of a source, and what goes up of it: the right pixels, never worse, and nothing but pixels."""

import io
import tempfile
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pixel_kit as kit
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.adapters import chunks, keepsake
from daemon.adapters.picture import SEEN_MAX, Seen, VipsPictures
from daemon.ports_pictures import Reading
from daemon.rules.faults import Blame, Fault, Gate, NotAPicture
from daemon.rules.settling import Sign
from daemon.rules.tiles import Rect
from daemon.rules.traits import Piece, Prepared, Traits

WHOLE = Rect(0, 0, kit.WIDTH, kit.HEIGHT)
EVERY = pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])


@pytest.fixture
async def pictures() -> AsyncIterator[VipsPictures]:
    pictures = VipsPictures(threads=1)
    yield pictures
    pictures.close()


async def read(pictures: VipsPictures, folder: Path, data: bytes) -> Reading:
    (folder / "source").write_bytes(data)
    with (folder / "source").open("rb") as file:
        return await pictures.read(file)


async def prepare(
    pictures: VipsPictures, folder: Path, data: bytes, piece: Piece | None = None
) -> tuple[Prepared, bytes]:
    (folder / "source").write_bytes(data)
    prepared = await pictures.prepare(folder / "source", piece or Piece(WHOLE), folder / "payload", folder / "keepsake")
    payload = (folder / "payload").read_bytes()
    assert prepared.bytes == len(payload)
    return prepared, payload


def pixels_of(data: bytes) -> pyvips.Image:
    return pyvips.Image.new_from_buffer(data, "", fail_on="warning").copy_memory()


# Reading


@pytest.mark.parametrize(
    ("kind", "profile", "traits"),
    [
        ("grey", "grey", Traits(1, 1, False, 8, "other")),
        ("grey16", "", Traits(1, 1, False, 16, "")),
        ("greya", "", Traits(1, 1, True, 8, "")),
        ("rgb", "srgb", Traits(1, 3, False, 8, "srgb")),
        ("rgb", "adobe", Traits(1, 3, False, 8, "other")),
        ("rgb16", "p3", Traits(1, 3, False, 16, "other")),
        ("rgba", "", Traits(1, 3, True, 8, "")),
        ("rgba16", "srgb", Traits(1, 3, True, 16, "srgb")),
    ],
)
async def test_the_traits_of_a_png(
    pictures: VipsPictures, tmp_path: Path, kind: str, profile: str, traits: Traits
) -> None:
    data = kit.encoded(kit.picture(kind), "PNG", icc=kit.profile(profile), bare=True)
    assert (await read(pictures, tmp_path, data)).traits == traits


@pytest.mark.parametrize(("profile", "seen"), [("cmyk", "other"), ("", "")])
async def test_the_traits_of_a_cmyk_jpeg(pictures: VipsPictures, tmp_path: Path, profile: str, seen: str) -> None:
    data = kit.encoded(kit.picture("cmyk"), "JPEG", icc=kit.profile(profile), bare=True)
    assert (await read(pictures, tmp_path, data)).traits == Traits(1, 4, False, 8, seen)


@pytest.mark.parametrize("kind", ["rgb", "rgba"])
async def test_a_palette_counts_as_colour(pictures: VipsPictures, tmp_path: Path, kind: str) -> None:
    data = kit.encoded(kit.picture(kind), "PNG", bare=True, palette=True)
    assert data[25] == 3
    assert (await read(pictures, tmp_path, data)).traits == Traits(1, 3, kind == "rgba", 8, "")


def chrm(*values: float) -> bytes:
    return kit.chunk(b"cHRM", b"".join(round(value * 100_000).to_bytes(4, "big") for value in values))


def gama(value: int) -> bytes:
    return kit.chunk(b"gAMA", value.to_bytes(4, "big"))


AS_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
AS_P3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
AS_ADOBE = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        (gama(45455), ""),
        (gama(45455) + chrm(*AS_SRGB), ""),
        (chrm(*AS_SRGB), ""),
        (kit.chunk(b"sRGB", b"\0") + gama(100_000), ""),
        (gama(0), ""),
        (gama(4_000_000_000), ""),
        (chrm(0.3, 0, 0, 0, 0, 0, 0, 0), ""),
        (chrm(*[0.3] * 8), ""),
        (kit.chunk(b"gAMA", b""), ""),
        (gama(100_000), "other"),
        (gama(55_556), "other"),
        (chrm(*AS_P3), "other"),
        (gama(45_455) + chrm(*AS_ADOBE), "other"),
    ],
)
async def test_what_a_png_tells_of_its_colours_counts_as_a_profile(
    pictures: VipsPictures, tmp_path: Path, told: bytes, seen: str
) -> None:
    """An older way to say the same; browsers go by it."""
    for kind in ("rgb", "rgba16", "grey"):
        data = kit.encoded(kit.picture(kind), "PNG", bare=True)
        reading = await read(pictures, tmp_path, data[:33] + told + data[33:])
        colour = kind != "grey" or told in (gama(100_000), gama(55_556))
        assert (reading.sign, reading.traits.profile) == (None, seen if colour else "")
        await prepare(pictures, tmp_path, data[:33] + told + data[33:])
        kept = keepsake.read(tmp_path / "keepsake")
        assert kept is not None
        assert bool(kept.metadata.icc) == (reading.traits.profile == "other")


@pytest.mark.parametrize(
    ("told", "profile"), [(gama(45_470) + chrm(*AS_ADOBE), "adobe"), (gama(55_556), "grey"), (chrm(*AS_P3), "p3")]
)
async def test_the_profile_of_what_a_png_tells_is_right(
    pictures: VipsPictures, tmp_path: Path, told: bytes, profile: str
) -> None:
    """Converted to sRGB, colours are those that the profile of that name makes of them."""
    kind = "grey" if profile == "grey" else "rgb"
    image = kit.picture(kind)
    data = kit.encoded(image, "PNG", bare=True)
    piece = Piece(WHOLE, colour="srgb")
    _, payload = await prepare(pictures, tmp_path, data[:33] + told + data[33:], piece)
    _, wanted = await prepare(pictures, tmp_path, kit.encoded(image, "PNG", icc=kit.profile(profile), bare=True), piece)
    # sRGB's curve is not quite the power that gAMA has in its place.
    assert kit.difference(pixels_of(payload), pixels_of(wanted)) <= (10 if profile == "p3" else 2)


@EVERY
@pytest.mark.parametrize("orientation", range(1, 9))
async def test_sizes_are_those_of_the_upright_picture(
    pictures: VipsPictures, tmp_path: Path, format_: str, orientation: int
) -> None:
    reading = await read(pictures, tmp_path, kit.encoded(kit.picture("rgb"), format_, orientation=orientation))
    assert reading.traits.orientation == orientation
    size = (kit.WIDTH, kit.HEIGHT) if orientation < 5 else (kit.HEIGHT, kit.WIDTH)
    assert (reading.content.width, reading.content.height) == size


@EVERY
@pytest.mark.parametrize("orientation", [0, 9, 99, 65535])
async def test_an_orientation_that_there_is_not_is_none(
    pictures: VipsPictures, tmp_path: Path, format_: str, orientation: int
) -> None:
    reading = await read(pictures, tmp_path, kit.encoded(kit.picture("rgb"), format_, orientation=orientation))
    assert (reading.traits.orientation, reading.content.width) == (1, kit.WIDTH)


@pytest.mark.parametrize("wrong", ["cut", "junk", "of other bands", "of four megabytes of zeros"])
async def test_a_broken_profile_is_none(pictures: VipsPictures, tmp_path: Path, wrong: str) -> None:
    profile = {
        "cut": kit.profile("p3")[:200],
        "junk": bytes(range(256)) * 3,
        "of other bands": kit.profile("cmyk"),
        "of four megabytes of zeros": bytes(4 << 20),
    }[wrong]
    data = kit.encoded(kit.picture("rgb"), "JPEG", icc=profile, bare=True)
    reading = await read(pictures, tmp_path, data)
    assert (reading.sign, reading.traits.profile) == (None, "")
    await prepare(pictures, tmp_path, data, Piece(WHOLE, colour="srgb"))
    assert keepsake.read(tmp_path / "keepsake").metadata.icc == b""


async def test_an_animated_png_cannot_be_sent(pictures: VipsPictures, tmp_path: Path) -> None:
    data = kit.encoded(kit.picture("rgb"), "PNG", bare=True)
    for frames, sign in ((1, None), (2, Sign.HARD)):
        animated = data[:33] + kit.chunk(b"acTL", frames.to_bytes(4, "big") + bytes(4)) + data[33:]
        reading = await read(pictures, tmp_path, animated)
        assert reading.sign is sign
        assert ("animation" in reading.reason) == (frames > 1)


def test_what_a_decoder_holds_is_known_from_the_header() -> None:
    """Progressive and interlaced pictures are decoded whole; the rest goes line by line."""
    image = kit.picture("rgb")
    for format_, options, bytes_ in (
        ("JPEG", {}, 0),
        ("JPEG", {"interlace": True, "subsample_mode": "off"}, 6),
        ("JPEG", {"interlace": True, "subsample_mode": "on"}, 3),
        ("PNG", {}, 0),
        ("PNG", {"interlace": True}, 3),
        ("WEBP", {}, 4),
    ):
        assert chunks.held_bytes(io.BytesIO(kit.encoded(image, format_, bare=True, **options))) == bytes_
    assert chunks.held_bytes(io.BytesIO(b"")) == chunks.held_bytes(io.BytesIO(b"\xff\xd8\xff")) == 0


async def test_what_would_be_held_in_memory_has_a_limit(pictures: VipsPictures, tmp_path: Path) -> None:
    """A source of 20,000 x 20,000 interlaced pixels is a gigabyte, its file a few kilobytes."""
    data = bytearray(kit.encoded(kit.picture("rgb"), "PNG", bare=True, interlace=True))
    header = (20_000).to_bytes(4, "big") * 2 + bytes(data[24:29])
    reading = await read(pictures, tmp_path, bytes(data[:8]) + kit.chunk(b"IHDR", header) + bytes(data[33:]))
    assert reading.sign is Sign.HARD
    assert "too large" in reading.reason
    with pytest.raises(NotAPicture, match="interlaced"):
        await pictures.measure(tmp_path / "source", 10**9)


# Scrubbing


@EVERY
@pytest.mark.parametrize("variant", ["plain", "progressive", "palette", "alpha", "lossy"])
async def test_scrubbed_and_not_encoded_again(
    pictures: VipsPictures, tmp_path: Path, format_: str, variant: str
) -> None:
    """The very same pixels from the very same compressed bytes, and no secret is left."""
    options: dict[str, object] = {"progressive": {"interlace": True}, "palette": {"palette": True}}.get(variant, {})
    options = {"PNG": options, "JPEG": options if variant == "progressive" else {}, "WEBP": {}}[format_]
    if variant == "lossy" and format_ == "WEBP":
        options = {"lossless": False, "Q": 50}
    image = kit.picture("rgba" if variant == "alpha" and format_ != "JPEG" else "rgb")
    data = kit.encoded(image, format_, icc=kit.profile("p3"), **options)
    prepared, payload = await prepare(pictures, tmp_path, data)
    assert prepared.format == format_
    assert kit.difference(pixels_of(payload), pixels_of(data)) == 0
    assert kit.SECRET not in payload
    assert len(payload) < len(data)
    bare = kit.encoded(image, format_, bare=True, **options)
    assert len(payload) <= len(bare) + (18 if format_ == "WEBP" else 0), "nothing is left but what decodes"
    scan = {"JPEG": b"\xff\xda", "PNG": b"IDAT", "WEBP": b"VP8L"}[format_]
    if scan in bare:
        assert payload[payload.index(scan) :][:200] == bare[bare.index(scan) :][:200]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("format_", "kind"),
    [
        *(("PNG", kind) for kind in ("rgb", "rgba", "grey", "rgb16")),
        *(("JPEG", kind) for kind in ("rgb", "grey", "cmyk")),
        *(("WEBP", kind) for kind in ("rgb", "rgba")),
    ],
)
async def test_what_was_decoded_before_looks_the_same(
    tmp_path: Path, pictures: VipsPictures, format_: str, orientation: int, kind: str
) -> None:
    """Whether the look of the decoded source was remembered or not."""
    data = kit.encoded(kit.picture(kind), format_, orientation=orientation, icc=kit.profile(""))
    reading = await read(pictures, tmp_path, data)
    whole = Piece(reading.content.rect, content=reading.content.sha256)
    corner = replace(whole, rect=Rect(0, 0, 7, 5))
    for piece in (whole, corner):
        with_it, payload = await prepare(pictures, tmp_path, data, piece)
        without, same = await prepare(pictures, tmp_path, data, replace(piece, content=""))
        assert (with_it, payload) == (without, same)


async def test_only_so_many_looks_are_remembered() -> None:
    seen = Seen()
    for number in range(SEEN_MAX + 1):
        seen.note(str(number), f"look {number}")
    assert (seen.recall("0"), seen.recall("1"), seen.recall("?")) == ("", "look 1", "")


async def test_thumbnails_in_a_jpegs_own_segments_go(pictures: VipsPictures, tmp_path: Path) -> None:
    data = kit.encoded(kit.picture("rgb"), "JPEG", bare=True)
    jfif = kit.segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\1\1" + kit.SECRET[:3])
    jfxx = kit.segment(0xE0, b"JFXX\0\x10" + kit.SECRET)
    adobe = kit.segment(0xEE, b"Adobe\0d\0\0\0\0\1" + kit.SECRET)
    _, payload = await prepare(pictures, tmp_path, data[:2] + jfif + jfxx + adobe + data[2:])
    assert kit.SECRET[:3] not in payload
    assert kit.difference(pixels_of(payload), pixels_of(data)) == 0
    assert b"Adobe" in payload


async def test_comments_between_the_scans_of_a_jpeg_go(pictures: VipsPictures, tmp_path: Path) -> None:
    data = kit.encoded(kit.picture("rgb"), "JPEG", bare=True, interlace=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    before = data.rindex(b"\xff\xc4", 0, second)
    _, payload = await prepare(pictures, tmp_path, data[:before] + kit.segment(0xFE, kit.SECRET) + data[before:])
    assert kit.SECRET not in payload
    assert kit.difference(pixels_of(payload), pixels_of(data)) == 0


async def test_a_file_that_is_not_built_as_it_should_be_is_drawn_anew(pictures: VipsPictures, tmp_path: Path) -> None:
    """A chunk that is needed, for all that its name says, and that no one knows."""
    data = kit.encoded(kit.picture("rgb"), "PNG", bare=True)
    strange = data[:33] + kit.chunk(b"sTRg", b"x") + data[33:]
    prepared, payload = await prepare(pictures, tmp_path, strange)
    assert prepared.format == "PNG"
    assert kit.difference(pixels_of(payload), pixels_of(data)) == 0
    with pytest.raises(chunks.Misbuilt):
        chunks._scrub_png(io.BytesIO(data[:33] + kit.chunk(b"STRG", b"x") + data[33:]), io.BytesIO())


edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20), st.binary(max_size=6)), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), edits, st.floats(0.1, 1))
def test_scrubbing_damage_never_hangs_nor_breaks_out(
    format_: str, edits: list[tuple[float, int, bytes]], end: float
) -> None:
    data = kit.encoded(kit.picture("rgb"), format_)
    for share, removed, put in edits:
        at = int(len(data) * share)
        data = data[:at] + put + data[at + removed :]
    data = data[: round(len(data) * end)]
    scrub = {"JPEG": chunks._scrub_jpeg, "PNG": chunks._scrub_png, "WEBP": chunks._scrub_webp}[format_]
    copy = io.BytesIO()
    try:
        scrub(io.BytesIO(data), copy)
    except chunks.Misbuilt:
        return
    assert len(copy.getvalue()) <= len(data) + 2


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), edits, st.sampled_from([1, 6]))
async def test_a_damaged_source_is_prepared_or_told(
    format_: str, edits: list[tuple[float, int, bytes]], orientation: int
) -> None:
    data = kit.encoded(kit.picture("rgb"), format_, orientation=orientation, icc=kit.profile("p3"))
    for share, removed, put in edits:
        at = int(len(data) * share)
        data = data[:at] + put + data[at + removed :]
    pictures = VipsPictures(threads=1)
    with tempfile.TemporaryDirectory() as folder:
        reading = await read(pictures, Path(folder), data)
        piece = Piece(Rect(0, 0, 1, 1))
        try:
            prepared, payload = await prepare(pictures, Path(folder), data, piece)
            assert prepared.format == "PNG"
            assert kit.SECRET not in payload
        except NotAPicture:
            assert reading.sign is Sign.HARD
    pictures.close()


# Drawing


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_a_piece_of_the_upright_picture(pictures: VipsPictures, tmp_path: Path, orientation: int) -> None:
    data = kit.encoded(kit.picture("rgb"), "JPEG", orientation=orientation)
    upright = pixels_of(data).autorot()
    for rect in (Rect(3, 5, 11, 7), Rect(0, 0, 1, 1), Rect(upright.width - 4, upright.height - 6, 4, 6)):
        prepared, payload = await prepare(pictures, tmp_path, data, Piece(rect))
        assert prepared.format == "PNG"
        wanted = upright.crop(rect.left, rect.top, rect.width, rect.height)
        assert kit.difference(pixels_of(payload), wanted.copy_memory()) == 0
        kinds = [kind for kind, _ in chunks.png_chunks(io.BytesIO(payload))]
        assert set(kinds) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


@pytest.mark.parametrize("kind", ["grey", "grey16", "rgb", "rgb16", "rgba", "rgba16", "greya"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
async def test_shrunk_as_libvips_shrinks(pictures: VipsPictures, tmp_path: Path, kind: str, orientation: int) -> None:
    data = kit.encoded(kit.picture(kind), "PNG", orientation=orientation)
    upright = pixels_of(data).autorot()
    size = (upright.width // 2, upright.height // 2)
    _, payload = await prepare(pictures, tmp_path, data, Piece(Rect(0, 0, upright.width, upright.height), size))
    found = pixels_of(payload)
    assert (found.width, found.height) == size
    wanted = upright.copy_memory()
    if wanted.hasalpha():
        wanted = wanted.premultiply().resize(0.5).unpremultiply().rint().cast(found.format)
    else:
        wanted = wanted.resize(0.5)
    assert kit.difference(found, wanted.copy(interpretation=found.interpretation).copy_memory()) <= (
        1 if found.format == "uchar" else 300
    )


async def test_transparency_that_is_kept_does_not_go_up(pictures: VipsPictures, tmp_path: Path) -> None:
    data = kit.encoded(kit.picture("rgba"), "PNG", orientation=6)
    piece = Piece(Rect(0, 0, kit.HEIGHT, kit.WIDTH), keep_alpha=True)
    _, payload = await prepare(pictures, tmp_path, data, piece)
    upright = pixels_of(data).autorot().copy_memory()
    assert kit.difference(pixels_of(payload), upright[:3]) == 0
    kept = pixels_of(keepsake.read(tmp_path / "keepsake").alpha)
    assert kit.difference(kept, upright[3]) == 0


async def test_cmyk_does_not_go_up(pictures: VipsPictures, tmp_path: Path) -> None:
    prepared, payload = await prepare(pictures, tmp_path, kit.encoded(kit.picture("cmyk"), "JPEG"))
    assert (prepared.format, pixels_of(payload).interpretation) == ("PNG", "srgb")


async def test_a_keepsake_is_the_same_for_the_same_source(pictures: VipsPictures, tmp_path: Path) -> None:
    data = kit.encoded(kit.picture("rgba"), "PNG")
    kept = []
    for _ in range(2):
        await prepare(pictures, tmp_path, data, Piece(WHOLE, keep_alpha=True))
        kept.append((tmp_path / "keepsake").read_bytes())
    assert kept[0] == kept[1]


@pytest.mark.parametrize(("name", "order"), [(b"exif", "<"), (b"exif", ">"), (b"APP1", "<")])
async def test_exif_in_a_text_of_a_png_is_kept(pictures: VipsPictures, tmp_path: Path, name: bytes, order: str) -> None:
    """As ImageMagick wrote it for years; and it does not turn the picture, as it turns it nowhere else."""
    block = b"Exif\0\0" + kit.exif(6, order)
    text = b"\n%b\n%8d\n%b\n" % (name, len(block), block.hex().encode())
    data = kit.encoded(kit.picture("rgb"), "PNG", bare=True)
    data = data[:33] + kit.chunk(b"zTXt", b"Raw profile type " + name + b"\0\0" + zlib.compress(text)) + data[33:]
    assert (await read(pictures, tmp_path, data)).traits.orientation == 1
    _, payload = await prepare(pictures, tmp_path, data)
    assert b"Raw" not in payload
    kept = keepsake.read(tmp_path / "keepsake")
    assert kept is not None
    assert b"MAKER-NOTE" in kept.metadata.exif
    assert kit.SECRET + b"-THUMB" not in kept.metadata.exif


async def test_without_a_keepsake(pictures: VipsPictures, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(kit.encoded(kit.picture("rgb"), "JPEG"))
    await pictures.prepare(tmp_path / "source", Piece(WHOLE), tmp_path / "payload", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["payload", "source"]


# Faults


async def test_a_source_that_is_cut_is_no_picture(pictures: VipsPictures, tmp_path: Path) -> None:
    for orientation in (1, 6):
        data = kit.encoded(kit.picture("rgb"), "PNG", orientation=orientation)
        with pytest.raises(NotAPicture):
            await prepare(pictures, tmp_path, data[: data.index(b"IDAT") + 200], Piece(Rect(0, 0, 9, 9)))


@pytest.mark.parametrize("full", ["payload", "keepsake"])
@pytest.mark.parametrize("orientation", [1, 6])
async def test_no_room_is_the_houses_fault(pictures: VipsPictures, tmp_path: Path, full: str, orientation: int) -> None:
    (tmp_path / "source").write_bytes(kit.encoded(kit.picture("rgb"), "JPEG", orientation=orientation))
    paths = {name: tmp_path / name for name in ("payload", "keepsake")} | {full: Path("/dev/full")}
    with pytest.raises(Fault) as caught:
        await pictures.prepare(tmp_path / "source", Piece(Rect(0, 0, 20, 20)), paths["payload"], paths["keepsake"])
    assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, Gate.STAGING)
    assert not isinstance(caught.value, NotAPicture)
