"""
Check: try all that the daemon needs, with the daemon's own adapters, and say what to mend.

Nothing is paid and nothing stays behind. Status 0 where everything works (advice may remain), 1 where something does
not.
"""

import asyncio
import contextlib
import email.utils
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from daemon import commands, loop, wiring
from daemon import config as configuration
from daemon.adapters import control, mounts
from daemon.adapters import log as logs
from daemon.adapters.clock import SystemClock
from daemon.adapters.database import examine, opened
from daemon.adapters.disk_faults import fault_from
from daemon.adapters.files import Files
from daemon.adapters.http import Http, Lane, Peer
from daemon.adapters.ledger_desk import state_paths
from daemon.adapters.listener import Listener
from daemon.adapters.outboxes import Outboxes
from daemon.adapters.records import identity_of
from daemon.api import Api, start_embedded
from daemon.config_values import EMBEDDED, is_loopback
from daemon.exits import Exit
from daemon.rules.faults import Fault, Gate

if TYPE_CHECKING:
    from daemon.config_model import Config, FolderConfig
    from daemon.local import Engine

SKEW_SECONDS_MAX = 120.0
ROOM_BYTES_MIN = 1 << 30
WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")
FOLDERS_COUNTED_MAX = 1_000_000


class Findings:
    """What was tried, as it is printed."""

    def __init__(self) -> None:
        self.wrong = 0
        self._said: set[str] = set()

    def good(self, text: str) -> None:
        """It works."""
        print(f"  ok    {text}")

    def advise(self, text: str) -> None:
        """It works, and could be better."""
        print(f"  mind  {text}")

    def bad(self, text: str) -> None:
        """It does not work."""
        if text not in self._said:  # One wrong key breaks several things, and is told once.
            self._said.add(text)
            self.wrong += 1
            print(f"  WRONG {text}")

    @contextmanager
    def trying(self, what: str, about: str = "") -> Iterator[None]:
        """A fault inside is what is wrong. about: with what, where the fault's own words do not say."""
        try:
            yield
        except Fault as fault:
            self.bad(f"{about}{fault.said} {fault.remedy}".rstrip())
        else:
            self.good(what)


def check(path: Path) -> Exit:
    """`esrgand check`."""
    config = configuration.load(path)
    key, token = commands.secrets(config)
    logs.configure("error", config.log.format, sys.stderr, [key.reveal()] if key.reveal() else [])
    findings = Findings()
    findings.good(f"the configuration {path} is right")
    for exposure in commands.exposures(config, key, token, commands.hook_secret(config)):
        findings.advise(exposure)
    loop.run(_check(config, key.reveal(), findings))
    print("Everything works." if not findings.wrong else f"{findings.wrong} to mend.")
    return Exit.HOUSE if findings.wrong else Exit.DONE


async def _check(config: "Config", key: str, findings: Findings) -> None:
    clock, log = SystemClock(), structlog.get_logger()
    with findings.trying(f"state_dir {config.state_dir} can be written"):
        wiring.make_state_dir(config.state_dir)
    if exposure := configuration.exposed_folder(config.state_dir):
        findings.advise(exposure)
    for folder in config.folders:
        await asyncio.to_thread(_folder, folder, findings)
    await asyncio.to_thread(_owners, config, findings)
    await _listener(config, findings)
    async with AsyncExitStack() as stack:
        if config.api.base_url == EMBEDDED:
            stack.callback(shutil.rmtree, config.state_dir / "check", ignore_errors=True)
            engine = None
            with findings.trying("the embedded prediction server starts"):
                api, engine = await start_embedded(config, config.state_dir / "check" / "server", clock, log, stack)
            if engine is None:
                return
            await _engine(engine, config, findings)
        else:
            base_url = config.api.base_url
            api = Api(base_url, key, base_url, local=is_loopback(urlsplit(base_url).hostname or ""))
        http = Http(clock, insecure_loopback=api.local)
        stack.push_async_callback(http.close)
        predictor, storage = wiring.services(config, api, http, clock)
        stack.push_async_callback(storage.close)
        with findings.trying(f"{api.name} accepts the key"):
            await predictor.check()
        with findings.trying(f"the storage ({config.storage.kind}) takes, gives and deletes an object"):
            await storage.check()
            for advice in await storage.advice():
                findings.advise(advice)
        with contextlib.suppress(Fault):
            await _clock(http, api.base_url, clock, findings)


async def _engine(engine: "Engine", config: "Config", findings: Findings) -> None:
    """What upscales, tried out."""
    if engine.network is None:
        (findings.advise if engine.why else findings.good)(f"the engine is {engine.said}")
        return
    with findings.trying(f"the engine {engine.upscaler.name} runs", "engine: "):
        speed = await engine.speed()
        if speed is not None:
            findings.good(f"on {speed.device}, about {speed.megapixel_seconds:.1f} s for a megapixel")
    if config.server.face_enhance == "refuse" and any(folder.face_enhance for folder in config.folders):
        findings.bad("face_enhance is asked for by a folder and refused by this engine; see [server] face_enhance.")


