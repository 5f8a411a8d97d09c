"""OpenAI's chat completions, as a server: a body to what a task asks, its events to chunks.

https://platform.openai.com/docs/api-reference/chat-streaming has their shape. A reader before whose
eyes an attempt starts over is told an error, since nothing that was streamed can be taken back.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import SubmitError
from longtask_kit.server.front_ends.failures import find_failure
from longtask_kit.server.front_ends.openai_edge import type_of
from longtask_kit.server.front_ends.responses import RESTARTED, describe_error
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from longtask_kit.log.events import TaskEvent, Usage
    from longtask_kit.log.transcript import Transcript

DONE = b"data: [DONE]\n\n"
_FINISH = frozenset({"stop", "length", "tool_calls", "content_filter"})
_FIELDS = {"content": "content", "reasoning": "reasoning_content", "refusal": "refusal"}
_PARTS = ("text", "image_url", "refusal")
_OWN = frozenset(("messages", "model", "max_tokens", "temperature", "stream", "stream_options"))
_OURS = _OWN | {"metadata", "store"}
_NOT_SERVED = ("logprobs", "top_logprobs", "audio")


def make_task(body: Mapping[str, Any]) -> TaskSpec:
    """Return what a request asks; what a model is handed besides, untouched.

    Raises:
        SubmitError: It holds what isn't served here, or what can't be meant.
    """
    if not isinstance(body.get("messages"), list):
        raise SubmitError('"messages" must be a list of messages.', field="messages")
    for name in _NOT_SERVED:
        if body.get(name):  # the model would be paid for what nobody gets
            raise SubmitError(f'"{name}" is not served here: an answer is text.', field=name)
    _refuse_files(body["messages"])
    return TaskSpec(
        messages=body["messages"],
        model=body.get("model"),
        max_tokens=body.get("max_tokens"),
        temperature=body.get("temperature"),
        params={name: value for name, value in body.items() if name not in _OURS},
        metadata={"completions": {"metadata": body.get("metadata") or {}}},
    )


def _refuse_files(messages: list[Any]) -> None:
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        for j, part in enumerate(content if isinstance(content, list) else ()):
            type_ = part.get("type") if isinstance(part, dict) else None
            if type_ not in _PARTS:
                place = f"messages[{i}].content[{j}]"
                raise SubmitError(
                    f'"{place}" of type {str(type_)[:40]!r} is not served here: expected text, or '
                    "an image_url.",
                    field=place,
                )


class ChunkFold:
    """Folds the events of a task, in order, into the chunks of one completion.

    Args:
        completion_id: Its id.
        created: When it was asked for, unix seconds.
        model: Its model's name.
        has_usage: Whether the reader wants token counts.
    """

    def __init__(self, completion_id: str, *, created: int, model: str, has_usage: bool) -> None:
        named = {"id": completion_id, "object": "chat.completion.chunk", "created": created}
        self._envelope = {**named, "model": model}
        self._has_usage = has_usage
        self._has_spoken = False
        self.is_over = False

    def feed(self, event: TaskEvent) -> Iterator[bytes]:
        """Yield what an event says, as frames."""
        match event.type:
            case "start" if self._has_spoken:
                yield self._fail(RESTARTED, None)
            case "content" | "reasoning" | "refusal":
                yield self._say({_FIELDS[event.type]: event.data})
            case "tool_calls":
                calls = enumerate(json.loads(event.data))
                yield self._say({"tool_calls": [{"index": n, **call} for n, call in calls]})
            case "end":
                self.is_over = True
                yield self._say({}, finish_reason=find_finish(event.finish_reason))
                if self._has_usage:
                    usage = describe_usage(event.usage)
                    yield _encode(self._envelope | {"choices": [], "usage": usage})
                yield DONE
            case "error":
                yield self._fail(event.data, event.code)
            case "cancelled":
                yield self._fail("The task was cancelled.", "cancelled")

    def _fail(self, message: str, code: str | None) -> bytes:
        self.is_over = True
        type_ = type_of(find_failure(message, code).status_code)
        return _encode({"error": {"type": type_, **describe_error(message, code)}})

    def _say(self, delta: dict[str, Any], *, finish_reason: str | None = None) -> bytes:
        role = {} if self._has_spoken else {"role": "assistant", "content": ""}
        self._has_spoken = True
        choice = {"index": 0, "delta": role | delta, "finish_reason": finish_reason}
        return _encode(self._envelope | {"choices": [choice]})


def describe_completion(
    completion_id: str, *, created: int, model: str, said: Transcript
) -> dict[str, Any]:
    """Return a completion in one piece."""
    message = {
        "role": "assistant",
        "content": said.text if said.text or not said.tool_calls else None,
        "refusal": said.refusal or None,
    }
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.tool_calls:
        message["tool_calls"] = said.tool_calls  # type: ignore[assignment]
    finish = find_finish(said.finish_reason)
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": describe_usage(said.usage),
    }


def find_finish(reason: str | None) -> str:
    """Return a reason to stop as this API names it."""
    return reason if reason in _FINISH else "stop"


def describe_usage(usage: Usage | None) -> dict[str, Any] | None:
    """Return token counts under the names that they have in this API."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
    }


def _encode(wire: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(wire, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
