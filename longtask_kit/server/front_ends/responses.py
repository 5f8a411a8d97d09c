"""OpenAI's Responses API, the answer's side: a task's events to the events of one response.

https://platform.openai.com/docs/api-reference/responses-streaming has their shape. The protocol
can't take back what was said, so a reader before whose eyes an attempt starts over is told
`response.failed`; whoever comes later gets the latest attempt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from longtask_kit.server.front_ends.failures import find_failure

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from longtask_kit.log.events import TaskEvent, Usage

RESTARTED = (
    "The attempt failed and the task starts over: what was streamed no longer counts. Retrieve "
    "this response for its latest text, or stream it again from the beginning."
)
_ATTEMPT_BITS = 32
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_NO_COUNT = {"cached_tokens": 0, "cache_write_tokens": 0}


class Frame(NamedTuple):
    """One event of a response; numbers grow from one to the next, over attempts, too."""

    number: int
    type: str
    body: Mapping[str, Any]

    def encode(self) -> bytes:
        """Return it as a frame without an id, over which the Python SDK trips."""
        wire = {"type": self.type, "sequence_number": self.number, **self.body}
        text = json.dumps(wire, ensure_ascii=False, separators=(",", ":"))
        return f"event: {self.type}\ndata: {text}\n\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What every object of one response repeats of what was asked."""

    response_id: str
    created_at: int
    model: str
    asked: Mapping[str, Any]

    def describe(self, status: str, **values: object) -> dict[str, Any]:
        """Return a response object in a state."""
        nothing = ("error", "incomplete_details", "instructions", "previous_response_id", "usage")
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": True,  # each outlives its request
            "model": self.model,
            **dict.fromkeys(nothing),
            "metadata": {},
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "text": {"format": {"type": "text"}},
            **self.asked,
            **values,
        }


@dataclass(slots=True)
class _Item:
    """An output item that is being said."""

    type: Literal["message", "reasoning"]
    item_id: str
    index: int
    parts: list[tuple[str, list[str]]] = field(default_factory=list)  # kind, pieces
    is_done: bool = False

    def to_wire(self, status: str) -> dict[str, Any]:
        content = [_make_part(kind, "".join(pieces)) for kind, pieces in self.parts]
        own: dict[str, Any] = {"role": "assistant"} if self.type == "message" else {"summary": []}
        wire = {"id": self.item_id, "type": self.type, "status": status, **own}
        return wire | {"content": content}


_OF_EVENT: dict[str, tuple[Literal["message", "reasoning"], str]] = {
    "content": ("message", "output_text"),
    "refusal": ("message", "refusal"),
    "reasoning": ("reasoning", "reasoning_text"),
}


def _make_part(kind: str, text: str) -> dict[str, Any]:
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, ("refusal" if kind == "refusal" else "text"): text}


