"""The model service: an OpenAI-compatible chat service whose demo models' replies are prewritten.

It knows only the wire, https://platform.openai.com/docs/api-reference/chat, and is made for the
official `openai` SDK. Every answer of a demo model says what it is in the header `X-Demo-Label`.
An installed real model (`llm`) answers under its own name, and the demo never in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import json
import math
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from longtask_kit.local.model.native import LocalModel, LocalModels, ModelGoneError
from longtask_kit.local.model.native_request import read_native_chat, read_native_response
from longtask_kit.local.model.prose import split_tokens, write_long_reply, write_reply
from longtask_kit.local.model.request import (
    MODELS,
    ApiError,
    ChatRequest,
    DemoModel,
    Fault,
    find_model,
    parse_body,
    read_chat_request,
    read_model_name,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.types import Send

    from longtask_kit.local.model.installed import InstalledModel

FINGERPRINT = "fp_longtask_demo"
MAX_TOKENS_PER_WRITE = 16
_CREATED = 1_767_225_600  # 2026-01-01, for the model list
_REMEMBERED_PROMPTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A written reply and the envelope it travels in."""

    request: ChatRequest
    tokens: list[str]
    finish_reason: str
    reply_id: str
    created: int

    @property
    def usage(self) -> dict[str, int]:
        """Token counts, by the same split as the stream."""
        asked = sum(len(split_tokens(text)) for _, text in self.request.messages)
        answered = len(self.tokens)
        return {
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
        }

    def envelope(self, kind: str) -> dict[str, Any]:
        """The fields every chunk and every whole answer share."""
        return {
            "id": self.reply_id,
            "object": kind,
            "created": self.created,
            "model": self.request.model.name,
            "system_fingerprint": FINGERPRINT,
        }

    def chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        """One chunk of the stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self.envelope("chat.completion.chunk") | {"choices": [choice]}

    def whole(self) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        message = {"role": "assistant", "content": "".join(self.tokens), "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self.finish_reason,
        }
        return self.envelope("chat.completion") | {"choices": [choice], "usage": self.usage}


def write_answer(request: ChatRequest) -> Reply:
    """Return the reply to a request, cut at its token limit."""
    write = write_long_reply if request.model.is_long else write_reply
    tokens = split_tokens(write(request.prompt, seed=request.seed))
    kept = tokens[: request.max_tokens]
    return Reply(
        request=request,
        tokens=kept,
        finish_reason="stop" if len(kept) == len(tokens) else "length",
        reply_id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
    )


def due_tokens(elapsed_s: float, tokens_per_s: float) -> float:
    """Return how many tokens may have left by now; the first leaves at once."""
    return math.inf if math.isinf(tokens_per_s) else math.floor(elapsed_s * tokens_per_s) + 1


async def _pace(tokens: list[str], tokens_per_s: float) -> AsyncIterator[list[str]]:
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
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _stream_frames(reply: Reply, tokens_per_s: float, *, cut: bool) -> AsyncIterator[str]:
    """The SSE frames of a reply: role, tokens, finish reason, usage if asked for, [DONE]."""
    await asyncio.sleep(reply.request.model.delay_s)
    yield _frame(reply.chunk({"role": "assistant", "content": ""}))
    # Only the token differs between frames: the rest is encoded once, to stay ahead of readers.
    head, tail = _frame(reply.chunk({"content": "\0"})).split(json.dumps("\0"))
    tokens = reply.tokens[: len(reply.tokens) // 3] if cut else reply.tokens
    async for batch in _pace(tokens, tokens_per_s):
        yield "".join(f"{head}{json.dumps(t, ensure_ascii=False)}{tail}" for t in batch)
    if cut:
        return
    yield _frame(reply.chunk({}, reply.finish_reason))
    if reply.request.include_usage:
        usage = {"choices": [], "usage": reply.usage}
        yield _frame(reply.envelope("chat.completion.chunk") | usage)
    yield "data: [DONE]\n\n"


async def _whole_body(reply: Reply, tokens_per_s: float, *, cut: bool) -> AsyncIterator[str]:
    """The one JSON body, after the time its tokens take."""
    await asyncio.sleep(reply.request.model.delay_s + len(reply.tokens) / tokens_per_s)
    text = json.dumps(reply.whole(), ensure_ascii=False)
    yield text[: len(text) // 3] if cut else text


class _CutResponse(StreamingResponse):
    """A body without its end: the server closes the connection before the last chunk.

    Returning with `more_body` still true makes uvicorn, with h11 and with httptools, close the
    socket after what was written and before the terminating chunk; it logs one line about that.
    """

    async def stream_response(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        async for part in self.body_iterator:
            body = part.encode() if isinstance(part, str) else bytes(part)
            await send({"type": "http.response.body", "body": body, "more_body": True})


class _FaultSwitch:
    """Remembers which prompts have met their fault, so that the next call heals it."""

    def __init__(self) -> None:
        self._struck: OrderedDict[str, None] = OrderedDict()

    def fault_of(self, request: ChatRequest) -> Fault | None:
        """The fault this call meets; a healing one strikes and spares by turns."""
        model = request.model
        if model.fault is None or not model.heals:
            return model.fault
        key = hashlib.sha256(repr((model.name, request.messages)).encode()).hexdigest()
        if key in self._struck:
            del self._struck[key]
            return None
        self._struck[key] = None
        if len(self._struck) > _REMEMBERED_PROMPTS:
            self._struck.popitem(last=False)
        return model.fault


def _raise_fault(fault: Fault | None) -> None:
    if fault == "rate_limit":
        raise ApiError(
            429,
            "Rate limit reached for this demo model. Please try again in 1s.",
            kind="requests",
            code="rate_limit_exceeded",
            retry_after_s=1,
        )
    if fault == "server_error":
        raise ApiError(500, "The demo model had an error, as its name says.", kind="server_error")
    if fault == "bad_key":
        raise ApiError(401, "Incorrect API key provided, as the name says.", code="invalid_api_key")


class _Service:
    """The endpoints, and the little they remember."""

    def __init__(
        self, api_key: str, label: str, tokens_per_s: float, local_models: LocalModels
    ) -> None:
        self._label = label
        self._labelled = {"X-Demo-Label": label}
        self._local_models = local_models
        self._expected = f"Bearer {api_key}".encode()
        self._tokens_per_s = tokens_per_s
        self._switch = _FaultSwitch()

    async def complete_chat(self, request: Request) -> Response:
        self._check_key(request)
        body = parse_body(await request.body())
        local = self._local_models.find(read_model_name(body))
        if local is not None:
            return await _ask_local(local, request, read_native_chat, body)
        return self._answer_demo(read_chat_request(body, self._local_models.names))

    async def respond(self, request: Request) -> Response:
        """Answer `/v1/responses`, which the real models know."""
        self._check_key(request)
        body = parse_body(await request.body())
        local = self._local_models.find(read_model_name(body))
        if local is not None:
            return await _ask_local(local, request, read_native_response, body)
        find_model(body["model"], self._local_models.names)
        message = "The demo models know chat completions only; real models answer here."
        raise ApiError(400, message, param="model", code="unsupported_endpoint")

    def _answer_demo(self, chat: ChatRequest) -> Response:
        fault = self._switch.fault_of(chat)
        _raise_fault(fault)
        rate = chat.model.tokens_per_s or self._tokens_per_s
        write = _stream_frames if chat.stream else _whole_body
        respond = _CutResponse if fault == "cut" else StreamingResponse
        return respond(
            write(write_answer(chat), rate, cut=fault == "cut"),
            media_type="text/event-stream" if chat.stream else "application/json",
            headers=self._labelled | {"Cache-Control": "no-cache"},
        )

    async def list_models(self, request: Request) -> Response:
        self._check_key(request)
        listed = [_describe(model, self._label) for model in MODELS]
        listed += [_describe_local(model) for model in self._local_models.offered()]
        return JSONResponse({"object": "list", "data": listed}, headers=self._labelled)

    async def show_model(self, request: Request) -> Response:
        self._check_key(request)
        name = request.path_params["name"]
        local = self._local_models.find(name)
        if local is not None:
            return JSONResponse(_describe_local(local.model))
        found = find_model(name, self._local_models.names)
        return JSONResponse(_describe(found, self._label), headers=self._labelled)

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, self._expected):
            message = "Incorrect API key provided. Send the header 'Authorization: Bearer <key>'."
            raise ApiError(401, message, code="invalid_api_key")


def _describe(model: DemoModel, label: str) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "longtask-demo",
        "description": f"{model.about} {label}",
    }


def _describe_local(model: InstalledModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "this-computer",
        "description": model.about,
    }


async def _ask_local(
    local: LocalModel,
    request: Request,
    read: Callable[[dict[str, Any]], dict[str, Any]],
    body: dict[str, Any],
) -> Response:
    """Answer as the real model does; its errors carry no demo label."""
    path = request.url.path
    try:
        return await local.answer(request, path, read(body))
    except ApiError as exc:
        return JSONResponse(exc.body, exc.status, headers=exc.headers)
    except ModelGoneError:
        return Response(status_code=499)  # nobody reads it


async def _answer_error(request: Request, exc: Exception, *, label: str) -> Response:
    """Every error leaves in OpenAI's shape, those of the router too."""
    headers = {"X-Demo-Label": label}
    if isinstance(exc, HTTPException):
        headers |= exc.headers or {}
        message = f"{exc.detail}: {request.method} {request.url.path}."
        exc = ApiError(exc.status_code, message, code="unknown_url")
    if not isinstance(exc, ApiError):
        exc = ApiError(500, "The demo model failed; its log says why.", kind="server_error")
    return JSONResponse(exc.body, exc.status, headers=headers | exc.headers)


