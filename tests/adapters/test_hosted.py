"""The prediction API as it may really behave: every row of its tables, and what no table says."""

import asyncio
import errno
import gzip
import io
import json
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes.clock import FakeClock

from daemon import wiring
from daemon.adapters.answers import one_line, progress, retry_after, same_url, without
from daemon.adapters.api import ANSWER_BYTES_MAX
from daemon.adapters.hosted import HISTORY_PAGES_MAX, HostedPredictor
from daemon.adapters.http import Http
from daemon.adapters.vendor_upload import VendorStorage
from daemon.api import Api
from daemon.config import parse
from daemon.ports import Running, Spoiled, Succeeded
from daemon.rules.faults import Blame, Created, Expired, Fault, Gate, NotAPicture, Outlook, Unknown
from daemon.rules.hooks import Hook
from daemon.rules.recipe import Recipe

KEY = "key-0123456789abcdef"
USUAL = 16.1 * 0.0002475  # USD, where the API says nothing at all
SIGNATURE = "5ec2e7f00d"
IMAGE = f"https://storage.googleapis.com/b/esrgand/ab%2Fc.png?X-Goog-Credential=a%40b&X-Goog-Signature={SIGNATURE}"
RESULT = "https://cdn.example.org/out.png"
TOKEN = "f35117a8cd689aa9faa6b844dea0904d"
HOOK = Hook(f"https://nas.example.org/hook/{TOKEN}", 'wh-5ecre7-"of\\the-tests')
ACCEPTED = {"status": "success", "message": "ok", "predictionID": "4b3c-1_A"}

Step = Callable[[web.Request], web.StreamResponse] | web.StreamResponse | str


class Service:
    """A real server that answers with whatever is next: a response, or a way to misbehave."""

    def __init__(self) -> None:
        self.script: list[Step] = []
        self.seen: list[web.Request] = []
        self.bodies: list[object] = []
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        self.server = TestServer(app)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        body = await request.read()
        self.bodies.append(json.loads(body) if body else None)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if step == "hang":
            await asyncio.Event().wait()
        if step == "cut":
            assert request.transport
            request.transport.abort()
            return web.Response()
        if step in ("half", "drip"):
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"predictionID": "half')
            if step == "drip":
                await asyncio.Event().wait()
            assert request.transport
            request.transport.abort()
            return response
        if callable(step):
            return step(request)
        assert isinstance(step, web.StreamResponse)
        return step

    def url(self, path: str = "/v1") -> str:
        return str(self.server.make_url(path))


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    async with service.server:
        yield service


@pytest.fixture
async def api(service: Service, clock: FakeClock) -> AsyncIterator[HostedPredictor]:
    http = Http(clock, insecure_loopback=True)
    api = HostedPredictor(service.url(), KEY, http, clock, create_seconds_max=5.0, stall_seconds_max=0.2)
    yield api
    await api.close()
    await api.close()


def body(document: object, status: int = 200, **headers: str) -> web.Response:
    return web.json_response(document, status=status, headers=headers)


async def create_fault(api: HostedPredictor, hook: Hook | None = None) -> Fault:
    with pytest.raises(Fault) as caught:
        await api.create(Recipe(), IMAGE, hook)
    return caught.value


async def get_fault(api: HostedPredictor) -> Fault:
    with pytest.raises(Fault) as caught:
        await api.get("p1")
    return caught.value


# Create


@pytest.mark.parametrize("status", [200, 201])
async def test_create(api: HostedPredictor, service: Service, status: int) -> None:
    service.script = [body(ACCEPTED, status)]
    assert await api.create(Recipe(), IMAGE) == "4b3c-1_A"
    (request,) = service.seen
    assert (request.method, request.path, request.headers["X-API-Key"]) == ("POST", "/v1/prediction/", KEY)
    assert request.headers["User-Agent"].startswith("esrgand/")
    assert service.bodies == [
        {"model": "real-esrgan", "input": {"image": IMAGE, "scale": 4, "face_enhance": False}},
    ]


async def test_a_create_tells_where_to_call(api: HostedPredictor, service: Service) -> None:
    service.script = [body(ACCEPTED)]
    assert await api.create(Recipe(), IMAGE, HOOK) == "4b3c-1_A"
    assert service.bodies == [
        {
            "model": "real-esrgan",
            "input": {"image": IMAGE, "scale": 4, "face_enhance": False},
            "webhook_url": HOOK.url,
            "webhook_secret": HOOK.secret,
        }
    ]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    "document",
    [
        {"error": f"webhook_url {HOOK.url} must be https"},
        {"details": [{"loc": ["body"], "msg": f"Webhook_Secret {HOOK.secret}: too long: {HOOK.secret}"}]},
        f"webhook: {TOKEN} " + "x" * 300,
        "webhook " + "x" * 285 + HOOK.secret,
    ],
)
async def test_a_refused_address_for_webhooks_is_no_pictures_fault(
    api: HostedPredictor, service: Service, status: int, document: object
) -> None:
    service.script = [body(document, status)]
    fault = await create_fault(api, HOOK)
    assert (fault.blame, fault.outlook, fault.gate) == (Blame.SERVICE, Outlook.LASTING, Gate.API)
    assert (fault.created, "public_url" in fault.remedy) == (Created.NO, True)
    for secret in (TOKEN, HOOK.secret, HOOK.secret[:9]):
        assert secret not in fault.said


