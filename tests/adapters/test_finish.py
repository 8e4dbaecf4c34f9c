"""There and back: what is uploaded and enlarged by a service that keeps nothing is the source, with all that it had."""

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pixel_kit as kit
import pytest
import pyvips

from daemon.adapters.finish import NO_ALPHA
from daemon.adapters.picture import VipsPictures
from daemon.ports_pictures import Reading
from daemon.rules.faults import Blame, Fault, Gate
from daemon.rules.tiles import Rect, cut, scaled
from daemon.rules.traits import NOT_KEPT, Finish, Piece, Traits

SCALE = kit.SCALE
made, reference = kit.made, kit.reference


@pytest.fixture
async def pictures() -> AsyncIterator[VipsPictures]:
    pictures = VipsPictures(threads=1)
    yield pictures
    pictures.close()


class Journey:
    """A source on its way. kernel, alpha, mood: of the service. piece: what is asked for besides the rectangle."""

    def __init__(self, pictures: VipsPictures, folder: Path, data: bytes) -> None:
        self.pictures = pictures
        self.folder = folder
        self.source = folder / "source"
        self.source.write_bytes(data)
        self.keepsake = folder / "keepsake"
        self.target = folder / "target"
        self.piece = Piece(Rect(0, 0, 1, 1))
        self.kernel, self.alpha, self.scale = "nearest", True, float(SCALE)
        self.mood = 0.0
        self.strip_gps = False
        self.warnings: list[str] = []
        self.payloads: list[Path] = []

    async def read(self) -> Reading:
        with self.source.open("rb") as file:
            return await self.pictures.read(file)

    async def there(self, pixels_max: int = 10**6, overlap: int = 4) -> tuple[Reading, list[tuple[Path, Rect]]]:
        """Upload and fetch."""
        reading = await self.read()
        content = reading.content
        tiles = cut(content.width, content.height, pixels_max, overlap, self.scale)
        size = (round(content.width * self.scale), round(content.height * self.scale))
        parts = []
        for n, rect in enumerate(tiles):
            payload, result = self.folder / f"{n}.payload", self.folder / f"{n}.result"
            piece = replace(self.piece, rect=rect)
            prepared = await self.pictures.prepare(self.source, piece, payload, None if n else self.keepsake)
            self.payloads.append(payload)
            assert prepared.bytes == payload.stat().st_size
            assert 0 < len(prepared.likeness) <= 1024
            kit.enlarged(payload, result, self.scale, self.kernel, self.alpha)
            if self.mood:
                moody(kit.load(result), self.mood).pngsave(str(result))
            await self.pictures.measure(result, 10**7, prepared.likeness)
            parts.append((result, scaled(rect, self.scale, size)))
        return reading, parts

    async def back(
        self, reading: Reading, parts: list[tuple[Path, Rect]], format_: str = "PNG", quality: int = 92
    ) -> Path:
        """The outbox's file: the target, or the one part where nothing was to be done."""
        size = (round(reading.content.width * self.scale), round(reading.content.height * self.scale))
        wanted = Finish(size, format_, quality, reading.traits, self.strip_gps)
        changed, warnings = await self.pictures.finish(parts, self.keepsake, wanted, self.target)
        assert changed == self.target.exists()
        self.warnings += warnings
        return self.target if changed else parts[0][0]

    async def go(self, pixels_max: int = 10**6, format_: str = "PNG") -> pyvips.Image:
        return kit.load(await self.back(*await self.there(pixels_max), format_))


@pytest.mark.parametrize("pixels_max", [10**6, 250], ids=["one", "tiled"])
@pytest.mark.parametrize(("format_", "kind", "profile"), kit.MATRIX)
async def test_the_right_picture(
    pictures: VipsPictures, tmp_path: Path, format_: str, kind: str, profile: str, pixels_max: int
) -> None:
    """Upright, every pixel exact, in its own colours, with what it told of itself and without where it was taken."""
    for orientation in kit.ORIENTATIONS:
        folder = tmp_path / str(orientation)
        folder.mkdir()
        data = made(format_, kind, orientation, profile)
        journey = Journey(pictures, folder, data)
        journey.strip_gps = True
        reading, parts = await journey.there(pixels_max)
        assert (len(parts) > 1) == (pixels_max < 10**6)
        result = kit.load(await journey.back(reading, parts))
        kit.check(result, data, format_)
        assert (reading.content.width * SCALE, reading.content.height * SCALE) == (result.width, result.height)
        assert reading.traits.orientation == orientation
        for path in [*journey.payloads, journey.target]:
            assert kit.SECRET not in path.read_bytes(), path
        for path in journey.payloads:
            left = kit.load(path).get_fields()
            assert not {"exif-data", "xmp-data", "iptc-data", "icc-profile-data", "jpeg-comment"} & set(left)


