"""Decoding with the real libvips: whole, not yet whole, or no picture at all."""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pyvips

from daemon.adapters.picture import VipsPictures
from daemon.ports_pictures import Reading
from daemon.rules.faults import Blame, Fault, NotAPicture
from daemon.rules.job import Content
from daemon.rules.settling import Sign
from daemon.rules.traits import Measured

WIDTH, HEIGHT = 320, 200
SUFFIXES = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
EVERY = pytest.mark.parametrize(("suffix", "format_"), SUFFIXES.items())


def noise(bands: int = 3, width: int = WIDTH, height: int = HEIGHT) -> pyvips.Image:
    """What does not compress, so that a file has a middle to be damaged."""
    layers = [pyvips.Image.gaussnoise(width, height, mean=128, sigma=40, seed=seed) for seed in range(bands)]
    image = layers[0].bandjoin(layers[1:]) if bands > 1 else layers[0]
    return image.cast("uchar").copy(interpretation="srgb" if bands > 2 else "b-w")


def encoded(suffix: str, image: pyvips.Image | None = None, **options: object) -> bytes:
    data: bytes = (image or noise()).write_to_buffer(suffix, **options)
    return data


@pytest.fixture
async def pictures() -> AsyncIterator[VipsPictures]:
    pictures = VipsPictures()
    yield pictures
    pictures.close()


class Files:
    """Pictures on the disk, since libvips is given a file's descriptor."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "picture"

    async def read(self, pictures: VipsPictures, data: bytes) -> Reading:
        self.path.write_bytes(data)
        with self.path.open("rb") as file:
            return await pictures.read(file)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# Sources


@EVERY
async def test_a_whole_picture(pictures: VipsPictures, files: Files, suffix: str, format_: str) -> None:
    data = encoded(suffix)
    content = Content(hashlib.sha256(data).hexdigest(), len(data), WIDTH, HEIGHT, format_)
    assert await files.read(pictures, data) == Reading(content)


@pytest.mark.parametrize("bands", [1, 2, 4])
async def test_grey_and_alpha(pictures: VipsPictures, files: Files, bands: int) -> None:
    reading = await files.read(pictures, encoded(".png", noise(bands)))
    assert (reading.sign, reading.content.format) == (None, "PNG")


async def test_it_reads_from_the_beginning_wherever_the_file_stands(pictures: VipsPictures, files: Files) -> None:
    data = encoded(".png")
    files.path.write_bytes(data)
    with files.path.open("rb") as file:
        file.seek(100)
        reading = await pictures.read(file)
    assert (reading.sign, reading.content.bytes) == (None, len(data))


@EVERY
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
async def test_a_truncated_picture_is_not_ready(
    pictures: VipsPictures, files: Files, suffix: str, format_: str, share: float
) -> None:
    data = encoded(suffix)
    reading = await files.read(pictures, data[: int(len(data) * share)])
    assert reading.sign is (Sign.HARD if share < 0.99 else reading.sign)
    assert reading.sign is not None
    assert reading.reason.endswith(".")
    if reading.sign is Sign.HARD:
        assert (reading.content.format, reading.content.pixels) == ("", 0)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
async def test_a_tail_of_zeros_that_the_decoder_sees(pictures: VipsPictures, files: Files, suffix: str) -> None:
    """A file that was given its size before its bytes."""
    data = encoded(suffix)
    reading = await files.read(pictures, data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert reading.sign is Sign.HARD


@EVERY
async def test_a_tail_of_zeros_that_no_decoder_sees(
    pictures: VipsPictures, files: Files, suffix: str, format_: str
) -> None:
    """A file that was given more room than it has filled yet."""
    reading = await files.read(pictures, encoded(suffix) + bytes(8000))
    assert reading.sign is Sign.SOFT
    assert "zeros" in reading.reason
    assert reading.content.format == format_


@EVERY
async def test_trailing_bytes_are_a_soft_sign(pictures: VipsPictures, files: Files, suffix: str, format_: str) -> None:
    """Phones put a trailer after the end: such a picture is whole, and only looks as if it were not."""
    reading = await files.read(pictures, encoded(suffix) + b"SEFT trailer")
    assert reading.sign is Sign.SOFT
    assert format_ in reading.reason
    assert (reading.content.width, reading.content.height, reading.content.format) == (WIDTH, HEIGHT, format_)


async def test_the_same_damage_has_the_same_reason_whatever_else_is_decoded(
    pictures: VipsPictures, tmp_path: Path
) -> None:
    """libvips keeps its last error for all threads; a person must not be told of another's."""
    damaged = [encoded(suffix, noise(width=600, height=400))[:-3000] for suffix in SUFFIXES] * 4
    files = [Files(tmp_path / str(number)) for number in range(len(damaged))]
    for file in files:
        file.path.parent.mkdir()
    readings = await asyncio.gather(*(file.read(pictures, data) for file, data in zip(files, damaged, strict=True)))
    assert {reading.sign for reading in readings} == {Sign.HARD}
    assert len({reading.reason for reading in readings}) == 1


