"""Pictures with everything that a picture may have, and a service that keeps nothing of it."""

import struct
import zlib
from functools import cache
from pathlib import Path

import pyvips

WIDTH, HEIGHT = 26, 20
SECRET = b"SECRET-PLACE"
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
SCALE = 4
ORIENTATIONS = range(1, 9)
PROFILES = ("", "srgb", "p3", "adobe")
# Of each format, the kinds of pixels that it has, and the profiles that each may have.
KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "JPEG": {"grey": ("", "grey"), "rgb": PROFILES, "cmyk": ("", "cmyk")},
    "PNG": {
        "grey": ("", "grey"),
        "grey16": ("", "grey"),
        "greya": ("", "grey"),
        "rgb": PROFILES,
        "rgb16": PROFILES,
        "rgba": PROFILES,
        "rgba16": ("", "p3"),
        "palette": PROFILES,
        "palettea": ("", "p3"),
        "interlaced": ("", "adobe"),
    },
    "WEBP": {"rgb": PROFILES, "rgba": PROFILES},
}
MATRIX = [
    (format_, kind, profile) for format_, kinds in KINDS.items() for kind, names in kinds.items() for profile in names
]
NAMES: dict[str, tuple[str, dict[str, object]]] = {
    "palette": ("rgb", {"palette": True}),
    "palettea": ("rgba", {"palette": True}),
    "interlaced": ("rgb", {"interlace": True}),
}


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


# Profiles


def icc(space: bytes, gamma: float, primaries: tuple[tuple[float, float, float], ...] = ()) -> bytes:
    """A profile of version 2, by hand."""

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = [(b"desc", text), (b"wtpt", xyz((0.9642, 1, 0.8249))), (b"cprt", b"text\0\0\0\0none\0\0\0\0")]
    if space == b"GRAY":
        tags.append((b"kTRC", curve))
    for name, primary in zip((b"r", b"g", b"b"), primaries, strict=False):
        tags += [(name + b"XYZ", xyz(primary)), (name + b"TRC", curve)]
    table, body, begin = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags:
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", begin + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", 128 + len(table + body), b"none", 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(48) + table + body


ADOBE = icc(
    b"RGB ",
    563 / 256,
    ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
)
GREY = icc(b"GRAY", 1.8)


@cache
def profile(name: str) -> bytes:
    """srgb, p3, cmyk as libvips has them; adobe, grey by hand; "" for none."""
    if name in ("", "adobe", "grey"):
        return {"": b"", "adobe": ADOBE, "grey": GREY}[name]
    data: bytes = pyvips.Operation.call("profile_load", name)
    return data


# EXIF


def entry(order: str, tag: int, type_: int, count: int, value: bytes) -> bytes:
    return struct.pack(order + "HHI", tag, type_, count) + value.ljust(4, b"\0")


def exif(orientation: int, order: str = "<", places: bool = True) -> bytes:
    """With a maker's note, a thumbnail, and (places) where it was taken; all of them with the secret in them."""
    note, thumbnail = b"MAKER-NOTE", b"\xff\xd8" + SECRET + b"-THUMB\xff\xd9"
    latitude = b"GPS-" + SECRET + b"123456789"
    latitude = latitude[:24].ljust(24, b"\0")

    def short(value: int) -> bytes:
        return struct.pack(order + "H", value)

    def long(value: int) -> bytes:
        return struct.pack(order + "I", value)

    main_at = 8
    main_count = 3 if places else 2
    sub_at = main_at + 2 + 12 * main_count + 4
    gps_at = sub_at + 2 + 12 * 3 + 4
    next_at = gps_at + 2 + 12 + 4
    note_at = next_at + 2 + 24 + 4
    latitude_at = note_at + len(note)
    thumbnail_at = latitude_at + len(latitude)
    main = short(main_count) + entry(order, 0x0112, 3, 1, short(orientation)) + entry(order, 0x8769, 4, 1, long(sub_at))
    main += (entry(order, 0x8825, 4, 1, long(gps_at)) if places else b"") + long(next_at)
    sub = short(3) + entry(order, 0x927C, 7, len(note), long(note_at)) + entry(order, 0xA002, 3, 1, short(WIDTH))
    sub += entry(order, 0xA003, 4, 1, long(HEIGHT)) + long(0)
    gps = short(1) + entry(order, 0x0002, 5, 3, long(latitude_at)) + long(0)
    following = short(2) + entry(order, 0x0201, 4, 1, long(thumbnail_at))
    following += entry(order, 0x0202, 4, 1, long(len(thumbnail))) + long(0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + long(main_at)
    return head + main + sub + gps + following + note + latitude + thumbnail


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6" dc:title="KEPT"'
    b' exif:GPSLatitude="' + SECRET + b'" exif:PixelXDimension="26">'
    b"<exif:GPSLongitude>" + SECRET + b"</exif:GPSLongitude><xmp:Thumbnails><x>" + SECRET + b"</x></xmp:Thumbnails>"
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)
IIM = b"\x1c\x02\x78\x00\x07caption"


