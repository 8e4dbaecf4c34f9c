"""Delivery: result, then sidecar, then the source; nothing foreign is touched, and nothing paid for gets lost."""

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pyvips
from fakes.clock import FakeClock
from fakes.facts import BILL, sha
from shell_kit import House, house

import daemon
from daemon.config_model import FolderConfig
from daemon.delivery import RESULT_LIFE_SECONDS
from daemon.pipeline import write
from daemon.ports import mark
from daemon.rules.job import Tile, Whole
from daemon.rules.lifecycle import NEVER, Failed, State
from daemon.rules.recipe import Recipe

SCHEMA = json.loads((Path(daemon.__file__).parent / "sidecar.schema.json").read_text())
RESULT = b"the result"
GIVEN_UP = Failed("It does not decode.", "Save it again.", "picture")


async def fetched(house: House, path: str = "a.png", data: bytes = b"a picture", result: bytes = RESULT) -> Tile:
    """A picture whose result is in staging."""
    tile = await house.bring(await house.admit(path, data), State.READY)
    house.disk.staged(tile).write_bytes(result)
    return await house.bring(tile, State.FETCHED, result)


async def failed(house: House, path: str = "a.png", data: bytes = b"a picture") -> Tile:
    return await house.dispatcher.record(await house.admit(path, data), GIVEN_UP)


async def deliver(house: House) -> int:
    """Write all that is due now, once; how many that was."""
    find = house.dispatcher.delivery.find
    due = [each for folder in house.folders for each in await find(folder.id, 99, set())]
    for picture, tile in due:
        await house.dispatcher.delivery.write(picture, tile)
    return len(due)


def sidecar(house: House, name: str, outbox: Path | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(((outbox or house.outbox) / name).read_text())
    if name.endswith(".error.json"):
        assert found["schema"] == "esrgand/error/1"
    else:
        jsonschema.validate(found, SCHEMA)
    return found


def lies_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir()}


@contextmanager
def no_writing(folder: Path, name: str) -> Iterator[None]:
    """Meanwhile a name cannot be written: what must be made first, under another name, cannot be made."""
    trap = folder / f".esrgand-{sha(os.fsencode(name))[:16]}.part"
    trap.mkdir()
    yield
    trap.rmdir()


# Delivered


async def test_result_and_sidecar(at_work: House) -> None:
    tile = await fetched(at_work, "trip/a.png")
    assert await deliver(at_work) == 1
    assert lies_in(at_work.outbox) == {"trip/a_x2.png", "trip/a_x2.png.json"}
    assert (at_work.outbox / "trip" / "a_x2.png").read_bytes() == RESULT
    facts = sidecar(at_work, "trip/a_x2.png.json")
    assert facts["source"] | {"modified": ""} == {
        "path": "trip/a.png",
        "inbox": str(at_work.inbox),
        "sha256": sha(b"a picture"),
        "bytes": 9,
        "width": 3,
        "height": 2,
        "format": "PNG",
        "modified": "",
    }
    result = {"path": "trip/a_x2.png", "sha256": sha(RESULT), "bytes": 10, "width": 6, "height": 4, "format": "PNG"}
    assert facts["result"] == result
    assert facts["recipe"] == {"model": "real-esrgan", "scale": 2, "face_enhance": False}
    assert facts["prediction"] == {
        "id": tile.prediction,
        "api": "a fake",
        "submits": 1,
        "predict_seconds": BILL.predict_seconds,
        "cost_usd": BILL.cost_usd,
        "reused": False,
    }
    milestones = {"detected", "admitted", "uploaded", "submitted", "ready", "fetched", "written"}
    assert facts["times"].keys() == milestones
    assert "secret" not in json.dumps(facts)
    assert (await at_work.now(tile)).state is State.DONE
    assert lies_in(at_work.config.state_dir / "staging") == set()
    assert await deliver(at_work) == 0


