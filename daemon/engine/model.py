"""
Model: a network as it lies in the models folder, in ncnn's form: what it is called, where it is, what it is like.

A folder holds one `NAME.param` and one `NAME.bin` for each model. Nothing here needs ncnn.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is installed and whole.

    input, output: names of the blobs. scale: result size over source size, a whole number. reach: how many source
    pixels to each side a pixel of the result depends on. features: channels of the widest layer.
    """

    name: str
    param: Path
    weights: Path
    input: str
    output: str
    scale: int
    reach: int
    features: int
