"""The calls of the hosted API, over real HTTP."""

import re

import pytest
from aiohttp import web
from server_kit import KEY, HeldUpscaler, bench, host, image

from daemon.server import UpscaleError

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


async def test_the_whole_journey(tmp_path):
    upscaler = HeldUpscaler(held=True)
    async with bench(tmp_path, upscaler, predict_seconds_min=16.1) as b:
        url = await b.upload(image())
        status, answer = await b.post(url, input={"face_enhance": True})
        assert (status, answer["status"]) == (200, "success")
        assert UUID.fullmatch(answer["predictionID"])
        await upscaler.begun.acquire()
        running = await b.get(answer["predictionID"])
        assert (running["status"], running["output"]) == ("processing", None)
        assert running["metrics"] == {"predict_time": 0, "cost": 0}
        upscaler.may.set()
        done = await b.over(answer["predictionID"])
        assert done["status"] == "success"
        assert done["id"] == done["predictionID"] == answer["predictionID"]
        assert done["input"] == {"image": url, "scale": 2, "face_enhance": True}
        assert done["metrics"] == {"predict_time": 16.1, "cost": 0}
        assert done["billed"] is False
        assert done["logs"] == "engine: a fake engine\none line\nanother\n"
        assert done["urls"]["get"] == f"{b.base}/prediction/{done['id']}"
        assert done["output"].startswith(f"{b.origin}/outputs/")
        assert await b.read(done["output"]) == (200, b"a result")
        assert upscaler.calls == [(image(), 2.0, True)]


async def test_more_than_the_workers_wait_as_created(tmp_path):
    upscaler = HeldUpscaler(held=True)
    async with bench(tmp_path, upscaler) as b:
        url = await b.upload(image())
        first, second = await b.create(url), await b.create(url)
        await upscaler.begun.acquire()
        assert [(await b.get(one))["status"] for one in (first, second)] == ["processing", "created"]
        counts = b.server.counts()
        assert (counts.created, counts.running, counts.finished) == (2, 2, 0)
        upscaler.may.set()
        await b.over(first)
        await b.over(second)
        assert b.server.counts().finished == 2


async def test_the_price_is_by_the_second(tmp_path):
    async with bench(tmp_path, predict_seconds_min=16.0, usd_per_second=0.0002475) as b:
        done = await b.over(await b.create(await b.upload(image())))
        assert done["metrics"] == {"predict_time": 16.0, "cost": 0.00396}
        assert done["billed"] is True


async def test_defaults_and_a_trailing_slash(tmp_path):
    async with bench(tmp_path) as b:
        body = {"model": "real-esrgan", "input": {"image": await b.upload(image())}}
        status, answer = await b.call("POST", "/prediction/", body)
        assert status == 200
        assert (await b.over(answer["predictionID"]))["input"] == body["input"]
        assert b.upscaler.calls == [(image(), 4.0, False)]


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ({"X-API-Key": KEY}, True),
        ({"Authorization": f"Bearer {KEY}"}, True),
        ({"Authorization": f"bearer {KEY}"}, True),
        ({}, False),
        ({"X-API-Key": ""}, False),
        ({"X-API-Key": KEY + "x"}, False),
        ({"X-API-Key": "clé"}, False),
        ({"Authorization": f"Basic {KEY}"}, False),
        ({"Authorization": KEY}, False),
    ],
)
async def test_the_key(tmp_path, headers, accepted):
    async with bench(tmp_path) as b:
        for method, path in [
            ("GET", "/executions"),
            ("POST", "/prediction"),
            ("POST", "/prediction/x/cancel"),
            ("POST", "/upload/presign"),
            ("DELETE", "/files/x"),
            ("GET", "/nothing"),
        ]:
            status, answer = await b.call(method, path, headers=headers)
            assert (status != 401) is accepted, path
            if not accepted:
                details = "the API key is missing or wrong"
                assert answer == {"status": "error", "message": "Unauthorized", "details": details}


