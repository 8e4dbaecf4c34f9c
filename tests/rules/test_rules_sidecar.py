"""What stands beside a result: the form that the schema fixes, names that are bytes, and no secret."""

import base64
import copy
import datetime
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import NOW, SECRET, SHA, a_job, a_picture, a_tile, a_whole, quick

from daemon.rules.job import Bill, Look, Whole
from daemon.rules.lifecycle import State
from daemon.rules.sidecar import ResultFacts, error_report, sidecar, timestamp
from daemon.rules.tiles import Rect

SCHEMA = json.loads((Path(__file__).parents[2] / "daemon" / "sidecar.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
JOURNEY = ("detected", "admitted", "uploaded", "submitted", "ready", "fetched", "written")
SIGNED = f"https://storage.example.org/o/x?{SECRET}"
WHOLE = a_whole(
    State.FETCHED, submits=1, prediction="id-1", asset_ref=f"ref?{SECRET}", asset_url=SIGNED, output_url=SIGNED
)
paths = st.binary(min_size=1, max_size=40)


def a_sidecar(path: bytes = b"trip/a.jpg", result: bytes = b"trip/a_x4.png", **changes: Any) -> dict[str, Any]:
    rest: dict[str, Any] = {
        "bills": {0: Bill(0.003985, 16.1)},
        "times": dict.fromkeys(JOURNEY, NOW),
        "reused": False,
    } | changes
    facts = ResultFacts(result, SHA, 9000, 120, 80, "PNG")
    return sidecar(
        a_picture(path),
        rest.pop("whole", WHOLE),
        inbox=rest.pop("inbox", b"/srv/in"),
        result=facts,
        api="https://api.example.org/v1",
        warnings=rest.pop("warnings", []),
        version="0.1.0",
        **rest,
    )


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_sidecar_of_the_design() -> None:
    moment = "2026-09-21T14:13:20.000Z"
    assert a_sidecar() == {
        "schema": "esrgand/sidecar/1",
        "source": {
            "path": "trip/a.jpg",
            "inbox": "/srv/in",
            "sha256": SHA,
            "bytes": 1000,
            "width": 30,
            "height": 20,
            "format": "JPEG",
            "modified": "2023-11-14T22:13:20.123Z",
        },
        "result": {
            "path": "trip/a_x4.png",
            "sha256": SHA,
            "bytes": 9000,
            "width": 120,
            "height": 80,
            "format": "PNG",
        },
        "recipe": {"model": "real-esrgan", "scale": 4, "face_enhance": False},
        "prediction": {
            "id": "id-1",
            "api": "https://api.example.org/v1",
            "submits": 1,
            "predict_seconds": 16.1,
            "cost_usd": 0.003985,
            "reused": False,
        },
        "times": dict.fromkeys(JOURNEY, moment),
        "warnings": [],
        "software": {"name": "esrgand", "version": "0.1.0"},
    }


@quick
@given(
    path=paths,
    result=paths,
    inbox=paths,
    bills=st.fixed_dictionaries({}, optional={0: st.builds(Bill, st.floats(0, 1e4), st.none() | st.floats(0, 1e7))}),
    times=st.dictionaries(st.sampled_from([*JOURNEY[1:-1], "retry_asked"]), st.floats(0, 4e9)),
    reused=st.booleans(),
    warnings=st.lists(st.text(), max_size=2),
)
def test_any_sidecar_keeps_the_form(path: bytes, result: bytes, times: dict[str, float], **rest: Any) -> None:
    times = {"detected": NOW, "written": NOW + 9} | times
    made = a_sidecar(path, result, times=times, **rest)
    text = json.dumps(made, ensure_ascii=False, allow_nan=False).encode()
    VALIDATOR.validate(json.loads(text))
    for end, name in (("source", path), ("result", result)):
        known = made[end]
        encoded = known.get("path_base64")
        assert (base64.b64decode(encoded) if encoded is not None else known["path"].encode()) == name
    assert list(made["times"]) == [name for name in JOURNEY if name in times], "in the journey's order"


def a_cut_one(**changes: Any) -> dict[str, Any]:
    """Of a picture with two tiles, the first of which needed two runs."""
    halves = (Rect(0, 0, 18, 20), Rect(12, 0, 18, 20))
    columns = [{"submits": 2, "prediction": "id-1"}, {"submits": 1, "prediction": "id-2"}]
    whole = Whole(
        tuple(
            a_tile(State.FETCHED, number=number, rect=rect, asset_url=SIGNED, output_url=SIGNED, **more)
            for number, (rect, more) in enumerate(zip(halves, columns, strict=True))
        )
    )
    bills = {0: Bill(0.1 + 0.2, 16.5), 1: Bill(0.004, None)}
    return a_sidecar(whole=whole, **({"bills": bills} | changes))


def test_of_a_picture_that_was_cut_it_has_sums_and_tiles() -> None:
    made = a_cut_one()
    VALIDATOR.validate(made)
    place = {"top": 0, "width": 18, "height": 20}
    assert made["prediction"] == {
        "api": "https://api.example.org/v1",
        "submits": 3,
        "predict_seconds": 16.5,
        "cost_usd": 0.304,
        "reused": False,
        "tiles": [
            {"id": "id-1", "left": 0, **place, "submits": 2, "predict_seconds": 16.5, "cost_usd": 0.3},
            {"id": "id-2", "left": 12, **place, "submits": 1, "predict_seconds": None, "cost_usd": 0.004},
        ],
    }
    assert {key: value for key, value in made.items() if key != "prediction"} == {
        key: value for key, value in a_sidecar().items() if key != "prediction"
    }
    assert a_cut_one(bills={})["prediction"]["predict_seconds"] is None
    assert SECRET not in json.dumps(made)


@pytest.mark.parametrize("change", [{"id": "id-1"}, {"tiles": []}, {"tiles": None}], ids=str)
def test_a_prediction_is_one_or_has_tiles(change: dict[str, Any]) -> None:
    broken = a_cut_one()
    broken["prediction"] = {key: v for key, v in (broken["prediction"] | change).items() if v is not None}
    assert not VALIDATOR.is_valid(broken)


def test_a_name_that_is_not_utf8_is_given_exactly() -> None:
    made = a_sidecar(b"trip/caf\xe9.jpg", b"trip/caf\xe9_x4.png")
    assert made["source"]["path"] == r"trip/caf\xe9.jpg"
    assert base64.b64decode(made["source"]["path_base64"]) == b"trip/caf\xe9.jpg"
    assert base64.b64decode(made["result"]["path_base64"]) == b"trip/caf\xe9_x4.png"
    assert "path_base64" not in a_sidecar("trip/café.jpg".encode())["source"]


@pytest.mark.parametrize("state", [State.DONE, State.FAILED])
def test_no_url_with_a_query_and_no_secret(state: State) -> None:
    made = a_sidecar() if state is State.DONE else a_report()
    text = json.dumps(made)
    assert SECRET not in text
    assert "?" not in text
    assert "example.org/o" not in text


@quick
@given(st.floats(-2e9, 2e11))
def test_times_are_rfc_3339_in_utc_with_milliseconds(seconds: float) -> None:
    text = timestamp(seconds)
    assert RFC_3339.fullmatch(text)
    assert abs(datetime.datetime.fromisoformat(text).timestamp() - seconds) <= 0.0011


def test_times_in_numbers() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(-0.5) == "1969-12-31T23:59:59.500Z"
    assert timestamp(NOW + 0.25) == "2026-09-21T14:13:20.250Z"


def test_money_is_money() -> None:
    assert a_sidecar(bills={0: Bill(0.1 + 0.2, None)})["prediction"]["cost_usd"] == 0.3
    assert a_sidecar(bills={0: Bill(0.1 + 0.2, None)})["prediction"]["predict_seconds"] is None


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        *[("", key, None) for key in SCHEMA["required"]],
        *[("source", key, None) for key in SCHEMA["properties"]["source"]["required"]],
        ("", "more", 1),
        ("times", "detected", "2026-09-21T14:13:20Z"),
        ("times", "detected", "2026-09-21T14:13:20.000+00:00"),
        ("result", "format", "png"),
        ("result", "sha256", "abc"),
        ("recipe", "scale", 0),
    ],
)
def test_the_schema_has_teeth(where: str, key: str, value: object) -> None:
    broken = copy.deepcopy(a_sidecar())
    part = broken[where] if where else broken
    part.pop(key, None)
    if value is not None:
        part[key] = value
    assert not VALIDATOR.is_valid(broken)


def a_report() -> dict[str, Any]:
    whole = a_whole(
        State.FAILED,
        job=a_job(b"trip/caf\xe9.jpg"),
        attempts=3,
        submits=1,
        asset_url=SIGNED,
        reason="It is not a picture.",
        remedy="Save it again.",
        blame="picture",
    )
    picture = a_picture(b"trip/caf\xe9.jpg", look=Look(1, 0, 1))
    return error_report(picture, whole, inbox=b"/srv/in", bill=Bill(0.004), failed_at=NOW, version="0.1.0")


def test_a_report_says_why_what_to_do_and_what_it_cost() -> None:
    report = a_report()
    assert report["schema"] == "esrgand/error/1"
    said = {key: report[key] for key in ("reason", "remedy", "fault", "attempts", "submits", "cost_usd", "failed")}
    assert said == {
        "reason": "It is not a picture.",
        "remedy": "Save it again.",
        "fault": "picture",
        "attempts": 3,
        "submits": 1,
        "cost_usd": 0.004,
        "failed": "2026-09-21T14:13:20.000Z",
    }
    assert base64.b64decode(report["source"]["path_base64"]) == b"trip/caf\xe9.jpg"
    assert report["source"]["modified"] == "1970-01-01T00:00:00.000Z"
