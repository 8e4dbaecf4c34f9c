"""
Configuration, the values: frozen, strictly typed, each with a sentence on what it is, its unit and why this default.

Importing this file imports pydantic, which takes a tenth of a second: `daemon.config` does so only when it must. A
value that is wrong by itself raises pydantic's `ValidationError`. What is wrong only together with other values is
yielded by `clashes`, with the keys that it looked at; a mount that hangs holds that up for seconds and no longer.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from itertools import permutations
from pathlib import Path
from threading import Thread
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from daemon.config_values import (
    DAY_SECONDS,
    BaseUrl,
    Bucket,
    HookUrl,
    HttpsUrl,
    Listen,
    OptionalPlace,
    Patterns,
    Place,
    Prefix,
    QuietSeconds,
    ResultName,
    Seconds,
    SkipAbove,
    above_zero,
    is_loopback,
    within,
)
from daemon.rules.admission import PIXELS_MAX, TILES_MAX
from daemon.rules.recipe import SCALE_MAX, Recipe

QUIET_SECONDS_LOCAL = 2.0
QUIET_SECONDS_NETWORK = 10.0
LINKS_SECONDS_MAX = 5.0  # for all places together


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class FolderConfig(_Section):
    """One inbox, its outbox, and what to ask for."""

    inbox: Place
    """Where pictures are dropped; no default, because nobody else can know."""
    outbox: Place
    """Where results and sidecars go; never inside an inbox, or results would be upscaled again."""
    scale: Annotated[float, above_zero(SCALE_MAX)] = 4.0
    """Result size over source size; 4 is what the model was made for."""
    face_enhance: bool = False
    """Whether the model also repairs faces; off, because it invents detail."""
    recursive: bool = True
    """Whether folders in the inbox count too; the tree is mirrored in the outbox."""
    include: Annotated[Patterns, Field(min_length=1)] = ("*.jpg", "*.jpeg", "*.png", "*.webp")
    """Patterns of names that are pictures, in any case of letters; the formats that the API takes."""
    exclude: Patterns = ()
    """Patterns of names to leave alone, besides the built-in list of temporary and NAS names."""
    watch: Literal["auto", "native", "polling"] = "auto"
    """How changes are noticed; auto polls on network file systems, where the kernel sees no remote writes."""
    scan_seconds: Seconds = 10.0
    """Pause between two looks at the whole inbox, which find what no event told of."""
    quiet_seconds: QuietSeconds = None
    """How long a file must stay unchanged; None is 2, or 10 on a network file system, where sizes lag behind."""
    give_up_seconds: Seconds = 1800.0
    """Unchanged this long and still not decodable is a failed picture; half an hour outlasts a stalled copy."""
    name: ResultName = "{stem}_x{scale}"
    """Name of the result without its suffix."""
    after: Literal["keep", "archive", "delete"] = "keep"
    """What becomes of the source once the result is safe; keep, because it is somebody's picture."""
    archive: OptionalPlace = None
    """Where sources go with after = "archive"."""
    after_failure: Literal["keep", "move"] = "keep"
    """What becomes of a source that failed."""
    failed: OptionalPlace = None
    """Where they go with after_failure = "move"."""
    order: Literal["oldest", "newest", "smallest", "name"] = "oldest"
    """Which waiting picture comes first; oldest, so that none waits for ever."""
    oversize: Literal["tile", "shrink", "fail"] = "tile"
    """What to do above api.pixels_max."""
    overlap: Annotated[int, within(0, 512)] = 32
    """Pixels that the parts of a cut picture have in common; more hides the seams better and costs more."""
    skip_above: SkipAbove = None
    """A picture this large or larger is not sent: the outbox gets a copy of it, unpaid; None is no such size."""
    colour: Literal["keep", "srgb"] = "keep"
    """What becomes of an embedded colour profile: the result gets it too, or the colours are converted before."""
    strip_gps: bool = False
    """Whether the place where a picture was taken is left out of its result; what is uploaded never has it."""
    keep_mtime: bool = False
    """Whether a result is dated as its source; off, since tools that pick results up look for new files."""
    format: Literal["png", "jpeg", "webp", "source"] = "png"
    """Format of the result; png is what the API delivers, so nothing is lost."""
    quality: Annotated[int, within(1, 100)] = 92
    """For jpeg and webp, in per cent; above 92 files grow faster than anyone sees."""

    @property
    def recipe(self) -> Recipe:
        """What to ask of the model for a picture of this folder."""
        return Recipe(scale=self.scale, face_enhance=self.face_enhance)

    def quiet(self, on_network: bool) -> float:
        """The quiet time in seconds, by the kind of file system where the configuration leaves it open."""
        if self.quiet_seconds is not None:
            return self.quiet_seconds
        return QUIET_SECONDS_NETWORK if on_network else QUIET_SECONDS_LOCAL


