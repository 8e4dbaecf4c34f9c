"""What every decoder promises: libvips, and the simulated one with pictures of its own kind."""

import hashlib
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
import pyvips
from conformance_kit import Virtual
from simulation.files import FOLDER, SimFiles
from simulation.inbox import SimPictures
from simulation.service import source_bytes

from daemon.adapters.picture import VipsPictures
from daemon.ports_pictures import Pictures, Reading
from daemon.rules.faults import Blame, Fault, NotAPicture
from daemon.rules.job import Content
from daemon.rules.settling import Sign
from daemon.rules.tiles import Rect
from daemon.rules.traits import Finish, Piece, Traits

WIDTH, HEIGHT = 40, 30
PIXELS = WIDTH * HEIGHT
JUNK = [b"", b"<html>Not found</html>", bytes(5000)]


@dataclass
class Arena:
    """good, cut: a picture, and one whose end is missing. source: opens bytes as an inbox would."""

    pictures: Pictures
    good: bytes
    cut: bytes
    source: Callable[[bytes], BinaryIO]
    put: Callable[[str, bytes], Path]
    get: Callable[[Path], bytes]
    traits: Traits


@pytest.fixture(params=["vips", "simulated"])
async def arena(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Arena]:
    if request.param == "vips":
        pictures = VipsPictures()
        yield vips_arena(pictures, tmp_path)
        pictures.close()
    else:
        virtual = Virtual()
        yield sim_arena(virtual)
        virtual.close()


