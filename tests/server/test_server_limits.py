"""Both limits, to the letter; a refused create leaves nothing."""

import asyncio

from server_kit import KEY, HeldUpscaler, bench, image


async def refused(b, url: str) -> int:
    """The seconds that a refused create is told to wait."""
    before = b.server.counts().created
    body = {"model": "real-esrgan", "input": {"image": url}}
    async with b.session.post(f"{b.base}/prediction", json=body, headers={"X-API-Key": KEY}) as answer:
        assert answer.status == 429
        assert (await answer.json())["status"] == "error"
        seconds = int(answer.headers["Retry-After"])
    assert b.server.counts().created == before
    assert (await b.call("GET", "/executions"))[1]["total_count"] == before
    return seconds


async def test_creates_in_any_sliding_minute(tmp_path):
    async with bench(tmp_path, creates_per_minute_max=3) as b:
        url = await b.upload(image())
        for _ in range(3):
            await b.over(await b.create(url))
            b.clock.advance(10)
        assert await refused(b, url) == 30, "a minute after the first"
        b.clock.advance(29.5)
        assert await refused(b, url) == 1
        b.clock.advance(0.5)
        await b.over(await b.create(url))
        assert await refused(b, url) == 10, "refused ones do not count, the second one does"
        await b.call("POST", "/prediction", {"model": "real-esrgan", "input": {}})
        b.clock.advance(10)
        await b.over(await b.create(url))


async def test_the_minute_outlasts_a_restart(tmp_path):
    async with bench(tmp_path, creates_per_minute_max=2) as b:
        url, clock = await b.upload(image()), b.clock
        await b.over(await b.create(url))
        clock.advance(20)
        await b.over(await b.create(url))
    async with bench(tmp_path, clock=clock, creates_per_minute_max=2) as b:
        assert await refused(b, url) == 40
        clock.advance(40)
        await b.over(await b.create(url))


async def test_in_flight(tmp_path):
    upscaler = HeldUpscaler(held=True)
    async with bench(tmp_path, upscaler, in_flight_max=2) as b:
        url = await b.upload(image())
        first, second = await b.create(url), await b.create(url)
        assert await refused(b, url) >= 1
        await b.call("POST", f"/prediction/{second}/cancel")
        third = await b.create(url)
        assert await refused(b, url) >= 1
        upscaler.may.set()
        await b.over(first)
        await b.over(third)
        await b.over(await b.create(url))


async def test_a_hundred_at_once_are_ten(tmp_path):
    upscaler = HeldUpscaler(held=True)
    async with bench(tmp_path, upscaler) as b:
        url = await b.upload(image())
        answers = await asyncio.gather(*(b.post(url) for _ in range(30)))
        assert sorted(status for status, _ in answers) == [200] * 10 + [429] * 20
        assert b.server.counts().created == 10
