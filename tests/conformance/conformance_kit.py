"""What the suites share: parts of the simulation, for tests that live in real time."""

import asyncio
import inspect
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from simulation.engine import Machine, VirtualLoop

T = TypeVar("T")


class Virtual:
    """A machine of the simulation that is on, in a loop of its own, whose time is virtual."""

    def __init__(self, seed: int = 0) -> None:
        self.machine = Machine(seed)
        self.loop = self.machine.loop = VirtualLoop(0.0)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end; in a thread, since no thread runs two loops."""
        return await asyncio.to_thread(self.loop.run_until_complete, work)

    def part(self, part: Any) -> Any:
        """The same part, to be called from any loop."""
        return _Part(part, self)

    def close(self) -> None:
        self.loop.close()


class _Part:
    def __init__(self, part: Any, virtual: Virtual) -> None:
        self._part = part
        self._virtual = virtual

    def __getattr__(self, name: str) -> Any:
        what = getattr(self._part, name)
        if not callable(what):
            return what

        def call(*args: Any, **more: Any) -> Any:
            answer = what(*args, **more)
            if inspect.iscoroutine(answer):
                return self._virtual.run(answer)
            return _Inside(answer, self._virtual) if isinstance(answer, AbstractAsyncContextManager) else answer

        return call


class _Inside:
    def __init__(self, context: Any, virtual: Virtual) -> None:
        self._context = context
        self._virtual = virtual

    async def __aenter__(self) -> Any:
        return await self._virtual.run(self._context.__aenter__())

    async def __aexit__(self, *why: Any) -> Any:
        return await self._virtual.run(self._context.__aexit__(*why))
