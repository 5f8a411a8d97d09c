"""A fast model whose every token says when it was sent: `python -m tests.benchmarks.stamped_model`.

Speaks just enough of https://platform.openai.com/docs/api-reference/chat/streaming. A model name
like `50x250` means 250 tokens, 50 a second; `0x5000` as fast as they are read. A token is five
characters: the monotonic clock of the machine in steps of 10 µs, in base 36. `GET /sent` tells,
once, the SHA-256 of each text that went out, by its prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
import time

TOKEN_CHARS = 5
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_TURN: int = 36**TOKEN_CHARS  # of the clock: ten minutes
_AT_ONCE = 16
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def read_clock() -> int:
    """Return the machine's monotonic clock in steps of 10 µs."""
    return time.monotonic_ns() // 10_000


def read_delay_ms(token: str, now: int) -> float:
    """Return how long ago a token was sent, in milliseconds."""
    return (now - int(token, 36)) % _TURN / 100


def _make_token() -> str:
    number, digits = read_clock() % _TURN, []
    for _ in range(TOKEN_CHARS):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _make_event(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps(chunk | {"choices": [choice]}).encode() + b"\n\n"


_BEFORE, _AFTER = _make_event({"content": "|"}).split(b"|")
_END = _make_event({}, "stop") + b"data: [DONE]\n\n"


class StampedModel:
    """The server; remembers what it sent until it is asked."""

    def __init__(self) -> None:
        self._sent: dict[str, str] = {}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *fields = head.decode().lower().split("\r\n")
                lengths = [int(f.split(":")[1]) for f in fields if f.startswith("content-length:")]
                body = await reader.readexactly(lengths[0] if lengths else 0)
                if line.startswith("get"):
                    await self._tell(writer)
                else:
                    await self._complete(writer, json.loads(body))
        writer.close()

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        body = json.dumps(self._sent).encode()
        self._sent = {}
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()

    async def _complete(self, writer: asyncio.StreamWriter, body: dict[str, object]) -> None:
        rate, count = map(int, str(body["model"]).split("x"))
        prompt = body["messages"][-1]["content"]  # type: ignore[index]
        writer.write(_HEAD)
        text = await _stream(writer, rate, count)
        self._sent[prompt] = hashlib.sha256(text.encode()).hexdigest()  # before anyone can ask
        _write_chunk(writer, _END)
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _stream(writer: asyncio.StreamWriter, rate: int, count: int) -> str:
    began, at_once = time.monotonic(), 1 if rate else _AT_ONCE
    parts: list[str] = []
    for sent in range(0, count, at_once):
        # Unlimited tasks take turns, too, though their sockets may never be full.
        await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()) if rate else 0)
        tokens = [_make_token() for _ in range(min(at_once, count - sent))]
        parts += tokens
        _write_chunk(writer, b"".join(_BEFORE + token.encode() + _AFTER for token in tokens))
        await writer.drain()
    return "".join(parts)


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def main() -> None:
    """Serve on a free port of loopback, which is printed."""
    server = await asyncio.start_server(StampedModel().answer, "127.0.0.1", 0, backlog=1000)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
