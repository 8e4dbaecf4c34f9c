"""
A light stand-in for the hosted API, in a process of its own: `python -m bench.service`, with tests/ to start from.

Promises: its first line is its base URL. Both limits are kept to the letter, with the times at which creates arrive: a
create that finds `in_flight_max` predictions not over, or `creates_per_minute_max` creates in the `minute` seconds
before it, is a 429, and nothing is created. How long the n-th prediction takes depends on the seed and on n alone, so
two clients meet the same times. A prediction is over at its time and not when this loop gets round to it. Results are
whole PNGs of the right size; those of the sizes in `--ready` are made before the first line, so that nobody waits for
one. `GET /report` tells all that was seen, in seconds of the monotonic clock, which all processes here share; and how
late a timer of its own was, which is what the machine does to all who wait here.

It looks into no key and no signature, and keeps everything in memory.
"""

import argparse
import asyncio
import contextlib
import math
import random
import time
import uuid
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
import orjson
import pyvips
from aiohttp import web
from bench.scene import scene

USD_PER_SECOND = 0.0002475
BYTES_MAX = 100_000_000
TICK_SECONDS = 0.05


async def pause(seconds: float) -> None:
    """What takes its time here."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


class Limits:
    """Both limits, to the letter. Times: seconds of one clock, never decreasing."""

    def __init__(self, in_flight_max: int, creates_max: int, minute: float) -> None:
        self.in_flight_max = in_flight_max
        self.creates_max = creates_max
        self.minute = minute
        self._ends: list[float] = []
        self._creates: deque[float] = deque()

    def refusal(self, now: float) -> str:
        """Why a create that arrives now is too many, or ""."""
        self._ends = [end for end in self._ends if end > now]
        while self._creates and now - self._creates[0] >= self.minute:
            self._creates.popleft()
        if len(self._ends) >= self.in_flight_max:
            return f"{self.in_flight_max} predictions are in flight"
        if len(self._creates) >= self.creates_max:
            return f"{self.creates_max} predictions were created within {self.minute:g} s"
        return ""

    def count(self, now: float, end: float) -> None:
        """A create that was not refused. end: when its prediction is over."""
        self._creates.append(now)
        self._ends.append(end)


@dataclass
class Prediction:
    """begin: its create's arrival. end: when it is over."""

    id: str
    begin: float
    end: float
    input: dict[str, Any]
    result: str
    webhook_url: str
    webhook_secret: str


@dataclass
class Seen:
    """What happened, as /report gives it. Times: monotonic seconds."""

    creates: list[dict[str, Any]] = field(default_factory=list)  # at, status
    gets: list[dict[str, Any]] = field(default_factory=list)  # at, id, status
    refused: list[dict[str, Any]] = field(default_factory=list)  # at, why
    webhooks: list[dict[str, Any]] = field(default_factory=list)  # id, status: of the answer
    late: list[float] = field(default_factory=list)  # seconds that a timer of our own came too late


