"""Whether a result looks like what was sent: honest ones pass, whatever a network does to them, and others do not."""

from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path

import pixel_kit as kit
import pytest
import pyvips

from daemon.adapters.likeness import likeness, look
from daemon.adapters.picture import VipsPictures
from daemon.rules import resemblance
from daemon.rules.faults import NotAPicture, Unlike

WIDTH, HEIGHT = 96, 72
Image = pyvips.Image
Change = Callable[[Image], Image]


@pytest.fixture
async def pictures() -> AsyncIterator[VipsPictures]:
    pictures = VipsPictures(threads=1)
    yield pictures
    pictures.close()


def as_bytes(image: Image) -> Image:
    return image.rint().cast("uchar").copy(interpretation="b-w" if image.bands < 3 else "srgb")


def noise(image: Image, sigma: float, width: int = 1) -> Image:
    layers = [
        Image.gaussnoise(image.width // width + 1, image.height // width + 1, mean=0, sigma=sigma, seed=seed)
        for seed in range(image.bands)
    ]
    joined = layers[0].bandjoin(layers[1:]) if len(layers) > 1 else layers[0]
    return joined.resize(width, kernel="nearest").crop(0, 0, image.width, image.height)


@cache
def scene(name: str) -> Image:
    xyz = Image.xyz(WIDTH, HEIGHT)
    x, y = xyz[0], xyz[1]
    sun = (((x - 70) ** 2 + (y - 20) ** 2) < 15**2).ifthenelse(200, 0)
    scenes = {
        "dawn": lambda: (x * 1.5 + sun).bandjoin([y * 2 + sun * 0.6, x + y]),
        "drawing": lambda: (
            ((x + y * 2) % 30 < 6).ifthenelse(20, 235).bandjoin([(x > 40).ifthenelse(255, 200), y * 0 + 250])
        ),
        "face": lambda: (
            (((x - 48) ** 2 + (y - 36) ** 2) < 25**2).ifthenelse(210, 60).bandjoin([y * 1.5 + 50, y * 0 + 90])
        ),
        "grey": lambda: x * 0.8 + y + sun * 0.5,
        "dim": lambda: (x * 0.1 + 100).bandjoin([y * 0.12 + 90, x * 0 + 80]),
        "nearly flat": lambda: x * 0 + noise(x, 3) + 200,
        "nearly flat colour": lambda: (x * 0.03 + 90).bandjoin([y * 0 + 91, y * 0.02 + 92]),
        "black": lambda: x * 0,
        "white": lambda: x * 0 + 255,
        "grain": lambda: x * 0 + 128 + noise(x, 40),
    }
    return as_bytes(scenes[name]()).copy_memory()


SHAPED = ["dawn", "drawing", "face", "grey", "dim"]
FLAT = ["nearly flat", "nearly flat colour", "black", "white", "grain"]
HONEST: dict[str, Change] = {
    "lanczos": lambda image: image.resize(4),
    "nearest": lambda image: image.resize(4, kernel="nearest"),
    "linear, 2.5": lambda image: image.resize(2.5, kernel="linear"),
    "half": lambda image: image.resize(0.5),
    "sharp": lambda image: as_bytes(image.resize(4) * 2.5 - image.resize(4).gaussblur(3) * 1.5),
    "a pixel more": lambda image: image.resize(4).embed(0, 0, 4 * WIDTH + 1, 4 * HEIGHT + 1, extend="copy"),
    "a pixel less": lambda image: image.resize(4).crop(0, 0, 4 * WIDTH - 1, 4 * HEIGHT - 1),
    "moved": lambda image: image.resize(4).embed(2, 2, 4 * WIDTH, 4 * HEIGHT, extend="copy"),
    "lighter": lambda image: as_bytes(image.resize(4) * 1.04 + 4),
    "less contrast": lambda image: as_bytes(image.resize(4) * 0.9 + 14),
    "grain": lambda image: as_bytes(image.resize(4) + noise(image.resize(4), 25)),
    "noise of 3 pixels": lambda image: as_bytes(image.resize(4) + noise(image.resize(4), 20, 3)),
    "smooth": lambda image: image.gaussblur(1.5).resize(4),
    "16 bit": lambda image: (
        (image.resize(4) * 257).cast("ushort").copy(interpretation="grey16" if image.bands < 3 else "rgb16")
    ),
    "grey as colour": lambda image: (
        as_bytes(image.resize(4)[0].bandjoin([image.resize(4)[0]] * 2)) if image.bands < 3 else image.resize(4)
    ),
    "with alpha": lambda image: image.resize(4).bandjoin(255),
}
WRONG: dict[str, Change] = {
    "sideways": lambda image: image.rot90(),
    "the other side": lambda image: image.rot270(),
    "upside down": lambda image: image.rot180(),
    "mirrored": lambda image: image.fliphor(),
    "mirrored down": lambda image: image.flipver(),
    "inverted": lambda image: image.invert(),
    "black": lambda image: as_bytes(image * 0),
    "white": lambda image: as_bytes(image * 0 + 255),
    "flat": lambda image: as_bytes(image * 0 + [image[n].avg() for n in range(image.bands)]),
    "noise": lambda image: as_bytes(image * 0 + 128 + noise(image, 60)),
}


def compared(source: Image, result: Image) -> None:
    """As the daemon does it: the one as text."""
    text = likeness(source)
    found = resemblance.from_text(text)
    assert found is not None
    assert len(text) <= 1024
    resemblance.compare(found, look(result))


@pytest.mark.parametrize("change", HONEST)
def test_what_is_honest_passes(change: str) -> None:
    for name in SHAPED + FLAT:
        compared(scene(name), HONEST[change](scene(name)))


@pytest.mark.parametrize("change", WRONG)
@pytest.mark.parametrize("name", SHAPED)
def test_what_is_wrong_fails(name: str, change: str) -> None:
    if name == "face" and change == "mirrored":
        return  # It is the same.
    with pytest.raises(Unlike) as caught:
        compared(scene(name), WRONG[change](scene(name)).resize(4))
    assert caught.value.said.endswith(".")
    turned = change in ("sideways", "the other side", "upside down", "mirrored", "mirrored down")
    assert ("turned or mirrored" in caught.value.said) <= turned
    assert ("single colour" in caught.value.said) == (change in ("black", "white", "flat"))


@pytest.mark.parametrize("name", SHAPED)
def test_another_picture_fails(name: str) -> None:
    for other in [*SHAPED, *FLAT]:
        if other != name:
            with pytest.raises(Unlike):
                compared(scene(name), scene(other).resize(4))


def test_a_flat_picture_is_told_by_its_colour() -> None:
    for name, other in (("black", "white"), ("white", "black"), ("white", "dawn"), ("nearly flat", "black")):
        with pytest.raises(Unlike):
            compared(scene(name), scene(other))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 8), (13, 9), (24, 24), (40, 30), (1, 200), (500, 2)])
