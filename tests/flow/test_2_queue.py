"""Stage 2: only the queue's own deliveries are trusted."""

import asyncio
import base64
import functools
import hashlib
import hmac
import json
import time
from collections.abc import Callable

import httpx
import jwt
import pytest
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.store import Store
from longtask_kit.settings import secret

HTTP = httpx.Client(timeout=30)


def sign(
    settings: lt.Settings,
    content: bytes,
    *,
    key: str | None = None,
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
    return jwt.encode(claims, key, algorithm="HS256")


def deliver(
    settings: lt.Settings, body: bytes, signature: str | bytes | None, *, url: str | None = None
) -> httpx.Response:
    headers: list[tuple[str, str | bytes]] = [
        ("Content-Type", "application/json"),
        ("Upstash-Message-Id", "msg_test"),
    ]
    if signature is not None:
        headers.append(("Upstash-Signature", signature))
    return HTTP.post(url or settings.webhook_url, content=body, headers=headers)  # type: ignore[arg-type]


def make_body(task_id: str) -> bytes:
    return json.dumps({"taskId": task_id, "prompt": "x", "model": "demo-fast"}).encode()


def make_failure(task_id: str) -> bytes:
    """Return the body of a failure callback, as the queue sends it."""
    quoted = base64.b64encode(make_body(task_id)).decode()
    return json.dumps({"status": 500, "retried": 3, "sourceBody": quoted}).encode()


Forgery = Callable[[lt.Settings, bytes, str], str | bytes | None]


def change_url(name: str, old: str, new: str) -> tuple[str, Forgery]:
    """Sign for a URL that is nearly the one that is called."""
    return name, lambda s, b, url: sign(s, b, sub=url.replace(old, new, 1))


def change_claims(name: str, **changes: object) -> tuple[str, Forgery]:
    """Sign with the right key, but other claims; None leaves one out."""
    return name, lambda s, b, url: sign(s, b, **{"sub": url} | changes)


def change_header(
    name: str, header: object, *, keep_signature: bool = False
) -> tuple[str, Forgery]:
    """Put another header before good claims, with the signature made for the good one, or none."""

    def forge(settings: lt.Settings, body: bytes, url: str) -> str:
        _, claims, signature = sign(settings, body, sub=url).split(".")
        return f"{encode_part(header)}.{claims}.{signature if keep_signature else ''}"

    return name, forge


def change_token(name: str, change: Callable[[str], str | bytes]) -> tuple[str, Forgery]:
    """Spoil a good token."""
    return name, lambda s, b, url: change(sign(s, b, sub=url))


def encode_part(part: object) -> str:
    text = part if isinstance(part, str) else json.dumps(part)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def good_claims(settings: lt.Settings, body: bytes, url: str) -> dict[str, object]:
    token = sign(settings, body, sub=url)
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def sign_by_hand(
    settings: lt.Settings, header: object, claims: object, *, digest: str = "sha256"
) -> str:
    """Sign with the right key what no JWT library would."""
    signed = f"{encode_part(header)}.{encode_part(claims)}"
    key = secret(settings.qstash_current_signing_key).encode()
    signature = hmac.new(key, signed.encode(), digest).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def other_endpoint(settings: lt.Settings, url: str) -> str:
    return settings.failure_url if url == settings.webhook_url else settings.webhook_url


FORGERIES: dict[str, Forgery] = {
    "missing": lambda s, b, url: None,
    "empty": lambda s, b, url: "",
    "not a token": lambda s, b, url: "abc.def.ghi",
    "not ASCII": lambda s, b, url: b"\xe4\xf6\xfc.\xff.\x80",
    "two dots": lambda s, b, url: "..",
    "no dots, huge": lambda s, b, url: "x" * 20_000,
    **dict(
        [
            change_token("token cut", lambda token: token[:-2]),
            change_token("token without its signature", lambda token: token.rpartition(".")[0]),
            change_token("token with a fourth part", lambda token: f"{token}.x"),
            change_token("token twice", lambda token: f"{token},{token}"),
            change_token("token as bearer", lambda token: f"Bearer {token}"),
            change_token("token with one character changed", lambda token: flip(token, 30)),
            change_token("claims with one character changed", lambda token: flip(token, -80)),
            change_token("token with a byte that is not ASCII", lambda t: t.encode() + b"\xff"),
        ]
    ),
    # -- the key and the algorithm
    "wrong key": lambda s, b, url: sign(s, b, sub=url, key="sig_" + "x" * 32),
    "the token of the queue as key": lambda s, b, url: sign(
        s, b, sub=url, key=secret(s.qstash_token) + "x" * 32
    ),
    "both keys in one": lambda s, b, url: sign(
        s, b, sub=url, key=secret(s.qstash_current_signing_key) + secret(s.qstash_next_signing_key)
    ),
    "HS384 with the right key": lambda s, b, url: sign_by_hand(
        s, {"alg": "HS384"}, good_claims(s, b, url), digest="sha384"
    ),
    "several issuers": lambda s, b, url: sign_by_hand(
        s, {"alg": "HS256"}, good_claims(s, b, url) | {"iss": ["Upstash"]}
    ),
    **dict(
        [
            change_header("alg none", {"alg": "none", "typ": "JWT"}),
            change_header("alg None", {"alg": "None", "typ": "JWT"}),
            change_header("alg none, signed", {"alg": "none"}, keep_signature=True),
            change_header("empty signature", {"alg": "HS256", "typ": "JWT"}),
            change_header("RS256 by name", {"alg": "RS256"}, keep_signature=True),
            change_header("no algorithm", {"typ": "JWT"}, keep_signature=True),
            change_header("algorithm of another type", {"alg": 7}, keep_signature=True),
            change_header("header of another type", [], keep_signature=True),
            change_header("header that is not JSON", "{", keep_signature=True),
            change_header("header nested deep", "[" * 9000, keep_signature=True),
            change_header("key brought along", {"alg": "HS256", "jwk": {"kty": "oct", "k": ""}}),
        ]
    ),
    "RS256 with our key": lambda s, b, url: sign_by_hand(
        s, {"alg": "RS256"}, good_claims(s, b, url)
    ),
    "claims of another type": lambda s, b, url: sign_by_hand(s, {"alg": "HS256"}, []),
    "claims nested deep": lambda s, b, url: sign_by_hand(s, {"alg": "HS256"}, "[" * 9000),
    # -- who signed, and for which URL
    **dict(
        [
            change_claims("wrong issuer", iss="Somebody"),
            change_claims("issuer in lower case", iss="upstash"),
            change_claims("no issuer", iss=None),
            change_claims("other URL", sub="https://example.com/api/qstash/webhook"),
            change_claims("no subject", sub=None),
            change_claims("empty subject", sub=""),
            change_claims("several subjects", sub=["http://127.0.0.1"]),
            change_claims("path alone", sub="/api/qstash/webhook"),
            change_url("https for http", "http:", "https:"),
            change_url("scheme in capitals", "http:", "HTTP:"),
            change_url("localhost for 127.0.0.1", "127.0.0.1", "localhost"),
            change_url("user in the URL", "//", "//user@"),
            change_url("other port", "127.0.0.1:", "127.0.0.1:1"),
            change_url("path in capitals", "/qstash/", "/QStash/"),
            change_url("double slash", "/api/", "//api/"),
            change_url("prefix before", "/api/", "/v1/api/"),
        ]
    ),
    "trailing slash": lambda s, b, url: sign(s, b, sub=f"{url}/"),
    "query added": lambda s, b, url: sign(s, b, sub=f"{url}?a=1"),
    "fragment added": lambda s, b, url: sign(s, b, sub=f"{url}#a"),
    "blank added": lambda s, b, url: sign(s, b, sub=f"{url} "),
    "the other endpoint": lambda s, b, url: sign(s, b, sub=other_endpoint(s, url)),
    # -- when
    "expired": lambda s, b, url: sign(s, b, sub=url, exp=int(time.time()) - 1),
    "not yet valid": lambda s, b, url: sign(s, b, sub=url, nbf=int(time.time()) + 60),
    "issued in the future": lambda s, b, url: sign(s, b, sub=url, iat=int(time.time()) + 60),
    **dict(
        [
            change_claims("expired for ever", exp=0),
            change_claims("no expiry", exp=None),
            change_claims("expiry of another type", exp="tomorrow"),
            change_claims("expiry without end", exp=float("inf")),
            change_claims("no nbf", nbf=None),
            change_claims("nbf of another type", nbf=[]),
        ]
    ),
    # -- which body
    "a blank more in the body": lambda s, b, url: sign(s, b + b" ", sub=url),
    "one byte of the body changed": lambda s, b, url: sign(s, flip_byte(b), sub=url),
    "the body of another message": lambda s, b, url: sign(s, make_body(new_task_id()), sub=url),
    "empty body": lambda s, b, url: sign(s, b"", sub=url),
    **dict(
        [
            change_claims("no body claim", body=None),
            change_claims("empty body claim", body=""),
            change_claims("body claim of another type", body=7),
            change_claims("several body claims", body=["x"]),
        ]
    ),
}


def flip(text: str, at: int) -> str:
    """Change one character of a base64 text."""
    at %= len(text)
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def flip_byte(body: bytes) -> bytes:
    return body[:-3] + bytes([body[-3] ^ 1]) + body[-2:]


@pytest.fixture
def waiting(settings: lt.Settings, redis: Redis) -> str:
    """A task that is recorded and would run, were a delivery of it taken."""
    task_id = new_task_id()
    asyncio.run(record_task(settings, task_id))
    return task_id


async def record_task(settings: lt.Settings, task_id: str) -> None:
    store = Store.open(settings)
    await store.create(task_id, {"prompt": "x", "model": "demo-fast"})
    await store.aclose()


def look_at(redis: Redis, task_id: str) -> object:
    """Return all there is of a task in Redis."""
    key = f"longtask:{{{task_id}}}"
    return redis.hgetall(key), redis.exists(f"{key}:log")


@pytest.mark.parametrize("endpoint", ["webhook_url", "failure_url"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_delivery_is_refused_and_leaves_no_trace(
    settings: lt.Settings, redis: Redis, waiting: str, forgery: str, endpoint: str
) -> None:
    url = getattr(settings, endpoint)
    body = make_body(waiting) if endpoint == "webhook_url" else make_failure(waiting)
    before = look_at(redis, waiting)
    signature = FORGERIES[forgery](settings, body, url)
    response = deliver(settings, body, signature, url=url)
    assert response.status_code == 401, response.text
    assert set(response.json()) == {"error"}
    quoted = signature if isinstance(signature, str) else ""
    assert len(quoted) < 40 or quoted[:40] not in response.text
    assert look_at(redis, waiting) == before


def test_a_good_delivery_of_the_same_task_runs(
    settings: lt.Settings, redis: Redis, waiting: str
) -> None:
    body = make_body(waiting)  # the table above would prove nothing if this were refused, too
    assert deliver(settings, body, sign(settings, body)).json()["status"] == "completed"
    failed = deliver(
        settings,
        make_failure(waiting),
        sign(settings, make_failure(waiting), sub=settings.failure_url),
        url=settings.failure_url,
    )
    assert failed.status_code == 200
    assert redis.hget(f"longtask:{{{waiting}}}", "status") == "completed"


def test_a_replayed_delivery_of_a_finished_task_runs_nothing(
    settings: lt.Settings, redis: Redis, waiting: str
) -> None:
    body = make_body(waiting)
    signature = sign(settings, body)
    assert deliver(settings, body, signature).status_code == 200
    finished = look_at(redis, waiting), redis.xlen(f"longtask:{{{waiting}}}:log")
    again = deliver(settings, body, signature)
    assert (again.status_code, again.json()["status"]) == (200, "completed")
    assert (look_at(redis, waiting), redis.xlen(f"longtask:{{{waiting}}}:log")) == finished


def test_a_body_that_is_not_text_is_refused(settings: lt.Settings) -> None:
    body = b'{"taskId": "\xff"}'
    assert deliver(settings, body, sign(settings, body)).status_code == 401


def test_two_signature_headers_are_refused(settings: lt.Settings) -> None:
    body = make_body(new_task_id())
    good = sign(settings, body)
    headers = [("Upstash-Signature", good), ("Upstash-Signature", good)]
    assert HTTP.post(settings.webhook_url, content=body, headers=headers).status_code == 401


SPOOFS: list[dict[str, str]] = [
    {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"},
    {"Forwarded": "host=evil.example;proto=https"},
    {"Host": "127.0.0.1", "X-Original-URL": "/api/qstash/webhook"},
    {"Upstash-Forward-Host": "evil.example", "X-Forwarded-Prefix": "/evil"},
]


@pytest.mark.parametrize("spoof", SPOOFS)
def test_no_header_of_the_client_changes_the_checked_url(
    settings: lt.Settings, waiting: str, spoof: dict[str, str]
) -> None:
    body = make_body(waiting)
    evil = sign(settings, body, sub="https://evil.example/api/qstash/webhook")
    post = functools.partial(HTTP.post, settings.webhook_url, content=body)
    assert post(headers=spoof | {"Upstash-Signature": evil}).status_code == 401
    good = sign(settings, body)
    assert post(headers=spoof | {"Upstash-Signature": good}).status_code == 200


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