def vips_arena(pictures: VipsPictures, folder: Path) -> Arena:
    noise = pyvips.Image.gaussnoise(WIDTH, HEIGHT, mean=128, sigma=40, seed=1).cast("uchar")
    good: bytes = noise.copy(interpretation="b-w").write_to_buffer(".png")

    def source(data: bytes) -> BinaryIO:
        return put("source", data).open("rb")

    def put(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return Arena(pictures, good, good[: len(good) // 2], source, put, Path.read_bytes, Traits(bands=1))


def sim_arena(virtual: Virtual) -> Arena:
    files = SimFiles(virtual.machine)
    files.root.live[b"/disk"] = FOLDER

    def put(name: str, data: bytes) -> Path:
        with files.open(Path("/disk") / name, "wb") as file:
            file.write(data)
        return Path("/disk") / name

    def get(path: Path) -> bytes:
        with files.open(path, "rb") as file:
            return file.read()

    pictures = virtual.part(SimPictures(files, virtual.machine))
    good, cut = source_bytes(1, WIDTH, HEIGHT), source_bytes(1, WIDTH, HEIGHT, good=False)
    return Arena(pictures, good, cut, io.BytesIO, put, get, Traits())


async def read(arena: Arena, data: bytes) -> Reading:
    with arena.source(data) as file:
        return await arena.pictures.read(file)


def no_content(data: bytes) -> Content:
    return Content(hashlib.sha256(data).hexdigest(), len(data), 0, 0, "")


# Sources


async def test_a_whole_picture(arena: Arena) -> None:
    content = Content(hashlib.sha256(arena.good).hexdigest(), len(arena.good), WIDTH, HEIGHT, "PNG")
    assert await read(arena, arena.good) == Reading(content, traits=arena.traits)


async def test_it_is_read_from_its_beginning_wherever_the_file_stands(arena: Arena) -> None:
    with arena.source(arena.good) as file:
        file.seek(5)
        first = await arena.pictures.read(file)
        assert await arena.pictures.read(file) == first
    assert (first.sign, first.content.bytes) == (None, len(arena.good))


async def test_a_cut_picture_has_a_hard_sign_and_a_reason(arena: Arena) -> None:
    reading = await read(arena, arena.cut)
    assert (reading.sign, reading.content) == (Sign.HARD, no_content(arena.cut))
    assert reading.reason.endswith(".")


@pytest.mark.parametrize("data", JUNK, ids=["nothing", "a page", "zeros"])
async def test_what_is_no_picture_has_a_hard_sign(arena: Arena, data: bytes) -> None:
    reading = await read(arena, data)
    assert (reading.sign, reading.content) == (Sign.HARD, no_content(data))


async def test_a_source_is_read_in_the_threads_of_its_inbox(arena: Arena) -> None:
    done: list[Reading] = []

    async def aside(work: Callable[[], Reading]) -> Reading:
        done.append(work())
        return done[0]

    with arena.source(arena.good) as file:
        reading = await arena.pictures.read(file, aside)
    assert done == [reading]
    assert reading == await read(arena, arena.good)


# Results


async def test_a_result_is_measured(arena: Arena) -> None:
    path = arena.put("result", arena.good)
    found = await arena.pictures.measure(path, PIXELS)
    assert (found.width, found.height, found.format) == (WIDTH, HEIGHT, "PNG")


async def test_a_result_that_is_cut_is_no_picture(arena: Arena) -> None:
    with pytest.raises(NotAPicture):
        await arena.pictures.measure(arena.put("result", arena.cut), PIXELS)


@pytest.mark.parametrize("data", JUNK, ids=["nothing", "a page", "zeros"])
async def test_what_came_instead_of_a_result_is_no_picture(arena: Arena, data: bytes) -> None:
    with pytest.raises(NotAPicture):
        await arena.pictures.measure(arena.put("result", data), PIXELS)


async def test_a_result_that_is_not_there_is_no_picture(arena: Arena) -> None:
    path = arena.put("result", arena.good)
    with pytest.raises(NotAPicture):
        await arena.pictures.measure(path.with_name("another"), PIXELS)


async def test_a_result_has_no_more_pixels_than_it_may(arena: Arena) -> None:
    path = arena.put("result", arena.good)
    with pytest.raises(NotAPicture):
        await arena.pictures.measure(path, PIXELS - 1)


# There and back


async def test_what_goes_up_is_a_whole_picture_that_looks_like_itself(arena: Arena) -> None:
    source = arena.put("source", arena.good)
    payload, keepsake = source.with_name("payload"), source.with_name("keepsake")
    prepared = await arena.pictures.prepare(source, Piece(Rect(0, 0, WIDTH, HEIGHT)), payload, keepsake)
    assert (prepared.format, prepared.bytes) == ("PNG", len(arena.get(payload)))
    measured = await arena.pictures.measure(payload, PIXELS, prepared.likeness)
    assert (measured.width, measured.height, measured.format) == (WIDTH, HEIGHT, "PNG")
    assert arena.get(keepsake)
    assert arena.get(source) == arena.good


async def test_a_cut_picture_does_not_go_up(arena: Arena) -> None:
    source = arena.put("source", arena.cut)
    with pytest.raises(NotAPicture):
        await arena.pictures.prepare(source, Piece(Rect(0, 0, WIDTH, HEIGHT)), source.with_name("payload"), None)


async def test_no_place_for_what_goes_up_is_the_houses_fault(arena: Arena) -> None:
    source = arena.put("source", arena.good)
    with pytest.raises(Fault) as caught:
        await arena.pictures.prepare(source, Piece(Rect(0, 0, WIDTH, HEIGHT)), source / "payload", None)
    assert caught.value.blame is Blame.HOUSE
    assert not isinstance(caught.value, NotAPicture)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "PNG"])
async def test_a_result_is_finished_where_there_is_something_to_do(arena: Arena, format_: str) -> None:
    result = arena.put("result", arena.good)
    parts = [(result, Rect(0, 0, WIDTH, HEIGHT))]
    finish = Finish((WIDTH, HEIGHT), format_, traits=arena.traits)
    changed, warnings = await arena.pictures.finish(parts, None, finish, result.with_name("target"))
    assert (changed, warnings) == (format_ != "PNG", [])
    assert arena.get(result) == arena.good
    if changed:
        measured = await arena.pictures.measure(result.with_name("target"), PIXELS)
        assert (measured.width, measured.height, measured.format) == (WIDTH, HEIGHT, format_)


@pytest.mark.parametrize("wrong", ["cut", "gone", "no place"])
async def test_what_cannot_be_finished_is_the_houses_fault(arena: Arena, wrong: str) -> None:
    """It was measured before: something happened to our own disk since."""
    source = arena.put("result", arena.cut if wrong == "cut" else arena.good)
    target = source.with_name("target")
    with pytest.raises(Fault) as caught:
        await arena.pictures.finish(
            [(source.with_name("none") if wrong == "gone" else source, Rect(0, 0, WIDTH, HEIGHT))],
            None,
            Finish((WIDTH, HEIGHT), "JPEG", traits=arena.traits),
            target / "x" if wrong == "no place" else target,
        )
    assert caught.value.blame is Blame.HOUSE
    assert not isinstance(caught.value, NotAPicture)
