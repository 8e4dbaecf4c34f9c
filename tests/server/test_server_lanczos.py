"""The engine that resamples: exact sizes, true pixels, alpha, and what it refuses."""

import asyncio
import gc
import math
import threading

import pytest
import pyvips
from server_kit import bench, image

from daemon.server import LanczosUpscaler, UpscaleError
from daemon.server.lanczos import resample


def made(tmp_path, content: bytes, scale: float) -> pyvips.Image:
    (tmp_path / "source").write_bytes(content)
    resample(tmp_path / "source", tmp_path / "target.png", scale, threading.Event())
    return pyvips.Image.pngload(str(tmp_path / "target.png"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((40, 30), 4, (160, 120)),
        ((40, 30), 1, (40, 30)),
        ((41, 30), 2.5, (102, 75)),
        ((163, 85), 7, (1141, 595)),
        ((40, 30), 0.5, (20, 15)),
        ((7, 3), 10, (70, 30)),
        ((3, 3), 0.1, (1, 1)),
        ((1, 1), 3.3, (3, 3)),
        ((101, 77), 1.01, (102, 78)),
    ],
)
def test_sizes_and_flat_colours(tmp_path, suffix, size, scale, expected):
    result = made(tmp_path, image(*size, suffix=suffix, colour=(200, 200, 200)), scale)
    assert (result.width, result.height) == expected
    assert result.bands == 3
    assert (result.min(), result.max()) == (200, 200)


def test_it_is_lanczos_as_its_name_says(tmp_path):
    dot = (pyvips.Image.black(21, 21).draw_rect(150, 10, 10, 1, 1) + 50).cast("uchar").copy(interpretation="b-w")
    result = made(tmp_path, dot.write_to_buffer(".png"), 4)

    def sinc(x: float) -> float:
        return math.sin(math.pi * x) / (math.pi * x) if x else 1.0

    def lanczos(x: float) -> float:
        return sinc(x) * sinc(x / 3) if abs(x) < 3 else 0.0

    def weight(place: int) -> float:
        centre = (place + 0.5) / 4 - 0.5
        return lanczos(centre - 10) / sum(lanczos(centre - tap) for tap in range(21))

    for x in range(24, 60):
        for y in (35, 38, 41, 45):
            assert abs(result(x, y)[0] - (50 + 150 * weight(x) * weight(y))) <= 0.51


def test_transparent_colours_do_not_bleed(tmp_path):
    left = pyvips.Image.black(8, 8, bands=4).linear(1, [255, 0, 0, 255]).cast("uchar")
    right = pyvips.Image.black(8, 8, bands=4).linear(1, [0, 255, 0, 0]).cast("uchar")
    content = left.join(right, "horizontal").copy(interpretation="srgb").write_to_buffer(".png")
    result = made(tmp_path, content, 3)
    assert (result.bands, result.hasalpha()) == (4, True)
    assert result(3, 12) == [255, 0, 0, 255]
    assert result(44, 12)[3] == 0
    assert result[1].max() == 0, "the green that nobody sees has not come through"


def test_sixteen_bits_grey_and_cmyk(tmp_path):
    deep = (pyvips.Image.black(9, 9, bands=3) + 40_000).cast("ushort").copy(interpretation="rgb16")
    result = made(tmp_path, deep.write_to_buffer(".png"), 2)
    assert (result.format, result.min(), result.max()) == ("ushort", 40_000, 40_000)
    grey = (pyvips.Image.black(9, 9) + 77).cast("uchar").copy(interpretation="b-w")
    assert made(tmp_path, grey.write_to_buffer(".png"), 2).bands == 1
    inks = (pyvips.Image.black(9, 9, bands=4) + 30).cast("uchar").copy(interpretation="cmyk")
    assert made(tmp_path, inks.write_to_buffer(".jpg"), 2).bands == 3


def test_orientation_is_ignored_and_metadata_is_dropped(tmp_path):
    picture = pyvips.Image.new_from_buffer(image(40, 20, ".jpg"), "").copy()
    picture.set_type(pyvips.GValue.gint_type, "orientation", 6)
    content = picture.write_to_buffer(".jpg", profile="srgb")
    assert {"exif-data", "icc-profile-data"} <= set(pyvips.Image.new_from_buffer(content, "").get_fields())
    result = made(tmp_path, content, 2)
    assert (result.width, result.height) == (80, 40)
    assert not {"exif-data", "icc-profile-data", "orientation"} & set(result.get_fields())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_truncated_picture_is_refused_for_good(tmp_path, suffix):
    noise = pyvips.Image.gaussnoise(200, 200, seed=1).cast("uchar").copy(interpretation="b-w")
    content = noise.write_to_buffer(suffix)
    with pytest.raises(UpscaleError, match="could not be decoded") as error:
        made(tmp_path, content[: len(content) * 2 // 3], 2)
    assert error.value.retryable is False


def test_a_result_that_cannot_be_written_may_be_tried_again(tmp_path):
    (tmp_path / "source").write_bytes(image())
    with pytest.raises(UpscaleError, match="could not be written") as error:
        resample(tmp_path / "source", tmp_path / "no such directory" / "a.png", 2, threading.Event())
    assert error.value.retryable is True


async def test_a_cancelled_run_ends_its_thread(tmp_path, caplog):
    (tmp_path / "source").write_bytes(image(1400, 1400))
    upscaler = LanczosUpscaler()
    run = asyncio.create_task(upscaler.upscale(tmp_path / "source", tmp_path / "target.png", 10, False))
    async with asyncio.timeout(10):
        while not (tmp_path / "target.png").exists():
            await asyncio.to_thread(lambda: None)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        # The thread is free: the next run gets it at once, and the first one is far from its end.
        await upscaler.upscale(tmp_path / "source", tmp_path / "small.png", 0.1, False)
    with pytest.raises(pyvips.Error):
        pyvips.Image.pngload(str(tmp_path / "target.png"), fail_on="warning").avg()
    gc.collect()
    assert "asyncio" not in {record.name for record in caplog.records}, "a failure that nobody looked at"


async def test_through_the_server(tmp_path):
    async with bench(tmp_path, LanczosUpscaler()) as b:
        url = await b.upload(image(31, 17, ".webp"), "image/webp")
        done = await b.over(await b.create(url, input={"scale": 3.5, "face_enhance": True}))
        assert done["status"] == "success"
        assert "lanczos resampling, not a neural network" in done["logs"]
        assert "face_enhance was asked for and not done" in done["logs"]
        status, content = await b.read(done["output"])
        result = pyvips.Image.pngload_buffer(content)
        assert (status, result.width, result.height) == (200, 108, 60)
        again = await b.over(await b.create(done["output"], input={"scale": 0.5}))
        assert again["status"] == "success", "a result is a picture like any other"
