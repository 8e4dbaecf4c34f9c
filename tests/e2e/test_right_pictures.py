"""
Every picture right, through the real daemon: what is in the outbox is what libvips makes of the source, pixel by pixel.

The service is a process of its own that repeats pixels, so every result can be foretold; see `e2e.truthful`.
"""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import pyvips
from adapters import pixel_kit as kit
from e2e.truthful import Truthful
from e2e.world import Daemon, config, esrgand, outbox

PIXELS_MAX, OVERLAP = 600, 4
ONE, TILED = kit.WIDTH, 2 * kit.WIDTH  # widths: of what fits in one piece, and of what does not


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Truthful]:
    server = Truthful(tmp_path / "service")
    yield server
    server.end()


def configured(folder: Path, server: Truthful, extra: str = "") -> Path:
    """With tiles of some hundred pixels, and nothing that slows down."""
    path = config(folder, server.base_url, extra=f"overlap = {OVERLAP}\n{extra}")
    text = path.read_text().replace("[api]", f"[api]\npixels_max = {PIXELS_MAX}\ncreates_per_minute_max = 10000")
    path.write_text(text)
    return path


def selection() -> list[tuple[str, str, str, int, int]]:
    """Format, kind, profile, orientation, width: all kinds with all their profiles, all orientations in both ways."""
    chosen = [(*each, n * 3 % 8 + 1, ONE if n // 2 % 2 else TILED) for n, each in enumerate(kit.MATRIX)]
    ways = [(orientation, width) for orientation in kit.ORIENTATIONS for width in (ONE, TILED)]
    formats = [("JPEG", "rgb", "p3"), ("PNG", "rgba", ""), ("WEBP", "rgba", "adobe")]
    chosen += [(*formats[n % 3], *way) for n, way in enumerate(ways)]
    return list(dict.fromkeys(chosen))


def test_the_selection_has_everything() -> None:
    chosen = selection()
    for axis, values in enumerate(
        [kit.KINDS, {kind for kinds in kit.KINDS.values() for kind in kinds}, kit.PROFILES, kit.ORIENTATIONS]
    ):
        assert set(values) <= {each[axis] for each in chosen}
    assert {each[3:] for each in chosen} == {(n, width) for n in kit.ORIENTATIONS for width in (ONE, TILED)}
    assert 55 <= len(chosen) <= 90


def test_every_picture_comes_out_right(tmp_path: Path, server: Truthful) -> None:
    """And what went up tells nothing of where it was taken, nor anything else but its pixels."""
    path = configured(tmp_path, server, "strip_gps = true")
    sources = {}
    for n, (format_, kind, profile, orientation, width) in enumerate(selection()):
        name = f"{n:02}-{kind}-{profile}-{orientation}-{width}{kit.SUFFIXES[format_]}"
        sources[name] = (format_, kit.made(format_, kind, orientation, profile, width=width))
        (tmp_path / "in" / name).write_bytes(sources[name][1])
    daemon = Daemon(path, "once")
    assert daemon.wait() == 0, daemon.lines[-20:]

    there = outbox(tmp_path / "out")
    assert len(there) == 2 * len(sources)
    for name, (format_, data) in sources.items():
        result = tmp_path / "out" / f"{name.rpartition('.')[0]}_x4.png"
        assert kit.SECRET not in result.read_bytes(), name
        try:
            kit.check(kit.load(result), data, format_)
        except AssertionError as error:
            raise AssertionError(name) from error
        sidecar = json.loads((tmp_path / "out" / f"{result.name}.json").read_text())
        wanted = kit.reference(data)
        assert (sidecar["result"]["width"], sidecar["result"]["height"]) == (wanted.width, wanted.height)
        assert (sidecar["source"]["width"], sidecar["source"]["height"]) == (wanted.width // 4, wanted.height // 4)
        assert sidecar["warnings"] == (["The picture's CMYK colours were converted to sRGB."] if "cmyk" in name else [])
    check_privacy(server.seen)
    assert len(server.seen) == len(server.predictions()) > 1.8 * len(sources), "half of them were cut"
    assert not list((tmp_path / "state" / "staging").iterdir())


def test_results_in_the_sources_format(tmp_path: Path, server: Truthful) -> None:
    """Compressed, so nearly the same; size, profile, transparency and tags are exact. CMYK becomes RGB."""
    path = configured(tmp_path, server, 'format = "source"\nquality = 95')
    chosen = [("JPEG", "rgb", "adobe"), ("JPEG", "grey", "grey"), ("JPEG", "cmyk", "cmyk"), ("WEBP", "rgba", "p3")]
    chosen += [("WEBP", "rgb", ""), ("PNG", "rgba16", "p3"), ("PNG", "palettea", "")]
    sources = {
        f"{kind}-{width}{kit.SUFFIXES[format_]}": kit.made(format_, kind, orientation, profile, width=width)
        for format_, kind, profile in chosen
        for orientation, width in ((6, ONE), (7, TILED))
    }
    for name, data in sources.items():
        (tmp_path / "in" / name).write_bytes(data)
    assert Daemon(path, "once").wait() == 0
    for name, data in sources.items():
        stem, _, suffix = name.rpartition(".")
        result, wanted = kit.load(tmp_path / "out" / f"{stem}_x4.{suffix}"), kit.reference(data)
        assert (result.width, result.height, result.bands) == (wanted.width, wanted.height, wanted.bands), name
        assert result.format == wanted.format
        assert (result - wanted).abs().avg() < (0.001 if suffix == "png" else 3) * (257 if "16" in name else 1), name
        source = pyvips.Image.new_from_buffer(data, "")
        icc = b"" if "cmyk" in name else kit.field(source, "icc-profile-data")
        assert kit.field(result, "icc-profile-data") == icc
        assert result.get("orientation") == 1
        assert b"MAKER-NOTE" in kit.field(result, "exif-data")
        assert b"KEPT" in kit.field(result, "xmp-data")


def check_privacy(seen: list[bytes]) -> None:
    """Nothing but pixels went up."""
    for data in seen:
        for secret in (kit.SECRET, b"MAKER-NOTE", b"KEPT", b"caption", b"Exif", b"xmpmeta", b"8BIM", b"acsp"):
            assert secret not in data
        image = pyvips.Image.new_from_buffer(data, "")
        kinds = (
            "exif-",
            "xmp-",
            "iptc-",
            "icc-",
            "png-comment",
            "jpeg-comment",
            "jpeg-thumb",
            "orientation",
            "photoshop",
        )
        assert not [name for name in image.get_fields() if name.startswith(kinds)]


# Results that are wrong

LIES = {
    "black": ["a single colour"],
    "sideways": ["turned or mirrored"],
    "mirrored": ["turned or mirrored"],
    "inverted": ["does not look like"],
    "swapped": ["does not look like", "quite different"],
}
LIAR_WIDTHS = dict(zip(LIES, range(90, 140, 10), strict=False))


def test_wrong_results_are_fetched_once_more_and_then_kept_for_a_person(tmp_path: Path, server: Truthful) -> None:
    """Nothing of them is in the outbox, and none is paid for twice; what is honest passes beside them."""
    path = config(tmp_path, server.base_url)
    for word, width in {**LIAR_WIDTHS, "honest": 140}.items():
        kit.picture("rgb", width, 80).pngsave(str(tmp_path / "in" / f"{word}.png"))
    kit.picture("rgb16", 100, 70).extract_band(0).pngsave(str(server.folder / "other.png"))
    (server.folder / "lies.json").write_text(json.dumps({width: word for word, width in LIAR_WIDTHS.items()}))
    assert Daemon(path, "once").wait() == 3

    there = outbox(tmp_path / "out")
    assert {name.decode() for name in there} == {f"{word}.png.error.json" for word in LIES} | {
        "honest_x4.png",
        "honest_x4.png.json",
    }
    for word, reasons in LIES.items():
        report = json.loads(there[f"{word}.png.error.json".encode()])
        assert any(reason in report["reason"] for reason in reasons), (word, report["reason"])
    assert len(server.predictions()) == len(LIES) + 1
    assert sorted(Counter(server.downloads).values()) == [1] + [2] * len(LIES)
    rejected = [kit.load(place) for place in (tmp_path / "state" / "staging").iterdir() if "rejected" in place.name]
    assert sorted(image.width for image in rejected) == [4 * width for width in LIAR_WIDTHS.values()]

    (server.folder / "lies.json").unlink()
    esrgand(path, "retry", "--failed")
    assert Daemon(path, "once").wait() == 0
    for word, width in LIAR_WIDTHS.items():
        right = kit.picture("rgb", width, 80).resize(4, kernel="nearest").copy_memory()
        assert kit.difference(kit.load(tmp_path / "out" / f"{word}_x4.png"), right) == 0
    assert not list((tmp_path / "state" / "staging").iterdir())


# Headers that lie


def ifd(*entries: bytes, following: int = 0, order: str = "<") -> bytes:
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    return head + b"".join(entries) + struct.pack(order + "I", following)


def blocks() -> dict[str, bytes]:
    """EXIF that no one should trust."""
    whole, entry = kit.exif(6), kit.entry
    return {
        "cut": whole[:60],
        "junk": bytes(range(256)) * 4,
        "empty": b"",
        "a loop": ifd(entry("<", 0x0112, 3, 1, b"\6\0"), following=8),
        "a loop below": ifd(entry("<", 0x8769, 4, 1, struct.pack("<I", 8))),
        "a loop of places": ifd(entry("<", 0x8825, 4, 1, struct.pack("<I", 8))),
        "endless": ifd(entry("<", 0x0110, 2, 0xFFFFFFFF, struct.pack("<I", 0xFFFFFFF0))),
        "far away": ifd(entry("<", 0x8769, 4, 1, struct.pack("<I", 0xFFFFFFFF))),
        "many": b"II*\0\x08\0\0\0\xff\xff" + bytes(2000),
        **{f"orientation {n}": kit.exif(n) for n in (0, 9, 255, 65535)},
        "an orientation of text": ifd(entry("<", 0x0112, 2, 4, b"six\0")),
    }


DAMAGED = ("cut", "a loop", "endless", "far away", "many")


def with_exif(format_: str, block: bytes) -> bytes:
    """Of this format, with this block and nothing else."""
    data = kit.encoded(kit.picture("rgb"), format_, bare=True)
    if format_ == "JPEG":
        return data[:2] + kit.segment(0xE1, b"Exif\0\0" + block) + data[2:]
    if format_ == "PNG":
        return data[:33] + kit.chunk(b"eXIf", block) + data[33:]
    canvas = b"".join((side - 1).to_bytes(3, "little") for side in (kit.WIDTH, kit.HEIGHT))
    body = b"WEBPVP8X\x0a\0\0\0\x08\0\0\0" + canvas + data[12:]
    body += b"EXIF" + len(block).to_bytes(4, "little") + block + b"\0" * (len(block) % 2)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def sound() -> dict[str, bytes]:
    """Pictures that are whole, whatever is told beside them; of JPEG, PNG and WebP."""
    found = {
        f"{name}{kit.SUFFIXES[format_]}": with_exif(format_, block)
        for format_ in kit.SUFFIXES
        for name, block in blocks().items()
    }
    profile = bytearray(kit.profile("p3") + bytes(4 << 20))
    profile[:4] = len(profile).to_bytes(4, "big")
    found["a profile of 4 MB.jpg"] = kit.encoded(kit.picture("rgb"), "JPEG", icc=bytes(profile), bare=True)
    png, jpeg = (kit.encoded(kit.picture("rgb"), format_, bare=True) for format_ in ("PNG", "JPEG"))
    packet = b"<x>" + b"x" * (5 << 20) + b"</x>"
    for name, more in {
        "huge XMP": kit.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet),
        "nothing in it": kit.chunk(b"tIME", b"") + kit.chunk(b"prVt", b"") + kit.chunk(b"tEXt", b""),
        "a thousand texts": kit.chunk(b"tEXt", b"Comment\0x") * 1000,
    }.items():
        found[f"{name}.png"] = png[:33] + more + png[33:]
    empty = b"".join(kit.segment(marker, b"") for marker in range(0xE0, 0xF0))
    found["nothing in it.jpg"] = jpeg[:2] + empty + kit.segment(0xFE, b"") + jpeg[2:]
    for name, icc in {"4 MB of zeros": bytes(4 << 20), "junk for a profile": b"x" * 300}.items():
        parts = [icc[at : at + 65_000] for at in range(0, len(icc), 65_000)]
        heads = [b"ICC_PROFILE\0" + bytes([n, len(parts)]) for n in range(1, len(parts) + 1)]
        segments = b"".join(kit.segment(0xE2, head + part) for head, part in zip(heads, parts, strict=True))
        found[f"{name}.jpg"] = jpeg[:2] + segments + jpeg[2:]
    found["no length.jpg"] = jpeg[:2] + b"\xff\xe1\0\0" + jpeg[2:]
    found["a lot of XMP.jpg"] = (
        jpeg[:2] + kit.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"x" * 65_000) * 30 + jpeg[2:]
    )
    return found


def unsound() -> dict[str, bytes]:
    """What has to be refused."""
    png, jpeg, webp = (kit.encoded(kit.picture("rgb"), format_, bare=True) for format_ in ("PNG", "JPEG", "WEBP"))
    sizes = {
        "wider": (27, 20),
        "taller": (26, 21),
        "vast": (0x7FFFFFFF, 0x7FFFFFFF),
        "none": (0, 20),
        "narrow": (25, 20),
    }
    found = {
        f"{name}.png": png[:8] + kit.chunk(b"IHDR", struct.pack(">II", *size) + png[24:29]) + png[33:]
        for name, size in sizes.items()
    }
    at = jpeg.index(b"\xff\xc0") + 5
    for name, size in {"wider": (64, 20), "taller": (26, 64), "vast": (65_500, 65_500), "none": (0, 20)}.items():
        found[f"{name}.jpg"] = jpeg[:at] + struct.pack(">HH", *size[::-1]) + jpeg[at + 4 :]
    for name, data in {"cut.png": png, "cut.jpg": jpeg, "cut.webp": webp}.items():
        for share in (0.3, 0.6, 0.9):
            found[f"{share} {name}"] = data[: int(len(data) * share)]
    found["no data.png"] = png[:33] + kit.chunk(b"IDAT", b"") + png[-12:]
    found["a wrong sum.png"] = png[:33].replace(png[29:33], b"\0\0\0\0") + png[33:]
    found["a long chunk.png"] = png[:33] + b"\x7f\xff\xff\xfftEXt" + png[33:]
    found["a chunk of 4 GB.png"] = png[:33] + b"\xff\xff\xff\xffiCCP" + png[33:]
    found["no tables.jpg"] = jpeg.replace(b"\xff\xdb", b"\xff\xee")
    found["a canvas of its own.webp"] = webp[:24] + (99).to_bytes(3, "little") + webp[27:]
    return found


def test_headers_that_lie_are_refused_with_a_reason_or_come_out_right(tmp_path: Path, server: Truthful) -> None:
    """Nothing crashes, and nothing is billed for what is refused."""
    path = configured(tmp_path, server, "give_up_seconds = 1")
    right, wrong = sound(), unsound()
    assert len({*right.values(), *wrong.values()}) == len(right) + len(wrong)
    for name, data in (right | wrong).items():
        (tmp_path / "in" / name).write_bytes(data)
    daemon = Daemon(path, "once")
    assert daemon.wait() == 3
    assert "Traceback" not in "\n".join(daemon.lines)

    there = outbox(tmp_path / "out")
    reports = {name.decode().removesuffix(".error.json") for name in there if name.endswith(b".error.json")}
    assert reports == set(wrong)
    for name in wrong:
        report = json.loads(there[f"{name}.error.json".encode()])
        assert report["reason"].endswith(".")
        assert report["cost_usd"] == 0
    sidecars = [json.loads(data) for name, data in there.items() if name.endswith(b".png.json")]
    assert {sidecar["source"]["path"] for sidecar in sidecars} == set(right)
    for sidecar in sidecars:
        result = pyvips.Image.new_from_buffer(there[sidecar["result"]["path"].encode()], "").copy_memory()
        name = sidecar["source"]["path"]
        # What is left of a block that was cut may still say how the picture lies.
        assert kit.difference(result, kit.reference(right[name])) == 0, name
        damaged = "The picture's EXIF data is damaged and was left out."
        stem = name.rpartition(".")[0]
        assert stem == "junk" or (damaged in sidecar["warnings"]) == (stem in DAMAGED), name
    assert len(server.predictions()) == len(right)
