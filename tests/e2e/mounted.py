"""
A mount namespace of a test's own, in which real small file systems come, fill up, turn read-only and go.

Whoever is root gets one as it is, everybody else together with a user namespace. A process of ours holds it (this file,
run inside) and mounts on demand, by the system calls themselves; it ends when its standard input does, and its mounts
with it. A daemon enters it when it starts. What a test looks at in there, it reads through the holder's `/proc` entry.
"""

import ctypes
import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ != "__main__":
    from e2e.world import DAEMON, SECONDS_MAX, STARTED, Daemon, Process

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE = 1, 32, 4096, 8192
TRIES_MAX = 100_000
FILLER = "filler"
ROOT = ["unshare", "--mount"]
NOT_ROOT = ["unshare", "--user", "--map-root-user", "--mount"]
REFUSED = (
    "These tests mount file systems, in a namespace of their own, and may not: run them as root, or allow user "
    "namespaces (user.max_user_namespaces; on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0). "
)


class Space:
    """The namespace. Disks lie below `disks`, where nobody but the test looks; a bind mount plugs one in."""

    def __init__(self, folder: Path) -> None:
        self.disks = folder / "disks"
        self.disks.mkdir()
        said = []
        for command in (ROOT, NOT_ROOT):
            self.holder = Process([*command, sys.executable, "-I", __file__])
            self.enter = ["nsenter", "--target", str(self.holder.process.pid), "--mount"]
            if command is NOT_ROOT:
                self.enter += ["--user", "--preserve-credentials"]
            try:
                self.make("trial", "64k")
                self._ask("umount", str(self.disks / "trial"))
            except (AssertionError, OSError) as error:
                said.append(f"{' '.join(command)}: {error}")
                self.end()
            else:
                return
        raise AssertionError(REFUSED + " ".join(said))

    def _ask(self, *call: Any) -> None:
        """Have the holder do it; raises AssertionError where it could not."""
        assert self.holder.process.stdin is not None
        before = len(self.holder.lines)
        self.holder.process.stdin.write(json.dumps(call) + "\n")
        self.holder.process.stdin.flush()
        self.holder.expect(lambda _: len(self.holder.lines) > before, f"answer to {call}")
        assert self.holder.lines[before] == "done", f"{call}: {self.holder.lines[before]}"

    def make(self, name: str, size: str) -> None:
        """A new disk. size: as tmpfs has it, like 4m; 0 is without a limit."""
        (self.disks / name).mkdir(exist_ok=True)
        self._ask("mount", f"disk-{name}", str(self.disks / name), "tmpfs", 0, f"size={size},mode=755")

    def make_another(self, name: str, like: str, size: str = "4m") -> None:
        """One more disk that the system calls by the same name as another one."""
        (self.disks / name).mkdir()
        self._ask("mount", f"disk-{like}", str(self.disks / name), "tmpfs", 0, f"size={size},mode=755")

    def plug(self, name: str, point: Path) -> None:
        """Mount a disk."""
        self._ask("mount", str(self.disks / name), str(point), None, MS_BIND, None)

    def unplug(self, point: Path) -> None:
        """Unmount it; what is on it stays. Waits for a moment in which nobody has it open."""
        self._ask("umount", str(point))

    def set_read_only(self, point: Path, *, on: bool) -> None:
        """As `mount -o remount,ro` and `remount,rw`."""
        self._ask("mount", None, str(point), None, MS_REMOUNT | MS_BIND | (MS_RDONLY if on else 0), None)

    def inside(self, path: Path) -> Path:
        """The same place as it is seen in the namespace, for a look from outside."""
        return Path(f"/proc/{self.holder.process.pid}/root{path}")

    def fill(self, place: Path, left: int = 0) -> Path:
        """Fill up the disk that a place is on, but for so many bytes; returns the file that does it."""
        filler = self.inside(place) / FILLER
        with filler.open("wb", buffering=0) as file:
            written = 1
            while written:
                try:
                    written = file.write(bytes(64 << 10))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    written = 0
            file.truncate(max(0, file.tell() - left))
        return filler

    def daemon(self, config: Path, command: str = "run", *options: str, env: dict[str, str] | None = None) -> "Daemon":
        """A daemon that lives in here."""
        daemon = Daemon.__new__(Daemon)
        Process.__init__(daemon, [*self.enter, "--", *DAEMON, command, "--config", str(config), *options], env)
        return daemon

    def esrgand(self, config: Path, *arguments: str, status: int = 0) -> str:
        """A command that is typed in here; what it printed."""
        command, *rest = arguments
        done = subprocess.run(
            [*self.enter, "--", *DAEMON, command, "--config", str(config), *rest],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_MAX,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def end(self) -> None:
        """Let go of it; the last process in it takes its mounts along."""
        assert self.holder.process.stdin is not None
        try:
            self.holder.process.stdin.close()
        except BrokenPipeError:
            pass
        self.holder.wait()
        STARTED.remove(self.holder)


def hold() -> None:
    """Inside: one call a line, as JSON, one answer each."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: Any) -> int:
        encoded = [os.fsencode(each) if isinstance(each, str) else each for each in arguments]
        encoded = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in encoded]
        return 0 if libc[name](*encoded) == 0 else ctypes.get_errno()

    def serve(what: str, arguments: Sequence[Any]) -> int:
        if what == "mount":
            return call("mount", *arguments)
        for _ in range(TRIES_MAX):
            error = call("umount2", *arguments, 0)
            if error != errno.EBUSY:
                break
            os.sched_yield()
        return error

    for line in sys.stdin:
        what, *arguments = json.loads(line)
        error = serve(what, arguments)
        print(os.strerror(error) if error else "done", flush=True)


if __name__ == "__main__":
    hold()
