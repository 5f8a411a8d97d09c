"""An OpenAI-compatible model that does as the test says, and an app of our own in front of it."""

import asyncio
import collections
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

import longtask_kit as lt
from longtask_kit.server.handlers import Handler
from tests.chaos._reading import model_tokens
from tests.serving import free_port, serve

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def frame(delta: str | None = None, finish_reason: str | None = None) -> bytes:
    """Return one chunk of a chat completion as an SSE frame."""
    choice = {
        "index": 0,
        "delta": {} if delta is None else {"content": delta},
        "finish_reason": finish_reason,
    }
    body = {"object": "chat.completion.chunk", "choices": [choice]}
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def ending(finish_reason: str = "stop") -> bytes:
    """Return the last frames of a stream."""
    usage = json.dumps({"object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    return frame(None, finish_reason) + f"data: {usage}\n\ndata: [DONE]\n\n".encode()


class Reply:
    """Streams parts and then ends well, breaks the connection, or stays silent for ever.

    Args:
        parts: Bytes of the body, each sent by itself.
        then: `end`, `cut`, `stall`, or `hang`: not even the headers come.
        gate: Waited for after the first part.
    """

    def __init__(
        self, parts: Sequence[bytes], *, then: str = "end", gate: threading.Event | None = None
    ) -> None:
        self._parts, self._then, self._gate = parts, then, gate

    async def respond(self) -> Response:
        """Return the answer, when it is time."""
        if self._then == "hang":
            await asyncio.sleep(20)  # the server notices no departure before it answers
        kind = _CutResponse if self._then == "cut" else StreamingResponse
        return kind(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        for number, part in enumerate(self._parts):
            yield part
            if number == 0 and self._gate is not None:
                await asyncio.to_thread(self._gate.wait, 20)
            await asyncio.sleep(0)
        if self._then == "stall":
            await asyncio.Event().wait()


class Refusal:
    """Answers a status in OpenAI's error shape."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, **headers: str
    ) -> None:
        self._body = {"error": {"message": message, "type": "test", "param": None, "code": code}}
        self._status = status
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}

    async def respond(self) -> Response:
        """Return the answer."""
        return JSONResponse(self._body, self._status, headers=self._headers)


class _CutResponse(StreamingResponse):
    """Ends without the last chunk of the body, upon which uvicorn closes the socket."""

    async def stream_response(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        async for part in self.body_iterator:
            body = part.encode() if isinstance(part, str) else bytes(part)
            await send({"type": "http.response.body", "body": body, "more_body": True})


def answer(
    tokens: Sequence[str], *, finish_reason: str = "stop", gate: threading.Event | None = None
) -> Reply:
    """Return a good reply of these deltas."""
    return Reply([*map(frame, tokens), ending(finish_reason)], gate=gate)


class ScriptedModel:
    """Plays the replies scripted for a prompt, the last for ever; else the demo model's answer.

    Attributes:
        url: Its `OPENAI_BASE_URL`.
        calls: How often each prompt was asked.
    """

    def __init__(self) -> None:
        self.url = ""
        self.calls: collections.Counter[str] = collections.Counter()
        self._scripts: dict[str, list[Reply | Refusal]] = {}
        self._lock = threading.Lock()

    def script(self, prompt: str, *replies: Reply | Refusal) -> None:
        """Say what a prompt is answered with, call by call."""
        with self._lock:
            self._scripts[prompt] = list(replies)

    async def complete(self, request: Request) -> Response:
        """Answer one chat request."""
        prompt: str = (await request.json())["messages"][-1]["content"]
        with self._lock:
            self.calls[prompt] += 1
            replies = self._scripts.get(prompt, [])
            reply = replies.pop(0) if len(replies) > 1 else next(iter(replies), None)
        return await (reply or answer(model_tokens(prompt))).respond()


@contextlib.contextmanager
def scripted_model() -> Iterator[ScriptedModel]:
    """Serve a scripted model."""
    model = ScriptedModel()
    app = Starlette(routes=[Route("/v1/chat/completions", model.complete, methods=["POST"])])
    with serve(app) as url:
        model.url = f"{url}/v1"
        yield model


@contextlib.contextmanager
def served_app(
    settings: lt.Settings,
    model: ScriptedModel | None = None,
    *,
    handlers: Mapping[str, Handler] | None = None,
    **options: Any,  # noqa: ANN401
) -> Iterator[lt.Settings]:
    """Serve a webhook app on the stack's queue and Redis; yields settings that lead to it."""
    port = free_port()
    update = {"base_url": f"http://127.0.0.1:{port}"} | options
    if model is not None:
        update |= {"openai_base_url": model.url, "openai_api_key": SecretStr("sk-scripted")}
    own = settings.model_copy(update=update)
    with serve(lt.create_app(own, handlers=handlers), port=port):
        yield own