@pytest.mark.parametrize("kind", ["rgb", "rgba", "rgb16", "grey"])
@pytest.mark.parametrize("orientation", [1, 6])
async def test_converted_to_srgb(pictures: VipsPictures, tmp_path: Path, kind: str, orientation: int) -> None:
    """Before it goes up; the result has no profile, and grey is still grey."""
    data = made("PNG", kind, orientation, "grey" if kind == "grey" else "adobe")
    journey = Journey(pictures, tmp_path, data)
    journey.piece = replace(journey.piece, colour="srgb")
    result = await journey.go()
    source = pyvips.Image.new_from_buffer(data, "").autorot()
    depth = 16 if kind == "rgb16" else 8
    wanted = source.icc_transform("srgb", embedded=True, intent="relative", black_point_compensation=True, depth=depth)
    wanted = wanted.resize(SCALE, kernel="nearest")
    if kind == "grey":
        assert result.bands == 1
        wanted = wanted[1].copy(interpretation="b-w")
    assert kit.difference(result, wanted) <= (1 if kind == "grey" else 0)
    assert kit.difference(result, reference(data)) > 2, "it did change"
    assert not result.get_typeof("icc-profile-data")


@pytest.mark.parametrize(("kind", "profile"), [("rgb", "srgb"), ("rgb", ""), ("palette", "")])
async def test_srgb_is_not_converted_to_srgb(pictures: VipsPictures, tmp_path: Path, kind: str, profile: str) -> None:
    data = made("PNG", kind, profile_=profile)
    journey = Journey(pictures, tmp_path, data)
    journey.piece = replace(journey.piece, colour="srgb")
    assert kit.difference(await journey.go(), reference(data)) == 0
    assert journey.payloads[0].read_bytes()[:60] == data[:33] + journey.payloads[0].read_bytes()[33:60]


# What the service gives back


async def test_what_needs_nothing_stays_as_it_is(pictures: VipsPictures, tmp_path: Path) -> None:
    for kind in ("grey", "rgb", "rgba", "rgb16"):
        journey = Journey(pictures, tmp_path, made("PNG", kind, bare=True))
        reading, parts = await journey.there()
        before = parts[0][0].read_bytes()
        assert await journey.back(reading, parts) == parts[0][0]
        assert parts[0][0].read_bytes() == before
        assert journey.warnings == []


@pytest.mark.parametrize("kind", ["grey", "rgb", "rgba", "rgb16"])
async def test_metadata_goes_in_beside_the_pixels(pictures: VipsPictures, tmp_path: Path, kind: str) -> None:
    """Not one compressed byte of the service's is another."""
    journey = Journey(pictures, tmp_path, made("PNG", kind))
    reading, parts = await journey.there()
    before = parts[0][0].read_bytes()
    after = (await journey.back(reading, parts)).read_bytes()
    assert before[:33] == after[:33]
    assert before[before.index(b"IDAT") - 4 :] == after[after.index(b"IDAT") - 4 :]
    assert journey.warnings == []


async def test_what_the_service_says_itself_makes_room(pictures: VipsPictures, tmp_path: Path) -> None:
    journey = Journey(pictures, tmp_path, made("PNG", "rgb", profile_="p3"))
    reading, parts = await journey.there()
    data = parts[0][0].read_bytes()
    theirs = kit.chunk(b"sRGB", b"\0") + kit.chunk(b"gAMA", bytes(4)) + kit.chunk(b"eXIf", kit.exif(6))
    theirs += kit.chunk(b"tEXt", b"Software\0service") + kit.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")
    parts[0][0].write_bytes(data[:33] + theirs + data[33:])
    path = await journey.back(reading, parts)
    after = path.read_bytes()
    assert [after.count(kind) for kind in (b"sRGB", b"gAMA", b"eXIf", b"XML:com.adobe.xmp", b"service")] == [
        0,
        0,
        1,
        1,
        1,
    ]
    assert kit.field(kit.load(path), "icc-profile-data") == kit.profile("p3")