GOOD = {"image": "https://pictures.example/a.png"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([], 400),
        ("text", 400),
        ({"input": GOOD}, 400),
        ({"model": "real-esrgan"}, 400),
        ({"model": "real-esrgan", "input": {}}, 400),
        ({"model": "real-esrgan", "input": "x"}, 400),
        ({"model": "another", "input": GOOD}, 404),
        ({"model": ["real-esrgan"], "input": GOOD}, 404),
        ({"model": "real-esrgan", "input": GOOD, "surprise": 1}, 422),
        ({"model": "real-esrgan", "input": GOOD, "webhook_url": "file:///etc/passwd"}, 422),
        ({"model": "real-esrgan", "input": GOOD, "webhook_secret": "a\nb"}, 422),
        *(
            ({"model": "real-esrgan", "input": {**GOOD, **wrong}}, 422)
            for wrong in [
                {"scale": "4"},
                {"scale": None},
                {"scale": True},
                {"scale": -0.1},
                {"scale": 10.5},
                {"face_enhance": "yes"},
                {"face_enhance": 1},
                {"denoise": 1},
                {"image": "data:image/png;base64,AAAA"},
                {"image": "ftp://pictures.example/a.png"},
                {"image": "file:///etc/passwd"},
                {"image": "https://"},
                {"image": "https://[::1/a.png"},
                {"image": "a.png"},
                {"image": 5},
                {"image": "https://pictures.example/" + "a" * 9000},
            ]
        ),
    ],
)
async def test_bad_bodies_create_nothing(tmp_path, body, status):
    async with bench(tmp_path) as b:
        answered, answer = await b.call("POST", "/prediction", body)
        assert answered == status
        assert answer["status"] == "error"
        assert answer["message"]
        assert b.server.counts().created == 0


@pytest.mark.parametrize(("data", "status"), [(b"{", 400), (b'{"scale": NaN}', 400), (b"x" * 70_000, 413)])
async def test_bodies_that_are_not_json_or_too_long(tmp_path, data, status):
    async with bench(tmp_path) as b:
        answer = await b.session.post(f"{b.base}/prediction", data=data, headers={"X-API-Key": KEY})
        assert answer.status == status
        assert (await answer.json())["status"] == "error"


async def test_unknown_ids_paths_and_methods(tmp_path):
    async with bench(tmp_path) as b:
        assert (await b.call("GET", "/prediction/none"))[0] == 404
        assert (await b.call("POST", "/prediction/none/cancel"))[0] == 500
        assert (await b.call("DELETE", "/files/none"))[0] == 404
        status, answer = await b.call("GET", "/nothing")
        assert (status, answer["status"]) == (404, "error")
        status, answer = await b.call("DELETE", "/prediction")
        assert (status, answer["status"]) == (405, "error")
        for path in ("/files/none.png", "/outputs/none.png", f"/outputs/{'0' * 32}.png", "/outputs/..%2flock"):
            assert (await b.read(b.origin + path))[0] == 404


async def test_cancelling(tmp_path):
    upscaler = HeldUpscaler(held=True)
    async with bench(tmp_path, upscaler) as b:
        url = await b.upload(image())
        working, waiting = await b.create(url), await b.create(url)
        await upscaler.begun.acquire()
        for one in (waiting, working, working):
            assert (await b.call("POST", f"/prediction/{one}/cancel"))[0] == 200
            cancelled = await b.get(one)
            assert (cancelled["status"], cancelled["output"]) == ("cancelled", None)
        upscaler.may.set()
        third = await b.create(url)
        assert (await b.over(third))["status"] == "success", "a cancelled prediction frees its worker"
        assert (await b.call("POST", f"/prediction/{third}/cancel"))[0] == 200
        assert (await b.get(third))["status"] == "success"
        assert len(upscaler.calls) == 2


async def test_history(tmp_path):
    async with bench(tmp_path) as b:
        url = await b.upload(image())
        ids, times = [], []
        for _ in range(3):
            b.clock.advance(100)
            ids.append(await b.create(url))
            times.append((await b.over(ids[-1]))["created_at"])
        _, answer = await b.call("GET", "/executions?model=real-esrgan&limit=100&offset=0")
        assert [row["id"] for row in answer["executions"]] == ids[::-1]
        assert (answer["total_count"], answer["total_capped"]) == (3, False)
        row = answer["executions"][-1]
        assert (row["model"], row["status"], row["execution_cost"]) == ("real-esrgan", "success", 0)
        assert row["created_at"] == times[0]
        assert "input" not in row
        _, answer = await b.call("GET", f"/executions?from={times[1]}&limit=1&offset=1")
        assert ([row["id"] for row in answer["executions"]], answer["total_count"]) == ([ids[1]], 2)
        assert (await b.call("GET", "/executions?model=other"))[1]["total_count"] == 0
        for query in ("from=yesterday", "from=2026-01-01T00:00:00", "limit=101", "limit=-1", "offset=x"):
            assert (await b.call("GET", f"/executions?{query}"))[0] == 400, query


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (UpscaleError("CUDA out of memory", retryable=True), "PROVIDER_SERVER_ERROR", True),
        (UpscaleError("no", retryable=False), "INVALID_INPUT", False),
        (OSError(28, "No space left on device"), "PROVIDER_SERVER_ERROR", True),
        (RuntimeError("https://secret.example/?signature=1"), "PROVIDER_SERVER_ERROR", True),
    ],
)
async def test_a_failing_engine_ends_the_prediction(tmp_path, error, code, retryable):
    async with bench(tmp_path, HeldUpscaler(error=error)) as b:
        failed = await b.over(await b.create(await b.upload(image())))
        assert failed["status"] == "error"
        assert (failed["output"]["error_code"], failed["output"]["retryable"]) == (code, retryable)
        assert failed["output"]["error_message"] in failed["logs"]
        assert ("disk" in failed["output"]["error_message"]) is isinstance(error, OSError)
        assert "secret.example" not in f"{failed} {b.log.entries}".replace(failed["input"]["image"], "")


