"""The AI SDK's UI message stream: a task's events to the chunks that `useChat` reads.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol has their shape. A task is one message, whose id
is the task's. What an attempt said that starts over is taken back by `reset-step`, which `ai` has
since 7.0.70; an older one gets a `data-restart` part, and the page shows what stands behind the
last of them. Older ones refuse fields that they don't know: only those that all have are sent.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from longtask_kit.log.events import TERMINAL_STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from longtask_kit.log.events import TaskEvent, Usage

RESTART: Final = "data-restart"
"""The part behind which an answer stands that has started over."""

_RESETS_SINCE = (7, 0, 70)
_STATUS: Final = "data-status"
_FINISH = {"content_filter": "content-filter", "tool_calls": "tool-calls"}
_FINISH |= {reason: reason for reason in ("stop", "length")}
_PARTS = {"content": "text", "refusal": "text", "reasoning": "reasoning"}
_NOT_RUN = "Not run: this is what the model asked for."


def can_reset(version: str) -> bool:
    """Tell whether a version of `ai` takes back what a step has said; of an unknown one, no.

    Raises:
        ValueError: It is no version.
    """
    if version and not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6}){0,2}", version):
        raise ValueError(f"expected a version of npm's `ai` like 7.0.70, got {version[:40]!r}")
    return bool(version) and tuple(map(int, version.split("."))) >= _RESETS_SINCE


def finish_only() -> bytes:
    """Return a stream that leaves a chat as it is."""
    return _encode({"type": "finish"}) + _DONE


class ChatFold:
    """Folds the events of a task, in order, into the chunks of one message.

    Args:
        task_id: The message's id.
        resets: Whether the page's `ai` knows `reset-step`.
        stream: What no other stream of the task is named. An older `ai` keeps the parts of a stream
            before, and a part of the same name would take the place of one of them.
    """

    def __init__(self, task_id: str, *, resets: bool, stream: str = "") -> None:
        self._task_id = task_id
        self._resets = resets
        self._stream = "" if resets else f"-{stream}"
        self._attempt = 0
        self._count = 0  # of text parts
        self._part: tuple[str, str] | None = None  # that is open: kind and id
        self._has_spoken = False
        self.is_over = False

    def open(self, *, attempt: int, is_new: bool) -> Iterator[bytes]:
        """Yield what comes before any event.

        Args:
            attempt: Whose text follows.
            is_new: Whether the page has nothing of this message yet.
        """
        self._attempt = attempt
        told = {
            "taskId": self._task_id,
            "status": "running",
        }  # until the end: what is cut isn't whole
        yield _encode({"type": "start", "messageId": self._task_id, "messageMetadata": told})
        if not is_new and self._resets:  # before the step: behind it the old text would stay
            yield _encode({"type": "reset-step"})
        yield _encode({"type": "start-step"})
        if not is_new and not self._resets:
            yield self._mark_restart()

    def feed(self, event: TaskEvent) -> Iterator[bytes]:
        """Yield what an event says."""
        self._attempt = event.cursor.attempt
        match event.type:
            case "start" if self._has_spoken:
                yield from self._restart()
            case "status" if event.data not in TERMINAL_STATUSES:
                told = {"status": event.data} | ({"code": event.code} if event.code else {})
                yield _encode({"type": _STATUS, "id": "status", "data": told, "transient": True})
            case "content" | "reasoning" | "refusal":
                yield from self._say(_PARTS[event.type], event.data)
            case "data":
                self._has_spoken = True
                yield self._show(event.name or "", json.loads(event.data))
            case "tool_calls":
                yield from self._call(json.loads(event.data))
            case "end" | "error" | "cancelled":
                yield from self._end(event)

    def _restart(self) -> Iterator[bytes]:
        if self._resets:
            self._part = None  # forgotten there, too
            yield _encode({"type": "reset-step"})
        else:
            yield from self._close()
            yield self._mark_restart()
        self._has_spoken = False

    def _mark_restart(self) -> bytes:
        return _encode({"type": RESTART, "data": {"attempt": self._attempt}})

    def _say(self, kind: str, text: str) -> Iterator[bytes]:
        self._has_spoken = True
        if self._part is None or self._part[0] != kind:
            yield from self._close()
            self._count += 1
            self._part = (kind, f"{kind}-{self._count}{self._stream}")
            yield _encode({"type": f"{kind}-start", "id": self._part[1]})
        yield _encode({"type": f"{kind}-delta", "id": self._part[1], "delta": text})

    def _close(self) -> Iterator[bytes]:
        if self._part is not None:
            kind, part_id = self._part
            self._part = None
            yield _encode({"type": f"{kind}-end", "id": part_id})

    def _show(self, name: str, value: object) -> bytes:
        """Return a value that a handler tells; the next of its name takes its place."""
        type_ = f"data-{name}"
        if type_ in (RESTART, _STATUS):
            type_ += "-"  # these are ours
        return _encode({"type": type_, "id": self._name(name), "data": value})

    def _call(self, calls: list[dict[str, Any]]) -> Iterator[bytes]:
        """Show calls as done by the provider: else the page would run them, or wait for it."""
        self._has_spoken = True
        yield from self._close()
        for number, call in enumerate(calls):
            said = call.get("function") or call.get("custom") or {}
            call_id = self._name(str(call.get("id") or f"call-{number}"))
            own = {"toolCallId": call_id, "dynamic": True, "providerExecuted": True}
            asked = {"toolName": str(said.get("name") or "tool"), "input": _read_input(said)}
            yield _encode({"type": "tool-input-available", **own, **asked})
            yield _encode({"type": "tool-output-available", **own, "output": _NOT_RUN})

    def _name(self, own: str) -> str:
        return own if self._resets else f"{own}{self._stream}-{self._attempt}"

    def _end(self, event: TaskEvent) -> Iterator[bytes]:
        self.is_over = True
        yield from self._close()
        yield _encode({"type": "finish-step"})
        told: dict[str, Any] = {"taskId": self._task_id}
        if event.type == "end":
            reason = _FINISH.get(event.finish_reason or "stop", "other")
            told |= {"status": "completed", **describe_usage(event.usage)}
        elif event.type == "cancelled":
            reason, told["status"] = "other", "cancelled"
            yield _encode({"type": "abort"})
        else:
            reason, told["status"] = "error", "failed"
            yield _encode({"type": "error", "errorText": event.data})
        # Also behind an error: without it WorkflowChatTransport asks again, and again at once.
        yield _encode({"type": "finish", "finishReason": reason, "messageMetadata": told})
        yield _DONE


def describe_usage(usage: Usage | None) -> dict[str, Any]:
    """Return token counts under the names that they have in the AI SDK."""
    if usage is None:
        return {}
    counts = {
        "inputTokens": usage.prompt_tokens,
        "outputTokens": usage.completion_tokens,
        "totalTokens": usage.total_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "cachedInputTokens": usage.cached_tokens,
    }
    return {"usage": {name: count for name, count in counts.items() if count is not None}}


def _read_input(said: Mapping[str, Any]) -> object:
    """Return a call's input as JSON, or as the text that the model wrote."""
    text = said.get("arguments", said.get("input"))
    try:
        return json.loads(text or "{}", parse_constant=_refuse_constant)
    except (TypeError, ValueError):
        return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _encode(wire: Mapping[str, Any]) -> bytes:
    """Return a frame; assistant-ui looks for `"type":"finish"`, so no spaces."""
    return f"data: {json.dumps(wire, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


_DONE = b"data: [DONE]\n\n"
