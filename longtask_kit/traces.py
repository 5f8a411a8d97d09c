"""Spans for OpenTelemetry, where the host has loaded it: submit -> queue -> attempt -> model.

They are one trace across processes, by the `traceparent` (w3.org/TR/trace-context) that the queue
forwards. Names of attributes are those of the semantic conventions for messaging and for generative
AI (opentelemetry.io/docs/specs/semconv/gen-ai), which are "development" and may change: they stand
here and nowhere else. What was asked is in a span only when
`OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true` asks for it.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

_QUEUED_NS = "Longtask-Queued-Ns"
_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def _find_api() -> Any:  # noqa: ANN401 - a module that is the host's, if it has one
    """Return `opentelemetry.trace` where a host that wants traces has loaded it, else None."""
    return sys.modules.get("opentelemetry.trace")


@contextlib.contextmanager
def trace_submit(*task_ids: str) -> Iterator[None]:
    """Trace the publish of messages: a span for each call, of however many tasks."""
    if not task_ids or (api := _find_api()) is None:
        yield
        return
    attributes: dict[str, str | int] = {**_describe_message("send", task_ids[0], "")}
    if len(task_ids) > 1:
        del attributes["longtask.task_id"]
        attributes["messaging.batch.message_count"] = len(task_ids)
    tracer = api.get_tracer("longtask_kit")
    with tracer.start_as_current_span("submit", kind=api.SpanKind.PRODUCER, attributes=attributes):
        yield


def carry() -> dict[str, str]:
    """Return the headers by which a message's deliveries find their trace; none outside of one."""
    headers: dict[str, str] = {}
    if _find_api() is not None:
        from opentelemetry import propagate

        propagate.inject(headers)
    return headers | {_QUEUED_NS: str(time.time_ns())} if headers else {}


@contextlib.contextmanager
def trace_attempt(task_id: str, message_id: str, headers: Mapping[str, str]) -> Iterator[None]:
    """Trace a delivery, and the time that its message lay in the queue.

    Args:
        task_id: The task.
        message_id: The queue's.
        headers: Of the delivery, names in lower case; `carry` made some of them.
    """
    if (api := _find_api()) is None:
        yield
        return
    from opentelemetry import propagate

    context = propagate.extract(headers)
    tracer = api.get_tracer("longtask_kit")
    queued_ns = headers.get(_QUEUED_NS.lower(), "")
    if queued_ns.isdecimal() and len(queued_ns) < 20:  # it has come over the network
        queue = tracer.start_span("queue", context, start_time=int(queued_ns))
        queue.end()
        context = api.set_span_in_context(queue, context)
    with tracer.start_as_current_span(
        "attempt",
        context,
        kind=api.SpanKind.CONSUMER,
        attributes=_describe_message("process", task_id, message_id),
    ):
        yield


def note_attempt(number: int, *, status: str, code: str) -> None:
    """Note in the delivery's span which attempt it was, and how that ended."""
    if (api := _find_api()) is None:
        return
    span = api.get_current_span()
    span.set_attribute("longtask.attempt", number)
    span.set_attribute("longtask.status", status)
    if status in ("failed", "retrying"):
        span.set_attribute("error.type", code)
        span.set_status(api.StatusCode.ERROR)


class CallSpan:
    """A call of a model.

    It is not made the current span: an async generator may be closed in another context.
    """

    def __init__(self, describe: Callable[[], Mapping[str, Any]], *, model: str, url: str) -> None:
        """Begin it.

        Args:
            describe: Returns what is asked, as a task's wire form; not called where nobody traces.
            model: As the service knows it.
            url: The service's.
        """
        self._span: Any = None
        if (api := _find_api()) is None:
            return
        tracer = api.get_tracer("longtask_kit")
        span = tracer.start_span(f"chat {model}", kind=api.SpanKind.CLIENT)
        if not span.is_recording():
            return
        self._span, asked = span, describe()
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": asked.get("maxTokens"),
            "gen_ai.request.temperature": asked.get("temperature"),
            "server.address": urlsplit(url).hostname,
        }
        if os.environ.get(_CAPTURE, "").lower() == "true":
            attributes["gen_ai.input.messages"] = json.dumps(
                describe_messages(asked), ensure_ascii=False
            )
        self._note(attributes)

    def __enter__(self) -> Self:
        return self

    def note(
        self, *, finish_reason: str | None, input_tokens: int | None, output_tokens: int | None
    ) -> None:
        """Note what the model told of its answer."""
        self._note(
            {
                "gen_ai.response.finish_reasons": [finish_reason] if finish_reason else None,
                "gen_ai.usage.input_tokens": input_tokens,
                "gen_ai.usage.output_tokens": output_tokens,
            }
        )

    def _note(self, attributes: Mapping[str, Any]) -> None:
        if self._span is not None:
            known = {name: value for name, value in attributes.items() if value is not None}
            self._span.set_attributes(known)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: object
    ) -> None:
        if self._span is None:
            return
        if isinstance(exc, Exception):  # its words stay out: services quote keys and prompts
            self._span.set_attribute("error.type", getattr(exc, "code", None) or type(exc).__name__)
            self._span.set_status(_find_api().StatusCode.ERROR)
        self._span.end()


def describe_messages(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a task asks, as `gen_ai.input.messages` has it: a role, and parts.

    What the conventions have no part for stands as it was sent: a part may be of any type.
    """
    system = [{"role": "system", "content": asked["system"]}] if asked.get("system") else []
    messages = asked.get("messages") or [{"role": "user", "content": asked.get("prompt")}]
    return [{"role": m["role"], "parts": _list_parts(m)} for m in [*system, *messages]]


def _list_parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if message["role"] == "tool":
        call_id = message.get("tool_call_id")
        return [{"type": "tool_call_response", "id": call_id, "response": content}]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    told = [{"type": "text", "content": p["text"]} if p["type"] == "text" else p for p in parts]
    calls = [
        (call.get("id"), call.get("function") or {}) for call in message.get("tool_calls") or ()
    ]
    return told + [
        {"type": "tool_call", "id": i, "name": f.get("name"), "arguments": f.get("arguments")}
        for i, f in calls
    ]


def _describe_message(operation: str, task_id: str, message_id: str) -> dict[str, str]:
    attributes = {
        "messaging.system": "qstash",
        "messaging.operation.type": operation,
        "longtask.task_id": task_id,
    }
    return attributes | ({"messaging.message.id": message_id} if message_id else {})