def photoshop(iim: bytes) -> bytes:
    other = b"8BIM\x04\x0c\0\0" + len(SECRET).to_bytes(4, "big") + SECRET
    return b"Photoshop 3.0\0" + other + b"8BIM\x04\x04\0\0" + len(iim).to_bytes(4, "big") + iim + b"\0" * (len(iim) % 2)


# Pictures


def layer(seed: int, width: int = WIDTH, height: int = HEIGHT) -> pyvips.Image:
    """Smooth and not symmetric, with noise on it, so that no two turns of it look the same."""
    xyz = pyvips.Image.xyz(width, height)
    x, y = xyz[0] * (26 / width), xyz[1] * (20 / height)
    ramp = (x * (3 + seed) + y * (5 - seed) + (x * 20 * (seed + 1)).sin() * 30 + 40).copy()
    return ramp + pyvips.Image.gaussnoise(width, height, mean=10, sigma=8, seed=seed)


@cache
def picture(kind: str, width: int = WIDTH, height: int = HEIGHT) -> pyvips.Image:
    """grey, grey16, greya, rgb, rgb16, rgba, rgba16 or cmyk."""
    bands = {"grey": 1, "grey16": 1, "greya": 2, "rgb": 3, "rgb16": 3, "rgba": 4, "rgba16": 4, "cmyk": 4}[kind]
    layers = [layer(seed, width, height) for seed in range(bands)]
    image = layers[0].bandjoin(layers[1:]) if bands > 1 else layers[0]
    if kind.endswith("16"):
        space = "grey16" if bands == 1 else "rgb16"
        return (image * 257 + 3).cast("ushort").copy(interpretation=space).copy_memory()
    space = "cmyk" if kind == "cmyk" else "b-w" if bands < 3 else "srgb"
    return image.cast("uchar").copy(interpretation=space).copy_memory()


def blob(image: pyvips.Image, name: str, data: bytes) -> None:
    if data:
        image.set_type(pyvips.GValue.blob_type, name, data)


def encoded(
    image: pyvips.Image, format_: str, *, orientation: int = 1, icc: bytes = b"", bare: bool = False, **options: object
) -> bytes:
    """With metadata and secrets everywhere, or (bare) with nothing but its profile."""
    options = {"WEBP": {"lossless": True}, "JPEG": {"Q": 95}}.get(format_, {}) | options
    image = image.copy()
    blob(image, "icc-profile-data", icc)
    data: bytes = image.write_to_buffer(SUFFIXES[format_], keep="icc", **options)
    if bare and orientation == 1:
        return data
    block = exif(orientation)
    if format_ == "JPEG":
        text = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP) + segment(0xED, photoshop(IIM))
        text += segment(0xFE, SECRET) + segment(0xE5, SECRET)
        return data[:2] + segment(0xE1, b"Exif\0\0" + block) + text + data[2:] + b"TRAILER" + SECRET
    if format_ == "PNG":
        raw = photoshop(IIM)[14:].hex()
        profile = f"\niptc\n{len(raw) // 2:8}\n{raw}\n".encode()
        text = chunk(b"eXIf", block) + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
        text += chunk(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(profile))
        text += chunk(b"tEXt", b"Comment\0" + SECRET) + chunk(b"prVt", SECRET)
        return data[:33] + text + data[33:] + b"TRAILER" + SECRET
    parts = {b"EXIF": block, b"XMP ": XMP, b"SECR": SECRET}
    body = data[8:] + b"".join(
        kind + len(part).to_bytes(4, "little") + part + b"\0" * (len(part) % 2) for kind, part in parts.items()
    )
    if body[4:8] != b"VP8X":
        canvas = b"".join((side - 1).to_bytes(3, "little") for side in (image.width, image.height))
        flags = 0x10 if image.hasalpha() else 0
        body = body[:4] + b"VP8X\x0a\0\0\0" + bytes([flags, 0, 0, 0]) + canvas + body[4:]
    body = body[:12] + bytes([body[12] | 0x0C]) + body[13:]
    return b"RIFF" + len(body).to_bytes(4, "little") + body + b"TRAILER" + SECRET