@pytest.mark.parametrize("hook", [None, HOOK])
@pytest.mark.parametrize("shape", ['{"error": "scale"}', "[" * 500 + "]" * 500, "nonsense", '["\\nnothing"]'])
async def test_a_refused_picture_is_one_with_webhooks_too(
    api: HostedPredictor, service: Service, hook: Hook | None, shape: str
) -> None:
    service.script = [web.Response(status=400, body=shape.encode())]
    fault = await create_fault(api, hook)
    assert (fault.blame, fault.outlook, fault.gate) == (Blame.PICTURE, Outlook.LASTING, None)


async def test_a_secret_is_found_however_it_is_escaped(service: Service, clock: FakeClock) -> None:
    """A slash may be written in many ways, in JSON, in JSON within JSON, and in a URL within that."""
    key, secret = "k/y+0123456789abcdef=", 'wh/5ecre7-"of\\the-tests'
    http = Http(clock, insecure_loopback=True)
    api = HostedPredictor(service.url(), key, http, clock, secrets=[secret])
    slash = chr(92) + "/"
    unicode = chr(92) + "u002f"
    for text in (key, secret):
        plain = json.dumps(text)
        for quoted in (
            plain,
            plain.replace("/", slash),
            plain.replace("/", unicode),
            plain.replace("/", unicode.upper().replace("U", "u")),
            json.dumps(plain.replace("/", slash)),
            json.dumps(json.dumps(plain.replace("/", slash))),
            json.dumps(plain.replace("/", unicode)),
            json.dumps(quote(text, safe="")),
            json.dumps(quote(quote(text, safe="").lower(), safe="")),
        ):
            for shape in (
                f'{{"status": "failed", "error": {quoted}}}',
                f'{{"status": "failed", "logs": [{quoted}]}}',
                f'{{"status": "failed", "output": [{{"error": {{"message": {quoted}}}}}]}}',
                f'{{"status": {quoted}}}',
            ):
                service.script = [web.Response(body=shape.encode())]
                shown = str(await api.get("p1")) + "."
                assert "***" in shown
                assert not [part for part in ("0123456789", "5ecre7") if part in shown], shown
    await http.close()


async def test_what_webhooks_have_to_show_is_in_no_report(service: Service, clock: FakeClock, tmp_path: Path) -> None:
    """After a restart too, when no create of this run has told it; and with the picture's upload as well."""
    (tmp_path / "hook").write_text("wh/5ecre7-of-the-tests\n")
    config = parse(
        """
        [storage]
        kind = "vendor"
        [webhook]
        public_url = "https://nas.example.org/hook"
        secret_file = "hook"
        [[folder]]
        inbox = "in"
        outbox = "out"
        """,
        tmp_path,
    )
    http = Http(clock, insecure_loopback=True)
    predictor, storage = wiring.services(config, Api(service.url(), KEY, "x", local=True), http, clock)
    echo = {"error": "told wh/5ecre7-of-the-tests"}
    service.script = [body(echo | {"status": "failed"})]
    assert await predictor.get("p1") == Spoiled("told ***", False, 0.0)
    service.script = [body(echo, 400)]
    with pytest.raises(Fault, match=r"told \*\*\*"):
        await storage.put("a", io.BytesIO(b"x"), 1, "image/png")
    await http.close()


def test_what_is_secret_in_a_name_is_one_too() -> None:
    document = {f"with {KEY}": {KEY: [KEY, 1, None]}, "b": True}
    assert without(document, [KEY]) == {"with ***": {"***": ["***", 1, None]}, "b": True}
    assert without(f"{KEY}-more", [KEY, f"{KEY}-more"]) == "***", "no end of a longer one is left"
    assert without("e " * 3, ["e"]) == "e " * 3, "what is short may be an innocent word"
    deep: object = KEY
    for _ in range(900):
        deep = [deep]
    assert KEY not in str(without(deep, [KEY]))


@pytest.mark.parametrize(
    "address", [HOOK.url, f"https://nas.example.org/of/a/proxy/{TOKEN}", f"POST /hook/{TOKEN} 500"]
)
@pytest.mark.parametrize("form", [str, lambda text: quote(text, safe=""), lambda text: quote(text, safe="").lower()])
async def test_a_question_shows_nobody_where_we_hear_webhooks(
    api: HostedPredictor, service: Service, address: str, form: Callable[[str], str]
) -> None:
    """Whoever knows the address could make us ask; the API may tell of a call that failed."""
    service.script = [body({"status": "failed", "error": f"CUDA out of memory; calling {form(address)} failed"})]
    spoiled = await api.get("p1")
    assert isinstance(spoiled, Spoiled)
    assert TOKEN not in spoiled.reason
    assert "failed" in spoiled.reason


async def test_a_short_secret_spoils_no_answer(api: HostedPredictor, service: Service) -> None:
    service.script = [body({"error": "no image"}, 400)]
    assert "no image" in (await create_fault(api, Hook(HOOK.url, "e"))).said