async def _listener(config: "Config", findings: Findings) -> None:
    """Whether the port is free, or our own running daemon has it."""
    if config.http.address is None:
        return
    with contextlib.suppress(Fault):
        if await asyncio.to_thread(control.ask, state_paths(config.state_dir)[2], {"ask": "status"}) is not None:
            return
    listener = Listener(list, _nothing, None)
    with findings.trying(f"[http] listen {config.http.listen} is free"):
        await listener.start(*config.http.address)
    await listener.close()


async def _nothing() -> dict[str, Any]:
    return {}


async def _clock(http: Http, base_url: str, clock: SystemClock, findings: Findings) -> None:
    """A signed URL is refused where the clocks differ; every HTTP answer tells the other side's time."""
    peer = Peer("The prediction API", Gate.API)
    async with http.request(Lane.API, "GET", base_url, peer, seconds=20) as response:
        told = email.utils.parsedate_to_datetime(response.headers["Date"]) if "Date" in response.headers else None
    if told is None:
        return
    skew = clock.wall() - told.timestamp()
    if abs(skew) > SKEW_SECONDS_MAX:
        findings.bad(f"This machine's clock is {skew:+.0f} s off; set it by NTP.")
    else:
        findings.good("the clock agrees with the API's")


def _folder(folder: "FolderConfig", findings: Findings) -> None:
    inbox, outbox = folder.inbox, folder.outbox
    if not os.path.isdir(inbox):  # noqa: PTH112  (Path.is_dir raises where a folder above is closed to us)
        findings.bad(f"inbox {inbox} is not there, or a folder above it is closed to this user; make it, or mount it.")
    elif not os.access(inbox, os.R_OK | os.X_OK):
        findings.bad(f"inbox {inbox} may not be read; give this user the right to.")
    else:
        mount = mounts.mount_of(inbox)
        kind = mounts.watch_kind(inbox) if folder.watch == "auto" else folder.watch
        findings.good(f"inbox {inbox} ({mount.fstype if mount else 'unknown file system'}, watched: {kind})")
        if kind == "native":
            _watches(inbox, findings)
        if folder.after != "keep" and not os.access(inbox, os.W_OK):
            findings.bad(f'inbox {inbox} may not be written, so after = "{folder.after}" cannot be done.')
    places = [("outbox", outbox), ("archive", folder.archive), ("failed", folder.failed)]
    for name, place in places:
        if place is not None:
            with findings.trying(f"{name} {place} takes files, and renames them", f"{name}: "):
                _writable(place)
    if os.access(outbox, os.W_OK) and shutil.disk_usage(outbox).free < ROOM_BYTES_MIN:
        findings.advise(f"outbox {outbox} has less than 1 GiB of room left.")


def _owners(config: "Config", findings: Findings) -> None:
    """Whether another ledger fills one of our outboxes."""
    ledger, register = state_paths(config.state_dir)[0], config.state_dir / "outboxes.json"
    identity = None if ledger.exists() else ""
    if ledger.exists():
        with findings.trying("the ledger can be read"), opened(ledger, read_only=True) as db:
            identity = identity_of(db)
            examine(db, ledger)
    if identity is None:
        return  # Our own outboxes would be called another's.
    outboxes = Outboxes(Files(), register, identity)
    for folder in config.folders:
        anothers = False
        with contextlib.suppress(OSError):
            anothers = outboxes.is_anothers(folder.outbox)
        if anothers:
            findings.bad(
                f"outbox {folder.outbox} belongs to another ledger of esrgand. Give each esrgand an outbox of its "
                "own. If that other ledger is gone for good, start once with --take-over; what still lies in the "
                "inbox is then upscaled, and paid for, again."
            )


def _writable(place: Path) -> None:
    final = os.fsencode(place) + b"/.esrgand-check"
    try:
        Files().write(final, b"esrgand check", replace=True)
        Files().unlink(final)
    except OSError as error:
        raise fault_from(error, place, Gate.OUTBOX) from error


def _watches(inbox: Path, findings: Findings) -> None:
    """inotify needs a watch a folder; without enough of them the scan alone finds new files."""
    try:
        most = int(WATCHES.read_text())
    except (OSError, ValueError):
        return
    for count, _ in enumerate(os.walk(inbox), start=1):
        if count > min(most, FOLDERS_COUNTED_MAX):
            findings.advise(
                f"{inbox} has more folders than fs.inotify.max_user_watches = {most}: raise it, or new pictures are "
                "only found by the scan."
            )
            return
