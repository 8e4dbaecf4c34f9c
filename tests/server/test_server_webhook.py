"""Webhooks: who is told, what, how often, and how they know that it is us."""

import asyncio
import hashlib
import hmac
import json

import pytest
from aiohttp import web
from server_kit import HeldUpscaler, ServerClock, bench, host, image

from daemon.server import UpscaleError


class Receiver:
    """Answers with the given statuses, the last one for ever; 0 cuts the connection."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.received: list[tuple[dict, bytes]] = []
        self.enough = asyncio.Event()

    async def answer(self, request):
        self.received.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if len(self.received) == 3 or status == 200:
            self.enough.set()
        if status == 0:
            request.transport.abort()
        return web.Response(status=status or 200, headers={"Location": "/elsewhere"} if status == 307 else {})


async def told(b, event: str) -> dict:
    """The log entry of that name, once it is there."""
    async with asyncio.timeout(10):
        while not (found := [entry for entry in b.log.entries if entry["event"] == event]):
            await b.call("GET", "/executions")
    return found[0]


async def test_success_is_told_and_signed(tmp_path):
    receiver = Receiver(200)
    async with host(receiver.answer) as there, bench(tmp_path) as b:
        prediction = await b.create(await b.upload(image()), webhook_url=f"{there}/hook", webhook_secret="s3cret")
        done = await b.over(prediction)
        await told(b, "webhook_delivered")
        ((headers, body),) = receiver.received
        assert json.loads(body) == {
            "exec_id": prediction,
            "flow_id": prediction,
            "status": "succeeded",
            "output": done["output"],
            "error": None,
        }
        assert headers["Content-Type"] == "application/json"
        assert headers["X-Webhook-Secret"] == "s3cret"
        stamp = headers["X-Webhook-Timestamp"]
        signed = hmac.new(b"s3cret", stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert headers["X-Webhook-Signature"] == signed
        assert int(stamp) == int(b.clock.wall())
        assert "X-API-Key" not in headers
        assert "s3cret" not in repr(b.log.entries)


async def test_failure_is_told_without_a_secret(tmp_path):
    receiver = Receiver(204)
    async with (
        host(receiver.answer) as there,
        bench(tmp_path, HeldUpscaler(error=UpscaleError("no such luck", False))) as b,
    ):
        await b.create(await b.upload(image()), webhook_url=there)
        await told(b, "webhook_delivered")
        ((headers, body),) = receiver.received
        told_body = json.loads(body)
        assert (told_body["status"], told_body["error"]) == ("failed", "no such luck")
        assert told_body["output"]["error_message"] == "no such luck"
        assert not [name for name in headers if name.lower().startswith("x-webhook")]


@pytest.mark.parametrize("trouble", [500, 307, 404, 0])
async def test_three_attempts_in_twenty_seconds(tmp_path, trouble):
    receiver = Receiver(trouble)
    async with host(receiver.answer) as there, bench(tmp_path) as b:
        await b.create(await b.upload(image()), webhook_url=there)
        entry = await told(b, "webhook_given_up")
        assert len(receiver.received) == entry["attempts"] == 3
        assert len(b.clock.slept) == 2
        assert sum(b.clock.slept) == 20


async def test_an_attempt_that_is_heard_is_the_last(tmp_path):
    receiver = Receiver(503, 200)
    async with host(receiver.answer) as there, bench(tmp_path) as b:
        await b.create(await b.upload(image()), webhook_url=there)
        assert (await told(b, "webhook_delivered"))["attempt"] == 2
        assert len(receiver.received) == 2


async def test_nobody_is_told_of_a_cancel(tmp_path):
    receiver, upscaler = Receiver(200), HeldUpscaler(held=True)
    async with host(receiver.answer) as there, bench(tmp_path, upscaler) as b:
        url = await b.upload(image())
        prediction = await b.create(url, webhook_url=there)
        await upscaler.begun.acquire()
        await b.call("POST", f"/prediction/{prediction}/cancel")
        upscaler.may.set()
        await b.create(url, webhook_url=there)
        await told(b, "webhook_delivered")
        assert len(receiver.received) == 1
        assert json.loads(receiver.received[0][1])["exec_id"] != prediction


async def test_a_receiver_that_is_slow_holds_up_no_prediction(tmp_path):
    held = asyncio.Event()

    async def slow(request):
        await held.wait()
        return web.Response()

    async with host(slow) as there, bench(tmp_path) as b:
        url = await b.upload(image())
        await b.create(url, webhook_url=there)
        assert (await b.over(await b.create(url)))["status"] == "success"
        held.set()
        await told(b, "webhook_delivered")


async def test_whom_a_restart_kept_from_being_told_is_told_after_it_and_once(tmp_path):
    asked, free, receiver = asyncio.Event(), asyncio.Event(), Receiver(200)

    async def silent_at_first(request):
        if free.is_set():
            return await receiver.answer(request)
        asked.set()
        await free.wait()
        return web.Response(status=500)

    async with host(silent_at_first) as there:
        async with bench(tmp_path) as b:
            prediction = await b.create(await b.upload(image()), webhook_url=there, webhook_secret="s3cret")
            await asked.wait()
            done = await b.over(prediction)
        free.set()
        async with bench(tmp_path) as b:
            await told(b, "webhook_delivered")
            ((headers, body),) = receiver.received
            assert (json.loads(body)["exec_id"], json.loads(body)["status"]) == (prediction, "succeeded")
            assert headers["X-Webhook-Secret"] == "s3cret"
            assert (await b.get(prediction))["ended_at"] == done["ended_at"]
            assert b.upscaler.calls == [], "it is told, not run again"
            await remembered(b, tmp_path, prediction)
        async with bench(tmp_path) as b:
            later = await b.create(await b.upload(image()), webhook_url=there)
            await told(b, "webhook_delivered")
            assert [json.loads(body)["exec_id"] for _, body in receiver.received] == [prediction, later]


async def test_what_was_given_up_or_cancelled_or_is_long_over_is_not_told_after_a_restart(tmp_path):
    receiver, clock, held = Receiver(500), ServerClock(), HeldUpscaler(held=True)
    async with host(receiver.answer) as there:
        async with bench(tmp_path, clock=clock) as b:
            given_up = await b.create(await b.upload(image()), webhook_url=there)
            await told(b, "webhook_given_up")
            await remembered(b, tmp_path, given_up)
        async with bench(tmp_path, held, clock=clock) as b:
            cancelled = await b.create(await b.upload(image()), webhook_url=there)
            await held.begun.acquire()
            await b.call("POST", f"/prediction/{cancelled}/cancel")
        receiver.statuses = [200]
        assert await ids_told(tmp_path, there, clock, receiver) == [given_up] * 3 + ["the new one"]
        # What nobody was told of is told for as long as the result can be fetched.
        file = tmp_path / "predictions" / f"{given_up}.json"
        record = json.loads(file.read_bytes()) | {"told": False}
        file.write_text(json.dumps(record | {"ended_at": clock.wall() - 86_401}))
        assert await ids_told(tmp_path, there, clock, receiver) == ["the new one"]
        file.write_text(json.dumps(record | {"ended_at": clock.wall() - 86_300}))
        assert set(await ids_told(tmp_path, there, clock, receiver, given_up)) == {given_up, "the new one"}


async def ids_told(data_dir, there, clock, receiver, *others) -> list[str]:
    """Start once more, make one prediction, and see who was told of what since the last time."""
    async with bench(data_dir, clock=clock) as b:
        new = await b.create(await b.upload(image()), webhook_url=there)
        for prediction in (new, *others):
            await remembered(b, data_dir, prediction)
    received, receiver.received = receiver.received, []
    return ["the new one" if (id_ := json.loads(body)["exec_id"]) == new else id_ for _, body in received]


async def remembered(b, data_dir, prediction) -> None:
    """The disk knows that there is nobody left to tell."""
    async with asyncio.timeout(10):
        while not json.loads((data_dir / "predictions" / f"{prediction}.json").read_bytes())["told"]:
            await b.call("GET", "/executions")