async def test_bearer(service: Service, clock: FakeClock) -> None:
    service.script = [body(ACCEPTED)]
    http = Http(clock, insecure_loopback=True)
    await HostedPredictor(service.url() + "/", KEY, http, clock, auth="bearer").create(Recipe(), IMAGE)
    assert service.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    assert "X-API-Key" not in service.seen[0].headers
    await http.close()


@pytest.mark.parametrize("location", ["/v1/prediction", "http://{host}/v1/prediction", "https://{host}/v1/prediction"])
async def test_a_redirect_by_a_slash_is_learnt(api: HostedPredictor, service: Service, location: str) -> None:
    def redirect(request: web.Request) -> web.Response:
        if request.path.endswith("/"):
            return web.Response(status=308, headers={"Location": location.format(host=request.host)})
        return body(ACCEPTED)

    service.script = [redirect]
    both = await asyncio.gather(*(api.create(Recipe(), IMAGE) for _ in range(2)))
    assert both == ["4b3c-1_A"] * 2
    assert await api.create(Recipe(), IMAGE) == "4b3c-1_A"
    assert [request.path[-1] for request in service.seen] in (["/", "/", "n", "n", "n"], ["/", "n", "/", "n", "n"])


@pytest.mark.parametrize("location", ["/login", "https://example.org/v1/prediction", "//[", ""])
async def test_any_other_redirect_is_not_followed(api: HostedPredictor, service: Service, location: str) -> None:
    service.script = [web.Response(status=307, headers={"Location": location})]
    fault = await create_fault(api)
    assert (fault.created, fault.outlook, fault.gate) == (Created.NO, Outlook.LASTING, Gate.API)
    assert len(service.seen) == 1


async def test_redirects_in_a_circle_end(api: HostedPredictor, service: Service) -> None:
    service.script = [
        lambda request: web.Response(
            status=301, headers={"Location": request.path[:-1] if request.path.endswith("/") else request.path + "/"}
        )
    ]
    assert (await create_fault(api)).created is Created.NO
    assert len(service.seen) == 2


REFUSALS = [
    (400, Blame.PICTURE, Outlook.LASTING, None, Created.NO),
    (422, Blame.PICTURE, Outlook.LASTING, None, Created.NO),
    (401, Blame.SERVICE, Outlook.LASTING, Gate.API, Created.NO),
    (403, Blame.SERVICE, Outlook.LASTING, Gate.API, Created.NO),
    (402, Blame.SERVICE, Outlook.LASTING, Gate.API, Created.NO),
    (404, Blame.SERVICE, Outlook.LASTING, Gate.API, Created.NO),
    (405, Blame.SERVICE, Outlook.PASSING, Gate.API, Created.NO),
    (429, Blame.SERVICE, Outlook.PASSING, Gate.API, Created.NO),
    (500, Blame.SERVICE, Outlook.PASSING, Gate.API, Created.MAYBE),
    (502, Blame.SERVICE, Outlook.PASSING, Gate.API, Created.MAYBE),
    (504, Blame.SERVICE, Outlook.PASSING, Gate.API, Created.MAYBE),
]
SHAPES = ["{}", "[]", "null", "", "<html>Bad</html>", '{"error": {"message": "x"}}', '"text"', "\xff", "[" * 5000]


@pytest.mark.parametrize(("status", "blame", "outlook", "gate", "created"), REFUSALS)
async def test_a_status_decides_whatever_the_body(
    api: HostedPredictor,
    service: Service,
    status: int,
    blame: Blame,
    outlook: Outlook,
    gate: Gate | None,
    created: Created,
) -> None:
    for shape in SHAPES:
        service.script = [web.Response(status=status, body=shape.encode("latin-1"))]
        fault = await create_fault(api)
        assert (fault.blame, fault.outlook, fault.gate, fault.created) == (blame, outlook, gate, created)
        assert fault.remedy or outlook is Outlook.PASSING
        assert "\n" not in fault.said


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"status": "error", "message": "Invalid input", "details": "scale\x07\n is too large"}, "scale is too large"),
        ({"error": "no image"}, "no image"),
        ({"status": 400, "error": "Bad Request", "details": {"message": "scale: must be <= 10"}}, "must be <= 10"),
        ({"detail": [{"loc": ["input"], "msg": "field required"}]}, "field required"),
        ({}, "gave no reason"),
    ],
)
async def test_a_refused_picture_says_why(api: HostedPredictor, service: Service, document: object, words: str) -> None:
    service.script = [body(document, 400)]
    assert words in (await create_fault(api)).said


@pytest.mark.parametrize("document", [{}, [], "text", None, {"predictionID": ""}, {"id": "../x"}, {"id": 7}])
async def test_accepted_without_an_id_is_in_doubt(api: HostedPredictor, service: Service, document: object) -> None:
    service.script = [body(document, 201)]
    fault = await create_fault(api)
    assert (fault.created, fault.gate, fault.blame) == (Created.MAYBE, Gate.API, Blame.SERVICE)


