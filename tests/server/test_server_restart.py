"""What survives a restart, and what does not stay for ever."""

import asyncio
import json
import os
import signal
import stat
import sys
from pathlib import Path

import pytest
import structlog
from server_kit import KEY, HeldUpscaler, ServerClock, bench, image

from daemon.rules.faults import Blame, Fault
from daemon.server import PredictionServer, ServerSettings

PROCESS = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
import structlog
from server_kit import KEY, HeldUpscaler
from daemon.adapters.clock import SystemClock
from daemon.server import PredictionServer, ServerSettings

async def main():
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = ServerSettings(data_dir=Path(sys.argv[1]), key=KEY)
    server = PredictionServer(settings, SystemClock(), HeldUpscaler(held=True), structlog.get_logger())
    print(await server.start("127.0.0.1", 0), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_kill_minus_nine(tmp_path):
    here = Path(__file__).parent
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROCESS, str(tmp_path / "data"), str(here), str(here.parent),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            base = (await process.stdout.readline()).decode().strip()
        async with bench(tmp_path / "elsewhere") as b:
            b.base = base
            url = await b.upload(image())
            working, waiting = await b.create(url), await b.create(url)
            async with asyncio.timeout(20):
                while (await b.get(working))["status"] != "processing":
                    pass
            assert (await b.get(waiting))["status"] == "created"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    (tmp_path / "data" / "outputs" / "half.png").write_bytes(b"no record speaks of this")
    (tmp_path / "data" / "scratch" / "half").write_bytes(b"nor of this")
    async with bench(tmp_path / "data") as b:
        for prediction in (working, waiting):
            done = await b.over(prediction)
            assert (done["status"], done["input"]["image"]) == ("success", url)
            assert await b.read(done["output"]) == (200, b"a result"), "the URL has the new port"
        assert (await b.call("GET", "/executions"))[1]["total_count"] == 2
        assert len(list((tmp_path / "data" / "outputs").iterdir())) == 2
        assert list((tmp_path / "data" / "scratch").iterdir()) == []


async def test_everything_is_as_it_was(tmp_path):
    clock = ServerClock()
    async with bench(tmp_path, clock=clock, predict_seconds_min=3) as b:
        url = await b.upload(image())
        done = await b.over(await b.create(url))
        failed = await b.over(await b.create(url, input={"scale": 0}))
        first = b.origin
    upscaler = HeldUpscaler()
    async with bench(tmp_path, upscaler, clock=clock) as b:
        for before in (done, failed):
            after = await b.get(before["id"])
            assert after.pop("input") == before.pop("input")
            assert json.dumps(after).replace(b.origin, first) == json.dumps(before), "the port alone is new"
        assert (await b.read((await b.get(done["id"]))["output"]))[0] == 200
        assert upscaler.calls == [], "what is over is not run again"
        assert (await b.over(await b.create(url)))["status"] == "success", "the upload is still there"


async def test_a_picture_that_always_interrupts_is_given_up(tmp_path):
    for _ in range(5):
        upscaler = HeldUpscaler(held=True)
        async with bench(tmp_path, upscaler) as b:
            if b.server.counts().created == 0:
                prediction = await b.create(await b.upload(image()))
            await upscaler.begun.acquire()
    async with bench(tmp_path) as b:
        failed = await b.over(prediction)
        assert failed["output"]["error_message"] == "The prediction was interrupted too often"
        assert b.upscaler.calls == []


async def test_a_damaged_record_hurts_nobody_else(tmp_path):
    async with bench(tmp_path) as b:
        done = await b.over(await b.create(await b.upload(image())))
    for kind in ("predictions", "uploads"):
        (tmp_path / kind / "a.json").write_bytes(b"\0\0")
        (tmp_path / kind / "c.json").write_bytes(b"[]")
        (tmp_path / kind / "b.json").write_bytes(b'{"id": "b", "status": "success"}')
    async with bench(tmp_path) as b:
        assert (await b.get(done["id"]))["status"] == "success"
        assert sum(entry["event"] == "record_unreadable" for entry in b.log.entries) == 6


async def test_results_and_predictions_are_kept_for_their_time(tmp_path):
    async with bench(tmp_path) as b:
        done = await b.over(await b.create(await b.upload(image())))
        b.clock.advance(86_400)
        await b.server.sweep()
        assert (await b.read(done["output"]))[0] == 200
        b.clock.advance(1)
        await b.server.sweep()
        assert (await b.read(done["output"]))[0] == 404
        assert (await b.get(done["id"]))["status"] == "success"
        clock = b.clock
    clock.advance(6 * 86_400)
    async with bench(tmp_path, clock=clock) as b:
        assert (await b.call("GET", f"/prediction/{done['id']}"))[0] == 404
        assert list((tmp_path / "predictions").iterdir()) == []


async def test_the_hourly_sweep(tmp_path):
    hour, waited = asyncio.Event(), []

    class Hours(ServerClock):
        async def wait(self, event, seconds):
            waited.append(seconds)
            if len(waited) > 1:
                return await super().wait(event, seconds)
            await hour.wait()
            return False

    async with bench(tmp_path, clock=Hours(), output_seconds=0) as b:
        done = await b.over(await b.create(await b.upload(image())))
        b.clock.advance(1)
        hour.set()
        async with asyncio.timeout(10):
            while (await b.read(done["output"]))[0] != 404:
                pass
        assert set(waited) == {3600}


async def test_only_the_owner_may_look_in(tmp_path):
    (tmp_path / "data").mkdir(mode=0o755)
    async with bench(tmp_path / "data"):
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


async def test_what_stands_in_the_way_of_a_start(tmp_path):
    async with bench(tmp_path / "one") as b:
        with pytest.raises(Fault, match="Another prediction server is using") as fault:
            async with bench(tmp_path / "one"):
                pass
        assert fault.value.blame is Blame.HOUSE
        (tmp_path / "file").touch()
        with pytest.raises(Fault, match="cannot use the directory"):
            async with bench(tmp_path / "file"):
                pass
        port = int(b.base.split(":")[2].split("/")[0])
        with pytest.raises(Fault, match=f"Port {port} on 127.0.0.1 is already in use") as fault:
            await started_on(tmp_path / "two", port)
        assert fault.value.remedy
    async with bench(tmp_path / "two"):
        pass  # The failed start let go of the directory.


async def started_on(data_dir, port):
    server = PredictionServer(settings(data_dir), ServerClock(), HeldUpscaler(), structlog.get_logger())
    await server.start("127.0.0.1", port)


def settings(data_dir):
    return ServerSettings(data_dir=data_dir, key=KEY)


async def test_no_secret_is_logged_or_shown(tmp_path):
    assert KEY not in repr(settings(tmp_path))
    async with bench(tmp_path) as b:
        url = await b.upload(image())
        done = await b.over(await b.create(url))
        await b.call("GET", "/executions", headers={"X-API-Key": "wrong-key"})
        text = repr(b.log.entries)
        assert "prediction_succeeded" in text
        for secret in (KEY, "wrong-key", url.split("/")[-1], done["output"].split("/")[-1], "signature"):
            assert secret not in text


async def test_a_disk_that_fails(tmp_path):
    upscaler = HeldUpscaler(held=True)
    async with bench(tmp_path, upscaler, creates_per_minute_max=1) as b:
        url = await b.upload(image())
        (tmp_path / "predictions").rmdir()
        status, answer = await b.post(url)
        assert (status, answer["status"]) == (500, "error")
        assert (await b.call("GET", "/executions"))[1]["total_count"] == 0, "what is not durable was not created"
        (tmp_path / "predictions").mkdir()
        prediction = await b.create(url)
        await upscaler.begun.acquire()
        (tmp_path / "predictions").rename(tmp_path / "away")
        upscaler.may.set()
        assert (await b.over(prediction))["status"] == "success", "the client is told what is known"
        assert "prediction_not_saved" in [entry["event"] for entry in b.log.entries]