async def test_damage_in_the_middle_of_a_png(pictures: VipsPictures, files: Files) -> None:
    data = bytearray(encoded(".png"))
    data[len(data) // 2] ^= 0xFF
    assert (await files.read(pictures, bytes(data))).sign is Sign.HARD


@pytest.mark.parametrize("data", [b"", b"\0" * 10_000, b"a text, and no picture at all\n" * 100, b"\x89PNG\r\n\x1a\n"])
async def test_what_is_no_picture(pictures: VipsPictures, files: Files, data: bytes) -> None:
    reading = await files.read(pictures, data)
    assert reading.sign is Sign.HARD
    assert reading.content == Content(hashlib.sha256(data).hexdigest(), len(data), 0, 0, "")
    assert reading.reason.isprintable()


@pytest.mark.parametrize("suffix", [".gif", ".tif"])
async def test_other_formats_are_named_or_not_decoded(pictures: VipsPictures, files: Files, suffix: str) -> None:
    reading = await files.read(pictures, encoded(suffix))
    assert reading.sign is Sign.HARD
    assert "JPEG, PNG and WebP" in reading.reason or "does not decode" in reading.reason


async def test_a_gif_is_called_a_gif(pictures: VipsPictures, files: Files) -> None:
    assert "GIF" in (await files.read(pictures, encoded(".gif"))).reason


async def test_an_animation_cannot_be_sent(pictures: VipsPictures, files: Files) -> None:
    frames = noise(3, 16, 32).copy()
    frames.set_type(pyvips.GValue.gint_type, "page-height", 16)
    reading = await files.read(pictures, encoded(".webp", frames))
    assert reading.sign is Sign.HARD
    assert "animation" in reading.reason


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def huge_png(width: int, height: int) -> bytes:
    """A header that promises far more than the file holds."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    data = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


async def test_above_the_limit_the_header_alone_is_read(files: Files) -> None:
    """What is refused anyway is not decoded: a small file may hold a picture of gigabytes."""
    small = VipsPictures(pixels_max=10_000)
    large = await files.read(small, huge_png(101, 100))
    assert (large.sign, large.content.width, large.content.height) == (None, 101, 100)
    assert (await files.read(small, huge_png(100, 100))).sign is Sign.HARD
    small.close()


async def test_libvips_writes_nothing_into_the_log(
    pictures: VipsPictures, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """It would not say which picture it means, and one file may make it warn by the thousand."""
    data = encoded(".png")
    reading = await files.read(pictures, data[:33] + chunk(b"pHYs", b"too short") * 1000 + data[33:])
    assert reading.sign is None
    assert caplog.records == []


async def test_a_changed_file_under_the_same_name_is_read_anew(pictures: VipsPictures, files: Files) -> None:
    """libvips remembers files by their names; we do not let it."""
    for width in (30, 40):
        assert (await files.read(pictures, encoded(".png", noise(3, width, 20)))).content.width == width
        assert (await pictures.measure(files.path, 10**6)).width == width


async def test_a_file_that_cannot_be_read_is_the_houses_fault(pictures: VipsPictures, tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as unreadable, pytest.raises(Fault) as caught:
        await pictures.read(unreadable)
    assert caught.value.blame is Blame.HOUSE


# Results


@EVERY
async def test_measuring_a_result(pictures: VipsPictures, tmp_path: Path, suffix: str, format_: str) -> None:
    path = tmp_path / "result"
    path.write_bytes(encoded(suffix))
    assert await pictures.measure(path, WIDTH * HEIGHT) == Measured(WIDTH, HEIGHT, format_)


@EVERY
async def test_a_result_that_is_cut_is_no_picture(
    pictures: VipsPictures, tmp_path: Path, suffix: str, format_: str
) -> None:
    path = tmp_path / "result"
    path.write_bytes(encoded(suffix)[:-2000])
    with pytest.raises(NotAPicture):
        await pictures.measure(path, WIDTH * HEIGHT)


async def test_a_result_far_too_large_is_not_decoded(pictures: VipsPictures, tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_bytes(huge_png(60_000, 60_000))
    with pytest.raises(NotAPicture, match="far more"):
        await pictures.measure(path, WIDTH * HEIGHT)


@pytest.mark.parametrize("data", [b"", b"<html>Not found</html>"])
async def test_what_came_instead_of_a_result(pictures: VipsPictures, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "result"
    path.write_bytes(data)
    with pytest.raises(NotAPicture):
        await pictures.measure(path, WIDTH * HEIGHT)