@pytest.mark.parametrize("way", ["cut", "half", "drip", "hang"])
async def test_a_create_without_its_answer_is_in_doubt_and_not_repeated(
    service: Service, clock: FakeClock, way: str
) -> None:
    service.script = [way]
    http = Http(clock, insecure_loopback=True)
    fault = await create_fault(HostedPredictor(service.url(), KEY, http, clock, create_seconds_max=0.3))
    assert (fault.created, fault.gate, fault.outlook) == (Created.MAYBE, Gate.API, Outlook.PASSING)
    assert len(service.seen) == 1
    await http.close()


async def test_an_api_that_is_not_there_has_created_nothing(service: Service, clock: FakeClock) -> None:
    url = service.url()
    await service.server.close()
    http = Http(clock, insecure_loopback=True)
    fault = await create_fault(HostedPredictor(url, KEY, http, clock))
    assert fault.created is Created.NO
    assert "connection refused" in fault.said
    await http.close()


async def test_retry_after_is_passed_on(api: HostedPredictor, service: Service) -> None:
    service.script = [body({}, 429, **{"Retry-After": "17"})]
    assert (await create_fault(api)).retry_after == 17.0


def test_an_error_code_of_any_kind_is_looked_at() -> None:
    deep: object = "PROVIDER_RATE_LIMIT"
    for _ in range(5000):
        deep = [deep]
    for code in (deep, 10**5000, {"code": "PROVIDER_RATE_LIMIT"}):
        assert progress({"status": "error", "error": "x", "error_code": code}) == Spoiled("x", False, 0.0)


def test_retry_after() -> None:
    now = 1_790_000_000.0
    date = format_datetime(datetime.fromtimestamp(now + 90, UTC), usegmt=True)
    assert retry_after(date, now) == 90.0
    assert retry_after(date, now + 1000) == 0.0
    assert retry_after("999999", now) == 3600.0
    assert retry_after("1.5", now) == 1.5
    for nonsense in (None, "", "soon", "nan", "-5", "inf", "Mon, 99 Foo", "9" * 400 + "x"):
        assert retry_after(nonsense, now) is None
    for digits in ("9" * 12, "9" * 5000):
        assert retry_after(f"Mon, 01 Jan {digits} 00:00:00 GMT", now) is None
    assert retry_after("Mon, 01 Jan 2024 00:00:00 +" + "9" * 14, now) is None


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "clé"])
def test_a_key_that_cannot_be_one(clock: FakeClock, key: str) -> None:
    with pytest.raises(Fault) as caught:
        HostedPredictor("https://api.example.org", key, Http(clock, insecure_loopback=False), clock)
    assert caught.value.remedy
    assert not key or key not in caught.value.said


# Get


@pytest.mark.parametrize("status", ["created", "starting", "queued", "processing", "running", "Warming_Up"])
async def test_not_over(api: HostedPredictor, service: Service, status: str) -> None:
    service.script = [body({"id": "p1", "status": status, "output": None})]
    assert await api.get("p1") == Running(status.lower())
    assert service.seen[0].path == "/v1/prediction/p1"


@pytest.mark.parametrize("status", ["success", "succeeded", "completed", " SUCCESS "])
@pytest.mark.parametrize(
    "output", [RESULT, [RESULT], {"url": RESULT}, [{"url": RESULT}], {"image": {"url": RESULT}}, [None, "", RESULT]]
)
async def test_success(api: HostedPredictor, service: Service, status: str, output: object) -> None:
    metrics = {"predict_time": 16.1, "cost": 0.004}
    service.script = [body({"id": "p1", "status": status, "output": output, "metrics": metrics})]
    assert await api.get("p1") == Succeeded(RESULT, 0.004, 16.1)


@pytest.mark.parametrize(
    ("document", "cost"),
    [
        ({"metrics": {"predict_time": 16, "cost": 0}}, 0.00396),
        ({"metrics": {"predict_time": 16}}, 0.00396),
        ({"metrics": {"predict_time": "16", "cost": "0.5"}}, 0.5),
        ({"metrics": {"predict_time": 16}, "billed": False}, 0.0),
        ({"metrics": {"predict_time": True, "cost": -3}}, USUAL),
        ({"metrics": {"predict_time": "inf", "cost": "nan"}}, USUAL),
        ({"metrics": {"cost": 1e308}}, 1e6),
        ({"metrics": {"predict_time": 1e308}}, 1e6),
        ({"metrics": [1]}, USUAL),
        ({}, USUAL),
    ],
)
async def test_cost(api: HostedPredictor, service: Service, document: dict[str, object], cost: float) -> None:
    service.script = [body({"status": "success", "output": RESULT, **document})]
    progress = await api.get("p1")
    assert isinstance(progress, Succeeded)
    assert progress.cost_usd == pytest.approx(cost)


@pytest.mark.parametrize("output", [None, "", [], {}, "data:image/png;base64,AA", "/out.png", 7, [[[[[[RESULT]]]]]]])
async def test_success_without_a_result_is_asked_for_again(
    api: HostedPredictor, service: Service, output: object
) -> None:
    service.script = [body({"status": "success", "output": output})]
    fault = await get_fault(api)
    assert (fault.blame, fault.outlook) == (Blame.SERVICE, Outlook.PASSING)


TOO_LARGE = "Input image of dimensions (9, 9, 3) is greater than the max size that fits in GPU memory"


