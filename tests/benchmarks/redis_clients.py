"""Clients that cost little themselves: kept-alive HTTP, and many SSE readers in one process."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import urlsplit

import redis.asyncio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Reader(Protocol):
    """Who reads a channel whose messages are the `time.perf_counter()` of their sending."""

    delays_s: list[float]

    def close(self) -> None:
        """Leave."""


class RestConnection(asyncio.Protocol):
    """One kept-alive connection that posts JSON and times the answers."""

    def __init__(self, url: str, token: str) -> None:
        self._address = urlsplit(url)
        self._head = (
            f"Host: {self._address.netloc}\r\nAuthorization: Bearer {token}\r\n"
            "Upstash-Encoding: base64\r\nContent-Type: application/json\r\nContent-Length: "
        )
        self._received = bytearray()
        self._lost: ConnectionError | None = None

    async def open(self) -> Self:
        """Connect."""
        loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[bytes] = loop.create_future()
        host, port = self._address.hostname or "", self._address.port or 80
        self._transport, _ = await loop.create_connection(lambda: self, host, port)
        return self

    def close(self) -> None:
        """Disconnect."""
        self._answer.cancel()
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail who waits, and who comes later."""
        self._lost = ConnectionError("the service closed a kept-alive connection")
        if not self._answer.done():
            self._answer.set_exception(self._lost)

    async def post(self, path: str, body: bytes) -> bytes:
        """Return the body of the answer, which is never chunked."""
        if self._lost is not None:
            raise self._lost
        self._answer = asyncio.get_running_loop().create_future()
        head = f"POST {path} HTTP/1.1\r\n{self._head}{len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Hand over an answer that is whole."""
        self._received += data
        head, ended, rest = bytes(self._received).partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) if ended else 1
        if len(rest) >= size:
            self._received.clear()
            self._answer.set_result(rest)


async def time_posts(
    connections: Sequence[RestConnection],
    path: str,
    make: Callable[[int], bytes],
    count: int,
) -> list[float]:
    """Post `count` bodies over each connection at once; returns each answer's seconds.

    `make` returns the next body of the connection whose number it is given.
    """
    times: list[float] = []

    async def work(number: int, connection: RestConnection) -> None:
        for _ in range(count):
            body = make(number)
            begun = time.perf_counter()
            answer = await connection.post(path, body)
            times.append(time.perf_counter() - begun)
            assert b'"error"' not in answer, answer
            assert b"dG9ybg==" not in answer, "the script found a hole"  # torn

    await asyncio.gather(*itertools.starmap(work, enumerate(connections)))
    return times


class SseReader(asyncio.Protocol):
    """A reader of one channel whose messages are the `time.perf_counter()` of their sending."""

    def __init__(self, url: str, token: str, channel: str) -> None:
        self._request = (
            f"GET /subscribe/{channel} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
            f"Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
        )
        self._mark = f"data: message,{channel},".encode()
        self._tail = b""
        self.live = asyncio.get_running_loop().create_future()
        self.delays_s: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the channel."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        """Note each message's delay."""
        now = time.perf_counter()
        *frames, self._tail = (self._tail + data).split(b"\n\n")
        for frame in frames:
            sent = frame.partition(self._mark)[2]
            if sent:
                self.delays_s.append(now - float(sent))
            elif not self.live.done():
                self.live.set_result(None)

    def close(self) -> None:
        """Leave."""
        self._transport.close()


async def open_readers(url: str, token: str, channel: str, count: int) -> list[SseReader]:
    """Return readers that are all acknowledged."""
    loop = asyncio.get_running_loop()
    address = urlsplit(url)
    make: Callable[[], SseReader] = lambda: SseReader(url, token, channel)  # noqa: E731
    readers = []
    for _ in range(count):
        _, reader = await loop.create_connection(make, address.hostname or "", address.port or 80)
        readers.append(reader)
    await asyncio.gather(*(reader.live for reader in readers))
    return readers


class RawReader:
    """The same with redis-py's own subscription."""

    def __init__(self, client: redis.asyncio.Redis, channel: str) -> None:
        self.delays_s: list[float] = []
        self._pubsub, self._channel = client.pubsub(), channel

    async def open(self) -> None:
        """Subscribe, and go on reading."""
        await self._pubsub.subscribe(self._channel)
        await self._pubsub.get_message(timeout=10)
        self._reading = asyncio.create_task(self._read())

    def close(self) -> None:
        """Leave."""
        self._reading.cancel()

    async def _read(self) -> None:
        try:
            async for message in self._pubsub.listen():
                self.delays_s.append(time.perf_counter() - float(message["data"]))
        finally:
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]


async def open_raw(redis_url: str, channel: str, count: int) -> list[RawReader]:
    """Return readers of redis-py that are all acknowledged."""
    client = redis.asyncio.Redis.from_url(redis_url, protocol=2, max_connections=count)
    readers = [RawReader(client, channel) for _ in range(count)]
    for reader in readers:
        await reader.open()
    return readers


async def publish_at(rate: int, count: int, publish: Callable[[str], object]) -> None:
    """Publish the time `count` times, `rate` a second, whatever a call takes."""
    begun = time.perf_counter()
    for number in range(count):
        await asyncio.sleep(begun + number / rate - time.perf_counter())
        publish(repr(time.perf_counter()))