@pytest.mark.parametrize("alpha", [True, False])
async def test_transparency_that_the_service_drops_is_put_back(
    pictures: VipsPictures, tmp_path: Path, alpha: bool
) -> None:
    """Resampled, since it was not enlarged by the service; the colours are the service's."""
    for kind in ("rgba", "rgba16", "greya", "palettea"):
        for orientation, pixels_max in ((1, 10**6), (6, 250)):
            folder = tmp_path / f"{kind}{orientation}"
            folder.mkdir()
            data = made("PNG", kind, orientation)
            journey = Journey(pictures, folder, data)
            journey.alpha = alpha
            journey.piece = replace(journey.piece, keep_alpha=True)
            result = await journey.go(pixels_max)
            wanted = reference(data)
            assert kit.difference(result[: result.bands - 1], wanted[: wanted.bands - 1]) == 0
            upright = pyvips.Image.new_from_buffer(data, "").autorot()
            layer = upright[upright.bands - 1].resize(SCALE)
            assert kit.difference(result[result.bands - 1], layer.copy_memory()) == 0
            assert journey.warnings == []


async def test_transparency_that_nobody_kept_is_told_of(pictures: VipsPictures, tmp_path: Path) -> None:
    journey = Journey(pictures, tmp_path, made("PNG", "rgba"))
    journey.alpha = False
    assert (await journey.go()).bands == 3
    [warning] = journey.warnings
    assert "transparency was lost" in warning


async def test_transparency_that_only_the_service_saw_goes(pictures: VipsPictures, tmp_path: Path) -> None:
    journey = Journey(pictures, tmp_path, made("PNG", "rgb", bare=True))
    reading, parts = await journey.there()
    kit.load(parts[0][0]).bandjoin(255).pngsave(str(parts[0][0]))
    assert kit.difference(kit.load(await journey.back(reading, parts)), reference(made("PNG", "rgb"))) == 0


@pytest.mark.parametrize("kind", ["grey", "greya", "grey16"])
async def test_grey_becomes_grey_again(pictures: VipsPictures, tmp_path: Path, kind: str) -> None:
    data = made("PNG", kind, bare=True)
    journey = Journey(pictures, tmp_path, data)
    reading, parts = await journey.there()
    image = kit.load(parts[0][0])
    rest = [image[1]] if image.bands == 2 else []
    space = "rgb16" if kind == "grey16" else "srgb"
    image[0].bandjoin([image[0], image[0], *rest]).copy(interpretation=space).pngsave(str(parts[0][0]))
    assert kit.difference(kit.load(await journey.back(reading, parts)), reference(data)) == 0


async def test_colour_that_came_back_grey_has_three_bands(pictures: VipsPictures, tmp_path: Path) -> None:
    """A profile for colours would not fit a picture without them."""
    journey = Journey(pictures, tmp_path, made("PNG", "rgb", profile_="p3"))
    reading, parts = await journey.there()
    kit.load(parts[0][0])[1].pngsave(str(parts[0][0]))
    result = kit.load(await journey.back(reading, parts))
    assert (result.bands, kit.field(result, "icc-profile-data")) == (3, kit.profile("p3"))


async def test_sixteen_bits_that_became_eight(pictures: VipsPictures, tmp_path: Path) -> None:
    journey = Journey(pictures, tmp_path, made("PNG", "rgb16", bare=True))
    reading, parts = await journey.there()
    (kit.load(parts[0][0]) / 257).cast("uchar").copy(interpretation="srgb").pngsave(str(parts[0][0]))
    assert await journey.back(reading, parts) == parts[0][0]
    assert journey.warnings == ["The picture has 16 bits a colour, the service's result 8."]


