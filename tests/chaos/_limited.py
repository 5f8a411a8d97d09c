"""A model service that enforces requests and tokens a minute, of a minute that is short."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.serving import serve


@dataclass
class Served:
    """One call that was answered."""

    at: float
    tokens: int
    prompt: str


@dataclass
class LimitedModel:
    """Refuses what is more than its limits in any window of a minute.

    Attributes:
        chars_a_token: What its tokens are: an estimate of 3.5 is wrong by that.
        latency_s: Of an answer.
        served: What it answered, in order; `refused` is how often it did not, `refused_at` when.
    """

    minute_s: float
    rpm: int
    tpm: int
    chars_a_token: float = 3.5
    answer_tokens: int = 60
    latency_s: float = 0.1
    url: str = ""
    served: list[Served] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    refused_at: list[float] = field(default_factory=list)

    def wait_s(self, tokens: int) -> float:
        """Return how long until it takes a call of so many tokens; 0 for now."""
        now = time.monotonic()
        window = [call for call in self.served if call.at > now - self.minute_s]
        is_full = len(window) >= self.rpm or sum(c.tokens for c in window) + tokens > self.tpm
        return window[0].at + self.minute_s - now if is_full else 0.0

    async def complete(self, request: Request) -> Response:
        """Answer one chat request."""
        prompt: str = (await request.json())["messages"][-1]["content"]
        asked = max(1, round(len(prompt) / self.chars_a_token))
        if wait_s := self.wait_s(asked + self.answer_tokens):
            self.refused[prompt] += 1
            self.refused_at.append(time.monotonic())
            retry_after = f"{wait_s:.3f}"
            error = {"error": {"message": "Rate limit.", "code": "rate_limit_exceeded"}}
            return JSONResponse(error, 429, headers={"Retry-After": retry_after})
        self.served.append(Served(time.monotonic(), asked + self.answer_tokens, prompt))
        return StreamingResponse(self._say(asked), media_type="text/event-stream")

    async def _say(self, asked: int) -> AsyncIterator[bytes]:
        await asyncio.sleep(self.latency_s)
        usage = {
            "prompt_tokens": asked,
            "completion_tokens": self.answer_tokens,
            "total_tokens": asked + self.answer_tokens,
        }
        choice = {"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}
        for body in ({"choices": [choice]}, {"choices": [], "usage": usage}):
            yield f"data: {json.dumps(body)}\n\n".encode()
        yield b"data: [DONE]\n\n"

    def rate(self) -> float:
        """Return the part of the possible rate that was reached, from first to last call."""
        calls = self.served[:-1]
        minutes = (self.served[-1].at - self.served[0].at) / self.minute_s
        return max(len(calls) / self.rpm, sum(c.tokens for c in calls) / self.tpm) / minutes


@contextlib.contextmanager
def limited_model(model: LimitedModel) -> Iterator[LimitedModel]:
    """Serve it."""
    app = Starlette(routes=[Route("/v1/chat/completions", model.complete, methods=["POST"])])
    with serve(app) as url:
        model.url = f"{url}/v1"
        yield model
