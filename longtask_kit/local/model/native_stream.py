"""Streams of the native server: which tokens each chunk is, and a raw completion as a chat's.

A chunk tells its tokens as vLLM does, `choices[0].token_ids`, so that whoever reads can have the
model go on from exactly these. Where they are not known it says null, and so do all that follow.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import httpx

    Tokenize = Callable[[str], Awaitable[list[int]]]

TELL_TOKENS = {"logprobs": True, "top_logprobs": 1, "timings_per_token": True}
"""What a chat completion of the native server is asked for, to learn its tokens."""


@dataclass(slots=True, kw_only=True)
class TokenTeller:
    """Which tokens a stream has generated, as far as their text has been sent.

    The engine tells a token with the text that it completes: of a character in several tokens the
    last one alone, besides how many there were so far. The others are then those that its tokenizer
    gives for the character, if these are as many and end alike.

    Attributes:
        tokenize: Asks the engine's tokenizer.
        is_lost: It is not known any more.
    """

    tokenize: Tokenize
    is_lost: bool = False
    _told: int = 0
    _ids: list[int] = field(default_factory=list)

    async def take(self, text: str, ids: list[int], *, generated: int) -> list[int] | None:
        """Return the tokens whose text has been sent by now and had not before; None: lost.

        Args:
            text: Of a chunk; "" where the engine holds it back, as of what may be a stop string.
            ids: What the chunk names.
            generated: How many tokens there are so far.
        """
        self._ids += ids
        if self.is_lost or not text:
            return None if self.is_lost else []
        if (expected := generated - self._told) != len(self._ids):
            found = await self.tokenize(text)
            is_one = len(self._ids) == 1 and found[-1:] == self._ids
            self.is_lost = not (is_one and len(found) == expected)
            self._ids = found
        told, self._ids, self._told = self._ids, [], generated
        return None if self.is_lost else told


async def read_frames(upstream: httpx.Response) -> AsyncIterator[str]:
    """Yield the events of a native stream, each without the blank line behind it."""
    held = ""
    async for text in upstream.aiter_text():
        *frames, held = (held + text).split("\n\n")
        for frame in frames:
            yield frame
    if held:
        yield held


def _read_data(frame: str) -> dict[str, Any] | None:
    """Return an event's JSON; None for a ping, an error, the end."""
    if not frame.startswith("data: {"):
        return None
    data: dict[str, Any] = json.loads(frame[6:])
    return data


def _write(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def tell_tokens(frames: AsyncIterator[str], teller: TokenTeller) -> AsyncIterator[str]:
    """Yield a chat's stream with the tokens of each chunk, and without what told them."""
    async for frame in frames:
        data = _read_data(frame)
        if data is None or not data.get("choices"):
            yield f"{frame}\n\n"
            continue
        timings = data.pop("timings", None)
        [choice] = data["choices"]
        named = (choice.pop("logprobs", None) or {}).get("content") or ()
        if timings and not choice.get("finish_reason"):
            choice["token_ids"] = await teller.take(
                choice["delta"].get("content") or "",
                [token["id"] for token in named],
                generated=timings["predicted_n"],
            )
        yield _write(data)


async def chat_from_raw(
    frames: AsyncIterator[str], teller: TokenTeller, *, model: str, counts: bool
) -> AsyncIterator[str]:
    """Yield a raw completion's stream as that of a chat.

    Args:
        frames: Its events.
        teller: Of its tokens.
        model: The name to answer under.
        counts: Whether it ends with the usage.
    """
    head = {"object": "chat.completion.chunk", "created": int(time.time()), "model": model}
    head["id"] = f"chatcmpl-{secrets.token_hex(12)}"

    def chunk(delta: dict[str, Any], finish_reason: str | None = None, **more: object) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, **more}
        return _write(head | {"choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    async for frame in frames:
        data = _read_data(frame)
        if data is None or "content" not in data:
            yield f"{frame}\n\n"
            continue
        generated, text = data["tokens_predicted"], data["content"]
        if text or not data["stop"]:
            ids = await teller.take(text, data["tokens"], generated=generated)
            yield chunk({"content": text}, token_ids=ids)
        if data["stop"]:
            yield chunk({}, "length" if data["stop_type"] == "limit" else "stop")
            if counts:
                asked = data["tokens_evaluated"]
                usage = {"prompt_tokens": asked, "completion_tokens": generated}
                usage["total_tokens"] = asked + generated
                yield _write(head | {"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
