"""A model's stream for the tests of its decoder."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from longtask_kit.server.handlers import Outcome
from longtask_kit.server.openai_chat import ChatDecoder
from longtask_kit.server.openai_decoder import Decoder, Piece
from longtask_kit.server.openai_stream import decode_stream

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
DONE = b"data: [DONE]\n\n"


async def collect(
    parts: list[bytes],
    *,
    decoder: type[Decoder] = ChatDecoder,
    key: str = "",
    content_type: str = "",
    then: Exception | None = None,
) -> list[Piece | Outcome]:
    """Return what the decoder makes of parts, after which the connection may break."""

    async def feed() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        if then is not None:
            raise then

    stream = decode_stream(feed(), decoder(key), key=key, content_type=content_type)
    return [item async for item in stream]


def decode(*parts: bytes, **options: Any) -> list[Piece | Outcome]:  # noqa: ANN401
    """Run the decoder over a stream that arrives in these parts; options of `collect`."""
    return asyncio.run(collect(list(parts), **options))


def frame(chunk: object) -> bytes:
    """Return a chunk as the model service sends it, non-ASCII as it is."""
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def delta(content: object, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return frame({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})


def said(**fields: object) -> bytes:
    """Return a chunk whose delta has these fields."""
    return frame({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})
