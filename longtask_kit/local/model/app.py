"""The model service: an OpenAI-compatible chat service whose demo models' replies are prewritten.

It knows only the wire, https://platform.openai.com/docs/api-reference/chat, and is made for the
official `openai` SDK. Every answer of a demo model says what it is in the header `X-Demo-Label`.
An installed real model (`llm`) answers under its own name, and the demo never in its place. Whoever
names a recording in the header `X-Longtask-Cassette` is answered from that, and from nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from longtask_kit.local.model.native import LocalModel, LocalModels, ModelGoneError
from longtask_kit.local.model.native_request import (
    read_begun_tokens,
    read_native_chat,
    read_native_response,
)
from longtask_kit.local.model.replay import (
    Replay,
    Shelf,
    explain_as_recorded,
    find_attempt,
    list_models,
    stream_attempt,
)
from longtask_kit.local.model.reply import stream_frames, whole_body, write_answer
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
from longtask_kit.local.model.responses import Runs, read_response_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.types import Send

    from longtask_kit.local.model.installed import InstalledModel

_CREATED = 1_767_225_600  # 2026-01-01, for the model list
_REMEMBERED_PROMPTS = 10_000


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


def tell_continues(*, continues: bool) -> dict[str, str]:
    """Return the header that says whether an answer that was cut can be gone on behind."""
    return {"X-Continues-Final-Message": "true" if continues else "false"}


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
        self,
        api_key: str,
        label: str,
        tokens_per_s: float,
        local_models: LocalModels,
        stream_again_s: float,
    ) -> None:
        self._label = label
        self._labelled = {"X-Demo-Label": label}
        self._local_models = local_models
        self._expected = f"Bearer {api_key}".encode()
        self._tokens_per_s = tokens_per_s
        self._switch = _FaultSwitch()
        self._runs = Runs(again_s=stream_again_s)
        self._shelf = Shelf()

    async def complete_chat(self, request: Request) -> Response:
        self._check_key(request)
        body = parse_body(await request.body())
        if (replay := Replay.of_headers(request.headers)) is not None:
            frames = self._replay(replay, body)
            return StreamingResponse(frames, media_type="text/event-stream")
        local = self._local_models.find(read_model_name(body))
        if local is not None:
            return await _ask_local(local, request, read_native_chat, body)
        return self._answer_demo(read_chat_request(body, self._local_models.names))

    async def _replay(self, replay: Replay, body: dict[str, Any]) -> AsyncIterator[str]:
        try:
            cassette = await self._shelf.open(replay.path)
            # In a thread: to say what is nearest takes a while, and every stream waits else.
            attempt, source = await asyncio.to_thread(find_attempt, cassette, body, replay)
        except ApiError as exc:
            yield explain_as_recorded(exc)
            return
        model = read_model_name(body)
        async for frame in stream_attempt(attempt, source, model=model, speed=replay.speed):
            yield frame

    async def respond(self, request: Request) -> Response:
        """Answer `/v1/responses`; in the background as well, where the demo models are asked."""
        self._check_key(request)
        body = parse_body(await request.body())
        local = self._local_models.find(read_model_name(body))
        if local is not None:
            return await _ask_local(local, request, read_native_response, body)
        asked = read_response_request(body, self._local_models.names)
        fault = self._switch.fault_of(asked)
        _raise_fault(fault)
        rate = asked.model.tokens_per_s or self._tokens_per_s
        run = self._runs.start(
            asked,
            rate=rate,
            in_background=bool(body.get("background")),
            key=request.headers.get("idempotency-key", ""),
        )
        if not asked.stream:
            return Response(await run.wait(), media_type="application/json", headers=self._labelled)
        cut_at = run.length // 3 if fault == "cut" else None
        return self._stream(run.stream(cut_at=cut_at), is_cut=fault == "cut")

    def _stream(self, events: AsyncIterator[str], *, is_cut: bool = False) -> Response:
        respond = _CutResponse if is_cut else StreamingResponse
        headers = self._labelled | {"Cache-Control": "no-cache"}
        return respond(events, media_type="text/event-stream", headers=headers)

    async def retrieve(self, request: Request) -> Response:
        """Answer `GET /v1/responses/{id}`: as it is by now, or its events behind a number."""
        self._check_key(request)
        response_id = request.path_params["response_id"]
        if request.query_params.get("stream") == "true":
            after = request.query_params.get("starting_after")
            run, at = self._runs.find_stream(response_id, after)
            return self._stream(run.stream(after=at))
        return JSONResponse(self._runs.find(response_id).to_body(), headers=self._labelled)

    async def cancel(self, request: Request) -> Response:
        """Answer `POST /v1/responses/{id}/cancel`."""
        self._check_key(request)
        run = self._runs.find(request.path_params["response_id"])
        run.cancel()
        return JSONResponse(run.to_body(), headers=self._labelled)

    def _answer_demo(self, chat: ChatRequest) -> Response:
        fault = self._switch.fault_of(chat)
        _raise_fault(fault)
        rate = chat.model.tokens_per_s or self._tokens_per_s
        write = stream_frames if chat.stream else whole_body
        respond = _CutResponse if fault == "cut" else StreamingResponse
        return respond(
            write(write_answer(chat), rate, cut=fault == "cut"),
            media_type="text/event-stream" if chat.stream else "application/json",
            headers=self._labelled
            | {"Cache-Control": "no-cache"}
            | tell_continues(continues=chat.model.continues),
        )

    async def list_models(self, request: Request) -> Response:
        self._check_key(request)
        if (replay := Replay.of_headers(request.headers)) is not None:
            recorded = list_models(await self._shelf.open(replay.path), replay.path.name)
            return JSONResponse({"object": "list", "data": recorded})
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
        sent = read(body)
        begun = read_begun_tokens(body) if read is read_native_chat else None
        return await local.answer(request, path, sent, begun=begun)
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
    stream_again_s: float = 300.0,
) -> Starlette:
    """Return the model service as an ASGI app, to be served at `/v1`.

    Args:
        api_key: The bearer key clients must send.
        label: What every answer of a demo model says it is.
        tokens_per_s: Speed of the demo models that name none of their own, > 0.
        local_models: The real ones; None is those that are installed.
        stream_again_s: A response in the background is read on for so long after it began.

    Raises:
        ValueError: The speed is not above 0.
    """
    if not tokens_per_s > 0:
        raise ValueError(f"tokens_per_s must be above 0, found {tokens_per_s}")
    models = local_models or LocalModels()
    service = _Service(api_key, label, tokens_per_s, models, stream_again_s)

    @contextlib.asynccontextmanager
    async def end_processes(_: Starlette) -> AsyncIterator[None]:
        yield
        await models.stop()

    routes = [
        Route("/v1/chat/completions", service.complete_chat, methods=["POST"]),
        Route("/v1/responses", service.respond, methods=["POST"]),
        Route("/v1/responses/{response_id}", service.retrieve),
        Route("/v1/responses/{response_id}/cancel", service.cancel, methods=["POST"]),
        Route("/v1/models", service.list_models),
        Route("/v1/models/{name:path}", service.show_model),
    ]
    answer_error = functools.partial(_answer_error, label=label)
    handlers = dict.fromkeys((ApiError, HTTPException, Exception), answer_error)
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=end_processes)
    # A redirect would be the one answer without label and shape.
    app.router.redirect_slashes = False
    return app
