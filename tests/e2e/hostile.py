"""
A hostile service: the prediction server as a process of its own, with every trap of the hosted API set on purpose.

    python tests/e2e/hostile.py serve --dir DIR --seed S --pictures N
    python tests/e2e/hostile.py soak --pictures N --seed S [--dir DIR]

`serve` prints its base URL, as `esrgand serve` does, and lives until it is ended. `GET /hostile/facts` tells what it
did: how often each kind of trouble was made, what it would have billed, and for which picture. `GET /hostile/clean`
answers once every uploaded object is deleted. `POST /hostile/hook` tells it where the daemon listens: the daemon's
webhooks go to `{origin}/relay`, which passes them on, late, twice or not at all.

`soak` is the test of `test_hostile.py` with as many pictures as you like: a daemon against this service, to the end,
and then every invariant. It prints the counts. A thousand pictures take some five minutes; run it with several seeds.
With `--dir`, an empty folder, everything is left there, the daemon's log too.

Troubles are dealt from decks: so many of each kind in every block of cards, in an order that the seed decides. So each
happens as often as it should, however the requests interleave. Some rules keep a run within its meaning and its time:

- A picture's paid runs are not spoiled or lost more often than `SPENT_MAX` times, so that within `submits_max` there
  is always one that may succeed; but for the pictures that are doomed, which the service decides once and remembers.
- Each trouble closes a gate of the daemon for some five seconds, and one that meets the probe for longer. So troubles
  come together, at ticks, and seldom meet who comes alone; and those that close a gate for long come in one burst.
- What takes the daemon long to settle comes early: what makes its look for a lost create fail in the first third of
  the pictures, creates that are lost in the first half, other doubts and pictures that fail again and again in the
  first two thirds.
"""

import argparse
import asyncio
import hashlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import orjson
import structlog
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parent.parent))

from e2e.world import KEY, STARTED, picture

from daemon.adapters.clock import SystemClock
from daemon.server import LanczosUpscaler, PredictionServer, ServerSettings

CREATE_SECONDS_MAX = 4  # the daemon's, in these tests
SUBMITS_MAX = 4  # the daemon's, in these tests
SPENT_MAX = SUBMITS_MAX - 1
USD_PER_SECOND = 0.01
SIGNATURE = "Signed-of-the-tests"  # may not be seen anywhere but in URLs
STRANGER_EVERY = 12  # creates
TIMES_MIN = 2  # so often each kind of trouble has to happen
FRESH_GETS = 2  # so often a fresh id is not known yet
BURST_SECONDS = 1.0
BURST_CROWD = 12  # a burst meets at least so many creates
BURST_PATIENCE = 1.5  # how long it waits for them
TICK_SECONDS = 1.5  # troubles come together
ALONE = 0.05  # how often one that comes alone is troubled

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HTML = "<html><body><h1>Please log in</h1></body></html>"
STATUSES = {"500": 500, "502": 502, "503": 503}

# In how many of 75 creates each happens. Before: nothing is created, and nobody can know. After: it is.
LOST = {f"{kind} before": 1 for kind in ("500", "502", "503", "cut", "hang", "html", "empty")}
UNTOLD = {f"{kind} after": 1 for kind in ("500", "502", "503", "cut", "hang", "html", "empty")} | {"slow": 1}
CREATES = {**LOST, **UNTOLD, "redirect": 3, "201": 4}
BURST = ("429", "402", "401", "429 soon")
LATE_ROWS = {"late 2 s": 2, "late 8 s": 1}
# In how many of fifty predictions.
GETS = dict.fromkeys(("500", "cut", "hang", "html", "empty", "fresh", "429"), 1)
# In how many of a hundred predictions.
SPOILED = {
    "CUDA out of memory": 2,
    "PROVIDER_RATE_LIMIT": 2,
    "PROVIDER_SERVER_ERROR": 1,
    "NETWORK_ERROR": 1,
    "retryable": 2,
    "cancelled": 2,
    "canceled": 2,
}
DOWNLOADS = {
    "500": 2,  # once may be too seldom: a card behind one that lets the download pass is not played
    "cut": 2,
    "short": 3,
    "html": 2,
    "wrong size": 2,
    "drip": 4,
    "403": 2,
    "404": 3,
    "410": 3,
}
GONE = {"403", "404", "410"}
# In how many of a hundred pictures.
DOOMED = {"lasting": 3, "unlucky": 1, "refused": 1}
HOOKS = {"missing": 10, "late": 10, "duplicate": 10, "early": 10, "forged": 10, "garbage": 10, "stray": 10}
# In how many of a hundred requests.
PRESIGNS = {"500": 1, "cut": 1}
PUTS = {"500": 1, "cut": 1, "cut after": 1}
# In how many of twenty requests.
HISTORIES = {"500": 1, "cut": 1, "html": 1}

