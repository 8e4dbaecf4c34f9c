"""The connection under the ledger: what is asked for stands when it returns, and nobody falls with another."""

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.adapters.database import SCHEMA_VERSION, Database, connect
from daemon.rules.faults import LedgerBroken


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    database = Database(path)
    await database.open()
    yield database
    await database.close()


def add(key: str) -> object:
    return lambda db: db.execute("INSERT INTO meta VALUES (?, '')", (key,))


def keys(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT key FROM meta")}


def keys_on_disk(path: Path) -> set[str]:
    """What another process would see."""
    other = connect(path, read_only=True)
    try:
        return keys(other)
    finally:
        other.close()


async def test_what_is_written_is_durable_when_it_returns(database: Database, path: Path) -> None:
    await database.write(add("x"))
    assert keys_on_disk(path) == {"x"}
    settings = await database.read(
        lambda db: [
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    )
    assert settings == ["wal", 2, 1], "2 is FULL: a commit is on the disk"


async def test_writers_that_come_together_share_a_commit(database: Database, path: Path) -> None:
    commits: list[str] = []
    await database.read(lambda db: db.set_trace_callback(commits.append))
    await asyncio.gather(*(database.write(add(str(number))) for number in range(50)))
    await database.read(lambda db: db.set_trace_callback(None))
    assert keys_on_disk(path) == {str(number) for number in range(50)}
    assert 1 <= commits.count("COMMIT") <= 3
    assert commits.count("BEGIN IMMEDIATE") == commits.count("COMMIT")


async def test_one_that_fails_takes_no_other_along(database: Database, path: Path) -> None:
    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO meta VALUES ('half', '')")
        raise ValueError("a defect")

    outcomes = await asyncio.gather(
        database.write(add("before")), database.write(half), database.write(add("after")), return_exceptions=True
    )
    assert isinstance(outcomes[1], ValueError)
    assert keys_on_disk(path) == {"before", "after"}


async def test_one_that_is_cancelled_takes_no_other_along(database: Database, path: Path) -> None:
    first, second = (asyncio.ensure_future(database.write(add(key))) for key in ("first", "second"))
    await asyncio.sleep(0)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert "second" in keys_on_disk(path)


async def test_a_failure_of_the_database_is_told_to_all_and_changes_nothing(database: Database, path: Path) -> None:
    await database.write(add("x"))
    outcomes = await asyncio.gather(
        database.write(add("y")), database.write(add("x")), database.write(add("z")), return_exceptions=True
    )
    assert all(isinstance(outcome, LedgerBroken) for outcome in outcomes)
    assert keys_on_disk(path) == {"x"}
    await database.write(add("later"))
    assert keys_on_disk(path) == {"x", "later"}


async def test_a_failure_that_nobody_waits_for_any_more_is_not_told_by_the_loop(database: Database) -> None:
    """Whoever is cancelled does not hear of it, and those who are left have told it already."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await database.write(add("x"))
    gone = [asyncio.ensure_future(database.write(add(key))) for key in ("x", "y")]
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    with pytest.raises(LedgerBroken):
        await database.write(add("x"))
    del gone, task
    gc.collect()
    assert complaints == []


async def test_a_full_disk_is_a_broken_ledger(database: Database, path: Path) -> None:
    def fill(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO meta VALUES ('large', ?)", ("x" * 100_000,))

    pages = await database.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await database.read(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 1}").fetchone())
    with pytest.raises(LedgerBroken, match="full") as caught:
        await database.write(fill)
    assert caught.value.remedy
    assert keys_on_disk(path) == set()


async def test_closing_finishes_what_was_asked(path: Path) -> None:
    database = Database(path)
    await database.open()
    writes = [asyncio.ensure_future(database.write(add(str(number)))) for number in range(5)]
    await asyncio.sleep(0)
    await database.close()
    assert all(write.done() for write in writes)
    assert len(keys_on_disk(path)) == 5


# Opening


async def open_and_close(path: Path) -> None:
    database = Database(path)
    try:
        await database.open()
    finally:
        await database.close()


async def broken_on_opening(path: Path) -> LedgerBroken:
    with pytest.raises(LedgerBroken) as caught:
        await open_and_close(path)
    assert str(path) in caught.value.said
    assert caught.value.remedy.endswith(".")
    return caught.value


async def test_a_new_ledger_is_for_its_owner_alone(path: Path) -> None:
    await open_and_close(path)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_newer_ledger_is_left_alone(path: Path) -> None:
    await open_and_close(path)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    fault = await broken_on_opening(path)
    assert f"version {SCHEMA_VERSION + 1}" in fault.said
    assert "newer esrgand" in fault.remedy
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"this is no database, only a text" * 100, b"\0" * 4096, b"x" * 600])
async def test_a_file_that_is_no_database(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    await broken_on_opening(path)
    with pytest.raises(LedgerBroken):
        connect(path, read_only=True)
    assert path.read_bytes() == content


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE job (theirs TEXT)")
    db.close()
    await broken_on_opening(path)
    db = sqlite3.connect(path)
    assert db.execute("SELECT group_concat(name) FROM sqlite_schema").fetchone() == ("job",)
    db.close()


async def test_a_ledger_that_cannot_be_there(tmp_path: Path) -> None:
    await broken_on_opening(tmp_path / "nowhere" / "ledger.db")
    (tmp_path / "folder.db").mkdir()
    await broken_on_opening(tmp_path / "folder.db")


def test_reading_makes_nothing(path: Path) -> None:
    with pytest.raises(LedgerBroken):
        connect(path, read_only=True)
    assert not path.exists()


async def test_a_reader_cannot_write(path: Path) -> None:
    await open_and_close(path)
    reader = connect(path, read_only=True)
    try:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("INSERT INTO meta VALUES ('x', '')")
    finally:
        reader.close()
