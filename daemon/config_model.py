"""
Configuration, the values: frozen, strictly typed, each with a sentence on what it is, its unit and why this default.

Importing this file imports pydantic, which takes a tenth of a second: `daemon.config` does so only when it must. A
value that is wrong by itself raises pydantic's `ValidationError`; what is wrong only together with other values is
found by `config_clashes`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from daemon.config_values import (
    DAY_SECONDS,
    BaseUrl,
    Bucket,
    HookUrl,
    HttpsUrl,
    Listen,
    ModelName,
    OptionalPlace,
    Patterns,
    Place,
    Prefix,
    QuietSeconds,
    ResultName,
    Seconds,
    SkipAbove,
    Vulkan,
    above_zero,
    within,
)
from daemon.rules.admission import PIXELS_MAX
from daemon.rules.recipe import SCALE_MAX, Recipe
from daemon.rules.tiles import TILES_MAX

QUIET_SECONDS_LOCAL = 2.0
QUIET_SECONDS_NETWORK = 10.0


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


class ServerConfig(_Section):
    """The engine of the local prediction server: with api.base_url = "embedded", in `serve` and in `demo`."""

    engine: Literal["auto", "real-esrgan", "lanczos"] = "auto"
    """What upscales: the network, or resampling; auto is the network where ncnn and the model are installed."""
    model: ModelName = "realesr-general-x4v3"
    """The network's name, as `esrgand models` lists it; this one is 20 times cheaper than the hosted API's."""
    threads: Annotated[int, within(0, 1024)] = 0
    """Threads of the network; 0 is one for each core. It runs at low priority."""
    memory_max_mb: Annotated[int, within(128, 1_000_000)] = 1024
    """Mebibytes that the network may take: they choose the size of its tiles, and are enforced."""
    vulkan: Vulkan = "off"
    """A graphics card to run on: off, auto, or a part of its name; off, because drivers are the least tested part."""
    face_enhance: Literal["refuse", "ignore"] = "refuse"
    """What to do where a folder asks for face_enhance, which the network cannot do."""


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
    server: ServerConfig = ServerConfig()
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
    "server": ServerConfig,
    "http": HttpConfig,
    "log": LogConfig,
}