@pytest.mark.parametrize("step", [(-1, 0), (0, 1), (1, 1), (-1, -1)])
@pytest.mark.parametrize("pixels_max", [10**6, 250])
async def test_a_part_that_is_off_by_a_pixel_is_fitted(
    pictures: VipsPictures, tmp_path: Path, step: tuple[int, int], pixels_max: int
) -> None:
    data = made("PNG", "rgb", bare=True)
    journey = Journey(pictures, tmp_path, data)
    reading, parts = await journey.there(pixels_max)
    for path, rect in parts:
        kit.load(path).embed(0, 0, rect.width + step[0], rect.height + step[1], extend="copy").pngsave(str(path))
    result = kit.load(await journey.back(reading, parts))
    assert kit.difference(result, reference(data)) == 0
    assert journey.warnings == []


async def test_what_was_shrunk_is_enlarged_to_its_size(pictures: VipsPictures, tmp_path: Path) -> None:
    for orientation in (1, 6):
        journey = Journey(pictures, tmp_path, made("JPEG", "rgb", orientation))
        size = (13, 10) if orientation == 1 else (10, 13)
        journey.piece = replace(journey.piece, size=size)
        journey.kernel = "lanczos3"
        journey.warnings.clear()
        result = await journey.go()
        payload = kit.load(journey.payloads[-1])
        assert (payload.width, payload.height) == size
        assert (result.width, result.height) == (size[0] * 2 * SCALE, size[1] * 2 * SCALE)
        [warning] = journey.warnings
        assert "no more detail" in warning
        smooth = kit.load(journey.source).autorot().resize(SCALE)
        assert (smooth - result).abs().avg() < 12


# Other formats


@pytest.mark.parametrize("format_", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("source", "kind", "profile"),
    [
        ("JPEG", "rgb", "p3"),
        ("JPEG", "grey", "grey"),
        ("PNG", "rgba", "adobe"),
        ("PNG", "rgb16", ""),
        ("WEBP", "rgb", ""),
    ],
)
async def test_other_formats_carry_the_same(
    pictures: VipsPictures, tmp_path: Path, format_: str, source: str, kind: str, profile: str
) -> None:
    data = made(source, kind, 6, profile)
    journey = Journey(pictures, tmp_path, data)
    reading, parts = await journey.there(250)
    path = await journey.back(reading, parts, format_, 100)
    measured = await pictures.measure(path, 10**6)
    wanted = reference(data)
    assert (measured.width, measured.height, measured.format) == (wanted.width, wanted.height, format_)
    result = kit.load(path)
    flat = wanted
    if wanted.hasalpha() and format_ == "JPEG":
        flat = wanted.flatten(background=255)
    if kind == "rgb16":
        flat = (flat / 257).rint().cast("uchar")
    if result.bands > flat.bands:
        flat = flat.bandjoin([flat, flat])
    assert (result - flat).abs().avg() < 3
    block = kit.field(result, "exif-data")
    assert (result.get("orientation"), b"MAKER-NOTE" in block, b"KEPT" in kit.field(result, "xmp-data")) == (
        1,
        True,
        True,
    )
    assert b"GPS-" in block, "nobody asked to leave it out"
    assert b"-THUMB" not in block
    if result.bands >= 3 and kind != "grey":
        assert kit.field(result, "icc-profile-data") == kit.profile(profile)
    if format_ == "JPEG":
        assert source == "WEBP" or kit.IIM in kit.field(result, "iptc-data")
    told = {"JPEG": {"rgba": "white is behind"}, "WEBP": {}}[format_] | {"rgb16": "8 bits"}
    assert len(journey.warnings) == (1 if kind in told else 0)
    assert told.get(kind, "") in "".join(journey.warnings)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP"])
