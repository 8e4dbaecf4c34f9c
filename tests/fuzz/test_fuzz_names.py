"""Names as a hostile share may have them: every result keeps its place, no name forges a line or leaves its outbox."""

import base64
import itertools
import os
import posixpath
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_kit import fuzz
from hypothesis import assume, given
from hypothesis import strategies as st

from daemon.adapters.disk import HouseDisk
from daemon.rules.names import (
    NAME_BYTES_MAX,
    RESULT_SUFFIXES,
    Selection,
    named,
    numbered,
    report_of,
    result_candidates,
    shown,
    sidecar_of,
)
from daemon.rules.recipe import Recipe

EVERYTHING = Selection(["*"], ())
PIECES = [
    *(
        b"..",
        b"...",
        b". .",
        b"~",
        b"-rf",
        b" ",
        b"%s",
        b"{stem}",
        b"{",
        b"}}",
        b"\\",
        b"\n",
        b"\r",
        b"\x1b[2J",
        b"\x7f",
    ),
    *(
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xc2\x85",
        "\u202e".encode(),
        "\u2028".encode(),
        "é".encode(),
        "🎈".encode(),
    ),
    *(b".jpg", b".png", b".json", b".error.json", b".part", b".esrgand-", b"_x4", b"~2", b"C:", b"CON", b"a" * 250),
    *(b"\x80" * 255, "é".encode() * 130),
]
components = (
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8), st.text(max_size=4).map(str.encode)), max_size=5)
    .map(lambda pieces: b"".join(pieces).replace(b"/", b"").replace(b"\0", b"")[:NAME_BYTES_MAX])
    .filter(lambda name: name not in (b"", b".", b".."))
)
# What a scan takes, below folders that it enters: nothing else is ever a source.
sources = st.builds(
    lambda folders, name: (*folders, name),
    st.lists(components.filter(EVERYTHING.enters), max_size=3),
    components.filter(EVERYTHING.takes),
).map(b"/".join)
# Two that may want the same name.
pairs = sources.flatmap(
    lambda source: st.tuples(
        st.just(source),
        st.sampled_from([b".jpg", b".PNG", b"~2.jpg", b"_x4.png", b""]).map(
            lambda end: source.rpartition(b".")[0] + end
        )
        | sources,
    )
)
templates = st.sampled_from(
    ["{stem}_x{scale}", "{stem}", "{stem}{suffix}", "{model}.{stem}.{suffix}", "é" * 200 + "{stem}"]
)
suffixes = st.sampled_from(sorted(RESULT_SUFFIXES.values()))


def candidates(source: bytes, template: str, suffix: bytes, count: int = 8) -> list[bytes]:
    return list(itertools.islice(result_candidates(source, template, Recipe(), suffix), count))


def assert_in_its_place(path: bytes, source: bytes) -> None:
    """In the folder of its source, as one name that every file system takes."""
    assert posixpath.dirname(path) == posixpath.dirname(source)
    assert posixpath.normpath(b"/out/" + path) == b"/out/" + path
    name = posixpath.basename(path)
    assert name not in (b"", b".", b"..")
    assert not name.startswith(b"."), "a source that is no hidden file has no hidden result"
    assert len(name) <= NAME_BYTES_MAX
    assert b"\0" not in name


@fuzz(2)
@given(sources, templates, suffixes)
def test_results_sidecars_and_reports_stay_beside_each_other(source: bytes, template: str, suffix: bytes) -> None:
    found = candidates(source, template, suffix)
    assert len(set(found)) == len(found), "each is another chance"
    for path in [*found, *map(sidecar_of, found), report_of(source)]:
        assert_in_its_place(path, source)
    folder, _, name = source.rpartition(b"/")
    for count in (2, 10**6):
        assert_in_its_place((folder + b"/" if folder else b"") + numbered(name, count), source)


def own_name(source: bytes, template: str, suffix: bytes) -> bytes:
    """The first candidate that has the source's whole name in it."""
    stem, _, _ = posixpath.basename(source).rpartition(b".")
    return candidates(source, template, suffix, 2)[1 if stem else 0]


@fuzz(2)
@given(pairs, templates, suffixes)
def test_each_source_has_a_name_of_its_own(pair: tuple[bytes, bytes], template: str, suffix: bytes) -> None:
    """The plain name may be wanted by two; with the source's suffix in it, it is wanted by one."""
    one, other = pair
    assume(one != other and EVERYTHING.takes(posixpath.basename(other)) and not other.endswith(b"/"))
    assert own_name(one, template, suffix) != own_name(other, template, suffix)
    assert report_of(one) != report_of(other)


@fuzz(2)
@given(st.one_of(components, sources, st.binary(max_size=60)))
def test_a_name_is_given_exactly_and_shown_without_harm(name: bytes) -> None:
    path = named(name)
    back = base64.b64decode(path["path_base64"]) if "path_base64" in path else path["path"].encode()
    assert back == name
    text = shown(name)
    assert len(text.splitlines()) <= 1
    assert not [each for each in text if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")]
    assert not re.search("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", text), "nothing turns the reading round"
    if text == name.decode("utf-8", "replace"):
        assert "path_base64" not in path


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[tuple[Path, HouseDisk]]:
    """An outbox with somebody else's files all round it, and the disk that writes into it."""
    for place in ("around/out", "around/outside", "around/out.png", "staging"):
        (tmp_path / place).mkdir(parents=True)
    for file in ("canary", "around/canary", "around/out.json", "around/outside/a.png", "around/out.png/a.png"):
        (tmp_path / file).write_bytes(b"somebody's")
    (tmp_path / "result").write_bytes(b"the result")
    disk = HouseDisk(tmp_path / "staging")
    yield tmp_path, disk
    disk.close()


def everything(root: bytes, besides: bytes) -> dict[bytes, tuple[int, int]]:
    """Every file and folder below a root, but for one folder, with when it last changed."""
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if folder + b"/" + name != besides]
        for path in [folder, *(folder + b"/" + name for name in files)]:
            status = os.lstat(path)
            found[path] = (status.st_ino, status.st_mtime_ns)
    return found


@fuzz(0.4)
@given(sources, templates, suffixes)
async def test_nothing_is_written_outside_the_outbox(
    tree: tuple[Path, HouseDisk], source: bytes, template: str, suffix: bytes
) -> None:
    root, disk = tree
    outbox = root / "around" / "out"
    before = everything(bytes(root), bytes(outbox))
    path = candidates(source, template, suffix, 1)[0]
    assert await disk.place(root / "result", outbox, path, None) is not None
    texts = {sidecar_of(path): b'{"schema": "esrgand/sidecar/1"}', report_of(source): b'{"schema": "esrgand/error/1"}'}
    for name, text in texts.items():
        await disk.note(outbox, name, text)
    assert everything(bytes(root), bytes(outbox)) == before
    for name, text in {path: b"the result", **texts}.items():
        assert Path(os.fsdecode(bytes(outbox) + b"/" + name)).read_bytes() == text
    shutil.rmtree(outbox)
    outbox.mkdir()