async def test_a_name_that_is_not_utf8(at_work: House) -> None:
    await fetched(at_work, os.fsdecode(b"caf\xe9\n.png"))
    await deliver(at_work)
    assert os.path.exists(os.fsencode(at_work.outbox) + b"/caf\xe9\n_x2.png")
    facts = json.loads((at_work.outbox / os.fsdecode(b"caf\xe9\n_x2.png.json")).read_text())
    jsonschema.validate(facts, SCHEMA)
    assert (facts["source"]["path"], facts["result"]["path"]) == ("caf\\xe9\n.png", "caf\\xe9\n_x2.png")
    assert {facts[part]["path_base64"] for part in ("source", "result")} == {"Y2Fm6QoucG5n", "Y2Fm6QpfeDIucG5n"}


@pytest.mark.parametrize(("format_", "suffix"), [("jpeg", ".jpg"), ("webp", ".webp"), ("source", ".png")])
async def test_another_format(tmp_path: Path, clock: FakeClock, format_: str, suffix: str) -> None:
    png: bytes = pyvips.Image.black(6, 4).write_to_buffer(".png")
    async with house(tmp_path, clock, folder={"format": format_}) as at_work:
        await fetched(at_work, result=png)
        await deliver(at_work)
        assert lies_in(at_work.outbox) == {f"a_x2{suffix}", f"a_x2{suffix}.json"}
        placed = at_work.outbox / f"a_x2{suffix}"
        assert pyvips.Image.new_from_file(str(placed)).width == 6
        facts = sidecar(at_work, f"a_x2{suffix}.json")
        assert facts["result"]["sha256"] == sha(placed.read_bytes())
        assert facts["result"]["format"] == {".jpg": "JPEG", ".webp": "WEBP", ".png": "PNG"}[suffix]
        assert lies_in(at_work.config.state_dir / "staging") == set()


@pytest.mark.parametrize(
    ("format_", "width", "height", "becomes"),
    [
        ("webp", 4000, 10_000, "WEBP"),
        ("webp", 4001, 10_000, "PNG"),
        ("webp", 16_384, 1, "PNG"),
        ("jpeg", 65_500, 900, "JPEG"),
        ("jpeg", 65_501, 1, "PNG"),
        ("png", 70_000, 70_000, "PNG"),
    ],
)
async def test_what_is_too_large_for_a_format_stays_a_png(
    at_work: House, format_: str, width: int, height: int, becomes: str
) -> None:
    tile = await at_work.admit()
    job = dataclasses.replace(tile.job, content=dataclasses.replace(tile.job.content, width=width, height=height))
    job = dataclasses.replace(job, recipe=Recipe(scale=1.0))
    whole = Whole((dataclasses.replace(tile, job=job, result_width=width, result_height=height),))
    found, warnings = write._format(whole, FolderConfig.model_construct(format=format_))
    assert (found, len(warnings)) == (becomes, becomes != format_.upper())


# The order


@pytest.mark.parametrize("after", ["archive", "delete"])
async def test_the_source_goes_only_after_the_sidecar_is_there(tmp_path: Path, clock: FakeClock, after: str) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    async with house(tmp_path, clock, folder={"after": after, "archive": str(archive)}) as at_work:
        tile = await fetched(at_work, "trip/a.png")
        (at_work.outbox / "trip").mkdir()
        source = at_work.inbox / "trip" / "a.png"
        look = await at_work.folders[0].inbox.look(b"trip/a.png")
        assert look is not None

        with no_writing(at_work.outbox / "trip", "a_x2.png"):
            assert await deliver(at_work) == 1
        assert lies_in(at_work.outbox) == set()
        assert source.exists()

        clock.advance(1_000)
        with no_writing(at_work.outbox / "trip", "a_x2.png.json"):
            assert await deliver(at_work) == 1
        assert lies_in(at_work.outbox) == {"trip/a_x2.png"}, "a result without a sidecar is not complete yet"
        assert source.exists()
        assert (await at_work.now(tile)).state is State.FETCHED

        clock.advance(1_000)
        assert await deliver(at_work) == 1
        assert lies_in(at_work.outbox) == {"trip/a_x2.png", "trip/a_x2.png.json"}
        assert not source.exists()
        assert lies_in(archive) == ({"trip/a.png"} if after == "archive" else set())
        assert (await at_work.now(tile)).state is State.DONE
        assert mark(b"trip/a.png", look) not in at_work.folders[0].detector.known, "dropped in again it is a new drop"