@pytest.mark.parametrize(
    ("document", "reason", "passing"),
    [
        ({"output": {"error_message": "bad bytes"}, "metrics": {"predict_time": 9}}, "bad bytes", False),
        ({"output": {"error": "bad bytes", "retryable": True}}, "bad bytes", True),
        ({"output": [{"error": "bad bytes"}]}, "bad bytes", False),
        ({"error": "CUDA out of memory. Tried to allocate"}, "CUDA out of memory. Tried to allocate", True),
        ({"error": TOO_LARGE, "output": {"retryable": True}}, TOO_LARGE, False),
        ({"message": "failed", "details": "why"}, "failed: why", False),
        ({"logs": "start\nTraceback\nValueError: x\n\n"}, "ValueError: x", False),
        ({"output": {"error": "x", "error_code": "PROVIDER_RATE_LIMIT"}}, "x", True),
        ({"error": "PROVIDER_SERVER_ERROR"}, "PROVIDER_SERVER_ERROR", True),
        ({"error": "x", "error_code": [["PROVIDER_RATE_LIMIT"]]}, "x", False),
        ({"error": {"message": "NETWORK_ERROR"}}, "NETWORK_ERROR", True),
        ({}, "The API gave no reason.", False),
        ({"output": [], "error": None, "logs": 7, "metrics": "?"}, "The API gave no reason.", False),
    ],
)
@pytest.mark.parametrize("status", ["error", "failed"])
async def test_failed(
    api: HostedPredictor, service: Service, status: str, document: dict[str, object], reason: str, passing: bool
) -> None:
    service.script = [body({"status": status, **document})]
    assert await api.get("p1") == Spoiled(reason, passing, 0.0)


@pytest.mark.parametrize("status", ["cancelled", "canceled"])
async def test_cancelled(api: HostedPredictor, service: Service, status: str) -> None:
    service.script = [body({"status": status, "metrics": {"cost": 0.1}})]
    assert await api.get("p1") == Spoiled("The prediction was cancelled.", True, 0.1)


async def test_an_unknown_prediction(api: HostedPredictor, service: Service) -> None:
    service.script = [body({}, 404)]
    assert isinstance(await get_fault(api), Unknown)


@pytest.mark.parametrize(
    ("status", "outlook", "gate"),
    [
        (301, Outlook.LASTING, Gate.API),
        (400, Outlook.PASSING, None),
        (401, Outlook.LASTING, Gate.API),
        (402, Outlook.LASTING, Gate.API),
        (429, Outlook.PASSING, Gate.API),
        (500, Outlook.PASSING, Gate.API),
    ],
)
async def test_a_get_never_blames_the_picture(
    api: HostedPredictor, service: Service, status: int, outlook: Outlook, gate: Gate | None
) -> None:
    service.script = [body({}, status)]
    fault = await get_fault(api)
    assert (fault.blame, fault.outlook, fault.gate) == (Blame.SERVICE, outlook, gate)


# Find


def history(service: Service, rows: list[dict[str, object]], images: dict[str, object], **more: object) -> None:
    def answer(request: web.Request) -> web.Response:
        if request.path == "/v1/executions":
            assert request.query["model"] == "real-esrgan"
            start = int(request.query["offset"])
            page = rows[start : start + min(int(request.query["limit"]), 2)]
            return body({"executions": page, "total_count": len(rows), **more})
        prediction = request.path.rpartition("/")[2]
        if prediction not in images:
            return body({}, 500)
        return body({"id": prediction, "status": "created", "input": images[prediction]})

    service.script = [answer]


def row(prediction: str, made: float | None = None) -> dict[str, object]:
    return {"id": prediction} | ({"created_at": datetime.fromtimestamp(made, UTC).isoformat()} if made else {})


