"""One attempt to deliver a message: the request, the answer, and the reason of a failure."""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from longtask_kit.local.qstash.destination import target_of
from longtask_kit.local.qstash.signing import SigningKeys, sign_delivery
from longtask_kit.local.qstash.wire import HeaderMap, Message, canonical

DEFAULT_TIMEOUT_S = 900
CONNECT_TIMEOUT_S = 10.0
MAX_RESPONSE_BYTES = 1_000_000
BODY_HEAD_CHARS = 200


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
    client: httpx.AsyncClient,
    message: Message,
    *,
    url: str,
    signed_url: str,
    retried: int,
    keys: SigningKeys,
) -> Attempt:
    """Send a message once and return what came of it; only cancellation is raised.

    Args:
        client: Sends it.
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
        headers = delivery_headers(message, retried=retried, signature=signature)
        async with asyncio.timeout(timeout_s):
            return await _send(client, message, url, headers)
    except TimeoutError:
        return Attempt(error=f"timeout: no answer within {timeout_s} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
        return Attempt(error=explain_failure(exc, url))


def delivery_headers(
    message: Message, *, retried: int, signature: str
) -> list[tuple[bytes, bytes]]:
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


def explain_failure(exc: BaseException, url: str) -> str:
    """Return why no answer came, in words a user can act on; never the URL's query."""
    where = httpx.URL(url).netloc.decode("latin-1").rpartition("@")[2]
    for cause in _causes(exc):
        if isinstance(cause, socket.gaierror):
            return f"unable to resolve host: {where}: {cause.strerror}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failure with {where}: {cause.reason or cause}"
        if isinstance(cause, ConnectionRefusedError):
            return f"connection refused: nothing listens on {where}"
        if isinstance(cause, httpx.TimeoutException):
            return f"timeout: {where} did not accept a connection in {CONNECT_TIMEOUT_S:g} s"
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


async def _send(
    client: httpx.AsyncClient, message: Message, url: str, headers: list[tuple[bytes, bytes]]
) -> Attempt:
    request = client.build_request(
        message.method,
        url,
        headers=headers,
        content=message.body,
        # httpx normalises dot segments and escapes; the destination is promised verbatim.
        extensions={
            "target": target_of(url),
            "timeout": httpx.Timeout(None, connect=CONNECT_TIMEOUT_S).as_dict(),
        },
    )
    response = await client.send(request, stream=True)
    try:
        body = await _read_head(response)
    finally:
        await response.aclose()
    failed = not 200 <= response.status_code <= 299
    return Attempt(
        status=response.status_code,
        headers=_header_map(response.headers),
        body=body,
        error=explain_status(response.status_code, body) if failed else None,
    )


async def _read_head(response: httpx.Response) -> bytes:
    """Read a body up to the size the free plan keeps; the rest is left unread."""
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in response.aiter_bytes():
        chunks.append(chunk)
        size_bytes += len(chunk)
        if size_bytes >= MAX_RESPONSE_BYTES:
            break
    return b"".join(chunks)[:MAX_RESPONSE_BYTES]


def _header_map(headers: httpx.Headers) -> HeaderMap:
    found: HeaderMap = {}
    for name, value in headers.multi_items():
        found.setdefault(canonical(name), []).append(value)
    return found


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, then what caused it; both address families fail in a group."""
    if exc is None:
        return
    yield exc
    if isinstance(exc, BaseExceptionGroup):
        for member in exc.exceptions:
            yield from _causes(member)
    yield from _causes(exc.__cause__ or exc.__context__)
