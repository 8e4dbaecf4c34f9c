"""The log: one line per fact, no secret in it, nothing from outside that forges a line."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from daemon.adapters.log import configure, redact

KEY = "sk-live-0123456789"
SIGNED = "https://storage.googleapis.com/b/o.png?X-Goog-Signature=abcdef&X-Goog-Credential=me"
SENTENCE = f"with {KEY}"

Read = Callable[[], str]


@pytest.fixture
def clean() -> Iterator[None]:
    """Whatever a test configures is forgotten afterwards."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    root.handlers[:] = [each for each in root.handlers if type(each).__module__ != "daemon.adapters.log"]
    structlog.reset_defaults()


@pytest.fixture
def as_json(clean: None) -> Read:
    stream = io.StringIO()
    configure("info", "auto", stream, [KEY], wall=lambda: 1795338000.0405)
    return stream.getvalue


@pytest.fixture
def as_console(clean: None) -> Read:
    stream = io.StringIO()
    configure("info", "console", stream, [KEY], wall=lambda: 1795338000.0)
    return stream.getvalue


def test_a_line_has_time_level_event_and_then_the_rest(as_json: Read) -> None:
    structlog.get_logger().info("picture.done", job="a1", seconds=1.5, path=Path("a b.png"))
    assert as_json() == (
        '{"time":"2026-11-22T09:00:00.040Z","level":"info","event":"picture.done",'
        '"job":"a1","seconds":1.5,"path":"a b.png"}\n'
    )


def test_the_console_has_the_same_facts(as_console: Read) -> None:
    structlog.get_logger().warning("picture.held", path="a b.png", cost_usd=0.5, done=True)
    assert as_console() == '2026-11-22T09:00:00.000Z warning  picture.held path="a b.png" cost_usd=0.5 done=true\n'


def test_a_field_may_not_take_the_place_of_the_level(as_json: Read) -> None:
    structlog.get_logger().info("x", level="error", time=1)
    line = json.loads(as_json())
    assert (line["level"], line["level_"], line["time_"]) == ("info", "error", 1)


def test_lines_below_the_level_are_not_written(as_json: Read) -> None:
    structlog.get_logger().debug("nothing")
    assert as_json() == ""


@pytest.mark.parametrize("forged", ["a\n2026-11-22T09:00:00.000Z error    fire", "a\r\x1b[2J", "a\u2028b\u202eb\x85c"])
def test_nothing_from_outside_forges_a_console_line(as_console: Read, forged: str) -> None:
    structlog.get_logger().info(forged, path=forged, **{forged: [forged, {forged: forged}]})
    logging.getLogger("watchdog").warning("%s", forged)
    assert len(as_console().splitlines()) == 2
    assert all(each.isprintable() for each in as_console().split("\n"))


def test_names_that_are_not_utf8_show_their_bytes(as_json: Read) -> None:
    structlog.get_logger().info("x", raw=b"\xe9t\xc3\xa9", name="\udce9t\u00e9", path=Path("\udce9"), lone="\ud800")
    line = json.loads(as_json())
    assert (line["raw"], line["name"], line["path"], line["lone"]) == ("\\xe9té", "\\xe9té", "\\xe9", "\\ud800")


