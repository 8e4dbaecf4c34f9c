"""
The service and the storage as they really are: what exists there exists whether the daemon heard of it or not.

`Service` is the truth and survives every crash. `SimPredictor` and `SimStorage` are what one boot of the daemon sees of
it, with every fault that the contract knows. What must never happen is told to `wrong`.
"""

import functools
import hashlib
import io
import itertools
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from simulation.engine import MIDNIGHT, TO_MIDNIGHT, Crash, Machine, pause

from daemon.ports import Asset, Progress, Running, Spoiled, Succeeded
from daemon.rules.faults import Blame, Changed, Created, Expired, Fault, Gate, NotAPicture, Outlook, Unknown
from daemon.rules.hooks import Hook
from daemon.rules.recipe import Recipe
from daemon.rules.tiles import Rect, cut, scaled, shrunk

PRICE = 0.004
HISTORY_SECONDS_SPARE = 300.0
CREATE_SECONDS_MAX = 6.0
# With these, a picture of 8 x 4 pixels has two tiles, one of 9 x 5 three and one of 8 x 8 four.
PIXELS_MAX = 25
PIXELS_MAX_CHANGED = (25, 16, 40)  # what the model is said to take from one start to the next, in some seeds
OVERLAP = 1
SIZES = [*[(4, 3)] * 3, (8, 4), (9, 5), (8, 8)]


