"""A network's form: what is read from it, and that what is crooked is refused with a sentence before ncnn sees it."""

from collections.abc import Callable
from pathlib import Path

import networks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.engine import form, layers, weights
from daemon.engine.model import ModelError


def plan_of(text: str) -> layers.Plan:
    return layers.survey(form.parse(text.encode()))


def lines(*rows: str, count: int | None = None) -> str:
    """A .param with the right counts."""
    blobs = sum(int(row.split()[3]) for row in rows)
    return "\n".join(["7767517", f"{len(rows) if count is None else count} {blobs}", *rows]) + "\n"


INPUT = "Input in 0 1 data"
CONVOLUTION = "Convolution c 1 1 data output 0=3 1=3 4=1 5=1 6=81"


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_compact_network(tmp_path: Path, scale: int) -> None:
    param, _ = networks.write(tmp_path, "n", networks.nearest(scale, features=8, body=2))
    plan = layers.survey(form.parse(param.read_bytes()))
    assert (plan.input, plan.output, plan.scale, plan.reach) == ("data", "output", scale, 4)
    assert plan.features == max(8, 3 * scale**2)


def test_its_weights_are_counted_to_the_byte(tmp_path: Path) -> None:
    param, bin_ = networks.write(tmp_path, "n", networks.random())
    plan = layers.survey(form.parse(param.read_bytes()))
    assert plan.reach == networks.REACH
    assert sum(4 * piece.count + 4 * piece.flagged for piece in plan.pieces) == bin_.stat().st_size
    weights.check(bin_, plan.pieces)


def test_what_lies_on_a_finer_grid_reaches_less_far() -> None:
    plan = plan_of(
        lines(
            INPUT,
            "Interp up 1 1 data large 0=1 1=2.0 2=2.0",
            "Convolution c1 1 1 large c1 0=8 1=3 4=1 5=1 6=216 9=2 -23310=1,0.2",
            "Interp up2 1 1 c1 larger 0=1 1=2.0 2=2.0",
            "Convolution c2 1 1 larger c2 0=8 1=3 4=1 6=576",
            "Convolution c3 1 1 c2 output 0=3 1=3 4=1 5=1 6=216",
        )
    )
    assert (plan.scale, plan.reach) == (4, 1)  # 1/2 + 1/4 + 1/4 of a pixel
    assert [(piece.count, piece.flagged) for piece in plan.pieces] == [
        (216, True),
        (8, False),
        (576, True),
        (216, True),
        (3, False),
    ]


def test_the_longest_way_counts() -> None:
    plan = plan_of(
        lines(
            INPUT,
            "Split s 1 2 data a b",
            "Convolution c1 1 1 a c1 0=4 1=5 4=2 6=300",
            "Concat cat 2 1 b c1 both",
            "ReLU r 1 1 both r 0=0.2",
            "Convolution c2 1 1 r c2 0=3 1=3 4=2 2=2 6=189",
            "BinaryOp half 1 1 c2 c3 0=2 1=1 2=0.5",
            "Deconvolution up 1 1 c3 output 0=3 1=4 3=2 4=1 6=144",
        )
    )
    assert (plan.scale, plan.reach, plan.features) == (2, 2 + 2 + 2, 7)


