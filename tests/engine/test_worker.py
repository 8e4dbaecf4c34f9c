"""The worker's process: what it makes is exact, and whatever becomes of it ends one picture and nothing else."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import networks
import numpy as np
import pytest
import pyvips
from engine_kit import Bench, image, model, noise, pixels, smooth, worker
from fakes.clock import FakeClock, HeldClock

from daemon.engine.process import EngineFailed, Limits, cause_of_death, environment
from daemon.engine.protocol import Order, Ready, Setup, line, read

pytest.importorskip("ncnn", reason="ncnn is not installed: pip install 'esrgand[local]'")


def larger(array: np.ndarray, factor: int) -> np.ndarray:
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def is_running(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
async def test_nearest_neighbour_is_exact_through_loading_tiles_alpha_and_bits(tmp_path, factor, bits, bands):
    given = noise(61, 45, bands, bits=bits)
    if bands in (2, 4):
        given[:, :, -1] |= 1  # Nothing without opacity: that would be given its neighbours' colours.
    async with worker(tmp_path, model(tmp_path, networks.nearest(factor)), side_max=48) as bench:
        made = await bench.made(image(given), factor)
        assert len(bench.steps) == 12
    assert made.dtype == given.dtype
    assert (made == larger(given, factor)).all()


async def test_one_worker_makes_one_picture_after_another_of_any_size(tmp_path):
    async with worker(tmp_path, model(tmp_path, networks.nearest(4)), side_max=64) as bench:
        seen = set()
        for width, height in [(1, 1), (1, 200), (200, 1), (3, 3), (64, 64), (97, 31)]:
            given = noise(width, height)
            assert (await bench.made(image(given), 4) == larger(given, 4)).all()
            seen.add(bench.process.pid)
        assert len(seen) == 1


@pytest.mark.parametrize("scale", [0.5, 1, 1.01, 2, 2.5, 3.99, 7, 10])
async def test_sizes_are_rounded_down_and_flat_stays_flat(tmp_path, scale):
    async with worker(tmp_path, model(tmp_path, networks.nearest(4)), side_max=64) as bench:
        made = await bench.made(image(np.full((45, 61, 3), (200, 100, 50), np.uint8)), scale)
    assert made.shape == (int(45 * scale), int(61 * scale), 3)
    assert (made == (200, 100, 50)).all()


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
async def test_every_format_is_read(tmp_path, suffix):
    async with worker(tmp_path, model(tmp_path, networks.nearest(2)), side_max=64) as bench:
        given = image(smooth(90, 70)).write_to_buffer(suffix)
        wanted = pixels(pyvips.Image.new_from_buffer(given, ""))
        assert (await bench.made(given, 2) == larger(wanted, 2)).all()


async def test_cmyk_becomes_rgb(tmp_path):
    cmyk = image(smooth(40, 30)).colourspace("cmyk").write_to_buffer(".jpg")
    async with worker(tmp_path, model(tmp_path, networks.nearest(2))) as bench:
        assert (await bench.made(cmyk, 2)).shape == (60, 80, 3)


async def test_an_overlap_of_the_reach_gives_the_whole_picture_and_one_less_does_not(tmp_path):
    """The rim is made by the same ten pixels beyond it, whatever the tiles."""
    made = {}
    deep = networks.REACH
    for overlap, side in [(deep + 10, 512), (deep + 10, 60), (deep, 512), (deep, 40), (deep - 1, 512), (deep - 1, 40)]:
        limits = {"overlap": overlap, "side_max": side}
        async with worker(tmp_path, model(tmp_path, networks.random(), reach=deep), **limits) as bench:
            made[overlap, side] = await bench.made(image(smooth(100, 70)), 4)
            assert (len(bench.steps) == 1) == (side == 512)

    def others(overlap: int, side: int) -> int:
        return int((abs(made[overlap, 512].astype(int) - made[overlap, side]) > 1).sum())

    # The last bits of a sum depend on where a window begins: a value in ten thousand falls on the other side of a half.
    assert others(deep + 10, 60) == others(deep, 40) == 0
    assert (made[deep, 512] != made[deep, 40]).mean() < 1e-3
    assert others(deep - 1, 40) > 1000


async def test_a_uniform_alpha_is_copied_and_costs_no_run(tmp_path):
    given = np.concatenate([smooth(50, 40), np.full((40, 50, 1), 77, np.uint8)], axis=2)
    async with worker(tmp_path, model(tmp_path, networks.random(), reach=6)) as bench:
        made = await bench.made(image(given), 4)
        assert (made[:, :, 3] == 77).all()
        assert (made[:, :, :3] == await bench.made(image(smooth(50, 40)), 4)).all()


async def test_the_colour_of_what_nobody_sees_does_not_show(tmp_path):
    """Around a shape the hidden pixels are garish; of the result's visible pixels none has anything of that."""
    given = np.zeros((40, 60, 4), np.uint8)
    given[:, :, :3] = (0, 255, 0)
    given[10:30, 20:45] = (200, 20, 20, 255)
    async with worker(tmp_path, model(tmp_path, networks.nearest(4)), side_max=60) as bench:
        for scale in (4, 2.7):
            made = await bench.made(image(given), scale)
            visible = made[made[:, :, 3] > 0][:, :3].astype(int)
            assert len(visible)
            assert (abs(visible - (200, 20, 20)) <= 1).all()


