"""A hostile service: every trap of the hosted API, at random, and the three promises hold. See `hostile.py`."""

import hashlib
import json
import sys
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pyvips
from e2e import hostile
from e2e.hostile import CREATE_SECONDS_MAX, SIGNATURE, SUBMITS_MAX, TIMES_MIN
from e2e.test_journey import SUFFIXES, check_sidecars
from e2e.world import KEY, Daemon, Process, Server, config, encoded, outbox

from daemon.adapters.payload import prepare
from daemon.rules.tiles import Rect
from daemon.rules.traits import Piece

PICTURES = 300
WEBHOOK_SECRET = "webhook-secret-of-the-tests"


class HostileServer(Server):
    """`hostile.py serve`."""

    def __init__(self, folder: Path, seed: int, pictures: int) -> None:
        command = [sys.executable, hostile.__file__, "serve", "--dir", str(folder)]
        Process.__init__(self, [*command, "--seed", str(seed), "--pictures", str(pictures)])
        self.base_url = self.expect(lambda line: line.startswith("http"), "base URL").strip()
        self.origin = self.base_url.removesuffix("/v1")

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"{self.origin}/hostile/{path}", body, timeout=120) as response:
            return response.read()


def configured(folder: Path, server: HostileServer) -> Path:
    storage = 'kind = "vendor"\nuploads_max = 32'
    hooks = f'[webhook]\npublic_url = "{server.origin}/relay"\nsecret_file = "secret"'
    path = config(folder, server.base_url, storage=f"{storage}\n{hooks}")
    (folder / "secret").write_text(WEBHOOK_SECRET)
    (folder / "secret").chmod(0o600)
    api = f"submits_max = {SUBMITS_MAX}\nin_flight_max = 60\ncreates_per_minute_max = 10000"
    text = path.read_text()
    assert f"create_seconds_max = {CREATE_SECONDS_MAX}\n" in text
    path.write_text(text.replace("poll_seconds_min", f"{api}\npoll_seconds_min"))
    return path


def survive(folder: Path, pictures: int, seed: int) -> dict[str, Any]:
    """The whole of it; returns the server's facts."""
    server = HostileServer(folder / "server", seed, pictures)
    path = configured(folder, server)
    sources = {}
    for n in range(pictures):
        suffix = SUFFIXES[n % 3]
        data = encoded(n, suffix)
        source = folder / "in" / f"p{n}{suffix}"
        source.write_bytes(data)
        prepare(source, Piece(Rect(0, 0, 32, 24)), folder / "payload", None)
        sources[hashlib.sha256((folder / "payload").read_bytes()).hexdigest()] = source.name
    assert len(sources) == pictures
    daemon = Daemon(path)
    try:
        port = daemon.expect_event("listening")["port"]
        server.ask("hook", f"http://127.0.0.1:{port}/hook".encode())
        wait_for_all(daemon, pictures)
        server.ask("clean")
        facts = json.loads(server.ask("facts"))
        assert daemon.end() == 0
    finally:
        (folder / "daemon.log").write_text("\n".join(daemon.lines))
    server.end()
    check(folder, facts, sources)
    everything = "\n".join(daemon.lines) + "".join(map(repr, outbox(folder / "out").values()))
    for secret in (KEY, SIGNATURE, WEBHOOK_SECRET, "signature="):
        assert secret not in everything, secret
    return facts


def wait_for_all(daemon: Daemon, pictures: int) -> None:
    """Until every picture is done or reported."""
    ended: set[str] = set()

    def true(line: str) -> bool:
        if line.startswith("{"):
            event = json.loads(line)
            assert event["event"] not in ("defect", "held"), line
            if event["event"] in ("done", "reported"):
                ended.add(event["picture"])
        return len(ended) == pictures

    daemon.expect(true, f"end of {pictures} pictures", seconds=600)


def pixels_of(path: Path) -> bytes:
    pixels: bytes = pyvips.Image.new_from_file(str(path)).write_to_memory()
    return pixels


