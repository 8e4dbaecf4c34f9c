"""A pickle is a program: what is hostile is refused, and nothing of it runs."""

import contextlib
import pickle
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from checkpoints import Pickle, Raw
from hypothesis import given
from hypothesis import strategies as st

from daemon.engine import checkpoint, pickles
from daemon.engine.model import ModelError


def call(module: str, name: str, argument: str) -> bytes:
    return f"c{module}\n{name}\n(S'{argument}'\ntR".encode()


def binary(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def reference(*parts: Any) -> bytes:
    """A persistent id, of whatever parts."""
    made = Pickle()
    made.value(parts)
    return bytes(made.code[2:]) + b"Q"


FLOAT = Raw(b"ctorch\nFloatStorage\n")
SYSTEM = Raw(b"cos\nsystem\n")


class Evil:
    """What the textbooks warn of."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def hostile(mark: str) -> dict[str, bytes]:
    """Each would make a file called `mark`, or bring the process down, if it were run."""
    touch = f"touch {mark}"
    evil = f"open('{mark}', 'w')"
    return {
        "os.system": call("os", "system", touch),
        "posix.system": call("posix", "system", touch),
        "subprocess": call("subprocess", "getoutput", touch),
        "eval": call("builtins", "eval", evil.replace("'", '"')),
        "exec": call("builtins", "exec", evil.replace("'", '"')),
        "python 2's eval": call("__builtin__", "eval", evil.replace("'", '"')),
        "import": call("builtins", "__import__", "antigravity"),
        "getattr": b"cbuiltins\ngetattr\n(cos\nS'system'\ntR",
        "a name with dots": b"\x80\x04" + binary("os") + binary("path.os.system") + b"\x93" + binary(touch) + b"\x85R",
        "STACK_GLOBAL": b"\x80\x04" + binary("os") + binary("system") + b"\x93" + binary(touch) + b"\x85R",
        "STACK_GLOBAL of no text": b"]]\x93",
        "STACK_GLOBAL of what is deep": b"]" + b")" + b"\x85" * 100_000 + b"\x93",
        "INST": f"(S'{touch}'\nios\nsystem\n".encode(),
        "OBJ": f"(cos\nsystem\nS'{touch}'\no".encode(),
        "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
        "NEWOBJ_EX": b"ccollections\nOrderedDict\n)}\x92",
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x00",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "BUILD on a word": b"ctorch\nFloatStorage\n}b",
        "BUILD on a list": b"]}b",
        "a text id": f"P{mark}\n".encode(),
        "an id that is a word": b"ctorch\nFloatStorage\nQ",
        "an id of another kind": reference("module", FLOAT, "0", "cpu", 1),
        "an id of a foreign storage": reference("storage", SYSTEM, "0", "cpu", 1),
        "an id out of the folder": reference("storage", FLOAT, "../../../etc/passwd", "cpu", 1),
        "an id in other digits": reference("storage", FLOAT, "\u0663", "cpu", 1),
        "an id of less than nothing": reference("storage", FLOAT, "0", "cpu", -1),
        "an id that is true": reference("storage", FLOAT, "0", "cpu", True),
        "an id without end": reference("storage", FLOAT, "0", "cpu", 2**70),
        "an id too long": reference("storage", FLOAT, "0", "cpu", 1, None),
        "torch's own loader": call("torch.storage", "_load_from_bytes", "x"),
        "torch's other storages": b"ctorch\nUntypedStorage\n",
        "numpy's objects": b"cnumpy.core.multiarray\n_reconstruct\n(t",
        "a storage that is called": b"ctorch\nFloatStorage\n)R",
        "a dict that is called with more": b"ccollections\nOrderedDict\n(]tR",
        "a text that is called": b"X\x01\x00\x00\x00a)R",
        "a tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        "a parameter of nothing": b"ctorch._utils\n_rebuild_parameter\n)R",
        "a memo without end": b"]r\xff\xff\xff\xff",
        "a memo that is empty": b"h\x01",
        "more taken than there is": b"0000",
        "a mark that is taken": b"(Q",
        "items for a tuple": b")(K\x01K\x02u",
        "an odd item": b"}(K\x01u",
        "a deep key": b"}(" + b")" + b"\x85" * 1_000_000 + b"Nu",
        "a key that has no hash": b"}]Ns",
        "a buffer": b"\x97",
        "bytes": b"\x80\x04C\x01a",
        "a set": b"\x80\x04\x8f",
        "a number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
        "two results": b"]]",
        "no result": b"",
        "a word as the result": b"ctorch\nFloatStorage\n",
    }


NAMES = list(hostile(""))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    code = hostile(str(mark))[name]
    path = checkpoints.pack(tmp_path / "net.pth", (code if code.startswith(b"\x80") else b"\x80\x02" + code) + b".", [])
    with pytest.raises(ModelError) as caught:
        checkpoint.read(path)
    assert not mark.exists()
    assert caught.value.text.startswith("net.pth cannot be used. It")
    assert caught.value.text.endswith(".")


@pytest.mark.parametrize("protocol", range(6))
def test_the_textbook_s_pickle(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    code = pickle.dumps({"params": Evil(str(mark))}, protocol)
    pickle.loads(code)
    assert mark.exists(), "it is dangerous"
    mark.unlink()
    with pytest.raises(ModelError, match=r"could run as a program|nothing of it was run|Nothing of it was run"):
        pickles.loads(code)
    assert not mark.exists()


def test_a_hostile_word_among_weights_is_named(tmp_path: Path) -> None:
    state = {"a.weight": np.ones(3, np.float32), "b": Raw(call("os", "system", f"touch {tmp_path}/mark"))}
    with pytest.raises(ModelError, match=r"os\.system"):
        checkpoint.read(checkpoints.save(tmp_path / "net.pth", state))
    assert list(tmp_path.iterdir()) == [tmp_path / "net.pth"]


def test_attributes_are_left_aside() -> None:
    made = pickles.loads(b"\x80\x02ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00__class__N\x73b.")
    assert made == {}
    assert type(made) is dict


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_what_they_were(protocol: int) -> None:
    value = {"iter": 400_000, "big": 2**60, "rate": 2e-4, "names": ["a", "b", ()], "none": None, "yes": [True, False]}
    assert pickles.loads(pickle.dumps(value, protocol)) == value


def test_a_pickle_that_refers_to_itself_has_an_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    made = pickles.loads(pickle.dumps(endless, 2))
    assert made[0] is made


def small() -> bytes:
    made = Pickle()
    made.state({"a.weight": np.ones((2, 3), np.float32), "a.bias": np.ones(2, np.float16)})
    return made.done()


SMALL = small()


@given(st.integers(0, len(SMALL) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_whatever_is_changed_is_read_or_refused(place: int, put: bytes, cut: int) -> None:
    with contextlib.suppress(ModelError):
        pickles.loads(SMALL[:place] + put + SMALL[place + cut :])


@given(st.binary(max_size=64))
def test_noise_is_refused(data: bytes) -> None:
    with contextlib.suppress(ModelError):
        pickles.loads(b"\x80\x02" + data)