async def test_orientation_is_left_to_others(tmp_path):
    turned = image(smooth(40, 30)).copy()
    turned.set_type(pyvips.GValue.gint_type, "orientation", 6)
    async with worker(tmp_path, model(tmp_path, networks.nearest(2))) as bench:
        made = await bench.made(turned.write_to_buffer(".jpg"), 2)
    assert made.shape == (60, 80, 3)
    assert "orientation" not in pyvips.Image.pngload(str(tmp_path / "target.png")).get_fields()


async def test_damaged_pictures_fail_alone(tmp_path):
    whole = image(noise(120, 90)).write_to_buffer(".png")
    async with worker(tmp_path, model(tmp_path, networks.nearest(2)), side_max=64) as bench:
        pid = None
        for content in (whole[: len(whole) // 2], whole[:40], whole[:60] + bytes(400) + whole[460:]):
            with pytest.raises(EngineFailed, match="could not be decoded") as caught:
                await bench.perform(content, 2)
            assert not caught.value.retryable
            assert bench.process.pid == (pid or bench.process.pid)
            pid = bench.process.pid
        assert (await bench.made(whole, 2)).shape == (180, 240, 3)


async def test_a_picture_for_which_there_is_no_memory_is_not_called_damaged(tmp_path):
    """An interlaced PNG is decoded as a whole."""
    black = pyvips.Image.black(7000, 7000, bands=3).copy(interpretation="srgb")
    async with worker(tmp_path, model(tmp_path, networks.nearest(2)), memory_max_mb=140) as bench:
        with pytest.raises(EngineFailed, match="memory_max_mb = 140 was not enough") as caught:
            await bench.perform(black.pngsave_buffer(interlace=True, compression=1), 1)
        assert caught.value.retryable
        assert (await bench.made(image(noise(20, 20)), 2)).shape == (40, 40, 3)


async def test_a_target_that_cannot_be_written_may_work_later(tmp_path):
    async with worker(tmp_path, model(tmp_path, networks.nearest(2))) as bench:
        (tmp_path / "target.png").mkdir()
        with pytest.raises(EngineFailed, match="could not be written") as caught:
            await bench.perform(image(noise(20, 20)), 2)
        assert caught.value.retryable


async def test_a_killed_worker_fails_one_picture_and_is_replaced(tmp_path):
    async with worker(tmp_path, model(tmp_path, networks.random(features=64), reach=6), side_max=60) as bench:
        bench.on_step = lambda step: os.kill(bench.process.pid, signal.SIGKILL) if step.done == 3 else None
        with pytest.raises(EngineFailed, match=r"killed \(SIGKILL\) in the middle") as caught:
            await bench.perform(image(smooth(400, 300)), 4)
        assert caught.value.retryable
        assert bench.process.pid is None
        assert not (tmp_path / "target.png").exists()
        bench.on_step = lambda step: None
        assert (await bench.made(image(smooth(40, 30)), 4)).shape == (120, 160, 3)
    assert [event["event"] for event in bench.capture.entries] == ["engine_started", "engine_died", "engine_started"]


async def test_a_cancelled_order_takes_its_worker_along(tmp_path):
    async with worker(tmp_path, model(tmp_path, networks.random(features=64), reach=6), side_max=60) as bench:
        stepped = asyncio.Event()
        bench.on_step = lambda step: stepped.set()
        running = asyncio.create_task(bench.perform(image(smooth(600, 600)), 4))
        await stepped.wait()
        pid = bench.process.pid
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not is_running(pid)
        assert (await bench.made(image(smooth(40, 30)), 4)).shape == (120, 160, 3)


async def test_never_more_than_one_picture_and_one_worker(tmp_path):
    async with worker(tmp_path, model(tmp_path, networks.nearest(2)), side_max=40) as bench:
        await asyncio.gather(*(bench.perform(image(noise(60, 60)), 2) for _ in range(3)))
        count = bench.steps[0][1]
        assert bench.steps == [(n, count) for n in range(1, count + 1)] * 3
        assert [event["event"] for event in bench.capture.entries] == ["engine_started"]


async def test_an_idle_worker_ends(tmp_path):
    clock = HeldClock()
    async with worker(tmp_path, model(tmp_path, networks.nearest(2)), clock) as bench:
        await bench.perform(image(noise(20, 20)), 2)
        pid = bench.process.pid
        await clock.let_pass(59)
        assert is_running(pid)
        await clock.let_pass(2)
        await asyncio.wait({bench.process._resting})
        assert not is_running(pid)
        assert (await bench.made(image(noise(20, 20)), 2)).shape == (40, 40, 3)
    assert [event["event"] for event in bench.capture.entries] == ["engine_started", "engine_rested", "engine_started"]


async def test_an_idle_worker_that_does_not_end_is_ended(tmp_path):
    clock = HeldClock()
    bench = Bench(tmp_path, model(tmp_path, networks.nearest(2)), Limits(threads=1), clock, dying_seconds=0.1)
    await bench.perform(image(noise(20, 20)), 2)
    pid = bench.process.pid
    os.kill(pid, signal.SIGSTOP)
    await clock.let_pass(61)
    assert (await bench.made(image(noise(20, 20)), 2)).shape == (40, 40, 3)
    assert not is_running(pid)
    await bench.process.close()


async def test_an_order_that_is_cancelled_as_it_wakes_the_worker_leaves_none_behind(tmp_path):
    clock = HeldClock()
    async with worker(tmp_path, model(tmp_path, networks.nearest(2)), clock) as bench:
        await bench.perform(image(noise(20, 20)), 2)
        pid = bench.process.pid
        waking = asyncio.create_task(bench.perform(image(noise(20, 20)), 2))
        asyncio.get_running_loop().call_soon(waking.cancel)
        await asyncio.gather(waking, return_exceptions=True)
        await clock.let_pass(61)
        assert waking.cancelled()
        assert not is_running(pid)


async def test_time_that_passes_at_once_is_no_trouble(tmp_path):
    async with worker(tmp_path, model(tmp_path, networks.nearest(2)), FakeClock()) as bench:
        for _ in range(3):
            assert (await bench.made(image(noise(20, 20)), 2)).shape == (40, 40, 3)


async def test_memory_is_chosen_by_and_kept_to(tmp_path):
    large = model(tmp_path, networks.random(features=64), reach=6)
    sides = {}
    for most in (192, 1024):
        async with worker(tmp_path, large, memory_max_mb=most) as bench:
            _, ready = await bench.perform(image(smooth(700, 500)), 4)
            sides[most] = ready.side
            with Path(f"/proc/{bench.process.pid}/status").open() as status:
                peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
            with Path(f"/proc/{bench.process.pid}/limits").open() as limits:
                held = next(line.split()[3] for line in limits if line.startswith("Max data size"))
            assert peak < most
            assert int(held) == most << 20
    assert sides[192] < sides[1024]


async def test_memory_does_not_grow_with_the_picture(tmp_path):
    peaks = []
    async with worker(tmp_path, model(tmp_path, networks.nearest(4)), side_max=160) as bench:
        for width, height in [(200, 150), (300, 300), (1200, 1500)]:
            await bench.perform(image(smooth(width, height)), 4)
            with Path(f"/proc/{bench.process.pid}/status").open() as status:
                peaks.append(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")))
    # The last result has 29 megapixels, twenty times those of the one before.
    assert peaks[2] - peaks[1] < 40


async def test_too_little_memory_is_a_sentence(tmp_path):
    for most in (32, 64, 80):
        async with worker(tmp_path, model(tmp_path, networks.random(features=64)), memory_max_mb=most) as bench:
            with pytest.raises(EngineFailed, match=f"memory_max_mb = {most} is too little"):
                await bench.perform(image(smooth(40, 30)), 4)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda param, weights: param.write_bytes(b""), "damaged"),
        (lambda param, weights: param.write_bytes(b"7767517\n"), "damaged"),
        (lambda param, weights: param.write_bytes(b"\xff" * 500), "damaged"),
        (lambda param, weights: param.write_bytes(param.read_bytes()[:100]), "damaged"),
        (
            lambda param, weights: param.write_text(param.read_text().replace("Convolution", "Conv0lution", 1)),
            "damaged",
        ),
        (lambda param, weights: param.write_text(param.read_text().replace("data", "date")), "damaged"),
        (lambda param, weights: param.write_text(param.read_text().replace("output", "outptu")), "damaged"),
        (lambda param, weights: param.write_text(param.read_text().replace("fine 0=4", "fine 0=3")), "engine"),
        (lambda param, weights: param.unlink(), "damaged"),
        (lambda param, weights: weights.write_bytes(b""), "damaged"),
        (lambda param, weights: weights.write_bytes(weights.read_bytes()[:1000]), "damaged"),
        (lambda param, weights: weights.write_bytes(b"\xff" * weights.stat().st_size), "damaged"),
        (lambda param, weights: weights.write_bytes(bytes(4) + b"\x7f" * (weights.stat().st_size - 4)), "damaged"),
        (lambda param, weights: weights.unlink(), "damaged"),
        (lambda param, weights: weights.write_bytes(weights.read_bytes()[:-4]), "damaged"),
        (lambda param, weights: weights.write_bytes(weights.read_bytes()[::-1]), "damaged"),
        (lambda param, weights: weights.write_bytes(weights.read_bytes()[4:] + bytes(4)), "damaged"),
        (lambda param, weights: param.write_text(param.read_text().replace("0=16 ", "0=-16 ")), "damaged"),
        (lambda param, weights: param.write_text(param.read_text().replace("0=16 ", "0=1600000 ")), "damaged"),
        (lambda param, weights: param.write_text(param.read_text().replace("0=48 ", "0=12 ")), "engine"),
        (lambda param, weights: param.write_text(param.read_text().replace(" b2 ", " b9 ", 1)), "damaged"),
        (
            lambda param, weights: param.write_text(param.read_text().replace("7767517", "7767517\n99999999 9")),
            "damaged",
        ),
    ],
)
async def test_a_damaged_model_is_a_sentence(tmp_path, damage, said):
    made = model(tmp_path, networks.random(), reach=6)
    damage(made.param, made.weights)
    async with worker(tmp_path, made) as bench:
        with pytest.raises(EngineFailed, match="The engine") as caught:
            await bench.perform(image(smooth(40, 30)), 4)
        assert said in caught.value.text
        assert bench.process.pid is None


