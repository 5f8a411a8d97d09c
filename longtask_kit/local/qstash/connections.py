"""The deliveries' HTTP: connections that are kept alive, each with one request at a time.

httpx takes three times the CPU of all else in a delivery. Here a request is one write, and its
answer is read by the parser that uvicorn uses too (httptools).
"""

from __future__ import annotations

import asyncio
import functools
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import httptools
import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from longtask_kit.local.qstash.destination import Origin

# Shorter than the 5 s after which uvicorn and Node drop an idle connection, so that a delivery
# doesn't meet a connection that is just being closed.
KEEPALIVE_S = 3.0
CONNECT_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 100_000
MAX_BODY_BYTES = 1_000_000  # what the free plan keeps of an answer

HeaderPairs: TypeAlias = "list[tuple[bytes, bytes]]"


class ConnectTimeoutError(OSError):
    """A host did not accept a connection in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A destination's answer; its body's first million bytes."""

    status: int
    headers: HeaderPairs
    body: bytes


class Connections:
    """Sends requests over the connections it keeps."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[_Connection]] = {}

    async def exchange(self, origin: Origin, head: bytes, body: bytes) -> Response:
        """Send a request and return its answer; given up if the caller is cancelled.

        Raises:
            OSError: There is no connection, or it was lost before the answer's end.
            ValueError: The answer is no HTTP.
        """
        connection = self._take(origin) or await _connect(origin)
        try:
            response = await connection.exchange(head, body)
        finally:
            if connection.is_reusable:
                self._keep(origin, connection)
            else:
                connection.abort()
        return response

    def close(self) -> None:
        """Close what is idle."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    def _take(self, origin: Origin) -> _Connection | None:
        # The last used first: what a burst left over gets old, and is closed.
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()
            connection.stop_expiry()
            if connection.is_reusable:
                return connection
        return None

    def _keep(self, origin: Origin, connection: _Connection) -> None:
        self._idle.setdefault(origin, []).append(connection)
        connection.start_expiry(functools.partial(self._expire, origin, connection))

    def _expire(self, origin: Origin, connection: _Connection) -> None:
        connection.abort()
        connections = self._idle.get(origin, [])
        if connection in connections:
            connections.remove(connection)
        if not connections:
            self._idle.pop(origin, None)


class _Connection(asyncio.Protocol):
    """One connection; httptools calls the `on_` methods."""

    def __init__(self) -> None:
        self.is_reusable = False
        self._answer: asyncio.Future[Response] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def exchange(self, head: bytes, body: bytes) -> asyncio.Future[Response]:
        """Send a request; returns the future of its answer."""
        self.is_reusable = False
        self._parser = httptools.HttpResponseParser(self)
        self._bytes_beside_body = 0
        self._has_head = False
        self.on_message_begin()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines([head, body] if body else [head])
        return self._answer

    def start_expiry(self, expire: functools.partial[None]) -> None:
        """Call `expire` unless the connection is used again in time."""
        self._expiry = asyncio.get_running_loop().call_later(KEEPALIVE_S, expire)

    def stop_expiry(self) -> None:
        """The connection is used again."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def abort(self) -> None:
        """Close at once; safe to repeat."""
        self.stop_expiry()
        self.is_reusable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Read a part of an answer; what nobody asked for ends the connection."""
        if self._answer is None:
            self.abort()
            return
        self._bytes_beside_body += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.is_reusable = False
        except httptools.HttpParserError as exc:
            self._fail(ValueError(f"the answer is no HTTP: {exc}"))
        if self._bytes_beside_body > MAX_HEAD_BYTES:
            what = "trailers or chunk extensions are" if self._has_head else "head is"
            self._fail(ValueError(f"the answer's {what} larger than {MAX_HEAD_BYTES:,} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer, if only the end of the connection could; else tell who waits."""
        self.is_reusable = False
        if exc is None and self._has_head and not self._has_length:
            self._finish()
        self._fail(exc or ConnectionResetError("the connection was closed before the answer's end"))

    def on_message_begin(self) -> None:
        """Forget the message before, which was a provisional answer."""
        self._headers: HeaderPairs = []
        self._chunks: list[bytes] = []
        self._body_bytes = 0
        self._has_length = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; one that comes after the body is a trailer, which nobody asked for."""
        if self._has_head:
            return
        self._headers.append((name, value))
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        """From here on a body counts, and what stands beside it."""
        self._has_head = not self._is_provisional()
        if self._has_head:
            self._bytes_beside_body = 0

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body, up to a size; the rest is left unread."""
        self._bytes_beside_body = 0
        self._chunks.append(data)
        self._body_bytes += len(data)
        if self._body_bytes >= MAX_BODY_BYTES:
            self._finish()

    def on_message_complete(self) -> None:
        """Hand the answer over."""
        if not self._is_provisional() and self._answer is not None:
            self.is_reusable = self._parser.should_keep_alive()
            self._finish()

    def _is_provisional(self) -> bool:
        status = self._parser.get_status_code()
        return status < 200 and status != 101

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(
                Response(
                    status=self._parser.get_status_code(),
                    headers=self._headers,
                    body=b"".join(self._chunks)[:MAX_BODY_BYTES],
                )
            )

    def _fail(self, exc: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(exc)


@functools.cache
def _tls() -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _connect(origin: Origin) -> _Connection:
    """Return a new connection to the first of a host's addresses that accepts one."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            for address in (addresses := await _addresses(origin)):
                try:
                    _, connection = await loop.create_connection(
                        _Connection,
                        address,
                        origin.port,
                        ssl=_tls() if origin.is_tls else None,
                        server_hostname=origin.host if origin.is_tls else None,
                    )
                except OSError:
                    if address == addresses[-1]:
                        raise
                else:
                    return connection
    except TimeoutError as exc:
        raise ConnectTimeoutError(
            f"timeout: {origin.netloc} did not accept a connection in {CONNECT_TIMEOUT_S:g} s"
        ) from exc
    raise ConnectionRefusedError(f"{origin.netloc} has no address")


async def _addresses(origin: Origin) -> Sequence[str]:
    if origin.is_address:
        return [origin.host]
    found = await asyncio.get_running_loop().getaddrinfo(
        origin.host, origin.port, type=socket.SOCK_STREAM
    )
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
