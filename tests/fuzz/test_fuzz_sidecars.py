"""Sidecars of any facts keep the schema's form and no secret; what others left under their names is left alone."""

import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fakes.clock import FakeClock
from fakes.pictures import AnyPictures
from fuzz_kit import SIGNATURE, SIGNED, any_text, fuzz
from hypothesis import given
from hypothesis import strategies as st

import daemon
from daemon.adapters.disk import HouseDisk
from daemon.config_model import FolderConfig
from daemon.pipeline.write import Writer, as_text
from daemon.rules.job import Bill, Content, Job, Look, Phase, Picture, Tile, Whole
from daemon.rules.lifecycle import State
from daemon.rules.recipe import Recipe
from daemon.rules.sidecar import MILESTONES, ResultFacts, error_report, sidecar

VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((Path(daemon.__file__).parent / "sidecar.schema.json").read_text("utf-8"))
)
NS_MAX = 2**63 - 1  # the ledger's, and so the largest that a date of a file is taken for
RESULT = b"the result"
shas = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
counts = st.integers(1, 2**63 - 1)
moments = st.floats(0, 253_402_300_000)
paths = st.binary(min_size=1, max_size=60).map(lambda path: path.replace(b"\0", b"0"))
money = st.floats(0, 1e12)
recipes = st.builds(Recipe, scale=st.floats(0, 10, exclude_min=True), face_enhance=st.booleans())
contents = st.builds(Content, shas, counts, counts, counts, st.sampled_from(["JPEG", "PNG", "WEBP"]))
tiles = st.builds(
    lambda content, recipe, texts, submits: Tile(
        Job(recipe.job_id(content.sha256), 1, b"a.png", content, recipe),
        *(0, State.FETCHED, 0.0, 0.0, content.rect),
        submits=submits,
        prediction=texts[0],
        reason=texts[1],
        remedy=texts[2],
        asset_ref=SIGNATURE,
        asset_url=SIGNED,
        output_url=SIGNED,
    ),
    contents,
    recipes,
    st.tuples(any_text, any_text, any_text),
    st.integers(0, 100),
)
looks = st.builds(Look, counts, st.integers(-NS_MAX, NS_MAX), counts)


def a_picture(path: bytes, look: Look, tile: Tile) -> Picture:
    return Picture(1, 1, path, look, tile.job.id, Phase.DUE, 0.0, None, None, None)


def as_read(text: bytes) -> dict[str, Any]:
    """What a strict reader makes of it: no NaN, no Infinity."""
    found: dict[str, Any] = json.loads(text.decode("utf-8"), parse_constant=pytest.fail)
    return found


def assert_named(known: dict[str, Any], path: bytes) -> None:
    encoded = known.get("path_base64")
    assert (base64.b64decode(encoded) if encoded is not None else known["path"].encode()) == path


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[HouseDisk]:
    disk = HouseDisk(tmp_path / "staging")
    await disk.prepare(set())
    (tmp_path / "out").mkdir()
    yield disk
    disk.close()


@fuzz(2)
@given(
    tile=tiles,
    look=looks,
    paths=st.tuples(paths, paths, paths),
    sizes=st.tuples(shas, counts, counts, counts),
    bill=st.builds(Bill, money, st.none() | st.floats(0, 1e12)),
    times=st.fixed_dictionaries(
        {"detected": moments, "written": moments}, optional=dict.fromkeys(MILESTONES[1:-1], moments)
    ),
    warnings=st.lists(any_text, max_size=2),
    reused=st.booleans(),
)
def test_any_facts_make_a_sidecar_and_a_report(
    tile: Tile,
    look: Look,
    paths: tuple[bytes, bytes, bytes],
    sizes: tuple[str, int, int, int],
    bill: Bill,
    **rest: Any,
) -> None:
    picture, whole = a_picture(paths[0], look, tile), Whole((tile,))
    result = ResultFacts(paths[1], *sizes, "PNG")
    text = as_text(
        sidecar(picture, whole, inbox=paths[2], result=result, bills={0: bill}, api="https://h/v1", version="1", **rest)
    )
    found = as_read(text)
    VALIDATOR.validate(found)
    assert_named(found["source"], paths[0])
    assert_named(found["result"], paths[1])
    assert found["prediction"]["cost_usd"] == pytest.approx(bill.cost_usd, abs=1e-9)
    report = as_text(
        error_report(picture, whole, inbox=paths[2], bill=bill, failed_at=rest["times"]["written"], version="1")
    )
    assert_named(as_read(report)["source"], paths[0])
    for ours in (text, report):
        assert SIGNATURE.encode() not in ours
        assert ours.replace(b" ", b"").startswith(b'{\n"schema":"esrgand/'), "it is known again as ours"


