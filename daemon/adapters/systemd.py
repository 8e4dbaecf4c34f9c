"""
The service manager: telling systemd how we are (the sd_notify protocol), where there is one.

Without NOTIFY_SOCKET every call does nothing. A message that cannot be sent is dropped: the service manager draws its
own conclusions from silence, and no picture should wait for it. Nothing here raises.
"""

import os
import socket
from collections.abc import Callable, Mapping

from daemon.adapters.clock import SystemClock

SYSTEM_CLOCK = SystemClock()
STATUS_LENGTH_MAX = 500


class Notifier:
    """Messages to the service manager that started us."""

    def __init__(self, environ: Mapping[str, str], monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._monotonic = monotonic
        self.watchdog_seconds = _watchdog_seconds(environ)

    def ready(self, status: str = "") -> None:
        """Started, or done with reloading."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(*_status(text))

    def watchdog(self) -> None:
        """Still making progress; due at least every `watchdog_seconds`, better twice as often."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Reading the configuration again; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._monotonic() * 1_000_000)}")

    def stopping(self) -> None:
        """On the way out."""
        self._send("STOPPING=1")

    def _send(self, *lines: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        # An abstract socket is written with @ in the environment and starts with a zero byte in the kernel.
        address = os.fsencode(self._address)
        if address.startswith(b"@"):
            address = b"\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as line:
                line.sendto("\n".join(lines).encode(errors="backslashreplace"), address)
        except OSError:
            pass


def _status(text: str) -> list[str]:
    """A status of one line: a second line would be read as another message."""
    one_line = " ".join(text.split())
    return [f"STATUS={one_line[:STATUS_LENGTH_MAX]}"] if one_line else []


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """How often the service manager wants to hear of us, in seconds; None where it does not watch this process."""
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
        watched = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return microseconds / 1_000_000 if microseconds > 0 and watched == os.getpid() else None