def create_model_app(
    *,
    api_key: str,
    label: str,
    tokens_per_s: float = 60.0,
    local_models: LocalModels | None = None,
) -> Starlette:
    """Return the model service as an ASGI app, to be served at `/v1`.

    Args:
        api_key: The bearer key clients must send.
        label: What every answer of a demo model says it is.
        tokens_per_s: Speed of the demo models that name none of their own, > 0.
        local_models: The real ones; None is those that are installed.

    Raises:
        ValueError: The speed is not above 0.
    """
    if not tokens_per_s > 0:
        raise ValueError(f"tokens_per_s must be above 0, found {tokens_per_s}")
    models = local_models or LocalModels()
    service = _Service(api_key, label, tokens_per_s, models)

    @contextlib.asynccontextmanager
    async def end_processes(_: Starlette) -> AsyncIterator[None]:
        yield
        await models.stop()

    routes = [
        Route("/v1/chat/completions", service.complete_chat, methods=["POST"]),
        Route("/v1/responses", service.respond, methods=["POST"]),
        Route("/v1/models", service.list_models),
        Route("/v1/models/{name:path}", service.show_model),
    ]
    answer_error = functools.partial(_answer_error, label=label)
    handlers = dict.fromkeys((ApiError, HTTPException, Exception), answer_error)
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=end_processes)
    # A redirect would be the one answer without label and shape.
    app.router.redirect_slashes = False
    return app