RUNNING_WORDS = ("created", "starting", "queued", "processing", "running", "warming up")
SUCCESS_WORDS = ("success", "succeeded", "completed")
FAILURE_WORDS = ("error", "failed")
REASON_PLACES = ("output.error_message", "output.error", "error", "message", "logs")
OUTPUT_SHAPES = ("url", "[url]", "{url}")
COSTS = ("cost", "cost 0", "no cost")
ECHOES = ("as sent", "decoded", "encoded twice", "other letters")
LASTING_REASONS = (
    "Input image of dimensions (9000, 9000, 3) has a total number of pixels 81000000 greater than the max size that "
    "fits in GPU memory on this hardware, 2096704. Resize input image and try again.",
    "cannot identify image file",
    "Could not decode the input",
    "The model says no",
)


class Deck:
    """Deals kinds: in every block of cards each as often as its share, the other cards are blank ("")."""

    def __init__(self, name: str, seed: int, shares: dict[str, int], block: int = 100) -> None:
        self._dice = random.Random(f"{seed}/{name}")
        self._block = [kind for kind, share in shares.items() for _ in range(share)]
        self._block += [""] * (block - len(self._block))
        self._left: list[str] = []

    def deal(self, fits: Callable[[str], bool] = lambda kind: True) -> str:
        """The next card that fits; the others stay for later."""
        if not any(fits(kind) for kind in self._left):
            fresh = list(self._block)
            self._dice.shuffle(fresh)
            self._left += fresh
        return self._left.pop(next(n for n, kind in enumerate(self._left) if fits(kind)))


class Turn:
    """Deals from a few words, each as often as the others."""

    def __init__(self, name: str, seed: int, words: tuple[str, ...]) -> None:
        self._deck = Deck(name, seed, dict.fromkeys(words, 1), len(words))

    def deal(self) -> str:
        return self._deck.deal()


@dataclass
class Run:
    """One prediction as the world sees it. fate: how it ends. cost_usd: what a client has to take it for."""

    id: str
    picture: str
    image: str
    created_at: float
    visible_at: float
    fate: str = ""
    words: dict[str, str] = field(default_factory=lambda: {"hook": ""})
    gets: int = 0
    get_trouble: tuple[int, str] = (0, "")
    downloads: list[str] = field(default_factory=list)
    link: int = 0
    cost_usd: float | None = None
    stranger: bool = False


