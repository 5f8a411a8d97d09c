"""A model that counts: what was asked, by whose attempt, when, and whether it was all said."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
from starlette.types import Message, Receive, Scope, Send

from longtask_kit.server.openai_continue import CONTINUES_HEADER

_WORDS = 4
_PAUSE_S = 0.005


def text_of(prompt: str) -> str:
    """Return what the model says to a prompt, however often it is asked."""
    return "".join(_words_of(prompt))


def _words_of(prompt: str) -> list[str]:
    return [f"{prompt} {number} " for number in range(_WORDS)]


@dataclass(eq=False)
class Call:
    """One request for a completion.

    Attributes:
        prompt: What was asked.
        task_id: Whose it is.
        began: When it came, by the machine's monotonic clock.
        is_whole: The last byte was sent.
        is_cut: The client left before that.
        is_refused: It was answered 400.
    """

    prompt: str
    task_id: str
    began: float
    is_whole: bool = False
    is_cut: bool = False
    is_refused: bool = False


@dataclass
class CountingModel:
    """An ASGI app that speaks just enough of chat completions.

    Attributes:
        calls: All there were, in order.
        answered: How many it has begun to answer.
        allowed: How many it answers; the others wait, until their client leaves.
        refused: Prompts that are refused once.
    """

    calls: list[Call] = field(default_factory=list)
    answered: int = 0
    allowed: float = math.inf
    refused: set[str] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        task_id = headers[b"x-client-request-id"].decode().partition("/")[0]
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        call = Call(json.loads(body)["messages"][-1]["content"], task_id, time.monotonic())
        self.calls.append(call)
        async with anyio.create_task_group() as group:

            async def await_leave() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                call.is_cut = not (call.is_whole or call.is_refused)
                group.cancel_scope.cancel()

            group.start_soon(await_leave)
            await self._answer(call, send)
            group.cancel_scope.cancel()

    async def _answer(self, call: Call, send: Send) -> None:
        while self.answered >= self.allowed:  # noqa: ASYNC110 - set by a thread
            await anyio.sleep(0.005)
        self.answered += 1
        if call.prompt in self.refused:
            self.refused.discard(call.prompt)
            call.is_refused = True
            await _refuse(send)
        else:
            await _say(call, send)


async def _refuse(send: Send) -> None:
    error = {"message": "not this one", "type": "invalid_request_error", "code": "odd"}
    head = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 400, "headers": head})
    await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})


async def _say(call: Call, send: Send) -> None:
    # It says that it starts over, or a cut answer would have it asked whether it does.
    head = [(b"content-type", b"text/event-stream"), (CONTINUES_HEADER.lower().encode(), b"false")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    for word in _words_of(call.prompt):
        await send(_make_message({"choices": [{"index": 0, "delta": {"content": word}}]}))
        await anyio.sleep(_PAUSE_S)
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 3, "completion_tokens": _WORDS, "total_tokens": 3 + _WORDS}
    await send(_make_message(end))
    await send(_make_message({"choices": [], "usage": usage}))
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
    call.is_whole = True


def _make_message(chunk: Mapping[str, object]) -> Message:
    whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **chunk}
    body = b"data: " + json.dumps(whole).encode() + b"\n\n"
    return {"type": "http.response.body", "body": body, "more_body": True}
