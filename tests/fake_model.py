"""Somebody's OpenAI-compatible service: it records who asks what, and answers word by word."""

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

WORDS = 20


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a completion: what stood in its header, and in its body."""

    authorization: str
    organization: str | None
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass(eq=False)
class FakeModel:
    """An ASGI app.

    Attributes:
        models: What `/models` lists; None answers 404.
        asked: Every request for a completion.
        gate: Answers stop in the middle until it is set.
        refused: Keys that get a 401, which quotes them.
    """

    models: Sequence[str] | None = None
    asked: list[Asked] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    refused: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            request = Request(scope, receive)
            await (await self._answer(request))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        # Through a proxy the whole URL stands where a path does.
        if request.url.path.endswith("/models") and self.models is not None:
            return JSONResponse({"data": [{"id": name} for name in self.models]})
        if not request.url.path.endswith("/chat/completions"):
            return JSONResponse({"error": {"message": "nothing here"}}, 404)
        headers = request.headers
        asked = Asked(
            headers.get("authorization", ""),
            headers.get("openai-organization"),
            json.loads(await request.body()),
        )
        self.asked.append(asked)
        key = asked.authorization.removeprefix("Bearer ")
        if key in self.refused:
            error = {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}
            return JSONResponse({"error": error}, 401)
        return StreamingResponse(self._stream(asked.prompt), media_type="text/event-stream")

    async def _stream(self, prompt: str) -> Any:  # noqa: ANN401
        words = say(prompt).split(" ")
        for number, word in enumerate(words):
            if number == len(words) // 2:
                while not self.gate.is_set():  # noqa: ASYNC110 - set by another thread
                    await asyncio.sleep(0.01)
            yield _frame({"delta": {"content": f"{word} " if number < len(words) - 1 else word}})
        yield _frame({"delta": {}, "finish_reason": "stop"})
        yield "data: [DONE]\n\n"


def say(prompt: str) -> str:
    """Return what the model answers."""
    return " ".join([f"To '{prompt}':", *(f"word{n}" for n in range(WORDS))])


def _frame(choice: dict[str, Any]) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0} | choice]})}\n\n"