async def test_inputs_that_the_model_refuses(tmp_path):
    async with bench(tmp_path, pixels_max=100) as b:
        good = await b.upload(image(10, 10))
        cases = [
            (
                await b.upload(image(10, 11)),
                2,
                "Input image of dimensions (10, 11) greater than the max size that fits",
            ),
            (await b.upload(b"GIF89a not one of the three"), 2, "not a JPEG, PNG or WebP"),
            (await b.upload(image()[:20]), 2, "could not be decoded"),
            (good, 0, "scale must be greater than 0"),
        ]
        for url, scale, reason in cases:
            failed = await b.over(await b.create(url, input={"scale": scale}))
            assert failed["status"] == "error"
            assert reason in failed["output"]["error_message"]
            assert failed["output"]["retryable"] is False
        assert (await b.over(await b.create(good)))["status"] == "success"


async def test_inputs_from_elsewhere(tmp_path):
    asked = []

    async def serve(request):
        asked.append(request)
        if request.path == "/moved":
            raise web.HTTPFound("/a.png")
        if request.path == "/loop":
            raise web.HTTPFound("/loop")
        if request.path == "/cut":
            answer = web.StreamResponse(headers={"Content-Length": "100"})
            await answer.prepare(request)
            request.transport.abort()
            return answer
        status = int(request.path[1:]) if request.path[1:].isdigit() else 200
        return web.Response(status=status, body=image())

    async with host(serve) as elsewhere, bench(tmp_path, bytes_max=100_000) as b:
        done = await b.over(await b.create(f"{elsewhere}/a%2Fb%7E.png?X-Signature=a%2Bb/c=="))
        assert done["status"] == "success"
        assert b.upscaler.calls[0][0] == image()
        assert asked[0].raw_path == "/a%2Fb%7E.png?X-Signature=a%2Bb/c==", "a signed URL is sent to the letter"
        assert "X-API-Key" not in asked[0].headers
        assert (await b.over(await b.create(f"{elsewhere}/moved")))["status"] == "success"
        for path, retryable in [
            ("404", False),
            ("403", False),
            ("503", True),
            ("429", True),
            ("cut", True),
            ("loop", True),
        ]:
            failed = await b.over(await b.create(f"{elsewhere}/{path}"))
            assert (failed["status"], failed["output"]["retryable"]) == ("error", retryable), path
            assert elsewhere not in failed["output"]["error_message"]
    async with bench(tmp_path) as b:
        failed = await b.over(await b.create(f"{elsewhere}/gone.png"))
        assert (failed["output"]["error_code"], failed["output"]["retryable"]) == ("NETWORK_ERROR", True)


async def test_an_input_that_is_too_long(tmp_path):
    async def serve(request):
        return web.Response(body=b"\xff" * 2000)

    async with host(serve) as elsewhere, bench(tmp_path, bytes_max=1000) as b:
        failed = await b.over(await b.create(f"{elsewhere}/a.png"))
        assert failed["output"]["error_message"] == "The input image has more than 1000 bytes"


async def test_proxies_of_the_environment_are_for_other_machines(tmp_path, monkeypatch):
    seen = []

    async def serve(request):
        seen.append(request.raw_path)
        return web.Response(body=image())

    async with host(serve) as proxy, host(serve) as elsewhere:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        async with bench(tmp_path) as b:
            for url in (f"{elsewhere}/near.png", "http://pictures.example/far.png"):
                assert (await b.over(await b.create(url)))["status"] == "success"
    assert seen == ["/near.png", "http://pictures.example/far.png"]


async def test_urls_follow_the_road_the_client_came_by(tmp_path):
    async with bench(tmp_path) as b:
        prediction = await b.create(await b.upload(image()))
        await b.over(prediction)
        headers = {"X-API-Key": KEY, "Host": "nas.example.org", "X-Forwarded-Proto": "https"}
        _, answer = await b.call("GET", f"/prediction/{prediction}", headers=headers)
        assert answer["output"].startswith("https://nas.example.org/outputs/")
        _, place = await b.call("POST", "/upload/presign", {"content_type": "image/png"}, headers)
        assert place["public_url"].startswith("https://nas.example.org/files/")
