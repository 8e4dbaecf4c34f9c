"""
Names: which files count, what a result is called, how a name is shown. File names are bytes throughout.

A name that is not UTF-8 is kept byte for byte in the outbox; where a person or JSON wants text it is shown with
`\\xNN`. A person is shown so, too, what would end a line, move the cursor or turn the direction of reading.
"""

import base64
import fnmatch
import hashlib
import re
from collections.abc import Iterable, Iterator

from daemon.rules.recipe import Recipe, number

NAME_BYTES_MAX = 255  # what Linux file systems, SMB and NFS take for one name
SIDECAR_SUFFIX = b".json"
ERROR_SUFFIX = b".error.json"
RESULT_SUFFIXES = {"PNG": b".png", "JPEG": b".jpg", "WEBP": b".webp"}
FORMATS = {suffix[1:]: format_ for format_, suffix in RESULT_SUFFIXES.items()}
# Pixels: by the formats' own definitions, or less where their libraries take less.
SIDES_MAX = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}
WEBP_PIXELS_MAX = 40_000_000  # it is written from memory, with nine bytes for each
CONTENT_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

IGNORED_PREFIXES = (b".", b"~$")
IGNORED_SUFFIXES = (b".part", b".partial", b".crdownload", b".tmp", b".filepart")
IGNORED_FOLDERS = frozenset(
    {
        b"@eadir",
        b"#recycle",
        b"@recycle",
        b".stfolder",
        b".stversions",
        b"__macosx",
        b".trashes",
        b".spotlight-v100",
        b".snapshot",
        b"lost+found",
    }
)


class Selection:
    """Which file names of a folder are pictures' names. include, exclude: shell patterns; case does not matter."""

    def __init__(self, include: Iterable[str], exclude: Iterable[str]) -> None:
        self._exclude = _pattern(exclude)
        # All in one, because every file of every scan is asked for: none of the prefixes, no exclude, one include, and
        # none of the suffixes before the end.
        prefixes, suffixes = (
            [re.escape(each.decode()) for each in all_] for all_ in (IGNORED_PREFIXES, IGNORED_SUFFIXES)
        )
        endings = "".join(f"(?<!{suffix})" for suffix in suffixes)
        taken = f"(?!{'|'.join(prefixes)})(?!{self._exclude.pattern})(?:{_pattern(include).pattern}){endings}"
        self._taken = re.compile(taken, re.IGNORECASE).match

    def takes(self, name: bytes) -> bool:
        """Whether a file of this name (without folders) may be a picture."""
        return self._taken(_text(name)) is not None

    def enters(self, folder: bytes) -> bool:
        """Whether a folder of this name is descended into."""
        lower = folder.lower()
        return (
            lower not in IGNORED_FOLDERS
            and not lower.startswith(IGNORED_PREFIXES)
            and self._exclude.match(_text(folder)) is None
        )


def _pattern(globs: Iterable[str]) -> re.Pattern[str]:
    """One pattern for all of them, blind to case; of none, one that matches nothing."""
    return re.compile("|".join(map(fnmatch.translate, globs)) or "(?!)", re.IGNORECASE)


def _text(name: bytes) -> str:
    """A name as patterns see it: case and `?` are about characters; a byte that is not UTF-8 is one of its own."""
    return name.decode("utf-8", "surrogateescape")


# Controls, ends of lines and of paragraphs, and marks of direction. Not all that does not print: spaces of other widths
# and joiners belong to the names of many languages.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def shown(name: bytes) -> str:
    r"""Text for people, on one line: UTF-8 as it is, every other byte, and what no terminal should get, as \xNN."""
    return _UNSHOWN.sub(lambda match: "".join(f"\\x{byte:02x}" for byte in match[0].encode()), text_of(name))


def text_of(name: bytes) -> str:
    r"""Text for JSON: UTF-8 as it is, every other byte as \xNN."""
    return name.decode("utf-8", "backslashreplace")


