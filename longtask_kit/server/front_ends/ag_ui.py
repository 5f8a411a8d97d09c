"""AG-UI: a task's events to the events of one run.

https://docs.ag-ui.com/concepts/events has their shape. A task is one assistant message, whose id is
the task's. The protocol has no place in a stream to go on from, and nothing that takes text back;
a snapshot of the messages does: a page drops what isn't in it, and the text comes again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longtask_kit.log.events import TERMINAL_STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from longtask_kit.log.events import TaskEvent, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was asked, as far as the answer repeats it.

    Attributes:
        thread_id: The page's name for the conversation.
        run_id: Its name for this run.
        task_id: The answer's id.
        model: Whose tokens are counted.
        messages: The conversation up to the answer, as the page sent it.
        is_stale: Whether the page may hold a part of an answer already.
        has_reasoning: Whether of the reasoning, too.
        knows_cancelled: Whether the page's version has an outcome of that name.
    """

    thread_id: str
    run_id: str
    task_id: str
    model: str
    messages: Sequence[Mapping[str, Any]]
    is_stale: bool = False
    has_reasoning: bool = False
    knows_cancelled: bool = False


class RunFold:
    """Folds the events of a task, in order, into the events of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ids = {"threadId": run.thread_id, "runId": run.run_id}
        self._message = {"messageId": run.task_id}
        self._thought = {"messageId": f"{run.task_id}-reasoning"}
        self._has_reasoned = run.has_reasoning
        self._has_spoken = False
        self._is_speaking = self._is_reasoning = False
        self.is_over = False

    def open(self) -> Iterator[bytes]:
        """Yield what comes before any event."""
        yield encode("RUN_STARTED", **self._ids)
        if self._run.is_stale:
            yield self._take_back()

    def feed(self, event: TaskEvent) -> Iterator[bytes]:
        """Yield what an event says."""
        match event.type:
            case "start" if self._has_spoken:
                yield from self._close()
                yield self._take_back()
                self._has_spoken = False
            case "status" if event.data not in TERMINAL_STATUSES:
                told = {"status": event.data} | ({"code": event.code} if event.code else {})
                yield encode("CUSTOM", name="status", value=told)
            case "content" | "refusal" if event.data:
                yield from self._speak(event.data)
            case "reasoning" if event.data:
                yield from self._reason(event.data)
            case "tool_calls":
                yield from self._call(json.loads(event.data))
            case "data":
                yield encode("CUSTOM", name=event.name or "data", value=json.loads(event.data))
            case "end" | "error" | "cancelled":
                self.is_over = True
                yield from self._close()
                yield from self._end(event)

    def _take_back(self) -> bytes:
        """Have the page drop what it holds of the answer.

        Reasoning that no snapshot names is kept: an empty one takes its place, and is filled anew.
        """
        messages = [*self._run.messages]
        if self._has_reasoned:
            empty = {"id": self._thought["messageId"], "role": "reasoning", "content": ""}
            messages.append(empty)
        return encode("MESSAGES_SNAPSHOT", messages=messages)

    def _speak(self, text: str) -> Iterator[bytes]:
        yield from self._stop_reasoning()
        self._has_spoken = True
        if not self._is_speaking:
            self._is_speaking = True
            yield encode("TEXT_MESSAGE_START", **self._message, role="assistant")
        yield encode("TEXT_MESSAGE_CONTENT", **self._message, delta=text)

    def _reason(self, text: str) -> Iterator[bytes]:
        self._has_spoken = self._has_reasoned = True
        if not self._is_reasoning:
            self._is_reasoning = True
            yield encode("REASONING_START", **self._thought)
            yield encode("REASONING_MESSAGE_START", **self._thought, role="reasoning")
        yield encode("REASONING_MESSAGE_CONTENT", **self._thought, delta=text)

    def _call(self, calls: Sequence[Mapping[str, Any]]) -> Iterator[bytes]:
        yield from self._stop_reasoning()
        self._has_spoken = True
        for number, call in enumerate(calls):
            said = call.get("function") or {}
            id_ = {"toolCallId": call.get("id") or f"{self._run.task_id}-{number}"}
            held = {"parentMessageId": self._run.task_id}
            yield encode("TOOL_CALL_START", **id_, toolCallName=said.get("name") or "", **held)
            if arguments := said.get("arguments"):
                yield encode("TOOL_CALL_ARGS", **id_, delta=arguments)
            yield encode("TOOL_CALL_END", **id_)

    def _stop_reasoning(self) -> Iterator[bytes]:
        if self._is_reasoning:
            self._is_reasoning = False
            yield encode("REASONING_MESSAGE_END", **self._thought)
            yield encode("REASONING_END", **self._thought)

    def _close(self) -> Iterator[bytes]:
        yield from self._stop_reasoning()
        if self._is_speaking:  # a run must not finish with an open message, nor be taken back
            self._is_speaking = False
            yield encode("TEXT_MESSAGE_END", **self._message)

    def _end(self, event: TaskEvent) -> Iterator[bytes]:
        if event.type == "error":
            code = {"code": event.code} if event.code else {}
            yield encode("RUN_ERROR", message=event.data or "The task failed.", **code)
            return
        more: dict[str, Any] = {}
        if event.type == "cancelled":
            yield encode("CUSTOM", name="cancelled", value={})
            more = {"outcome": {"type": "cancelled"}} if self._run.knows_cancelled else {}
        elif event.usage is not None:
            more = {"usage": [describe_usage(event.usage, self._run.model)]}
        yield encode("RUN_FINISHED", **self._ids, **more)


def describe_usage(usage: Usage, model: str) -> dict[str, Any]:
    """Return token counts under the names that they have in this protocol, which has no null."""
    counts: dict[str, Any] = {
        "model": model,
        "inputTokens": usage.prompt_tokens,
        "outputTokens": usage.completion_tokens,
        "totalTokens": usage.total_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "cachedInputTokens": usage.cached_tokens,
    }
    return {name: count for name, count in counts.items() if count is not None}


def encode(type_: str, **body: Any) -> bytes:  # noqa: ANN401 - JSON
    """Return an event as a frame: its `data:` alone, which is all that a client reads."""
    text = json.dumps({"type": type_, **body}, ensure_ascii=False, separators=(",", ":"))
    # Half a surrogate pair, in what a page sent and gets back, stays the escape that it was.
    return f"data: {text}\n\n".encode(errors="backslashreplace")
