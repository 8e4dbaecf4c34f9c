"""
Predictions: their states, their limits, their history, and the tasks that work on them.

A prediction is durable before its create is answered, and its end before it can be seen. What a restart finds
unfinished is run again, a few times at most, so that a picture that kills the process does not kill it for ever; and
whoever was not told of an end is told. Raises `Refusal` where the client asks for what cannot be, and `OSError` where
the disk fails: then nothing was changed.
"""

import asyncio
import contextlib
import math
import uuid
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from daemon.ports import Clock
from daemon.rules.recipe import MODEL
from daemon.server.bodies import HistoryQuery, Order, Refusal
from daemon.server.prediction import Prediction, Status
from daemon.server.run import Runner
from daemon.server.settings import ServerSettings
from daemon.server.store import Store
from daemon.server.upscaler import UpscaleError
from daemon.server.webhook import Webhooks

MINUTE = 60.0
RUNS_MAX = 5


@dataclass(frozen=True, slots=True)
class Counts:
    """Of all predictions that are kept. created: all of them. running: not over. finished: over, however."""

    created: int
    running: int
    finished: int


class Predictions:
    """All predictions that are kept, oldest first."""

    def __init__(
        self,
        settings: ServerSettings,
        clock: Clock,
        store: Store,
        runner: Runner,
        webhooks: Webhooks,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._runner = runner
        self._webhooks = webhooks
        self._log = log
        self._all: dict[str, Prediction] = {}
        self._unfinished: set[str] = set()
        self._creates: deque[float] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(settings.workers)
        # One change at a time: what was looked at is still so when it is written.
        self._changing = asyncio.Lock()

    def load(self) -> None:
        """Read what an earlier process left, its last minute of creates included."""
        found = []
        for record in self._store.load("predictions"):
            try:
                found.append(Prediction.from_record(record))
            except (KeyError, TypeError, ValueError):
                self._log.warning("record_unreadable", kind="predictions", record=str(record.get("id")))
        for prediction in sorted(found, key=lambda one: one.created_at):
            self._publish(prediction)
            age = self._clock.wall() - prediction.created_at
            if 0 <= age < MINUTE:
                self._creates.append(self._clock.monotonic() - age)
        self._store.keep_only("outputs", {one.output for one in found})

    def resume(self) -> None:
        """Go on with what is unfinished, and tell whoever was not told."""
        now = self._clock.wall()
        for prediction in self._all.values():
            if not prediction.over:
                self._begin(prediction.id, self._work(prediction.id))
            elif prediction.owes_webhook and now - (prediction.ended_at or now) <= self._settings.output_seconds:
                self._begin(prediction.id, self._tell(prediction))

    async def close(self) -> None:
        """Drop the work in hand; the next start runs it again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def counts(self) -> Counts:
        """How many there are."""
        running = len(self._unfinished)
        return Counts(created=len(self._all), running=running, finished=len(self._all) - running)

    async def create(self, order: Order, origin: str) -> Prediction:
        """Accept an order and start on it, or refuse it with 429."""
        async with self._changing:
            now = self._clock.monotonic()
            self._refuse_beyond_limits(now)
            prediction = Prediction(
                id=str(uuid.UUID(hex=self._clock.token(16), version=4)),
                model=MODEL,
                input=order.input,
                created_at=self._clock.wall(),
                origin=origin,
                webhook_url=order.webhook_url,
                webhook_secret=order.webhook_secret,
            )
            await self._save(prediction)
            self._publish(prediction)
            self._creates.append(now)
        self._log.info("prediction_created", prediction=prediction.id)
        self._begin(prediction.id, self._work(prediction.id))
        return prediction

    def get(self, prediction_id: str) -> Prediction | None:
        """The prediction as it stands."""
        return self._all.get(prediction_id)

    async def cancel(self, prediction_id: str) -> Prediction | None:
        """End it where it is not over; None where there is no such prediction."""
        async with self._changing:
            prediction = self._all.get(prediction_id)
            if prediction is None or prediction.over:
                return prediction
            prediction = replace(prediction, status=Status.CANCELLED, ended_at=self._clock.wall())
            await self._save(prediction)
            self._publish(prediction)
            # The task waits for this lock whenever it changes anything, so it is not half-way through a change now.
            if prediction_id in self._tasks:
                self._tasks[prediction_id].cancel()
        self._log.info("prediction_cancelled", prediction=prediction_id)
        return prediction

    def history(self, query: HistoryQuery) -> tuple[list[Prediction], int]:
        """A page of what the query asks for, newest first, and how many there are in all."""
        rows = [
            one
            for one in reversed(self._all.values())
            if one.created_at >= query.since and query.model in ("", one.model)
        ]
        return rows[query.offset : query.offset + query.limit], len(rows)

    async def sweep(self) -> None:
        """Remove results and predictions that have been kept for long enough."""
        now = self._clock.wall()
        for prediction in list(self._all.values()):
            age = now - prediction.ended_at if prediction.ended_at is not None else 0.0
            if prediction.output and age > self._settings.output_seconds:
                await self._store.do(self._store.remove, "outputs", prediction.output)
            if age > self._settings.prediction_seconds:
                await self._store.do(self._store.remove, "predictions", f"{prediction.id}.json")
                del self._all[prediction.id]

    def _refuse_beyond_limits(self, now: float) -> None:
        while self._creates and self._creates[0] <= now - MINUTE:
            self._creates.popleft()
        if len(self._creates) >= self._settings.creates_per_minute_max:
            free = self._creates[-self._settings.creates_per_minute_max] + MINUTE
            most = self._settings.creates_per_minute_max
            raise Refusal(429, "Too many requests", f"more than {most} creates in a minute", math.ceil(free - now))
        if len(self._unfinished) >= self._settings.in_flight_max:
            most = self._settings.in_flight_max
            raise Refusal(429, "Too many requests", f"more than {most} predictions in flight", 1)

    def _begin(self, prediction_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"prediction-{prediction_id}")
        self._tasks[prediction_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(prediction_id, None))

    async def _work(self, prediction_id: str) -> None:
        async with self._turns:
            prediction = await self._perform(prediction_id)
        await self._tell(prediction)

    async def _tell(self, prediction: Prediction) -> None:
        if prediction.owes_webhook:
            await self._webhooks.deliver(prediction)
            await self._change(prediction.id, told=True)

    async def _perform(self, prediction_id: str) -> Prediction:
        begun = self._clock.monotonic()
        started = await self._change(
            prediction_id,
            status=Status.PROCESSING,
            started_at=self._clock.wall(),
            runs=self._all[prediction_id].runs + 1,
            logs=f"engine: {self._runner.engine}\n",
        )
        self._log.info("prediction_started", prediction=prediction_id, run=started.runs)
        with self._store.scratch() as target:
            try:
                if started.runs > RUNS_MAX:
                    raise UpscaleError("The prediction was interrupted too often", retryable=True)
                with self._foreign_failures(prediction_id):
                    report = await self._runner.run(started.input, target)
                    await self._pause(begun)
                    ending = await self._keep(target)
                    ending["logs"] = started.logs + "".join(f"{line}\n" for line in report.lines)
            except UpscaleError as error:
                await self._pause(begun)
                reason = {"error_message": error.text, "error_code": error.code, "retryable": error.retryable}
                ending = {"status": Status.ERROR, "error": reason, "logs": f"{started.logs}error: {error.text}\n"}
        seconds = self._clock.monotonic() - begun
        ended = await self._change(
            prediction_id,
            **ending,
            ended_at=self._clock.wall(),
            predict_seconds=seconds,
            cost_usd=round(seconds * self._settings.usd_per_second, 9),
        )
        if ended.error is None:
            self._log.info("prediction_succeeded", prediction=prediction_id, seconds=round(seconds, 3))
        else:
            self._log.info("prediction_failed", prediction=prediction_id, code=ended.error["error_code"])
        return ended

    async def _keep(self, target: Path) -> dict[str, Any]:
        name = f"{self._clock.token(16)}.png"
        await self._store.do(self._store.keep, target, "outputs", name)
        return {"status": Status.SUCCESS, "output": name}

    async def _pause(self, begun: float) -> None:
        rest = begun + self._settings.predict_seconds_min - self._clock.monotonic()
        if rest > 0:
            await self._clock.sleep(rest)

    @contextlib.contextmanager
    def _foreign_failures(self, prediction_id: str) -> Iterator[None]:
        """Whatever an engine or a disk raises ends one prediction, never the server."""
        try:
            yield
        except UpscaleError:
            raise
        except OSError as error:
            self._log.error("prediction_disk_failed", prediction=prediction_id, error=error.strerror)
            raise UpscaleError("The server could not write to its disk", retryable=True) from None
        except Exception as error:  # noqa: BLE001  (engines are foreign code; one failing ends one prediction)
            self._log.error("prediction_engine_failed", prediction=prediction_id, error=type(error).__name__)
            raise UpscaleError("The engine failed unexpectedly", retryable=True) from None

    async def _change(self, prediction_id: str, **changes: Any) -> Prediction:
        async with self._changing:
            prediction = replace(self._all[prediction_id], **changes)
            try:
                await self._save(prediction)
            except OSError as error:
                # The client can still be told; a restart would run it again.
                self._log.error("prediction_not_saved", prediction=prediction_id, error=error.strerror)
            self._publish(prediction)
        return prediction

    async def _save(self, prediction: Prediction) -> None:
        await self._store.do(self._store.save, "predictions", prediction.id, prediction.record())

    def _publish(self, prediction: Prediction) -> None:
        self._all[prediction.id] = prediction
        if prediction.over:
            self._unfinished.discard(prediction.id)
        else:
            self._unfinished.add(prediction.id)
