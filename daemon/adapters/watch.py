"""
Watch: what watchdog sees in an inbox, as hints that shorten the wait; the scan is the truth.

The observer's thread only adds paths to a locked set and wakes the loop once. It never raises into watchdog (an
exception would kill its thread silently), and a set that grows too large is dropped for a scan. A root that was removed
and made again leaves a dead watch behind that claims to be alive: `is_alive` compares the folder itself.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from daemon.rules.faults import Blame, Fault

HINTS_MAX = 20_000
# With these alone nothing was lost in bursts in which opens and attribute changes drowned the rest.
EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]


class InboxWatcher(FileSystemEventHandler):
    """The Watcher port."""

    def __init__(self, root: Path, *, recursive: bool) -> None:
        self._root = os.fsencode(root)
        self._recursive = recursive
        self._lock = threading.Lock()
        self._hints: set[bytes] = set()
        self._overflow = False
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        self._wake: Callable[[], None] = lambda: None

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = Path(os.fsdecode(self._root)).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def begin(self, wake: Callable[[], None]) -> None:
        """Start watching."""
        self._wake = wake
        self._watched = self._identity()
        observer: BaseObserver | None = None
        try:
            observer = Observer()
            observer.schedule(self, os.fsdecode(self._root), recursive=self._recursive, event_filter=EVENTS)
            observer.start()
        except OSError as error:
            if observer is not None:
                # It has a thread and descriptors of its own already; in months of trying again they would pile up.
                observer.stop()
            raise Fault(
                f"{os.fsdecode(self._root)} cannot be watched ({error.strerror}); it is scanned instead.",
                blame=Blame.HOUSE,
                remedy="Raise fs.inotify.max_user_watches and max_user_instances (see `esrgand check`).",
            ) from error
        self._observer = observer

    def dispatch(self, event: FileSystemEvent) -> None:
        """In watchdog's thread: note the path, wake the loop."""
        path = os.fsencode(getattr(event, "dest_path", "") or event.src_path)
        if not path.startswith(self._root + b"/"):
            return
        with self._lock:
            if len(self._hints) >= HINTS_MAX:
                self._overflow = True
                self._hints.clear()
            first = not self._hints
            self._hints.add(path[len(self._root) + 1 :])
        if first:
            try:
                self._wake()
            except RuntimeError:
                pass  # The loop has ended; so has everybody who would listen.

    def take(self) -> tuple[set[bytes], bool]:
        """The hints since the last time, and whether some were lost."""
        with self._lock:
            hints, self._hints = self._hints, set()
            overflow, self._overflow = self._overflow, False
        return hints, overflow

    def is_alive(self) -> bool:
        """Whether it still watches the folder that is there now."""
        observer = self._observer
        return (
            observer is not None
            and observer.is_alive()
            and all(emitter.is_alive() for emitter in observer.emitters)
            and self._watched is not None
            and self._watched == self._identity()
        )

    def end(self) -> None:
        """Stop watching."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join()
