"""
Configuration, what does not go together: values that are right one by one and wrong with one another.

`clashes` yields each with the keys that it looked at. It follows links, since a folder may lie in another by one; a
mount that hangs holds that up for seconds and no longer.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from itertools import permutations
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from daemon.config_model import Config
from daemon.config_values import EMBEDDED, is_loopback

LINKS_SECONDS_MAX = 5.0  # for all places together
Key = tuple[str | int, ...]


class Clash(NamedTuple):
    """Values that are right one by one and wrong together.

    keys: TOML keys from the top, the folders counted from 0; the first is the one to complain about, the others are
    read as well. must: completes "it must ...".
    """

    keys: tuple[Key, ...]
    must: str


def clashes(
    config: Config, resolve: Callable[[Path], Path] = Path.resolve, seconds: float = LINKS_SECONDS_MAX
) -> Iterator[Clash]:
    """What does not go together. resolve: follows links, so it touches the disks that the folders are on.

    seconds: how long that may take; the names alone are compared of places that do not answer by then.
    """
    server = config.server
    if config.api.base_url == EMBEDDED and (server.engine, server.face_enhance) == ("real-esrgan", "refuse"):
        for n, folder in enumerate(config.folders):
            if folder.face_enhance:
                must = 'be false, because the network on this machine cannot (or [server] face_enhance = "ignore")'
                yield Clash((("folder", n, "face_enhance"), ("server", "face_enhance"), ("server", "engine")), must)
    yield from _folder_clashes(config, _real(_places(config), resolve, seconds))
    if config.storage.kind == "gcs" and not config.storage.bucket:
        must = 'name a bucket, because storage.kind is "gcs" ("vendor" needs none)'
        yield Clash((("storage", "bucket"), ("storage", "kind")), must)
    address = config.http.address
    if address and not is_loopback(address[0]) and not config.http.token_file:
        must = f"name a file with a token, because other machines can reach http.listen {config.http.listen}"
        yield Clash((("http", "token_file"), ("http", "listen")), must)
    if config.webhook.public_url and not config.webhook.secret_file:
        must = "name a file with a secret, because webhook.public_url is given"
        yield Clash((("webhook", "secret_file"), ("webhook", "public_url")), must)
    if config.webhook.public_url and not address:
        must = "be host:port, because webhook.public_url leads to it"
        yield Clash((("http", "listen"), ("webhook", "public_url")), must)


def _places(config: Config) -> set[Path]:
    folders = [place for each in config.folders for place in (each.inbox, each.outbox, each.archive, each.failed)]
    return {config.state_dir, *(place for place in folders if place is not None)}


def _folder_clashes(config: Config, real: dict[Path, Path]) -> Iterator[Clash]:
    if not config.folders:
        yield Clash((("folder",),), "be given at least once: [[folder]] with an inbox and an outbox")
    inboxes = [real[folder.inbox] for folder in config.folders]
    outboxes = [real[folder.outbox] for folder in config.folders]
    state_dir = real[config.state_dir]
    for n, outbox in enumerate(outboxes):
        for m, inbox in enumerate(inboxes):
            if _overlap(outbox, inbox):
                keys: tuple[Key, ...] = (("folder", n, "outbox"), ("folder", m, "inbox"))
                yield Clash(keys, f"lie outside the inbox {inbox}, and not around it")
    for (n, outer), (m, inner) in permutations(enumerate(inboxes), 2):
        same = outer == inner and n < m
        if same or (outer != inner and inner.is_relative_to(outer) and config.folders[n].recursive):
            keys = (("folder", m, "inbox"), ("folder", n, "inbox"), ("folder", n, "recursive"))
            yield Clash(keys, f"lie outside the other inbox {outer}, or each picture would be taken twice")
    for n, folder in enumerate(config.folders):
        for name, place in (("inbox", inboxes[n]), ("outbox", outboxes[n])):
            if _overlap(place, state_dir):
                yield Clash((("state_dir",), ("folder", n, name)), f"lie outside the {name} {place}, and not around it")
        if folder.after == "archive":
            yield from _destination_clashes(n, "archive", folder.archive, "after", folder.after, inboxes, real)
        if folder.after_failure == "move":
            switch = "after_failure"
            yield from _destination_clashes(n, "failed", folder.failed, switch, folder.after_failure, inboxes, real)


def _destination_clashes(
    n: int, name: str, place: Path | None, switch: str, position: str, inboxes: list[Path], real: dict[Path, Path]
) -> Iterator[Clash]:
    keys: tuple[Key, ...] = (("folder", n, name), ("folder", n, switch))
    if place is None:
        yield Clash(keys, f'name a folder, because {switch} = "{position}" sends pictures there')
        return
    for m, inbox in enumerate(inboxes):
        if real[place].is_relative_to(inbox):
            yield Clash((*keys, ("folder", m, "inbox")), f"lie outside the inbox {inbox}")


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _real(paths: Iterable[Path], resolve: Callable[[Path], Path], seconds: float) -> dict[Path, Path]:
    """Each path with its links followed, or as it is written where that cannot be done in time."""

    def work(path: Path, future: Future[Path]) -> None:
        try:
            future.set_result(resolve(path))
        except (OSError, RuntimeError) as error:  # A loop of links, or a folder that we may not look into.
            future.set_exception(error)

    futures = {path: Future[Path]() for path in paths}
    for path, future in futures.items():
        # One each, and none that the program's end waits for: those on a mount that hangs are left behind.
        Thread(target=work, args=(path, future), daemon=True).start()
    done = wait(futures.values(), timeout=seconds).done
    written = {path: Path(os.path.abspath(path)) for path in futures}  # noqa: PTH100  (resolve is what may hang)
    return {
        path: future.result() if future in done and future.exception() is None else written[path]
        for path, future in futures.items()
    }
