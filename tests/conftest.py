"""What every test may use."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fakes.clock import FakeClock  # noqa: E402  (the path comes first)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
