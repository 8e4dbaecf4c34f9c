"""A ledger that is damaged: whoever meets it says so, and what to do; and no backup of it is called one."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.adapters.database import SCHEMA_VERSION, Database, backup, connect, opened
from daemon.adapters.ledger_desk import find_jobs, summary
from daemon.look import in_words
from daemon.rules.faults import LedgerBroken

PAGE = 4096
PICTURES = 50


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with some pictures that are due, in one file."""
    path = tmp_path / "ledger.db"
    db = connect(path)
    db.execute("INSERT INTO folder VALUES (1, x'2f696e')")
    for n in range(PICTURES):
        job = f"{n:064x}"
        db.execute(
            "INSERT INTO job VALUES (?, 1, ?, ?, 1, 1, 1, 'PNG', 'm', 4.0, 0, '{}', '')", (job, b"%d.png" % n, job)
        )
        db.execute(
            "INSERT INTO tile VALUES (?, 0, 1, ?, 'done', 0.0, 0.0, 6, 0, 0, 1, 0, 1, NULL, NULL, NULL, NULL, 0, NULL, "
            "NULL, NULL, NULL, NULL, NULL, NULL, 0, '', '', '', 0, 0, 1, 1, '', NULL, NULL)",
            (job, n),
        )
        db.execute(
            "INSERT INTO picture (folder, path, size, mtime_ns, inode, job, phase, detected_at) "
            "VALUES (1, ?, 1, 1, ?, ?, 'due', 0.0)",
            (b"%d.png" % n, n, job),
        )
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return path


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def page_of(path: Path, name: str) -> int:
    """Where a table or an index begins."""
    db = sqlite3.connect(path)
    (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    db.close()
    return (int(page) - 1) * PAGE


def empty_index(path: Path) -> None:
    """A page of an index that is whole and has no entries, as from an older day."""
    overwrite(path, page_of(path, "picture_due"), (b"\x0a\0\0\0\0" + PAGE.to_bytes(2, "big")).ljust(PAGE, b"\0"))


def head(path: Path) -> None:
    overwrite(path, 0, os.urandom(100))


def schema(path: Path) -> None:
    overwrite(path, 100, os.urandom(PAGE - 100))


def pages(path: Path) -> None:
    for name in ("tile", "tile_due", "tile_in_turn", "picture", "bill", "bill_time", "picture_job"):
        overwrite(path, page_of(path, name), os.urandom(PAGE))


def is_told(fault: LedgerBroken, path: Path) -> bool:
    return str(path) in fault.said and "is damaged" in fault.said and "Restore the last" in fault.remedy


def test_an_index_that_lost_its_entries_is_found(path: Path) -> None:
    """Nothing else would: what is due is asked of it, and it says that nothing is."""
    empty_index(path)
    with opened(path, read_only=True) as db:
        sql = "SELECT count(*) FROM picture {} WHERE phase = 'due'"
        assert db.execute(sql.format("INDEXED BY picture_due")).fetchone() == (0,)
        assert db.execute(sql.format("NOT INDEXED")).fetchone() == (PICTURES,)
    with pytest.raises(LedgerBroken) as caught:
        connect(path)
    assert is_told(caught.value, path)


@pytest.mark.parametrize("spoil", [head, schema, pages, empty_index])
def test_damage_is_called_damage_on_opening(path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(path)
    with pytest.raises(LedgerBroken) as caught:
        connect(path)
    assert is_told(caught.value, path)


LOOKS: list[Callable[[sqlite3.Connection], Any]] = [
    lambda db: summary(db, 0.0),
    lambda db: find_jobs(db, "/in/1.png"),
    lambda db: db.execute("SELECT * FROM tile").fetchall(),
]


@pytest.mark.parametrize("spoil", [head, schema, pages])
@pytest.mark.parametrize("look", LOOKS, ids=["summary", "find", "rows"])
def test_damage_is_called_damage_by_whoever_looks(
    path: Path, spoil: Callable[[Path], None], look: Callable[[sqlite3.Connection], Any]
) -> None:
    spoil(path)
    with pytest.raises(LedgerBroken) as caught, opened(path, read_only=True) as db:
        look(db)
    assert is_told(caught.value, path)


async def test_damage_is_called_damage_by_a_daemon_that_meets_it(path: Path) -> None:
    database = Database(path)
    await database.open()
    await database.read(lambda db: db.execute("PRAGMA cache_size = 0"))
    pages(path)
    with pytest.raises(LedgerBroken) as caught:
        await database.read(lambda db: summary(db, 0.0))
    assert is_told(caught.value, path)
    with pytest.raises(LedgerBroken) as caught:
        await database.write(lambda db: db.execute("UPDATE tile SET rank = 5"))
    assert is_told(caught.value, path)
    await database.close()


@pytest.mark.parametrize("spoil", [head, schema, pages, empty_index])
def test_no_backup_of_a_damaged_ledger_is_called_one(path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(path)
    target = path.with_name("copy.db")
    with pytest.raises(LedgerBroken) as caught:
        backup(path, target)
    assert is_told(caught.value, path)
    assert {each.name for each in path.parent.glob("*copy*")} == set()


def test_a_backup_is_whole_and_for_its_owner_alone(path: Path) -> None:
    target = path.with_name("copy.db")
    assert backup(path, target) == target.stat().st_size
    assert target.stat().st_mode & 0o777 == 0o600
    with opened(target, read_only=True) as db:
        assert db.execute("SELECT count(*) FROM picture").fetchone() == (PICTURES,)
    with pytest.raises(LedgerBroken, match="File exists"):
        backup(path, target)


def test_those_that_need_a_person_are_counted_where_they_are_too_many_to_list(path: Path) -> None:
    with opened(path) as db:
        db.execute("UPDATE tile SET state = 'held' WHERE rank < 46")
        found = summary(db, 0.0)
    assert (len(found["held"]), found["more"]) == (20, {"held": 26, "failed": 0})
    head = {"version": "0", "running": False, "state_dir": "/state", "problems": []}
    assert in_words("status", head | found).splitlines()[-1] == "held: and 26 more"


def test_a_defect_of_ours_is_not_called_damage(path: Path) -> None:
    with pytest.raises(ValueError, match="ours"), opened(path, read_only=True):
        raise ValueError("ours")


@pytest.mark.parametrize("read_only", [True, False])
def test_a_ledger_that_was_emptied_is_not_a_new_one(path: Path, read_only: bool) -> None:
    path.write_bytes(b"")
    path.with_name("staging").mkdir()
    with pytest.raises(LedgerBroken, match="is empty, and was not") as caught:
        connect(path, read_only=read_only)
    assert "Restore the last" in caught.value.remedy


def test_a_file_without_a_ledger_is_no_newer_one(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").touch()
    with pytest.raises(LedgerBroken, match="nothing of esrgand's") as caught:
        connect(tmp_path / "ledger.db", read_only=True)
    assert "newer" not in caught.value.remedy


class Sick(sqlite3.Connection):
    """Its disk fails when it has to write, and when it has to take that back."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql in ("COMMIT", "ROLLBACK"):
            raise sqlite3.OperationalError(f"disk I/O error ({sql})")
        return super().execute(sql, *parameters)


@pytest.fixture
async def sick(path: Path) -> AsyncIterator[Database]:
    database = Database(path, lambda where: sqlite3.connect(where, isolation_level=None, factory=Sick))
    await database.open()
    yield database
    await database.close()


async def test_whoever_writes_hears_of_a_disk_that_fails_twice(sick: Database) -> None:
    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT OR IGNORE INTO meta VALUES ('x', '')")

    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(sick.write(work), sick.write(work), return_exceptions=True)
        outcomes += await asyncio.gather(sick.write(work), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LedgerBroken] * 3
    assert "COMMIT" in str(outcomes[0]), "the first error is told"


def test_the_schema_here_is_the_one_of_now() -> None:
    assert SCHEMA_VERSION == 2, "the rows above are of its form"