class ApiConfig(_Section):
    """The prediction API."""

    base_url: BaseUrl = "https://api.eachlabs.ai/v1"
    """Where the API lives, or "embedded" for the local prediction server in this process."""
    key_file: OptionalPlace = None
    """A file with the key and nothing else; None looks at the credential api-key, then at ESRGAND_API_KEY."""
    auth: Literal["x-api-key", "bearer"] = "x-api-key"
    """The header that carries the key; the model's page says x-api-key, newer documents say bearer."""
    in_flight_max: Annotated[int, within(1, 500)] = 10
    """Predictions running at once; the API allows 10 per key."""
    creates_per_minute_max: Annotated[int, within(1, 10_000)] = 100
    """Predictions created in any 60 seconds; the API allows 100 per key."""
    create_seconds_max: Annotated[float, within(1, 600)] = 60.0
    """A create without an answer for this many seconds is in doubt and is looked up, never repeated."""
    poll_seconds_min: Seconds = 1.0
    """The shortest pause between two questions about one prediction."""
    submits_max: Annotated[int, within(1, 100)] = 2
    """Paid runs per picture, at most; 2 allows for one that fails by bad luck."""
    pixels_max: Annotated[int, within(1, 1e9)] = 2_096_704
    """Pixels that the model takes in one piece, 1448 x 1448; more does not fit its memory."""
    overdue_seconds: Seconds = 3600.0
    """A prediction older than this is reported, and asked for ever more seldom; it is not given up."""


class WebhookConfig(_Section):
    """Being told by the API; only ever a hint that makes us ask."""

    public_url: HookUrl = ""
    """Where the API reaches /hook of http.listen from outside; empty is polling alone, which needs no open port."""
    secret_file: OptionalPlace = None
    """A file with the secret that the API repeats to us; without it, anybody could make us ask."""


class StorageConfig(_Section):
    """Where the API reads pictures from."""

    kind: Literal["gcs", "vendor"] = "gcs"
    """A bucket of yours, or the API's own uploads, which need no bucket."""
    bucket: Bucket = ""
    """The bucket's name, for gcs."""
    prefix: Prefix = "esrgand/"
    """What all objects' names start with, so that one lifecycle rule can cover them."""
    credentials_file: OptionalPlace = None
    """A service account's key; None is the machine's application default credentials."""
    url: Literal["signed", "public"] = "signed"
    """How the API may read an object; signed works with a private bucket."""
    public_base_url: HttpsUrl = ""
    """With url = "public": a CDN or website in front of the bucket; empty is the bucket's own address."""
    url_seconds: Annotated[float, within(60, 7 * DAY_SECONDS)] = DAY_SECONDS
    """Life of a signed URL; a day outlasts a long queue, and seven days are the most there is."""
    uploads_max: Annotated[int, within(1, 64)] = 4
    """Uploads at once; 4 fill most uplinks."""
    keep: bool = False
    """Whether an object stays in the bucket when its job is over."""


class BudgetConfig(_Section):
    """Limits on money; 0 is no limit."""

    usd_per_day_max: Annotated[float, within(0, 1e9)] = 0.0
    """US dollars in a day of UTC."""
    usd_per_month_max: Annotated[float, within(0, 1e9)] = 0.0
    """US dollars in a month of UTC."""
    pictures_per_drop_max: Annotated[int, within(0, 1e9)] = 0
    """More pictures than this waiting at once are held until a person releases them."""

    @property
    def is_set(self) -> bool:
        """Whether there is a limit on money."""
        return bool(self.usd_per_day_max or self.usd_per_month_max)


class HttpConfig(_Section):
    """The daemon's own listener: health, status, webhook."""

    listen: Listen = "127.0.0.1:8484"
    """host:port, port 0 for any free one, or empty for none; on loopback, so that no other machine sees it."""
    token_file: OptionalPlace = None
    """A file with the token to ask for; needed where other machines can reach the listener."""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host (an IPv6 address without brackets) and port, or None where nothing is to listen."""
        host, _, port = self.listen.rpartition(":")
        return (host.strip("[]"), int(port)) if self.listen else None


class LogConfig(_Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines to write; info is one line per change of a picture's state."""
    format: Literal["auto", "console", "json"] = "auto"
    """For people or for programs; auto is console on a terminal and JSON lines elsewhere."""


class Config(_Section):
    """The whole configuration."""

    state_dir: Place = Path("/var/lib/esrgand")
    """Ledger and staging, on a local disk; where the service manager makes one."""
    folders: Annotated[tuple[FolderConfig, ...], Field(strict=False, alias="folder")] = ()
    """At least one."""
    api: ApiConfig = ApiConfig()
    webhook: WebhookConfig = WebhookConfig()
    storage: StorageConfig = StorageConfig()
    budget: BudgetConfig = BudgetConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()

    @property
    def decoded_pixels_max(self) -> int:
        """Pixels of the largest picture that has to be decoded: what is only refused for its size need not be."""
        if any(folder.skip_above or folder.oversize == "shrink" for folder in self.folders):
            return PIXELS_MAX
        tiles = TILES_MAX if any(folder.oversize == "tile" for folder in self.folders) else 1
        return min(tiles * self.api.pixels_max, PIXELS_MAX)


SECTIONS: dict[str, type[BaseModel]] = {
    "folder": FolderConfig,
    "api": ApiConfig,
    "webhook": WebhookConfig,
    "storage": StorageConfig,
    "budget": BudgetConfig,
    "http": HttpConfig,
    "log": LogConfig,
}
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
