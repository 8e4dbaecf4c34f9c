"""Bytes that are nearly a picture, and headers that lie: a reading, a sentence, or a Fault; and never much memory."""

import functools
import hashlib
import resource
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import pyvips
from fuzz_kit import assert_fault, assert_plain, fuzz
from hypothesis import given
from hypothesis import strategies as st

from daemon.adapters.picture import VipsPictures
from daemon.ports_pictures import Reading
from daemon.rules.faults import NotAPicture
from daemon.rules.job import Content
from daemon.rules.settling import Sign

PIXELS_MAX = 10_000
SIDES_MAX = {"PNG": 1_000_000, "JPEG": 65_500, "WEBP": 16_383}  # pixels, by the libraries' own limits
KIB_MAX = 64 * 1024  # what the lies of all examples together may cost in memory
KINDS = {
    "png": (".png", {}, "PNG"),
    "interlaced png": (".png", {"interlace": True}, "PNG"),
    "jpeg": (".jpg", {}, "JPEG"),
    "progressive jpeg": (".jpg", {"interlace": True}, "JPEG"),
    "webp": (".webp", {}, "WEBP"),
    "lossless webp": (".webp", {"lossless": True}, "WEBP"),
    "gif": (".gif", {}, ""),
    "tiff": (".tif", {}, ""),
    "avif": (".avif", {"lossless": True}, ""),
}
MAGICS = [
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"RIFF\xff\xff\0\0WEBPVP8X",
    b"GIF89a",
    b"II*\0",
    b"\0\0\0\x18ftypheic",
]
kinds = st.sampled_from(sorted(KINDS))


@functools.cache
def whole(kind: str) -> bytes:
    """A small picture of noise, so that its file has a middle to be damaged."""
    suffix, options, _ = KINDS[kind]
    layers = [pyvips.Image.gaussnoise(24, 18, mean=128, sigma=40, seed=seed) for seed in range(3)]
    picture = layers[0].bandjoin(layers[1:]).cast("uchar").copy(interpretation="srgb")
    data: bytes = picture.write_to_buffer(suffix, **options)
    return data


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def lying(kind: str, width: int, height: int) -> bytes:
    """The same file with another size in its header."""
    data = whole(kind)
    if kind.endswith("png"):
        return data[:8] + chunk(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]) + data[33:]
    if kind.endswith("jpeg"):
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
        return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    data = data[:24] + canvas + data[30:]  # The extended header, which libvips always writes.
    if kind == "lossless webp":
        at = data.index(b"VP8L") + 9
        bits = int.from_bytes(data[at : at + 4], "little") >> 28 << 28 | (height - 1) << 14 | width - 1
        return data[:at] + bits.to_bytes(4, "little") + data[at + 4 :]
    at = data.index(b"\x9d\x01\x2a") + 3
    return data[:at] + width.to_bytes(2, "little") + height.to_bytes(2, "little") + data[at + 4 :]


edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.one_of(st.binary(max_size=8), st.just(bytes(5000)))), max_size=3
)


def edited(data: bytes, edits: list[tuple[float, int, bytes]], end: float) -> bytes:
    """With bytes taken out and others put in, and cut off."""
    for share, removed, put in edits:
        at = int(len(data) * share)
        data = data[:at] + put + data[at + removed :]
    return data[: round(len(data) * end)]


files = st.one_of(
    st.builds(edited, kinds.map(whole), edits, st.sampled_from([1.0, 1.0, 0.999, 0.9, 0.5, 0.05])),
    st.builds(lambda one, other: whole(one)[:60] + whole(other)[60:], kinds, kinds),
    st.builds(lambda magic, rest: magic + rest, st.sampled_from([b"", *MAGICS]), st.binary(max_size=300)),
)
sides = st.sampled_from([1, 2, 17, 99, 101, 5000, 16_383, 65_500, 10**6])


@pytest.fixture
def pictures() -> Iterator[VipsPictures]:
    pictures = VipsPictures(threads=1, pixels_max=PIXELS_MAX)
    yield pictures
    pictures.close()


async def read(pictures: VipsPictures, path: Path, data: bytes) -> Reading:
    path.write_bytes(data)
    with path.open("rb") as file:
        reading = await pictures.read(file)
    content = reading.content
    assert (content.sha256, content.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert_plain(reading.reason, 200)
    assert (reading.sign is None) == (reading.reason == "")
    if reading.sign is Sign.HARD:
        assert content == Content(content.sha256, content.bytes, 0, 0, "")
    else:
        assert content.format in ("PNG", "JPEG", "WEBP")
        assert content.pixels > 0
    return reading


async def measured(pictures: VipsPictures, path: Path, pixels_max: int) -> tuple[int, int, str] | None:
    """Width, height and format, or None where it is no picture; anything else fails the test."""
    try:
        measured = await pictures.measure(path, pixels_max)
    except NotAPicture as fault:
        assert_fault(fault)
        return None
    return measured.width, measured.height, measured.format


@fuzz(3)
@given(files)
async def test_any_file_is_read_or_told(tmp_path: Path, pictures: VipsPictures, data: bytes) -> None:
    """And what is taken for a whole source would be taken for a whole result, and the other way round."""
    reading = await read(pictures, tmp_path / "file", data)
    found = await measured(pictures, tmp_path / "file", PIXELS_MAX)
    content = reading.content
    if reading.sign is not Sign.HARD and content.pixels <= PIXELS_MAX:
        # A source without its end may be on its way, and is taken in the end; a result has to have one.
        whole = (content.width, content.height, content.format)
        assert found == whole or (found is None and reading.sign is Sign.SOFT and content.format == "PNG")
    elif reading.reason.startswith("It does not decode") or reading.sign is not Sign.HARD:
        assert found is None


@fuzz(2)
@given(st.sampled_from([kind for kind, (_, _, format_) in KINDS.items() if format_]), sides, sides)
async def test_a_header_that_lies_costs_nothing(
    tmp_path: Path, pictures: VipsPictures, kind: str, width: int, height: int
) -> None:
    await read(pictures, tmp_path / "file", whole(kind))
    width, height = (min(side, SIDES_MAX[KINDS[kind][2]]) for side in (width, height))
    data = lying(kind, width, height)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reading = await read(pictures, tmp_path / "file", data)
    found = await measured(pictures, tmp_path / "file", PIXELS_MAX)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIB_MAX
    assert found is None or reading.content.pixels <= PIXELS_MAX
    if width * height > PIXELS_MAX:
        assert reading.sign is not Sign.HARD, "it is refused by its header alone"
        assert (reading.content.width, reading.content.height) == (width, height)
