"""The engine behind the real server: results, refusals, a worker that is killed, and what is said of it all."""

import os
import signal
import sys
from pathlib import Path

import networks
import numpy as np
import pytest
import pyvips
from engine_kit import captured, image, model, noise, pixels, smooth
from fakes.clock import HeldClock

from daemon.engine.process import Limits
from daemon.engine.speeds import Speed, Speeds
from daemon.server import RealEsrganUpscaler, UpscaleError

sys.path.insert(0, str(Path(__file__).parent.parent / "server"))

from server_kit import bench

pytest.importorskip("ncnn", reason="ncnn is not installed: pip install 'esrgand[local]'")


class Killer(RealEsrganUpscaler):
    """Kills its worker in the middle of the first picture that has a middle."""

    killed = 0

    def _step(self, step) -> None:
        super()._step(step)
        if step.done == 2 and not self.killed:
            self.killed += 1
            os.kill(self.worker.pid, signal.SIGKILL)


def engine(tmp_path, state=None, kind=RealEsrganUpscaler, **more):
    limits = Limits(threads=1, memory_max_mb=512, side_max=60)
    made = model(tmp_path, networks.nearest(4) if state is None else state, reach=6)
    return kind(made, limits, HeldClock(), captured()[0], **more)


async def ended(b, upscaler, content: bytes, **wanted):
    """A prediction from beginning to end."""
    return await b.over(await b.create(await b.upload(content), input=wanted))


async def test_a_prediction_is_the_network_s(tmp_path):
    upscaler = engine(tmp_path)
    given = noise(70, 50)
    async with bench(tmp_path / "server", upscaler) as b:
        answer = await ended(b, upscaler, image(given).write_to_buffer(".png"), scale=4)
        assert answer["status"] == "success", answer
        assert answer["logs"].splitlines()[0] == "engine: Real-ESRGAN (made) on this machine"
        assert "on CPU" in answer["logs"]
        assert (answer["metrics"]["cost"], answer["billed"]) == (0, False)
        _, content = await b.read(answer["output"])
    await upscaler.close()
    made = pixels(pyvips.Image.new_from_buffer(content, ""))
    assert (made == given.repeat(4, axis=0).repeat(4, axis=1)).all()


async def test_scale_0_and_faces_are_refused(tmp_path):
    upscaler = engine(tmp_path)
    content = image(noise(20, 20)).write_to_buffer(".png")
    async with bench(tmp_path / "server", upscaler) as b:
        for wanted, said in [({"scale": 0}, "scale"), ({"face_enhance": True}, "face_enhance")]:
            answer = await ended(b, upscaler, content, **wanted)
            assert answer["status"] == "error"
            assert said in answer["output"]["error_message"]
            assert answer["output"]["retryable"] is False
    await upscaler.close()


async def test_faces_are_ignored_where_that_was_chosen_and_the_logs_say_so(tmp_path):
    upscaler = engine(tmp_path, faces="ignore")
    async with bench(tmp_path / "server", upscaler) as b:
        answer = await ended(b, upscaler, image(noise(20, 20)).write_to_buffer(".png"), face_enhance=True)
    await upscaler.close()
    assert answer["status"] == "success"
    assert "face_enhance was asked for and is ignored" in answer["logs"]


async def test_a_killed_worker_is_an_error_that_may_be_tried_again_and_nothing_else(tmp_path):
    upscaler = engine(tmp_path, networks.random(), kind=Killer)
    content = image(smooth(150, 100)).write_to_buffer(".png")
    async with bench(tmp_path / "server", upscaler) as b:
        answer = await ended(b, upscaler, content)
        assert answer["status"] == "error"
        assert answer["output"]["retryable"] is True
        assert answer["output"]["error_code"] == "PROVIDER_SERVER_ERROR"
        assert "killed" in answer["output"]["error_message"]
        assert (await ended(b, upscaler, content))["status"] == "success"
    await upscaler.close()
    assert not list((tmp_path / "server" / "scratch").iterdir())


async def test_a_cancelled_prediction_frees_the_machine(tmp_path):
    upscaler = engine(tmp_path, networks.random(features=64))
    async with bench(tmp_path / "server", upscaler) as b:
        prediction = await b.create(await b.upload(image(smooth(900, 900)).write_to_buffer(".webp"), "image/webp"))
        while upscaler.worker.pid is None:
            await b.get(prediction)
        await b.call("POST", f"/prediction/{prediction}/cancel")
        answer = await ended(b, upscaler, image(noise(20, 20)).write_to_buffer(".png"))
        assert answer["status"] == "success"
        assert (await b.get(prediction))["status"] == "cancelled"
    await upscaler.close()


async def test_a_damaged_model_is_said_to_whoever_asks(tmp_path):
    upscaler = engine(tmp_path)
    weights = tmp_path / "models" / "made.bin"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    with pytest.raises(UpscaleError, match="damaged") as caught:
        await upscaler.measure()
    assert caught.value.retryable
    await upscaler.close()


async def test_how_fast_it_is_is_measured_and_kept(tmp_path):
    speeds = Speeds(tmp_path / "engine.json")
    upscaler = engine(tmp_path, speeds=speeds)
    assert speeds.find("made", 1) is None
    measured = await upscaler.measure()
    assert speeds.find("made", 1) == measured
    assert measured.device == "CPU"
    (tmp_path / "a").write_bytes(image(smooth(400, 300)).write_to_buffer(".png"))
    await upscaler.upscale(tmp_path / "a", tmp_path / "b", 4.0, False)
    assert speeds.find("made", 1) is not None
    await upscaler.close()


def test_speeds_are_averaged_and_rubbish_is_as_good_as_none(tmp_path):
    speeds = Speeds(tmp_path / "engine.json")
    assert speeds.keep(Speed("a", 2, "CPU", 10.0)).megapixel_seconds == 10
    assert speeds.keep(Speed("a", 2, "CPU", 20.0)).megapixel_seconds == 15
    speeds.keep(Speed("a", 4, "CPU", 7.0))
    speeds.keep(Speed("a", 2, "A card", 1.0))
    assert speeds.find("a", 2) == Speed("a", 2, "A card", 1.0)
    for rubbish in ("", "[]", '{"speeds": [1]}', "\0", '{"speeds": [{"model": "a"}]}'):
        (tmp_path / "engine.json").write_text(rubbish)
        assert speeds.find("a", 2) is None
    assert Speeds(tmp_path / "no" / "folder").keep(Speed("a", 2, "CPU", 1.0)).megapixel_seconds == 1


def test_grey_is_three_equal_colours_there_and_their_luma_back(tmp_path):
    from daemon.engine.pixels import LUMA, as_input

    grey = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    given = as_input(grey, 255)
    assert given.shape == (3, 3, 4)
    assert (given[0] == given[2]).all()
    assert abs(LUMA.sum() - 1) < 1e-6
