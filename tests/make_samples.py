"""Makes the sample pictures of the demo, from formulas alone. Run by hand: python tests/make_samples.py."""

from pathlib import Path

import pyvips

HERE = Path(__file__).parent.parent / "daemon" / "samples"


def scale(image, low, high):
    return (image - low) * (255 / (high - low))


def main() -> None:
    HERE.mkdir(exist_ok=True)
    w, h = 240, 160
    xy = pyvips.Image.xyz(w, h)
    x, y = xy[0], xy[1]
    sky = scale(y, 0, h)
    sun = (((x - 170) ** 2 + (y - 55) ** 2) < 26**2).ifthenelse(255, 0)
    hills = (y > 100 + (x * 3).sin() * 14 + (x * 7.3).sin() * 5).ifthenelse(255, 0)
    dawn = (sky * 0.6 + 60).bandjoin([120 - sky * 0.3, 200 - sky * 0.6]).copy(interpretation="srgb")
    dawn = sun.ifthenelse([255, 232, 170], dawn)
    dawn = hills.ifthenelse([46, 62, 58], dawn)
    dawn.cast("uchar").jpegsave(str(HERE / "dawn.jpg"), Q=88, strip=True)

    r = ((x - 110) ** 2 + (y - 80) ** 2) ** 0.5
    rings = ((r * 14).sin() + 1) * 127
    disc = (r < 76).ifthenelse(255, 0)
    badge = rings.bandjoin([255 - rings, (x * 4).sin() * 60 + 120, disc]).copy(interpretation="srgb")
    badge.cast("uchar").pngsave(str(HERE / "rings.png"), compression=9, strip=True)

    check = ((x / 16).floor() + (y / 16).floor()) % 2
    cloth = (check * 90 + 80).bandjoin([(x * 5).sin() * 50 + 120, (y * 6).cos() * 50 + 130])
    cloth.copy(interpretation="srgb").cast("uchar").webpsave(str(HERE / "cloth.webp"), Q=80, strip=True)

    text = pyvips.Image.text("esrgand", dpi=180, font="sans").gravity("centre", w, 96)
    (255 - text).cast("uchar").pngsave(str(HERE / "word.png"), compression=9, strip=True)

    grey = ((x * 2 + y * 3).sin() * (x - y).cos() + 1) * 127
    grey.cast("uchar").jpegsave(str(HERE / "waves.jpg"), Q=85, strip=True)


if __name__ == "__main__":
    main()
