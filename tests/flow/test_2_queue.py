"""Stage 2: only the queue's own deliveries are trusted."""

import base64
import hashlib
import json
import time
from collections.abc import Callable

import httpx
import jwt
import pytest
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.keys import new_task_id
from longtask_kit.settings import secret

HTTP = httpx.Client(timeout=30)
LONG_KEY = "sig_" + "x" * 60


def sign(
    settings: lt.Settings,
    content: bytes,
    *,
    key: str | None = None,
    algorithm: str = "HS256",
    **changes: object,
) -> str:
    """Make a delivery's token; `changes` replace claims, None leaves one out."""
    now = int(time.time())
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
    claims: dict[str, object] = {
        "iss": "Upstash",
        "sub": settings.webhook_url,
        "exp": now + 300,
        "nbf": 0,
        "iat": now,
        "jti": "jwt_test",
        "body": digest,
    } | changes
    key = key if key is not None else secret(settings.qstash_current_signing_key)
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm)


def deliver(settings: lt.Settings, body: bytes, signature: str | None) -> httpx.Response:
    headers = {"Content-Type": "application/json", "Upstash-Message-Id": "msg_test"}
    if signature is not None:
        headers["Upstash-Signature"] = signature
    return HTTP.post(settings.webhook_url, content=body, headers=headers)


def make_body(task_id: str) -> bytes:
    return json.dumps({"taskId": task_id, "prompt": "x", "model": "demo-fast"}).encode()


FORGERIES: dict[str, Callable[[lt.Settings, bytes], str | None]] = {
    "missing": lambda s, b: None,
    "empty": lambda s, b: "",
    "not a token": lambda s, b: "abc.def.ghi",
    "wrong key": lambda s, b: sign(s, b, key="sig_" + "x" * 32),
    "empty key": lambda s, b: _unsigned(s, b, "HS256"),
    "alg none": lambda s, b: _unsigned(s, b, "none"),
    "alg HS384": lambda s, b: sign(s, b, key=LONG_KEY, algorithm="HS384"),
    "wrong issuer": lambda s, b: sign(s, b, iss="Somebody"),
    "no issuer": lambda s, b: sign(s, b, iss=None),
    "other URL": lambda s, b: sign(s, b, sub="https://example.com/api/qstash/webhook"),
    "https for http": lambda s, b: sign(s, b, sub=s.webhook_url.replace("http:", "https:")),
    "trailing slash": lambda s, b: sign(s, b, sub=s.webhook_url + "/"),
    "query added": lambda s, b: sign(s, b, sub=s.webhook_url + "?a=1"),
    "failure URL": lambda s, b: sign(s, b, sub=s.failure_url),
    "localhost for 127.0.0.1": lambda s, b: sign(
        s, b, sub=s.webhook_url.replace("127.0.0.1", "localhost")
    ),
    "no subject": lambda s, b: sign(s, b, sub=None),
    "expired": lambda s, b: sign(s, b, exp=int(time.time()) - 1),
    "no expiry": lambda s, b: sign(s, b, exp=None),
    "not yet valid": lambda s, b: sign(s, b, nbf=int(time.time()) + 60),
    "no nbf": lambda s, b: sign(s, b, nbf=None),
    "other body": lambda s, b: sign(s, b + b" "),
    "no body claim": lambda s, b: sign(s, b, body=None),
    "body claim of another type": lambda s, b: sign(s, b, body=7),
    "huge": lambda s, b: sign(s, b, padding="x" * 20_000),
}


def _unsigned(settings: lt.Settings, body: bytes, algorithm: str) -> str:
    _, claims, _ = sign(settings, body).split(".")
    header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    return f"{header.decode().rstrip('=')}.{claims}."


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_delivery_is_refused_and_leaves_no_trace(
    settings: lt.Settings, redis: Redis, forgery: str
) -> None:
    task_id = new_task_id()
    body = make_body(task_id)
    keys = redis.dbsize()
    response = deliver(settings, body, FORGERIES[forgery](settings, body))
    if forgery == "huge":
        assert response.status_code in (200, 400, 401, 431, 489)  # valid but for its size
    else:
        assert response.status_code == 401, response.text
    assert redis.exists(f"longtask:{{{task_id}}}") == 0
    assert redis.dbsize() == keys


def test_two_signature_headers_are_refused(settings: lt.Settings) -> None:
    body = make_body(new_task_id())
    good = sign(settings, body)
    headers = [("Upstash-Signature", good), ("Upstash-Signature", good)]
    assert HTTP.post(settings.webhook_url, content=body, headers=headers).status_code == 401


def test_a_forwarded_host_does_not_change_the_checked_url(settings: lt.Settings) -> None:
    body = make_body(new_task_id())
    signature = sign(settings, body, sub="https://evil.example/api/qstash/webhook")
    headers = {
        "Upstash-Signature": signature,
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
    }
    assert HTTP.post(settings.webhook_url, content=body, headers=headers).status_code == 401


@pytest.mark.parametrize("which", ["qstash_current_signing_key", "qstash_next_signing_key"])
def test_current_and_next_key_are_both_good(settings: lt.Settings, which: str) -> None:
    body = make_body(new_task_id())
    response = deliver(settings, body, sign(settings, body, key=secret(getattr(settings, which))))
    # Past the signature: the task was never recorded, so no retry can help.
    assert response.status_code == 489
    assert response.headers["Upstash-NonRetryable-Error"] == "true"
    assert "not recorded" in response.json()["error"]


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b'{"taskId": 7}', b'{"taskId": "x"}'])
def test_a_malformed_payload_goes_to_the_dead_letters(settings: lt.Settings, body: bytes) -> None:
    response = deliver(settings, body, sign(settings, body))
    assert response.status_code == 489
    assert "taskId" in response.json()["error"]


def test_the_development_call_is_closed_without_development_mode(settings: lt.Settings) -> None:
    query = {"taskId": new_task_id(), "prompt": "x"}
    response = HTTP.get(settings.webhook_url, params=query)
    assert response.status_code == 405
    assert "LONGTASK_DEV" in response.json()["error"]
