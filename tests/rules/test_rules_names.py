"""Which files count, what a result is called, and how a name is shown; file names are bytes."""

import base64
import itertools
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import quick

from daemon.rules.names import (
    RESULT_SUFFIXES,
    Selection,
    asset_key,
    exact,
    named,
    report_of,
    result_candidates,
    shown,
    sidecar_of,
)
from daemon.rules.recipe import Recipe

X4 = Recipe()
PICTURES = ("*.jpg", "*.jpeg", "*.png", "*.webp")

# Names as a file system has them: any bytes but NUL and the slash, 255 at most; never `.` or `..`, never ignored ones.
raw_names = st.binary(min_size=1, max_size=255).map(lambda name: name.replace(b"/", b"-").replace(b"\0", b"0"))
utf8_names = st.text(min_size=1, max_size=255).map(
    lambda name: name.encode("utf-8", "ignore").replace(b"/", b"-").replace(b"\0", b"0")[:255].decode("utf-8", "ignore")
)
full_names = st.builds(
    lambda each, n: (each * 255).encode()[: 255 - n].decode("utf-8", "ignore"), utf8_names, st.integers(0, 9)
)
whole_names = st.one_of(raw_names, utf8_names.map(str.encode), full_names.map(str.encode)).filter(
    lambda name: name and not name.startswith(b".")
)
with_suffix = st.builds(lambda name, suffix: name[:250] + suffix, whole_names, st.sampled_from([b".jpg", b".PNG", b""]))
sources = st.builds(lambda folders, name: b"/".join([*folders, name]), st.lists(whole_names, max_size=3), with_suffix)
templates = st.sampled_from(
    ["{stem}_x{scale}", "{stem}", "{model}-{stem}.{suffix}", "ä" * 140 + "{stem}", "{{{stem}}}"]
)
suffixes = st.sampled_from(sorted(RESULT_SUFFIXES.values()))


def candidates(
    source: bytes, template: str = "{stem}_x{scale}", suffix: bytes = b".png", recipe: Recipe = X4
) -> list[bytes]:
    return list(itertools.islice(result_candidates(source, template, recipe, suffix), 12))


def is_utf8(name: bytes) -> bool:
    return exact(name) is None


@quick
@given(sources, templates, suffixes)
def test_results_stay_in_their_place(source: bytes, template: str, suffix: bytes) -> None:
    """In the outbox, in the source's folder, with a name that the file system takes, whatever stands beside it."""
    found = candidates(source, template, suffix)
    folder = posixpath.dirname(source)
    for path in [*found, *map(sidecar_of, found), report_of(source)]:
        assert posixpath.dirname(path) == folder
        name = posixpath.basename(path)
        assert name not in (b"", b".", b"..")
        assert len(name) <= 255
        assert b"\0" not in name
        if is_utf8(source):
            assert is_utf8(path), "UTF-8 stays UTF-8, shortened or not"
    assert all(path.endswith(suffix) for path in found)
    assert len(set(found)) == len(found), "each is another chance"


@quick
@given(st.binary(min_size=1, max_size=200).map(lambda stem: stem.translate(None, b"/\0.")))
def test_bytes_are_kept_as_they_are(stem: bytes) -> None:
    if stem:
        assert candidates(stem + b".jpg")[:2] == [stem + b"_x4.png", stem + b".jpg_x4.png"]
        assert report_of(b"trip/" + stem + b".jpg") == b"trip/" + stem + b".jpg.error.json"


@quick
@given(full_names.map(lambda name: name.replace(".", "-")), st.sampled_from(["a", "é", "😀"]))
def test_long_names_that_differ_at_their_end_stay_apart(name: str, last: str) -> None:
    one = name.encode()[:240].decode("utf-8", "ignore").encode()
    other = one + last.encode()
    assert not set(candidates(one)) & set(candidates(other))
    assert report_of(one) != report_of(other)


def test_the_example_of_the_design() -> None:
    """`trip/a.jpg` and `trip/a.png` want one name; the second to come gets its suffix into it."""
    assert candidates(b"trip/a.jpg")[:3] == [b"trip/a_x4.png", b"trip/a.jpg_x4.png", b"trip/a.jpg_x4~2.png"]
    assert candidates(b"trip/a.png")[:2] == [b"trip/a_x4.png", b"trip/a.png_x4.png"]
    assert sidecar_of(b"trip/a_x4.png") == b"trip/a_x4.png.json"
    assert report_of(b"trip/a.jpg") == b"trip/a.jpg.error.json"


@pytest.mark.parametrize(
    ("source", "template", "recipe", "first"),
    [
        (b"a.jpg", "{stem}_x{scale}", Recipe(scale=2.5), b"a_x2.5.png"),
        (b"a.b.jpg", "{stem}_x{scale}", X4, b"a.b_x4.png"),
        (b"a", "{stem}_x{scale}", X4, b"a_x4.png"),
        (b"a.JPG", "{stem}.{suffix}.{model}", X4, b"a.JPG.real-esrgan.png"),
        (b"{scale}.jpg", "{stem}", X4, b"{scale}.png"),
        (b"a.jpg", "{{{stem}}}{{x}}", X4, b"{a}{x}.png"),
        ("Ä ö\n😀.jpg".encode(), "{stem} groß", X4, "Ä ö\n😀 groß.png".encode()),
    ],
)
def test_templates(source: bytes, template: str, recipe: Recipe, first: bytes) -> None:
    assert candidates(source, template, recipe=recipe)[0] == first


