"""Outcome: when `once` is over although not everything is done."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.clock import FakeClock
from shell_kit import House, house
from test_intake import Shop

from daemon.gates import outbox_gate
from daemon.health import Health
from daemon.outcome import HOUSE_SECONDS, RESTS_MIN, Outcome
from daemon.rules.faults import Blame, Fault, Gate, Outlook

GONE = Fault("It is gone.", blame=Blame.HOUSE, gate=Gate.OUTBOX)


def outcome_of(house: House) -> Outcome:
    now = house.clock.monotonic()
    folders = {folder.id: folder for folder in house.folders}
    health = Health(house.clock, house.dispatcher, folders, started_at=now, ledger_at=now)
    wired: Any = SimpleNamespace(world=house.dispatcher.world, ledger=house.ledger)
    return Outcome(wired, house.dispatcher, Shop(house).intake, health, house.clock.wall())


@pytest.mark.parametrize("trouble", ["outbox", "inbox"])
async def test_one_folders_trouble_ends_it_when_the_others_are_done(
    tmp_path: Path, clock: FakeClock, trouble: str
) -> None:
    async with house(tmp_path, clock, folders=2) as at_work:
        outcome = outcome_of(at_work)
        if trouble == "inbox":
            at_work.inbox.rename(tmp_path / "away")
        else:
            at_work.gates.close(outbox_gate(1), GONE)
            at_work.dispatcher.write_lanes[1].in_hand.add(7)  # It waits for that outbox.
        for folder in at_work.folders:
            await folder.detector.step()
        clock.advance(HOUSE_SECONDS + 1)
        flights = at_work.dispatcher.lanes["flight"]
        flights.in_hand.add(("another's", 0))
        assert not any(outcome.is_stuck() for _ in range(9))
        flights.in_hand.clear()
        assert [outcome.is_stuck() for _ in range(RESTS_MIN)] == [False] * (RESTS_MIN - 1) + [True]


@pytest.mark.parametrize("gate", ["staging", "room"])
async def test_what_stops_all_ends_it_after_a_while(at_work: House, clock: FakeClock, gate: str) -> None:
    outcome = outcome_of(at_work)
    at_work.dispatcher.lanes["fetch"].in_hand.add(("waits", 0))
    at_work.gates.close(gate, GONE)
    assert not outcome.is_stuck()
    clock.advance(HOUSE_SECONDS + 1)
    assert outcome.is_stuck()


async def test_what_only_a_person_can_mend_ends_it_at_once(at_work: House) -> None:
    outcome = outcome_of(at_work)
    at_work.gates.close("api", Fault("No.", blame=Blame.SERVICE, outlook=Outlook.LASTING, gate=Gate.API))
    assert outcome.is_stuck()


async def test_a_service_that_is_down_is_waited_for(at_work: House, clock: FakeClock) -> None:
    outcome = outcome_of(at_work)
    at_work.gates.close("api", Fault("It is down.", blame=Blame.SERVICE, gate=Gate.API))
    clock.advance(3600.0)
    assert not any(outcome.is_stuck() for _ in range(9))
