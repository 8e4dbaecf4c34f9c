"""
The daemon, killed at a point: `python killable.py POINT once --config FILE` is `esrgand once --config FILE` until then.

A point is `before STEP #N` or `after STEP #N`: the N-th time that a durable step begins or has ended, the process sends
itself SIGKILL. A step is what its next life, or somebody else, can see: a call of the system that makes, moves, syncs
or removes a file; a commit of the ledger; a request that stores, submits, fetches or deletes. It is named by the
daemon's own functions that lead to it; a name may have gaps (`*`). The point `nowhere` is never reached.

Every point that is passed is written to the file that ESRGAND_TRACE names, where it does, a line each, in order.
Nothing in the daemon knows of this: the interpreter tells of every call that it makes (`sys.setprofile`).

Without arguments it is a nursery of such processes, since a start is mostly imports: each line that it reads is a life
({"argv": [...], "env": {...}, "log": FILE}; argv as above, or without a point and then not watched), which is forked,
and each line that it prints is the status of one that is over, negative for a signal.
"""

import dis
import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

import pyvips  # noqa: F401
from aiohttp.client_reqrep import ClientRequest

import daemon

# All that a run needs is imported before it is watched, or every line of every import would be looked at. That goes for
# libvips as well: it begins no thread before it has work, and so it survives the fork.
from daemon import cli, commands  # noqa: F401
from daemon.adapters import database
from daemon.adapters.gcs import GcsStorage
from daemon.adapters.hosted import HostedPredictor
from daemon.adapters.vendor_upload import VendorStorage

PACKAGE = str(Path(daemon.__file__).parent) + os.sep
FRAMES_MAX = 4  # of the daemon's own, in a name
SYSTEM = {getattr(os, name): name for name in ("fsync", "link", "rename", "replace", "unlink", "mkdir", "rmdir")}
SQLITE = {"open", "connect", "execute", "executescript"}
OPENING = (database.connect, database._prepare, database._migrate)
REQUESTS = (
    *(HostedPredictor.create, HostedPredictor.download),
    *(VendorStorage.put, VendorStorage._send, VendorStorage.delete),
    *(GcsStorage.put, GcsStorage.delete),
)
COMMANDS = ("once", "run")
LIFE_SECONDS_MAX = 180  # one that hangs is ended by SIGALRM
Reached = Callable[[str, str], None]


def reaching(point: str, trace: str | None) -> Reached:
    """What to do with a moment ("before" or "after") and a step."""
    wanted, _, number = point.partition(" #")
    last = int(number or 0)
    passed: dict[str, count[int]] = {}
    matched = count(1)
    # Written at once, since the process may end in any way.
    file = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if trace else None

    def reached(moment: str, step: str) -> None:
        name = f"{moment} {step}"
        if file is not None:
            os.write(file, f"{name} #{next(passed.setdefault(name, count(1)))}\n".encode())
        if fnmatchcase(name, wanted) and next(matched) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