def source_bytes(number: int, width: int = 4, height: int = 3, *, good: bool = True) -> bytes:
    """A picture, as SimPictures reads it; one that is not good never decodes."""
    return b"PIC %d %d %d %s" % (width, height, number, b"END" if good else b"CUT")


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height, or None where it does not decode."""
    words = data.split(b" ")
    whole = len(words) == 5 and words[0] in (b"PIC", b"RESULT") and words[-1] == b"END"
    return (int(words[1]), int(words[2])) if whole else None


def result_bytes(source: bytes, scale: float) -> bytes:
    """What the model makes of a source."""
    size = size_of(source)
    assert size is not None
    digest = hashlib.sha256(source).hexdigest()[:16].encode()
    return b"RESULT %d %d %s END" % (round(size[0] * scale), round(size[1] * scale), digest)


def part_bytes(source: bytes, rect: Rect, size: tuple[int, int] | None = None) -> bytes:
    """What is uploaded of a picture that is cut, as `SimPictures.prepare` makes it; of one that is not, the picture.

    size: what it is made smaller to.
    """
    if size_of(source) == (rect.width, rect.height) and size is None:
        return source
    name = b"%s@%d,%d" % (hashlib.sha256(source).hexdigest()[:16].encode(), rect.left, rect.top)
    if size is not None:
        name += b",%d,%d" % (rect.width, rect.height)
    return b"PIC %d %d %s END" % (*(size or (rect.width, rect.height)), name)


def whence(part: bytes) -> tuple[str, Rect]:
    """Of which picture a part is, by a piece of its hash, and what part of it."""
    size, name = size_of(part), part.split(b" ")[3].decode()
    assert size is not None
    picture, at, place = name.partition("@")
    if not at:
        return hashlib.sha256(part).hexdigest()[:16], Rect(0, 0, *size)
    numbers = [int(number) for number in place.split(",")]
    return picture, Rect(*numbers[:2], *(numbers[2:] or size))


def joined(parts: Sequence[tuple[bytes, Rect]], size: tuple[int, int]) -> bytes:
    """One result of those of several tiles; every byte of each counts, and where it belongs."""
    places = [
        b"%d,%d:%s" % (rect.left, rect.top, hashlib.sha256(part).hexdigest()[:16].encode()) for part, rect in parts
    ]
    return b"RESULT %d %d %s END" % (*size, b"+".join(places))


def tiles_of(source: bytes, scale: float) -> tuple[Rect, ...]:
    """How a picture is cut."""
    size = size_of(source)
    assert size is not None
    return cut(*size, PIXELS_MAX, OVERLAP, scale)


@functools.lru_cache(4096)
def right_results(source: bytes, scale: float, limits: tuple[int, ...]) -> frozenset[bytes]:
    """What may be in the outbox, before it is converted. limits: what the model was said to take."""
    size = size_of(source)
    assert size is not None
    whole = round(size[0] * scale), round(size[1] * scale)
    found = set()
    for limit in limits:
        rects = cut(*size, limit, OVERLAP, scale)
        if len(rects) == 1:
            found.add(result_bytes(source, scale))
            continue
        ways = [_ways(source, rect, scale, [most for most in limits if most <= limit]) for rect in rects]
        places = [scaled(rect, scale, whole) for rect in rects]
        found |= {joined(list(zip(parts, places, strict=True)), whole) for parts in itertools.product(*ways)}
    return frozenset(found)


def _ways(source: bytes, rect: Rect, scale: float, limits: Sequence[int]) -> set[bytes]:
    """What the model makes of a part, which is made smaller where it takes less than when the picture was cut."""
    sizes = {shrunk(rect.width, rect.height, most) if rect.pixels > most else None for most in limits}
    return {result_bytes(part_bytes(source, rect, size), scale) for size in sizes}


@dataclass
class Run:
    """A prediction, as it really is. end: success, spoiled (passing), lasting."""

    id: str
    url: str
    content: str
    scale: float
    created_at: float
    ends_at: float
    known_at: float
    listed_at: float
    end: str
    part: bytes = b""
    result: bytes = b""
    link: int = 0
    reported_spoiled: bool = False
    told: bool = False


@dataclass
class Faults:
    """How often each thing goes wrong, 0 to 1."""

    call: float = 0.0
    create: float = 0.0
    spoil: float = 0.0
    download: float = 0.0
    storage: float = 0.0


@dataclass
class Service:
    """The account at the API, and the bucket.

    webhooks: chance of their own, or None: it tells nobody. hear: the daemon that runs now, or None while none does.
    sources: what has a URL ever been made for. allowed: by content, runs that a person asked for beyond the usual.
    """

    machine: Machine
    in_flight_max: int
    creates_per_minute_max: int
    submits_max: int
    wrong: Callable[[str], None]
    faults: Faults = field(default_factory=Faults)
    usd_max: float = 0.0
    runs: dict[str, Run] = field(default_factory=dict)
    posts: dict[str, int] = field(default_factory=dict)
    allowed: dict[str, int] = field(default_factory=dict)
    doomed: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    creates: list[float] = field(default_factory=list)
    injected: dict[str, int] = field(default_factory=dict)
    closed_until: float = 0.0
    webhooks: random.Random | None = None
    hear: Callable[[str], None] | None = None

    def hit(self, kind: str, chance: float) -> bool:
        """Whether a fault happens now."""
        if chance and self.machine.chance.random() < chance:
            self.injected[kind] = self.injected.get(kind, 0) + 1
            return True
        return False

    def content_of(self, url: str) -> str:
        """Which content a URL leads to, by its object's key and bytes."""
        data = self.objects.get(self.urls.get(url, ""))
        return hashlib.sha256(data).hexdigest() if data is not None else ""

    def make(self, url: str, content: str, recipe: Recipe, hook: Hook | None = None) -> Run:
        """A prediction comes into being, and will be billed."""
        now, chance = self.machine.time(), self.machine.chance
        key = f"{content}@{recipe.scale:g}"
        self._check_create(key, now)
        data = self.objects.get(self.urls.get(url, ""))
        if data is None:
            self.wrong("the service could not read the picture: its object or its URL is gone")
            data = source_bytes(0)
        end = (
            "lasting" if content in self.doomed else "spoiled" if self.hit("spoiled", self.faults.spoil) else "success"
        )
        run = Run(
            id=f"run-{len(self.runs) + 1}",
            url=url,
            content=key,
            scale=recipe.scale,
            created_at=now,
            ends_at=now + chance.choice([0.2, 1.0, 4.0, 16.0]) * (0.5 + chance.random()),
            known_at=now + chance.choice([0.0, 0.0, 0.0, 0.0, 3.0 * chance.random()]),
            listed_at=now + chance.random() * 2,
            end=end,
            part=data,
            result=result_bytes(data, recipe.scale),
        )
        self.runs[run.id] = run
        if self.hit("forgotten for a while", self.faults.call / 4):
            run.known_at = now + 100.0
        self.machine.schedule(now + (run.ends_at - now) * chance.random(), lambda: self._reads(run))
        self.machine.note(f"created {run.id} of {content[:8]}: {end}")
        if hook is not None:
            self._plan_webhooks(run, hook.url.rpartition("/")[2])
        return run

    def _plan_webhooks(self, run: Run, token: str) -> None:
        """Prompt as a rule; lost, late, early and repeated now and then, and for some minutes none at all."""
        chance = self.webhooks
        assert chance is not None
        kind = chance.choice(["prompt"] * 7 + ["lost", "late", "early"])
        if kind == "lost" or 60.0 < run.ends_at % 600.0 < 240.0:
            return
        times = {"prompt": run.ends_at + chance.expovariate(3.0), "late": run.ends_at + 20.0 * chance.random()}
        at = times.get(kind, run.created_at + (run.ends_at - run.created_at) * chance.random())
        for repeated in range(chance.choice([1, 1, 1, 2, 3])):
            self.machine.schedule(at + repeated, lambda: self._tell(token))
        if chance.random() < 0.1:
            self.machine.schedule(at, lambda: self._tell("0" * 32))

    def _tell(self, token: str) -> None:
        if self.hear is not None:
            self.hear(token)

    def _reads(self, run: Run) -> None:
        """A prediction may wait before it begins, and reads its picture then."""
        if self.objects.get(self.urls.get(run.url, "")) is None:
            self.wrong(f"the object of {run.id} went while it could be read")

    def _check_create(self, key: str, now: float) -> None:
        alive = [run for run in self.runs.values() if run.content == key and not run.reported_spoiled]
        if len(alive) > self.allowed.get(key, 0):
            self.wrong(f"{key[:8]} is paid for again: {alive[0].id} exists")
        running = [run for run in self.runs.values() if run.ends_at > now]
        if len(running) >= self.in_flight_max:
            self.wrong(f"{len(running) + 1} in flight at the service, {self.in_flight_max} are allowed")
        self.creates = [at for at in self.creates if at > now - 60.0]
        # A clock that is set hides from a restart how long ago the last submits were; a 429 tells, and costs nothing.
        if len(self.creates) >= self.creates_per_minute_max and not self.machine.skew:
            self.wrong(f"{len(self.creates) + 1} creates in a minute, {self.creates_per_minute_max} are allowed")
        self.creates.append(now)
        today = (now - TO_MIDNIGHT) // 86_400
        spent = PRICE * sum((run.created_at - TO_MIDNIGHT) // 86_400 == today for run in self.runs.values())
        if self.usd_max and spent > self.usd_max:
            self.wrong(f"{spent + PRICE:g} USD are spent in a day, {self.usd_max:g} are allowed")

    def count_post(self, content: str, scale: float) -> None:
        """A create that may have been accepted."""
        key = f"{content}@{scale:g}"
        self.posts[key] = self.posts.get(key, 0) + 1
        if self.posts[key] > self.submits_max + self.allowed.get(key, 0):
            self.wrong(f"{key[:8]} was submitted {self.posts[key]} times")


def fault(said: str, gate: Gate = Gate.API, **more: Any) -> Fault:
    return Fault(said, blame=Blame.SERVICE, gate=gate, **more)


class SimPredictor:
    """The Predictor port."""

    def __init__(self, service: Service, machine: Machine) -> None:
        self._service = service
        self._machine = machine

    @property
    def ahead(self) -> float:
        """The service's clock is right, whatever ours is set to."""
        return -self._machine.skew

    async def _travel(self) -> None:
        self._machine.step("request")
        await pause(self._machine.chance.expovariate(20.0))
        self._machine.step("answer")

    def _fail(self, chance: float, gate: Gate) -> None:
        if self._service.hit(f"{gate.value} call", chance):
            raise fault("The call failed.", gate)

    async def create(self, recipe: Recipe, image_url: str, hook: Hook | None = None) -> str:
        service, machine, chance = self._service, self._machine, self._machine.chance
        content = service.content_of(image_url)
        machine.step("create")
        if service.hit("refused connection", service.faults.create / 8):
            raise fault("Nobody listens.")
        if machine.time() < service.closed_until:
            raise fault("402", outlook=Outlook.LASTING)
        if service.hit("402", service.faults.create / 16):
            service.closed_until = machine.time() + 90
            raise fault("402", outlook=Outlook.LASTING)
        if service.hit("429", service.faults.create / 4):
            raise fault("429", rate_limited=True, retry_after=chance.choice([None, 5.0]))
        if content in service.doomed and chance.random() < 0.5:
            raise Fault("400", blame=Blame.PICTURE, outlook=Outlook.LASTING)
        lost = fault("The answer got lost.", created=Created.MAYBE)
        if service.hit("lost before", service.faults.create / 4):
            service.count_post(content, recipe.scale)
            await self._travel()
            raise lost
        if service.hit("hang", service.faults.create / 8):
            service.count_post(content, recipe.scale)
            if chance.random() < 0.5:
                await self._arrives_late(image_url, content, recipe, hook)
            await pause(CREATE_SECONDS_MAX)
            raise lost
        await pause(chance.expovariate(20.0))
        machine.step("create arrives")
        service.count_post(content, recipe.scale)
        run = service.make(image_url, content, recipe, hook)
        await pause(chance.expovariate(20.0))
        machine.step("create answered")
        if service.hit("lost after", service.faults.create / 4):
            raise lost
        return run.id

    async def _arrives_late(self, url: str, content: str, recipe: Recipe, hook: Hook | None) -> None:
        """On its way for as long as the request may take, whatever becomes of us meanwhile."""
        at = self._machine.time() + self._machine.chance.random() * CREATE_SECONDS_MAX
        self._machine.schedule(at, lambda: self._service.make(url, content, recipe, hook) and None)

    async def get(self, prediction: str) -> Progress:
        service, now = self._service, self._machine.time
        await self._travel()
        self._fail(service.faults.call, Gate.POLL)
        run = service.runs.get(prediction)
        if run is None or now() < run.known_at:
            raise Unknown("404")
        if now() < run.ends_at:
            return Running("processing")
        run.told = True
        if run.end == "success":
            return Succeeded(f"https://result.test/{run.id}/{run.link}", PRICE, 16.0)
        run.reported_spoiled = True
        return Spoiled("CUDA out of memory" if run.end == "spoiled" else "broken", run.end == "spoiled", PRICE)

    async def find(self, model: str, image_url: str, since: float, others: Collection[str] = ()) -> str | None:
        service = self._service
        await self._travel()
        self._fail(service.faults.call, Gate.HISTORY)
        now = self._machine.time()
        begin = min(since, since + self.ahead) - (MIDNIGHT - TO_MIDNIGHT) - HISTORY_SECONDS_SPARE
        for run in service.runs.values():
            if run.id in others or run.url != image_url or now < run.listed_at:
                continue
            if run.created_at >= min(begin, now - HISTORY_SECONDS_SPARE):
                return run.id
        return None

    async def download(self, url: str, sink: BinaryIO, bytes_max: int) -> int:
        service, chance = self._service, self._machine.chance
        await self._travel()
        self._fail(service.faults.call, Gate.FETCH)
        _, id_, link = url.rsplit("/", 2)
        run = service.runs.get(id_)
        if run is None or link != str(run.link):
            raise Expired("410")
        data = run.result
        if service.hit("expired", service.faults.download / 4):
            run.link += 1
            raise Expired("410")
        if service.hit("bad body", service.faults.download):
            others = [result_bytes(source_bytes(9, size, size), run.scale) for size in (2, 9)]
            data = chance.choice([data[:-3], b"<html>", b"", *others, b"JPEG:" + data])
        if len(data) > bytes_max:
            raise NotAPicture("The result is too large.")
        half = len(data) // 2
        sink.write(data[:half])
        if service.hit("cut", service.faults.download / 4):
            raise fault("It was cut.", Gate.FETCH)
        await pause(chance.expovariate(20.0))
        sink.write(data[half:])
        return len(data)

    async def check(self) -> None:
        await self._travel()
        self._fail(self._service.faults.call, Gate.API)

    async def close(self) -> None:
        return None


class SimStorage:
    """The Storage port: signed URLs that change with each signing, objects that stay until they are deleted."""

    def __init__(self, service: Service, machine: Machine) -> None:
        self._service = service
        self._machine = machine

    async def _travel(self) -> None:
        self._machine.step("storage")
        await pause(self._machine.chance.expovariate(20.0))
        self._machine.step("stored")
        if self._service.hit("storage", self._service.faults.storage):
            raise fault("The bucket does not answer.", Gate.STORAGE, remedy="Look at it.")

    async def put(self, key: str, source: BinaryIO, bytes_: int, content_type: str) -> Asset:
        source.seek(0)
        data = source.read(bytes_)
        if len(data) < bytes_:
            raise Changed("shorter")
        await self._travel()
        self._service.objects[key] = data
        if self._service.hit("storage late", self._service.faults.storage):
            raise fault("The answer of the bucket got lost.", Gate.STORAGE)
        return self._asset(key)

    async def fresh(self, asset: Asset, *, look: bool) -> Asset | None:
        if not self._machine.alive:
            raise Crash
        return None if look and asset.ref not in self._service.objects else self._asset(asset.ref)

    async def delete(self, ref: str) -> None:
        await self._travel()
        if self._service.objects.pop(ref, None) is not None:
            self._machine.note(f"deleted {ref}")

    async def discard(self, key: str) -> None:
        await self.delete(key)

    async def check(self) -> None:
        asset = await self.put("check", io.BytesIO(b"x"), 1, "text/plain")
        await self.delete(asset.ref)

    async def advice(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None

    def _asset(self, ref: str) -> Asset:
        url = f"https://storage.test/{ref}?signature={len(self._service.urls)}"
        self._service.urls[url] = ref
        return Asset(ref, url, None)
