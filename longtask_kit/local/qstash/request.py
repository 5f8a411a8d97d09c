"""One attempt to deliver a message: the signed request, the answer, and the reason of a failure.

Signatures are JWTs as `qstash.Receiver` expects them (wire doc, section 4.1).
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import json
import re
import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field

from longtask_kit.local.qstash.connections import (
    Connections,
    ConnectTimeoutError,
    HeaderPairs,
    Response,
)
from longtask_kit.local.qstash.destination import Origin, origin_of, target_of
from longtask_kit.local.qstash.message import HeaderMap, Message, canonical

DEFAULT_TIMEOUT_S = 900
BODY_HEAD_CHARS = 200
MIN_KEY_BYTES = 32
SIGNATURE_LIFETIME_S = 300

_JWT_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_canonical = functools.lru_cache(maxsize=1024)(canonical)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeys:
    """The key that signs now, and the one that will after a rotation."""

    current: str = field(repr=False)
    next: str = field(repr=False)

    def __post_init__(self) -> None:
        for key in (self.current, self.next):
            if len(key.encode()) < MIN_KEY_BYTES:
                raise ValueError(f"a signing key needs {MIN_KEY_BYTES} bytes, got {len(key)}")

    def rotated(self) -> SigningKeys:
        """Return keys where the next one signs and a new one follows."""
        return SigningKeys(current=self.next, next=f"sig_{secrets.token_hex(14)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came back from a destination; status 0 means that nothing did."""

    status: int = 0
    headers: HeaderMap = field(default_factory=dict)
    body: bytes = b""
    error: str | None = None

    @property
    def is_delivered(self) -> bool:
        """Whether the answer counts as success: 2xx only, a redirect is a failure."""
        return 200 <= self.status <= 299


async def attempt_delivery(
    connections: Connections,
    message: Message,
    *,
    url: str,
    signed_url: str,
    retried: int,
    keys: SigningKeys,
) -> Attempt:
    """Send a message once and return what came of it; only cancellation is raised.

    Args:
        connections: Send it.
        message: What is sent.
        url: Where it is sent to.
        signed_url: What the signature names: the address the receiver believes to have.
        retried: Attempts made before.
        keys: The current one signs.
    """
    timeout_s = message.timeout_s or DEFAULT_TIMEOUT_S
    # Signed at each attempt: a signature is valid for five minutes, retries go on for days.
    signature = sign_delivery(keys, url=signed_url, body=message.body, now_s=time.time())
    try:
        origin = origin_of(url)
        headers = delivery_headers(message, retried=retried, signature=signature)
        head = request_head(message.method, url, origin, headers, len(message.body))
        async with asyncio.timeout(timeout_s):
            response = await connections.exchange(origin, head, message.body)
    except ConnectTimeoutError as exc:
        return Attempt(error=str(exc))
    except TimeoutError:
        return Attempt(error=f"timeout: no answer within {timeout_s} s")
    except (OSError, ValueError) as exc:
        return Attempt(error=explain_failure(exc, url))
    return _attempt_of(response)


def sign_delivery(keys: SigningKeys, *, url: str, body: bytes, now_s: float) -> str:
    """Return the `Upstash-Signature` of one attempt.

    Args:
        keys: The current one signs; its characters are the key, as raw bytes.
        url: The exact URL that is called.
        body: The body's bytes; an empty body has a hash too.
        now_s: Unix time. `iat` is rounded down: PyJWT refuses an `iat` in the future.
    """
    issued_at = int(now_s)
    claims = {
        "iss": "Upstash",
        "sub": url,
        "exp": issued_at + SIGNATURE_LIFETIME_S,
        "nbf": 0,  # the hosted service does so since Sep 2024, after clock skew complaints
        "iat": issued_at,
        "jti": f"jwt_{secrets.token_hex(12)}",
        "body": base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode(),
    }
    # By hand, as PyJWT takes three times as long for each attempt; the SDKs' receivers verify it.
    payload = json.dumps(claims, separators=(",", ":")).encode()
    signed = b"%b.%b" % (_JWT_HEADER, base64.urlsafe_b64encode(payload).rstrip(b"="))
    digest = hmac.digest(keys.current.encode(), signed, "sha256")
    return f"{signed.decode()}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def delivery_headers(message: Message, *, retried: int, signature: str) -> HeaderPairs:
    """Return the headers of an attempt (wire doc, section 4)."""
    own = {
        "User-Agent": "Upstash-QStash",
        "Upstash-Message-Id": message.message_id,
        "Upstash-Retried": str(retried),
        "Upstash-Signature": signature,
        "Upstash-Caller-Ip": message.caller_ip or "",
        "Upstash-Topic-Name": message.topic_name or "",
        "Upstash-Schedule-Id": message.schedule_id or "",
        "Upstash-Region": "US-EAST-1",
    }
    forwarded = {name: values for name, values in message.headers.items() if name not in own}
    pairs = [(name, value) for name, values in forwarded.items() for value in values]
    pairs += [(name, value) for name, value in own.items() if value]
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


def request_head(
    method: str, url: str, origin: Origin, headers: HeaderPairs, body_bytes: int
) -> bytes:
    """Return a request up to its body; the destination's path and query are sent verbatim.

    Raises:
        ValueError: A header would end its line, and the next could be anybody's.
    """
    names = {name.lower() for name, _ in headers}
    pairs = [(b"Host", origin.netloc.encode("latin-1")), *headers]
    if b"accept" not in names:
        pairs.append((b"Accept", b"*/*"))
    if origin.userinfo and b"authorization" not in names:
        pairs.append((b"Authorization", b"Basic " + base64.b64encode(origin.userinfo.encode())))
    if body_bytes or method in ("POST", "PUT", "PATCH"):
        pairs.append((b"Content-Length", b"%d" % body_bytes))
    for name, value in pairs:
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise ValueError(f"the header {name[:80]!r} can't be sent")
    lines = b"".join(b"%b: %b\r\n" % pair for pair in pairs)
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), target_of(url), lines)


def explain_failure(exc: Exception, url: str) -> str:
    """Return why no answer came, in words a user can act on; never the URL's query."""
    where = origin_of(url).netloc
    match exc:
        case socket.gaierror():
            return f"unable to resolve host: {where}: {exc.strerror}"
        case ssl.SSLError():
            return f"TLS failure with {where}: {exc.reason or exc}"
        case ConnectionRefusedError():
            return f"connection refused: nothing listens on {where}"
    return f"no answer from {where}: {type(exc).__name__}: {exc}"


def explain_status(status: int, body: bytes) -> str:
    """Return the reason of a failed attempt that did get an answer."""
    head = body[: BODY_HEAD_CHARS * 4].decode(errors="replace")[:BODY_HEAD_CHARS].strip()
    reason = f"status {status}" + (f": {head}" if head else "")
    if status in (401, 403) or "signature" in head.lower():
        reason += (
            " (if the receiver refuses the signature: compare its QSTASH_CURRENT_SIGNING_KEY with "
            "GET /v2/keys, and the URL it verifies with the destination, character for character)"
        )
    return reason


def _attempt_of(response: Response) -> Attempt:
    failed = not 200 <= response.status <= 299
    return Attempt(
        status=response.status,
        headers=_header_map(response.headers),
        body=response.body,
        error=explain_status(response.status, response.body) if failed else None,
    )


def _header_map(headers: HeaderPairs) -> HeaderMap:
    found: HeaderMap = {}
    for name, value in headers:
        found.setdefault(_canonical(name.decode("latin-1")), []).append(value.decode("latin-1"))
    return found