def test_tiny_pictures_pass(size: tuple[int, int]) -> None:
    """Noise alone, of which a blur leaves little."""
    image = as_bytes(Image.black(*size, bands=3) + 128 + noise(Image.black(*size, bands=3), 40)).copy_memory()
    for change in ("lanczos", "nearest", "linear, 2.5", "16 bit", "less contrast"):
        compared(image, HONEST[change](image))
    if min(size) >= 8:
        for change in ("sharp", "smooth"):
            compared(image, HONEST[change](image))
        for wrong in ("sideways", "inverted", "mirrored", "upside down"):
            with pytest.raises(Unlike):
                compared(image, WRONG[wrong](image).resize(4))


def clear(name: str) -> Image:
    """Half of it fades to nothing, and what is under that is red."""
    image = scene(name)
    alpha = (Image.xyz(WIDTH, HEIGHT)[0] * 6 - 100).cast("uchar")
    colours = (alpha == 0).ifthenelse([250, 20, 20], image)
    return colours.bandjoin(alpha).copy(interpretation="srgb")


@pytest.mark.parametrize("name", ["dawn", "drawing"])
def test_transparency_may_be_flattened_over_anything(name: str) -> None:
    image = clear(name)
    for background in ([0, 0, 0], [255, 255, 255], [128, 128, 128], [0, 255, 0]):
        compared(image, image.flatten(background=background).resize(4))
    compared(image, image.premultiply().resize(4).unpremultiply().rint().cast("uchar").copy(interpretation="srgb"))
    compared(image, image[:3].resize(4))
    for change in ("inverted", "mirrored", "black", "noise"):
        with pytest.raises(Unlike):
            compared(image, WRONG[change](image[:3]).resize(4))


