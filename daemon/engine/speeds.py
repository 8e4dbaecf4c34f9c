"""
Speeds: how fast this machine is with which model, kept in a file of the state directory for `esrgand estimate`.

A file that is not there, or that nobody of ours wrote, is as good as none; one that cannot be written costs nothing but
another measurement.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

# A new figure counts half, so that one busy afternoon is soon forgotten.
WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Speed:
    """megapixel_seconds: for a million pixels of the source."""

    model: str
    threads: int
    device: str
    megapixel_seconds: float


class Speeds:
    """path: of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, model: str, threads: int) -> Speed | None:
        """The figure for a model, whatever it ran on last."""
        found = [each for each in self._load() if (each.model, each.threads) == (model, threads)]
        return found[-1] if found else None

    def keep(self, speed: Speed) -> Speed:
        """Remember a new figure; returns what it makes of the old one."""
        speeds = self._load()
        same = (speed.model, speed.threads, speed.device)
        for old in speeds:
            if (old.model, old.threads, old.device) == same:
                mean = old.megapixel_seconds + WEIGHT * (speed.megapixel_seconds - old.megapixel_seconds)
                speed = Speed(*same, mean)
        speeds = [each for each in speeds if (each.model, each.threads, each.device) != same]
        text = json.dumps({"speeds": [asdict(each) for each in [*speeds, speed]]}, indent=1)
        draft = self._path.with_name(f".{self._path.name}.part")
        with suppress(OSError):
            draft.write_text(text, "utf-8")
            draft.replace(self._path)
        return speed

    def _load(self) -> list[Speed]:
        try:
            return [
                Speed(str(each["model"]), int(each["threads"]), str(each["device"]), float(each["megapixel_seconds"]))
                for each in json.loads(self._path.read_text("utf-8"))["speeds"]
            ]
        except (OSError, ValueError, TypeError, KeyError):
            return []