class Service:
    """The API."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.seen = Seen()
        self.predictions: dict[str, Prediction] = {}
        self.limits = Limits(options.in_flight_max, options.creates_per_minute_max, options.minute)
        self.files: dict[str, tuple[bytes, int, int]] = {}
        self.results: dict[str, bytes] = {}
        self.telling: set[asyncio.Task[None]] = set()
        self.here = ""
        self._client: aiohttp.ClientSession | None = None

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=BYTES_MAX)
        app.add_routes(
            [
                web.post("/v1/upload/presign", self.presign),
                web.put("/uploads/{id}", self.put),
                web.get("/files/{id}", self.file),
                web.delete("/v1/files/{id}", self.delete),
                web.post("/v1/prediction", self.create),
                web.post("/v1/prediction/", self.create),
                web.get("/v1/prediction/{id}", self.get),
                web.get("/v1/executions", self.history),
                web.get("/outputs/{name}", self.output),
                web.get("/report", self.report),
            ]
        )
        app.cleanup_ctx.append(self.client)
        return app

    async def client(self, _: web.Application) -> Any:
        """What webhooks are posted with."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as self._client:
            yield
            for task in self.telling:
                task.cancel()

    async def presign(self, request: web.Request) -> web.Response:
        await request.read()
        id_ = uuid.uuid4().hex
        return reply(
            {
                "id": id_,
                "presigned_url": f"{self.here}/uploads/{id_}",
                "public_url": f"{self.here}/files/{id_}",
                "expires_at": time.time() + 86_400,
                "required_headers": {},
            }
        )

    async def put(self, request: web.Request) -> web.Response:
        body = await request.read()
        image = pyvips.Image.new_from_buffer(body, "", access="sequential")
        self.files[request.match_info["id"]] = (body, image.width, image.height)
        await pause(self.options.upload_seconds)
        return web.Response()

    async def delete(self, request: web.Request) -> web.Response:
        self.files.pop(request.match_info["id"], None)
        return web.Response(status=204)

    async def file(self, request: web.Request) -> web.Response:
        """What was uploaded: a client may look whether it can be read back."""
        body, *_ = self.files[request.match_info["id"]]
        return web.Response(body=body)

    async def create(self, request: web.Request) -> web.Response:
        now = time.monotonic()
        asked = orjson.loads(await request.read())
        why = self.limits.refusal(now)
        if why:
            self.seen.creates.append({"at": now, "status": 429})
            self.seen.refused.append({"at": now, "why": why})
            return reply({"status": "error", "message": "Too many requests", "details": why}, 429)
        image = asked["input"]["image"]
        if image.rpartition("/")[2] not in self.files:
            self.seen.creates.append({"at": now, "status": 400})
            return reply({"status": "error", "message": "Bad request", "details": "the image cannot be read"}, 400)
        self.seen.creates.append({"at": now, "status": 200})
        scale = asked["input"].get("scale", 4)
        _, *size = self.files[image.rpartition("/")[2]]
        prediction = Prediction(
            id=str(uuid.uuid4()),
            begin=now,
            end=now + self.predict_seconds(len(self.predictions)),
            input=asked["input"],
            result="x".join(str(round(side * scale)) for side in size),
            webhook_url=asked.get("webhook_url", ""),
            webhook_secret=asked.get("webhook_secret", ""),
        )
        self.predictions[prediction.id] = prediction
        self.limits.count(now, prediction.end)
        self.make(prediction.result)
        if self.options.webhooks and prediction.webhook_url:
            self.telling.add(task := asyncio.create_task(self.tell(prediction)))
            task.add_done_callback(self.telling.discard)
        return reply({"status": "success", "message": "Prediction created", "predictionID": prediction.id})

    def predict_seconds(self, number: int) -> float:
        """How long the prediction of that number takes, counted from 0."""
        dice = random.Random(f"{self.options.seed}/{number}")
        return dice.lognormvariate(math.log(self.options.predict_seconds), self.options.predict_sigma)

    async def tell(self, prediction: Prediction) -> None:
        """Post its webhook as soon as it is over, once."""
        await pause(prediction.end - time.monotonic())
        body = {"exec_id": prediction.id, "status": "succeeded", "output": self.url(prediction), "error": None}
        headers = {"X-Webhook-Secret": prediction.webhook_secret, "Content-Type": "application/json"}
        assert self._client is not None
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._client.post(prediction.webhook_url, data=orjson.dumps(body), headers=headers) as answer:
                self.seen.webhooks.append({"id": prediction.id, "status": answer.status})

    async def get(self, request: web.Request) -> web.Response:
        now, prediction = time.monotonic(), self.predictions.get(request.match_info["id"])
        if prediction is None:
            return reply({"status": "error", "message": "Not found", "details": "no prediction has this id"}, 404)
        over = prediction.end <= now
        status = "success" if over else "processing"
        self.seen.gets.append({"at": now, "id": prediction.id, "status": status})
        seconds = prediction.end - prediction.begin
        return reply(
            {
                "id": prediction.id,
                "status": status,
                "input": prediction.input,
                "output": self.url(prediction) if over else None,
                "metrics": {"predict_time": seconds, "cost": seconds * USD_PER_SECOND} if over else {},
            }
        )

    async def history(self, request: web.Request) -> web.Response:
        """All predictions, the last one first."""
        now, first = time.monotonic(), int(request.query.get("offset", 0))
        rows = [
            {"id": each.id, "status": "success" if each.end <= now else "processing", "model": "real-esrgan"}
            for each in reversed(self.predictions.values())
        ]
        page = rows[first : first + int(request.query.get("limit", 20))]
        return reply({"executions": page, "total_count": len(rows), "total_capped": False})

    async def output(self, request: web.Request) -> web.Response:
        result = self.results[request.match_info["name"].removesuffix(".png")]
        await pause(self.options.download_seconds)
        return web.Response(body=result, content_type="image/png")

    async def report(self, _: web.Request) -> web.Response:
        predictions = [{"id": each.id, "begin": each.begin, "end": each.end} for each in self.predictions.values()]
        return reply({"predictions": predictions, **asdict(self.seen)})

    def url(self, prediction: Prediction) -> str:
        return f"{self.here}/outputs/{prediction.result}.png"

    def make(self, size: str) -> None:
        """The result of a size, `WIDTHxHEIGHT`: what every picture of the benchmark shows."""
        if size not in self.results:
            width, height = map(int, size.split("x"))
            picture = scene(width, height).cast("uchar").copy(interpretation="srgb")
            self.results[size] = picture.write_to_buffer(".png")

    async def serve(self) -> None:
        """Until its process is ended."""
        for size in self.options.ready:
            self.make(size)
        runner = web.AppRunner(self.app(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        self.here = f"http://127.0.0.1:{runner.addresses[0][1]}"
        print(f"{self.here}/v1", flush=True)
        while True:
            due = time.monotonic() + TICK_SECONDS
            await pause(TICK_SECONDS)
            self.seen.late.append(time.monotonic() - due)


def reply(value: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """What it is to be like; seconds as the client meets them, whatever they stand for."""
    parser = argparse.ArgumentParser("bench.service", description="A light stand-in for the hosted API.")
    parser.add_argument("--in-flight-max", type=int, default=10)
    parser.add_argument("--creates-per-minute-max", type=int, default=100)
    parser.add_argument("--minute", type=float, default=60.0, help="seconds that the limit on creates looks back")
    parser.add_argument("--predict-seconds", type=float, default=16.0, help="median of the lognormal distribution")
    parser.add_argument("--predict-sigma", type=float, default=0.0, help="its sigma; 0: all take the same time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--upload-seconds", type=float, default=0.0, help="what each PUT takes at least")
    parser.add_argument("--download-seconds", type=float, default=0.0, help="what each result takes at least")
    parser.add_argument("--webhooks", action="store_true", help="post them, at the very end of each prediction")
    parser.add_argument("--ready", nargs="*", default=[], metavar="WxH", help="sizes of results, made beforehand")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(Service(parse()).serve())
