"""The real ledger on a database in memory, which outlives the daemon: what was committed is durable, and no more."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from simulation.engine import Machine, SimExecutor

from daemon.adapters import database
from daemon.adapters.database import Database

T = TypeVar("T")
EMPTY: list[bytes] = []


def new_database() -> sqlite3.Connection:
    """An empty ledger; the schema is read once, since a simulation makes thousands."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    if not EMPTY:
        schema = Path(database.__file__).with_name("schema.sql").read_text("utf-8")
        connection.executescript(f"{schema}\nPRAGMA user_version = {database.SCHEMA_VERSION};")
        EMPTY.append(connection.serialize())
    else:
        connection.deserialize(EMPTY[0])
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


class SimDatabase(Database):
    """One boot's view of the database. faults: how often a commit fails, 0 to 1."""

    def __init__(self, connection: sqlite3.Connection, machine: Machine) -> None:
        super().__init__(Path("/state/ledger.db"))
        self._pool.shutdown(wait=False)
        self._pool = SimExecutor(machine)  # type: ignore[assignment]
        self._machine = machine
        self._there = connection
        self.faults = 0.0

    async def open(self) -> None:
        self._connection = self._there

    async def close(self) -> None:
        self._connection = None

    def _commit(self, works: list[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
        if self.faults and self._machine.chance.random() < self.faults:
            return [database.broken(self._path, sqlite3.OperationalError("database or disk is full"))] * len(works)
        return super()._commit(works)
