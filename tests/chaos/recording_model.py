"""The demo model with another text for every attempt, and a record of every call."""

import json
import re
import threading
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from starlette.types import Message, Receive, Scope, Send

from longtask_kit.local.model.app import create_model_app
from longtask_kit.local.model.prose import split_tokens, write_long_reply, write_reply
from longtask_kit.settings import DEMO_LABEL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_IDS = re.compile(rb'"token_ids":(\[[^]]*\])')


@cache
def tokens_of(prompt: str, attempt: int, *, max_tokens: int = 1000) -> tuple[str, ...]:
    """Return what the model says to a prompt in an attempt; a long prompt's model is the long one.

    The seed is the attempt's number, so that a mixture of two attempts can't pass for a text.
    """
    write = write_long_reply if prompt.startswith("At length") else write_reply
    return tuple(split_tokens(write(prompt, seed=attempt))[:max_tokens])


def text_of(prompt: str, attempt: int, *, max_tokens: int = 1000) -> str:
    """Return the same as one text."""
    return "".join(tokens_of(prompt, attempt, max_tokens=max_tokens))


@dataclass(eq=False)
class Call:
    """One request for a completion.

    Attributes:
        task_id: Whose it is, and which `attempt` of it.
        prompt: What was asked.
        begun: The tokens of the answer that it was to go on behind, of a model that tells them.
        ids: Those that it told.
        tokens: How many were sent.
        is_whole: The last byte was sent.
        ended: Set when the answer is over: whole, or the client has left.
    """

    task_id: str
    attempt: int
    prompt: str
    begun: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    tokens: int = 0
    is_whole: bool = False
    ended: threading.Event = field(default_factory=threading.Event)


async def _let_pass(_: Call) -> None:
    pass


class RecordingModel:
    """An ASGI app around the stack's demo model.

    Attributes:
        calls: Every completion that was asked for, in order.
        after_write: Awaited after every write of tokens, on the model's own loop: the place to
            kill somebody at a token, to slow a call down, or to hold it.
    """

    def __init__(self, api_key: str) -> None:
        self._demo = create_model_app(api_key=api_key, label=DEMO_LABEL, tokens_per_s=400)
        self.calls: list[Call] = []
        self.after_write: Callable[[Call], Awaitable[None]] = _let_pass

    def calls_of(self, task_id: str, attempt: int | None = None) -> list[Call]:
        """Return the calls of a task, or of one attempt of it."""
        return [c for c in self.calls if c.task_id == task_id and attempt in (None, c.attempt)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._demo(scope, receive, send)
            return
        headers = dict(scope["headers"])
        task_id, _, attempt = headers[b"x-client-request-id"].decode().partition("/")
        body = json.loads(await _read_body(receive))
        if not body["model"].startswith("demo-continue"):  # one text, however many attempts
            body["seed"] = int(attempt)
        asked = [m["content"] for m in body["messages"] if m["role"] == "user"]
        begun = body["messages"][-1].get("token_ids", [])
        call = Call(task_id, int(attempt), asked[-1], begun)
        self.calls.append(call)
        unread = [json.dumps(body).encode()]

        async def receive_seeded() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        async def send_counted(message: Message) -> None:
            await send(message)
            sent = message.get("body", b"")
            call.tokens += sent.count(b'"delta":{"content":')
            for told in _IDS.findall(sent):
                call.ids += json.loads(told)
            call.is_whole = call.is_whole or b"[DONE]" in sent
            if sent:
                await self.after_write(call)

        try:
            await self._demo(scope, receive_seeded, send_counted)
        finally:
            call.ended.set()


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)