class ResponseFold:
    """Folds the events of a task, in order, into the events of a response.

    Args:
        facts: What was asked.
        is_streamed: Whether somebody has read what came before, so that it can't start over.
    """

    def __init__(self, facts: Facts, *, is_streamed: bool = True) -> None:
        self._facts = facts
        self._is_streamed = is_streamed
        self._attempt, self._count = 0, 0
        self._status = "queued"
        self._restart()
        self.is_over = False

    def _restart(self) -> None:
        self._items: list[_Item | dict[str, Any]] = []
        self._ending: dict[str, Any] = {}

    def open(self) -> Iterator[Frame]:
        """Yield what comes before any event."""
        for type_ in ("response.created", "response.queued"):
            yield self._make(type_, response=self._facts.describe("queued"))

    def feed(self, event: TaskEvent) -> Iterator[Frame]:
        """Yield what an event says to the reader of a response."""
        if event.type == "start" and self._items:
            if self._is_streamed:
                yield self._tell_restart(event.cursor.attempt)
                return
            self._restart()
        if event.cursor.attempt > self._attempt:
            self._attempt, self._count = event.cursor.attempt, 0
        match event.type:
            case "status" if event.data == "pending":  # waits, at first or again
                self._status = "queued"
            case "status":
                yield from self._begin()
            case "start" | "content" | "reasoning" | "refusal" | "tool_calls":
                yield from self._begin()
                if event.type == "tool_calls":
                    yield from self._call(json.loads(event.data))
                elif event.type != "start":
                    yield from self._say(*_OF_EVENT[event.type], event.data)
            case "end" | "error" | "cancelled":
                yield from self._end(event)

    def is_dead(self, after: int, numbers: Container[int]) -> bool:
        """Tell whether a place is in an attempt that was started over since.

        Args:
            after: The number that a reader saw last.
            numbers: Of all that was fed so far.
        """
        return after >> _ATTEMPT_BITS < self._attempt and after not in numbers

    def describe(self) -> dict[str, Any]:
        """Return the response as it is now."""
        output = [self._show(item) for item in self._items]
        return self._facts.describe(self._status, output=output, **self._ending)

    def _show(self, item: _Item | dict[str, Any]) -> dict[str, Any]:
        if isinstance(item, dict):
            return item
        cut = "in_progress" if self._status == "in_progress" else "incomplete"
        return item.to_wire("completed" if item.is_done else cut)

    def _begin(self) -> Iterator[Frame]:
        if self._status == "queued":
            self._status = "in_progress"
            yield self._make("response.in_progress", response=self._facts.describe("in_progress"))

    def _say(self, type_: Literal["message", "reasoning"], kind: str, text: str) -> Iterator[Frame]:
        item = self._items[-1] if self._items else None
        if not isinstance(item, _Item) or item.is_done or item.type != type_:
            yield from self._finish_item()
            item = _Item(type_, self._name_item("msg" if type_ == "message" else "rs"), self._next)
            self._items.append(item)
            yield self._tell_item("added", item.to_wire("in_progress"), item.index)
        if not item.parts or item.parts[-1][0] != kind:
            yield from self._finish_part(item)
            item.parts.append((kind, []))
            part = _make_part(kind, "")
            yield self._make("response.content_part.added", **self._place(item), part=part)
        item.parts[-1][1].append(text)
        more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        yield self._make(f"response.{kind}.delta", **self._place(item), delta=text, **more)

    def _finish_part(self, item: _Item) -> Iterator[Frame]:
        if not item.parts:
            return
        kind, pieces = item.parts[-1]
        text, place = "".join(pieces), self._place(item)
        said: dict[str, Any] = {"refusal" if kind == "refusal" else "text": text}
        more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        yield self._make(f"response.{kind}.done", **place, **said, **more)
        yield self._make("response.content_part.done", **place, part=_make_part(kind, text))

    def _finish_item(self) -> Iterator[Frame]:
        item = self._items[-1] if self._items else None
        if isinstance(item, _Item) and not item.is_done:
            yield from self._finish_part(item)
            item.is_done = True
            yield self._tell_item("done", item.to_wire("completed"), item.index)

    def _call(self, calls: list[dict[str, Any]]) -> Iterator[Frame]:
        yield from self._finish_item()
        for call in calls:
            index = self._next
            said = call.get("function") or {}
            item = {
                "id": self._name_item("fc"),
                "type": "function_call",
                "call_id": call.get("id") or f"call_{index}",
                "name": said.get("name") or "",
                "arguments": said.get("arguments") or "",
                "status": "completed",
            }
            self._items.append(item)
            started = item | {"arguments": "", "status": "in_progress"}
            yield self._tell_item("added", started, index)
            place = {"item_id": item["id"], "output_index": index}
            of = "response.function_call_arguments"
            yield self._make(f"{of}.delta", **place, delta=item["arguments"])
            yield self._make(f"{of}.done", **place, name=item["name"], arguments=item["arguments"])
            yield self._tell_item("done", item, index)

    def _end(self, event: TaskEvent) -> Iterator[Frame]:
        self.is_over = True
        if event.type == "end":
            yield from self._begin()
            yield from self._finish_item()
            reason = _INCOMPLETE.get(event.finish_reason or "")
            self._status = "incomplete" if reason else "completed"
            self._ending = {"usage": describe_usage(event.usage)}
            if reason:
                self._ending["incomplete_details"] = {"reason": reason}
        elif event.type == "error":
            self._status = "failed"
            self._ending = {"error": describe_error(event.data, event.code)}
        else:
            self._status = "cancelled"
        # There is no event of a cancelled response, and node's helper refuses one it doesn't know.
        type_ = "failed" if self._status == "cancelled" else self._status
        yield self._make(f"response.{type_}", response=self.describe())

    def _tell_restart(self, attempt: int) -> Frame:
        self.is_over = True
        return tell_restart(self._facts, after=(attempt << _ATTEMPT_BITS) - 2)

    @property
    def _next(self) -> int:
        return len(self._items)

    def _name_item(self, prefix: str) -> str:
        return f"{prefix}_{self._facts.response_id.removeprefix('resp_')}_{self._next}"

    def _place(self, item: _Item) -> dict[str, Any]:
        at = {"item_id": item.item_id, "output_index": item.index}
        return at | {"content_index": max(len(item.parts) - 1, 0)}

    def _tell_item(self, what: str, wire: Mapping[str, Any], index: int) -> Frame:
        return self._make(f"response.output_item.{what}", output_index=index, item=wire)

    def _make(self, type_: str, **body: Any) -> Frame:  # noqa: ANN401 - JSON
        number = (self._attempt << _ATTEMPT_BITS) + self._count
        self._count += 1
        return Frame(number, type_, body)


def tell_restart(facts: Facts, *, after: int) -> Frame:
    """Return what ends a stream whose reader holds the text of an attempt that started over."""
    error = {"code": "server_error", "message": RESTARTED}
    return Frame(after + 1, "response.failed", {"response": facts.describe("failed", error=error)})


def describe_usage(usage: Usage | None) -> dict[str, Any] | None:
    """Return token counts under the names that they have in this API."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": _NO_COUNT | {"cached_tokens": usage.cached_tokens or 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.total_tokens,
    }


def describe_error(message: str, code: str | None) -> dict[str, Any]:
    """Return an error under the code by which a caller knows what to do about it."""
    return {"code": find_failure(message, code).code, "message": message}
