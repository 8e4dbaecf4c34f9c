"""A ledger that an older version made: it goes on where that one stopped, and is shown before it is changed."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.facts import BILL, bring, settled, sha

from daemon.adapters import ledger_desk
from daemon.adapters.database import SCHEMA_VERSION, backup, connect, opened
from daemon.adapters.ledger import SqliteLedger
from daemon.rules.admission import Decision
from daemon.rules.job import Bill, Look, Tile
from daemon.rules.lifecycle import Event, Released, Retried, State
from daemon.rules.sidecar import ResultFacts
from daemon.rules.tiles import Rect

OLD = Path(__file__).with_name("ledger_1.sql").read_text()  # one job in every state, each of 3 x 2 pixels
TABLES = ("folder", "job", "tile", "picture", "bill", "asset", "history", "meta")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(OLD)
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    return path


@pytest.fixture
async def ledger(old: Path, clock: FakeClock) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(old, clock)
    await ledger.open()
    yield ledger
    await ledger.close()


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    db.close()
    return found


def forms(db: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Every column of every table, in order."""
    return {table: db.execute(f"PRAGMA table_info({table})").fetchall() for table in TABLES}


async def test_it_gets_the_form_of_a_new_one(ledger: SqliteLedger, tmp_path: Path) -> None:
    new = connect(tmp_path / "new.db")
    expected = forms(new)
    new.close()
    assert await ledger.read(forms) == expected


@pytest.mark.parametrize("state", State)
async def test_each_job_is_one_tile_that_is_all_of_it(ledger: SqliteLedger, state: State) -> None:
    [job] = await ledger.jobs_in(state)
    [tile] = (await ledger.whole(job)).tiles
    assert (tile.rect, tile.is_whole, tile.state) == (Rect(0, 0, 3, 2), True, state)
    assert (tile.job.traits, tile.job.note, tile.likeness) == (None, "", "")
    assert tile.job.path == f"{state}.png".encode()


@pytest.mark.parametrize("state", State)
async def test_each_job_goes_on(ledger: SqliteLedger, state: State) -> None:
    """To its end; and what was paid for stays paid for once."""

    async def record(tile: Tile, event: Event, *, bill: Bill | None = None) -> Tile:
        return await ledger.record(tile, event, 3_000.0, bill=bill)

    [job] = await ledger.jobs_in(state)
    tile = await ledger.tile((job, 0))
    if state is State.FAILED:
        tile = await record(tile, Retried())
    elif state is State.HELD:
        tile = await record(tile, Released(1, by_person=True))
    if state is State.DONE:
        decision = await ledger.admit(settled(b"copy.png", b"done.png"), "oldest", True, None, 3_000.0)
        assert decision is Decision.JOIN
    else:
        await bring(record, tile, State.FETCHED, now=3_000.0, result=b"x")
    [(picture, whole)] = [each for each in await ledger.deliveries.due([1], 99, []) if each[0].job == job]
    result = ResultFacts(b"x.png", sha(b"x"), 1, 6, 4, "PNG")
    assert await ledger.deliveries.claim(picture, b"/out", b"x.png")
    await ledger.deliveries.delivered(picture, whole, result, 3_000.0, reused=False)
    assert (await ledger.tile((job, 0))).state is State.DONE
    assert await ledger.books.bill(job) == BILL


async def test_what_failed_for_its_size_may_be_cut_now(ledger: SqliteLedger) -> None:
    [job] = await ledger.jobs_in(State.FAILED)
    again = settled(b"failed.png", b"failed.png", look=Look(1, 2, 3), tiles=(Rect(0, 0, 2, 2), Rect(1, 0, 2, 2)))
    assert await ledger.admit(again, "oldest", True, None, 3_000.0) is Decision.RETRY
    assert [tile.rect for tile in (await ledger.whole(job)).tiles] == list(again.tiles)


def test_it_can_be_looked_at_before_it_is_changed(old: Path) -> None:
    before = old.read_bytes()
    with opened(old, read_only=True) as db:
        summary = ledger_desk.summary(db, 3_000.0)
        assert summary["jobs"] == dict.fromkeys(State, 1)
        [job] = ledger_desk.find_jobs(db, "/in/1/ready.png")
        assert ledger_desk.show(db, job)["state"] == "ready"
    assert (old.read_bytes(), version(old)) == (before, 1)


def test_its_backup_is_the_way_back(old: Path, tmp_path: Path) -> None:
    backup(old, tmp_path / "backup.db")
    assert version(tmp_path / "backup.db") == 1
    connect(old).close()
    assert version(old) == SCHEMA_VERSION


def test_a_migration_that_fails_changes_nothing(old: Path) -> None:
    db = sqlite3.connect(old)
    db.execute("ALTER TABLE tile ADD COLUMN likeness TEXT")
    db.commit()
    db.close()
    with pytest.raises(Exception, match="likeness"):
        connect(old)
    db = sqlite3.connect(old)
    assert version(old) == 1
    assert "traits" not in [row[1] for row in db.execute("PRAGMA table_info(job)")]
    db.close()
