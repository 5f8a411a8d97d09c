"""The HTTP edge: body models, size limits, and every error as `{"error": …}`.

A route class does it, not the app, so that it holds as well in an app that embeds the router.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Literal

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from longtask_kit.errors import (
    LongTaskError,
    QuotaError,
    SignatureError,
    StoreError,
    StreamExpiredError,
    SubmitError,
)
from longtask_kit.log.text import make_valid_text
from longtask_kit.settings import is_loopback
from longtask_kit.submit.spec import (
    MAX_INPUT_BYTES,
    MAX_OPEN_BODY_BYTES,
    MAX_TOKENS_RANGE,
    RETRIES_RANGE,
    TEMPERATURE_RANGE,
    TIMEOUT_RANGE_S,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping

    from fastapi import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

DEFECT = "An error inside the app; its log has the traceback."
"""What is answered where nobody foresaw what happened."""

_MAX_KEYED_BODY_BYTES = 30_000_000
_FOREIGN_PAGE = (
    "A web page of another site sent this, and only programs and pages of this machine may. Open "
    "the address by itself; to let a page call the app, name its origin in LONGTASK_CORS_ORIGINS."
)


class BadRequestError(LongTaskError):
    """A request that can't be served as it is; carries the HTTP status, 4xx."""

    def __init__(self, message: str, *, status_code: int = 400) -> None:
        super().__init__(message)
        self.status_code = status_code


class StartRequest(BaseModel):
    """What to run: one of `prompt` and `messages`, and how."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: str | None = Field(
        None, min_length=1, max_length=MAX_INPUT_BYTES, examples=["Write a haiku about rivers"]
    )
    messages: list[dict[str, Any]] | None = Field(
        None, description="In the shape of OpenAI's chat completions."
    )
    model: str | None = Field(
        None, min_length=1, max_length=200, description="LONGTASK_MODEL if unset"
    )
    maxTokens: int | None = Field(  # noqa: N815 - wire
        1000,
        ge=MAX_TOKENS_RANGE[0],
        le=MAX_TOKENS_RANGE[1],
        description="null leaves it to the model service.",
    )
    temperature: float | None = Field(
        0.7,
        ge=TEMPERATURE_RANGE[0],
        le=TEMPERATURE_RANGE[1],
        description="null leaves it to the model service.",
    )
    params: dict[str, Any] | None = Field(
        None, description="Further model parameters, handed on untouched."
    )
    api: Literal["chat", "responses"] | None = None
    retries: int | None = Field(None, ge=RETRIES_RANGE[0], le=RETRIES_RANGE[1])
    timeoutS: float | None = Field(  # noqa: N815 - wire
        None,
        ge=TIMEOUT_RANGE_S[0],
        le=TIMEOUT_RANGE_S[1],
        description="Seconds from now until it ends as failed.",
    )
    system: str | None = Field(None, min_length=1, max_length=MAX_INPUT_BYTES)
    handler: str = Field("openai", min_length=1, max_length=100)
    metadata: dict[str, Any] | None = None
    endpoint: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Id of a model service, or a recording, that the local stack was given.",
    )


class SubmitRequest(StartRequest):
    """What to run, and whether what was asked before will do."""

    reuse: bool = Field(
        False,
        description="The task that was asked the same before, where there is one; "
        "needs an app with an API key.",
    )


class TaskReference(BaseModel):
    """Which task."""

    model_config = ConfigDict(strict=True, extra="ignore")

    taskId: str = Field(examples=["task_1q2w3e4r5t6z7u8i9o0p1a"])  # noqa: N815 - wire


class TaskErrorAnswer(BaseModel):
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
    told = document_errors(TaskErrorAnswer, {code: _REFUSALS[code] for code in status_codes})
    told["default"]["description"] = "Any other refusal: 429 by a limit, 503 while Redis is away."
    return told


def document_errors(
    model: type[BaseModel], texts: Mapping[int, str]
) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of errors that all look like `model`; with a default.

    The default alone brings the model, the others refer to it: FastAPI makes a validator for each
    mention, which was half of an app's start.
    """
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": schema}}
    told: dict[int | str, dict[str, Any]] = {
        code: {"description": text, "content": content} for code, text in texts.items()
    }
    return told | {"default": {"model": model, "description": "Any other refusal."}}


