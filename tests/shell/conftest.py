"""A house that most tests of the shell need."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from shell_kit import House, house


@pytest.fixture
async def at_work(tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    """Of one folder."""
    async with house(tmp_path, clock) as at_work:
        yield at_work
