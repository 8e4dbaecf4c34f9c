"""
Look: `status`, `show`, `retry`, `release`, `backup` and `prune` from outside the daemon, and their words for people.

Through the control socket where a daemon runs; else on the ledger itself, read-only for looking, and for steering under
the lock that a daemon would hold. Light on purpose: neither the configuration's checks nor anything that decodes or
uploads pictures is imported.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon import __version__
from daemon.adapters import ledger_desk
from daemon.adapters.clock import SystemClock
from daemon.adapters.control import ask as ask_daemon
from daemon.adapters.database import backup, opened
from daemon.config import read_state_dir
from daemon.rules.faults import Blame, Fault

SUBMITS_MAX = 0  # The configuration is not read here; a release allows one run more than there were.


def ask(config: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request, from the daemon or from the ledger. Raises Fault and ConfigError."""
    state_dir = read_state_dir(config)
    ledger, lock, socket = ledger_desk.state_paths(state_dir)
    answer = ask_daemon(socket, request) if os.path.lexists(state_dir) else None
    if answer is not None:
        return answer
    if not ledger.exists():
        if request["ask"] == "status":
            return {"version": __version__, "running": False, "state_dir": str(state_dir), "problems": [], "jobs": {}}
        raise Fault(f"There is no ledger in {state_dir} yet.", blame=Blame.HOUSE, remedy="Start esrgand first.")
    if request["ask"] == "backup":
        return {"bytes": backup(ledger, Path(request["what"]))}
    if request["ask"] in ("status", "show"):
        with opened(ledger, read_only=True) as db:
            return _see(db, state_dir, request)
    with _held(lock), opened(ledger) as db:
        return _steer(db, request)


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """With the lock that a daemon would hold."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Fault(
            f"{lock} cannot be used ({error.strerror}).",
            blame=Blame.HOUSE,
            remedy="Run this as the user that esrgand runs as.",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Fault(
                "A running esrgand holds the ledger but does not answer.", blame=Blame.HOUSE, remedy="Look at its log."
            ) from error
        yield
    finally:
        os.close(descriptor)


def _see(db: sqlite3.Connection, state_dir: Path, request: dict[str, Any]) -> dict[str, Any]:
    if request["ask"] == "show":
        return {
            "jobs": [ledger_desk.show(db, job) for job in ledger_desk.find_jobs(db, request["what"])],
            "waiting": [],
        }
    head = {"version": __version__, "running": False, "state_dir": str(state_dir), "problems": []}
    return head | ledger_desk.summary(db, SystemClock().wall())


def _steer(db: sqlite3.Connection, request: dict[str, Any]) -> dict[str, Any]:
    now = SystemClock().wall()
    db.execute("BEGIN IMMEDIATE")
    if request["ask"] == "retry":
        jobs = ledger_desk.failed_jobs(db) if request["all"] else ledger_desk.find_jobs(db, request["what"])
        answer: dict[str, Any] = {
            "retried": [ledger_desk.retried(picture) for picture in ledger_desk.retry(db, jobs, now)]
        }
    elif request["ask"] == "prune":
        answer = {"lines": ledger_desk.prune(db, int(request["what"]), now)}
    else:
        jobs = ledger_desk.held_jobs(db) if request["all"] else ledger_desk.find_jobs(db, request["what"])
        answer = {"released": ledger_desk.release(db, jobs, now, SUBMITS_MAX)}
    db.execute("COMMIT")
    return answer


def in_words(command: str, answer: dict[str, Any]) -> str:
    """An answer for people."""
    if command == "retry":
        return _list("Looked at again when esrgand scans next", answer["retried"], "Nothing that failed was found.")
    if command == "release":
        return _list("Released", answer["released"], "Nothing that is held was found.")
    if command == "backup":
        return f"The ledger is copied, {answer['bytes']} bytes."
    if command == "prune":
        return f"{answer['lines']} lines of history are forgotten."
    return "\n".join(_status(answer))


def nothing(command: str, answer: dict[str, Any]) -> str:
    """What to say where one picture was named and nothing was found to do; ends before the name. Else ""."""
    if command == "retry" and not answer["retried"]:
        return "nothing that failed is known"
    return "nothing that is held is known" if command == "release" and not answer["released"] else ""


def _list(title: str, things: list[str], nothing: str) -> str:
    return "\n".join([f"{title}:", *(f"  {thing}" for thing in things)]) if things else nothing


def _status(answer: dict[str, Any]) -> list[str]:
    running = "running" if answer["running"] else "not running"
    lines = [f"esrgand {answer['version']}, {running}, state in {answer['state_dir']}"]
    if answer.get("engine"):
        lines.append(f"engine: {answer['engine']}")
    jobs = answer["jobs"]
    if jobs:
        waiting = jobs["admitted"] + jobs["uploaded"]
        flying = jobs["submitting"] + jobs["submitted"]
        lines.append(
            f"{waiting} waiting, {flying} in flight, {jobs['ready'] + jobs['fetched']} coming, "
            f"{jobs['done']} done, {jobs['failed']} failed, {jobs['held']} held"
        )
        spent = answer["spent"]
        lines.append(f"spent: {spent['day_usd']:.4f} USD today, {spent['month_usd']:.4f} USD this month (UTC)")
    lines += [f"! {problem}" for problem in answer["problems"]]
    for folder in answer.get("folders", []):
        lines.append(f"{folder['inbox']} -> {folder['outbox']}: {folder['files']} files, {folder['settling']} settling")
        lines += [f"  not ready: {each['picture']}: {each['reason']}" for each in folder["waiting"]]
    for kind in ("held", "failed"):
        for each in answer.get(kind, []):
            until = f" Until {each['until']}." if "until" in each else ""
            lines.append(
                f"{kind}: {each['picture']} ({each['job']}): {each['reason']}{until} {each['remedy']}".rstrip()
            )
        if more := answer.get("more", {}).get(kind, 0):
            lines.append(f"{kind}: and {more} more")
    return lines