async def test_find(api: HostedPredictor, service: Service, clock: FakeClock) -> None:
    now = clock.wall()
    rows = [row("p1", now), row("p2", now), row("p3", now), row("old", now - 300 - 86_401)]
    images: dict[str, object] = {name: {"image": f"{IMAGE}&n={name}"} for name in ("p1", "p2")}
    history(service, rows, {**images, "p3": {"image": IMAGE}, "old": {"image": IMAGE}})
    assert await api.find("real-esrgan", IMAGE, now) == "p3"
    assert await api.find("real-esrgan", IMAGE + "&n=p2", now) == "p2"
    assert await api.find("real-esrgan", "https://example.org/other", now) is None
    expected = datetime.fromtimestamp(now - 300, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert service.seen[0].query["from"] == expected
    assert not [request for request in service.seen if request.path.endswith("/old")]


@pytest.mark.parametrize("echo", [quote(IMAGE, safe=":/?&="), IMAGE.replace("%2F", "/").replace("%40", "@")])
async def test_an_echo_in_other_letters_is_found(api: HostedPredictor, service: Service, echo: str) -> None:
    assert echo != IMAGE
    history(service, [row("p1"), row("p2")], {"p1": {"image": echo + "1"}, "p2": {"image": echo}})
    assert await api.find("real-esrgan", IMAGE, 0.0) == "p2"


@pytest.mark.parametrize("behind", [3600.0, 86_400.0])
async def test_a_clock_of_ours_that_is_wrong_proves_no_absence(
    api: HostedPredictor, service: Service, clock: FakeClock, behind: float
) -> None:
    """The API's clock is behind ours: what was made just now was made, by its word, long before we asked."""
    made = clock.wall() - behind

    def answer(request: web.Request) -> web.Response:
        date = {"Date": formatdate(made + 1, usegmt=True)}
        if request.path == "/v1/executions":
            begun = datetime.strptime(request.query["from"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
            rows = [row("ours", made)] if begun <= made and request.query["offset"] == "0" else []
            return web.json_response({"executions": rows, "total_count": len(rows)}, headers=date)
        return web.json_response({"id": "ours", "status": "created", "input": {"image": IMAGE}}, headers=date)

    service.script = [answer]
    assert await api.find("real-esrgan", IMAGE, clock.wall()) == "ours"
    assert await api.find("real-esrgan", IMAGE + "&other", clock.wall()) is None


@pytest.mark.parametrize("given", [None, {}, [], "text"])
async def test_absence_is_not_claimed_where_a_candidate_cannot_be_seen(
    api: HostedPredictor, service: Service, given: object
) -> None:
    history(service, [row("p1"), row("p2"), row("p3")], {"p1": given, "p3": {"image": IMAGE}})
    assert await api.find("real-esrgan", IMAGE, 0.0) == "p3", "found is found"
    with pytest.raises(Fault):
        await api.find("real-esrgan", IMAGE + "x", 0.0)


@pytest.mark.parametrize(("status", "asked"), [(500, 3), (429, 1), (401, 1)])
async def test_a_look_ends_where_the_api_answers_nobody(
    api: HostedPredictor, service: Service, status: int, asked: int
) -> None:
    """Two hundred questions more would prolong what is wrong."""
    rows = body({"executions": [row(f"p{number}") for number in range(200)]})
    service.script = [rows, lambda _: web.Response(status=status)]
    with pytest.raises(Fault):
        await api.find("real-esrgan", IMAGE, 0.0)
    assert [request.path for request in service.seen].count("/v1/executions") == 1
    assert len(service.seen) == 1 + asked


async def test_rows_that_come_while_it_is_read_hide_nothing(api: HostedPredictor, service: Service) -> None:
    """Newest first, and a new one with each page: what stood there moves on, and is met twice rather than never."""
    rows = [row(f"p{number}") for number in range(250)]

    def answer(request: web.Request) -> web.Response:
        if request.path != "/v1/executions":
            image = IMAGE if request.path.endswith("/p249") else "https://example.org/other"
            return body({"status": "created", "input": {"image": image}})
        rows.insert(0, row(f"new-{len(rows)}"))
        offset = int(request.query["offset"])
        return body({"executions": rows[offset : offset + 100], "total_count": len(rows)})

    service.script = [answer]
    assert await api.find("real-esrgan", IMAGE, 0.0) == "p249"
    assert await api.find("real-esrgan", IMAGE + "&other", 0.0) is None


async def test_a_capped_count_does_not_end_the_search(api: HostedPredictor, service: Service) -> None:
    images: dict[str, object] = {"p1": {"image": "a"}, "p2": {"image": None}, "p3": {"image": IMAGE}}
    history(service, [row("p1"), row("p2"), row("p3")], images, total_count=2, total_capped=True)
    assert await api.find("real-esrgan", IMAGE, 0.0) == "p3"


@pytest.mark.parametrize(
    "document",
    [
        [],
        None,
        {},
        {"executions": None},
        {"executions": [{"status": "no id"}]},
        {"executions": ["p1"]},
    ],
)
async def test_a_history_that_is_none(api: HostedPredictor, service: Service, document: object) -> None:
    service.script = [body(document)]
    with pytest.raises(Fault):
        await api.find("real-esrgan", IMAGE, 0.0)


async def test_a_history_without_end_is_given_up(api: HostedPredictor, service: Service) -> None:
    def answer(request: web.Request) -> web.Response:
        if request.path != "/v1/executions":
            return body({"status": "created", "input": {"image": "x"}})
        return body({"executions": [{"id": f"p{request.query['offset']}"}]})

    service.script = [answer]
    with pytest.raises(Fault, match="cannot be read to its end"):
        await api.find("real-esrgan", IMAGE, 0.0)
    assert len([request for request in service.seen if request.path == "/v1/executions"]) == HISTORY_PAGES_MAX


async def test_a_history_that_ignores_the_offset_is_given_up(api: HostedPredictor, service: Service) -> None:
    service.script = [
        lambda request: body({"executions": [{"id": "p1"}], "status": "created", "input": {"image": "other"}})
    ]
    with pytest.raises(Fault, match="same rows twice"):
        await api.find("real-esrgan", IMAGE, 0.0)


@pytest.mark.parametrize(
    ("status", "outlook"), [(404, Outlook.LASTING), (501, Outlook.LASTING), (500, Outlook.PASSING)]
)
async def test_no_history(api: HostedPredictor, service: Service, status: int, outlook: Outlook) -> None:
    service.script = [body({}, status)]
    with pytest.raises(Fault) as caught:
        await api.find("real-esrgan", IMAGE, 0.0)
    assert caught.value.outlook is outlook


def test_same_url() -> None:
    url = "https://Host.example.org/b/a b+c/é.png?X=a/b@c&Y=1+2"
    for other in (
        quote(url, safe=":/?&="),
        quote(url, safe=":/?&=@+"),
        quote(quote(url, safe=":/?&="), safe=":/?&="),
        url.replace(" ", "+").replace("Host", "host"),
        "https://host.example.org:443/b/a b c/%C3%A9.png?Y=1 2&X=a%2Fb%40c",
    ):
        assert same_url(url, other), other
    percent = "https://h/100%25ab/x?y"
    assert same_url(percent, quote(quote(percent, safe=""), safe="")), "with a percent sign of its own"
    for other in (url + "2", url.replace("https", "http"), url.replace("a b", "a-b"), url.partition("?")[0], ""):
        assert not same_url(url, other), other


# Check


@pytest.mark.parametrize("status", [200, 404, 405])
async def test_check_passes(api: HostedPredictor, service: Service, status: int) -> None:
    service.script = [body({"executions": []}, status)]
    await api.check()
    assert service.seen[0].query_string == "model=real-esrgan&limit=1"


@pytest.mark.parametrize(
    "answer", [body({}, 401), body({}, 403), body({}, 302), web.Response(text="<html>log in</html>")]
)
async def test_check_fails(api: HostedPredictor, service: Service, answer: web.Response) -> None:
    service.script = [lambda request: web.Response(status=answer.status, body=answer.body)]
    with pytest.raises(Fault) as caught:
        await api.check()
    assert (caught.value.gate, caught.value.outlook) == (Gate.API, Outlook.LASTING)
    assert caught.value.remedy


async def test_a_history_that_is_broken_is_not_the_whole_api(api: HostedPredictor, service: Service) -> None:
    service.script = [body({}, 503), lambda _: body({}, 404)]
    await api.check()
    assert [request.path.rpartition("/")[0] for request in service.seen] == ["/v1", "/v1/prediction"]
    service.script = [lambda _: web.Response(status=500)]
    with pytest.raises(Fault) as caught:
        await api.check()
    assert caught.value.gate is Gate.API


async def test_it_says_how_far_the_clocks_are_apart(api: HostedPredictor, service: Service, clock: FakeClock) -> None:
    assert api.ahead == 0.0
    service.script = [lambda _: body({"executions": []}, Date=formatdate(clock.wall() - 600, usegmt=True))]
    await api.check()
    assert api.ahead == pytest.approx(-600, abs=1)


# Download


async def download(api: HostedPredictor, service: Service, bytes_max: int = 10_000) -> bytes:
    sink = io.BytesIO()
    count = await api.download(service.url("/out.png"), sink, bytes_max)
    assert count == len(sink.getvalue())
    return sink.getvalue()


async def test_download(api: HostedPredictor, service: Service) -> None:
    service.script = [web.Response(status=302, headers={"Location": "/real.png"}), web.Response(body=b"x" * 10_000)]
    assert await download(api, service) == b"x" * 10_000
    assert [request.path for request in service.seen] == ["/out.png", "/real.png"]
    assert KEY not in str([dict(request.headers) for request in service.seen])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 451])
async def test_an_expired_link(api: HostedPredictor, service: Service, status: int) -> None:
    service.script = [body({}, status)]
    with pytest.raises(Expired):
        await download(api, service)


@pytest.mark.parametrize("way", ["cut", "half", "drip", "hang"])
async def test_a_download_that_ends_early(api: HostedPredictor, service: Service, way: str) -> None:
    service.script = [way]
    with pytest.raises(Fault) as caught:
        await download(api, service)
    assert (caught.value.gate, caught.value.outlook) == (Gate.FETCH, Outlook.PASSING)


@pytest.mark.parametrize(
    ("status", "gate"),
    [(204, None), (206, None), (300, None), (408, None), (425, None), (429, Gate.FETCH), (500, Gate.FETCH)],
)
async def test_a_download_that_is_none(api: HostedPredictor, service: Service, status: int, gate: Gate | None) -> None:
    """It may be there later, under the same link."""
    service.script = [web.Response(status=status)]
    with pytest.raises(Fault, match=str(status)) as caught:
        await download(api, service)
    assert not isinstance(caught.value, Expired)
    assert caught.value.gate is gate


async def test_a_result_has_a_largest_size(api: HostedPredictor, service: Service) -> None:
    service.script = [web.Response(body=b"x" * 10_001)]
    sink = io.BytesIO()
    with pytest.raises(NotAPicture, match="larger than"):
        await api.download(service.url("/out.png"), sink, 10_000)
    assert len(sink.getvalue()) <= 10_000


BOMB = gzip.compress(bytes(64 << 20))


def bomb(request: web.Request) -> web.Response:
    return web.Response(body=BOMB, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})