# What may already stand in an outbox: (what, whether it is one of ours).
SIDECAR = as_text({"schema": "esrgand/sidecar/1", "source": {"path": "a.png"}})
REPORT = as_text({"schema": "esrgand/error/1", "source": {"path": "a.png"}})
ours = st.sampled_from([SIDECAR, REPORT, SIDECAR.replace(b"\n", b"").replace(b" ", b"")]).flatmap(
    lambda text: st.integers(40, len(text)).map(lambda end: (text[:end], True))
)
foreign = st.one_of(
    st.binary(max_size=300).filter(lambda data: b"esrgand" not in data),
    st.sampled_from([b"", b"{", b"[]", b"\0" * 5000, b"{}" * 3_000_000, SIDECAR[:20], SIDECAR[::-1]]),
    st.sampled_from([b'{"schema": "esrgandx/1"}', b'{"schema": 1, "esrgand/": 2}', b" " * 200 + SIDECAR]),
    st.sampled_from(["folder", "link", "dangling link", "pipe"]),
).map(lambda what: (what, False))


def put(path: Path, what: bytes | str, canary: Path) -> None:
    match what:
        case bytes():
            path.write_bytes(what)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to(canary if what == "link" else "nowhere")


def as_it_is(path: Path) -> object:
    status = path.lstat()
    return status.st_ino, status.st_mode, status.st_mtime_ns, path.is_file() and path.read_bytes()


class NoLedger:
    """As much of the ledger as a delivery asks: every name is free, and nothing was ever paid."""

    @property
    def deliveries(self) -> "NoLedger":
        return self

    books = deliveries

    async def is_reuse(self, *_: object) -> bool:
        return False

    async def claim(self, *_: object) -> bool:
        return True

    async def delivered(self, *_: object, **__: object) -> bool:
        return False

    async def reported(self, *_: object, **__: object) -> None:
        return None

    async def times(self, _: str) -> dict[str, float]:
        return {}

    async def bill(self, _: str) -> Bill:
        return Bill(0.0)

    async def bills(self, _: str) -> dict[int, Bill]:
        return {}


names = st.sampled_from(["a_x4.png", "a_x4.png.json", "a.png_x4.png", "a.png_x4.png.json", "a.png.error.json"])


@fuzz(0.6)
@given(st.dictionaries(names, ours | foreign, max_size=4), st.booleans())
async def test_what_others_left_in_an_outbox_is_left_alone(
    tmp_path: Path, clock: FakeClock, disk: HouseDisk, lying: dict[str, tuple[bytes | str, bool]], fails: bool
) -> None:
    canary, outbox = tmp_path / "canary", tmp_path / "out"
    canary.write_bytes(SIDECAR)
    for name, (what, _) in lying.items():
        put(outbox / name, what, canary)
        assert await disk.is_foreign(outbox, name.encode()) is not lying[name][1], name
    before = {path: as_it_is(path) for path in [canary, *(outbox / name for name in lying)]}
    content = Content("0" * 64, 1, 1, 1, "PNG")
    recipe = Recipe()
    sha = hashlib.sha256(RESULT).hexdigest()
    tile = Tile(
        Job("job", 1, b"a.png", content, recipe),
        *(0, State.FAILED if fails else State.FETCHED, 0.0, 0.0, content.rect),
        result_sha256=sha,
        result_bytes=len(RESULT),
        result_width=4,
        result_height=4,
    )
    disk.staged(tile).write_bytes(RESULT)
    folder = FolderConfig.model_construct(inbox=tmp_path / "in", outbox=outbox)
    writer: Any = Writer(NoLedger(), disk, AnyPictures(), clock, "https://h/v1", "1")  # type: ignore[arg-type]
    picture = a_picture(b"a.png", Look(1, 0, 1), tile)
    await (writer.report if fails else writer.deliver)(picture, Whole((tile,)), folder, None)

    for path, was in before.items():
        is_ours = path != canary and lying[path.name][1] and path.name.endswith(".json")
        assert is_ours or as_it_is(path) == was, path.name
    written = [path for path in outbox.glob("*.json") if before.get(path) != as_it_is(path)]
    assert len(written) == 1
    found = as_read(written[0].read_bytes())
    if fails:
        assert (written[0].name[:5], found["schema"]) == ("a.png", "esrgand/error/1")
    else:
        VALIDATOR.validate(found)
        assert written[0].name == found["result"]["path"] + ".json"
        assert (outbox / found["result"]["path"]).read_bytes() == RESULT
    for path in outbox.iterdir():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
