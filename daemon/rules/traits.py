"""
Traits: what a picture has besides its pixels, and what is wanted of it. Plain values. Pure.
"""

from dataclasses import dataclass, field

from daemon.rules.tiles import Rect

NOT_KEPT = "What the picture had besides its pixels (date, place, colour profile) is not in the result."


@dataclass(frozen=True, slots=True)
class Traits:
    """orientation: EXIF's, 1 to 8, as the file has it; widths and heights elsewhere are of the upright picture.

    bands: of colour, 1 (grey), 3 or 4 (CMYK). depth: bits of a band, 8 or 16. profile: of the embedded ICC profile: ""
    (none), "srgb" or "other".
    """

    orientation: int = 1
    bands: int = 3
    alpha: bool = False
    depth: int = 8
    profile: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """What to upload of a picture. rect: of the upright picture. size: width and height to resample it to, or None.

    colour: "keep" (an embedded profile goes on with the result) or "srgb" (converted before). keep_alpha: the service
    will drop the transparency, so it is kept here. content: the picture's sha256, where it is known.
    """

    rect: Rect
    size: tuple[int, int] | None = None
    colour: str = "keep"
    keep_alpha: bool = False
    content: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What lies ready to be uploaded. format: PNG, JPEG or WEBP. likeness: how it looks, for `Pictures.measure`."""

    format: str
    bytes: int
    likeness: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A result that decodes whole. format: PNG, JPEG, WEBP or "" for others. bands, alpha, depth: as in Traits."""

    width: int
    height: int
    format: str
    bands: int = 3
    alpha: bool = False
    depth: int = 8


@dataclass(frozen=True, slots=True)
class Finish:
    """What the outbox is to get. size: width and height of the whole result. format: PNG, JPEG or WEBP.

    strip_gps: whether the place where it was taken is left out.
    """

    size: tuple[int, int]
    format: str
    quality: int = 92
    traits: Traits = field(default_factory=Traits)
    strip_gps: bool = False
