"""
Wiring: from a configuration to the real adapters, in the order in which they need one another.

Everything that is opened is closed again, in reverse. Raises Fault with a sentence (a port in use, a state directory
that cannot be written) and ConfigError; nothing is half open after that.
"""

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from daemon import __version__
from daemon.adapters import mounts
from daemon.adapters.disk import HouseDisk
from daemon.adapters.files import Files
from daemon.adapters.folder import DiskInbox
from daemon.adapters.hosted import HostedPredictor
from daemon.adapters.http import Http
from daemon.adapters.ledger import SqliteLedger
from daemon.adapters.ledger_desk import is_inbox_awaited, state_paths
from daemon.adapters.outboxes import AnotherLedgers, Outboxes
from daemon.adapters.picture import VipsPictures
from daemon.adapters.places import Places
from daemon.adapters.vendor_upload import VendorStorage
from daemon.adapters.watch import InboxWatcher
from daemon.api import Api
from daemon.config import ConfigError, read_secret
from daemon.intake import WINDOW
from daemon.pipeline.detect import Detector
from daemon.pipeline.write import Writer
from daemon.ports import Clock, Inbox, Predictor, Storage, Watcher, mark
from daemon.ports_pictures import Pictures
from daemon.rules.faults import Blame, Fault, Outlook
from daemon.rules.lifecycle import STAGED, State
from daemon.rules.names import Selection
from daemon.rules.settling import Candidate
from daemon.world import Folder, World

if TYPE_CHECKING:
    from daemon.config_model import Config, FolderConfig

MOUNT_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Wired:
    """Everything, ready to run.

    wakes: one event a folder, set when its detector should step. queues: what settled. engine: as in `Api`.
    """

    world: World
    ledger: SqliteLedger
    folders: list[Folder]
    wakes: dict[int, asyncio.Event]
    queues: dict[int, asyncio.Queue[Candidate]]
    engine: str = ""


def make_state_dir(state_dir: Path) -> None:
    """Make the state directory; refuse one on a network file system, where SQLite's locks are not to be trusted."""
    mount = mounts.mount_of(state_dir)
    if mount is not None and mounts.is_network(mount.fstype):
        raise Fault(
            f"state_dir {state_dir} is on a network file system ({mount.fstype}); the ledger is not safe there.",
            blame=Blame.HOUSE,
            outlook=Outlook.LASTING,
            remedy="Choose a folder on a local disk.",
        )
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = state_dir / ".esrgand-probe"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise Fault(
            f"state_dir {state_dir} cannot be written ({error.strerror}).",
            blame=Blame.HOUSE,
            outlook=Outlook.LASTING,
            remedy="Make the folder and give it to the user that esrgand runs as.",
        ) from error


