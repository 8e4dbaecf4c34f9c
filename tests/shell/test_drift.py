"""The wall clock is set, and nothing comes late, too early, or twice because of it."""

from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.predictor import cut
from shell_kit import House, house

from daemon.drift import JUMP_SECONDS, LOOK_SECONDS, Drift
from daemon.ports import Running
from daemon.rules.lifecycle import NEVER, Held, State


def drift_of(at_work: House, poked: list[None]) -> Drift:
    world = at_work.dispatcher.world
    return Drift(world.clock, world.ledger, world.log, lambda: poked.append(None))


async def test_what_waits_is_brought_forward_by_a_clock_set_back(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock) as at_work:
        poked: list[None] = []
        drift = drift_of(at_work, poked)
        tile = await at_work.admit()
        other = await at_work.admit("b.png", b"another")
        await at_work.ledger.postpone(tile, clock.wall() + 100)
        await at_work.dispatcher.record(other, Held("A new day.", "", due_at=clock.wall() + 5000))
        clock.start -= 1800
        assert await drift.step() == LOOK_SECONDS
        assert (await at_work.now(tile)).due_at == clock.wall() + 100
        assert (await at_work.now(other)).due_at == clock.wall() + 1800 + 5000, "a day of the budget is a day"
        assert len(poked) == 1
        assert [line["seconds"] for line in at_work.told("clock_set")] == [-1800]


@pytest.mark.parametrize("seconds", [JUMP_SECONDS / 2, -JUMP_SECONDS / 2, 0.0])
async def test_a_clock_that_is_slewed_is_left_alone(tmp_path: Path, clock: FakeClock, seconds: float) -> None:
    async with house(tmp_path, clock) as at_work:
        poked: list[None] = []
        drift = drift_of(at_work, poked)
        clock.advance(3600)
        clock.start += seconds
        await drift.step()
        assert (poked, at_work.told("clock_set")) == ([], [])


async def test_never_stays_never(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock) as at_work:
        drift = drift_of(at_work, [])
        tile = await at_work.admit()
        await at_work.dispatcher.record(tile, Held("A doubt.", "", due_at=NEVER))
        clock.start -= 1e6
        await drift.step()
        assert (await at_work.now(tile)).due_at == NEVER


async def test_a_clock_set_forward_proves_no_absence(tmp_path: Path, clock: FakeClock) -> None:
    """What the process has not waited for itself may still arrive."""
    async with house(tmp_path, clock) as at_work:
        tile = await at_work.uploaded()
        at_work.predictor.creates.append(cut())

        async def set_forward(_: str) -> None:
            clock.start += 7200

        at_work.predictor.on_create = set_forward
        began = clock.monotonic()
        at_work.predictor.lookups.extend([None] * 20)
        await at_work.dispatcher._fly(tile)
        assert (await at_work.now(tile)).state is not State.SUBMITTED
        grace = at_work.config.api.create_seconds_max * 1.5
        assert "absent" in await at_work.history(tile)
        assert clock.monotonic() - began >= grace + 20


async def test_a_prediction_is_asked_for_as_ever_after_the_clock_was_set_back(tmp_path: Path, clock: FakeClock) -> None:
    async with house(tmp_path, clock) as at_work:
        tile = await at_work.uploaded()
        at_work.predictor.answers.extend([Running("processing")] * 3)

        async def set_back(_: str) -> None:
            clock.start -= 7200

        at_work.predictor.on_create = set_back
        began = clock.monotonic()
        await at_work.dispatcher._fly(tile)
        assert (await at_work.now(tile)).state is State.READY
        assert clock.monotonic() - began < 60


async def test_what_a_clock_set_back_left_behind_is_due_and_nobody_spins(tmp_path: Path, clock: FakeClock) -> None:
    """The flight lane finds it, and the flight takes it: the two must agree on what is due."""
    async with house(tmp_path, clock) as at_work:
        tile = await at_work.uploaded()
        clock.start -= 7200
        [found] = await at_work.dispatcher.turns.flights(5, set())
        await at_work.dispatcher._fly(found)
        assert (await at_work.now(tile)).state is State.READY
