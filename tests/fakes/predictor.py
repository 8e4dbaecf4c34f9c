"""A prediction API in memory, for tests of what lies above the Predictor port."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import BinaryIO

from daemon.ports import Progress, Running, Succeeded
from daemon.rules.faults import Blame, Created, Fault, Gate, Outlook, Unknown
from daemon.rules.hooks import Hook
from daemon.rules.recipe import Recipe

OUTPUT = "https://result.test/x.png"
DONE = Succeeded(OUTPUT, 0.004, 16.1)


def refused(status: int = 429, retry_after: float | None = None) -> Fault:
    """Nothing was created for certain."""
    lasting = Outlook.LASTING if status in (401, 402) else Outlook.PASSING
    return Fault(
        f"The API answered {status}.",
        blame=Blame.SERVICE,
        gate=Gate.API,
        outlook=lasting,
        retry_after=retry_after,
        rate_limited=status == 429,
    )


def cut() -> Fault:
    """The answer got lost; the prediction may exist."""
    return Fault("The API cut the connection.", blame=Blame.SERVICE, gate=Gate.API, created=Created.MAYBE)


class FakePredictor:
    """The Predictor port.

    creates: what the next creates meet, one each; None lets one pass, as it does when there is none left. A fault with
    `created` MAYBE makes a prediction all the same where `arrives` is set. answers: what the next questions about a
    prediction get, one each; afterwards it is done. on_create: is awaited inside each create.
    """

    def __init__(self) -> None:
        self.creates: deque[Fault | None] = deque()
        self.arrives = False
        self.answers: deque[Progress | Fault] = deque()
        self.lookups: deque[Fault | None] = deque()
        self.on_create: Callable[[str], Awaitable[None]] | None = None
        self.urls: list[str] = []
        self.hooks: list[Hook | None] = []
        self.made: dict[str, str] = {}
        self.asked: list[str] = []
        self.searched: list[str] = []
        self.since: list[float] = []
        self.creating = 0
        self.creating_most = 0
        self.running: set[str] = set()
        self.running_most = 0
        self.ahead = 0.0
        self.checks: deque[Fault | None] = deque()
        self.checked = 0

    async def create(self, recipe: Recipe, image_url: str, hook: Hook | None = None) -> str:
        assert image_url not in self.urls, "one URL, one create"
        self.urls.append(image_url)
        self.hooks.append(hook)
        self.creating += 1
        self.creating_most = max(self.creating_most, self.creating)
        try:
            if self.on_create is not None:
                await self.on_create(image_url)
            await asyncio.sleep(0)
            fault = self.creates.popleft() if self.creates else None
            if fault is None or (fault.created is Created.MAYBE and self.arrives):
                self.made[image_url] = f"prediction-{len(self.made) + 1}"
                self.running.add(self.made[image_url])
                self.running_most = max(self.running_most, len(self.running))
            if fault is not None:
                raise fault
            return self.made[image_url]
        finally:
            self.creating -= 1

    async def get(self, prediction: str) -> Progress:
        self.asked.append(prediction)
        await asyncio.sleep(0)
        answer: Progress | Fault = self.answers.popleft() if self.answers else DONE
        if isinstance(answer, Fault):
            raise answer
        if prediction not in self.made.values():
            raise Unknown("The API does not know this prediction.")
        if not isinstance(answer, Running):
            self.running.discard(prediction)
        return answer

    async def find(self, model: str, image_url: str, since: float, others: Collection[str] = ()) -> str | None:
        self.searched.append(image_url)
        self.since.append(since)
        await asyncio.sleep(0)
        if self.lookups and (fault := self.lookups.popleft()):
            raise fault
        found = self.made.get(image_url)
        return None if found in others else found

    async def download(self, url: str, sink: BinaryIO, bytes_max: int) -> int:
        raise Fault("There is nothing to fetch here.", blame=Blame.SERVICE, gate=Gate.FETCH)

    async def check(self) -> None:
        self.checked += 1
        if self.checks and (fault := self.checks.popleft()):
            raise fault

    async def close(self) -> None:
        return None
