"""
Recipe: what to ask for. Two pictures with the same content and the same recipe are one job, paid for once.
"""

import hashlib
import json
from dataclasses import dataclass

MODEL = "real-esrgan"
NO_MODEL = "none"
SCALE_MAX = 10.0
RESULT_BYTES_PER_PIXEL = 3  # a photograph's PNG has half of that; noise, which nobody upscales, has all of it


@dataclass(frozen=True, slots=True)
class Recipe:
    """model: the API's slug. scale: result size over source size, > 0 to 10. face_enhance: as the model has it."""

    model: str = MODEL
    scale: float = 4.0
    face_enhance: bool = False

    def __post_init__(self) -> None:
        assert 0 < self.scale <= SCALE_MAX, self.scale

    @property
    def is_unchanged(self) -> bool:
        """Whether the source itself is the result: nothing is sent and nothing is paid."""
        return self.model == NO_MODEL

    def input(self, image_url: str) -> dict[str, object]:
        """The `input` object of a create, with the scale as the JSON number that a person would write."""
        return {"image": image_url, "scale": number(self.scale), "face_enhance": self.face_enhance}

    def as_json(self) -> dict[str, object]:
        """The `recipe` object of a sidecar."""
        return {"model": self.model, "scale": number(self.scale), "face_enhance": self.face_enhance}

    def fingerprint(self) -> str:
        """Hex; the same for the same recipe in every version of the program."""
        canonical = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def job_id(self, content_sha256: str) -> str:
        """The identity of the job that gives this content this recipe: 20 hex digits."""
        return hashlib.sha256(f"{content_sha256}:{self.fingerprint()}".encode()).hexdigest()[:20]

    def result_size(self, width: int, height: int) -> tuple[int, int]:
        """The size that the result should have, in pixels; a line that is made smaller is still a line."""
        return max(1, round(width * self.scale)), max(1, round(height * self.scale))

    def result_bytes(self, width: int, height: int) -> int:
        """How much room a result may need, in bytes: an estimate on the safe side."""
        wide, high = self.result_size(width, height)
        return wide * high * RESULT_BYTES_PER_PIXEL


UNCHANGED = Recipe(model=NO_MODEL, scale=1.0)


def number(value: float) -> int | float:
    """4.0 as 4 and 2.5 as 2.5."""
    return int(value) if value == int(value) else value


def size_fits(expected: tuple[int, int], actual: tuple[int, int]) -> bool:
    """Whether a result has its size; engines round differently, so one pixel either way is right."""
    return abs(expected[0] - actual[0]) <= 1 and abs(expected[1] - actual[1]) <= 1
