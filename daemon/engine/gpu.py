"""
Graphics cards: which Vulkan device runs the network, where one was asked for, and whether it can be trusted.

ncnn falls back to the CPU without a word where there is no driver, and takes a driver that computes on the CPU for a
card: both are looked at here. A device that gives another picture than the CPU is not used. Only the worker imports
this.
"""

import ncnn
import numpy as np

from daemon.engine.network import LARGE, Network, NotUsable
from daemon.engine.protocol import Setup

# ncnn's type of a device that is no card but a program.
SOFTWARE = 3
# How far a card's pixels may be from the CPU's: 8 of 255.
DIFFERENCE_MAX = 8 / 255


def chosen(setup: Setup) -> tuple[Network, Network, tuple[str, ...]]:
    """The network where it is to run; the same on the CPU, whose memory can be measured; and what there is to say.

    Raises NotUsable.
    """
    cpu = Network(setup)
    if setup.vulkan == "off":
        return cpu, cpu, ()
    found = device(setup.vulkan)
    if found is None:
        lack = "no graphics card" if setup.vulkan == "auto" else "no such device"
        return cpu, cpu, (f'vulkan = "{setup.vulkan}": there is {lack}; the CPU is used',)
    number, name = found
    try:
        card = Network(setup, number)
        worst = difference(cpu, card)
    except (NotUsable, MemoryError):
        return cpu, cpu, (f"the device {name} cannot run the network; the CPU is used",)
    if not worst <= DIFFERENCE_MAX:
        return cpu, cpu, (f"the device {name} gives other pixels than the CPU; the CPU is used",)
    card.device = name
    return card, cpu, ()


def device(wanted: str) -> tuple[int, str] | None:
    """Number and name of the device: with "auto" the best card, else the first whose name contains `wanted`."""
    ncnn.create_gpu_instance()
    devices = [(number, ncnn.get_gpu_info(number)) for number in range(ncnn.get_gpu_count())]
    if wanted == "auto":
        # Cards (0) come before what is part of the processor (1).
        cards = sorted((info.type(), number) for number, info in devices if info.type() != SOFTWARE)
        return (cards[0][1], ncnn.get_gpu_info(cards[0][1]).device_name()) if cards else None
    named = [(number, info.device_name()) for number, info in devices if wanted.lower() in info.device_name().lower()]
    return named[0] if named else None


def difference(one: Network, other: Network) -> float:
    """How far two networks are apart at worst, on a picture with flat, smooth and busy parts."""
    y, x = np.mgrid[0:LARGE, 0:LARGE].astype(np.float32) / LARGE
    probe = np.stack([x, y, 0.5 + 0.5 * np.sin(40 * x * y)]).astype(np.float32)
    return float(np.abs(np.clip(one.run(probe), 0, 1) - np.clip(other.run(probe), 0, 1)).max())