def test_the_worker_ends_with_its_parent(tmp_path):
    """A parent that is killed says nothing to anybody."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-m', 'daemon.engine.worker'], stdin=0, stdout=1)\n"
            "print(child.pid, flush=True)\n"
            "child.wait()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(os.environ, 1),
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    made = model(tmp_path, networks.random(features=64), reach=6)
    pid = int(parent.stdout.readline())
    parent.stdin.write(line(Setup("made", str(made.param), str(made.weights), "data", "output", 6, 1, 512 << 20)))
    parent.stdin.flush()
    assert isinstance(read(parent.stdout.readline()), Ready)
    image(smooth(900, 900)).pngsave(str(tmp_path / "source"))
    parent.stdin.write(line(Order(str(tmp_path / "source"), str(tmp_path / "target.png"), "pngload", 4)))
    parent.stdin.flush()
    parent.stdout.readline()
    gone = os.pidfd_open(pid)
    parent.kill()
    parent.wait()
    assert select.select([gone], [], [], 20)[0]
    os.close(gone)
    parent.stdin.close()
    parent.stdout.close()
    assert not (tmp_path / "target.png").exists()


def test_a_worker_may_be_kept_to_less_than_it_is_allowed(tmp_path):
    """As by `ulimit -d`; a sandbox that forbids the call answers in the same way."""
    made = model(tmp_path, networks.nearest(2))
    most = 512 << 20
    setup = line(Setup("made", str(made.param), str(made.weights), "data", "output", 1, 1, 2 * most))
    kept = f"import resource as r, runpy; r.setrlimit(r.RLIMIT_DATA, ({most}, {most}));"
    run = kept + "runpy.run_module('daemon.engine.worker', run_name='__main__')"
    told = subprocess.run(
        [sys.executable, "-c", run], input=setup, stdout=subprocess.PIPE, env=environment(os.environ, 1), check=True
    )
    assert isinstance(read(told.stdout), Ready)


def test_what_a_worker_died_of_is_said():
    lacks = "ImportError: libgomp.so.1: cannot open shared object file"
    assert cause_of_death(1, 1024, False, lacks) == f"The engine cannot start: {lacks}"
    assert "memory_max_mb = 1024 is too little" in cause_of_death(-signal.SIGSEGV, 1024, False, lacks)
    assert "crashed (SIGSEGV) in the middle" in cause_of_death(-signal.SIGSEGV, 1024, True, lacks)
    assert "(status 1)" in cause_of_death(1, 1024, True, lacks)


def test_the_worker_is_told_no_secrets():
    told = environment({"ESRGAND_API_KEY": "secret", "HOME": "/home/ada", "PYTHONPATH": "/x"}, 3)
    assert "secret" not in told.values()
    assert told["HOME"] == "/home/ada"
    assert told["OMP_WAIT_POLICY"] == "PASSIVE"
    assert told["OMP_NUM_THREADS"] == "3"
