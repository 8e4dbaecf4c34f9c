"""
Sidecars and error reports: what stands beside a result, made from the ledger's facts. Pure; returns plain JSON values.

The form is fixed by `daemon/sidecar.schema.json`. No secret and no URL of an asset or a result ever goes in here.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from daemon.rules.job import Bill, Picture, Tile
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


def _source(picture: Picture, tile: Tile, inbox: bytes) -> dict[str, object]:
    content = tile.job.content
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


def sidecar(
    picture: Picture,
    tile: Tile,
    *,
    inbox: bytes,
    result: ResultFacts,
    bill: Bill,
    api: str,
    reused: bool,
    times: Mapping[str, float],
    warnings: list[str],
    version: str,
) -> dict[str, object]:
    """The sidecar of a delivered picture. times: seconds since 1970 by milestone; those not passed are left out."""
    return {
        "schema": SCHEMA,
        "source": _source(picture, tile, inbox),
        "result": {
            **named(result.path),
            "sha256": result.sha256,
            "bytes": result.bytes,
            "width": result.width,
            "height": result.height,
            "format": result.format,
        },
        "recipe": tile.job.recipe.as_json(),
        "prediction": {
            "id": tile.prediction,
            "api": api,
            "submits": tile.submits,
            "predict_seconds": bill.predict_seconds,
            "cost_usd": round(bill.cost_usd, 9),
            "reused": reused,
        },
        "times": {name: timestamp(times[name]) for name in MILESTONES if name in times},
        "warnings": warnings,
        "software": _software(version),
    }


def error_report(
    picture: Picture, tile: Tile, *, inbox: bytes, bill: Bill, failed_at: float, version: str
) -> dict[str, object]:
    """The report of a failed picture: the reason, what a person can do, the fault, the attempts, the cost so far."""
    return {
        "schema": ERROR_SCHEMA,
        "source": _source(picture, tile, inbox),
        "recipe": tile.job.recipe.as_json(),
        "reason": tile.reason,
        "remedy": tile.remedy,
        "fault": tile.blame,
        "job": tile.job.id,
        "attempts": tile.attempts,
        "submits": tile.submits,
        "cost_usd": round(bill.cost_usd, 9),
        "failed": timestamp(failed_at),
        "software": _software(version),
    }