class TaskRoute(APIRoute):
    """A route that bounds its body and answers every error of ours as `{"error": …}`."""

    def find_limit(self, request: Request) -> int:
        """Return how many bytes the request's body may have."""
        return MAX_OPEN_BODY_BYTES  # a message of the queue has a few hundred

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def handle_errors(request: Request) -> Response:
            try:
                await read_body(request, most=self.find_limit(request))
                return await handle(request)
            except RequestValidationError as exc:
                return self.refuse(request, 400, _explain(exc))
            except HTTPException as exc:
                if exc.status_code == 204:
                    return Response(status_code=204)
                return self.refuse(request, exc.status_code, str(exc.detail), exc.headers)
            except ClientDisconnect:  # in the middle of its body: nobody reads this
                return self.refuse(request, 400, "The body is not whole.")
            except StreamExpiredError as exc:
                # The id tells a client of ours that the task is not there, rather than the app.
                return self.refuse(request, status_for(exc), str(exc), task_id=exc.task_id)
            except LongTaskError as exc:
                return self.refuse(request, status_for(exc), str(exc))

        return handle_errors

    def refuse(
        self,
        request: Request,
        status_code: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        *,
        task_id: str | None = None,
    ) -> Response:
        """Return the answer to a call that can't be served, in the shape of this API."""
        # What is no task's id may be anything, half a surrogate pair among it.
        named = {} if task_id is None else {"taskId": make_valid_text(task_id)}
        return JSONResponse({"error": message} | named, status_code, headers)


def make_keyed_route(api_key: str, base: type[TaskRoute] = TaskRoute) -> type[TaskRoute]:
    """Return the route of an API: large bodies are read only for whoever has the key."""

    class KeyedRoute(base):  # type: ignore[valid-type, misc]  # a class as a value
        def find_limit(self, request: Request) -> int:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            has_key = scheme.lower() == "bearer" and is_key(given, api_key)
            return _MAX_KEYED_BODY_BYTES if has_key else MAX_OPEN_BODY_BYTES

    return KeyedRoute


def is_key(given: str, expected: str) -> bool:
    """Tell whether a caller has the app's key, if it has one."""
    return bool(expected) and hmac.compare_digest(given.strip().encode(), expected.encode())


class LoopbackOnly:
    """Wraps an app that listens on loopback: what a web page of somebody else sends is refused.

    Other host names, too, against DNS rebinding: a page may make its own name point to 127.0.0.1,
    and its browser then takes this app for the page's own server.

    Args:
        app: The app.
        origins: Whose pages may call it all the same; `*` stands for all.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str] = ()) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = None
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if not is_loopback(f"//{headers.get('host', '')}"):
                refusal = error_response(421, "This app answers to 127.0.0.1 and localhost only.")
            elif is_of_foreign_page(headers, self._origins):
                refusal = error_response(403, _FOREIGN_PAGE)
        await (refusal or self._app)(scope, receive, send)


def is_of_foreign_page(headers: Mapping[str, str], origins: Collection[str]) -> bool:
    """Tell whether a browser says that a page of another site made it send a request.

    A form, an image or a link is sent without asking first, wherever it leads; the page can't read
    the answer, but what was asked for is done.
    """
    origin = headers.get("origin")
    if "*" in origins or origin in origins:
        return False
    is_foreign = origin is not None and not is_loopback(origin)
    return is_foreign or headers.get("sec-fetch-site") == "cross-site"


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
                    f"The body is larger than {most:,} bytes: shorten it, or send an image's URL. "
                    f"With the app's API key {_MAX_KEYED_BODY_BYTES:,} bytes are taken.",
                    status_code=413,
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
        elif error["type"] == "extra_forbidden":
            parts.append(f'"{where}" is no field of ours.')
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
