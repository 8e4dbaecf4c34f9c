"""The shelf: a model is whole or not there; what is damaged is a sentence."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import checkpoints
import genuine
import networks
import pytest

from daemon.engine.catalogue import KNOWN, RELEASES, named, recognised
from daemon.engine.model import ModelError
from daemon.engine.shelf import Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "state" / "models")


@pytest.fixture
def stocked(shelf: Shelf, tmp_path: Path) -> Shelf:
    shelf.add([checkpoints.save(tmp_path / "net.pth", networks.random())])
    return shelf


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as caught:
        call()
    assert caught.value.text.endswith((".", "pull realesr-general-x4v3"))
    assert "\n" not in caught.value.text
    return caught.value.text


def left(shelf: Shelf) -> set[str]:
    return {path.name for path in shelf.folder.iterdir()} - {".lock"}


def test_an_empty_shelf(shelf: Shelf) -> None:
    assert (shelf.names(), shelf.list(), shelf.find("net")) == ([], [], None)
    assert not shelf.folder.exists(), "looking makes nothing"


def test_a_checkpoint_is_installed(stocked: Shelf, tmp_path: Path) -> None:
    model = stocked.find("net")
    assert model is not None
    assert (model.name, model.scale, model.reach, model.features) == ("net", 4, 6, 48)
    assert stocked.list() == [model]
    assert left(stocked) == {"net.param", "net.bin", "net.json"}
    note = stocked.note("net")
    assert note is not None
    assert (note.source, note.licence, note.scale) == (str(tmp_path / "net.pth"), "", 4)
    assert stocked.folder.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("suffixes", [[".param", ".bin"], [".bin", ".param"], [".param"], [".bin"]])
def test_a_pair_is_installed_as_it_is(shelf: Shelf, tmp_path: Path, suffixes: list[str]) -> None:
    files = networks.write(tmp_path, "net", networks.nearest(2))
    (model,) = shelf.add([tmp_path / f"net{suffix}" for suffix in suffixes])
    assert (model.param.read_bytes(), model.weights.read_bytes()) == tuple(file.read_bytes() for file in files)
    assert model.scale == 2


def test_several_at_once(shelf: Shelf, tmp_path: Path) -> None:
    networks.write(tmp_path, "B", networks.nearest(2))
    networks.write(tmp_path, "a", networks.nearest(3))
    shelf.add([tmp_path / "B.param", tmp_path / "a.bin", checkpoints.save(tmp_path / "c.pth", networks.nearest(4))])
    assert [(model.name, model.scale) for model in shelf.list()] == [("a", 3), ("B", 2), ("c", 4)]


def test_the_new_one_takes_the_old_one_s_place(stocked: Shelf, tmp_path: Path) -> None:
    stocked.add([checkpoints.save(tmp_path / "net.pth", networks.nearest(2))])
    model = stocked.find("net")
    assert model is not None
    assert model.scale == 2
    assert left(stocked) == {"net.param", "net.bin", "net.json"}


def test_of_several_a_wrong_one_is_found_before_anything_is_done(stocked: Shelf, tmp_path: Path) -> None:
    good = checkpoints.save(tmp_path / "good.pth", networks.nearest(2))
    (tmp_path / "bad.pth").write_bytes(b"PK")
    assert "bad.pth" in error_of(lambda: stocked.add([good, tmp_path / "bad.pth"]))
    assert stocked.names() == ["net"]


def test_what_a_crash_left_behind_is_no_model(stocked: Shelf, tmp_path: Path) -> None:
    """In whichever order: files under temporary names, a .bin and a note without their .param."""
    (stocked.folder / "net.param").unlink()
    (stocked.folder / ".net.param.part").write_text("half")
    assert (stocked.names(), stocked.find("net")) == ([], None)
    stocked.add([tmp_path / "net.pth"])
    assert left(stocked) == {"net.param", "net.bin", "net.json"}


def test_a_temporary_name_that_leads_elsewhere_is_not_followed(stocked: Shelf, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (stocked.folder / ".net.bin.part").symlink_to(tmp_path / "other")
    stocked.add([tmp_path / "net.pth"])
    assert (tmp_path / "other").read_text() == "mine"


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_bin(folder: Path) -> None:
    networks.write(folder, "net", networks.random(seed=2))
    (folder / "net.json").unlink()
    networks.write(folder / "o", "net", networks.nearest(2))
    (folder / "o" / "net.bin").replace(folder / "net.bin")


def pipe(folder: Path) -> None:
    (folder / "net.bin").unlink()
    os.mkfifo(folder / "net.bin")


def bin_folder(folder: Path) -> None:
    (folder / "net.bin").unlink()
    (folder / "net.bin").mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no .bin": (lambda folder: (folder / "net.bin").unlink(), "net.bin is missing"),
    "an empty .bin": (lambda folder: (folder / "net.bin").write_bytes(b""), "empty"),
    "an empty .param": (lambda folder: (folder / "net.param").write_bytes(b""), "empty"),
    "a .param without an end": (lambda folder: os.truncate(folder / "net.param", 1 << 30), "bytes"),
    "a cut .bin": (lambda folder: os.truncate(folder / "net.bin", 999), "shorter"),
    "a .bin filled up with zeros": (lambda folder: os.truncate(folder / "net.bin", 1 << 30), "more than"),
    "another's .bin": (other_bin, "belong together|shorter|no weight|not known"),
    "one bit of the .bin": (lambda folder: flipped(folder / "net.bin"), "net.bin has changed"),
    "one bit of the .param": (lambda folder: flipped(folder / "net.param"), "."),
    "a note that is none": (lambda folder: (folder / "net.json").write_text("{"), "net.json"),
    "a note of something else": (lambda folder: (folder / "net.json").write_text('{"name": 5}'), "net.json"),
    "a deep note": (lambda folder: (folder / "net.json").write_text("[" * 50_000), "net.json"),
    "a pipe": (pipe, "not a regular file"),
    "a folder": (bin_folder, "not a regular file"),
    "a .param that leads to itself": (
        lambda folder: ((folder / "net.param").unlink(), (folder / "net.param").symlink_to("net.param")),
        "symbolic links",
    ),
}


@pytest.mark.parametrize(("damage", "words"), list(DAMAGE.values()), ids=DAMAGE)
def test_a_damaged_model_is_a_sentence(stocked: Shelf, damage: Callable[[Path], object], words: str) -> None:
    damage(stocked.folder)
    said = error_of(lambda: stocked.find("net"))
    assert re.search(words, said)
    assert "net" in said
    assert stocked.list() == [], "and it hides no other"


def test_a_known_one_says_how_it_is_mended(shelf: Shelf, tmp_path: Path) -> None:
    shelf.add([checkpoints.save(tmp_path / "realesr-general-x4v3.pth", networks.nearest(4))])
    flipped(shelf.folder / "realesr-general-x4v3.bin")
    assert error_of(lambda: shelf.find("realesr-general-x4v3")).endswith("esrgand models pull realesr-general-x4v3")


def test_a_model_without_a_note_is_one(stocked: Shelf) -> None:
    (stocked.folder / "net.json").unlink()
    assert stocked.find("net") is not None
    assert stocked.note("net") is None


@pytest.mark.parametrize("name", ["", ".", "..", "../net", "a/b", ".hidden", "net\n", "nét", "n" * 101, "\udcff"])
def test_a_name_leads_nowhere_else(stocked: Shelf, name: str) -> None:
    assert "is no name of a model" in error_of(lambda: stocked.find(name))


@pytest.mark.parametrize("file", ["net.txt", "net", ".param", "a b.pth", "\udcff.pth", "-x.pth"])
def test_a_file_that_is_no_model(shelf: Shelf, tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    checkpoints.save(path, networks.nearest(2))
    error_of(lambda: shelf.add([path]))
    assert not shelf.folder.exists()


def test_files_that_are_not_there(shelf: Shelf, tmp_path: Path) -> None:
    networks.write(tmp_path, "net", networks.nearest(2))
    (tmp_path / "net.bin").unlink()
    assert "net.bin: No such file" in error_of(lambda: shelf.add([tmp_path / "net.param"]))
    assert "gone.pth: No such file" in error_of(lambda: shelf.add([tmp_path / "gone.pth"]))


def test_two_of_one_name(shelf: Shelf, tmp_path: Path) -> None:
    networks.write(tmp_path, "net", networks.nearest(2))
    checkpoint = checkpoints.save(tmp_path / "net.pth", networks.nearest(2))
    assert "same name" in error_of(lambda: shelf.add([tmp_path / "net.param", checkpoint]))


def test_one_at_a_time(stocked: Shelf, tmp_path: Path) -> None:
    with stocked.locked():
        assert "Somebody else" in error_of(lambda: stocked.add([tmp_path / "net.pth"]))
    stocked.add([tmp_path / "net.pth"])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    net = checkpoints.save(tmp_path / "net.pth", networks.nearest(2))
    assert "something else than a folder" in error_of(lambda: Shelf(tmp_path / "file" / "models").add([net]))
    assert "something else than a folder" in error_of(lambda: Shelf(tmp_path / "file").add([net]))
    assert "Not a directory" in error_of(lambda: Shelf(tmp_path / "file").find("net"))
    assert "Not a directory" in error_of(lambda: Shelf(tmp_path / "file").names())


def test_a_full_disk_leaves_the_old_one(stocked: Shelf, tmp_path: Path) -> None:
    before = stocked.find("net")
    file = checkpoints.save(tmp_path / "net.pth", networks.nearest(2))
    with networks.room_for(1000):
        assert "File too large" in error_of(lambda: stocked.add([file]))
    assert stocked.find("net") == before
    assert left(stocked) == {"net.param", "net.bin", "net.json"}


def test_what_is_in_the_way_leaves_the_old_one(stocked: Shelf, tmp_path: Path) -> None:
    before = stocked.find("net")
    (stocked.folder / ".net.param.part").mkdir()
    assert "Is a directory" in error_of(lambda: stocked.add([tmp_path / "net.pth"]))
    assert stocked.find("net") == before


def test_the_catalogue_is_sound() -> None:
    assert len({known.name for known in KNOWN}) == len(KNOWN) == 5
    for known in KNOWN:
        assert named(known.name) is recognised(known.sha256) is known
        assert len(bytes.fromhex(known.sha256)) == 32
        assert (RELEASES + known.path).endswith(f"/{known.name}.pth")
        assert known.licence == "BSD-3-Clause"
    assert named("net") is recognised("") is None


def test_a_genuine_one_is_recognised(shelf: Shelf) -> None:
    (model,) = shelf.add([genuine.param("realesr-general-x4v3")])
    note = shelf.note(model.name)
    assert note is not None
    assert note.licence == "BSD-3-Clause"
    assert json.loads((shelf.folder / "realesr-general-x4v3.json").read_text())["scale"] == 4
