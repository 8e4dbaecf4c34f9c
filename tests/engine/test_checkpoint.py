"""The container of an official checkpoint: what is read from it, and what it may not do."""

import contextlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import networks
import numpy as np
import pytest
from checkpoints import Pickle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.engine import checkpoint
from daemon.engine.model import ModelError

FIVE = np.arange(5, dtype=np.float32)


def same(got: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return got.keys() == wanted.keys() and all(np.array_equal(got[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("wrapper", ["params_ema", "params", None])
def test_what_was_saved_is_read(tmp_path: Path, wrapper: str | None) -> None:
    state = networks.random()
    assert same(checkpoint.read(checkpoints.save(tmp_path / "net.pth", state, wrapper)), state)


def test_the_smoothed_weights_come_first(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path / "net.pth", {"a": FIVE}, params={"a": FIVE + 1})
    assert same(checkpoint.read(path), {"a": FIVE})


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_other_numbers_become_floats(tmp_path: Path, kind: str) -> None:
    got = checkpoint.read(checkpoints.save(tmp_path / "net.pth", {"a": FIVE.astype(kind)}))
    assert got["a"].dtype == np.float32
    assert same(got, {"a": FIVE})


def test_brain_floats_too(tmp_path: Path) -> None:
    made = Pickle()
    made.code += b"}(X\x01\x00\x00\x00a"
    made.tensor((FIVE.view("<u4") >> 16).astype("<u2"), "BFloat16Storage")
    made.code += b"u"
    assert same(checkpoint.read(checkpoints.pack(tmp_path / "net.pth", made.done(), made.storages)), {"a": FIVE})


def test_older_files_call_their_storages_by_addresses(tmp_path: Path) -> None:
    """As torch 1.5 did, in a folder that is called like the file."""
    made = Pickle(first=94340341200128)
    made.state({"a": FIVE, "b": FIVE + 1})
    path = checkpoints.pack(tmp_path / "net.pth", made.done(), made.storages, "net", made.first)
    assert same(checkpoint.read(path), {"a": FIVE, "b": FIVE + 1})


def test_views_are_read_as_they_lie(tmp_path: Path) -> None:
    whole = np.arange(24, dtype=np.float32)
    state = {"a": whole[4:16].reshape(3, 4), "b": np.ascontiguousarray(whole[:12]).reshape(3, 4).T}
    assert same(checkpoint.read(checkpoints.save(tmp_path / "net.pth", state)), state)


def view(**changes: Any) -> Callable[[Path], Path]:
    """A checkpoint with one tensor that claims something."""
    claim = {"data": FIVE.tobytes(), "kind": "FloatStorage", "count": 5, "offset": 0, "shape": (5,), "strides": (1,)}

    def make(path: Path) -> Path:
        made = Pickle()
        made.code += b"}(X\x01\x00\x00\x00a"
        made.view(**(claim | changes))
        made.code += b"u"
        return checkpoints.pack(path, made.done(), made.storages)

    return make


def plain(path: Path) -> Path:
    return checkpoints.save(path, {"a": FIVE}, None)


def packed(path: Path, **how: Any) -> Path:
    with zipfile.ZipFile(plain(path)) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", how.pop("compression", zipfile.ZIP_STORED)) as target:
        for name, data in (entries | how.pop("more", {})).items():
            if name not in how.get("without", ()):
                target.writestr(name, data)
        for name, data in how.get("again", {}).items():
            target.writestr(name, data)
    return path


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(change(plain(path).read_bytes()))
        return path

    return make


def liar(path: Path) -> Path:
    """The directory says that an entry is larger than the file."""
    data = bytearray(plain(path).read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 20 : central + 28] = b"\xf0\xff\xff\x7f" * 2
    path.write_bytes(data)
    return path


def twins(path: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return packed(path, again={"archive/data/0": b"x" * 20})


# The magic number and the protocol, each a pickle of its own.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
CONTAINERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (changed(lambda data: b""), "no zip"),
    "a web page": (changed(lambda data: b"<html>Not found</html>"), "no zip"),
    "legacy": (changed(lambda data: LEGACY), "before version 1.6"),
    "cut": (changed(lambda data: data[:-30]), "cut off"),
    "cut in the middle": (changed(lambda data: data[: len(data) // 2]), "cut off"),
    "another byte": (changed(lambda data: data.replace(FIVE.tobytes(), (FIVE + 1).tobytes())), "damaged"),
    "compressed": (lambda path: packed(path, compression=zipfile.ZIP_DEFLATED), "compressed"),
    "a bomb": (lambda path: packed(path, compression=zipfile.ZIP_LZMA, more={"a/x": bytes(1 << 20)}), "compressed"),
    "larger than itself": (liar, "larger than itself"),
    "no table of contents": (lambda path: packed(path, without=["archive/data.pkl"]), "data.pkl"),
    "two tables of contents": (lambda path: packed(path, more={"other/data.pkl": b"."}), "data.pkl"),
    "two of one name": (twins, "one name"),
    "no such entry": (lambda path: packed(path, without=["archive/data/0"]), "missing"),
    "an entry elsewhere": (
        lambda path: packed(path, without=["archive/data/0"], more={"archive/../archive/data/0": FIVE.tobytes()}),
        "missing",
    ),
    "a short entry": (lambda path: packed(path, more={"archive/data/0": b"x" * 19}), "not as large"),
    "the other order of bytes": (lambda path: packed(path, more={"archive/byteorder": b"big"}), "order of bytes"),
    "too many entries": (
        lambda path: packed(path, more={f"archive/{n}": b"" for n in range(checkpoint.ENTRIES_MAX)}),
        "too many",
    ),
    "a storage of another size": (view(count=6), "not as large"),
    "a tensor behind its storage": (view(offset=1), "no sense"),
    "a negative offset": (view(offset=-1), "no sense"),
    "a stride too far": (view(shape=(3,), strides=(3,)), "no sense"),
    "a negative stride": (view(strides=(-1,)), "no sense"),
    "a stride of nothing": (view(shape=(100_000, 100_000), strides=(0, 0)), "no sense"),
    "a shape of half numbers": (view(shape=(5.0,)), "no sense"),
    "a shape of truth": (view(shape=(True,)), "no sense"),
    "a shape as a list": (view(shape=[5]), "no sense"),
    "more sides than strides": (view(shape=(5, 1)), "no sense"),
    "a hundred sides": (view(shape=(1,) * 100, strides=(1,) * 100), "no sense"),
    "whole numbers": (view(kind="LongStorage"), "LongStorage"),
    "no weights": (lambda path: checkpoints.save(path, {}), "no weights"),
    "weights that are numbers": (lambda path: checkpoints.save(path, {"a": 5}), "something else"),
    "a list": (lambda path: checkpoints.pack(path, b"\x80\x02].", []), "no weights"),
    "an optimizer's state": (lambda path: checkpoints.save(path, {"a": FIVE}, "optimizer"), "something else"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words"), list(CONTAINERS.values()), ids=CONTAINERS)
def test_a_crooked_container_is_a_sentence(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        checkpoint.read(make(tmp_path / "net.pth"))
    assert caught.value.text.startswith("net.pth cannot be used. ")
    assert caught.value.text.endswith(".")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


def test_numbers_that_are_shared_are_refused(tmp_path: Path) -> None:
    """Else a small file could ask for any amount of memory."""
    made = Pickle()
    made.code += b"}(X\x01\x00\x00\x00a"
    made.tensor(FIVE)
    made.code += b"X\x01\x00\x00\x00b" + b"h" + bytes([made._memo - 1]) + b"u"
    with pytest.raises(ModelError, match="share"):
        checkpoint.read(checkpoints.pack(tmp_path / "net.pth", made.done(), made.storages))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_changed_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "net.pth"
    whole = plain(path).read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:place] + data.draw(st.binary(max_size=3)) + whole[place + data.draw(st.integers(0, 3)) :])
    with contextlib.suppress(ModelError):
        assert all(array.size <= FIVE.size for array in checkpoint.read(path).values())
