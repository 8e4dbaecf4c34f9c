"""
App: the routes of the hosted API, on aiohttp.

Everything below `/v1` wants the key. The file host beside it wants none: whoever knows a name may read, whoever has a
presigned URL may write once. Every failure is answered in JSON as `{"status": "error", "message", "details"}`, and no
exception of ours reaches aiohttp.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from aiohttp import ClientError, web
from aiohttp.typedefs import Middleware
from structlog.typing import FilteringBoundLogger

from daemon.server import bodies
from daemon.server.bodies import Refusal
from daemon.server.outbound import CHUNK_BYTES
from daemon.server.prediction import rfc3339
from daemon.server.predictions import Predictions
from daemon.server.settings import ServerSettings
from daemon.server.store import Store
from daemon.server.uploads import TOKEN_HEADER, Uploads, same

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY_BYTES_MAX = 64 * 1024


class Api:
    """One handler a call."""

    def __init__(
        self,
        settings: ServerSettings,
        store: Store,
        predictions: Predictions,
        uploads: Uploads,
        log: FilteringBoundLogger,
        troubles: Sequence[Middleware] = (),
    ) -> None:
        """troubles: faults made on purpose, for tests of those who use the API."""
        self._troubles = troubles
        self._settings = settings
        self._store = store
        self._predictions = predictions
        self._uploads = uploads
        self._log = log

    def application(self) -> web.Application:
        """The routes behind the middlewares, the outermost first; faults made on purpose need no key."""
        middlewares = [self._answer_failures, *self._troubles, self._require_key]
        app = web.Application(middlewares=middlewares, client_max_size=BODY_BYTES_MAX)
        app.add_routes(
            [
                web.post("/v1/prediction", self._create),
                web.post("/v1/prediction/", self._create),
                web.get("/v1/prediction/{id}", self._get),
                web.post("/v1/prediction/{id}/cancel", self._cancel),
                web.get("/v1/executions", self._history),
                web.post("/v1/upload/presign", self._presign),
                web.delete("/v1/files/{id}", self._delete),
                web.put("/uploads/{id}", self._put),
                web.get("/files/{name}", self._file),
                web.get("/outputs/{name}", self._output),
            ]
        )
        return app

    @web.middleware
    async def _answer_failures(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
            return failure(refusal.status, refusal.message, refusal.details, headers)
        except web.HTTPException as error:
            kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            return failure(error.status, error.reason, "", kept)
        except (ClientError, ConnectionError, web.RequestPayloadError):
            return failure(400, "Bad request", "the body was cut short")
        except Exception as error:  # noqa: BLE001  (a request must get its answer, whatever went wrong)
            # The type alone: a message or a traceback could carry a URL or a key.
            self._log.error("request_failed", method=request.method, error=type(error).__name__)
            return failure(500, "Internal server error", "")

    @web.middleware
    async def _require_key(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/v1/"):
            scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
            given = request.headers.get("X-API-Key") or (bearer if scheme.lower() == "bearer" else "")
            if not same(self._settings.key, given):
                raise Refusal(401, "Unauthorized", "the API key is missing or wrong")
        return await handler(request)

    async def _create(self, request: web.Request) -> web.Response:
        order = bodies.parse_create(await request.read())
        prediction = await self._predictions.create(order, origin(request))
        return reply({"status": "success", "message": "Prediction created successfully", "predictionID": prediction.id})

    async def _get(self, request: web.Request) -> web.Response:
        prediction = self._predictions.get(request.match_info["id"])
        if prediction is None:
            raise Refusal(404, "Not found", "no prediction has this id")
        return reply(prediction.answer(origin(request), billed=self._settings.usd_per_second > 0))

    async def _cancel(self, request: web.Request) -> web.Response:
        prediction = await self._predictions.cancel(request.match_info["id"])
        if prediction is None:
            # So it is with the hosted service.
            raise Refusal(500, "Internal server error", "no prediction has this id")
        return reply(
            {"status": "success", "message": f"Prediction is {prediction.status}", "predictionID": prediction.id}
        )

    async def _history(self, request: web.Request) -> web.Response:
        query = bodies.parse_history(request.query)
        page, total = self._predictions.history(query)
        return reply(
            {
                "executions": [prediction.row() for prediction in page],
                "total_count": total,
                "total_capped": False,
                "limit": query.limit,
                "offset": query.offset,
            }
        )

    async def _presign(self, request: web.Request) -> web.Response:
        content_type, seconds = bodies.parse_presign(await request.read())
        upload = await self._uploads.presign(content_type, seconds)
        here = origin(request)
        return reply(
            {
                "id": upload.id,
                "presigned_url": f"{here}/uploads/{upload.id}?signature={upload.signature}",
                "public_url": f"{here}/files/{upload.name}",
                "expires_at": rfc3339(upload.expires_at),
                "required_headers": {TOKEN_HEADER: upload.token},
            }
        )

    async def _put(self, request: web.Request) -> web.Response:
        upload = self._uploads.admit(request.match_info["id"], request.query.get("signature", ""), request.headers)
        try:
            async with asyncio.timeout(self._settings.put_seconds):
                await self._uploads.receive(upload, request.content.iter_chunked(CHUNK_BYTES))
        except TimeoutError:
            raise Refusal(408, "Request timeout", "the upload took too long") from None
        return web.Response()

    async def _delete(self, request: web.Request) -> web.Response:
        await self._uploads.delete(request.match_info["id"])
        return web.Response(status=204)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        found = self._uploads.find(request.match_info["name"])
        if found is None:
            raise Refusal(404, "Not found", "there is no such file")
        return picture(*found)

    async def _output(self, request: web.Request) -> web.StreamResponse:
        # A route's name has no slash in it, and the pattern leaves no other way out of the directory.
        name = request.match_info["name"]
        if not bodies.OUTPUT_NAME.fullmatch(name):
            raise Refusal(404, "Not found", "there is no such file")
        return picture(self._store.path("outputs", name), "image/png")


def origin(request: web.Request) -> str:
    """Scheme and host under which this client reaches us; a TLS proxy in front says so in a header."""
    scheme = "https" if request.headers.get("X-Forwarded-Proto") == "https" else request.scheme
    return f"{scheme}://{request.host}"


def reply(value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json", headers=headers)


def failure(status: int, message: str, details: str, headers: dict[str, str] | None = None) -> web.Response:
    """A failure, in the body that the model's page shows."""
    return reply({"status": "error", "message": message, "details": details}, status, headers)


def picture(path: Path, content_type: str) -> web.FileResponse:
    """A file; one that is gone is a 404."""
    return web.FileResponse(path, headers={"Content-Type": content_type})