@pytest.mark.parametrize("kind", ["rgb", "rgba", "rgb16", "rgba16"])
async def test_a_finished_result_in_another_format_is_the_same_picture(
    pictures: VipsPictures, tmp_path: Path, kind: str, format_: str
) -> None:
    """An earlier copy's PNG may be all there is: what is made of it is what would have been made of the parts."""
    journey = Journey(pictures, tmp_path, made("PNG", kind, 6, "p3"))
    reading, parts = await journey.there()
    whole = await journey.back(reading, parts, "PNG")
    size = (4 * reading.content.width, 4 * reading.content.height)
    place = [(whole.rename(tmp_path / "earlier"), Rect(0, 0, *size))]
    await pictures.finish(place, None, Finish(size, format_, 92, reading.traits), tmp_path / "converted")
    direct = await journey.back(reading, parts, format_, 92)
    assert (tmp_path / "converted").read_bytes() == direct.read_bytes()


async def test_opaque_alpha_is_no_loss(pictures: VipsPictures, tmp_path: Path) -> None:
    image = kit.picture("rgb").bandjoin(255)
    journey = Journey(pictures, tmp_path, kit.encoded(image, "PNG", bare=True))
    assert (await journey.go(format_="JPEG")).bands == 3
    assert journey.warnings == []


async def test_metadata_that_is_too_large_for_a_jpeg(pictures: VipsPictures, tmp_path: Path) -> None:
    data = made("PNG", "rgb", bare=True)
    large = b"<x>" + b"x" * 70_000 + b"</x>"
    data = data[:33] + kit.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + large) + data[33:]
    journey = Journey(pictures, tmp_path, data)
    assert not (await journey.go(format_="JPEG")).get_typeof("xmp-data")
    [warning] = journey.warnings
    assert warning == "The picture's XMP data is too large for a JPEG and was left out."


async def test_a_profile_of_four_megabytes(pictures: VipsPictures, tmp_path: Path) -> None:
    """In many segments of a JPEG, in and out."""
    profile = bytearray(kit.profile("p3") + bytes(4 << 20))
    profile[:4] = len(profile).to_bytes(4, "big")
    journey = Journey(pictures, tmp_path, kit.encoded(kit.picture("rgb"), "JPEG", icc=bytes(profile), bare=True))
    reading, parts = await journey.there()
    for format_ in ("PNG", "JPEG", "WEBP"):
        result = kit.load(await journey.back(reading, parts, format_))
        assert kit.field(result, "icc-profile-data") == profile
        journey.target.unlink()


# Results of earlier copies


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
async def test_an_earlier_result_stays_as_it_is_unless_it_says_too_much(
    pictures: VipsPictures, tmp_path: Path, format_: str
) -> None:
    """Another folder, which leaves the place out, finds the result of one that does not."""
    journey = Journey(pictures, tmp_path, made("JPEG", "rgb", 6, "p3"))
    reading, parts = await journey.there()
    earlier, target = tmp_path / "earlier", tmp_path / "another"
    (await journey.back(reading, parts, format_)).rename(earlier)
    assert kit.SECRET in earlier.read_bytes()
    first = kit.load(earlier)
    size = (first.width, first.height)
    wanted = Finish(size, format_, 100, reading.traits)
    place = Rect(0, 0, *size)
    assert await pictures.finish([(earlier, place)], None, wanted, target) == (False, [])
    assert not target.exists()
    wanted = replace(wanted, strip_gps=True)
    assert await pictures.finish([(earlier, place)], None, wanted, target) == (True, [])
    assert kit.SECRET not in target.read_bytes()
    result = kit.load(target)
    assert (result - first).abs().avg() < 3
    assert b"MAKER-NOTE" in kit.field(result, "exif-data")
    assert b"KEPT" in kit.field(result, "xmp-data")
    assert kit.field(result, "icc-profile-data") == kit.profile("p3")
    assert await pictures.finish([(target, place)], None, wanted, tmp_path / "third") == (False, [])


async def test_an_earlier_result_in_another_format(pictures: VipsPictures, tmp_path: Path) -> None:
    journey = Journey(pictures, tmp_path, made("JPEG", "rgb", 6, "p3"))
    reading, parts = await journey.there()
    earlier = await journey.back(reading, parts)
    size = (kit.load(earlier).width, kit.load(earlier).height)
    wanted = Finish(size, "JPEG", 92, reading.traits, strip_gps=True)
    target = tmp_path / "another"
    assert await pictures.finish([(earlier, Rect(0, 0, *size))], None, wanted, target) == (True, [])
    result = kit.load(target)
    assert b"MAKER-NOTE" in kit.field(result, "exif-data")
    assert kit.field(result, "icc-profile-data") == kit.profile("p3")
    assert kit.IIM in kit.field(result, "iptc-data")
    assert kit.SECRET not in target.read_bytes()


