"""
Commands: the daemon (`run`), one pass (`once`), and the prediction server alone (`serve`).

Each sets up the log, listens to signals and runs an event loop until it is over. What a person must know before the log
exists is raised as ConfigError or Fault; after that it is said in the log.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from daemon import config as configuration
from daemon import loop
from daemon.adapters import log as logs
from daemon.adapters.clock import SystemClock
from daemon.adapters.systemd import Notifier
from daemon.config import ConfigError, Secret
from daemon.config_values import EMBEDDED
from daemon.exits import Exit
from daemon.rules.faults import Blame, Fault, Outlook
from daemon.service import Orders, Service, Settings

if TYPE_CHECKING:
    from daemon.config_model import Config

Beat = Callable[[Any, list[str]], None]


def run(path: Path, *, once: bool, take_over: bool = False) -> Exit:
    """`esrgand run` and `esrgand once`. take_over: mark the outboxes as ours, whoever marked them."""
    config = configuration.load(path)
    settings = config, *secrets(config), hook_secret(config)
    orders = Orders()
    if once and sys.stderr.isatty():
        from daemon.progress import Progress

        with Progress() as progress:
            beat = progress.beat
            status, summary = loop.run(
                _run(settings, path, orders, once=True, take_over=take_over, on_beat=beat, level="warning")
            )
    else:
        status, summary = loop.run(_run(settings, path, orders, once=once, take_over=take_over))
    for line in summary:
        print(line)
    return orders.end(status)


def secrets(config: "Config") -> tuple[Secret, Secret | None]:
    """The API key and the listener's token. Raises ConfigError."""
    place = os.environ.get("CREDENTIALS_DIRECTORY")
    embedded = config.api.base_url == EMBEDDED
    key = Secret("") if embedded else configuration.read_key(config, os.environ, Path(place) if place else None)
    token_file = config.http.token_file
    return key, configuration.read_secret("http.token_file", token_file) if token_file else None


def hook_secret(config: "Config") -> Secret | None:
    """What webhooks have to show; None where there are none. Raises ConfigError."""
    place = config.webhook.secret_file
    return configuration.read_secret("webhook.secret_file", place) if config.webhook.public_url and place else None


def exposures(config: "Config", *secrets: Secret | None) -> list[str]:
    """What a person should mend about the files that the secrets are in."""
    found = [secret.warning for secret in secrets if secret is not None]
    if config.storage.kind == "gcs" and config.storage.credentials_file is not None:
        found.append(configuration.exposed_file("storage.credentials_file", config.storage.credentials_file))
    return list(filter(None, found))


async def _run(
    settings: Settings,
    path: Path,
    orders: Orders,
    *,
    once: bool,
    take_over: bool = False,
    on_beat: Beat | None = None,
    level: str | None = None,
) -> tuple[Exit, list[str]]:
    """The status, and what there is to say at the end."""
    config, key, token, hook = settings
    orders.listen()
    notifier = Notifier(os.environ)
    before: Settings | None = None
    while True:
        service = make_service(config, key, token, notifier, orders, hook=hook, once=once, on_beat=on_beat, level=level)
        service.take_over, take_over = take_over, False
        reloading = asyncio.create_task(_reloads(path, orders, notifier, service))
        try:
            status = await service.run()
        except (Fault, ConfigError) as error:
            if isinstance(error, ConfigError):
                said, remedy = " ".join(error.complaints), ""
            else:
                said, remedy = error.said, error.remedy
            if before is not None and not service.told:
                # The new configuration is right and cannot be used (a port that is taken): back to the old one.
                remedy = f"{remedy} The configuration of before is taken up again.".lstrip()
                service.log.error("configuration_unusable", reason=said, remedy=remedy)
                (config, key, token, hook), before = before, None
                continue
            if not service.told:
                raise
            service.log.error("ended", reason=said, remedy=remedy)
            return Exit.HOUSE, service.summary
        finally:
            reloading.cancel()
        if orders.stop.is_set() or orders.new is None:
            return status, service.summary
        before = config, key, token, hook
        config, key, token, hook = orders.new
        orders.start_again()


