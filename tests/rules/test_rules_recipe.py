"""What to ask for, what makes two asks one, and which size comes back."""

import threading
from pathlib import Path

import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import SHA, quick

from daemon.rules.recipe import Recipe, number, size_fits
from daemon.server.lanczos import resample

sizes = st.integers(1, 30_000)
scales = st.floats(0.01, 10)


def test_a_fingerprint_is_for_ever() -> None:
    """A ledger of years ago knows jobs by these; they may never change."""
    assert Recipe().fingerprint() == "bcb3b5f7981e11a3859390d39cb6bf2aac68717629065b0f4aa847cbb0419963"
    assert (
        Recipe(scale=2.5, face_enhance=True).fingerprint()
        == "d12f122f355359f97738673db93a1261fccaf460cd74ab6d1061477c076480e4"
    )
    assert Recipe().job_id(SHA) == "96f2b7423643c9488f3d"


def test_four_is_four() -> None:
    assert Recipe(scale=4).fingerprint() == Recipe(scale=4.0).fingerprint()
    assert repr(number(4.0)) == "4"
    assert repr(number(2.5)) == "2.5"
    assert repr(Recipe(scale=4.0).input("u")["scale"]) == repr(Recipe(scale=4.0).as_json()["scale"]) == "4"


def test_every_part_makes_another_job() -> None:
    recipes = [Recipe(), Recipe(scale=3), Recipe(scale=4.5), Recipe(face_enhance=True), Recipe(model="other")]
    assert len({recipe.fingerprint() for recipe in recipes}) == len(recipes)
    assert len({recipe.job_id(sha) for recipe in recipes for sha in (SHA, "cd" * 32)}) == 2 * len(recipes)


def test_the_input_has_the_known_keys_alone() -> None:
    assert Recipe().input("https://e.org/a") == {"image": "https://e.org/a", "scale": 4, "face_enhance": False}


@pytest.mark.parametrize("scale", [0, -1, 10.01, float("nan")])
def test_an_impossible_scale_is_a_defect(scale: float) -> None:
    with pytest.raises(AssertionError):
        Recipe(scale=scale)


@quick
@given(sizes, sizes, scales)
def test_a_result_of_whatever_rounding_fits(width: int, height: int, scale: float) -> None:
    """Half to even as Python rounds, half up, down, or up: each is one pixel off at most, and two are too many."""
    expected = Recipe(scale=scale).result_size(width, height)
    for add in (0.0, 0.5, 0.999_999):
        assert size_fits(expected, (int(width * scale + add), int(height * scale + add)))
    assert not size_fits(expected, (expected[0] + 2, expected[1]))
    assert not size_fits(expected, (expected[0], expected[1] - 2))


def test_result_size_in_numbers() -> None:
    assert Recipe(scale=4).result_size(30, 20) == (120, 80)
    assert Recipe(scale=2.5).result_size(3, 5) == (8, 12), "7.5 and 12.5, half to even"
    assert Recipe(scale=0.5).result_size(1, 9000) == (1, 4500), "there is no picture without a column"


@pytest.mark.parametrize("scale", [0.05, 0.3, 0.5, 1.0, 1.5, 2.5, 3.3, 4.0, 9.9])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 31)])
def test_the_embedded_engine_agrees(tmp_path: Path, size: tuple[int, int], scale: float) -> None:
    pyvips.Image.black(*size, bands=3).pngsave(str(tmp_path / "source.png"))
    resample(tmp_path / "source.png", tmp_path / "result.png", scale, threading.Event())
    result = pyvips.Image.new_from_file(str(tmp_path / "result.png"))
    assert size_fits(Recipe(scale=scale).result_size(*size), (result.width, result.height))
