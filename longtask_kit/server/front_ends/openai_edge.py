"""What OpenAI's two APIs share over HTTP: error shape, headers, bodies, streams."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from longtask_kit.server.http_edge import DEFECT, TaskRoute, document_errors
from longtask_kit.server.sse import SSE_DOCUMENTED

logger = logging.getLogger(__name__)

# A comment without the empty line behind it: on that, the Python SDK reads an event of no data.
HEARTBEAT = b": ping\n"
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class OpenAiError(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiErrorAnswer(BaseModel):
    """What every refusal looks like."""

    error: OpenAiError


def document(*status_codes: int, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of a route's answers."""
    texts = {code: f"{type_of(code)}, as OpenAI answers." for code in status_codes}
    told = document_errors(OpenAiErrorAnswer, texts)
    whole = {"application/json": {"schema": {"type": "object"}}}
    told[200] = {"content": whole | (SSE_DOCUMENTED["content"] if streams else {})}
    return told


class OpenAiRoute(TaskRoute):
    """A route whose refusals have OpenAI's shape, so that the SDKs raise their own errors."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler, so that also what nobody foresaw is answered here."""
        handle = super().get_route_handler()

        async def answer_defects(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception:  # else the SDK would send the same again: another task, which is paid
                logger.exception("%s %s failed", request.method, request.url.path)
                return self.refuse(request, 500, DEFECT)

        return answer_defects

    def refuse(
        self,
        request: Request,
        status_code: int,
        message: str,
        headers: Any = None,  # noqa: ANN401 - a mapping, or None
        *,
        task_id: str | None = None,
    ) -> Response:
        """Return a refusal; once there is a task, one that the SDKs do not repeat."""
        own = dict(headers or {})
        if task := getattr(request.state, "longtask_task", None):
            own |= name_task(task)
        return answer_error(status_code, message, headers=own)


def answer_error(
    status_code: int,
    message: str,
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return a refusal in OpenAI's shape."""
    error = {"message": message, "type": type_of(status_code), "param": None, "code": code}
    return JSONResponse({"error": error}, status_code, headers)


def type_of(status_code: int) -> str:
    """Return OpenAI's name for a kind of refusal."""
    fallback = "server_error" if status_code >= 500 else "invalid_request_error"
    return _TYPES.get(status_code, fallback)


def name_task(task_id: str) -> dict[str, str]:
    """Return the headers of an answer about a task: its id, and not to run it again."""
    return {"x-request-id": task_id, "x-should-retry": "false"}


class _Open(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class TextBody(_Open):
    """How the answer is to look."""

    format: dict[str, Any] | None = Field(
        None, description="`json_schema` with name and schema, or `json_object`."
    )


class ReasoningBody(_Open):
    """How much the model may think."""

    effort: str | None = None


class ResponsesBody(_Open):
    """OpenAI's request for a response; further parameters are handed to the model."""

    model: str | None = Field(None, description="LONGTASK_MODEL if unset.")
    input: str | list[dict[str, Any]] = Field(examples=["Write a haiku about rivers"])
    instructions: str | None = Field(None, min_length=1)
    background: bool | None = Field(None, description="Answer at once, and run on.")
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    metadata: dict[str, str] | None = None
    text: TextBody | None = None
    reasoning: ReasoningBody | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None


class StreamOptions(_Open):
    """What a stream has besides."""

    include_usage: bool | None = None


class CompletionBody(_Open):
    """OpenAI's request for a chat completion; further parameters are handed to the model."""

    model: str | None = Field(None, description="LONGTASK_MODEL if unset.")
    messages: list[dict[str, Any]] = Field(
        examples=[[{"role": "user", "content": "Write a haiku about rivers"}]]
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    metadata: dict[str, str] | None = None
