"""A demo model's reply: what it says, and the envelope, chunk by chunk or whole."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from longtask_kit.local.model.instance import make_instance
from longtask_kit.local.model.prose import (
    split_tokens,
    write_line,
    write_long_reply,
    write_reply,
)
from longtask_kit.local.model.shown import write_shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from longtask_kit.local.model.request import ChatRequest

FINGERPRINT = "fp_longtask_demo"
MAX_TOKENS_PER_WRITE = 16
_DEFAULT_LIMIT = 256  # of the model that always stops at one
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Token(NamedTuple):
    """One token of a reply: the field of the delta that it is in, and the field's value."""

    field: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A written reply and the envelope it travels in."""

    request: ChatRequest
    tokens: list[Token]
    finish_reason: str
    reply_id: str
    created: int

    @property
    def usage(self) -> dict[str, Any]:
        """Token counts, by the same split as the stream."""
        asked = sum(len(split_tokens(text)) for _, text in self.request.messages)
        thought = sum(token.field == "reasoning_content" for token in self.tokens)
        answered = len(self.tokens)
        counted = {
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
        }
        details = {"completion_tokens_details": {"reasoning_tokens": thought}}
        return counted | details if thought else counted

    def envelope(self, kind: str) -> dict[str, Any]:
        """The fields every chunk and every whole answer share."""
        return {
            "id": self.reply_id,
            "object": kind,
            "created": self.created,
            "model": self.request.model.name,
            "system_fingerprint": FINGERPRINT,
        }

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """One chunk of the stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self.envelope("chat.completion.chunk") | {"choices": [choice]}

    def whole(self) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        choice = {
            "index": 0,
            "message": self._message(),
            "logprobs": None,
            "finish_reason": self.finish_reason,
        }
        return self.envelope("chat.completion") | {"choices": [choice], "usage": self.usage}

    def _message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        calls: list[dict[str, Any]] = []
        for field, value in self.tokens:
            if field != "tool_calls":
                message[field] = (message.get(field) or "") + value
                continue
            [piece] = value
            if "id" in piece:
                calls.append({k: v for k, v in piece.items() if k != "index"})
                calls[-1]["function"] = dict(piece["function"])
            else:
                calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
        if calls:
            message["tool_calls"] = calls
        elif message["content"] is None and message["refusal"] is None:
            message["content"] = ""
        return message


def write_answer(request: ChatRequest) -> Reply:
    """Return the reply to a request, cut at its token limit."""
    tokens = _skip([*_write_tokens(request)], request.begun)
    limit = request.max_tokens
    if request.model.speaks == "length":
        limit = min(limit or _DEFAULT_LIMIT, len(tokens) - 1)
    kept = tokens[:limit]
    finish_reason = "tool_calls" if kept and kept[-1].field == "tool_calls" else "stop"
    return Reply(
        request=request,
        tokens=kept,
        finish_reason=finish_reason if len(kept) == len(tokens) else "length",
        reply_id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
    )


def _write_tokens(request: ChatRequest) -> Iterator[Token]:
    prompt, seed = request.prompt, request.seed
    match request.model.speaks:
        case "reason":
            yield from _split("reasoning_content", write_line("reasoning", prompt, seed=seed))
            text = write_reply(prompt, seed=seed)
        case "refuse":
            yield from _split("refusal", write_line("refusal", prompt, seed=seed))
            return
        case "tools" if request.tool_results:
            results = "\n".join(f"- {result}" for result in request.tool_results)
            intro = write_line("tool_answer", prompt, seed=seed)
            text = f"{intro}\n\n{results}"
        case "tools" if request.tools is not None:
            yield from _call_tools(request)
            return
        case "json" if request.schema is not None:
            instance = make_instance(request.schema, key=f"{prompt}\x1f{seed}")
            text = json.dumps(instance, ensure_ascii=False)
        case "length":
            text = write_long_reply(prompt, seed=seed)
        case _:
            write = write_long_reply if request.model.is_long else write_reply
            text = write(prompt, seed=seed)
    if request.shown and request.model.speaks in (None, "reason", "length"):
        text = f"{write_shown(request.shown, prompt)}\n\n{text}"
    yield from _split("content", text)


