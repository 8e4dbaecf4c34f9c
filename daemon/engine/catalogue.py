"""
Catalogue: the networks of Real-ESRGAN that are known by name, where their official files are, and what those must be.

Sizes and checksums are what a download is held against, so a host that was broken into can give us nothing else. Pure.
"""

from dataclasses import dataclass

RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases/download/"
LICENCE = "BSD-3-Clause"
COPYRIGHT = "Copyright (c) 2021, Xintao Wang"
DEFAULT = "realesr-general-x4v3"
# Where no size is stated: the largest of the others.
BYTES_MAX = 67_040_989


@dataclass(frozen=True, slots=True)
class Known:
    """An official file. path: below RELEASES. size: in bytes, or None where nobody stated it. about: what it is for.

    bin_sha256: of the .bin that the authors made of it for ncnn, or "".
    """

    name: str
    path: str
    size: int | None
    sha256: str
    about: str
    bin_sha256: str = ""
    scale: int = 4
    licence: str = LICENCE

    @property
    def bytes_max(self) -> int:
        """More than this is not this file."""
        return self.size if self.size is not None else BYTES_MAX


KNOWN = (
    Known(
        DEFAULT,
        "v0.2.5.0/realesr-general-x4v3.pth",
        4_885_111,
        "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        "any picture; small and 20 times cheaper than x4plus, right for a NAS",
        "85ee266b632a765a725425ba6a5620c088c8aa2939a03063b2d83b3462724cc1",
    ),
    Known(
        "realesr-general-wdn-x4v3",
        "v0.2.5.0/realesr-general-wdn-x4v3.pth",
        4_885_111,
        "1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
        "the same, but it leaves more of a picture's noise in it",
    ),
    Known(
        "RealESRGAN_x4plus",
        "v0.1.0/RealESRGAN_x4plus.pth",
        67_040_989,
        "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        "any picture; large and slow, what the hosted API runs",
        "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
    ),
    Known(
        "RealESRGAN_x4plus_anime_6B",
        "v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth",
        None,
        "f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        "drawings and anime",
        "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
    ),
    Known(
        "realesr-animevideov3",
        "v0.2.5.0/realesr-animevideov3.pth",
        2_504_012,
        "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        "frames of animated films; the smallest",
        "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
    ),
)
_BY_NAME = {known.name: known for known in KNOWN}
_BY_SHA256 = {sha256: known for known in KNOWN for sha256 in (known.sha256, known.bin_sha256) if sha256}


def named(name: str) -> Known | None:
    """The official file of a name."""
    return _BY_NAME.get(name)


def recognised(sha256: str) -> Known | None:
    """Which official network has a .pth or .bin of this checksum, whatever it is called."""
    return _BY_SHA256.get(sha256)