# What is expected


def load(path: Path) -> pyvips.Image:
    return pyvips.Image.new_from_file(str(path), fail_on="warning").copy_memory()


def field(image: pyvips.Image, name: str) -> bytes:
    return bytes(image.get(name)) if image.get_typeof(name) else b""


def difference(one: pyvips.Image, other: pyvips.Image) -> float:
    assert (one.width, one.height, one.bands, one.format) == (other.width, other.height, other.bands, other.format)
    value: float = (one.cast("int") - other.cast("int")).abs().max()
    return value


def made(
    format_: str, kind: str, orientation: int = 1, profile_: str = "", bare: bool = False, width: int = WIDTH
) -> bytes:
    """One of the matrix. width: of the picture as the file has it."""
    name, options = NAMES.get(kind, (kind, {}))
    image = picture(name, width, width * HEIGHT // WIDTH)
    return encoded(image, format_, orientation=orientation, icc=profile(profile_), bare=bare, **options)


def reference(data: bytes, scale: int = SCALE) -> pyvips.Image:
    """What libvips makes of it when it holds all of it in its hands."""
    image = pyvips.Image.new_from_buffer(data, "")
    image = image.autorot().copy_memory()
    if image.interpretation == "cmyk":
        image = image.icc_transform(
            "srgb", embedded=True, input_profile="cmyk", intent="relative", black_point_compensation=True
        )
    return image.resize(scale, kernel="nearest").copy_memory()


def check(result: pyvips.Image, data: bytes, format_: str) -> None:
    """Upright, every pixel exact, alpha too; in its own colours, with what it told of itself made true."""
    source, wanted = pyvips.Image.new_from_buffer(data, ""), reference(data)
    assert difference(result, wanted) == 0
    assert result.interpretation == wanted.interpretation
    icc = b"" if source.interpretation == "cmyk" else field(source, "icc-profile-data")
    assert field(result, "icc-profile-data") == icc
    assert result.get("orientation") == 1
    assert b"MAKER-NOTE" in field(result, "exif-data")
    assert int(result.get("exif-ifd2-PixelXDimension").split()[0]) == wanted.width
    assert int(result.get("exif-ifd2-PixelYDimension").split()[0]) == wanted.height
    xmp = field(result, "xmp-data")
    assert b'tiff:Orientation="1"' in xmp
    assert b'dc:title="KEPT"' in xmp
    assert b'PixelXDimension="%d"' % wanted.width in xmp
    if format_ != "WEBP":
        [text] = [result.get(name) for name in result.get_fields() if name.endswith("Raw profile type iptc")]
        assert IIM in bytes.fromhex("".join(text.split()[2:]))


def enlarged(source: Path, target: Path, scale: int = 4, kernel: str = "nearest", alpha: bool = True) -> None:
    """The service: pixels as the file has them, nothing else."""
    image = pyvips.Image.new_from_file(str(source))
    if not alpha and image.hasalpha():
        image = image.extract_band(0, n=image.bands - 1)
    image.resize(scale, kernel=kernel).pngsave(str(target), keep="none")
