"""Configurations that are nearly right, or nothing at all: a Config that works, or complaints in plain words."""

import itertools
import json
import os
import re
import tomllib
from collections.abc import Callable
from datetime import date, time
from functools import partial
from pathlib import Path
from typing import Any

from fuzz_kit import SIGNATURE, assert_plain, fuzz, hostile_text, quiet
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import ConfigError, load, parse, read_secret, read_state_dir
from daemon.config_model import SECTIONS, Config
from daemon.rules.names import NAME_BYTES_MAX, Selection, result_candidates

pytestmark = quiet

BASE = Path("/etc/esrgand")
EXAMPLE = (Path(__file__).parents[2] / "config.example.toml").read_text("utf-8")
SECRET = "hunter2-hunter2"


class Raw(str):
    """What stands in a configuration as it is."""


LONG = [Raw("0x" + "f" * 5000), Raw("9" * 5000), Raw("[" * 20 + "]" * 20), Raw("18446744073709551616")]
PYTHONS = re.compile(r"Error|Traceback|recursion|sys\.|pydantic|NoneType|instance of|\bdict\b|\btuple\b")
NAMES = sorted({key for model in SECTIONS.values() for key in model.model_fields})
PIPED = (
    "|/|/srv/in|/srv/in/sub|in|~|~nobody-has-this-name|..|auto|keep|archive|move|gcs|vendor|public|embedded|https://h"
    "|http://h|https://[::1|https:///x|//[|127.0.0.1:80|[::1]:0|0.0.0.0:80|a..b:80|[x]:1|\0:1|a b:1|é:1|:::1|1:|*.jpg"
    "|[!|[z-a]|**|?|{stem}|{stem}_{scale}|{{{stem}}}|{stem|{stem!r}|{stem:>9}|{0}|{{stem}}|{stem}{size}|..{stem}|\n{stem}"
)
TEXTS = PIPED.split("|")
texts = st.sampled_from(TEXTS) | hostile_text.map(
    lambda text: text.encode("utf-8", "replace").decode().replace(SIGNATURE, "a signature")
)
plain = st.one_of(
    texts,
    texts,
    st.booleans(),
    st.integers(-1, 20),
    st.floats(),
    st.sampled_from([2**63 - 1, 1e-320, 10.0, 1e9, *LONG]),
    st.dates().filter(lambda day: day.year > 0),
    st.times(),
)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2), max_leaves=4
)


# A key of the example, or one that is in the wrong place, or a whole section.
places = st.one_of(
    st.sampled_from([(section, key) for section, model in SECTIONS.items() for key in model.model_fields]),
    st.tuples(st.sampled_from(sorted(SECTIONS)), st.sampled_from(NAMES) | texts),
    st.tuples(st.sampled_from(["state_dir", "folder", "api", "http", "stray"]), st.none()),
)
lists = st.lists(texts, max_size=3)
fitting = st.one_of(
    st.tuples(
        st.sampled_from([("folder", "failed"), ("api", "key_file"), ("state_dir", None)]),
        st.sampled_from(["~nobody-has-this-name", "~", "a\0b", " ", "..", "/" + "x" * 5000]),
    ),
    st.tuples(st.just(("http", "listen")), st.sampled_from([text for text in TEXTS if ":" in text])),
    st.tuples(st.just(("folder", "name")), st.sampled_from([text for text in TEXTS if "{" in text])),
    st.tuples(st.sampled_from([("folder", "include"), ("folder", "exclude")]), lists),
    st.tuples(st.sampled_from([("folder", "scale"), ("api", "poll_seconds_min")]), st.floats(0, 11)),
)
edits = st.lists(fitting | st.tuples(places, plain | lists | anything), max_size=4)


def edited(edits: list[tuple[tuple[str, str | None], object]], inboxes: list[str]) -> dict[str, object]:
    """The example with a folder for each inbox, and some values set."""
    configuration: dict[str, Any] = tomllib.loads(EXAMPLE)
    configuration["folder"] = [configuration["folder"][0] | {"inbox": inbox} for inbox in inboxes]
    configuration["http"]["token_file"] = "token"
    for (section, key), value in edits:
        if key is None:
            configuration[section] = value
            continue
        within = configuration[section]
        within = within[-1] if section == "folder" and isinstance(within, list) and within else within
        if isinstance(within, dict):
            within[key] = value
    return configuration


configurations = st.builds(
    edited,
    edits | fitting.map(lambda edit: [edit]),
    st.lists(st.sampled_from(["/srv/in", "/srv/in/sub", "in"]), min_size=1, max_size=2, unique=True),
)


