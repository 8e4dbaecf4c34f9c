"""Sweep and probes: what is looked after while pictures travel, and while none does."""

from pathlib import Path

import pytest
from fakes.clock import FakeClock
from shell_kit import House, house

from daemon.health import Health
from daemon.probes import PATIENCE_SECONDS
from daemon.rules.faults import Blame, Fault, Gate, Outlook
from daemon.rules.lifecycle import Failed, State
from daemon.sweep import BATCH, FAILURES_MAX, RETRY_SECONDS_MAX

DENIED = Fault(
    "Deleting is not allowed.", blame=Blame.SERVICE, outlook=Outlook.LASTING, gate=Gate.STORAGE, remedy="Allow it."
)
DOWN = Fault("It is down.", blame=Blame.SERVICE, gate=Gate.API)


async def over(house: House, number: int) -> str:
    """A picture whose object nobody needs any more; the object's name."""
    tile = await house.uploaded(number)
    assert tile.asset_ref is not None
    await house.dispatcher.record(tile, Failed("No.", "", "picture"))
    return tile.asset_ref


def problems(house: House) -> list[str]:
    now = house.clock.monotonic()
    folders = {folder.id: folder for folder in house.folders}
    return Health(house.clock, house.dispatcher, folders, started_at=now, ledger_at=now).problems()


async def test_all_is_deleted_however_much_it_is(at_work: House) -> None:
    for number in range(BATCH + 20):
        await over(at_work, number)
    needed = await at_work.uploaded(999)
    await at_work.dispatcher.sweep.step()
    assert set(at_work.storage.objects) == {needed.asset_ref}
    assert at_work.dispatcher.sweep.is_done


async def test_one_that_cannot_be_deleted_holds_up_no_other_and_is_told_once(at_work: House, clock: FakeClock) -> None:
    refs = [await over(at_work, number) for number in range(5)]
    sweep = at_work.dispatcher.sweep
    at_work.storage.faults.append(DENIED)
    await sweep.step()
    [left] = at_work.storage.objects
    assert left in refs
    assert sweep.is_done, "it has done what it can for now"
    assert [line["reason"] for line in at_work.told("delete_failed")] == [DENIED.said]
    assert [problem for problem in problems(at_work) if DENIED.said in problem and "Allow it." in problem]
    assert at_work.gates.closed() == [], "uploads need not wait for that"
    asked = len(at_work.storage.deleted)
    await sweep.step()
    assert len(at_work.storage.deleted) == asked, "it is tried again ever more seldom"
    at_work.storage.faults.append(DENIED)
    clock.advance(RETRY_SECONDS_MAX)
    await sweep.step()
    assert len([line for line in at_work.told("delete_failed") if line["log_level"] == "warning"]) == 1
    clock.advance(RETRY_SECONDS_MAX)
    await sweep.step()
    assert (at_work.storage.objects, problems(at_work)) == ({}, [])
    assert len(at_work.told("delete_works")) == 1


async def test_a_storage_that_is_away_is_not_asked_about_each(at_work: House, clock: FakeClock) -> None:
    for number in range(20):
        await over(at_work, number)
    at_work.storage.faults.extend([DENIED] * 20)
    await at_work.dispatcher.sweep.step()
    assert len(at_work.storage.faults) == 20 - FAILURES_MAX
    at_work.gates.close("storage", DENIED)
    clock.advance(RETRY_SECONDS_MAX)
    await at_work.dispatcher.sweep.step()
    assert len(at_work.storage.faults) == 20 - FAILURES_MAX, "known to be away"
    at_work.gates.open("storage")
    at_work.storage.faults.clear()
    await at_work.dispatcher.sweep.step()
    assert at_work.storage.objects == {}


async def test_what_is_to_stay_stays(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock, storage={"kind": "vendor", "keep": True}) as at_work:
        await over(at_work, 1)
        await at_work.dispatcher.sweep.step()
        assert len(at_work.storage.objects) == 1
        assert await at_work.ledger.books.unwanted_assets(9) == []


@pytest.mark.parametrize(
    "gate", ["api", "poll", "history", "fetch", "storage", "staging", "room", "outbox:1", "room:1"]
)
async def test_a_gate_that_nobody_comes_to_is_looked_at(at_work: House, clock: FakeClock, gate: str) -> None:
    """The network was down at the start, and no picture has come yet: that it is back is seen all the same."""
    at_work.gates.close(gate, DOWN)
    await at_work.dispatcher.probes.step()
    clock.advance(PATIENCE_SECONDS)
    await at_work.dispatcher.probes.step()
    assert [closed.name for closed in at_work.gates.closed()] == [gate], "its time is not over so long"
    clock.advance(PATIENCE_SECONDS)
    await at_work.dispatcher.probes.step()
    assert at_work.gates.closed() == []
    assert at_work.predictor.urls == []


async def test_an_outbox_that_goes_away_is_told_before_somebody_misses_a_result(at_work: House) -> None:
    await at_work.dispatcher.probes.step()
    assert problems(at_work) == []
    at_work.outbox.rename(at_work.outbox.with_name("away"))
    for _ in range(3):
        await at_work.dispatcher.probes.step()
    assert [closed.name for closed in at_work.gates.closed()] == ["outbox:1"]
    assert len(problems(at_work)) == len(at_work.told("gate_closed")) == 1


@pytest.mark.parametrize(
    ("gate", "state"),
    [("api", State.ADMITTED), ("api", State.UPLOADED), ("poll", State.SUBMITTED), ("fetch", State.READY)],
)
async def test_who_waits_at_a_gate_probes_it_himself(at_work: House, clock: FakeClock, gate: str, state: State) -> None:
    await at_work.bring(await at_work.admit(), state)
    at_work.gates.close(gate, DOWN)
    clock.advance(3600.0)
    await at_work.dispatcher.probes.step()
    assert [closed.name for closed in at_work.gates.closed()] == [gate]
    assert at_work.predictor.checked == 0


@pytest.mark.parametrize("gate", ["api", "storage", "outbox:1"])
async def test_one_that_is_still_broken_stays_closed_for_longer(at_work: House, clock: FakeClock, gate: str) -> None:
    at_work.gates.close(gate, DOWN)
    at_work.predictor.checks.extend([DOWN] * 9)
    at_work.storage.faults.extend([DENIED] * 9)
    if gate == "outbox:1":
        at_work.outbox.rename(at_work.outbox.with_name("away"))
    for _ in range(3):
        clock.advance(3600.0)
        await at_work.dispatcher.probes.step()
        assert [closed.name for closed in at_work.gates.closed()] == [gate]
        assert (at_work.gates.seconds_left(gate) or 0.0) > 0.0
    assert len(at_work.told("gate_closed")) == 1, "told once"