def test_values_that_json_does_not_know_are_made_plain(as_json: Read) -> None:
    deep: list[object] = []
    deep.append(deep)
    structlog.get_logger().info("x", big=2**70, kind={1}, odd=object, deep=deep, none=None, nan=float("nan"))
    line = json.loads(as_json())
    assert (line["big"], line["kind"], line["odd"]) == (str(2**70), [1], "<class 'object'>")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"GET {SIGNED} failed", "GET https://storage.googleapis.com/b/o.png?*** failed"),
        ('{"url":"https:\\/\\/h\\/p?sig=abcdef","n":1}', '{"url":"https:\\/\\/h\\/p?***","n":1}'),
        ("https://me:abcdef@proxy:1/x", "https://***@proxy:1/x"),
        ("url: /b/o?a=1&X-Goog-Signature=abcdef (Caused", "url: /b/o?a=1&X-Goog-Signature=*** (Caused"),
        ("X-API-Key: abcdef", "X-API-Key: ***"),
        ("Authorization: Digest user=abcdef, x=abcdef\nnext", "Authorization: ***\nnext"),
        ("<CIMultiDict('x-api-key': 'abcdef', 'a': 'b')>", "<CIMultiDict('x-api-key': '***', 'a': 'b')>"),
        ("[(b'Authorization', b'Bearer abcdef')]", "[(b'Authorization', b'***')]"),
        ("sent Bearer abcdefgh", "sent Bearer ***"),
        (f"POST /hook/{'0a' * 16} failed", "POST /hook/*** failed"),
        ("http.token_file: it must name a file", "http.token_file: it must name a file"),
        ("trip/what?.jpg and a=b.jpg", "trip/what?.jpg and a=b.jpg"),
    ],
)
def test_what_could_be_secret_is_hidden_in_any_text(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize("which", ["as_json", "as_console"])
def test_no_secret_gets_into_a_line(which: str, request: pytest.FixtureRequest) -> None:
    read: Read = request.getfixturevalue(which)
    log = structlog.get_logger()
    log.info(SENTENCE, url=SIGNED, raw=f"{KEY}".encode(), nested={"a": [{"X-API-Key": "abcdef"}, (SIGNED,)]})
    log.info("x", token="abcdef", Authorization="abcdef", **{KEY: 1})
    try:
        try:
            raise ValueError(f"connecting to {SIGNED}")
        except ValueError as error:
            raise OSError(f"key {KEY}") from error
    except OSError as error:
        log.exception("create.failed", error=error)
        logging.getLogger("urllib3.connectionpool").warning("retrying %s", SIGNED, exc_info=error)
    assert read().count("***") >= 12
    assert "Traceback" in read()
    for secret in (KEY, "abcdef", "Credential"):
        assert secret not in read()


def test_a_replaced_key_stays_hidden(as_json: Read) -> None:
    configure("info", "json", io.StringIO(), ["another"])
    assert redact(f"{KEY} another") == "*** ***"


@pytest.mark.parametrize("name", ["watchdog.observers.inotify_c", "aiohttp.client", "google.cloud.storage", "asyncio"])
def test_foreign_warnings_come_through_and_foreign_chatter_does_not(as_json: Read, name: str) -> None:
    logging.getLogger(name).warning("event %s dropped", 7)
    logging.getLogger(name).info("chatter")
    line = json.loads(as_json())
    assert (line["level"], line["event"], line["logger"]) == ("warning", "event 7 dropped", name)


def test_a_library_that_cut_its_logger_off_is_heard_again(clean: None) -> None:
    """As Google's libraries do when they are imported before the log is set up."""
    logging.getLogger("google").propagate = False
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("google.auth").warning("heard")
    assert "heard" in stream.getvalue()


def test_a_foreign_record_may_be_odd(as_json: Read) -> None:
    odd = logging.getLogger("odd")
    odd.propagate = False  # Past pytest's own handlers, which make an odd record an error.
    odd.handlers = [each for each in logging.getLogger().handlers if type(each).__module__ == "daemon.adapters.log"]
    odd.log(35, "own level")
    odd.log(90, "far above")
    odd.warning("two %s %s", 1)
    odd.handlers = []
    events = [(line["level"], line["event"]) for line in map(json.loads, as_json().splitlines())]
    assert events == [("warning", "own level"), ("critical", "far above"), ("warning", "two %s %s")]


def test_configuring_again_replaces_what_was(as_json: Read) -> None:
    second = io.StringIO()
    configure("error", "json", second)
    structlog.get_logger().warning("too small")
    logging.getLogger("x").error("once")
    assert as_json() == ""
    assert len(second.getvalue().splitlines()) == 1


def test_a_stream_that_takes_nothing_stops_nobody(clean: None) -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    stream.close()
    structlog.get_logger().info("into the void")


def test_a_terminal_gets_colours_unless_they_are_unwanted(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for no_color, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        stream = Terminal()
        configure("info", "auto", stream)
        structlog.get_logger().info("picture.done", job="a1")
        assert ("\x1b[" in stream.getvalue()) is coloured
        assert not stream.getvalue().startswith("{")
