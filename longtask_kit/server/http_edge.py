"""The HTTP edge: body models, size limits, and every error as `{"error": …}`.

A route class does it, not the app, so that it holds as well in an app that embeds the router.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from longtask_kit.errors import (
    LongTaskError,
    QuotaError,
    SignatureError,
    StoreError,
    StreamExpiredError,
    SubmitError,
)
from longtask_kit.settings import is_loopback
from longtask_kit.submit.spec import MAX_INPUT_BYTES, MAX_TOKENS_RANGE, TEMPERATURE_RANGE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from fastapi import Request
    from starlette.types import ASGIApp, Receive, Scope, Send


class BadRequestError(LongTaskError):
    """A request that can't be served as it is; carries the HTTP status, 4xx."""

    def __init__(self, message: str, *, status_code: int = 400) -> None:
        super().__init__(message)
        self.status_code = status_code


class StartRequest(BaseModel):
    """What to run."""

    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: str = Field(
        min_length=1, max_length=MAX_INPUT_BYTES, examples=["Write a haiku about rivers"]
    )
    model: str | None = Field(
        None, min_length=1, max_length=200, description="LONGTASK_MODEL if unset"
    )
    maxTokens: int = Field(1000, ge=MAX_TOKENS_RANGE[0], le=MAX_TOKENS_RANGE[1])  # noqa: N815 - wire
    temperature: float = Field(0.7, ge=TEMPERATURE_RANGE[0], le=TEMPERATURE_RANGE[1])
    system: str | None = Field(None, min_length=1, max_length=MAX_INPUT_BYTES)
    handler: str = Field("openai", min_length=1, max_length=100)
    metadata: dict[str, Any] | None = None


class TaskReference(BaseModel):
    """Which task."""

    model_config = ConfigDict(strict=True, extra="ignore")

    taskId: str = Field(examples=["task_1q2w3e4r5t6z7u8i9o0p1a"])  # noqa: N815 - wire


class ErrorAnswer(BaseModel):
    """What every refusal looks like."""

    error: str = Field(examples=["No task 'task_1q2w3e4r': …"])


_REFUSALS = {
    400: "A value is missing, or not as it should be; `error` says which.",
    401: "The API key is missing or wrong.",
    404: "No such task: never submitted, deleted, or older than `LONGTASK_TTL_S`.",
    413: "The body is too large.",
    502: "The queue did not take the task: nothing will run.",
}


def refusals(*status_codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of refusals; `default` also keeps FastAPI's 422 out."""
    rows: dict[int | str, str] = {code: _REFUSALS[code] for code in status_codes}
    rows["default"] = "Any other refusal: 429 by a limit, 503 while Redis is away."
    return {code: {"model": ErrorAnswer, "description": text} for code, text in rows.items()}


class TaskRoute(APIRoute):
    """A route that bounds its body and answers every error of ours as `{"error": …}`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def handle_errors(request: Request) -> Response:
            try:
                await read_body(request, most=MAX_INPUT_BYTES)
                return await handle(request)
            except RequestValidationError as exc:
                return error_response(400, _explain(exc))
            except HTTPException as exc:
                if exc.status_code == 204:
                    return Response(status_code=204)
                return error_response(exc.status_code, str(exc.detail), exc.headers)
            except StreamExpiredError as exc:
                # The id tells a client of ours that the task is not there, rather than the app.
                body = {"error": str(exc), "taskId": exc.task_id}
                return JSONResponse(body, status_for(exc))
            except LongTaskError as exc:
                return error_response(status_for(exc), str(exc))

        return handle_errors


class LoopbackHostsOnly:
    """Wraps an app that listens on loopback: a request for any other host name is refused.

    Against DNS rebinding: a web page may make its own name point to 127.0.0.1, and its browser
    then takes this app for the page's own server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not is_loopback(f"//{Headers(scope=scope).get('host', '')}"):
            refusal = error_response(421, "This app answers to 127.0.0.1 and localhost only.")
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def status_for(exc: LongTaskError) -> int:
    """Return the HTTP status of an error of ours."""
    match exc:
        case BadRequestError():
            return exc.status_code
        case SignatureError():
            return 401
        case StreamExpiredError():
            return 404
        case QuotaError():
            return 429
        case SubmitError():
            return 502 if exc.task_id else 400  # with an id it was valid, and the queue failed
        case StoreError():
            return 503
        case _:
            return 500


def error_response(
    status_code: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the error shape of the contract."""
    return JSONResponse({"error": message}, status_code, headers)


async def read_body(request: Request, *, most: int) -> bytes:
    """Return a request's body, refusing a larger one before it is all in memory.

    Raises:
        BadRequestError: It has more than `most` bytes (413).
    """
    if not hasattr(request, "_body"):
        chunks: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise BadRequestError(
                    f"The body is larger than {most:,} bytes; shorten the prompt.", status_code=413
                )
            chunks.append(chunk)
        request._body = b"".join(chunks)  # noqa: SLF001 - where Starlette itself caches it
    return await request.body()


def _explain(exc: RequestValidationError) -> str:
    """Say which field is wrong, how, and what was found."""
    if isinstance(exc.body, bytes):
        # FastAPI reads no JSON from another type, nor do we: a form or plain text is what a page of
        # somebody else's may send to an app on this machine without asking first.
        return 'The body is not sent as JSON: send the header "Content-Type: application/json".'
    parts = []
    for error in exc.errors():
        where = ".".join(str(step) for step in error["loc"][1:]) or "body"
        if error["type"] == "json_invalid":
            parts.append(f"The body is not valid JSON: {error['ctx']['error']}.")
        elif error["type"] == "missing":
            parts.append(f'"{where}" is missing.' if where != "body" else "The body is empty.")
        else:
            found = (
                ""
                if isinstance(error["input"], dict | list)
                else f", got {str(error['input'])[:80]!r}"
            )
            parts.append(f'"{where}": {error["msg"]}{found}.')
    return " ".join(parts)
