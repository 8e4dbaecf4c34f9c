"""
Model: a network as it lies in the models folder, in ncnn's form: what it is called, where it is, what it is like.

A folder holds one `NAME.param` and one `NAME.bin` for each model. What is wrong with the files of a model, or with a
model's name, is a `ModelError`, whose text is for people. Nothing here needs ncnn or numpy.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

EXTRA = "Networks need the packages numpy and ncnn; install them with: pip install 'esrgand[local]'."
SCALE_MAX = 8  # no network is larger, and what comes out of it must still fit somewhere

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


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


class ModelError(Exception):
    """Files that are no model that can be used. text: whole sentences for a person: what is wrong, what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Missing(ModelError):
    """Not the files' fault: a package that is needed to read them is not installed."""


def is_name(name: str) -> bool:
    """Whether a model can be called so: a name is a file name's beginning, and nothing that leads elsewhere."""
    return _NAME.fullmatch(name) is not None


@contextmanager
def extra() -> Iterator[None]:
    """An import inside that fails says what to install. Raises Missing."""
    try:
        yield
    except ImportError as error:
        raise Missing(f"{EXTRA} ({error})") from error


def need_extra() -> None:
    """Before work that would be in vain without it. Raises Missing."""
    with extra():
        import numpy as np  # noqa: F401  (only whether it can be had)