@pytest.mark.parametrize("after", ["archive", "delete"])
async def test_a_source_that_changed_stays(tmp_path: Path, clock: FakeClock, after: str) -> None:
    """The picture that came under its name meanwhile was not upscaled yet."""
    archive = tmp_path / "archive"
    archive.mkdir()
    async with house(tmp_path, clock, folder={"after": after, "archive": str(archive)}) as at_work:
        tile = await fetched(at_work)
        at_work.drop("a.png", b"another picture")
        await deliver(at_work)
        assert (at_work.inbox / "a.png").read_bytes() == b"another picture"
        assert lies_in(archive) == set()
        assert (await at_work.now(tile)).state is State.DONE


async def test_by_default_the_source_stays(at_work: House) -> None:
    await fetched(at_work)
    await deliver(at_work)
    assert (at_work.inbox / "a.png").read_bytes() == b"a picture"


async def test_an_archive_that_is_away_holds_up_and_loses_nothing(tmp_path: Path, clock: FakeClock) -> None:
    archive = tmp_path / "archive"
    async with house(tmp_path, clock, folder={"after": "archive", "archive": str(archive)}) as at_work:
        tile = await fetched(at_work)
        await deliver(at_work)
        assert (at_work.inbox / "a.png").exists()
        assert (await at_work.now(tile)).state is State.FETCHED
        archive.mkdir()
        clock.advance(1_000)
        await deliver(at_work)
        assert lies_in(archive) == {"a.png"}
        assert lies_in(at_work.outbox) == {"a_x2.png", "a_x2.png.json"}
        assert (await at_work.now(tile)).state is State.DONE


# Copies, and results that got lost


async def test_copies_share_what_was_paid_for(tmp_path: Path, clock: FakeClock) -> None:
    """Beside one another, in another folder, and long after."""
    async with house(tmp_path, clock, folders=2) as at_work:
        await at_work.admit("copy.png")
        await at_work.admit("other.png", folder=1)
        tile = await fetched(at_work)
        assert await deliver(at_work) == 3
        assert (await at_work.now(tile)).state is State.DONE
        await at_work.admit("late.png")
        assert await deliver(at_work) == 1
        names = ("copy_x2.png", "a_x2.png", "late_x2.png")
        assert {(at_work.outbox / name).read_bytes() for name in names} == {RESULT}
        reused = [sidecar(at_work, name + ".json")["prediction"]["reused"] for name in names]
        elsewhere = sidecar(at_work, "other_x2.png.json", at_work.config.folders[1].outbox)
        assert [*reused, elsewhere["prediction"]["reused"]] == [False, True, True, True]
        assert (await at_work.history(tile)).count("submitting") == 1
        assert (await at_work.now(tile)).state is State.DONE


async def test_a_copy_with_a_name_of_odd_bytes_is_converted_too(tmp_path: Path, clock: FakeClock) -> None:
    """From staging: what converts takes no such names, and may not hang with another folder's outbox."""
    picture = (pyvips.Image.black(6, 4) + 100).cast("uchar").write_to_buffer(".png")
    async with house(tmp_path, clock, folders=2) as at_work:
        await fetched(at_work, os.fsdecode(b"caf\xe9.png"), result=picture)
        await deliver(at_work)
        jpegs = at_work.config.folders[1].model_copy(update={"format": "jpeg"})
        at_work.folders[1] = dataclasses.replace(at_work.folders[1], config=jpegs)
        at_work.dispatcher.folders[2] = at_work.folders[1]
        await at_work.admit("copy.png", folder=1)
        assert await deliver(at_work) == 1
        assert (at_work.config.folders[1].outbox / "copy_x2.jpg").read_bytes()[:2] == b"\xff\xd8"
        assert list((tmp_path / "state" / "staging").iterdir()) == []


