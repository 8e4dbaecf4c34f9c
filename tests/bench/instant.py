"""
Instant: the prediction API for benchmarks, in a process of its own, on loopback, with a service that takes no time.

Promises of uploads, create, get, history and download what the hosted API does, as far as the daemon asks. Every
prediction is over when it is created, or never (`--never`); the result is one file, made before anything is timed. The
first line is the base URL; then a line for each create, with its moment on the machine's monotonic clock, and one for
each upload that was deleted. What is measured is whoever calls it: it looks at no key and counts no limits.
"""

import argparse
import asyncio
import itertools
import signal
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

KEPT_BYTES_MAX = 4096  # what the daemon's look at its storage puts is read back; a picture is not


class Instant:
    """What was uploaded and created."""

    def __init__(self, result: Path, *, never: bool) -> None:
        self.result = result
        self.never = never
        self.base_url = ""
        self.uploads: dict[str, bytes] = {}
        self.predictions: dict[str, dict[str, object]] = {}
        self.count = itertools.count(1)

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/upload/presign", self.presign),
                web.put("/put/{id}", self.put),
                web.get("/file/{id}", self.file),
                web.delete("/v1/files/{id}", self.delete),
                web.post("/v1/prediction", self.create),
                web.post("/v1/prediction/", self.create),
                web.get("/v1/prediction/{id}", self.get),
                web.get("/v1/executions", self.history),
                web.get("/result/{id}", self.download),
            ]
        )
        return app

    async def presign(self, request: web.Request) -> web.Response:
        upload = f"file-{next(self.count)}"
        addresses = {"presigned_url": f"{self.base_url}/put/{upload}", "public_url": f"{self.base_url}/file/{upload}"}
        return web.json_response({"id": upload, **addresses, "required_headers": {"x-file": upload}})

    async def put(self, request: web.Request) -> web.Response:
        begin = bytearray()
        async for block in request.content.iter_any():
            begin += block[: KEPT_BYTES_MAX - len(begin)]
        self.uploads[request.match_info["id"]] = bytes(begin)
        return web.Response()

    async def file(self, request: web.Request) -> web.Response:
        return web.Response(body=self.uploads[request.match_info["id"]])

    async def delete(self, request: web.Request) -> web.Response:
        self.uploads.pop(request.match_info["id"], None)
        say("deleted", request.match_info["id"])
        return web.Response(status=204)

    async def create(self, request: web.Request) -> web.Response:
        arrived = time.monotonic()
        prediction = str(uuid.uuid4())
        body = await request.json()
        self.predictions[prediction] = {
            "id": prediction,
            "status": "processing" if self.never else "success",
            "input": body["input"],
            "output": None if self.never else f"{self.base_url}/result/{prediction}",
            "metrics": {} if self.never else {"predict_time": 1.0, "cost": 0.000248},
            "created_at": datetime.now(UTC).isoformat(),
        }
        say("created", f"{arrived:.6f}")
        return web.json_response({"status": "success", "message": "accepted", "predictionID": prediction})

    async def get(self, request: web.Request) -> web.Response:
        known = self.predictions.get(request.match_info["id"])
        return web.json_response(known or {"error": "not found"}, status=200 if known else 404)

    async def history(self, request: web.Request) -> web.Response:
        offset, limit = (int(request.query.get(name, usual)) for name, usual in (("offset", 0), ("limit", 100)))
        rows = [{"id": known["id"], "created_at": known["created_at"]} for known in self.predictions.values()]
        page = rows[::-1][offset : offset + limit]
        return web.json_response({"executions": page, "total_count": len(rows), "total_capped": False})

    async def download(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(self.result)


def say(what: str, about: str) -> None:
    print(what, about, flush=True)


async def serve(instant: Instant) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(instant.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    instant.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    print(f"{instant.base_url}/v1", flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="A prediction API that takes no time.")
    parser.add_argument("result", type=Path, help="the PNG that every prediction ends with")
    parser.add_argument("--never", action="store_true", help="no prediction is ever over")
    options = parser.parse_args()
    asyncio.run(serve(Instant(options.result, never=options.never)))


if __name__ == "__main__":
    main()