def _skip(tokens: list[Token], begun: str) -> list[Token]:
    """Return what comes behind the beginning of a text; all of it, where that is of another one."""
    if not "".join(str(token.value) for token in tokens).startswith(begun):
        return tokens
    left, rest = len(begun), [*tokens]
    while left > 0 and rest:
        token = rest.pop(0)
        if len(token.value) > left:
            rest.insert(0, Token(token.field, token.value[left:]))
        left -= len(token.value)
    return rest


def _split(field: str, text: str) -> Iterator[Token]:
    return (Token(field, token) for token in split_tokens(text))


def _call_tools(request: ChatRequest) -> Iterator[Token]:
    """Yield the pieces of one call of each tool; where none is given, it asks for the weather."""
    for index, tool in enumerate(request.tools or (_WEATHER,)):
        function = tool["function"]
        key = f"{request.prompt}\x1f{request.seed}\x1f{index}"
        arguments = json.dumps(
            make_instance(function.get("parameters") or {"type": "object"}, key=key),
            ensure_ascii=False,
        )
        begun = {"name": function["name"], "arguments": ""}
        digest = hashlib.sha256(f"{key}\x1f{len(request.messages)}".encode()).hexdigest()
        head = {"index": index, "id": f"call_{digest[:12]}", "type": "function"}
        yield Token("tool_calls", [head | {"function": begun}])
        for token in split_tokens(arguments):
            yield Token("tool_calls", [{"index": index, "function": {"arguments": token}}])


def due_tokens(elapsed_s: float, tokens_per_s: float) -> float:
    """Return how many tokens may have left by now; the first leaves at once."""
    return math.inf if math.isinf(tokens_per_s) else math.floor(elapsed_s * tokens_per_s) + 1


async def _pace(tokens: list[Token], tokens_per_s: float) -> AsyncIterator[list[Token]]:
    """Yield the tokens as they fall due, counted from the start so that no drift adds up."""
    started, sent = time.monotonic(), 0
    while sent < len(tokens):
        # Sleeping even for 0 s lets the loop run, and is where a departed client is noticed.
        wait_s = started + sent / tokens_per_s - time.monotonic()
        await asyncio.sleep(max(0.0, wait_s))
        due = due_tokens(time.monotonic() - started, tokens_per_s)
        upto = int(min(due, sent + MAX_TOKENS_PER_WRITE, len(tokens)))
        if upto > sent:
            yield tokens[sent:upto]
            sent = upto


def _frame(data: dict[str, Any]) -> str:
    return f"data: {_dump(data)}\n\n"


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def stream_frames(reply: Reply, tokens_per_s: float, *, cut: bool) -> AsyncIterator[str]:
    """The SSE frames of a reply: role, tokens, finish reason, usage if asked for, [DONE]."""
    await asyncio.sleep(reply.request.model.delay_s)
    yield _frame(reply.chunk({"role": "assistant", "content": ""}))
    # Only the token differs between frames: the rest is encoded once, to stay ahead of readers.
    around = {
        field: _frame(reply.chunk({field: "\0"})).split(json.dumps("\0"))
        for field in {token.field for token in reply.tokens}
    }
    tokens = reply.tokens[: len(reply.tokens) // 3] if cut else reply.tokens
    async for batch in _pace(tokens, tokens_per_s):
        yield "".join(_dump(value).join(around[field]) for field, value in batch)
    if cut:
        return
    yield _frame(reply.chunk({}, reply.finish_reason))
    if reply.request.include_usage:
        usage = {"choices": [], "usage": reply.usage}
        yield _frame(reply.envelope("chat.completion.chunk") | usage)
    yield "data: [DONE]\n\n"


async def whole_body(reply: Reply, tokens_per_s: float, *, cut: bool) -> AsyncIterator[str]:
    """The one JSON body, after the time its tokens take."""
    await asyncio.sleep(reply.request.model.delay_s + len(reply.tokens) / tokens_per_s)
    text = json.dumps(reply.whole(), ensure_ascii=False)
    yield text[: len(text) // 3] if cut else text
