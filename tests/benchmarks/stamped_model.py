"""A fast model whose every token says when it was sent: `python -m tests.benchmarks.stamped_model`.

Speaks just enough of https://platform.openai.com/docs/api-reference/chat/streaming. A model name
like `50x250` means 250 tokens, 50 a second; `0x5000` as fast as they are read. A token is five
characters: the monotonic clock of the machine in steps of 10 µs, in base 36.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

TOKEN_CHARS = 5
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_TURN: int = 36**TOKEN_CHARS  # of the clock: ten minutes
_AT_ONCE = 16
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def read_clock() -> int:
    """Return the machine's monotonic clock in steps of 10 µs, modulo one turn."""
    return time.monotonic_ns() // 10_000 % _TURN


def read_delays_ms(text: str, now: int) -> list[float]:
    """Return how long ago each token of a text was sent, in milliseconds."""
    stamps = [int(text[at : at + TOKEN_CHARS], 36) for at in range(0, len(text), TOKEN_CHARS)]
    return [(now - stamp) % _TURN / 100 for stamp in stamps]


def _make_token() -> str:
    number, digits = read_clock(), []
    for _ in range(TOKEN_CHARS):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _make_event(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps(chunk | {"choices": [choice]}).encode() + b"\n\n"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            fields = dict(
                line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if line
            )
            body = json.loads(await reader.readexactly(int(fields["content-length"])))
            rate, count = map(int, body["model"].split("x"))
            writer.write(_HEAD)
            await _stream(writer, rate, count)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _stream(writer: asyncio.StreamWriter, rate: int, count: int) -> None:
    began, at_once = time.monotonic(), 1 if rate else _AT_ONCE
    for sent in range(0, count, at_once):
        if rate:
            await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()))
        tokens = [
            _make_event({"content": _make_token()}) for _ in range(min(at_once, count - sent))
        ]
        _write_chunk(writer, b"".join(tokens))
        await writer.drain()
    _write_chunk(writer, _make_event({}, "stop") + b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def main() -> None:
    """Serve on a free port of loopback, which is printed."""
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=1000)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