def make_service(
    config: "Config",
    key: Secret,
    token: Secret | None,
    notifier: Notifier,
    orders: Orders,
    *,
    hook: Secret | None = None,
    once: bool,
    on_beat: Beat | None = None,
    level: str | None = None,
) -> Service:
    """A service with its log set up. level: instead of the configured one."""
    hidden = [secret.reveal() for secret in (key, token, hook) if secret is not None and secret.reveal()]
    logs.configure(level or config.log.level, config.log.format, sys.stderr, hidden)
    log = structlog.get_logger()
    for reason in exposures(config, key, token, hook):
        log.warning("secret_exposed", reason=reason)
    shown_token, shown_hook = (secret.reveal() if secret is not None else None for secret in (token, hook))
    return Service(
        config, key.reveal(), shown_token, shown_hook, SystemClock(), log, notifier, orders, once=once, on_beat=on_beat
    )


async def _reloads(path: Path, orders: Orders, notifier: Notifier, service: Service) -> None:
    """SIGHUP: a configuration that is right is taken up; a wrong one is told, and the old one stays."""
    while True:
        await orders.reload.wait()
        orders.reload.clear()
        notifier.reloading()
        try:
            config = await asyncio.to_thread(configuration.load, path)
            orders.take_up((config, *secrets(config), hook_secret(config)))
        except ConfigError as error:
            remedy = "Mend it and reload again; the configuration of before stays."
            service.log.error("configuration_refused", reasons=list(error.complaints), remedy=remedy)
            notifier.ready()
        except Exception:  # a defect of ours; else the next SIGHUP would be heard by nobody
            service.log.exception("defect", while_="reading the configuration again")
            notifier.ready()


def serve(arguments: argparse.Namespace) -> Exit:
    """`esrgand serve`."""
    host, _, port = arguments.listen.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError([f"--listen {arguments.listen}: it must be HOST:PORT, for example 127.0.0.1:8585."])
    if arguments.key_file is not None:
        key = configuration.read_secret("--key-file", arguments.key_file)
    else:
        key = Secret(os.environ.get("ESRGAND_API_KEY", "").strip())
    if not key.reveal():
        raise ConfigError(["The server needs a key: give --key-file FILE, or set ESRGAND_API_KEY."])
    logs.configure("info", "auto", sys.stderr, [key.reveal()])
    if key.warning:
        structlog.get_logger().warning("secret_exposed", reason=key.warning)
    orders = Orders()
    return orders.end(loop.run(_serve(arguments, orders, key.reveal(), host.strip("[]"), int(port))))


async def _serve(arguments: argparse.Namespace, orders: Orders, key: str, host: str, port: int) -> Exit:
    async with AsyncExitStack() as stack:
        return await _serve_until_stopped(arguments, orders, key, host, port, stack)


async def _serve_until_stopped(
    arguments: argparse.Namespace, orders: Orders, key: str, host: str, port: int, stack: AsyncExitStack
) -> Exit:
    from daemon import local
    from daemon.server import PredictionServer, ServerSettings

    orders.listen()
    log, clock = structlog.get_logger(), SystemClock()
    wish = local.Wish(
        engine=arguments.engine,
        model=arguments.model,
        threads=arguments.threads,
        memory_max_mb=arguments.memory_max_mb,
        vulkan=arguments.vulkan,
        face_enhance=arguments.face_enhance,
    )
    models = arguments.models or arguments.dir / local.MODELS
    engine = local.choose(wish, [models], arguments.dir, clock, log, stack, workers=arguments.workers)
    settings = ServerSettings(
        data_dir=arguments.dir,
        key=key,
        creates_per_minute_max=arguments.creates_per_minute,
        in_flight_max=arguments.in_flight,
        # The network takes all cores for one picture.
        workers=arguments.workers if engine.network is None else 1,
        predict_seconds_min=arguments.predict_seconds,
        usd_per_second=arguments.usd_per_second,
        pixels_max=arguments.pixels_max,
    )
    server = PredictionServer(settings, clock, engine.upscaler, log)
    try:
        base_url = await server.start(host, port)
    except OSError as error:
        raise Fault(
            f"The server cannot start ({error.strerror}).",
            blame=Blame.HOUSE,
            outlook=Outlook.LASTING,
            remedy="Look at --dir and --listen.",
        ) from error
    print(f"{base_url} serves, by {engine.said.rstrip('.')}. Ctrl-C ends it.", flush=True)
    await orders.stop.wait()
    await loop.unless(orders.hurry, server.close())
    return Exit.DONE