DAMAGED = {
    "empty": ("", "empty"),
    "binary": ("7767517\n\x001 2\n", "not text"),
    "another magic": ("7767518\n", "7767517"),
    "no counts": ("7767517\nInput\n", "Line 2"),
    "counts of another file": (lines(INPUT, CONVOLUTION, count=9), "cut off"),
    "blobs of another file": (lines(INPUT, CONVOLUTION).replace("\n2 2\n", "\n2 7\n"), "damaged"),
    "half a line": (lines(INPUT, CONVOLUTION).replace(" 1 1 data output", ""), "Line 4"),
    "too few blobs": (lines(INPUT, "Convolution c 2 2 data"), "must name 4 blobs"),
    "an unknown type": (lines(INPUT, "LSTM x 1 1 data output 0=3"), "not known here"),
    "a parameter that is none": (lines(INPUT, CONVOLUTION + " 6:81"), "not a parameter"),
    "a parameter twice": (lines(INPUT, CONVOLUTION + " 6=81"), "twice"),
    "a parameter too far": (lines(INPUT, CONVOLUTION + " 40=1"), "no parameter 40"),
    "a number that is none": (lines(INPUT, CONVOLUTION.replace("6=81", "6=eight")), "not a number"),
    "a list of another length": (lines(INPUT, CONVOLUTION + " 9=2 -23310=2,0.2"), "not as long"),
    "an activation without its slope": (lines(INPUT, CONVOLUTION + " 9=2"), "activation"),
    "a fraction of outputs": (lines(INPUT, CONVOLUTION.replace("0=3", "0=3.0")), "whole number"),
    "a slope without a point": (lines(INPUT, CONVOLUTION.replace(" output", " c"), "ReLU r 1 1 c o 0=1"), "point"),
    "weights of another kernel": (lines(INPUT, CONVOLUTION.replace("1=3", "1=5").replace("4=1", "4=2")), "81 weights"),
    "weights without end": (lines(INPUT, CONVOLUTION.replace("6=81", "6=999999999")), "999999999 weights"),
    "eight bits": (lines(INPUT, CONVOLUTION + " 8=1"), "parameter 8"),
    "a stride": (lines(INPUT, CONVOLUTION + " 3=2"), "stride"),
    "no padding": (lines(INPUT, CONVOLUTION.replace("4=1", "4=0")), "padding"),
    "a blob from nowhere": (lines(INPUT, CONVOLUTION.replace("data", "date")), "not made before"),
    "a blob used twice": (lines(INPUT, CONVOLUTION, CONVOLUTION.replace("output", "o2")), "used twice"),
    "a blob made twice": (lines(INPUT, CONVOLUTION.replace("output", "data")), "made twice"),
    "two outputs": (lines(INPUT, "Split s 1 2 data a b", CONVOLUTION.replace("data", "a")), "2 outputs"),
    "two inputs": (lines(INPUT, "Input i 0 1 d2", CONVOLUTION), "2 inputs"),
    "no weights": (lines(INPUT, "ReLU r 1 1 data output 0=0.2"), "no weights"),
    "one channel": (lines(INPUT, "Convolution c 1 1 data o 0=1 1=1 6=3"), "1 channels"),
    "smaller than its source": (lines(INPUT, CONVOLUTION, "Interp i 1 1 output o 0=3 1=0.5 2=0.5"), "x4 form"),
    "wider than high": (lines(INPUT, CONVOLUTION, "Interp i 1 1 output o 0=1 1=2.0 2=4.0"), "both ways"),
    "a thousand times larger": (
        lines(INPUT, CONVOLUTION, *(f"Interp i{n} 1 1 {n or 'output'} {n + 1} 0=1 1=8.0 2=8.0" for n in range(4))),
        "too large",
    ),
    "channels that do not shuffle": (lines(INPUT, CONVOLUTION, "PixelShuffle p 1 1 output o 0=2"), "x2"),
    "slopes of another layer": (lines(INPUT, CONVOLUTION, "PReLU p 1 1 output o 0=64"), "64 slopes"),
    "operands of two sizes": (
        lines(INPUT, "Split s 1 2 data a b", "Interp i 1 1 a c 0=1 1=2.0 2=2.0", "BinaryOp b 2 1 b c o"),
        "differ in size",
    ),
    "pictures of one size": (lines("Input in 0 1 data 0=64 1=64 2=3", CONVOLUTION), "one size"),
    "a word without end": (lines(INPUT, CONVOLUTION.replace(" c ", f" {'c' * 300} ")), "255"),
}  # fmt: skip