@pytest.mark.parametrize("how", ["gone", "damaged"])
async def test_a_result_that_staging_lost_is_fetched_again(at_work: House, how: str) -> None:
    tile = await fetched(at_work)
    if how == "gone":
        at_work.disk.staged(tile).unlink()
    else:
        at_work.disk.staged(tile).write_bytes(b"the resulT")
    await deliver(at_work)
    assert (await at_work.now(tile)).state is State.READY
    assert lies_in(at_work.outbox) == set()
    assert await deliver(at_work) == 0, "the picture waits for its job again"


@pytest.mark.parametrize("how", ["gone", "edited"])
async def test_a_result_that_every_outbox_lost_is_wanted_again(at_work: House, clock: FakeClock, how: str) -> None:
    """While the service keeps it; it is paid for."""
    tile = await fetched(at_work)
    await deliver(at_work)
    if how == "gone":
        (at_work.outbox / "a_x2.png").unlink()
    else:
        (at_work.outbox / "a_x2.png").write_bytes(b"somebody's retouching")
    await at_work.admit("copy.png")
    clock.advance(RESULT_LIFE_SECONDS - 60)
    await deliver(at_work)
    tile = await at_work.now(tile)
    assert (tile.state, tile.output_url) == (State.READY, "https://result.test/x.png")
    at_work.disk.staged(tile).write_bytes(RESULT)
    await at_work.bring(tile, State.FETCHED, RESULT)
    assert await deliver(at_work) == 1
    assert sidecar(at_work, "copy_x2.png.json")["prediction"]["reused"] is True
    assert (await at_work.ledger.books.bill(tile.job.id)).cost_usd == BILL.cost_usd


async def test_a_result_that_nobody_has_any_more_is_a_persons_decision(at_work: House, clock: FakeClock) -> None:
    tile = await fetched(at_work)
    await deliver(at_work)
    (at_work.outbox / "a_x2.png").unlink()
    await at_work.admit("copy.png")
    clock.advance(RESULT_LIFE_SECONDS + 60)
    await deliver(at_work)
    tile = await at_work.now(tile)
    assert (tile.state, tile.due_at) == (State.HELD, NEVER)
    assert "pay again" in tile.remedy


# Names


async def test_two_pictures_that_want_one_name(at_work: House) -> None:
    await fetched(at_work, "a.png", b"one", b"result one")
    await fetched(at_work, "a.jpg", b"two", b"result two")
    await deliver(at_work)
    assert (at_work.outbox / "a_x2.png").read_bytes() == b"result one"
    assert (at_work.outbox / "a.jpg_x2.png").read_bytes() == b"result two"
    assert sidecar(at_work, "a.jpg_x2.png.json")["source"]["path"] == "a.jpg"


@pytest.mark.parametrize("foreign", ["a_x2.png", "a_x2.png.json"])
async def test_a_foreign_file_stays_and_another_name_is_taken(at_work: House, foreign: str) -> None:
    (at_work.outbox / foreign).write_bytes(b"somebody's")
    await fetched(at_work)
    await deliver(at_work)
    assert lies_in(at_work.outbox) == {foreign, "a.png_x2.png", "a.png_x2.png.json"}
    assert (at_work.outbox / foreign).read_bytes() == b"somebody's"


async def test_a_changed_picture_replaces_our_own_result(at_work: House) -> None:
    """The old sidecar goes first: at no moment does it stand beside a result that it does not describe."""
    await fetched(at_work, data=b"one", result=b"result one")
    await deliver(at_work)
    await fetched(at_work, data=b"two", result=b"result two")
    with no_writing(at_work.outbox, "a_x2.png.json"):
        await deliver(at_work)
    assert lies_in(at_work.outbox) == {"a_x2.png"}
    assert (at_work.outbox / "a_x2.png").read_bytes() == b"result two"
    at_work.clock.advance(1_000)
    await deliver(at_work)
    assert lies_in(at_work.outbox) == {"a_x2.png", "a_x2.png.json"}
    assert sidecar(at_work, "a_x2.png.json")["result"]["sha256"] == sha(b"result two")