# Seams


def scenes() -> dict[str, pyvips.Image]:
    width, height = 150, 110
    xyz = pyvips.Image.xyz(width, height)
    x, y = xyz[0], xyz[1]
    noise = pyvips.Image.gaussnoise(width, height, mean=128, sigma=50, seed=3)
    text = pyvips.Image.text("seams are not\nto be seen", width=width, height=height).embed(0, 0, width, height)
    lines = ((x + y * 2) % 9 < 1).ifthenelse(255, 0)
    return {
        "gradient": (x * 1.1 + y * 0.6).cast("uchar"),
        "noise": noise.cast("uchar"),
        "text": text.cast("uchar"),
        "lines": lines.cast("uchar"),
    }


@pytest.mark.parametrize("name", ["gradient", "noise", "text", "lines"])
@pytest.mark.parametrize("scale", [1.5, 2, 2.5, 3, 4])
async def test_seams_are_not_to_be_seen(pictures: VipsPictures, tmp_path: Path, name: str, scale: float) -> None:
    """A service that looks at a pixel's surroundings sees others at a tile's edge; nothing of that is left."""
    image = scenes()[name].copy(interpretation="b-w")
    journey = Journey(pictures, tmp_path, kit.encoded(image, "PNG", bare=True))
    journey.kernel, journey.scale = "lanczos3", scale
    reading, parts = await journey.there(5000, overlap=16)
    assert len(parts) >= 4
    result = kit.load(await journey.back(reading, parts))
    assert kit.difference(result, image.resize(scale, kernel="lanczos3").copy_memory()) <= 1


def moody(image: pyvips.Image, mood: float) -> pyvips.Image:
    """Lighter where the whole of what it was given is light: no two tiles agree."""
    lighter = image + (image.avg() - 128) * mood
    return lighter.rint().cast("uchar").copy(interpretation=image.interpretation).copy_memory()


@pytest.mark.parametrize("name", ["gradient", "noise", "text", "lines"])
async def test_tiles_of_different_moods_have_no_edges(pictures: VipsPictures, tmp_path: Path, name: str) -> None:
    """What a tile is off by changes along a seam by a level or two from pixel to pixel, not by all of it at once."""
    scene = (scenes()["gradient"] * 0.6 + scenes()[name] * 0.25 + 20).cast("uchar")
    journey = Journey(pictures, tmp_path, kit.encoded(scene.copy(interpretation="b-w"), "PNG", bare=True))
    journey.mood = 0.25
    reading, parts = await journey.there(5000, overlap=16)
    result = kit.load(await journey.back(reading, parts))
    off = (result.cast("int") - kit.reference(journey.source.read_bytes())).copy_memory()
    across = (off.crop(1, 0, off.width - 1, off.height) - off.crop(0, 0, off.width - 1, off.height)).abs()
    down = (off.crop(0, 1, off.width, off.height - 1) - off.crop(0, 0, off.width, off.height - 1)).abs()
    assert off.max() - off.min() >= 10, "they do disagree"
    assert max(across.max(), down.max()) <= 2


async def test_tiles_that_disagree_fade_into_each_other(pictures: VipsPictures, tmp_path: Path) -> None:
    """No step is larger than the ramp's, and the outer quarters of the overlap have no say."""
    paths = [tmp_path / "0", tmp_path / "1"]
    for path, value in zip(paths, (0, 200), strict=True):
        (pyvips.Image.black(60, 8) + value).cast("uchar").pngsave(str(path))
    parts = [(paths[0], Rect(0, 0, 60, 8)), (paths[1], Rect(20, 0, 60, 8))]
    await pictures.finish(parts, None, Finish((80, 8), "PNG", traits=Traits(bands=1)), tmp_path / "target")
    row = [kit.load(tmp_path / "target")(x, 4)[0] for x in range(80)]
    assert row[:30] == [0] * 30
    assert row[50:] == [200] * 30
    assert max(after - before for before, after in pairwise(row)) <= 10