def test_a_name_is_shown_as_text_and_given_exactly_where_text_cannot() -> None:
    assert (shown("ä 😀".encode()), exact("ä 😀\n".encode())) == ("ä 😀", None)
    assert (shown(b"a\xffb\xc3"), exact(b"a\xffb\xc3")) == (r"a\xffb\xc3", base64.b64encode(b"a\xffb\xc3").decode())
    assert named(b"a.jpg") == {"path": "a.jpg"}
    assert named(b"a\nb.jpg") == {"path": "a\nb.jpg"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a\n2026 INFO done b.jpg", r"a\x0a2026 INFO done b.jpg"),
        ("\x1b[2J\x07\x7f.jpg", r"\x1b[2J\x07\x7f.jpg"),
        ("a\u202egpj.exe", r"a\xe2\x80\xaegpj.exe"),
        ("a\x85b\u2028c", r"a\xc2\x85b\xe2\x80\xa8c"),
        ("写真\u3000一.jpg", "写真\u3000一.jpg"),
        ("10.00.00\u202fAM.png", "10.00.00\u202fAM.png"),
        ("👨\u200d👩.png", "👨\u200d👩.png"),
    ],
)
def test_a_name_that_is_shown_neither_ends_a_line_nor_moves_a_cursor(name: str, text: str) -> None:
    assert shown(name.encode()) == text


@quick
@given(st.binary(max_size=60))
def test_every_name_can_be_had_back(name: bytes) -> None:
    path = named(name)
    path["path"].encode("utf-8")
    back = base64.b64decode(path["path_base64"]) if "path_base64" in path else path["path"].encode()
    assert back == name
    assert ("path_base64" in path) == (name.decode("utf-8", "replace").encode() != name)


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden.jpg", "~$a.jpg", "._a.jpg", ".~a.jpg", "a.jpg.part", "a.jpg.partial", "a.jpg.crdownload"),
        *("a.jpg.tmp", "a.jpg.filepart", "a.JPG.Part", "a.TMP", "Thumbs.db", "a.txt", "jpg", "a.jpg.txt", ""),
    ],
)
def test_what_is_never_a_picture(name: str) -> None:
    assert not Selection(PICTURES, ()).takes(name.encode())


def test_what_is_never_a_picture_is_so_whatever_the_configuration_says() -> None:
    everything = Selection(["*"], ())
    for name in (b".a.jpg", b"~$a.jpg", b"._a.jpg", b"a.part", b"a.partial", b"a.crdownload", b"a.tmp", b"a.filepart"):
        assert not everything.takes(name)
    assert everything.takes(b"a")
    assert everything.takes(b"apart")


IGNORED = "@eaDir #recycle @Recycle .stfolder .stversions __MACOSX .Trashes .Spotlight-V100 .snapshot lost+found"


@pytest.mark.parametrize("folder", IGNORED.split())
def test_folders_that_are_pruned(folder: str) -> None:
    selection = Selection(["*"], ())
    assert not any(map(selection.enters, (folder.encode(), folder.upper().encode(), folder.lower().encode())))


def test_other_folders_are_entered() -> None:
    selection = Selection(PICTURES, ["Backup*", "*.lrdata"])
    assert all(map(selection.enters, (b"trip", b"x.jpg", b"\xff", b"eaDir", "Ä".encode())))
    assert not any(map(selection.enters, (b"backup 1", b"a.LRDATA", b".git")))


@pytest.mark.parametrize(
    "name", ["a.jpg", "A.JPG", "a.Jpeg", "ÄÖ.PNG", "ñ 😀\n.WebP", "~a.jpg", "part.jpg", "a.tmp.jpg"]
)
def test_pictures_are_taken_whatever_their_case(name: str) -> None:
    assert Selection(PICTURES, ()).takes(name.encode())


def test_bytes_that_are_no_text_have_a_suffix_too() -> None:
    assert Selection(PICTURES, ()).takes(b"caf\xe9\xff.JPG")
    assert not Selection(PICTURES, ["caf?.jpg"]).takes(b"caf\xe9.jpg"), "a byte that is no text is one character"


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("entwürfe*", "ENTWÜRFE 1.jpg", True),
        ("ENTWÜRFE*", "entwürfe 1.jpg", True),
        ("ŁÓDŹ*", "łódź1.jpg", True),
        ("?.jpg", "ä.jpg", True),
        ("[äö].jpg", "Ö.jpg", True),
        ("[a-c]*", "Bild.jpg", True),
        ("[!a-c]*", "Bild.jpg", False),
        ("a.jpg", "a_jpg", False),
        ("a*", "ba.jpg", False),
        ("*a", "a.jpg", False),
    ],
)
def test_patterns_go_by_characters(pattern: str, name: str, fits: bool) -> None:
    assert Selection([pattern], ()).takes(name.encode()) is fits
    assert Selection(["*"], [pattern]).takes(name.encode()) is not fits


def test_several_patterns_are_any_of_them_and_none_is_none() -> None:
    assert Selection(["b*", "*.png"], ["x*"]).takes(b"a.png")
    assert not Selection(["b*", "*.png"], ["x*", "a*"]).takes(b"a.png")
    assert not Selection([], ()).takes(b"a.png")


def test_an_asset_key_says_nothing_and_is_its_own() -> None:
    keys = {
        asset_key(ledger, job, number, uploads)
        for ledger in "ab"
        for job in "cd"
        for number in (0, 1)
        for uploads in (0, 1)
    }
    assert len(keys) == 16
    assert asset_key("a", "c", 0, 0) == asset_key("a", "c", 0, 0), "the same again after a crash"
    assert all(set(key) <= set("0123456789abcdef/") and len(key) < 64 for key in keys)