async def test_a_result_that_a_person_edited_is_not_replaced(at_work: House) -> None:
    await fetched(at_work, data=b"one", result=b"result one")
    await deliver(at_work)
    (at_work.outbox / "a_x2.png").write_bytes(b"a person's retouching")
    await fetched(at_work, data=b"two", result=b"result two")
    await deliver(at_work)
    assert (at_work.outbox / "a_x2.png").read_bytes() == b"a person's retouching"
    assert (at_work.outbox / "a.png_x2.png").read_bytes() == b"result two"
    assert sidecar(at_work, "a.png_x2.png.json")["result"]["sha256"] == sha(b"result two")


# Failures


async def test_a_failed_picture_leaves_a_report(at_work: House) -> None:
    tile = await failed(at_work, "trip/a.png")
    await deliver(at_work)
    assert lies_in(at_work.outbox) == {"trip/a.png.error.json"}
    report = sidecar(at_work, "trip/a.png.error.json")
    assert (report["reason"], report["remedy"], report["fault"]) == ("It does not decode.", "Save it again.", "picture")
    assert (report["job"], report["attempts"], report["submits"], report["cost_usd"]) == (tile.job.id, 0, 0, 0.0)
    assert report["source"]["path"] == "trip/a.png"
    assert (at_work.inbox / "trip" / "a.png").exists()
    assert await deliver(at_work) == 0


async def test_folders_that_share_an_outbox_have_reports_of_their_own(tmp_path: Path, clock: FakeClock) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    async with house(tmp_path, clock, folders=2, folder={"outbox": str(shared)}) as at_work:
        await failed(at_work, data=b"one")
        await at_work.dispatcher.record(await at_work.admit("a.png", b"another", folder=1), GIVEN_UP)
        await deliver(at_work)
        reports = {"a.png.error.json", "a.png~2.error.json"}
        assert lies_in(shared) == reports
        inboxes = {sidecar(at_work, name, shared)["source"]["inbox"] for name in reports}
        assert inboxes == {str(folder.inbox) for folder in at_work.config.folders}
        tile = await at_work.bring(await at_work.admit("a.png", b"mended", folder=1), State.READY)
        at_work.disk.staged(tile).write_bytes(RESULT)
        await at_work.bring(tile, State.FETCHED, RESULT)
        await deliver(at_work)
        assert lies_in(shared) == {"a.png.error.json", "a_x2.png", "a_x2.png.json"}, "its own goes, and no other"
        assert sidecar(at_work, "a.png.error.json", shared)["source"]["inbox"] == str(at_work.inbox)


async def test_the_report_goes_when_the_picture_succeeds(at_work: House) -> None:
    await failed(at_work)
    await deliver(at_work)
    assert lies_in(at_work.outbox) == {"a.png.error.json"}
    await fetched(at_work, data=b"a mended picture")
    await deliver(at_work)
    assert lies_in(at_work.outbox) == {"a_x2.png", "a_x2.png.json"}


async def test_a_failed_picture_can_be_moved_with_its_report(tmp_path: Path, clock: FakeClock) -> None:
    aside = tmp_path / "failed"
    aside.mkdir()
    async with house(tmp_path, clock, folder={"after_failure": "move", "failed": str(aside)}) as at_work:
        await failed(at_work, "trip/a.png")
        await deliver(at_work)
        assert lies_in(aside) == {"trip/a.png", "trip/a.png.error.json"}
        assert lies_in(at_work.inbox) == set()
        assert lies_in(at_work.outbox) == set()
        await fetched(at_work, "trip/a.png", b"a mended picture")
        await deliver(at_work)
        assert lies_in(aside) == {"trip/a.png"}


async def test_a_foreign_report_stays(at_work: House) -> None:
    (at_work.outbox / "a.png.error.json").write_bytes(b"{}")
    await failed(at_work)
    await deliver(at_work)
    assert (at_work.outbox / "a.png.error.json").read_bytes() == b"{}"
    assert len(lies_in(at_work.outbox)) == 2


# A house that is out of order