async def test_what_grows_when_it_is_unpacked_is_not_unpacked_to_its_end(
    api: HostedPredictor, service: Service
) -> None:
    """64 MiB in 64 KiB, as a result and as an answer."""
    service.script = [bomb]
    sink = io.BytesIO()
    tracemalloc.start()
    try:
        with pytest.raises(NotAPicture):
            await api.download(service.url("/out.png"), sink, 10_000)
        assert len(sink.getvalue()) <= 10_000
        assert (await get_fault(api)).gate is Gate.API
        assert (await create_fault(api)).created is Created.MAYBE
        assert tracemalloc.get_traced_memory()[1] < 3 * ANSWER_BYTES_MAX
    finally:
        tracemalloc.stop()


class FullDisk(io.BytesIO):
    def write(self, data: object, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_full_disk_is_the_houses_fault(api: HostedPredictor, service: Service) -> None:
    service.script = [web.Response(body=b"x")]
    with pytest.raises(Fault, match="No space left") as caught:
        await api.download(service.url("/out.png"), FullDisk(), 10)
    assert (caught.value.blame, caught.value.gate) == (Blame.HOUSE, Gate.STAGING)


# Secrets


async def test_the_key_and_signatures_stay_inside(api: HostedPredictor, service: Service, clock: FakeClock) -> None:
    """Whatever is asked and however it fails, even by quoting our own request back; and nothing but Fault gets out."""
    echo = f"refused {KEY} for {IMAGE} and {quote(IMAGE, safe='')} " + "x" * 500
    documents = [{"error": echo}, {"status": echo}, {"status": "error", "error": echo}, {"logs": [echo]}, echo]
    answers: list[Step] = ["cut", "half"]
    for status in (200, 201, 302, 400, 401, 402, 404, 413, 422, 429, 500):
        answers += [lambda _, status=status, document=document: body(document, status) for document in documents]
    answers.append(lambda _: web.Response(body=echo.encode(), headers={"Content-Encoding": "gzip"}))
    http = Http(clock, insecure_loopback=True)
    uploads = VendorStorage(service.url(), KEY, http, clock)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: api.create(Recipe(), IMAGE),
        lambda: api.get("p1"),
        lambda: api.find("real-esrgan", IMAGE, 0.0),
        api.check,
        lambda: api.download(f"{service.url()}?Signature={SIGNATURE}", io.BytesIO(), 100),
        lambda: uploads.put("a", io.BytesIO(b"x"), 1, "image/png"),
        lambda: uploads.delete("f1"),
        uploads.check,
    ]
    for call in calls:
        for answer in answers:
            service.script = [answer]
            try:
                text = repr(await call())
            except Fault as fault:
                text = "".join(traceback.format_exception(fault)) + fault.said + fault.remedy
            assert not [secret for secret in (KEY, SIGNATURE, "X-Goog-Credential") if secret in text], text
    await http.close()


