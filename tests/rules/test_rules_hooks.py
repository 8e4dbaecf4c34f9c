"""Webhooks' addresses and secrets: the same after a restart, unlike every other, and never a reason to raise."""

import hashlib
import hmac
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import a_tile, quick

from daemon.rules.hooks import Hook, Hooks, is_genuine

URL = "https://nas.example.org/hook"
SECRET = "wh-5ecre7-of-the-tests"
IDENTITY = "0123456789abcdef0123456789abcdef"
BODY = b'{"exec_id": "4b3c", "status": "succeeded"}'
TIME = "1790000000"

# What a header may hold: printable text, text that was not UTF-8 (surrogates), and what no parser should let through.
values = st.one_of(
    st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")), st.just("\ud800\udc00")
)
header_names = st.sampled_from(["X-Webhook-Secret", "X-Webhook-Signature", "X-Webhook-Timestamp", "Content-Type"])


def hooks(**other: str) -> Hooks:
    return Hooks(**({"public_url": URL, "secret": SECRET, "identity": IDENTITY} | other))


def signed(secret: str = SECRET, time: str = TIME, body: bytes = BODY) -> str:
    return hmac.new(secret.encode(), time.encode() + b"." + body, hashlib.sha256).hexdigest()


def test_a_token_is_the_submits_own_for_ever() -> None:
    tile = a_tile(submits=1)
    # Written down, because a service in the middle of a prediction still knows the address from before an upgrade.
    assert hooks().token(tile) == "f35117a8cd689aa9faa6b844dea0904d"
    assert hooks(public_url="https://elsewhere.example.org", secret="another").token(tile) == hooks().token(tile)
    later = replace(tile, attempts=3, uploads=2, due_at=tile.due_at + 60, prediction="p1", asset_url="https://x.test")
    assert hooks().token(later) == hooks().token(tile)


def test_every_submit_has_another_token() -> None:
    first = a_tile(submits=1)
    tiles = [
        first,
        replace(first, submits=2),
        replace(first, number=1),
        replace(first, number=11),
        replace(first, number=1, submits=11),
        replace(first, job=replace(first.job, id="0" * 20)),
    ]
    tokens = {hooks().token(tile) for tile in tiles}
    assert len(tokens) == len(tiles)
    assert hooks(identity="f" * 32).token(first) not in tokens


def test_a_token_says_nothing_of_what_it_is_made_from() -> None:
    token = hooks().token(a_tile(submits=1))
    assert len(token) == 32
    assert set(token) <= set("0123456789abcdef")
    for part in (IDENTITY, a_tile().job.id):
        assert part[:8] not in token


@pytest.mark.parametrize("url", [URL, URL + "/"])
def test_the_address_is_the_public_one_and_the_token(url: str) -> None:
    tile = a_tile(submits=1)
    assert hooks(public_url=url).hook(tile) == Hook(f"{URL}/{hooks().token(tile)}", SECRET)


def test_what_is_shown_of_them_has_no_secret() -> None:
    tile = a_tile(submits=1)
    text = repr(hooks()) + repr(hooks().hook(tile))
    for secret in (SECRET, IDENTITY, hooks().token(tile)):
        assert secret not in text


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Webhook-Secret": SECRET},
        {"x-webhook-secret": SECRET},
        {"X-WEBHOOK-SECRET": SECRET, "X-Webhook-Signature": "wrong"},
        {"X-Webhook-Timestamp": TIME, "X-Webhook-Signature": signed()},
        {"X-Webhook-Timestamp": TIME, "X-Webhook-Signature": "sha256=" + signed()},
        {"x-webhook-timestamp": TIME, "x-webhook-signature": "SHA256=" + signed().upper()},
        {"X-Webhook-Timestamp": TIME, "X-Webhook-Signature": signed(), "X-Webhook-Secret": "wrong"},
        {"X-Webhook-Signature": signed(time="")},
    ],
)
def test_whoever_shows_the_secret_is_genuine(headers: dict[str, str]) -> None:
    assert is_genuine(SECRET, headers, BODY)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Webhook-Secret": ""},
        {"X-Webhook-Secret": SECRET[:-1]},
        {"X-Webhook-Secret": SECRET + " "},
        {"X-Webhook-Secret": SECRET.upper()},
        {"X-Webhook-Secret": "\ud800\udcff"},
        {"X-Webhook-Secret": signed()},
        {"X-Webhook-Signature": SECRET},
        {"Authorization": SECRET},
        {"X-Webhook-Signature": ""},
        {"X-Webhook-Signature": "sha256="},
        {"X-Webhook-Signature": signed()},
        {"X-Webhook-Timestamp": TIME, "X-Webhook-Signature": signed()[:-1]},
        {"X-Webhook-Timestamp": "1790000001", "X-Webhook-Signature": signed()},
        {"X-Webhook-Timestamp": TIME, "X-Webhook-Signature": signed(body=b"{}")},
        {"X-Webhook-Timestamp": TIME, "X-Webhook-Signature": signed(secret="another")},
        {"X-Webhook-Timestamp": TIME, "X-Webhook-Signature": "md5=" + signed()},
        {"X-Webhook-Timestamp": TIME, "X-Webhook-Signature": "\udcff" + signed()},
    ],
)
def test_whoever_does_not_is_not(headers: dict[str, str]) -> None:
    assert not is_genuine(SECRET, headers, BODY)


@given(headers=st.dictionaries(header_names, values), body=st.binary())
@quick
def test_nothing_that_a_header_holds_raises_or_passes(headers: dict[str, str], body: bytes) -> None:
    assert not is_genuine(SECRET, headers, body)


@given(body=st.binary(), time=values)
@quick
def test_what_is_signed_with_the_secret_passes_whatever_it_is(body: bytes, time: str) -> None:
    stamp = time.encode("utf-8", "surrogatepass")
    signature = hmac.new(SECRET.encode(), stamp + b"." + body, hashlib.sha256).hexdigest()
    assert is_genuine(SECRET, {"X-Webhook-Timestamp": time, "X-Webhook-Signature": signature}, body)


@given(headers=st.dictionaries(header_names, values), body=st.binary())
@quick
def test_without_a_secret_the_token_alone_decides(headers: dict[str, str], body: bytes) -> None:
    assert is_genuine("", headers, body)
