"""Vulkan: only where it was asked for, never a program for a card, and the same picture as the CPU's."""

import os

import networks
import pytest
from engine_kit import image, model, smooth, worker

pytest.importorskip("ncnn", reason="ncnn is not installed: pip install 'esrgand[local]'")

# A part of the name of a device that ncnn finds here, for example llvmpipe with Debian's mesa-vulkan-drivers.
DEVICE = os.environ.get("ESRGAND_TEST_VULKAN", "")
MEMORY_MB = 1024


@pytest.mark.parametrize("vulkan", ["off", "no such device"])
async def test_without_a_device_the_cpu_is_used_and_that_is_said(tmp_path, vulkan):
    async with worker(tmp_path, model(tmp_path, networks.nearest(4)), vulkan=vulkan, memory_max_mb=MEMORY_MB) as bench:
        _, ready = await bench.perform(image(smooth(40, 30)), 4)
    assert ready.device == "CPU"
    assert bool(ready.notes) == (vulkan != "off")
    assert all("the CPU is used" in note for note in ready.notes)


@pytest.mark.skipif(not DEVICE, reason="ESRGAND_TEST_VULKAN names no device")
async def test_a_device_that_is_named_gives_the_same_picture(tmp_path):
    made = {}
    for vulkan in ("off", DEVICE):
        limits = {"vulkan": vulkan, "side_max": 80, "memory_max_mb": MEMORY_MB}
        async with worker(tmp_path, model(tmp_path, networks.random(), reach=6), **limits) as bench:
            _, ready = await bench.perform(image(smooth(100, 70)), 4)
            made[vulkan] = (await bench.made(image(smooth(100, 70)), 4)).astype(int)
            assert (DEVICE.lower() in ready.device.lower()) == (vulkan == DEVICE)
    assert abs(made["off"] - made[DEVICE]).max() <= 8


@pytest.mark.skipif("llvmpipe" not in DEVICE, reason="ESRGAND_TEST_VULKAN does not name llvmpipe")
async def test_a_program_is_not_taken_for_a_card(tmp_path):
    async with worker(tmp_path, model(tmp_path, networks.nearest(4)), vulkan="auto", memory_max_mb=MEMORY_MB) as bench:
        _, ready = await bench.perform(image(smooth(40, 30)), 4)
    assert ready.device == "CPU"
    assert ready.notes == ('vulkan = "auto": there is no graphics card; the CPU is used',)
