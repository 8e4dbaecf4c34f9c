"""What every end-to-end test leaves behind: nothing that runs."""

import signal
from collections.abc import Iterator

import pytest
from e2e.world import STARTED


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """A test that fails half-way has not ended its processes."""
    before = len(STARTED)
    yield
    for process in STARTED[before:]:
        if process.process.poll() is None:
            process.end(signal.SIGKILL)
    del STARTED[before:]
