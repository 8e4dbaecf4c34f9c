"""What every prediction API promises: ours over real connections, the simulated one, and the fake as far as it goes."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from conformance_kit import Virtual
from fakes.predictor import FakePredictor, cut, refused
from server.server_kit import KEY, ServerClock, image
from simulation.engine import pause
from simulation.service import PRICE, Service, SimPredictor, source_bytes

from daemon.adapters.hosted import HostedPredictor
from daemon.adapters.http import Http
from daemon.adapters.vendor_upload import VendorStorage
from daemon.ports import Predictor, Progress, Running, Spoiled, Succeeded
from daemon.rules.faults import Blame, Created, Expired, Fault, Gate, NotAPicture, Unknown
from daemon.rules.recipe import MODEL, Recipe
from daemon.server import PredictionServer, ServerSettings, UpscaleReport
from daemon.server.upscaler import UpscaleError

RESULT = bytes(range(256)) * 2000  # more than one block of a download
CREATES_MAX = 3
LONG_AGO = 1_000_000_000.0


class Arena:
    """A predictor, and what is behind it."""

    predictor: Predictor

    async def url(self) -> str:
        """A picture that the API can read, under a URL of its own."""
        raise NotImplementedError

    async def later(self) -> None:
        """Until the API knows everywhere what it was told."""

    def hold(self) -> None:
        """From now on nothing is over before `finish`."""

    async def finish(self) -> None:
        """Let go of what is held."""

    async def refuse(self) -> None:
        """Bring the next create about as one too many."""
        raise NotImplementedError

    def lose(self, *, arrives: bool) -> None:
        """Bring the next create about as one whose answer gets lost; arrives: whether the create itself does."""
        raise NotImplementedError

    def spoil(self) -> None:
        """The next run fails, and another one may do better."""
        raise NotImplementedError

    def result(self, prediction: str) -> bytes:
        """What is behind the link."""
        raise NotImplementedError

    def expire(self, prediction: str) -> None:
        """Take the link away."""
        raise NotImplementedError

    async def create(self, url: str | None = None) -> str:
        return await self.predictor.create(Recipe(scale=2.0), url or await self.url())

    async def over(self, prediction: str) -> Progress:
        """Its end, once it is there."""
        while isinstance(progress := await self.predictor.get(prediction), Running):
            await self.later()
        return progress

    async def output(self, prediction: str) -> str:
        progress = await self.over(prediction)
        assert isinstance(progress, Succeeded)
        return progress.output


@pytest.fixture(params=["hosted", "simulated", "fake"])
async def arena(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Arena]:
    if request.param == "hosted":
        async with hosted_arena(tmp_path) as arena:
            yield arena
    elif request.param == "simulated":
        virtual = Virtual()
        simulated = SimArena(virtual)
        yield simulated
        assert simulated.wrong == []
        virtual.close()
    else:
        yield FakeArena()


# A fake has nothing to fetch.
WITH_RESULTS = pytest.mark.parametrize("arena", ["hosted", "simulated"], indirect=True)


class Copier:
    """An engine whose results are always the same, and come when they may."""

    name = "a copier"

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.may.set()
        self.error: UpscaleError | None = None

    async def upscale(self, source: Path, target: Path, scale: float, face_enhance: bool) -> UpscaleReport:
        await self.may.wait()
        if self.error is not None:
            raise self.error
        target.write_bytes(RESULT)
        return UpscaleReport()


class HostedArena(Arena):
    """The local prediction server, which has the hosted API's contract."""

    def __init__(self, data_dir: Path, clock: ServerClock) -> None:
        self.clock = clock
        self.outputs = data_dir / "outputs"
        self.engine = Copier()
        self.losing: list[bool] = []
        settings = ServerSettings(
            data_dir=data_dir,
            key=KEY,
            creates_per_minute_max=CREATES_MAX,
            predict_seconds_min=16.0,
            usd_per_second=PRICE / 16.0,
        )
        log = structlog.wrap_logger(None, processors=[drop], cache_logger_on_first_use=False)
        self.server = PredictionServer(settings, clock, self.engine, log, troubles=[self.lose_answers])

    @web.middleware
    async def lose_answers(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not self.losing or request.method != "POST" or "/prediction" not in request.path:
            return await handler(request)
        if self.losing.pop():
            await handler(request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def url(self) -> str:
        data = image()
        return (await self.storage.put("x", io.BytesIO(data), len(data), "image/png")).url

    def hold(self) -> None:
        self.engine.may.clear()

    async def finish(self) -> None:
        self.engine.may.set()

    async def refuse(self) -> None:
        for _ in range(CREATES_MAX):
            await self.create()

    def lose(self, *, arrives: bool) -> None:
        self.losing.append(arrives)

    def spoil(self) -> None:
        self.engine.error = UpscaleError("CUDA out of memory", retryable=True)

    def result(self, prediction: str) -> bytes:
        return RESULT

    def expire(self, prediction: str) -> None:
        (output,) = self.outputs.iterdir()
        output.unlink()


def drop(*_: Any) -> str:
    raise structlog.DropEvent


@asynccontextmanager
async def hosted_arena(folder: Path) -> AsyncIterator[HostedArena]:
    clock = ServerClock()
    arena = HostedArena(folder, clock)
    base = await arena.server.start("127.0.0.1", 0)
    http = Http(clock, insecure_loopback=True)
    arena.predictor = HostedPredictor(base, KEY, http, clock)
    arena.storage = VendorStorage(base, KEY, http, clock)
    yield arena
    await arena.predictor.close()
    await arena.server.close()


class Planned(Service):
    """Faults happen when a test says so, each once."""

    plan: tuple[str, ...] = ()

    def hit(self, kind: str, chance: float) -> bool:
        planned = kind in self.plan
        self.plan = tuple(each for each in self.plan if each != kind)
        return planned


class SimArena(Arena):
    """The simulation's service, in virtual time."""

    def __init__(self, virtual: Virtual) -> None:
        self.virtual = virtual
        self.wrong: list[str] = []
        self.service = Planned(virtual.machine, 10, 100, 2, self.wrong.append)
        self.predictor = virtual.part(SimPredictor(self.service, virtual.machine))
        self.held = False

    async def url(self) -> str:
        number = len(self.service.objects)
        self.service.objects[f"{number}"] = source_bytes(number)
        url = f"https://storage.test/{number}?signature={number}"
        self.service.urls[url] = f"{number}"
        return url

    async def later(self) -> None:
        await self.virtual.run(pause(5.0))

    def hold(self) -> None:
        self.held = True

    async def create(self, url: str | None = None) -> str:
        prediction = await super().create(url)
        if self.held:
            self.service.runs[prediction].ends_at = 1e9
        return prediction

    async def finish(self) -> None:
        for run in self.service.runs.values():
            run.ends_at = 0.0

    async def refuse(self) -> None:
        self.service.plan = ("429",)

    def lose(self, *, arrives: bool) -> None:
        self.service.plan = ("lost after" if arrives else "lost before",)

    def spoil(self) -> None:
        self.service.plan = ("spoiled",)

    def result(self, prediction: str) -> bytes:
        return self.service.runs[prediction].result

    def expire(self, prediction: str) -> None:
        self.service.runs[prediction].link += 1


class FakeArena(Arena):
    """The fake of the tests above the port."""

    def __init__(self) -> None:
        self.fake = self.predictor = FakePredictor()
        self.urls = 0

    async def url(self) -> str:
        self.urls += 1
        return f"https://storage.test/{self.urls}?signature={self.urls}"

    def hold(self) -> None:
        self.fake.answers.append(Running("processing"))

    async def refuse(self) -> None:
        self.fake.creates.append(refused())

    def lose(self, *, arrives: bool) -> None:
        self.fake.creates.append(cut())
        self.fake.arrives = arrives

    def spoil(self) -> None:
        self.fake.answers.append(Spoiled("CUDA out of memory", True, 0.0))


# Create and get


async def test_each_create_makes_a_prediction_of_its_own(arena: Arena) -> None:
    first, second = await arena.create(), await arena.create()
    await arena.later()
    assert first != second
    for prediction in (first, second):
        assert isinstance(await arena.over(prediction), Succeeded)


async def test_it_runs_and_then_it_has_succeeded(arena: Arena) -> None:
    arena.hold()
    prediction = await arena.create()
    await arena.later()
    running = await arena.predictor.get(prediction)
    assert isinstance(running, Running)
    assert running.status
    await arena.finish()
    over = await arena.over(prediction)
    assert isinstance(over, Succeeded)
    assert over.output.startswith("http")
    assert over.cost_usd == pytest.approx(PRICE)
    assert over.predict_seconds == pytest.approx(16.0, abs=0.2)
    assert await arena.predictor.get(prediction) == over


async def test_a_run_may_spoil(arena: Arena) -> None:
    arena.spoil()
    prediction = await arena.create()
    await arena.later()
    spoiled = await arena.over(prediction)
    assert isinstance(spoiled, Spoiled)
    assert (spoiled.reason, spoiled.passing) == ("CUDA out of memory", True)


async def test_what_was_never_created_is_unknown(arena: Arena) -> None:
    await arena.create()
    await arena.later()
    for prediction in ("nobody", "00000000-0000-4000-8000-000000000000"):
        with pytest.raises(Unknown):
            await arena.predictor.get(prediction)


# Find


async def find(arena: Arena, url: str) -> str | None:
    await arena.later()
    return await arena.predictor.find(MODEL, url, LONG_AGO)


async def test_what_was_made_from_exactly_this_url_is_found(arena: Arena) -> None:
    urls = [await arena.url() for _ in range(3)]
    made = {url: await arena.create(url) for url in urls[:2]}
    assert [await find(arena, url) for url in urls] == [made[urls[0]], made[urls[1]], None]
    for url in (urls[0] + "0", urls[0][:-1], urls[0].replace("://", "://not-"), ""):
        assert await find(arena, url) is None


async def test_what_is_known_to_be_something_else_hides_nothing(arena: Arena) -> None:
    urls = [await arena.url() for _ in range(2)]
    other, ours = [await arena.create(url) for url in urls]
    await arena.later()
    assert await arena.predictor.find(MODEL, urls[1], LONG_AGO, {other}) == ours
    assert await arena.predictor.find(MODEL, await arena.url(), LONG_AGO, {other, ours}) is None


async def test_nothing_is_found_where_nothing_was_made(arena: Arena) -> None:
    assert await find(arena, await arena.url()) is None


# Creates that fail


async def failure(arena: Arena, url: str) -> Fault:
    with pytest.raises(Fault) as caught:
        await arena.create(url)
    assert (caught.value.blame, caught.value.gate) == (Blame.SERVICE, Gate.API)
    return caught.value


async def test_one_too_many_is_refused_and_nothing_was_created(arena: Arena) -> None:
    url = await arena.url()
    await arena.refuse()
    fault = await failure(arena, url)
    assert (fault.created, fault.rate_limited) == (Created.NO, True)
    assert await find(arena, url) is None


async def test_a_create_that_arrived_without_an_answer_is_in_doubt_and_found(arena: Arena) -> None:
    url = await arena.url()
    arena.lose(arrives=True)
    fault = await failure(arena, url)
    assert (fault.created, fault.rate_limited) == (Created.MAYBE, False)
    prediction = await find(arena, url)
    assert prediction is not None
    assert isinstance(await arena.over(prediction), Succeeded)


async def test_a_create_that_got_lost_is_in_doubt_and_not_found(arena: Arena) -> None:
    url = await arena.url()
    arena.lose(arrives=False)
    assert (await failure(arena, url)).created is Created.MAYBE
    assert await find(arena, url) is None


# Download


@WITH_RESULTS
async def test_a_result_is_fetched_whole(arena: Arena) -> None:
    prediction = await arena.create()
    await arena.later()
    output, sink, result = await arena.output(prediction), io.BytesIO(), arena.result(prediction)
    for _ in range(2):
        sink = io.BytesIO()
        assert await arena.predictor.download(output, sink, 1 << 30) == len(result)
        assert sink.getvalue() == result


@WITH_RESULTS
async def test_a_result_has_no_more_bytes_than_it_may(arena: Arena) -> None:
    prediction = await arena.create()
    await arena.later()
    output, result = await arena.output(prediction), arena.result(prediction)
    assert await arena.predictor.download(output, io.BytesIO(), len(result)) == len(result)
    for bytes_max in (len(result) - 1, 1, 0):
        sink = io.BytesIO()
        with pytest.raises(NotAPicture):
            await arena.predictor.download(output, sink, bytes_max)
        assert len(sink.getvalue()) <= bytes_max
        assert result.startswith(sink.getvalue())


@WITH_RESULTS
async def test_a_link_that_is_gone_has_expired(arena: Arena) -> None:
    prediction = await arena.create()
    await arena.later()
    output, sink = await arena.output(prediction), io.BytesIO()
    arena.expire(prediction)
    with pytest.raises(Expired):
        await arena.predictor.download(output, sink, 1 << 30)
    assert sink.getvalue() == b""


@WITH_RESULTS
async def test_a_link_that_never_was_has_expired(arena: Arena) -> None:
    prediction = await arena.create()
    await arena.later()
    folder = (await arena.output(prediction)).rpartition("/")[0]
    with pytest.raises(Expired):
        await arena.predictor.download(f"{folder}/{'0' * 32}.png", io.BytesIO(), 1 << 30)


@pytest.mark.parametrize("arena", ["fake"], indirect=True)
async def test_a_fake_says_that_it_has_no_results(arena: Arena) -> None:
    sink = io.BytesIO()
    with pytest.raises(Fault) as caught:
        await arena.predictor.download(await arena.output(await arena.create()), sink, 1 << 30)
    assert (caught.value.blame, caught.value.gate, sink.getvalue()) == (Blame.SERVICE, Gate.FETCH, b"")


# The rest


async def test_a_check_creates_nothing(arena: Arena) -> None:
    url = await arena.url()
    await arena.predictor.check()
    assert await find(arena, url) is None


async def test_close_twice_is_fine(arena: Arena) -> None:
    await arena.create()
    await arena.predictor.close()
    await arena.predictor.close()