def check(folder: Path, facts: dict[str, Any], sources: dict[str, str]) -> None:
    """The promises. sources: the pictures' names by the sha256 of what goes up of them."""
    runs = defaultdict(list)
    for run in facts["predictions"]:
        runs[run["picture"]].append(run)
    dooms, lost = facts["dooms"], Counter(facts["lost"])
    sidecars = check_sidecars(folder / "in", folder / "out")
    good = {digest: name for digest, name in sources.items() if digest not in dooms}
    assert {name.decode() for name in sidecars} == set(good.values())
    reports = {
        name.decode().removesuffix(".error.json"): json.loads(data)
        for name, data in outbox(folder / "out").items()
        if name.endswith(b".error.json")
    }
    assert set(reports) == {sources[digest] for digest in dooms}
    assert set(runs) <= set(sources)
    for digest, name in good.items():
        spoiled = sum(bool(run["fate"]) for run in runs[digest])
        assert len(runs[digest]) == 1 + spoiled, f"{name} was paid for {len(runs[digest])} times"
        told = sidecars[name.encode()]["prediction"]
        (run,) = (run for run in runs[digest] if not run["fate"])
        assert told["id"] == run["id"]
        assert told["submits"] == len(runs[digest]) + lost[digest] <= SUBMITS_MAX
        assert told["cost_usd"] == pytest.approx(sum(run["cost_usd"] for run in runs[digest]), abs=1e-8), name
        made = json.loads((folder / "server" / "predictions" / f"{run['id']}.json").read_bytes())
        result = folder / "out" / sidecars[name.encode()]["result"]["path"]
        # What the source had besides its pixels is in the result too.
        assert pixels_of(result) == pixels_of(folder / "server" / "outputs" / made["output"]), name
    paid = {"lasting": 1, "unlucky": SUBMITS_MAX, "refused": 0}
    for digest, doom in dooms.items():
        report = reports[sources[digest]]
        assert len(runs[digest]) == paid[doom], report
        assert report["submits"] == len(runs[digest]) + lost[digest], report
        assert report["cost_usd"] == pytest.approx(sum(run["cost_usd"] for run in runs[digest]), abs=1e-8), report
    assert len({run["image"] for run in facts["predictions"]}) == len(facts["predictions"]), (
        "each run has its own image"
    )
    wrong = {"leak: the key was sent elsewhere", "download: a dead link", "hook: nobody there"}
    assert wrong & set(facts["counts"]) == set()
    assert facts["left"] == [], "what was uploaded is deleted"
    assert not list((folder / "state" / "staging").iterdir())


def expected_kinds() -> Iterator[str]:
    """Everything that has to have happened."""
    for where, kinds in (
        ("create", (*hostile.CREATES, *hostile.BURST, "refused for good")),
        ("get", hostile.GETS),
        ("prediction", (*hostile.SPOILED, "doomed, lasting", "doomed, unlucky")),
        ("download", hostile.DOWNLOADS),
        ("hook", (*hostile.HOOKS, "from the server", "answered 204", "answered 401")),
        ("presign", hostile.PRESIGNS),
        ("put", hostile.PUTS),
        ("history", (*hostile.LATE_ROWS, "another page", "stranger asked about")),
        ("status", (*hostile.RUNNING_WORDS, *hostile.SUCCESS_WORDS, *hostile.FAILURE_WORDS, "cancelled", "canceled")),
        ("reason", hostile.REASON_PLACES),
        ("output", hostile.OUTPUT_SHAPES),
        ("cost", hostile.COSTS),
        ("echo", hostile.ECHOES),
    ):
        yield from (f"{where}: {kind}" for kind in kinds)


def test_the_promises_hold_against_a_service_that_does_everything_wrong(tmp_path: Path) -> None:
    counts = survive(tmp_path, PICTURES, seed=1)["counts"]
    assert {kind: counts.get(kind, 0) for kind in expected_kinds() if counts.get(kind, 0) < TIMES_MIN} == {}
    assert {kind for kind in hostile.HISTORIES if f"history: {kind}" not in counts} == set()