def take_lock(state_dir: Path) -> int:
    """The lock that only one process may hold; returns its descriptor. Raises Fault where another has it."""
    descriptor = os.open(state_paths(state_dir)[1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        other = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise Fault(
            f"Another esrgand (process {other or 'unknown'}) is at work with the state directory {state_dir}.",
            blame=Blame.HOUSE,
            outlook=Outlook.LASTING,
            remedy="Stop that one, or give this one a state_dir and folders of its own.",
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


@dataclass(frozen=True, slots=True)
class Parts:
    """The adapters, real or simulated. inbox: a folder's, with what watches it and how long a file must be quiet."""

    predictor: Predictor
    storage: Storage
    pictures: Pictures
    files: Files
    disk: HouseDisk
    ledger: SqliteLedger
    inbox: "Callable[[FolderConfig], Awaitable[tuple[Inbox, Watcher | None, float]]]"


async def wire(
    config: "Config",
    api: Api,
    clock: Clock,
    log: FilteringBoundLogger,
    stack: AsyncExitStack,
    *,
    take_over: bool = False,
) -> Wired:
    """Make every adapter; `stack` closes them.

    take_over: mark the outboxes as ours, whoever marked them, and take the inboxes for what is there now.
    """
    http = Http(clock, insecure_loopback=api.local)
    stack.push_async_callback(http.close)
    predictor, storage = services(config, api, http, clock)
    stack.push_async_callback(storage.close)
    pictures = VipsPictures(pixels_max=config.decoded_pixels_max)
    stack.callback(pictures.close)
    files = Files()
    disk = HouseDisk(config.state_dir / "staging", files)
    stack.callback(disk.close)
    ledger = SqliteLedger(state_paths(config.state_dir)[0], clock)
    stack.push_async_callback(ledger.close)

    places = Places(files, config.state_dir / "mounts.json")
    if take_over:
        await asyncio.to_thread(places.forget, [p for each in config.folders for p in (each.inbox, *_archives(each))])

    async def inbox(folder: "FolderConfig") -> tuple[Inbox, Watcher | None, float]:
        return await _inbox(folder, stack, places, ledger)

    parts = Parts(predictor, storage, pictures, files, disk, ledger, inbox)
    return await assemble(config, api, parts, clock, log, take_over=take_over)


async def assemble(
    config: "Config", api: Api, parts: Parts, clock: Clock, log: FilteringBoundLogger, *, take_over: bool = False
) -> Wired:
    """Open the ledger, settle what a crash left half done, and put everything together."""
    ledger, disk = parts.ledger, parts.disk
    await ledger.open()
    for job in await ledger.jobs_in(State.FETCHED):
        await ledger.deliveries.finish(job, clock.wall())
    await disk.prepare(await ledger.jobs_in(*STAGED), await ledger.jobs_failed())
    outboxes = [folder.outbox for folder in config.folders]
    ours = Outboxes(parts.files, config.state_dir / "outboxes.json", ledger.identity, outboxes if take_over else ())
    try:
        await disk.fill(ours, outboxes, [folder.failed for folder in config.folders if folder.failed is not None])
    except AnotherLedgers as fault:
        raise ConfigError([f"{fault.said} {fault.remedy}"]) from None
    # What was being written when it ended is written again, or its picture has left since.
    await disk.tidy(await ledger.deliveries.abandoned())
    writer = Writer(
        ledger=ledger,
        disk=disk,
        pictures=parts.pictures,
        clock=clock,
        api=api.name,
        version=__version__,
        warnings=(api.warning,) if api.warning else (),
    )
    world = World(api.identity, clock, log, ledger, parts.storage, parts.predictor, disk, parts.pictures, writer)
    wakes: dict[int, asyncio.Event] = {}
    queues: dict[int, asyncio.Queue[Candidate]] = {}
    # Together: each may wait for a mount that hangs.
    inboxes = await asyncio.gather(*(parts.inbox(each) for each in config.folders))
    folders = [
        await _folder(each, inbox, world, parts, wakes, queues)
        for each, inbox in zip(config.folders, inboxes, strict=True)
    ]
    return Wired(world, ledger, folders, wakes, queues, api.engine)


def services(config: "Config", api: Api, http: Http, clock: Clock) -> tuple[Predictor, Storage]:
    """The prediction API and the storage. Raises ConfigError."""
    # The API was told it with each create, and may quote it in any answer.
    place = config.webhook.secret_file if config.webhook.public_url else None
    secrets = (read_secret("webhook.secret_file", place).reveal(),) if place else ()
    predictor = HostedPredictor(
        api.base_url,
        api.key,
        http,
        clock,
        auth=config.api.auth,
        secrets=secrets,
        create_seconds_max=config.api.create_seconds_max,
    )
    return predictor, _storage(config, api, http, clock, secrets)


def _storage(config: "Config", api: Api, http: Http, clock: Clock, secrets: tuple[str, ...]) -> Storage:
    settings = config.storage
    if settings.kind == "vendor":
        return VendorStorage(
            api.base_url,
            api.key,
            http,
            clock,
            auth=config.api.auth,
            secrets=secrets,
            url_seconds=int(settings.url_seconds),
        )
    from daemon.adapters.gcs import GcsStorage

    return GcsStorage(
        bucket=settings.bucket,
        prefix=settings.prefix,
        clock=clock,
        credentials_file=settings.credentials_file,
        url=settings.url,
        public_base_url=settings.public_base_url,
        url_seconds=int(settings.url_seconds),
        uploads_max=settings.uploads_max,
    )


def _archives(config: "FolderConfig") -> list[Path]:
    return [place for place in (config.archive, config.failed) if place is not None]


async def _inbox(
    config: "FolderConfig", stack: AsyncExitStack, places: Places, ledger: SqliteLedger
) -> tuple[Inbox, Watcher | None, float]:
    async def is_awaited() -> bool:
        return await ledger.read(lambda db: is_inbox_awaited(db, bytes(config.inbox)))

    selection = Selection(config.include, config.exclude)
    inbox = DiskInbox(config.inbox, selection, recursive=config.recursive, places=places, is_awaited=is_awaited)
    stack.callback(inbox.close)
    kind = "polling"
    try:
        async with asyncio.timeout(MOUNT_SECONDS_MAX):
            kind = await inbox.aside(lambda: mounts.watch_kind(config.inbox))
            for place in _archives(config):
                await inbox.remember(place)
    except TimeoutError:
        pass  # A mount hangs; the other folders do not wait for it.
    watcher = None
    if (kind if config.watch == "auto" else config.watch) == "native":
        watcher = InboxWatcher(config.inbox, recursive=config.recursive)
        stack.callback(watcher.end)
    return inbox, watcher, config.quiet(on_network=kind == "polling")


async def _folder(
    config: "FolderConfig",
    watched: tuple[Inbox, Watcher | None, float],
    world: World,
    parts: Parts,
    wakes: dict[int, asyncio.Event],
    queues: dict[int, asyncio.Queue[Candidate]],
) -> Folder:
    inbox, watcher, quiet_seconds = watched
    id_ = await parts.ledger.folder(bytes(config.inbox), config.order)
    wakes[id_] = event = asyncio.Event()
    queue: asyncio.Queue[Candidate] = asyncio.Queue(maxsize=WINDOW)
    queues[id_] = queue
    loop = asyncio.get_running_loop()

    def wake() -> None:
        loop.call_soon_threadsafe(event.set)

    detector = Detector(
        folder=id_,
        inbox=inbox,
        clock=world.clock,
        quiet_seconds=quiet_seconds,
        scan_seconds=config.scan_seconds,
        known={mark(path, look) for path, look in await parts.ledger.known(id_)},
        has_room=lambda: not queue.full(),
        hand=queue.put_nowait,
        wake=wake,
        watcher=watcher,
        give_up_seconds=config.give_up_seconds,
    )
    return Folder(id_, config, inbox, detector)
