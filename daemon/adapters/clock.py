"""
Clock: the real time and the real dice, in the one place where they are read.

Never fails. `time.monotonic` does not count suspended time on Linux: a laptop that slept finds its pauses where it left
them, which is right for settling (nobody looked at the file meanwhile).
"""

import asyncio
import random
import secrets
import time


class SystemClock:
    """The Clock port on this machine."""

    def wall(self) -> float:
        """Seconds since 1970 in UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def dice(self) -> float:
        """A random number in [0, 1)."""
        return random.random()

    def token(self, bytes_: int) -> str:
        """An unguessable hex string."""
        return secrets.token_hex(bytes_)

    async def sleep(self, seconds: float) -> None:
        """Let others run for that long."""
        await asyncio.sleep(max(0.0, seconds))  # the one place that may: everybody else has this clock handed in

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait for the event, at most that long."""
        if event.is_set():
            return True
        try:
            async with asyncio.timeout(None if seconds is None else max(0.0, seconds)):
                await event.wait()
        except TimeoutError:
            return False
        return True