@pytest.mark.parametrize("text", [text for text, _ in DAMAGED.values()], ids=DAMAGED)
def test_a_crooked_form_is_a_sentence(text: str) -> None:
    expected = next(words for each, words in DAMAGED.values() if each == text)
    with pytest.raises(ModelError) as caught:
        plan_of(text)
    assert expected in caught.value.text
    assert caught.value.text.endswith(".")
    assert "\n" not in caught.value.text


SOUND = lines(
    INPUT,
    "Split s 1 2 data a b",
    "Convolution c 1 1 a c 0=12 1=3 4=1 5=1 6=324 9=2 -23310=1,0.2",
    "PReLU p 1 1 c d 0=12",
    "PixelShuffle x 1 1 d e 0=2",
    "Interp i 1 1 b f 0=1 1=2.0 2=2.0",
    "BinaryOp sum 2 1 e f output",
)


@given(st.integers(0, len(SOUND) - 1), st.text("0123456789=-.,e \nabcdefoutInpC", max_size=4), st.integers(0, 3))
def test_whatever_is_changed_is_read_or_refused(place: int, put: str, cut: int) -> None:
    text = SOUND[:place] + put + SOUND[place + cut :]
    try:
        plan = plan_of(text)
    except ModelError:
        return
    assert plan.scale >= 1
    assert 0 < sum(piece.count for piece in plan.pieces) < 10_000


def test_what_is_read_is_what_ncnn_reads(tmp_path: Path) -> None:
    """The sound one above, in ncnn itself."""
    import numpy as np

    plan = plan_of(SOUND)
    param, bin_ = tmp_path / "n.param", tmp_path / "n.bin"
    param.write_text(SOUND)
    dice = np.random.default_rng(1)
    pieces = (bytes(4 * piece.flagged) + dice.random(piece.count, np.float32).tobytes() for piece in plan.pieces)
    bin_.write_bytes(b"".join(pieces))
    weights.check(bin_, plan.pieces)
    assert networks.run(param, bin_, dice.random((3, 9, 7), np.float32)).shape == (3, 18, 14)


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "empty"),
    "cut in the middle": (halved, "shorter"),
    "a byte short": (lambda data: data[:-1], "shorter"),
    "cut in the first tag": (lambda data: data[:2], "shorter"),
    "a byte long": (lambda data: data + b"\0", "1 bytes more"),
    "twice": (lambda data: data + data, "bytes more"),
    "full of ff": (lambda data: b"\xff" * len(data), "not known"),
    "full of ff behind the tag": (lambda data: data[:4] + b"\xff" * (len(data) - 4), "no weight"),
    "full of zeros": (lambda data: bytes(len(data)), "zeros"),
    "not a number at its end": (lambda data: data[:-4] + b"\0\0\xc0\x7f", "no weight"),
    "infinite at its end": (lambda data: data[:-4] + b"\0\0\x80\xff", "no weight"),
    "eight bits": (lambda data: b"\x38\x4b\x0d\x00" + data[4:], "8 bits"),
    "halves that are wholes": (lambda data: b"\x47\x6b\x30\x01" + data[4:], "not known|no weight|bytes more"),
    "a web page": (lambda data: (b"<html>404</html>" * len(data))[: len(data)], "not known"),
    "shifted by a byte": (lambda data: b"\0" + data[:-1], "no weight|not known"),
}


@pytest.mark.parametrize(("damage", "words"), list(BROKEN.values()), ids=BROKEN)
def test_broken_weights_are_a_sentence(tmp_path: Path, damage: Callable[[bytes], bytes], words: str) -> None:
    param, bin_ = networks.write(tmp_path, "n", networks.random(scale=2, features=4))
    bin_.write_bytes(damage(bin_.read_bytes()))
    with pytest.raises(ModelError, match=words) as caught:
        weights.check(bin_, layers.survey(form.parse(param.read_bytes())).pieces)
    assert caught.value.text.endswith(".")
