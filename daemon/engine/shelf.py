"""
Shelf: the models folder. (A stand-in until the other half of the work is merged; this one knows compact networks only,
and looks at nothing but their `.param`.)
"""

import re
from pathlib import Path

from daemon.engine.model import Model


class ModelError(Exception):
    """A model that is damaged. text: a sentence."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Shelf:
    """folder: where the files are; it need not be there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self) -> list[Model]:
        """All models, by name."""
        return [model for path in sorted(self._folder.glob("*.param")) if (model := self.find(path.stem))]

    def find(self, name: str) -> Model | None:
        """The model of that name."""
        param, weights = self._folder / f"{name}.param", self._folder / f"{name}.bin"
        if not param.exists() or not weights.exists():
            return None
        text = param.read_text(errors="replace")
        if not text.startswith("7767517"):
            raise ModelError(f"{param} is damaged.")
        features = [int(each) for each in re.findall(r"^Convolution .* 0=(\d+)", text, re.MULTILINE)]
        scale = int((re.findall(r"^PixelShuffle .* 0=(\d+)", text, re.MULTILINE) or ["1"])[0])
        return Model(name, param, weights, "data", "output", scale, len(features), max(features, default=0))