def test_one_line() -> None:
    line = one_line(f"a\x1b[31m\n\tb  \u202e c {IMAGE} " + "z" * 400)
    assert line.startswith("a [31m b c https://storage.googleapis.com/b/esrgand/ab%2Fc.png?…")
    assert len(line) == 300
    assert one_line("https:" * 1_000_000), "in no time"
    assert one_line("X-Goog-Signature%3D00ff%26x") == "X-Goog-Signature%3D…"
    twice = quote(quote(IMAGE, safe=""), safe="")
    assert SIGNATURE not in one_line(twice)
    assert one_line(twice).startswith(
        "https%253A%252F%252Fstorage.googleapis.com%252Fb%252Fesrgand%252Fab%25252Fc.png?…"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://user:pass@h.example.org/a@b failed", "at https://…@h.example.org/a@b failed"),
        ("at ftp://pass@word@h/a", "at ftp://…@h/a"),
        ('"https:\\/\\/user:pass@h\\/a"', '"https:\\/\\/…@h\\/a"'),
        ("https%3A%2F%2Fuser%3Apass%40h%2Fa%40b", "https%3A%2F%2F…@h%2Fa%40b"),
        ("http://h/a?u=pass@word", "http://h/a?…"),
        ("mail a@b.c about http://h", "mail a@b.c about http://h"),
        ("Signature: pass", "Signature: …"),
        ("signature=pass&x", "signature=…&x"),
        ("{'X-Goog-Signature': 'pass', 'a': 1}", "{'X-Goog-Signature': '…', 'a': 1}"),
        ('{"X-Goog-Signature":"pass"}', '{"X-Goog-Signature":"…"}'),
        ('{\\"X-Amz-Signature\\": \\"pass\\"}', '{\\"X-Amz-Signature\\": \\"…\\"}'),
        ("X-Goog-Signature%22%3A%22pass", "X-Goog-Signature%22%3A%22…"),
        ("x-amz-security-token=pass sig=pass", "x-amz-security-token=… sig=…"),
        ("no valid signature in the picture", "no valid signature in the picture"),
        ("4b3c1f8e-90aa-4c6f-8c39-0d6de3c2d8a1", "4b3c1f8e-90aa-4c6f-8c39-0d6de3c2d8a1"),
    ],
)
def test_what_could_be_secret_is_no_part_of_a_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


@pytest.mark.parametrize("length", range(2960, 3010))
def test_what_is_cut_leaves_no_half_of_a_secret(length: int) -> None:
    for secret in (TOKEN, f"https://me:{TOKEN}@h"):
        line = one_line(f"calling{' ' * length}{secret} failed")
        assert TOKEN[:8] not in line
        assert line.startswith("calling")