GRIDS = [
    # width, height, pixels_max, overlap: of the result, as it is cut. One column, one row, both; tall ones, wide ones.
    (40, 4000, 65_000, 7),
    (33, 9001, 50_000, 33),
    (3001, 37, 40_000, 5),
    (300, 3777, 250_000, 65),
    (700, 2900, 300_000, 0),
    (1, 7000, 2000, 3),
    (90, 5000, 130_000, 512),
]


@pytest.mark.parametrize("kind", ["rgb", "rgba16"])
@pytest.mark.parametrize(("width", "height", "pixels_max", "overlap"), GRIDS)
async def test_tiles_that_agree_are_joined_to_what_they_were_cut_from(
    pictures: VipsPictures, tmp_path: Path, width: int, height: int, pixels_max: int, overlap: int, kind: str
) -> None:
    """Of whatever shape: rows of more than a thousand lines once could not be joined at all."""
    layers = [
        pyvips.Image.gaussnoise(width, height, mean=128, sigma=40, seed=n) for n in range(4 if "a" in kind else 3)
    ]
    whole = layers[0].bandjoin(layers[1:]).cast("uchar").copy(interpretation="srgb")
    if kind.endswith("16"):
        whole = (whole * 257).cast("ushort").copy(interpretation="rgb16")
    whole = whole.copy_memory()
    parts = []
    for n, rect in enumerate(cut(width, height, pixels_max, overlap, 1)):
        parts.append((tmp_path / str(n), rect))
        part = whole.crop(rect.left, rect.top, rect.width, rect.height)
        part.pngsave(str(parts[-1][0]), compression=1)
    assert len(parts) > 1
    wanted = Finish((width, height), "PNG", traits=Traits(alpha="a" in kind, depth=16 if kind.endswith("16") else 8))
    await pictures.finish(parts, None, wanted, tmp_path / "target")
    assert kit.difference(kit.load(tmp_path / "target"), whole) == 0


# Faults


@pytest.mark.parametrize("wrong", ["part gone", "part cut", "no room"])
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
async def test_what_cannot_be_finished_is_the_houses_fault(
    pictures: VipsPictures, tmp_path: Path, wrong: str, format_: str
) -> None:
    journey = Journey(pictures, tmp_path, made("PNG", "rgb", 6, "p3"))
    reading, parts = await journey.there(250)
    broken = parts[1][0]
    if wrong.endswith("gone"):
        broken.unlink()
    elif wrong.endswith("cut"):
        broken.write_bytes(broken.read_bytes()[:-60])
    else:
        journey.target = Path("/dev/full")
    with pytest.raises(Fault) as caught:
        await journey.back(reading, parts, format_)
    # What may be about this picture alone keeps no other one waiting.
    assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, Gate.STAGING if wrong == "no room" else None)
    assert caught.value.said.endswith(".")


@pytest.mark.parametrize("wrong", ["gone", "cut", "empty", "another", "a folder"])
async def test_a_keepsake_that_is_damaged_counts_as_none(pictures: VipsPictures, tmp_path: Path, wrong: str) -> None:
    """The result was paid for: it goes out without what is lost, and says so."""
    journey = Journey(pictures, tmp_path, made("PNG", "rgba", 6, "p3"))
    journey.alpha = False
    journey.piece = replace(journey.piece, keep_alpha=True)
    reading, parts = await journey.there(250)
    data = journey.keepsake.read_bytes()
    journey.keepsake.unlink()
    if wrong == "a folder":
        journey.keepsake.mkdir()
    elif wrong != "gone":
        journey.keepsake.write_bytes({"cut": data[:-60], "empty": b"", "another": b"x" * 999}[wrong])
    if wrong == "a folder":  # It can be mended.
        with pytest.raises(Fault):
            await journey.back(reading, parts)
        return
    result = kit.load(await journey.back(reading, parts))
    assert journey.warnings == [NO_ALPHA, NOT_KEPT]
    assert kit.difference(result, reference(made("PNG", "rgba", 6))[:3].copy_memory()) == 0
    assert not kit.field(result, "icc-profile-data")