class Hostile:
    """The troubles, as one middleware. pictures: how many will come, roughly."""

    def __init__(self, seed: int, data_dir: Path, pictures: int) -> None:
        self.clock = SystemClock()
        self.dice = random.Random(seed)
        self.data_dir = data_dir
        self.pictures = pictures
        self.burst_at = pictures * 2 // 3
        self.counts: Counter[str] = Counter()
        self.runs: dict[str, Run] = {}
        self.outputs: dict[str, Run] = {}
        self.dooms: dict[str, str] = {}
        self.spent: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.redirected: set[str] = set()  # images whose create was: what comes after that is the same create
        self.orphans: set[str] = set()  # objects whose upload nobody was told of
        self.probes: set[str] = set()  # uploads that come alone
        self.created = self.pending = self.crowd = self.turn = 0
        self.burst_until = self.uploaded_at = 0.0
        self.crowded = asyncio.Event()
        self.deleted = asyncio.Event()
        self.hook = ""
        self.tasks: set[asyncio.Task[None]] = set()
        self.decks = {
            name: Deck(name, seed, shares)
            for name, shares in (
                ("spoiled", SPOILED),
                ("download", DOWNLOADS),
                ("doom", DOOMED),
                ("hook", HOOKS),
                ("presign", PRESIGNS),
                ("put", PUTS),
            )
        }
        self.decks["get"] = Deck("get", seed, GETS, 50)
        self.decks["history"] = Deck("history", seed, HISTORIES, 20)
        self.decks["create"] = Deck("create", seed, CREATES, 75)
        self.decks["late"] = Deck("late", seed, LATE_ROWS, 6)
        self.turns = {
            name: Turn(name, seed, words)
            for name, words in (
                ("running", RUNNING_WORDS),
                ("success", SUCCESS_WORDS),
                ("failure", FAILURE_WORDS),
                ("place", REASON_PLACES),
                ("shape", OUTPUT_SHAPES),
                ("cost", COSTS),
                ("echo", ECHOES),
                ("lasting", LASTING_REASONS),
            )
        }

    def made(self, where: str, kind: str) -> str:
        """Count it; "" is no trouble."""
        if kind:
            self.counts[f"{where}: {kind}"] += 1
        return kind

    @web.middleware
    async def trouble(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who is asked for what."""
        first, _, rest = request.path.strip("/").partition("/")
        if first != "v1" and KEY in str(request.headers):
            self.counts["leak: the key was sent elsewhere"] += 1
        match request.method, first, rest.split("/"):
            case "POST", "v1", ["prediction"]:
                return await self.create(request, handler)
            case "GET", "v1", ["prediction", id_]:
                return await self.get(request, handler, id_)
            case "GET", "v1", ["executions"]:
                return await self.history(request)
            case "POST", "v1", ["upload", "presign"]:
                return await self.presign(request, handler)
            case "PUT", "uploads", [id_]:
                return await self.put(request, handler, id_)
            case "DELETE", "v1", ["files", _]:
                return await self.delete(request, handler)
            case "GET", "outputs", [name]:
                return await self.download(request, handler, name)
            case "POST", "relay", _:
                return await self.relay(request, rest)
            case "POST", "hostile", ["hook"]:
                self.hook = await request.text()
                return web.Response()
            case "GET", "hostile", ["facts"]:
                return web.json_response(self.facts())
            case "GET", "hostile", ["clean"]:
                while self.left():
                    self.deleted.clear()
                    await self.clock.wait(self.deleted, 1.0)
                return web.Response()
        return await handler(request)

    # Creates

    async def create(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        image = body["input"]["image"]
        arrived = self.clock.monotonic()
        self.pending += 1
        try:
            alone = self.pending == 1
            await self.clock.sleep(self.dice.uniform(0.2, 0.5))
            if image in self.redirected:
                return await self.created_for(body, request, handler)
            if await self.is_in_burst(alone):
                kind = self.made("create", BURST[self.turn % len(BURST)])
                self.turn += 1
                soon = {"Retry-After": "2"} if kind == "429 soon" else {}
                return web.json_response({"status": "error", "message": "no"}, status=int(kind[:3]), headers=soon)
            return await self.create_in_turn(body, request, handler, arrived, alone)
        finally:
            self.pending -= 1

    async def is_in_burst(self, alone: bool) -> bool:
        """Whether it meets a burst of refusals. One begins when many wait for it, so that it is one for all of them."""
        if self.created >= self.burst_at and not alone:
            self.crowd += 1
            if self.crowd >= BURST_CROWD:
                self.crowded.set()
            await self.clock.wait(self.crowded, BURST_PATIENCE)
            self.crowd -= 1
            if self.crowded.is_set() and self.created >= self.burst_at:
                self.burst_at += 1000
                self.burst_until = self.clock.monotonic() + BURST_SECONDS
                self.turn = (self.burst_at // 1000 - 1) % len(BURST)
            if self.crowd == 0:
                self.crowded.clear()
        return self.clock.monotonic() < self.burst_until

    async def create_in_turn(
        self, body: dict[str, Any], request: web.Request, handler: Handler, arrived: float, alone: bool
    ) -> web.StreamResponse:
        """What the cards say."""
        image = body["input"]["image"]
        digest = self.picture_behind(image)
        if digest not in self.dooms:
            self.dooms[digest] = self.decks["doom"].deal(lambda doom: doom != "unlucky" or not self.calm)
        if self.dooms[digest] == "refused":
            self.made("create", "refused for good")
            return web.json_response({"error": f"no good: {image}"}, status=self.dice.choice((400, 422)))
        kind = "" if self.spared(alone) else self.decks["create"].deal(lambda kind: self.may_be(kind, digest))
        what, _, when = self.made("create", kind).partition(" ")
        if kind == "redirect":
            self.redirected.add(image)
            path = request.path[:-1] if request.path.endswith("/") else request.path + "/"
            return web.Response(status=self.dice.choice((301, 302, 307, 308)), headers={"Location": path})
        if when == "before":
            self.lost[digest] += 1
            self.spent[digest] += 1
            return await self.spoilt(request, what)
        if kind == "slow":
            # Longer than the daemon waits, and only then is it created.
            await self.clock.sleep(arrived + CREATE_SECONDS_MAX + 0.6 - self.clock.monotonic())
        answer = await self.created_for(body, request, handler, late=when == "after")
        if when == "after":
            return await self.spoilt(request, what)
        if kind == "201":
            answer.set_status(201)
        return answer

    async def created_for(
        self, body: dict[str, Any], request: web.Request, handler: Handler, *, late: bool = False
    ) -> web.Response:
        """Really create it."""
        answer = await handler(request)
        assert isinstance(answer, web.Response)
        run = self.begun(orjson.loads(answer.body)["predictionID"], body["input"]["image"], late=late)
        if self.hook and body.get("webhook_url"):
            self.forge(body, run)
        return answer

    def may_be(self, kind: str, digest: str) -> bool:
        """Whether a card may be played now."""
        # Whoever comes alone is dealt no card, and on a slow machine many do: what did not happen early happens late.
        owed = self.counts[f"create: {kind}"] < TIMES_MIN
        if kind in UNTOLD:
            return owed or not self.calm
        if kind in LOST:
            early = owed or self.created < self.pictures // 2
            return early and self.spent[digest] < SPENT_MAX and self.dooms[digest] != "unlucky"
        return True

    def spared(self, alone: bool) -> bool:
        return alone and self.dice.random() > ALONE

    async def tick(self) -> None:
        """Let those that are troubled be so together."""
        await self.clock.sleep(TICK_SECONDS - self.clock.monotonic() % TICK_SECONDS)

    @property
    def calm(self) -> bool:
        return self.created >= self.pictures * 2 // 3

    async def spoilt(self, request: web.Request, what: str, *, now: bool = False) -> web.StreamResponse:
        """An answer that tells nothing. now: not with the others."""
        if what == "hang":
            await self.clock.sleep(CREATE_SECONDS_MAX + 1.5)
        elif not now:
            await self.tick()
        if what in ("cut", "hang"):
            return cut(request)
        if what == "html":
            return web.Response(text=HTML, content_type="text/html")
        if what == "empty":
            return web.json_response({})
        return web.Response(status=STATUSES[what], text=HTML, content_type="text/html")

    def begun(self, id_: str, image: str, *, late: bool) -> Run:
        """Decide all that will become of a new prediction."""
        digest, now = self.picture_behind(image), self.clock.wall()
        doom = self.dooms[digest]
        lateness = self.made("history", self.decks["late"].deal() if late else "")
        run = Run(id_, digest, image, now, now + float((lateness or "late 0 s").split()[1]))
        run.words |= {name: turn.deal() for name, turn in self.turns.items() if name not in ("running", "lasting")}
        if doom == "lasting":
            run.fate = self.turns["lasting"].deal()
        elif doom == "unlucky":
            run.fate = "PROVIDER_SERVER_ERROR"
        elif self.spent[digest] < SPENT_MAX:
            run.fate = self.decks["spoiled"].deal()
        if run.fate:
            self.spent[digest] += doom != "lasting"
            self.made("prediction", f"doomed, {doom}" if doom else run.fate)
        else:
            run.downloads = [self.decks["download"].deal() for _ in range(self.dice.choice((1, 1, 1, 2)))]
        # A question about any prediction that fails makes the daemon's look for a lost one worthless.
        kind = self.decks["get"].deal() if self.created < self.pictures // 3 else ""
        run.get_trouble = (self.dice.randrange(4), kind)
        self.runs[run.id] = run
        self.created += 1
        if self.created % STRANGER_EVERY == 0:
            elsewhere = f"https://elsewhere.example/{self.created}.png?signature={SIGNATURE}"
            other = Run(f"stranger-{self.created}", "", elsewhere, now, now, stranger=True)
            self.runs[other.id] = other
        return run

    def picture_behind(self, image: str) -> str:
        name = image.partition("?")[0].rpartition("/")[2]
        return hashlib.sha256((self.data_dir / "files" / name).read_bytes()).hexdigest()

    # Questions

    async def get(self, request: web.Request, handler: Handler, id_: str) -> web.StreamResponse:
        run = self.runs.get(id_)
        if run is None:
            return await handler(request)
        if run.stranger:
            self.counts["history: stranger asked about"] += 1
            return web.json_response({"id": id_, "status": "success", "input": {"image": run.image, "scale": 2}})
        at, kind = run.get_trouble
        run.gets += 1
        if kind == "fresh" and run.gets <= FRESH_GETS:
            self.made("get", kind)
            return web.json_response({"status": 404, "error": "not found"}, status=404)
        answer = await handler(request)
        assert isinstance(answer, web.Response)
        document = orjson.loads(answer.body)
        # Where the machine is slow there may be one question alone, and the trouble is due with it.
        if kind and kind != "fresh" and (run.gets > at or document["status"] not in ("created", "processing")):
            run.get_trouble = (0, "")
            self.made("get", kind)
            if kind == "429":
                return web.json_response({}, status=429, headers={"Retry-After": "1"})
            if kind != "hang":
                return await self.spoilt(request, kind, now=True)
            await self.clock.sleep(self.dice.uniform(1.0, 2.5))
        return web.json_response(self.disguised(run, document))

    def disguised(self, run: Run, document: dict[str, Any]) -> dict[str, Any]:
        """The same prediction in other words."""
        words = run.words
        document["input"]["image"] = ECHO[words["echo"]](run.image)
        self.counts[f"echo: {words['echo']}"] += 1
        if document["status"] in ("created", "processing"):
            document["status"] = self.made("status", self.turns["running"].deal())
            return document
        if document["status"] != "success":
            return document
        metrics = document["metrics"]
        if words["cost"] == "no cost":
            del metrics["cost"]
        elif words["cost"] == "cost 0":
            metrics["cost"] = 0
        told = metrics.get("cost", 0)
        if run.fate:
            run.cost_usd = told
            return self.failed(run, document)
        run.cost_usd = told or metrics["predict_time"] * 0.0002475
        self.made("cost", words["cost"])
        document["status"] = self.made("status", words["success"])
        url = f"{document['output']}?link={run.link}&signature={SIGNATURE}"
        self.outputs[document["output"].rpartition("/")[2]] = run
        document["output"] = {"url": url, "[url]": [url], "{url}": {"url": url}}[self.made("output", words["shape"])]
        return document

    def failed(self, run: Run, document: dict[str, Any]) -> dict[str, Any]:
        """A failure, with its reason in one of the places, and a signed URL in the reason."""
        document["output"] = None
        if run.fate.startswith("cancel"):
            document["status"] = self.made("status", run.fate)
            return document
        document["status"] = self.made("status", run.words["failure"])
        place = self.made("reason", run.words["place"])
        text = f"{run.fate} (while reading {run.image})"
        if run.fate == "retryable":
            text = f"Something went wrong (while reading {run.image})"
            document["output"] = {"retryable": True}
        elif run.fate.startswith("PROVIDER") and run.words["shape"] == "url":
            text = f"Something went wrong (while reading {run.image})"
            document["output"] = {"error_code": run.fate}
        match place:
            case "output.error_message" | "output.error":
                document["output"] = (document["output"] or {}) | {place.partition(".")[2]: text}
            case "error":
                document["error"] = text
            case "message":
                document |= {"message": "Failed", "details": text}
            case "logs":
                document["logs"] += f"Traceback (most recent call last):\n{text}\n"
        return document

    async def history(self, request: web.Request) -> web.StreamResponse:
        kind = self.made("history", self.decks["history"].deal() if self.created < self.pictures // 3 else "")
        if kind:
            return await self.spoilt(request, kind, now=True)
        since = datetime.fromisoformat(request.query.get("from", "1970-01-01T00:00:00Z")).timestamp()
        offset, limit = int(request.query.get("offset", "0")), int(request.query.get("limit", "20"))
        now = self.clock.wall()
        rows = [run for run in self.runs.values() if run.created_at >= since and run.visible_at <= now]
        rows.sort(key=lambda run: run.created_at, reverse=True)
        if offset:
            self.counts["history: another page"] += 1
        page = rows[offset : offset + limit]
        return web.json_response(
            {
                "executions": [
                    {
                        "id": run.id,
                        "model": "real-esrgan",
                        "status": "processing",
                        "execution_cost": 0,
                        "created_at": datetime.fromtimestamp(run.created_at, UTC).isoformat(),
                    }
                    for run in page
                ],
                "total_count": len(rows),
                "total_capped": self.dice.random() < 0.2,
            }
        )

    # Pictures there and back

    async def presign(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # The daemon's uploads come close together; after a pause, the first one is its probe.
        now = self.clock.monotonic()
        alone, self.uploaded_at = now - self.uploaded_at > 1.0, now
        kind = self.made("presign", "" if self.spared(alone) else self.decks["presign"].deal())
        if kind:
            return await self.spoilt(request, kind)
        answer = await handler(request)
        assert isinstance(answer, web.Response)
        place = orjson.loads(answer.body)
        if alone:
            self.probes.add(place["id"])
        # What a bucket's signed URL has: letters that can be written in more than one way.
        place["public_url"] += f"?signature={SIGNATURE}%2Bb%2fc%3D%3D&expires=2%3A00"
        return web.json_response(place)

    async def put(self, request: web.Request, handler: Handler, id_: str) -> web.StreamResponse:
        kind = self.made("put", "" if id_ in self.probes else self.decks["put"].deal())
        if kind == "cut after":
            await handler(request)
            record = orjson.loads((self.data_dir / "uploads" / f"{id_}.json").read_bytes())
            self.orphans.add(record["name"])
            await self.tick()
            return cut(request)
        return await (self.spoilt(request, kind) if kind else handler(request))

    async def delete(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        self.deleted.set()
        return answer

    def left(self) -> list[str]:
        """Uploaded objects that are not deleted, but for those whose upload nobody was told of."""
        return [path.name for path in (self.data_dir / "files").iterdir() if path.name not in self.orphans]

    async def download(self, request: web.Request, handler: Handler, name: str) -> web.StreamResponse:
        run = self.outputs[name]
        if int(request.query["link"]) < run.link:
            self.counts["download: a dead link"] += 1
            return web.Response(status=410)
        kind = run.downloads.pop(0) if run.downloads else ""
        if not kind:
            return await handler(request)
        self.made("download", kind)
        if kind in GONE:
            run.link += 1
            return web.Response(status=int(kind))
        if kind in ("500", "html"):
            return await self.spoilt(request, kind)
        data = (self.data_dir / "outputs" / name).read_bytes()
        if kind == "wrong size":
            return web.Response(body=picture(1).write_to_buffer(".png"), content_type="image/png")
        answer = web.StreamResponse(headers={"Content-Type": "image/png"})
        if kind != "short":
            answer.content_length = len(data)
        await answer.prepare(request)
        if kind == "drip":
            for start in range(0, len(data), len(data) // 8 + 1):
                await answer.write(data[start : start + len(data) // 8 + 1])
                await self.clock.sleep(0.15)
            return answer
        await answer.write(data[: len(data) // 2])
        if kind == "cut":
            return cut(request, answer)
        return answer

    # Webhooks

    async def relay(self, request: web.Request, rest: str) -> web.StreamResponse:
        """Pass a webhook of the server's own on, as it is, or not quite."""
        body, headers = await request.read(), hook_headers(request.headers)
        run = self.runs[orjson.loads(body)["exec_id"]]
        kind = run.words["hook"]
        self.counts["hook: from the server"] += 1
        if kind == "late":
            self.later(2.0, rest, body, headers)
        elif kind != "missing":
            await self.post(rest, body, headers)
        if kind == "duplicate":
            self.later(0.1, rest, body, headers)
        return web.Response()

    def forge(self, body: dict[str, Any], run: Run) -> None:
        """Tell the daemon things that are not so."""
        kind = run.words["hook"] = self.made("hook", self.decks["hook"].deal())
        rest = body["webhook_url"].partition("/relay/")[2]
        lie = {"exec_id": run.id, "status": "succeeded", "output": f"https://elsewhere.example/{run.id}.png"}
        secret = {"X-Webhook-Secret": body.get("webhook_secret") or "", "Content-Type": "application/json"}
        match kind:
            case "early":
                self.later(0.0, rest, orjson.dumps(lie), secret)
            case "forged":
                self.later(0.1, rest, orjson.dumps(lie), secret | {"X-Webhook-Secret": "wrong"})
            case "garbage":
                self.later(0.1, rest, b"\xff{", secret)
            case "stray":
                self.later(0.1, f"{rest[:-4]}0000", orjson.dumps(lie), secret)

    def later(self, seconds: float, rest: str, body: bytes, headers: dict[str, str]) -> None:
        async def work() -> None:
            await self.clock.sleep(seconds)
            await self.post(rest, body, headers)

        task = asyncio.create_task(work())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def post(self, rest: str, body: bytes, headers: dict[str, str]) -> None:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{self.hook}/{rest}", data=body, headers=headers) as answer,
            ):
                self.counts[f"hook: answered {answer.status}"] += 1
        except aiohttp.ClientError:
            self.counts["hook: nobody there"] += 1

    def facts(self) -> dict[str, Any]:
        """What was done. predictions: what would have been billed."""
        return {
            "counts": dict(sorted(self.counts.items())),
            "predictions": [
                {
                    "id": run.id,
                    "picture": run.picture,
                    "image": run.image,
                    "fate": run.fate,
                    "cost_usd": run.cost_usd,
                }
                for run in self.runs.values()
                if not run.stranger
            ],
            "dooms": {digest: doom for digest, doom in self.dooms.items() if doom},
            "lost": dict(self.lost),
            "left": self.left(),
        }


