"""An ended task as an archive holds it, and the record and log that it becomes again; values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longtask_kit.log.events import TaskEvent, Usage, encode_entry, to_json, to_ms
from longtask_kit.log.record import ANSWER_CHARS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from longtask_kit.log.events import EventType, Status

_ENDS: dict[str, EventType] = {"completed": "end", "failed": "error", "cancelled": "cancelled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """A task and what came of it.

    Attributes:
        wire: All of what it asks, as `TaskSpec.to_wire` wrote it.
        model: As it was resolved where it ran.
        endpoint: URL of the model service, without a key.
        sample: Which of several answers to one question.
        events: Its log, where that was kept, too.
    """

    task_id: str
    status: Status
    wire: dict[str, Any]
    attempt: int
    created: datetime
    updated: datetime
    model: str = ""
    endpoint: str = ""
    sample: int = 0
    answer: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    tokens: int = 1
    usage: Usage | None = None
    finish_reason: str | None = None
    error: str | None = None
    code: str | None = None
    events: Sequence[TaskEvent] = ()

    def list_fields(self) -> list[str]:
        """Return the record, `[field, value, …]`."""
        fields: dict[str, str | None] = {
            "status": self.status,
            "attempt": str(self.attempt),
            "created_ms": str(to_ms(self.created)),
            "updated_ms": str(to_ms(self.updated)),
            "usage": None if self.usage is None else json.dumps(self.usage.to_wire()),
            "finish_reason": self.finish_reason,
            "error": self.error,
            "code": self.code,
            "answer": self.answer[:ANSWER_CHARS] if self.status == "completed" else None,
        }
        told = {name: value for name, value in fields.items() if value is not None}
        return [part for pair in told.items() for part in pair]

    def list_entries(self) -> list[list[str]]:
        """Return the log, `[id, field, value, …]` each: as it was, or one that says the same."""
        if self.events:
            return [_encode_event(event) for event in self.events]
        begun = [encode_entry("status", "running"), encode_entry("start", str(self.attempt))]
        ended = [*self._encode_said(), encode_entry("status", self.status), self._encode_end()]
        entries = [_stamp("0-1", encode_entry("status", "pending"), self.created)]
        for seq, entry in enumerate([*begun, *ended], start=1):
            time = self.created if seq <= len(begun) else self.updated
            entries.append(_stamp(f"{self.attempt}-{seq}", entry, time))
        return entries

    def _encode_said(self) -> list[list[str]]:
        # One entry of reasoning counts as one, if there is an answer: all together are as many.
        thought = 1 if self.answer else max(self.tokens, 1)
        rest = max(self.tokens - (1 if self.reasoning else 0), 1)
        said = []
        if self.reasoning:
            said.append(encode_entry("reasoning", self.reasoning, tokens=thought))
        if self.answer:
            said.append(encode_entry("content", self.answer, tokens=rest))
        if self.refusal:
            said.append(encode_entry("refusal", self.refusal))
        said += [encode_entry("data", to_json(v), name=name) for name, v in self.data.items()]
        if self.tool_calls:
            said.append(encode_entry("tool_calls", to_json(self.tool_calls)))
        return said

    def _encode_end(self) -> list[str]:
        return encode_entry(
            _ENDS[self.status],
            "" if self.status == "completed" else self.error or "",
            usage=self.usage,
            finish_reason=self.finish_reason,
            code=self.code,
        )


def _encode_event(event: TaskEvent) -> list[str]:
    fields = encode_entry(
        event.type,
        event.data,
        tokens=event.tokens,
        usage=event.usage,
        finish_reason=event.finish_reason,
        code=event.code,
        error=event.error,
        name=event.name,
        prompts=event.prompts,
        arrived=event.arrived,
    )
    return _stamp(str(event.cursor), fields, event.time)


def _stamp(entry_id: str, fields: list[str], time: datetime) -> list[str]:
    return [entry_id, *fields, "t", str(to_ms(time))]
