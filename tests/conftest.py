"""What every test may use."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

sys.path.insert(0, str(Path(__file__).parent))

from fakes.clock import FakeClock

# What takes longest comes first, so that it is not what everybody waits for at the end. Those of one line take turns:
# tests of real processes mostly wait, and the simulation computes meanwhile.
ORDER = (
    ("e2e/test_hostile.py",),
    ("e2e/test_journey.py",),
    ("e2e/test_kills.py",),
    ("e2e/", "simulation/"),
    ("",),
)
WORKERS_ENOUGH = 8  # for what waits; each costs five seconds to collect the tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order of each file stays as it is."""
    groups = [(n, f"tests/{start}") for n, starts in enumerate(ORDER) for start in starts]
    last = (len(ORDER), "")
    found = {item: next((each for each in groups if item.nodeid.startswith(each[1])), last) for item in items}
    sizes, seen = Counter(found.values()), Counter[tuple[int, str]]()

    def place(item: pytest.Item) -> tuple[int, float]:
        group = found[item]
        seen[group] += 1
        return group[0], seen[group] / sizes[group]

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """`-n auto`: two for each core where cores are few, since tests of real processes wait for most of their time."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0))
    return max(cores, min(2 * cores, WORKERS_ENOUGH))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key file of a service account that never was, for signing alone."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    file = tmp_path_factory.mktemp("account") / "account.json"
    file.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "nowhere",
                "private_key_id": "1",
                "private_key": pem,
                "client_email": "esrgand@nowhere.iam.gserviceaccount.com",
                "client_id": "1",
                "token_uri": "https://oauth2.googleapis.com/token",
            }
        )
    )
    return file
