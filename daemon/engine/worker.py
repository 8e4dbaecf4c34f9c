"""
Worker: the process that runs the network, so that the daemon cannot be taken along by it.

    python -m daemon.engine.worker          (started by `process.py`; speaks `protocol.py` on its standard streams)

One picture at a time, at low priority, and never more data than it was allowed. It ends when its standard input does,
and with its parent even in the middle of a picture. Whatever can be said is said in a line; a process that dies has
said nothing, and its parent draws the conclusion.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyvips

from daemon.engine.enlarging import enlarge
from daemon.engine.gpu import chosen
from daemon.engine.network import LARGE, SMALL, NotUsable
from daemon.engine.pixels import Unreadable, Unwritable
from daemon.engine.protocol import Done, Failed, Measure, Message, Order, Ready, Setup, Unfit, line, read
from daemon.engine.tiling import Appetite, overlap_of

NICENESS = 10
# The side of the window by which the speed is measured: short, and large enough to be typical.
PROBE = 160
PR_SET_PDEATHSIG = 1
STATUS = Path("/proc/self/status")


class Worker:
    """say: sends a line to the parent. is_held: whether the kernel keeps the process to its memory; else we do."""

    def __init__(self, setup: Setup, say: Callable[[Message], None], *, is_held: bool = True) -> None:
        self._is_held = is_held
        self._setup = setup
        self._say = say
        self._parent = os.getppid()

    def load(self) -> None:
        """Load and try the model, and choose how much one run takes. Raises NotUsable and MemoryError."""
        setup = self._setup
        # What a card takes of its own memory nobody tells; it is about what the CPU takes.
        network, measured, notes = chosen(setup)
        self._network, self._overlap = network, setup.overlap if setup.overlap is not None else overlap_of(setup.reach)
        resting = taken("VmData")
        _forget_peak()
        measured.test(SMALL)
        little = taken("VmHWM")
        measured.test(LARGE)
        appetite = Appetite.between((SMALL**2, little), (LARGE**2, taken("VmHWM")))
        # The process's own data at rest, not what it shares with others, is what the limit is about.
        appetite = Appetite(resting, appetite.by_pixel)
        side = appetite.side(setup.memory_bytes_max, self._overlap)
        if side is None:
            least = appetite.least(self._overlap) / 2**20
            raise NotUsable(
                f"memory_max_mb = {setup.memory_bytes_max >> 20} is too little for the model {setup.name}: "
                f"it needs {least:.0f}."
            )
        self._side = min(side, setup.side_max or side)
        self._say(Ready(network.scale, network.device, self._side, self._overlap, notes))

    def answer(self, message: Message) -> None:
        """One order from beginning to end."""
        try:
            if isinstance(message, Measure):
                side = min(self._side, PROBE)
                self._network.run(np.full((3, side, side), 0.5, np.float32))
                # As many pixels of a source as a run of this size stands for, the usual overlap left out.
                own = side * (1 - 2 * self._overlap / self._side)
                self._say(Done(0, 0, round(own * own), 1))
            elif isinstance(message, Order):
                self._say(enlarge(self._network, message, self._side, self._overlap, self._step))
        except Unreadable:
            self._say(Failed("The input image could not be decoded", retryable=False))
        except (OSError, Unwritable):
            self._say(Failed("The result could not be written", retryable=True))
        except MemoryError:
            # The next picture, or the same again, gets by with less.
            self._side = max(16 + 2 * self._overlap, self._side * 2 // 3)
            most = self._setup.memory_bytes_max >> 20
            self._say(Failed(f"The engine ran out of memory: memory_max_mb = {most} was not enough", retryable=True))

    def _step(self, step: Message) -> None:
        if os.getppid() != self._parent:
            sys.exit(1)  # Where the kernel did not say so.
        if not self._is_held and taken("VmRSS") > self._setup.memory_bytes_max:
            raise MemoryError
        self._say(step)


def taken(what: str) -> int:
    """VmData (own data now), VmRSS (in memory now) or VmHWM (the most that ever was), in bytes."""
    return next(int(row.split()[1]) << 10 for row in STATUS.read_text().splitlines() if row.startswith(what + ":"))


def _forget_peak() -> None:
    """Let VmHWM begin anew. Where the kernel does not, the estimate comes out low and the limit still holds."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _settle_in() -> BinaryIO:
    """The process's manners; returns the stream for our own lines, which no library's printing gets into."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):  # A sandbox may forbid that, and then somebody has set a priority.
        os.nice(NICENESS)
    own = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)
    return own


def main() -> None:
    """Read orders until there are no more."""
    out = _settle_in()

    def say(message: Message) -> None:
        out.write(line(message))

    setup = read(sys.stdin.buffer.readline())
    assert isinstance(setup, Setup), "the parent begins with it"
    most = setup.memory_bytes_max
    is_held = setup.vulkan == "off"  # Drivers reserve far more than they take.
    try:
        if is_held:
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    except (OSError, ValueError):
        is_held = False  # A sandbox may forbid that too, or keep to less; Python's word for either is ValueError.
    worker = Worker(setup, say, is_held=is_held)
    try:
        worker.load()
    except NotUsable as error:
        say(Unfit(str(error)))
        return
    except MemoryError:
        say(Unfit(f"memory_max_mb = {most >> 20} is too little for the model {setup.name}: give it more."))
        return
    for text in sys.stdin.buffer:
        worker.answer(read(text))


if __name__ == "__main__":
    main()
