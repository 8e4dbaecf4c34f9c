"""Gates: closed and opened once for all, with one probe between."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fakes.clock import HeldClock, settle
from shell_kit import captured_log

from daemon.gates import Gates, outbox_gate, room_gate
from daemon.rules.faults import Blame, Fault, Gate, Outlook
from daemon.rules.reactions import DISK_SECONDS_MAX, GATE_SECONDS, GATE_SECONDS_MAX, LASTING_SECONDS


def fault(gate: Gate | None = Gate.API, **more: object) -> Fault:
    return Fault("The API is down.", blame=Blame.SERVICE, gate=gate, **more)  # type: ignore[arg-type]


class Doorway:
    """Gates and those who go through them."""

    def __init__(self) -> None:
        self.clock = HeldClock()
        log, self.log = captured_log()
        self.gates = Gates(self.clock, log)
        self.inside: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def send(self, name: str, *gates: str, end: asyncio.Future[None] | None = None) -> asyncio.Task[None]:
        """Somebody goes through, and stays inside until `end` has a result or a fault."""

        async def go() -> None:
            async with self.gates.through(*(gates or ("api",))):
                self.inside.append(name)
                if end is not None:
                    await end

        self.tasks.append(asyncio.create_task(go()))
        return self.tasks[-1]

    def told(self) -> list[str]:
        return [line["event"] for line in self.log.entries]


@pytest.fixture
async def door() -> AsyncIterator[Doorway]:
    door = Doorway()
    yield door
    for task in door.tasks:
        task.cancel()
    await asyncio.gather(*door.tasks, return_exceptions=True)


def future() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


async def test_an_open_gate_holds_nobody(door: Doorway) -> None:
    assert door.gates.seconds_left("api") is None
    assert not await door.gates.wait("api")
    await door.send("a")
    assert door.inside == ["a"]
    assert door.gates.closed() == []


async def test_closing_is_said_once(door: Doorway) -> None:
    """However many were under way and fail of the same cause."""
    ends = [future() for _ in range(3)]
    tasks = [door.send(str(n), end=end) for n, end in enumerate(ends)]
    await settle()
    for end in ends:
        end.set_exception(fault())
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, Fault) for outcome in outcomes), "each still gets its own fault"
    assert door.told() == ["gate_closed"]
    assert door.log.entries[0]["reason"] == "The API is down."
    [closed] = door.gates.closed()
    assert (closed.name, closed.closed_at) == ("api", door.clock.wall())
    assert door.gates.seconds_left("api") is not None
    door.send("next")
    await door.clock.let_pass(GATE_SECONDS * 1.01)
    assert door.inside[3:] == ["next"], "three faults at once are one closing, not three"


async def test_one_probe_and_then_everybody(door: Doorway) -> None:
    door.gates.close("api", fault())
    end = future()
    for name in "abc":
        door.send(name, end=end)
    await door.clock.let_pass(GATE_SECONDS * 0.99)
    assert door.inside == []
    await door.clock.let_pass(GATE_SECONDS)
    assert door.inside == ["a"], "one probe, and the others wait for what it learns"
    await door.clock.let_pass(10_000)
    assert door.inside == ["a"]
    end.set_result(None)
    await settle()
    assert door.inside == ["a", "b", "c"]
    assert door.told() == ["gate_closed", "gate_opened"]
    assert door.gates.closed() == []


async def test_a_gate_admits_one_probe_at_a_time(door: Doorway) -> None:
    """Who would have to wait is told so, and can do something else."""
    assert door.gates.admits("api")
    door.gates.close("api", fault())
    assert not door.gates.admits("api")
    await door.clock.let_pass(GATE_SECONDS)
    assert door.gates.admits("api")
    end = future()
    probe = door.send("a", end=end)
    await settle()
    assert not door.gates.admits("api")
    end.set_result(None)
    await probe
    assert door.gates.admits("api")


async def test_pauses_grow_while_probes_fail_and_start_again_after(door: Doorway) -> None:
    pauses = []
    door.gates.close("api", fault())
    for _ in range(12):
        before = door.clock.monotonic()
        end = future()
        task = door.send("probe", end=end)
        while not door.inside:
            await door.clock.let_pass(0.5)
        pauses.append(door.clock.monotonic() - before)
        door.inside.clear()
        end.set_exception(fault())
        await asyncio.gather(task, return_exceptions=True)
    assert pauses[:3] == [GATE_SECONDS, GATE_SECONDS * 2, GATE_SECONDS * 4]
    assert pauses[-1] == GATE_SECONDS_MAX
    assert door.told() == ["gate_closed"], "said once, however often the probe fails"
    door.gates.open("api")
    door.gates.close("api", fault())
    door.send("again")
    await door.clock.let_pass(GATE_SECONDS)
    assert door.inside == ["again"]


async def test_retry_after_is_heeded(door: Doorway) -> None:
    door.gates.close("api", fault(retry_after=90.0))
    door.send("a")
    await door.clock.let_pass(89)
    assert door.inside == []
    await door.clock.let_pass(10)
    assert door.inside == ["a"]


async def test_a_longer_retry_after_of_one_who_was_under_way_counts(door: Doorway) -> None:
    door.gates.close("api", fault())
    door.gates.close("api", fault(retry_after=90.0))
    door.gates.close("api", fault())
    door.send("a")
    await door.clock.let_pass(89)
    assert door.inside == []
    await door.clock.let_pass(10)
    assert door.inside == ["a"]


async def test_what_a_person_must_mend_is_asked_for_seldom(door: Doorway) -> None:
    door.gates.close("api", fault(outlook=Outlook.LASTING))
    door.send("a")
    await door.clock.let_pass(LASTING_SECONDS * 0.99)
    assert door.inside == []
    await door.clock.let_pass(LASTING_SECONDS * 0.02)
    assert door.inside == ["a"]


async def test_who_started_before_the_closing_does_not_open_it(door: Doorway) -> None:
    end = future()
    early = door.send("early", end=end)
    await settle()
    door.gates.close("api", fault())
    end.set_result(None)
    await early
    assert door.gates.seconds_left("api") is not None
    assert door.told() == ["gate_closed"]


async def test_a_probe_of_an_earlier_closing_does_not_open_a_later_one(door: Doorway) -> None:
    """It went in, somebody else opened the gate, and it was closed again: what the probe learnt is old."""
    door.gates.close("api", fault())
    end = future()
    probe = door.send("probe", end=end)
    await door.clock.let_pass(GATE_SECONDS)
    assert door.inside == ["probe"]
    door.gates.open("api")
    door.gates.close("api", fault())
    end.set_result(None)
    await probe
    assert door.gates.seconds_left("api") is not None


@pytest.mark.parametrize("how", ["a fault of another kind", "a defect", "cancelled"])
async def test_a_probe_that_learnt_nothing_lets_the_next_one_try(door: Doorway, how: str) -> None:
    door.gates.close("api", fault())
    end = future()
    probe = door.send("a", end=end)
    next_one = door.send("b")
    await door.clock.let_pass(GATE_SECONDS)
    assert door.inside == ["a"]
    match how:
        case "cancelled":
            probe.cancel()
        case "a defect":
            end.set_exception(ZeroDivisionError())
        case _:
            end.set_exception(fault(gate=None))
    await asyncio.gather(probe, return_exceptions=True)
    await next_one
    assert door.inside == ["a", "b"]
    assert door.gates.seconds_left("api") is None


async def test_a_probe_that_is_cancelled_at_the_second_gate_frees_the_first(door: Doorway) -> None:
    door.gates.close("api", fault())
    door.gates.close("storage", fault(Gate.STORAGE, retry_after=1_000.0))
    probe = door.send("a", "api", "storage")
    await door.clock.let_pass(GATE_SECONDS * 2)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    await asyncio.wait_for(door.send("b", "api"), 5)
    assert door.inside == ["b"]


async def test_a_probe_that_asked_nothing_opens_nothing(door: Doorway) -> None:
    door.gates.close("api", fault())
    await door.clock.let_pass(GATE_SECONDS)
    async with door.gates.through("api") as visit:
        visit.learnt = False
    assert door.gates.seconds_left("api") is not None
    await door.send("b")
    assert door.gates.seconds_left("api") is None


async def test_a_fault_closes_the_gate_that_it_names(door: Doorway) -> None:
    end = future()
    task = door.send("a", "outbox:2", "staging", end=end)
    await settle()
    end.set_exception(fault(Gate.OUTBOX))
    with pytest.raises(Fault):
        await task
    assert [closed.name for closed in door.gates.closed()] == ["outbox:2"]
    assert door.gates.seconds_left("outbox:1") is None, "another folder's outbox is another gate"
    assert door.gates.seconds_left("staging") is None


async def test_a_fault_of_a_gate_that_is_not_ours_closes_nothing(door: Doorway) -> None:
    end = future()
    task = door.send("a", "fetch", end=end)
    await settle()
    end.set_exception(fault(Gate.API))
    with pytest.raises(Fault):
        await task
    assert door.gates.closed() == []


async def test_opening_from_outside_lets_all_go_on(door: Doorway) -> None:
    door.gates.close("api", fault(retry_after=1_000.0))
    tasks = [door.send(name) for name in "abc"]
    await settle()
    door.gates.open("api")
    await asyncio.gather(*tasks)
    assert sorted(door.inside) == ["a", "b", "c"]
    door.gates.open("api")
    door.gates.open("never closed")
    assert door.told() == ["gate_closed", "gate_opened"]


async def test_who_wants_to_know_is_told_when_one_opens(door: Doorway) -> None:
    """Once for each time that it was closed, and when it is open already."""
    heard: list[bool] = []
    door.gates.on_open = lambda: heard.append(door.gates.admits("room:1"))
    door.gates.open("room:1")
    door.gates.close("room:1", fault(Gate.OUTBOX))
    assert heard == []
    door.gates.open("room:1")
    door.gates.open("room:1")
    assert heard == [True]
    door.gates.close("room:1", fault(Gate.OUTBOX))
    await door.clock.let_pass(GATE_SECONDS)
    await door.send("probe", "room:1")
    assert heard == [True, True], "a probe opens it as well"


async def test_a_disk_of_our_own_is_looked_at_again_soon_however_long_it_was_full(door: Doorway) -> None:
    """A look costs nothing, and a person who made room is waiting."""
    for name, gate in (("outbox:1", Gate.OUTBOX), ("room", Gate.STAGING), ("room:1", Gate.OUTBOX)):
        pauses = []
        for _ in range(9):
            door.gates.close(name, fault(gate))
            pauses.append(door.gates.seconds_left(name) or 0.0)
            await door.clock.let_pass(pauses[-1])
        assert pauses[0] == GATE_SECONDS
        assert pauses == sorted(pauses)
        assert pauses[-1] == DISK_SECONDS_MAX


def test_each_folder_has_gates_of_its_own() -> None:
    assert {gate(folder) for gate in (outbox_gate, room_gate) for folder in (1, 2)} == {
        *("outbox:1", "outbox:2", "room:1", "room:2"),
    }
    assert Gate.ROOM == "room", "and one for staging, which is everybody's"


@pytest.mark.parametrize("last", ["outbox:1", "room:1"])
@pytest.mark.parametrize("first", ["outbox:1", "room:1"])
async def test_one_cause_that_closes_two_gates_is_told_once_and_once_more_when_it_is_over(
    door: Doorway, first: str, last: str
) -> None:
    """An outbox that is gone takes no result and has no room for one; whichever opens last says that it is back."""
    for _ in range(2):
        door.log.entries.clear()
        for gate in (first, "outbox:1", "room:1"):
            door.gates.close(gate, fault(Gate.OUTBOX))
        for gate in ({"outbox:1": "room:1", "room:1": "outbox:1"}[last], last):
            door.gates.open(gate)
        loud = [line for line in door.log.entries if line["log_level"] != "debug"]
        assert [(line["event"], line["gate"]) for line in loud] == [("gate_closed", first), ("gate_opened", last)]


@pytest.mark.parametrize(("first", "second"), [("outbox:1", "room:1"), ("room:1", "outbox:1"), ("staging", "room")])
async def test_a_full_disk_is_told_once_however_it_is_met(door: Doorway, first: str, second: str) -> None:
    """One gate says that it is full, the other that it has too little room; that of another disk is another story."""
    door.gates.close(first, fault(Gate.OUTBOX))
    door.gates.close(second, Fault("It has no room.", blame=Blame.HOUSE, gate=Gate.OUTBOX))
    door.gates.close("room:2", Fault("It has no room, either.", blame=Blame.HOUSE, gate=Gate.OUTBOX))
    loud = [line["gate"] for line in door.log.entries if line["log_level"] != "debug"]
    assert loud == [first, "room:2"]
    assert len(door.gates.closed()) == 3
