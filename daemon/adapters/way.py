"""
Way: from an inbox to a file in it, folder by folder, and never through a link.

A path is used long after a scan saw it; meanwhile each folder on it may have become a link that leads out of the inbox,
to what nobody meant to upload or to delete. So each folder is opened in the one above it, and a file is met in its
opened folder. The inbox itself may be a link: that is an administrator's.

Raises OSError alone: ENOTDIR or ELOOP where a link, or anything but a folder, is in the way.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

ENTER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# NONBLOCK, so that a pipe that took a file's place does not hold us for ever.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What a path may have in all. Longer ones could be met this way, and by nobody else: not by who writes their results.
PATH_BYTES_MAX = 4095


class Way:
    """Into a folder that is open from now on, whatever takes its name. descriptor: the folder's own."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self.descriptor = os.open(root, ENTER)

    def __enter__(self) -> "Way":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    @contextmanager
    def folder(self, path: bytes, *, to_list: bool = False) -> Iterator[int]:
        """A descriptor of a folder below. to_list: for `os.scandir`; else it is good for names in it alone."""
        if len(self._root) + 1 + len(path) > PATH_BYTES_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        names = [b".", *path.split(b"/")] if path else [b"."]
        inside = os.dup(self.descriptor)
        try:
            for left in range(len(names) - 1, -1, -1):
                flags = LIST if to_list and not left else ENTER
                inner = os.open(names[-1 - left], flags | os.O_NOFOLLOW, dir_fd=inside)
                os.close(inside)
                inside = inner
            yield inside
        finally:
            os.close(inside)

    @contextmanager
    def _above(self, path: bytes) -> Iterator[tuple[bytes, int]]:
        """A file's name, and the folder that it is in."""
        folder, _, name = path.rpartition(b"/")
        with self.folder(folder) as inside:
            yield name, inside

    def status(self, path: bytes) -> os.stat_result:
        """What has this name itself."""
        with self._above(path) as (name, inside):
            return os.stat(name, dir_fd=inside, follow_symlinks=False)

    def open(self, path: bytes) -> int:
        """A file, for reading; whatever else has its name is opened too, but for links."""
        with self._above(path) as (name, inside):
            return os.open(name, READ, dir_fd=inside)

    def unlink(self, path: bytes) -> None:
        """Remove a file."""
        with self._above(path) as (name, inside):
            os.unlink(name, dir_fd=inside)

    @contextmanager
    def named(self, path: bytes) -> Iterator[bytes]:
        """A path to a file that leads through its opened folder, for calls that take no descriptor."""
        with self._above(path) as (name, inside):
            yield b"/proc/self/fd/%d/%s" % (inside, name)