async def test_an_outbox_that_is_away_is_not_made_and_holds_up_its_own_folder_alone(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with house(tmp_path, clock, folders=2) as at_work:
        tile = await fetched(at_work)
        at_work.outbox.rmdir()
        other = await at_work.admit("b.png", b"another", folder=1)
        other = await at_work.bring(other, State.READY)
        at_work.disk.staged(other).write_bytes(RESULT)
        await at_work.bring(other, State.FETCHED, RESULT)
        await deliver(at_work)
        assert not at_work.outbox.exists()
        assert lies_in(at_work.config.folders[1].outbox) == {"b_x2.png", "b_x2.png.json"}
        assert [closed.name for closed in at_work.gates.closed()] == ["outbox:1"]
        assert (await at_work.now(tile)).state is State.FETCHED, "a paid result waits in staging"
        at_work.outbox.mkdir()
        clock.advance(1_000)
        await deliver(at_work)
        assert lies_in(at_work.outbox) == {"a_x2.png", "a_x2.png.json"}
        assert at_work.gates.closed() == []
        assert len(at_work.told("gate_closed")) == len(at_work.told("gate_opened")) == 1


@pytest.mark.parametrize("how", ["a gate's fault", "its own fault"])
async def test_a_delivery_that_fails_is_tried_ever_more_seldom(tmp_path: Path, clock: FakeClock, how: str) -> None:
    async with house(tmp_path, clock, folder={"format": "jpeg"}) as at_work:
        await fetched(at_work, result=b"no picture, and so it cannot be converted")
        if how == "a gate's fault":
            at_work.outbox.rmdir()
        tries = []
        while clock.seconds < 10_000:
            if await deliver(at_work):
                tries.append(clock.seconds)
            clock.advance(1.0)
        assert 5 < len(tries) < 60
        assert tries[-1] - tries[-2] > 200
        assert len(at_work.told("gate_closed") + at_work.told("write_failed")) == 1


async def test_behind_a_closed_gate_nobody_is_tried(at_work: House, clock: FakeClock) -> None:
    """The others of the folder wait in the ledger, where they hold up nobody else's delivery."""
    for number in range(3):
        await fetched(at_work, f"{number}.png", b"picture %d" % number)
    at_work.outbox.rmdir()
    first, *others = await at_work.dispatcher.delivery.find(1, 99, set())
    assert len(others) == 2
    await at_work.dispatcher.delivery.write(*first)
    assert await at_work.dispatcher.delivery.find(1, 99, set()) == []
    at_work.outbox.mkdir()
    clock.advance(1_000)
    assert await deliver(at_work) == 3
    assert len(lies_in(at_work.outbox)) == 6


async def test_a_picture_that_is_replaced_before_its_turn_is_not_written(at_work: House) -> None:
    await fetched(at_work, data=b"one", result=b"result one")
    [(picture, tile)] = await at_work.dispatcher.delivery.find(1, 99, set())
    await at_work.admit(data=b"two")
    await at_work.dispatcher.delivery.write(picture, tile)
    assert lies_in(at_work.outbox) == set()


async def test_a_restart_in_the_middle_of_a_delivery_ends_it(tmp_path: Path, clock: FakeClock) -> None:
    """The result was placed and its sidecar was not: the same name, the same bytes, one result."""
    async with house(tmp_path, clock) as at_work:
        await fetched(at_work)
        with no_writing(at_work.outbox, "a_x2.png.json"):
            await deliver(at_work)
        assert lies_in(at_work.outbox) == {"a_x2.png"}
    async with house(tmp_path, clock) as again:
        assert await deliver(again) == 1
        assert lies_in(again.outbox) == {"a_x2.png", "a_x2.png.json"}


async def test_a_folder_that_is_no_longer_configured_waits(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, folders=2) as at_work:
        tile = await at_work.bring(await at_work.admit("b.png", b"another", folder=1), State.READY)
        at_work.disk.staged(tile).write_bytes(RESULT)
        await at_work.bring(tile, State.FETCHED, RESULT)
    async with house(tmp_path, clock) as again:
        assert await deliver(again) == 0
        assert again.disk.staged(tile).exists()
    async with house(tmp_path, clock, folders=2) as back:
        assert await deliver(back) == 1
