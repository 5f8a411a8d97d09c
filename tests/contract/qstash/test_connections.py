"""The deliveries' HTTP against a server that says, byte for byte, what the test wants."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from longtask_kit.local.qstash.connections import MAX_BODY_BYTES, Connections
from longtask_kit.local.qstash.message import parse_message
from longtask_kit.local.qstash.request import Attempt, SigningKeys, attempt_delivery
from tests.contract.qstash.destination import CURRENT_KEY, NEXT_KEY

KEYS = SigningKeys(current=CURRENT_KEY, next=NEXT_KEY)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers every request with the same bytes; closes then if told so."""

    def __init__(self, answer: bytes | Serve, *, closes: bool) -> None:
        self.requests: list[bytes] = []
        self.accepted = 0
        self.serving: list[Any] = []
        self._answer = answer
        self._closes = closes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.serving.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
                self.requests.append(head + await reader.readexactly(int(length or 0)))
                if callable(self._answer):
                    await self._answer(reader, writer)
                    break
                writer.write(self._answer)
                await writer.drain()
                if self._closes:
                    break
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def answering(
    answer: bytes | Serve, *, closes: bool = False
) -> AsyncIterator[tuple[Server, Callable[..., "asyncio.Future[Attempt]"]]]:
    """Yield a server, and what sends it a message."""
    server = Server(answer, closes=closes)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    connections = Connections()

    def send(
        headers: dict[str, str] | None = None, body: bytes = b"b", *, user: str = ""
    ) -> "asyncio.Future[Attempt]":
        url = f"http://{user}127.0.0.1:{port}/a%2fb/../c?d=%20"
        given = list((headers or {}).items())
        message = parse_message(given, message_id="msg_1", url=url, body=body, now_ms=0)
        return asyncio.ensure_future(
            attempt_delivery(connections, message, url=url, signed_url=url, retried=0, keys=KEYS)
        )

    try:
        yield server, send
    finally:
        connections.close()
        listener.close()
        await asyncio.gather(*server.serving)


@pytest.mark.parametrize(
    ("answer", "closes", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", False, (200, b"ok")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, (204, b"")),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n",
            False,
            (200, b"ok!"),
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", True, (200, b"to the end")),
        (b"HTTP/1.0 200 OK\r\n\r\nold", True, (200, b"old")),
        (
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno",
            False,
            (500, b"no"),
        ),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", False, (101, b"")),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000,
            False,
            (200, b"x" * MAX_BODY_BYTES),
        ),
    ],
)
async def test_an_answer_is_read_to_its_end_however_that_is_told(
    answer: bytes, closes: bool, expected: tuple[int, bytes]
) -> None:
    async with answering(answer, closes=closes) as (_, send), asyncio.timeout(5):
        attempt = await send()
    assert (attempt.status, attempt.body) == expected


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed before the answer's end"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut", "closed before the answer's end"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\ncut", "closed before"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "head is larger than 100,000 bytes"),
    ],
)
async def test_what_is_no_whole_answer_fails_with_a_reason(answer: bytes, reason: str) -> None:
    async with answering(answer, closes=True) as (_, send), asyncio.timeout(5):
        attempt = await send()
    assert attempt.status == 0
    assert reason in (attempt.error or "")


CHUNKED = b"HTTP/1.1 200 OK\r\nx: head\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (CHUNKED + b"2\r\nok\r\n0\r\n", b"x-trailer: " + b"v" * 1000 + b"\r\n"),
        (CHUNKED + b"2\r\nok\r\n0\r\nx-trailer: ", b"v" * 1000),
        (CHUNKED + b"1;extension=", b"e" * 1000),
        (b"", b"HTTP/1.1 103 Early Hints\r\nlink: " + b"x" * 1000 + b"\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"x-head: " + b"v" * 1000 + b"\r\n"),
    ],
    ids=["trailers", "one trailer", "chunk extension", "provisional answers", "headers"],
)
async def test_what_a_receiver_says_beside_its_body_has_an_end(before: bytes, piece: bytes) -> None:
    sent = 0

    async def say_on(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            writer.write(before)
            while sent < 100_000_000:
                writer.write(piece * 50)
                sent += len(piece) * 50
                await writer.drain()

    async with answering(say_on) as (_, send), asyncio.timeout(20):
        attempt = await send()
    assert attempt.status == 0
    assert "larger than 100,000 bytes" in (attempt.error or "")
    assert sent < 50_000_000, "it was cut off"


async def test_a_trailer_is_no_header_and_its_connection_is_used_again() -> None:
    answer = CHUNKED + b"2\r\nok\r\n0\r\nretry-after: 99\r\n\r\n"
    async with answering(answer) as (server, send):
        for _ in range(2):
            attempt = await send()
            assert (attempt.status, attempt.body) == (200, b"ok")
            assert attempt.headers == {"X": ["head"], "Transfer-Encoding": ["chunked"]}
    assert server.accepted == 1


async def test_a_long_body_in_small_chunks_is_no_matter() -> None:
    answer = CHUNKED + b"1;x=y\r\nb\r\n" * 50_000 + b"0\r\n\r\n"
    async with answering(answer) as (_, send), asyncio.timeout(20):
        attempt = await send()
    assert (attempt.status, attempt.body) == (200, b"b" * 50_000)


async def test_a_connection_is_used_again_and_each_attempt_has_one_of_its_own() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (server, send):
        for _ in range(3):
            assert (await send()).is_delivered
        assert server.accepted == 1
        both = await asyncio.gather(send(), send())
        assert all(attempt.is_delivered for attempt in both)
    assert server.accepted == 2


async def test_a_connection_that_its_server_will_close_is_not_used_again() -> None:
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    async with answering(answer, closes=True) as (server, send):
        assert (await send()).is_delivered
        assert (await send()).is_delivered
    assert server.accepted == 2


async def test_a_request_has_its_target_and_body_as_published() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    async with answering(answer) as (server, send):
        await send({"Upstash-Forward-X-Mine": "ä b", "Content-Type": "text/plain"}, b"\x00\xff")
        await send({"Upstash-Method": "GET"}, b"", user="me:p%40ss@")
    first, second = server.requests
    head, _, body = first.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /a%2fb/../c?d=%20 HTTP/1.1"
    assert body == b"\x00\xff"
    assert "X-Mine: ä b".encode("latin-1") in lines
    assert b"Content-Type: text/plain" in lines
    assert second.startswith(b"GET /a%2fb")
    assert b"Authorization: Basic bWU6cEBzcw==" in second.split(b"\r\n")
    assert b"Content-Length" not in second


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "\u4f60"])
async def test_a_header_that_would_end_its_line_is_not_sent(value: str) -> None:
    async with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (server, send):
        attempt = await send({"Upstash-Forward-X": value})
    assert attempt.status == 0
    assert attempt.error
    assert not server.requests
