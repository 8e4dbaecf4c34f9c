"""
Protocol: what the server and the worker process say to each other, one JSON object a line.

The first line to the worker is a `Setup`; it answers `Ready` or `Unfit`. Then each `Order` is answered by a `Step` for
every tile and one `Done` or `Failed`. Pure. `read` raises `ValueError` on anything that `line` did not make.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

# What the worker may be told to open a picture with; which of them is decided by whoever has looked at the file.
LOADERS = ("jpegload", "pngload", "webpload")


@dataclass(frozen=True, slots=True)
class Setup:
    """The model to load and what it may take.

    reach: see `Model`. threads: at least 1. memory_bytes_max: of the process's own data. vulkan: "off", "auto" or what
    the name of a device contains. overlap, side_max: in source pixels, or None to choose.
    """

    name: str
    param: str
    weights: str
    input: str
    output: str
    reach: int
    threads: int
    memory_bytes_max: int
    vulkan: str = "off"
    overlap: int | None = None
    side_max: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """scale: what the network really does. device: what it runs on. side: of the square that one run takes, in source
    pixels. notes: what a person may want to know, such as why a graphics card is not used.
    """

    scale: int
    device: str
    side: int
    overlap: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unfit:
    """The model cannot be used like this. text: whole sentences for a person."""

    text: str


@dataclass(frozen=True, slots=True)
class Order:
    """Write `source`, opened with `loader`, enlarged by `scale` (above 0) to `target` as PNG."""

    source: str
    target: str
    loader: str
    scale: float


@dataclass(frozen=True, slots=True)
class Measure:
    """Run one tile of nothing: the time until `Done`, and its pixels, tell how fast this machine is."""


@dataclass(frozen=True, slots=True)
class Step:
    """So many tiles of all are done."""

    done: int
    of: int


@dataclass(frozen=True, slots=True)
class Done:
    """The result is in its place. width, height: its size. pixels: of the source."""

    width: int
    height: int
    pixels: int
    tiles: int


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no result. text, retryable: as in `UpscaleError`."""

    text: str
    retryable: bool


KINDS: dict[str, type[Any]] = {
    each.__name__: each for each in (Setup, Ready, Unfit, Order, Measure, Step, Done, Failed)
}
Message = Setup | Ready | Unfit | Order | Measure | Step | Done | Failed


def line(message: Message) -> bytes:
    """A message as a line. Paths may hold bytes that are no UTF-8: they come through as they are."""
    return json.dumps({"say": type(message).__name__, **asdict(message)}).encode() + b"\n"


def read(text: bytes) -> Message:
    """The message of a line."""
    fields = json.loads(text)
    try:
        kind = KINDS[fields.pop("say")]
        if "notes" in fields:
            fields["notes"] = tuple(fields["notes"])
        message: Message = kind(**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("no message of ours") from error
    return message
