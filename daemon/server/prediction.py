"""
Prediction: one run of the model, as it is kept and as it is shown.

Pure. `record` and `from_record` are each other's inverse; `from_record` raises `KeyError`, `TypeError` or `ValueError`
on anything that `record` did not make.
"""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self


class Status(StrEnum):
    """The hosted API's words."""

    CREATED = "created"
    PROCESSING = "processing"
    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"


OVER = {Status.SUCCESS, Status.ERROR, Status.CANCELLED}


@dataclass(frozen=True, slots=True)
class Prediction:
    """Times are seconds since 1970.

    input: as sent. origin: scheme and host under which the client reached us at the create, for the webhook.
    runs: how often the work was begun. output: the name of the result's file. error: as shown in `output`.
    told: whether its webhook was delivered or given up.
    """

    id: str
    model: str
    input: dict[str, Any] = field(repr=False)
    created_at: float
    origin: str
    webhook_url: str = field(default="", repr=False)
    webhook_secret: str = field(default="", repr=False)
    status: Status = Status.CREATED
    runs: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    predict_seconds: float = 0.0
    cost_usd: float = 0.0
    output: str = field(default="", repr=False)
    error: dict[str, Any] | None = None
    logs: str = ""
    told: bool = False

    @property
    def owes_webhook(self) -> bool:
        """Whether somebody is still to be told of its end; of a cancel nobody is."""
        return bool(self.webhook_url) and self.status in (Status.SUCCESS, Status.ERROR) and not self.told

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in OVER

    def record(self) -> dict[str, Any]:
        """All of it, for the disk."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """The prediction that `record` was made from."""
        return cls(**{**record, "status": Status(record["status"])})

    def result(self, origin: str) -> str | dict[str, Any] | None:
        """What `output` says: the URL of the result, the reason why there is none, or nothing yet."""
        return f"{origin}/outputs/{self.output}" if self.output else self.error

    def answer(self, origin: str, billed: bool) -> dict[str, Any]:
        """The answer to a get. origin: scheme and host under which the client reaches us now."""
        here = f"{origin}/v1/prediction/{self.id}"
        return {
            "id": self.id,
            "predictionID": self.id,
            "model": self.model,
            "status": self.status,
            "input": self.input,
            "output": self.result(origin),
            "metrics": {"predict_time": round(self.predict_seconds, 6), "cost": self.cost_usd},
            "billed": billed,
            "logs": self.logs,
            "created_at": rfc3339(self.created_at),
            "started_at": rfc3339(self.started_at),
            "ended_at": rfc3339(self.ended_at),
            "urls": {"get": here, "cancel": f"{here}/cancel"},
        }

    def row(self) -> dict[str, Any]:
        """The prediction's row in the history, which has no input."""
        return {
            "id": self.id,
            "model": self.model,
            "status": self.status,
            "execution_cost": self.cost_usd,
            "run_time": round(self.predict_seconds, 6),
            "created_at": rfc3339(self.created_at),
            "started_at": rfc3339(self.started_at),
            "ended_at": rfc3339(self.ended_at),
        }


def rfc3339(moment: float | None) -> str | None:
    """Seconds since 1970 as a time in UTC with milliseconds."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