def toml(value: object) -> str:
    """A value as TOML writes it, tables in one line."""
    match value:
        case bool():
            return str(value).lower()
        case Raw():
            return value
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case dict():
            return "{" + ", ".join(f"{toml(key)} = {toml(each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case date() | time():
            return value.isoformat()
    return str(value)


def written(configuration: dict[str, object]) -> str:
    return "".join(f"{toml(key)} = {toml(value)}\n" for key, value in configuration.items())


def outcome(read: Callable[[], object]) -> object:
    """What was read, or what is wrong with it; anything else fails the test."""
    try:
        return read()
    except ConfigError as error:
        return error


def assert_told(error: ConfigError, keys: set[str]) -> None:
    """Each complaint is one sentence that begins with a key, or is about the whole text."""
    assert error.complaints
    for complaint in error.complaints:
        assert_plain(complaint, 1100)
        assert complaint.endswith((".", "?", "…")), complaint
        first = re.match(r'[A-Za-z0-9_-]+|"', complaint)
        assert first, complaint
        assert first[0] in keys | {'"', "The"}, complaint
        assert not PYTHONS.search(complaint), complaint


def assert_works(config: Config) -> None:
    """What it was made for can be made of it."""
    assert config.state_dir.is_absolute()
    for folder in config.folders:
        assert folder.inbox.is_absolute()
        assert folder.outbox.is_absolute()
        Selection(folder.include, folder.exclude).takes(b"a.jpg")
        for path in itertools.islice(result_candidates(b"trip/a.jpg", folder.name, folder.recipe, b".png"), 3):
            folder_name, _, name = path.rpartition(b"/")
            assert folder_name == b"trip"
            assert not name.startswith(b".")
            assert len(name) <= NAME_BYTES_MAX
        assert folder.quiet(on_network=True) > 0
    if config.http.address is not None:
        host, port = config.http.address
        assert host.encode("idna")
        assert 0 <= port < 65_536


@fuzz(3)
@given(configurations)
def test_nearly_right_is_right_or_told(configuration: dict[str, object]) -> None:
    text = written(configuration)
    found = outcome(partial(parse, text, BASE))
    if isinstance(found, ConfigError):
        assert_told(found, set(configuration) | set(SECTIONS) | {"state_dir"})
    else:
        assert isinstance(found, Config)
        assert_works(found)
        assert parse(text, BASE) == found


@fuzz(2)
@given(
    st.integers(0, len(EXAMPLE)),
    st.integers(0, 60),
    st.one_of(
        texts, st.sampled_from(["[", "[" * 400, "=", "\\", '"""', ".".join("a" * 3000), "9" * 5000, "[[api]]\n"])
    ),
    st.booleans(),
)
def test_a_slip_in_the_example_is_told(tmp_path: Path, at: int, removed: int, put: str, in_line: bool) -> None:
    text = EXAMPLE[:at] + ("" if in_line else "\n") + put + EXAMPLE[at + removed :]
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode())
    for read in (load, read_state_dir):
        found = outcome(partial(read, path))
        for complaint in found.complaints if isinstance(found, ConfigError) else []:
            assert_plain(complaint, 1100)
            assert not PYTHONS.search(complaint), complaint


MONSTERS = [*LONG, Raw("-" + "9" * 5000), Raw('"' + "x" * 90_000 + '"'), Raw("{a" + ".a" * 2000 + " = 1}"), Raw("-0x1")]


@fuzz()
@given(places, st.sampled_from(MONSTERS), st.booleans())
def test_a_monster_is_told_in_short(place: tuple[str, str | None], monster: Raw, in_list: bool) -> None:
    configuration = edited([(place, [monster] if in_list else monster)], ["/srv/in"])
    found = outcome(partial(parse, written(configuration), BASE))
    if isinstance(found, ConfigError):
        assert_told(found, set(configuration))


PRIVATE = ["api.auth", "api.key_file", "http.token_file", "webhook.secret_file", "storage.credentials_file"]
PLACES = [*PRIVATE, "api", "http", "webhook", "storage", "api.key", "api.base_url", "storage.public_base_url"]
urls = st.sampled_from(
    ["https://me:{}@h/v1", "https:/me:{}@h/v1", "me:{}@h", "https://h/v1?key={}", "https://h/#{}", "//{}@["]
)


@fuzz()
@given(st.sampled_from(PLACES), urls, st.sampled_from([str, list, dict]), st.booleans())
def test_what_could_be_a_secret_is_not_repeated(place: str, url: str, kind: Any, with_more: bool) -> None:
    secret = url.format(SECRET) if place.endswith("_url") else SECRET
    value = {str: secret, list: [secret], dict: {"value": secret}}[kind]
    section, _, key = place.partition(".")
    folder = {"inbox": "/srv/in", "outbox": "/srv/out"} | ({"scale": 99} if with_more else {})
    text = written({"folder": [folder], section: {key: value} if key else value, "stray": secret})
    found = outcome(partial(parse, text, BASE))
    assert isinstance(found, ConfigError)
    assert SECRET not in str(found)
    assert "stray" in str(found)


@fuzz()
@given(st.binary(max_size=80) | st.text().map(str.encode))
def test_the_bytes_of_a_secrets_file_are_a_secret_or_refused_unseen(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"sesame" + data)
    os.chmod(path, 0o600)
    found = outcome(lambda: read_secret("http.token_file", path).reveal())
    if isinstance(found, ConfigError):
        assert_told(found, {"http"})
        assert "sesame" not in str(found)
    else:
        assert found == (b"sesame" + data).decode().strip()