def exact(name: bytes) -> str | None:
    """Base64 of a name that `text_of` cannot give back, else None."""
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(name).decode()
    return None


def named(name: bytes) -> dict[str, str]:
    """The `path` of a sidecar, with `path_base64` beside it where it is needed."""
    encoded = exact(name)
    return {"path": text_of(name)} if encoded is None else {"path": text_of(name), "path_base64": encoded}


def result_candidates(source: bytes, template: str, recipe: Recipe, suffix: bytes) -> Iterator[bytes]:
    """Names for a result, best first, relative to the outbox, without end.

    source: relative to the inbox. template: of the name without suffix, with {stem} {scale} {model} {suffix}.
    First the plain name, then with the source's suffix in it, then numbered.
    """
    folder, _, name = source.rpartition(b"/")
    stem, dot, source_suffix = name.rpartition(b".")
    if not dot or not stem:
        stem, source_suffix = name, b""
    prefix = folder + b"/" if folder else b""
    plain = _filled(template, stem, source_suffix, recipe)
    longer = _filled(template, name, source_suffix, recipe)
    yield prefix + _bounded(plain, suffix)
    if longer != plain:
        yield prefix + _bounded(longer, suffix)
    count = 2
    while True:
        yield prefix + _bounded(longer + b"~%d" % count, suffix)
        count += 1


def _filled(template: str, stem: bytes, suffix: bytes, recipe: Recipe) -> bytes:
    fields = {
        b"{stem}": stem,
        b"{scale}": str(number(recipe.scale)).encode(),
        b"{model}": recipe.model.encode(),
        b"{suffix}": suffix,
        b"{{": b"{",
        b"}}": b"}",
    }
    return re.sub(rb"\{\{|\}\}|\{[a-z]+\}", lambda match: fields[match[0]], template.encode())


def _bounded(base: bytes, suffix: bytes) -> bytes:
    """base + suffix, shortened where it or its reports would be too long for a name; a hash keeps it unique."""
    return _shortened(base, NAME_BYTES_MAX - len(suffix) - len(SIDECAR_SUFFIX)) + suffix


def _shortened(name: bytes, room: int) -> bytes:
    if len(name) <= room:
        return name
    mark = b"~" + hashlib.sha256(name).hexdigest()[:10].encode()
    # Cut between characters, so that a name that was UTF-8 stays UTF-8.
    cut = room - len(mark)
    while cut > 0 and name[cut] & 0xC0 == 0x80:
        cut -= 1
    return name[:cut] + mark


def sidecar_of(result: bytes) -> bytes:
    """The name of the sidecar beside a result."""
    return result + SIDECAR_SUFFIX


def report_of(source: bytes) -> bytes:
    """The name of the report of a failed picture: `trip/a.jpg.error.json`."""
    folder, _, name = source.rpartition(b"/")
    name = _shortened(name, NAME_BYTES_MAX - len(ERROR_SUFFIX))
    return (folder + b"/" if folder else b"") + name + ERROR_SUFFIX


def numbered(name: bytes, count: int) -> bytes:
    """Another name beside a taken one: `a~2.jpg`."""
    stem, dot, suffix = name.rpartition(b".")
    ending = dot + suffix if stem and len(suffix) < 32 else b""
    stem = name.removesuffix(ending)
    return _shortened(stem + b"~%d" % count, NAME_BYTES_MAX - len(ending)) + ending


# What is recorded of an upload whose object's own name is not known: its answer got lost, or never came.
KEY = "key:"


def asset_key(ledger: str, job: str, number_: int, uploads: int) -> str:
    """The storage key of one upload: unguessable from outside, the same again after a crash in the middle."""
    digest = hashlib.sha256(f"{ledger}/{job}/{number_}/{uploads}".encode()).hexdigest()[:32]
    return f"{digest[:2]}/{digest}"
