"""Webhooks, in real processes. Polls alone would take a minute in most of these, so whatever is quicker was told."""

import http.client
import json
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from e2e.world import KEY, Daemon, Server, config, encoded, esrgand, outbox

SECRET = "wh-5ecre7-of-the-tests"
PROMPT_SECONDS_MAX = 30.0
BATCH = 8  # twice as many as the server has workers, so that half of them take twice as long


class Relay:
    """A reverse proxy that writes down what it hands on. port: where to, None for nowhere. open: hands on at all."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port
        self.open = threading.Event()
        self.open.set()
        self.seen: list[tuple[str, str, bytes]] = []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                relay.seen.append((self.command, self.path, body))
                relay.open.wait(60)
                try:
                    status, headers, answer = ask(relay.port, self.command, self.path, dict(self.headers), body)
                except OSError:
                    status, headers, answer = 502, {}, b""
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def ask(
    port: int | None, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """One request to this machine: status, headers and body of its answer. Raises OSError where nobody answers."""
    if port is None:
        raise ConnectionRefusedError
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


class Yard:
    """A daemon that asks once a minute at most, a server, and a relay on each of the two ways between them."""

    def __init__(self, folder: Path, predict_seconds: float, poll_seconds_min: float = 60) -> None:
        self.folder = folder
        self.server = Server(folder / "server", "--predict-seconds", str(predict_seconds), "--workers", "4")
        self.api = Relay(int(self.server.base_url.split(":")[2].split("/")[0]))
        self.hooks = Relay()
        self.path = config(folder, f"{self.api.url}/v1")
        text = self.path.read_text().replace("poll_seconds_min = 0.2", f"poll_seconds_min = {poll_seconds_min}")
        assert f"poll_seconds_min = {poll_seconds_min}" in text
        self.path.write_text(f'{text}[webhook]\nsecret_file = "secret"\npublic_url = "{self.hooks.url}/hook/"\n')
        secret = folder / "secret"
        secret.write_text(f"{SECRET}\n")
        secret.chmod(0o600)

    def start(self) -> Daemon:
        daemon = Daemon(self.path)
        self.port = self.hooks.port = daemon.expect_event("listening")["port"]
        return daemon

    def drop(self, *seeds: int) -> None:
        for seed in seeds:
            part = self.folder / "in" / f".{seed}.part"
            part.write_bytes(encoded(seed, ".png"))
            part.rename(self.folder / "in" / f"p{seed}.png")

    def creates(self) -> list[dict[str, Any]]:
        """The bodies of all creates."""
        return [
            json.loads(body) for method, path, body in self.api.seen if (method, path) == ("POST", "/v1/prediction/")
        ]

    def tokens(self) -> list[str]:
        found = [re.fullmatch(r"http://127\.0\.0\.1:\d+/hook/([0-9a-f]{32})", c["webhook_url"]) for c in self.creates()]
        return [match[1] for match in found if match]

    def asked(self) -> Counter[str]:
        """How often was asked about each prediction."""
        return Counter(
            path for method, path, _ in self.api.seen if method == "GET" and path.startswith("/v1/prediction/")
        )

    def tell(self, token: str, headers: dict[str, str], body: bytes = b'{"status": "succeeded"}') -> int:
        """A webhook of ours; the status of the answer."""
        return ask(self.port, "POST", f"/hook/{token}", headers, body)[0]

    def done(self) -> int:
        there = outbox(self.folder / "out")
        return sum(name.endswith(b"_x4.png") and name + b".json" in there for name in there)


@pytest.fixture
def yard(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Yard]:
    yard = Yard(tmp_path, *getattr(request, "param", [3]))
    yield yard
    yard.server.end(signal.SIGKILL)
    yard.api.close()
    yard.hooks.close()


def check_that_it_was_told(daemon: Daemon, pictures: int) -> None:
    for n in range(pictures):
        assert daemon.expect_event("ready", n + 1)["seconds"] < PROMPT_SECONDS_MAX
    daemon.expect_event("done", pictures)


def test_pictures_are_done_when_the_service_says_so(yard: Yard) -> None:
    daemon = yard.start()
    yard.drop(1, 2, 3)
    check_that_it_was_told(daemon, 3)
    assert yard.done() == 3
    assert len(yard.server.predictions()) == 3
    tokens = yard.tokens()
    assert len(set(tokens)) == 3
    assert {create["webhook_secret"] for create in yard.creates()} == {SECRET}
    assert set(yard.asked().values()) == {1}, "each was asked for once, when it was over"
    status = esrgand(yard.path, "status", "--json")
    assert daemon.end() == 0
    everything = "\n".join(daemon.lines) + status + repr(outbox(yard.folder / "out"))
    for secret in (*tokens, SECRET, KEY):
        assert secret not in everything


def test_what_is_forged_does_no_harm(yard: Yard) -> None:
    daemon = yard.start()
    yard.drop(1, 2)
    daemon.expect_event("submitted", 2)
    genuine = {"X-Webhook-Secret": SECRET}
    for token in yard.tokens():
        for headers in ({}, {"X-Webhook-Secret": SECRET[:-1]}, {"X-Webhook-Signature": "0" * 64}):
            assert yard.tell(token, headers) == 401
        assert yard.tell(token[::-1], genuine) == 204
        assert yard.tell(token.upper(), genuine, b"\xff" * 1000) == 204
        assert yard.tell(token, genuine, b"x" * 100_000) == 413
        assert yard.tell(f"{token}/x", genuine) == 404
    with socket.create_connection(("127.0.0.1", yard.port), 60) as garbage:
        garbage.sendall(f"\x16\x03POST /hook/{yard.tokens()[0]}\r\n\r\n".encode())
        assert garbage.recv(1000).startswith(b"HTTP/1.0 400 ")
    assert ask(yard.port, "GET", "/healthz", {})[0] == 200
    check_that_it_was_told(daemon, 2)
    assert set(yard.asked().values()) == {1}, "nothing that was forged made it ask"
    # What is over is not begun again by one who tells again.
    for token in yard.tokens():
        assert yard.tell(token, genuine) == 204
    assert daemon.end() == 0
    assert daemon.counted("webhook_refused") == 1, "told once"
    assert set(yard.asked().values()) == {1}
    assert (yard.done(), len(yard.server.predictions())) == (2, 2)
    assert daemon.counted("defect") == 0
    everything = "\n".join(daemon.lines)
    for secret in (*yard.tokens(), SECRET):
        assert secret not in everything


@pytest.mark.parametrize("yard", [[8]], indirect=True)
def test_a_restart_hears_what_its_forerunner_asked_for(yard: Yard) -> None:
    first = yard.start()
    yard.drop(1, 2)
    first.expect_event("submitted", 2)
    yard.hooks.open.clear()
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    second = yard.start()
    second.expect_event("watching")
    yard.hooks.open.set()
    check_that_it_was_told(second, 2)
    assert second.end() == 0
    assert {path.removeprefix("/hook/") for _, path, _ in yard.hooks.seen} == set(yard.tokens())
    assert (yard.done(), len(yard.creates()), len(yard.server.predictions())) == (2, 2, 2)


def test_a_configuration_that_is_read_again_brings_webhooks(yard: Yard) -> None:
    with_webhooks = yard.path.read_text()
    yard.path.write_text(with_webhooks.partition("[webhook]")[0])
    daemon = yard.start()
    assert yard.tell("0" * 32, {"X-Webhook-Secret": SECRET}) == 404
    daemon.expect_event("watching")
    yard.path.write_text(with_webhooks)
    daemon.process.send_signal(signal.SIGHUP)
    yard.port = yard.hooks.port = daemon.expect_event("listening", 2)["port"]
    # What has the secret for its name is not called by it in the log.
    (yard.folder / "in" / f"{SECRET}.png").write_bytes(encoded(1, ".png"))
    check_that_it_was_told(daemon, 1)
    assert daemon.end() == 0
    assert "***.png" in "\n".join(daemon.lines)
    assert SECRET not in "\n".join(daemon.lines)


@pytest.mark.parametrize("yard", [[1, 0.1]], indirect=True)
def test_while_they_come_little_is_asked_and_when_they_stay_away_as_much_as_without(yard: Yard) -> None:
    """The proxy is switched off: nothing is lost, nobody waits for long, and a person is told."""
    daemon, done = yard.start(), 0

    def carry(pictures: int) -> float:
        """So many more, together; how often was asked about each, in the mean."""
        nonlocal done
        before = yard.asked().total()
        yard.drop(*range(done, done + pictures))
        done += pictures
        daemon.expect_event("done", done)
        return (yard.asked().total() - before) / pictures

    carry(BATCH)
    told = carry(BATCH)
    assert told <= 2
    yard.hooks.port = None
    carry(BATCH)
    while done < 60 and not daemon.counted("webhooks_missing"):
        carry(1)
    assert carry(BATCH) >= told + 1
    assert daemon.end() == 0
    assert daemon.counted("webhooks_missing") == 1, "told once"
    assert (yard.done(), len(yard.server.predictions())) == (done, done)
