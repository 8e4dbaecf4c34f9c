"""
Webhook: tell whoever asked for it that a prediction is over.

Three attempts within about 20 seconds; any 2xx answer ends them. With a secret, the body is signed: both of the headers
that the hosted service is said to send are there. A delivery that fails is logged and forgotten: the receiver treats it
as a hint, and asks. One that a restart interrupts begins anew, so it may arrive twice. Raises nothing.
"""

import hashlib
import hmac

import orjson
from structlog.typing import FilteringBoundLogger

from daemon.ports import Clock
from daemon.server.outbound import Outbound
from daemon.server.prediction import Prediction, Status

# Seconds before each attempt.
PAUSES = (0.0, 5.0, 15.0)


class Webhooks:
    """Deliveries, each in the task of its prediction."""

    def __init__(self, clock: Clock, outbound: Outbound, log: FilteringBoundLogger) -> None:
        self._clock = clock
        self._outbound = outbound
        self._log = log

    async def deliver(self, prediction: Prediction) -> None:
        """Try until somebody listens; without a `webhook_url` there is nothing to do."""
        if not prediction.webhook_url:
            return
        body = message(prediction)
        status: int | None = None
        for attempt, pause in enumerate(PAUSES, start=1):
            if pause:
                await self._clock.sleep(pause)
            headers = signature(prediction.webhook_secret, int(self._clock.wall()), body)
            status = await self._outbound.post(prediction.webhook_url, body, headers)
            if status is not None and 200 <= status < 300:
                self._log.info("webhook_delivered", prediction=prediction.id, attempt=attempt)
                return
        self._log.warning("webhook_given_up", prediction=prediction.id, status=status, attempts=len(PAUSES))


def message(prediction: Prediction) -> bytes:
    """The body: the id under both of its names, and the result or the reason."""
    succeeded = prediction.status is Status.SUCCESS
    return orjson.dumps(
        {
            "exec_id": prediction.id,
            "flow_id": prediction.id,
            "status": "succeeded" if succeeded else "failed",
            "output": prediction.result(prediction.origin),
            "error": None if prediction.error is None else prediction.error["error_message"],
        }
    )


def signature(secret: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that show where a body comes from; none without a secret."""
    if not secret:
        return {}
    signed = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {
        "X-Webhook-Secret": secret,
        "X-Webhook-Timestamp": str(timestamp),
        "X-Webhook-Signature": signed,
    }