def test_what_is_clear_altogether_says_nothing() -> None:
    image = as_bytes(Image.black(WIDTH, HEIGHT, bands=3)).bandjoin(0).copy(interpretation="srgb")
    compared(image, scene("dawn").resize(4))


@pytest.mark.parametrize("text", ["", "junk", "AAAA", "~", "é", "A" * 575])
def test_what_is_no_likeness_is_not_compared(text: str) -> None:
    assert resemblance.from_text(text) is None


def test_every_pixel_has_its_share() -> None:
    """The averages are exact, whatever the sizes."""
    for width, height in ((12, 12), (13, 29), (143, 145), (300, 71), (1000, 150)):
        image = (Image.xyz(width, height)[0] * 7 % 251).cast("uchar")
        cells = look(image).cells
        assert len(cells) == 144
        assert abs(sum(cell[0] for cell in cells) / 144 - image.avg()) < 1.5


# Measuring


async def test_a_result_is_compared_while_it_is_measured(pictures: VipsPictures, tmp_path: Path) -> None:
    scene("dawn").pngsave(str(tmp_path / "source"))
    prepared = likeness(pyvips.Image.new_from_file(str(tmp_path / "source")))
    scene("dawn").resize(4).pngsave(str(tmp_path / "result"))
    measured = await pictures.measure(tmp_path / "result", 10**6, prepared)
    assert (measured.width, measured.height, measured.bands, measured.depth) == (4 * WIDTH, 4 * HEIGHT, 3, 8)
    scene("face").resize(4).pngsave(str(tmp_path / "result"))
    with pytest.raises(Unlike):
        await pictures.measure(tmp_path / "result", 10**6, prepared)


@pytest.mark.parametrize("kind", ["grey", "greya", "grey16", "rgb", "rgba", "rgb16", "rgba16"])
async def test_bands_and_depth_are_measured(pictures: VipsPictures, tmp_path: Path, kind: str) -> None:
    kit.picture(kind).pngsave(str(tmp_path / "result"))
    measured = await pictures.measure(tmp_path / "result", 10**6)
    bands = 1 if kind.startswith("grey") else 3
    assert (measured.bands, measured.alpha, measured.depth) == (
        bands,
        kind.strip("16")[-1] == "a",
        16 if "16" in kind else 8,
    )


@pytest.mark.parametrize("cut", [1, 5, 13, 60, 400])
@pytest.mark.parametrize("height", [72, 73, 145, 431])
async def test_damage_is_found_while_it_is_compared(
    pictures: VipsPictures, tmp_path: Path, cut: int, height: int
) -> None:
    """As surely as without: the last line of the picture is read as well."""
    image = as_bytes(Image.black(90, height, bands=3) + 128 + noise(Image.black(90, height, bands=3), 40))
    data = image.pngsave_buffer(compression=1)
    path = tmp_path / "result"
    path.write_bytes(data[:-cut])
    with pytest.raises(NotAPicture) as caught:
        await pictures.measure(path, 10**6, likeness(image.copy_memory()))
    assert not isinstance(caught.value, Unlike)
    damaged = bytearray(data)
    damaged[-40] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(NotAPicture):
        await pictures.measure(path, 10**6, likeness(image.copy_memory()))
