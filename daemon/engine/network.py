"""
Network: a model in ncnn, loaded, tried and measured, that makes one window of pixels larger.

Foreign code that forgives nothing: every return code is looked at, every array is copied before it is handed over, and
after each load the network must answer grey with grey, which also tells its true scale. Raises `NotUsable` with a
sentence where the model is no good, and `MemoryError` where its run finds no memory. Only the worker imports this.
"""

from typing import Any

import ncnn
import numpy as np
from numpy.typing import NDArray

from daemon.engine.model import SCALE_MAX
from daemon.engine.protocol import Setup

Pixels = NDArray[np.float32]

# Sides of the windows of the self-test, whose memory tells that of larger ones.
SMALL, LARGE = 32, 64


class NotUsable(Exception):
    """The model or the device cannot be used. The text is for a person."""


class Network:
    """gpu: the number of ncnn's device, or None for the CPU."""

    def __init__(self, setup: Setup, gpu: int | None = None) -> None:
        self._setup = setup
        self._blobs, self._work = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()
        self._gpu = gpu
        self.device = "CPU"
        self._net = net = ncnn.Net()
        net.opt.num_threads = setup.threads
        net.opt.use_vulkan_compute = gpu is not None
        if gpu is not None:
            net.set_vulkan_device(gpu)
        if net.load_param(setup.param) != 0:
            raise NotUsable(f"The model {setup.name} is damaged: ncnn does not understand {setup.param}.")
        # ncnn takes a picture for an index of blobs that are not there.
        if setup.input not in net.input_names() or setup.output not in net.output_names():
            raise NotUsable(f"The model {setup.name} is damaged: it lacks {setup.input} or {setup.output}.")
        if net.load_model(setup.weights) != 0:
            raise NotUsable(f"The model {setup.name} is damaged: ncnn cannot load {setup.weights}.")
        self.scale = self.test(SMALL)

    def run(self, window: Pixels) -> Pixels:
        """Three channels (3, height, width) from 0 to 1 to the same at the network's scale, not clipped."""
        extractor = self._net.create_extractor()
        if self._gpu is None:
            # A graphics card has allocators of its own.
            extractor.set_blob_allocator(self._blobs)
            extractor.set_workspace_allocator(self._work)
        # A Mat round an array does not keep the array alive: the name holds it until the clone has its own memory.
        held = np.ascontiguousarray(window, np.float32)
        given = ncnn.Mat(held).clone()
        try:
            if given.empty() or extractor.input(self._setup.input, given) != 0:
                raise MemoryError
            code, taken = extractor.extract(self._setup.output)
            if code != 0 or taken.empty():
                raise MemoryError
            result: Pixels = np.array(taken, np.float32)
        finally:
            # What the allocators keep for the next window would only be in its way: edges make other sizes.
            given = taken = extractor = None
            self._blobs.clear()
            self._work.clear()
        return result

    def test(self, side: int) -> int:
        """Grey in, grey out: what was loaded as weights may be anything. Returns the scale."""
        name = self._setup.name
        result = self.run(np.full((3, side, side), 0.5, np.float32))
        if result.ndim != 3 or result.shape[0] != 3 or result.shape[1] != result.shape[2] or result.shape[1] % side:
            shape: Any = " x ".join(str(each) for each in result.shape)
            raise NotUsable(
                f"The model {name} is none that enlarges pictures: it makes {shape} of 3 x {side} x {side}."
            )
        scale: int = result.shape[1] // side
        if not 1 <= scale <= SCALE_MAX:
            raise NotUsable(f"The model {name} enlarges by {scale}, which is not known here.")
        if not np.isfinite(result).all() or result.min() < 0.3 or result.max() > 0.7:
            raise NotUsable(
                f"The model {name} is damaged: it does not answer grey with grey. Remove "
                f"{self._setup.param} and install it again."
            )
        return scale