class Watch:
    """Tells `reached` of the beginning and the end of every durable step, in whatever thread."""

    def __init__(self, reached: Reached) -> None:
        self.reached = reached
        # By identity: to hash code takes long, and this is asked at every call.
        self.requests = {id(function.__code__) for function in REQUESTS}
        self.opening = {id(function.__code__) for function in OPENING}
        self.writing = id(ClientRequest.write_bytes.__code__)
        self.transaction = id(database.Database._commit.__code__)
        self.commit_line = line_with(database.Database._commit, '"COMMIT"')

    def profile(self) -> Callable[[FrameType, str, Any], None]:
        """The profile function. It is called some 400,000 times in a life: what is of no interest leaves it early."""
        ours, theirs = self.requests | {self.writing}, self.opening | {self.transaction}
        see_ours, see_theirs, system = self.see_ours, self.see_theirs, SYSTEM

        def see(frame: FrameType, event: str, what: Any) -> None:
            if event == "call" or event == "return":
                if id(frame.f_code) in ours:
                    see_ours(frame, event)
            elif what in system or id(frame.f_code) in theirs:
                see_theirs(frame, "before" if event == "c_call" else "after", what)

        return see

    def see_ours(self, frame: FrameType, event: str) -> None:
        """A coroutine is called, and returns, at every pause as well."""
        code = id(frame.f_code)
        if code in self.requests:
            if event == "call" and is_first(frame):
                self.reached("before", way(frame))
            elif event == "return" and is_last(frame):
                self.reached("after", way(frame))
        elif event == "return" and is_last(frame):
            request = frame.f_locals["self"]
            if request.method == "POST" and "/prediction" in request.url.path:
                self.reached("after", "create: sent")

    def see_theirs(self, frame: FrameType, moment: str, what: Any) -> None:
        """A call of the system, or of SQLite."""
        code = id(frame.f_code)
        if what in SYSTEM:
            path = way(frame)
            if path:
                self.reached(moment, f"{path}: {SYSTEM[what]}")
        elif code == self.transaction and frame.f_lineno == self.commit_line:
            for work in frame.f_locals["works"]:
                self.reached(moment, f"commit: {transaction(work)}")
        elif code in self.opening and what.__name__ in SQLITE:
            self.reached(moment, f"{way(frame)}: {what.__name__}")


def way(frame: FrameType | None) -> str:
    """The daemon's own functions that lead to here, the last few; "" where there is none."""
    found: list[str] = []
    while frame is not None and len(found) < FRAMES_MAX:
        if frame.f_code.co_filename.startswith(PACKAGE):
            found.append(frame.f_code.co_qualname.replace(".<locals>", "").removesuffix(".work"))
        frame = frame.f_back
    return " > ".join(reversed(found))


def transaction(work: Any) -> str:
    """What is committed: the method that asked for it, and the event that it records."""
    name: str = work.__qualname__.partition(".<locals>")[0]
    held = dict(zip(work.__code__.co_freevars, work.__closure__ or (), strict=True))
    return f"{name} {held['event'].cell_contents.name}" if "event" in held else name


def is_first(frame: FrameType) -> bool:
    """Whether a coroutine's call is its first, and not the end of a pause."""
    return frame.f_lasti <= offsets(frame.f_code)[0]


def is_last(frame: FrameType) -> bool:
    """Whether a coroutine returns a value, neither pausing nor raising."""
    return frame.f_lasti in offsets(frame.f_code)[1]


def offsets(code: CodeType) -> tuple[int, set[int]]:
    """Where in the bytecode a function begins, and where it returns."""
    instructions = list(dis.get_instructions(code))
    first = next(each.offset for each in instructions if each.opname == "RESUME")
    return first, {each.offset for each in instructions if each.opname in ("RETURN_VALUE", "RETURN_CONST")}


def line_with(function: Callable[..., Any], text: str) -> int:
    """The number of the one line of a function that has the text."""
    lines, start = inspect.getsourcelines(function)
    [found] = [start + number for number, line in enumerate(lines) if text in line]
    return found


def live(argv: list[str]) -> NoReturn:
    """One life of the daemon, watched where a point is given."""
    if argv[0] not in COMMANDS:
        watch = Watch(reaching(argv.pop(0), os.environ.get("ESRGAND_TRACE"))).profile()
        threading.setprofile(watch)
        sys.setprofile(watch)
    cli.main(argv)


def nursery() -> None:
    """Lives, one after another, each in a process of its own."""
    for line in sys.stdin:
        life = json.loads(line)
        child = os.fork()
        if not child:
            signal.alarm(LIFE_SECONDS_MAX)
            log = os.open(life["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for descriptor in (1, 2):
                os.dup2(log, descriptor)
            os.environ |= life["env"]
            live(life["argv"])
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    live(sys.argv[1:]) if sys.argv[1:] else nursery()
