"""The shape of the code: sizes, first words, calls that have a better place. Imports are import-linter's business."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DAEMON = ROOT / "daemon"
FILES = sorted(path for path in DAEMON.rglob("*.py") if path.name != "__init__.py")
TESTS = sorted((ROOT / "tests").rglob("*.py"))

LINES_MIN, LINES_MAX = 50, 350
# A file is a whole thought; one that is shorter says here why it stands alone.
SHORT = {
    "world.py": "two bundles that everything else is handed",
    "drift.py": "one rule about the wall clock",
    "exits.py": "an enum that the unit file repeats",
    "adapters/clock.py": "the one place that reads time, so nothing else may live there",
    "pipeline/poll.py": "a stage asks the world once",
    "pipeline/fetch.py": "a stage asks the world once",
}

CLOCK = "the Clock port"
# What is banned, and what to use instead. A name that starts with a dot is not imported; one that ends in a dot or an
# underscore covers all that begins like it.
BANNED = {
    "time.": f"{CLOCK}: wall, monotonic or sleep",
    "datetime.datetime.now": f"{CLOCK}: wall",
    "datetime.datetime.utcnow": f"{CLOCK}: wall",
    "datetime.datetime.today": f"{CLOCK}: wall",
    "datetime.date.today": f"{CLOCK}: wall",
    "random.": f"{CLOCK}: dice",
    "uuid.uuid1": f"{CLOCK}: token",
    "uuid.uuid4": f"{CLOCK}: token",
    "secrets.token_": f"{CLOCK}: token",
    "secrets.choice": f"{CLOCK}: token",
    "os.urandom": f"{CLOCK}: token",
    "asyncio.sleep": f"{CLOCK}: sleep or wait",
    ".print": "the log, or the CLI's own output",
    "logging.getLogger": "structlog.get_logger",
    "os.fork": "nothing: the bucket's client does not survive it",
}
ALLOWED = {
    "adapters/clock.py": {"time.", "random.", "secrets.token_", "asyncio.sleep"},
    "adapters/log.py": {"logging.getLogger"},
}
# What a person typed a command for is printed.
COMMANDS = {"cli.py", "commands.py", "check.py", "demo.py", "estimate.py", "models.py"}
BANNED_IN_TESTS = {
    "time.sleep": "FakeClock, or waiting for the event itself",
    "asyncio.sleep": "asyncio.sleep(0), FakeClock, or waiting for the event itself",
    "unittest.mock": "a fake in tests/fakes",
    ".monkeypatch.setattr": "a fake, or an argument",
    ".monkeypatch.setitem": "a fake, or an argument",
    ".mocker.": "a fake in tests/fakes",
}


def names(tree: ast.AST) -> Iterator[tuple[int, str, ast.AST]]:
    """Every dotted name that a file uses, with its line; as its imports spell it out, or with a dot in front."""
    meaning: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            meaning |= {alias.asname: alias.name for alias in node.names if alias.asname}
            meaning |= {top: top for alias in node.names if not alias.asname for top in [alias.name.split(".")[0]]}
            yield from ((node.lineno, alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            meaning |= {(alias.asname or alias.name): f"{node.module}.{alias.name}" for alias in node.names}
            yield from ((node.lineno, f"{node.module}.{alias.name}", node) for alias in node.names)
    # A call stands for the name that it calls, so that its arguments can be looked at.
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, dot, rest = ast.unparse(node).partition(".")
            yield node.lineno, meaning.get(first, f".{first}") + dot + rest, called.get(id(node), node)


def is_sleep_of_nothing(name: str, node: ast.AST) -> bool:
    """asyncio.sleep(0) lets others run and waits for nothing; importing it is no use of it."""
    if name != "asyncio.sleep" or not isinstance(node, ast.Call):
        return False
    return len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0


def offences(text: str, banned: dict[str, str]) -> list[str]:
    found = [
        f"line {line}: {name.lstrip('.')}; use {instead}"
        for line, name, node in names(ast.parse(text))
        for ban, instead in banned.items()
        if (name.startswith(ban) if ban[-1] in "._" else name == ban or name.startswith(ban + "."))
        if not is_sleep_of_nothing(name, node)
    ]
    return sorted(set(found))


def relative(path: Path) -> str:
    return path.relative_to(DAEMON).as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_is_a_whole_thought(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LINES_MAX, "too long to hold in the head: split it"
    assert lines >= LINES_MIN or relative(path) in SHORT, "too short to stand alone: join it, or name it in SHORT"


def test_only_short_files_are_named_as_short() -> None:
    assert [name for name in SHORT if len((DAEMON / name).read_text().splitlines()) >= LINES_MIN] == []


@pytest.mark.parametrize("path", sorted(DAEMON.rglob("*.py")), ids=relative)
def test_a_file_opens_with_what_it_promises(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_calls_with_a_better_place_are_made_there(path: Path) -> None:
    allowed = ALLOWED.get(relative(path), set()) | ({".print"} if relative(path) in COMMANDS else set())
    assert offences(path.read_text(), {ban: use for ban, use in BANNED.items() if ban not in allowed}) == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_tests_neither_sleep_nor_patch(path: Path) -> None:
    assert offences(path.read_text(), BANNED_IN_TESTS) == []


@pytest.mark.parametrize(
    "text",
    [
        "import time\ntime.sleep(1)",
        "from time import monotonic",
        "import time as t\nt.time()",
        "import datetime\ndatetime.datetime.now(datetime.UTC)",
        "from datetime import datetime as d\nd.now()",
        "import random\nx = random.random",
        "import asyncio\nasyncio.sleep(1)",
        "import asyncio\nasyncio.sleep(x)",
        "import asyncio\nmap(asyncio.sleep, x)",
        "from secrets import token_hex",
        "print('x')",
    ],
)
def test_what_is_banned_is_found(text: str) -> None:
    assert offences(text, BANNED)


@pytest.mark.parametrize(
    "text",
    [
        "import time\ntime.sleep(1)",
        "from unittest import mock",
        "import unittest.mock",
        "monkeypatch.setattr(a, 'b', c)",
    ],
)
def test_what_is_banned_in_tests_is_found(text: str) -> None:
    assert offences(text, BANNED_IN_TESTS)


@pytest.mark.parametrize(
    "text",
    ["import asyncio\nasyncio.sleep(0)", "clock.sleep(1)", "time = 1\ntime.real", "self.print()", "import timeit"],
)
def test_what_is_fine_is_left_alone(text: str) -> None:
    assert offences(text, BANNED) == []
