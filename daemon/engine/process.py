"""
Process: the worker as the server has it: started when there is work, one at a time, ended when there is none.

Whatever becomes of the worker ends one order and nothing else, as `EngineFailed` with a sentence for whoever waits; the
next order gets a new worker. An order that is cancelled takes its worker along at once. Nothing here needs ncnn.
"""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from daemon.engine.model import Model
from daemon.engine.protocol import Done, Failed, Measure, Message, Order, Ready, Setup, Step, Unfit, line, read
from daemon.ports import Clock

PACKAGES = Path(__file__).parent.parent.parent
# A worker that says nothing for so long, not even that a tile is done, is stuck.
SILENCE_SECONDS_MAX = 1800.0
IDLE_SECONDS = 60.0
DYING_SECONDS_MAX = 5.0
LAST_WORDS = 20
# What nobody but us needs to know.
SECRETS = {"ESRGAND_API_KEY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}


class EngineFailed(Exception):
    """An order that gave no result. retryable: whether the same may do better later."""

    def __init__(self, text: str, retryable: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may take. threads: 0 for one on each core. memory_max_mb: MiB of data of its own.

    vulkan: "off", "auto", or a part of a device's name. overlap, side_max: for tests; None to choose.
    """

    threads: int = 0
    memory_max_mb: int = 1024
    vulkan: str = "off"
    overlap: int | None = None
    side_max: int | None = None

    @property
    def threads_really(self) -> int:
        """How many there will be."""
        return self.threads or len(os.sched_getaffinity(0))


class EngineProcess:
    """One worker for one model. on_step: is told of each tile. pid: of the worker, or None where none is there."""

    def __init__(
        self,
        model: Model,
        limits: Limits,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        idle_seconds: float = IDLE_SECONDS,
        dying_seconds: float = DYING_SECONDS_MAX,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self._model = model
        self._limits = limits
        self._clock = clock
        self._log = log
        self._idle_seconds = idle_seconds
        self._dying_seconds = dying_seconds
        self._on_step = on_step
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._ready: Ready | None = None
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._listening: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._resting: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process, for those who watch it."""
        return self._process.pid if self._process is not None else None

    async def perform(self, order: Order | Measure) -> tuple[Done, Ready]:
        """What the worker did, and what it is. Raises EngineFailed."""
        async with self._turn:
            try:
                await self._end_rest()
                ready = await self._started()
                await self._tell(order)
                while isinstance(answer := await self._hear(), Step):
                    if self._on_step is not None:
                        self._on_step(answer)
                if isinstance(answer, Failed):
                    raise EngineFailed(answer.text, answer.retryable)
                assert isinstance(answer, Done), "a worker that is ready answers orders"
            except EngineFailed:
                raise
            except BaseException:
                await self._kill()
                raise
            finally:
                if self._process is not None:
                    self._wanted = asyncio.Event()
                    self._resting = asyncio.create_task(self._rest(self._wanted), name="engine-rest")
        return answer, ready

    async def close(self) -> None:
        """End the worker."""
        async with self._turn:
            await self._end_rest()
            await self._kill()

    async def _started(self) -> Ready:
        if self._process is not None and self._process.returncode is None and self._ready is not None:
            return self._ready
        await self._kill()
        limits, model = self._limits, self._model
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "daemon.engine.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(os.environ, limits.threads_really),
            # Ctrl-C in a terminal is for the daemon, which ends its worker when it has done with it.
            start_new_session=True,
        )
        self._words.clear()
        self._listening = asyncio.create_task(self._listen(self._process), name="engine-words")
        setup = Setup(
            name=model.name,
            param=str(model.param),
            weights=str(model.weights),
            input=model.input,
            output=model.output,
            reach=model.reach,
            threads=limits.threads_really,
            memory_bytes_max=limits.memory_max_mb << 20,
            vulkan=limits.vulkan,
            overlap=limits.overlap,
            side_max=limits.side_max,
        )
        await self._tell(setup)
        answer = await self._hear()
        if not isinstance(answer, Ready):
            await self._kill()
            text = answer.text if isinstance(answer, Unfit) else "the worker does not answer as it should"
            raise EngineFailed(f"The engine cannot start: {text}")
        self._ready = answer
        self._log.info(
            "engine_started", model=model.name, device=answer.device, side=answer.side, notes=list(answer.notes)
        )
        return answer

    async def _tell(self, message: Message) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # What has become of it is found when its answer is read.
            self._process.stdin.write(line(message))
            await self._process.stdin.drain()

    async def _hear(self) -> Message:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(SILENCE_SECONDS_MAX):
                text = await self._process.stdout.readline()
        except TimeoutError:
            await self._kill()
            raise EngineFailed("The engine has not moved for half an hour and was ended") from None
        if text.endswith(b"\n"):
            return read(text)
        was_ready, self._ready = self._ready, None
        process = self._process
        await self._wait(process)  # Its own end says more than ours.
        await self._kill()
        self._log.warning("engine_died", status=process.returncode, last="\n".join(self._words))
        most, last = self._limits.memory_max_mb, self._words[-1] if self._words else ""
        raise EngineFailed(cause_of_death(process.returncode, most, was_ready is not None, last))

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Keep the last lines that libraries print."""
        assert process.stderr is not None
        while text := await process.stderr.read(4096):
            self._words.extend(text.decode(errors="replace").splitlines())

    async def _wait(self, process: asyncio.subprocess.Process) -> None:
        """Until it has ended by itself, but not for ever: a driver may hang at its end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._dying_seconds):
                await process.wait()

    async def _kill(self) -> None:
        process, self._process, self._ready = self._process, None, None
        if process is not None:
            await self._bury(process)

    async def _bury(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        if self._listening is not None:
            await self._listening

    async def _rest(self, wanted: asyncio.Event) -> None:
        """End a worker that nobody has wanted for a while."""
        if await self._clock.wait(wanted, self._idle_seconds):
            return
        process, self._process, self._ready = self._process, None, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()  # It ends by itself.
            await self._wait(process)
            await self._bury(process)
            self._log.info("engine_rested", model=self._model.name)

    async def _end_rest(self) -> None:
        if self._resting is not None:
            self._wanted.set()
            await asyncio.wait({self._resting})
            self._resting = None


def environment(ours: "os._Environ[str] | dict[str, str]", threads: int) -> dict[str, str]:
    """What the worker's libraries read before any code of ours runs."""
    theirs = {name: value for name, value in ours.items() if name.upper() not in SECRETS}
    paths = [str(PACKAGES), *filter(None, [ours.get("PYTHONPATH")])]
    return {
        **theirs,
        "PYTHONPATH": os.pathsep.join(paths),
        # Threads that wait must not spin: they would take the time of those that compute, and everybody else's.
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
        # The limit counts what is reserved, so nothing is reserved that is not needed, and what is free is given back.
        "OMP_STACKSIZE": "1M",
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": "1000000",
    }


def cause_of_death(status: int | None, memory_max_mb: int, was_ready: bool, last: str = "") -> str:
    """What to say of a worker that ended without an answer. last: the last line that it printed."""
    if not was_ready and status is not None and status > 0 and last:
        return f"The engine cannot start: {last[:200]}"  # Such as a library that is not there.
    if not was_ready:
        return (
            "The engine ended while it loaded the model: it is damaged (remove its files and install it again), or "
            f"memory_max_mb = {memory_max_mb} is too little"
        )
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        if -status == signal.SIGKILL:
            return f"The engine was killed ({name}) in the middle of the picture, perhaps because memory ran out"
        return f"The engine crashed ({name}) in the middle of the picture; memory_max_mb = {memory_max_mb} may be small"
    return f"The engine ended in the middle of the picture (status {status})"