ECHO: dict[str, Callable[[str], str]] = {
    "as sent": str,
    "decoded": unquote,
    "encoded twice": lambda url: quote(url, safe=":/?&="),
    "other letters": lambda url: url.replace("%2f", "%2F").replace("%3D", "%3d").replace("tests", "%74ests"),
}


def hook_headers(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower().startswith(("x-webhook", "content-type"))}


def cut(request: web.Request, answer: web.StreamResponse | None = None) -> web.StreamResponse:
    """The connection is gone, after what was written so far."""
    assert request.transport is not None
    if answer is None:
        request.transport.abort()
    else:
        request.transport.close()
    return answer or web.Response()


async def serve(folder: Path, seed: int, pictures: int) -> None:
    """Until the process is told to end."""
    log = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(30)
    )
    settings = ServerSettings(
        data_dir=folder,
        key=KEY,
        creates_per_minute_max=100_000,
        in_flight_max=1000,
        workers=40,
        predict_seconds_min=0.5,
        usd_per_second=USD_PER_SECOND,
    )
    hostile = Hostile(seed, folder, pictures)
    server = PredictionServer(settings, SystemClock(), LanczosUpscaler(2), log, troubles=[hostile.trouble])
    print(await server.start("127.0.0.1", 0), flush=True)
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    await over.wait()
    await server.close()


def soak(folder: Path | None, seed: int, pictures: int) -> None:
    """The test, longer."""
    from e2e.test_hostile import survive

    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as place:
            facts = survive(folder or Path(place), pictures, seed)
    finally:
        for process in STARTED:
            if process.process.poll() is None:
                process.end(signal.SIGKILL)
    for kind, count in facts["counts"].items():
        print(f"{count:6} {kind}")
    print(f"{pictures} pictures with seed {seed}: all is well after {time.monotonic() - begun:.0f} s.")


def main() -> None:
    """As the docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["serve", "soak"])
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.command == "soak":
        soak(arguments.dir, arguments.seed, arguments.pictures)
    else:
        asyncio.run(serve(arguments.dir, arguments.seed, arguments.pictures))


if __name__ == "__main__":
    main()
