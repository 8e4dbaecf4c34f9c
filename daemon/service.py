"""
Service: one run of the daemon, from a configuration to an exit status; signals, lock, readiness, shutdown.

SIGTERM and SIGINT: no new work; running steps finish or are left where a restart finds them, within 20 s; a second
signal hurries. A start is cut short by either. SIGHUP: the configuration is read again; a wrong one is told and the old
one stays. Exit statuses are in `exits.py`. Whatever is told to a person is told once, in the log.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from structlog.typing import FilteringBoundLogger

from daemon import __version__, desk
from daemon.adapters.control import ControlServer
from daemon.adapters.ledger_desk import state_paths
from daemon.adapters.listener import Ear, Listener
from daemon.adapters.systemd import Notifier
from daemon.api import Api, start_embedded
from daemon.config import exposed_folder
from daemon.config_values import EMBEDDED, is_loopback
from daemon.dispatcher import Dispatcher
from daemon.exits import AtOnce, Exit
from daemon.gates import Gates
from daemon.health import Health
from daemon.intake import Intake
from daemon.loop import unless
from daemon.outcome import Outcome
from daemon.ports import Clock
from daemon.rules.faults import Fault, Gate, LedgerBroken
from daemon.rules.hooks import Hooks
from daemon.rules.lifecycle import State
from daemon.wiring import Wired, make_state_dir, take_lock, wire

if TYPE_CHECKING:
    from daemon.config import Secret
    from daemon.config_model import Config

GRACE_SECONDS = 15.0  # of the 20 that a service manager is promised
BEAT_SECONDS = 2.0
PREFLIGHT_SECONDS_MAX = 10.0

# Configuration, API key, the listener's token, and what webhooks have to show.
Settings: TypeAlias = "tuple[Config, Secret, Secret | None, Secret | None]"


class Orders:
    """What a person or the service manager wants, as it comes in by signals."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.reload = asyncio.Event()
        self.any = asyncio.Event()
        self.new: Settings | None = None

    def listen(self) -> None:
        """Take over the signals."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask_stop)
        loop.add_signal_handler(signal.SIGHUP, self.ask_reload)

    def ask_stop(self) -> None:
        """Stop; asked twice: at once."""
        (self.hurry if self.stop.is_set() else self.stop).set()
        self.any.set()

    def ask_reload(self) -> None:
        """Read the configuration again."""
        self.reload.set()

    def take_up(self, new: Settings) -> None:
        """End the present run for a new one."""
        self.new = new
        self.any.set()

    def start_again(self) -> None:
        """The new run begins."""
        self.new = None
        self.any.clear()

    def end(self, status: Exit) -> Exit:
        """How the program ends. Raises AtOnce where a person is in a hurry."""
        if self.hurry.is_set():
            raise AtOnce(status)
        return status


@dataclass(frozen=True)
class _Started:
    """What a run that has begun consists of."""

    wired: Wired
    dispatcher: Dispatcher
    intake: Intake
    health: Health
    outcome: Outcome


@dataclass
class Service:
    """once: end when nothing is left to do. key, token, hook: secrets in the clear. on_beat: is told the counts.

    take_over: mark the outboxes as ours, whoever marked them. told: whether the log has begun, so that an error belongs
    there. summary: what `once` did, in lines for people.
    """

    config: "Config"
    key: str
    token: str | None
    hook: str | None
    clock: Clock
    log: FilteringBoundLogger
    notifier: Notifier
    orders: Orders
    once: bool = False
    take_over: bool = False
    on_beat: Callable[[dict[State, int], list[str]], None] | None = None
    exit: Exit = Exit.DONE
    told: bool = False
    summary: list[str] = field(default_factory=list)
    _ready: bool = False
    _refused: bool = False

    async def run(self) -> Exit:
        """Everything, until it is stopped, told to read its configuration again, or done."""
        make_state_dir(self.config.state_dir)
        if reason := exposed_folder(self.config.state_dir):
            self.log.warning("state_dir_exposed", reason=reason)
        lock = take_lock(self.config.state_dir)
        try:
            async with AsyncExitStack() as stack:
                await self._run(stack)
        finally:
            os.close(lock)
        return self.exit

    async def _api(self, stack: AsyncExitStack) -> Api:
        base_url = self.config.api.base_url
        if base_url == EMBEDDED:
            data_dir = self.config.state_dir / "server"
            return (await start_embedded(self.config, data_dir, self.clock, self.log, stack))[0]
        return Api(base_url, self.key, base_url, local=is_loopback(urlsplit(base_url).hostname or ""))

    async def _run(self, stack: AsyncExitStack) -> None:
        # Places and addresses that do not answer take their time at the start, and a signal does not wait for them.
        started = await unless(self.orders.any, self._start(stack))
        if started is None:
            self._tell_stopping()
            return
        if not self.once or self.exit is Exit.DONE:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = started.intake.start(group) + started.dispatcher.start(group)
                    group.create_task(self._until_over(tasks, started), name="beat")
            except BaseExceptionGroup as errors:
                broken, rest = errors.split(LedgerBroken)
                if broken is None or rest is not None:
                    raise
                fault = next(iter(_leaves(broken)))
                raise fault from None
        if self.once:
            self.summary = await started.outcome.summary()

    def _tell_stopping(self, **fields: object) -> None:
        if self.orders.stop.is_set() or self.once:
            self.notifier.stopping()
        if self.orders.stop.is_set() and self.once:
            self.exit = Exit.PICTURES
        self.log.info("stopping", **fields)

    async def _start(self, stack: AsyncExitStack) -> _Started:
        """All that comes before the first picture."""
        config, clock = self.config, self.clock
        started_at = clock.wall()
        api = await self._api(stack)
        wired = await wire(config, api, clock, self.log, stack, take_over=self.take_over)
        gates = Gates(clock, self.log)
        folders = {folder.id: folder for folder in wired.folders}
        hooks = Hooks(config.webhook.public_url, self.hook, wired.ledger.identity) if self.hook else None
        dispatcher = Dispatcher(config, wired.world, gates, wired.folders, hooks)
        await dispatcher.prepare()
        intake = Intake(config, wired.world, folders, wired.wakes, wired.queues, dispatcher.poke, dispatcher.stopping)
        now = clock.monotonic()
        health = Health(clock, dispatcher, folders, started_at=now, ledger_at=now)
        office = desk.Desk(config, wired, dispatcher, intake, health, lambda: self._ready)
        control = ControlServer(state_paths(config.state_dir)[2], office.answer)
        await control.start()
        stack.push_async_callback(control.close)
        if config.http.address is not None:
            ear = Ear(self.hook, dispatcher.ears.hear, self._refuse_webhook) if self.hook else None
            listener = Listener(health.problems, office.status, self.token, ear)
            stack.push_async_callback(listener.close)
            host, port = config.http.address
            self.log.info("listening", host=host, port=await listener.start(host, port))
        self.told = True
        inboxes = [str(f.config.inbox) for f in wired.folders]
        self.log.info("started", version=__version__, api=api.name, engine=api.engine or None, folders=inboxes)
        await self._preflight(wired, gates)
        return _Started(wired, dispatcher, intake, health, Outcome(wired, dispatcher, intake, health, started_at))

    def _refuse_webhook(self) -> None:
        """Told once: it may be a stranger, or the service may show the secret in another way."""
        if not self._refused:
            self._refused = True
            reason = "A webhook came without the secret of [webhook] secret_file; such are ignored, and polls go on."
            self.log.warning("webhook_refused", reason=reason)

    async def _preflight(self, wired: Wired, gates: Gates) -> None:
        """Look at the key and the bucket once, so that what is wrong is told at the start and not with a picture."""

        async def look(check: Any, gate: Gate) -> Fault | None:
            try:
                async with asyncio.timeout(PREFLIGHT_SECONDS_MAX):
                    await check()
            except Fault as fault:
                gates.close(gate.value, fault)
                return fault
            except TimeoutError:
                return None
            return None

        faults = await asyncio.gather(
            look(wired.world.predictor.check, Gate.API), look(wired.world.storage.check, Gate.STORAGE)
        )
        if self.once and any(faults):
            self.exit = Exit.HOUSE

    async def _until_over(self, tasks: list[asyncio.Task[None]], started: _Started) -> None:
        """Beat until it is over, then end the tasks, gently."""
        while not self.orders.any.is_set():
            await self._beat(started.wired, started.health)
            if self.once and await self._is_done(started.outcome):
                break
            await self.clock.wait(self.orders.any, BEAT_SECONDS if self._ready and not self.once else BEAT_SECONDS / 8)
        self._tell_stopping(in_flight=await started.wired.ledger.count(State.SUBMITTED, State.SUBMITTING))
        await end_gently(tasks, started.dispatcher, self.orders.hurry)

    async def _beat(self, wired: Wired, health: Health) -> None:
        """Feel every pulse; tell the service manager."""
        counts = await wired.ledger.counts()
        health.ledger_at = self.clock.monotonic()
        scanned = all(f.detector.scans > 0 or f.detector.fault is not None for f in wired.folders)
        problems = health.problems()
        text = desk.in_short(counts, problems)
        if not self._ready and scanned:
            self._ready = True
            self.notifier.ready(text)
            self.log.info("watching")
        else:
            self.notifier.status(text)
        if not health.stalls():
            self.notifier.watchdog()
        if self.on_beat is not None:
            self.on_beat(counts, problems)

    async def _is_done(self, outcome: Outcome) -> bool:
        """For `once`: whether nothing is left to do; sets the exit status."""
        if outcome.is_stuck():
            self.exit = Exit.HOUSE
            return True
        if not await outcome.is_over():
            return False
        self.exit = await outcome.status()
        return True


async def end_gently(tasks: list[asyncio.Task[None]], dispatcher: Dispatcher, hurry: asyncio.Event) -> None:
    """No new work: those that only wait end at once, those in a step when it is done, or when hurried."""
    dispatcher.stopping.set()
    busy = [task for task in tasks if task in dispatcher.busy_tasks]
    for task in tasks:
        if task not in busy:
            task.cancel()
    if busy:
        hurried = asyncio.create_task(hurry.wait())
        finished = asyncio.create_task(asyncio.wait(busy))
        await asyncio.wait({hurried, finished}, timeout=GRACE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        finished.cancel()
    for task in tasks:
        task.cancel()


def _leaves(group: BaseExceptionGroup[LedgerBroken]) -> list[LedgerBroken]:
    found: list[LedgerBroken] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
