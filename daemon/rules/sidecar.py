"""
Sidecars and error reports: what stands beside a result, made from the ledger's facts. Pure; returns plain JSON values.

The form is fixed by `daemon/sidecar.schema.json`. No secret and no URL of an asset or a result ever goes in here.
"""

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from daemon.rules.job import Bill, Job, Picture, Whole
from daemon.rules.names import named, text_of

SCHEMA = "esrgand/sidecar/1"
ERROR_SCHEMA = "esrgand/error/1"
MILESTONES = ("detected", "admitted", "uploaded", "submitted", "ready", "fetched", "written")


@dataclass(frozen=True, slots=True)
class ResultFacts:
    """The result as it lies in the outbox."""

    path: bytes
    sha256: str
    bytes: int
    width: int
    height: int
    format: str


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds. seconds: since 1970."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _source(picture: Picture, job: Job, inbox: bytes) -> dict[str, object]:
    content = job.content
    return {
        **named(picture.path),
        "inbox": text_of(inbox),
        "sha256": content.sha256,
        "bytes": content.bytes,
        "width": content.width,
        "height": content.height,
        "format": content.format,
        "modified": timestamp(picture.look.mtime_ns / 1e9),
    }


def _software(version: str) -> dict[str, object]:
    return {"name": "esrgand", "version": version}


def _prediction(whole: Whole, api: str, bills: Mapping[int, Bill], reused: bool) -> dict[str, object]:
    """Of a picture that was cut, the sums; and below them what each tile was and took."""
    one = whole.tiles[0]
    together = {
        "api": api,
        "submits": whole.submits,
        "predict_seconds": Bill.summed(bills.get(tile.number, Bill()) for tile in whole.tiles).predict_seconds,
        "cost_usd": round(Bill.summed(bills.values()).cost_usd, 9),
        "reused": reused,
    }
    if len(whole.tiles) == 1:
        return {"id": one.prediction, **together}
    tiles = [
        {
            "id": tile.prediction,
            **dataclasses.asdict(tile.rect),
            "submits": tile.submits,
            "predict_seconds": bills.get(tile.number, Bill()).predict_seconds,
            "cost_usd": round(bills.get(tile.number, Bill()).cost_usd, 9),
        }
        for tile in whole.tiles
    ]
    return {**together, "tiles": tiles}


def sidecar(
    picture: Picture,
    whole: Whole,
    *,
    inbox: bytes,
    result: ResultFacts,
    bills: Mapping[int, Bill],
    api: str,
    reused: bool,
    times: Mapping[str, float],
    warnings: list[str],
    version: str,
) -> dict[str, object]:
    """The sidecar of a delivered picture.

    bills: by tile. times: seconds since 1970 by milestone; those not passed are left out.
    """
    return {
        "schema": SCHEMA,
        "source": _source(picture, whole.job, inbox),
        "result": {
            **named(result.path),
            "sha256": result.sha256,
            "bytes": result.bytes,
            "width": result.width,
            "height": result.height,
            "format": result.format,
        },
        "recipe": whole.job.recipe.as_json(),
        "prediction": _prediction(whole, api, bills, reused),
        "times": {name: timestamp(times[name]) for name in MILESTONES if name in times},
        "warnings": warnings,
        "software": _software(version),
    }


def error_report(
    picture: Picture, whole: Whole, *, inbox: bytes, bill: Bill, failed_at: float, version: str
) -> dict[str, object]:
    """The report of a failed picture: the reason, what a person can do, the fault, the attempts, the cost so far."""
    tile = whole.standing
    return {
        "schema": ERROR_SCHEMA,
        "source": _source(picture, whole.job, inbox),
        "recipe": whole.job.recipe.as_json(),
        "reason": tile.reason,
        "remedy": tile.remedy,
        "fault": tile.blame,
        "job": whole.job.id,
        "attempts": tile.attempts,
        "submits": whole.submits,
        "cost_usd": round(bill.cost_usd, 9),
        "failed": timestamp(failed_at),
        "software": _software(version),
    }
