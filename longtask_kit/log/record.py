"""A task as Redis holds it, and what a change of it can answer; values only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from longtask_kit.log.events import TERMINAL_STATUSES, Status, Usage, from_ms, to_ms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime


_BRIEF_CHARS = 200  # of a prompt, where tasks are listed
ANSWER_CHARS = 120
"""Of an answer, where tasks are listed."""
_BRIEF = (
    *("model", "maxTokens", "temperature", "handler", "retries", "timeoutS", "api", "endpoint"),
    "sample",
)
_PART_CHARS = 1_000_000  # of an input: up to 4 MB of a request to Redis, which takes 10 MB hosted
CANCELLED = "cancelled on request"  # data of the last event


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task as its hash in Redis tells it; the text is in the log.

    Attributes:
        wire: What a list shows of what runs; all of it in a record of a version before.
        finish_reason: Why the model stopped, once completed, if it said so.
        answer: What the answer begins with, once completed.
        run_ms: How long it ran, once it has ended: its last attempt, and those before that said
            something, up to their last word.
        since: From when on `timeoutS` counts: its submit, or its last retry.
        continues: It waits, and its last attempt goes on; else the next one is another.
    """

    task_id: str
    status: Status
    attempt: int
    wire: dict[str, Any]
    message_id: str | None
    error: str | None
    code: str | None
    usage: Usage | None
    finish_reason: str | None
    created: datetime
    updated: datetime
    answer: str | None = None
    run_ms: int | None = None
    since: datetime | None = None
    continues: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self.status in TERMINAL_STATUSES

    @property
    def is_parked(self) -> bool:
        """Whether it waits, without a message, until somebody raises its group's budget."""
        return self.status == "pending" and self.code == "budget"

    def is_late(self, now: datetime) -> bool:
        """Tell whether it has had all the time that it may take."""
        limit_s = self.wire.get("timeoutS")
        if limit_s is None or self.is_over:
            return False
        return (now - (self.since or self.created)).total_seconds() >= float(limit_s)

    def to_wire(self) -> dict[str, Any]:
        """Return the answer of `GET /api/tasks/{id}`; the prompt is cut to 200 characters."""
        return {
            "taskId": self.task_id,
            "status": self.status,
            "error": self.error,
            "code": self.code,
            "attempt": self.attempt,
            **make_brief(self.wire),
            "usage": self.usage.to_wire() if self.usage else None,
            "finishReason": self.finish_reason,
            "messageId": self.message_id,
            "groupId": self.wire.get("groupId"),
            "runMs": self.run_ms,
            "createdAt": to_ms(self.created),
            "updatedAt": to_ms(self.updated),
        }

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Self:
        """Read what `to_wire` wrote, by this version or another."""
        return cls(
            task_id=wire["taskId"],
            status=wire["status"],
            attempt=wire["attempt"],
            wire={n: wire[n] for n in ("prompt", *_BRIEF, "groupId") if wire.get(n) is not None},
            message_id=wire["messageId"],
            error=wire["error"],
            code=wire["code"],
            usage=Usage.from_wire(wire["usage"]) if wire["usage"] else None,
            finish_reason=wire.get("finishReason"),
            created=from_ms(wire["createdAt"]),
            updated=from_ms(wire["updatedAt"]),
            run_ms=wire.get("runMs"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The task is on record.

    Attributes:
        is_new: It was not before.
        former_attempts: How many there were of deleted tasks of the same id.
    """

    is_new: bool
    former_attempts: int


@dataclass(frozen=True, slots=True)
class Begun:
    """The delivery holds the lease of an attempt.

    Attributes:
        wire: What to run, all of it.
        left_s: How long it may take; None is no limit.
        first_seq: Number of the first entry that it writes.
        brief: What a list shows of it, with its group.
        keeps: How it may go on behind the text that stands, as the attempt before said; where that
            is not empty, the log does not say yet whether it does (`continue`) or not (`start`).
        place: What a source of that kind needs to know to go on, and where it stood; or empty.
        since: When somebody last had it run, in ms; empty for when it was submitted.
    """

    attempt: int
    wire: dict[str, Any]
    left_s: float | None = None
    first_seq: int = 3
    brief: Mapping[str, Any] = field(default_factory=dict)
    keeps: str = ""
    place: Mapping[str, Any] = field(default_factory=dict)
    since: str = ""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another attempt holds the lease for `left_s` more seconds."""

    left_s: float


@dataclass(frozen=True, slots=True)
class Done:
    """The task ended before, as `status`."""

    status: Status


@dataclass(frozen=True, slots=True)
class CancelPending:
    """A cancel was asked for, and the attempt that should have heeded it is gone.

    Attributes:
        place: Where its source was, if that goes on by itself.
    """

    place: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Late:
    """The time that the task may take is over, and nothing runs it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """It would be given up, if the queue has not its message `message_id` any more."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Gone:
    """No such task: never recorded, expired, or deleted."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The task was ended by this call; `message_id` names what may still wait in the queue."""

    message_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """One attempt's part of a flush.

    Attributes:
        entries: `[id, field, value, …]` each, in order; none renews the lease only.
        fields: Hash fields to set along with them, `[field, value, …]`.
        release: Give the lease back: the attempt is over.
    """

    task_id: str
    attempt: int
    entries: Sequence[list[str]] = ()
    fields: Sequence[str] = ()
    release: bool = False


LISTED_FIELDS = (
    *("status", "attempt", "message_id", "error", "code", "usage", "created_ms", "updated_ms"),
    *("finish_reason", "brief", "answer", "run_ms", "since_ms", "continues"),
)


def make_brief(wire: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a list shows of what runs: the prompt's beginning, the model, the short rest."""
    prompt = find_prompt(wire).strip()[:_BRIEF_CHARS]
    return {"prompt": prompt} | {name: wire[name] for name in _BRIEF if name in wire}


def find_timeout_ms(wire: Mapping[str, Any]) -> int | str:
    """Return how long what runs may take, in ms; empty for no limit."""
    limit_s = wire.get("timeoutS")
    return "" if limit_s is None else round(limit_s * 1000)


def find_prompt(wire: Mapping[str, Any]) -> str:
    """Return what was asked last: the prompt, or the last user message's text, parts joined."""
    for message in reversed(wire.get("messages") or ()):
        if message.get("role") == "user":
            return read_text(message.get("content"))
    return str(wire.get("prompt") or "")


def read_text(content: object) -> str:
    """Return the text of a message's content, its text parts joined by line feeds."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else ()
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    return "\n".join(texts)


def cut_input(wire: Mapping[str, Any]) -> list[str]:
    """Return a task's input as JSON, in parts of which each fits into a request to Redis."""
    text = json.dumps(wire, ensure_ascii=False, separators=(",", ":"))
    return [text[at : at + _PART_CHARS] for at in range(0, len(text), _PART_CHARS)]


def read_listed(task_id: str, reply: list[str | None]) -> TaskRecord | None:
    """Read the answer of HMGET for `LISTED_FIELDS`; None when there is no such task."""
    record = {n: v for n, v in zip(LISTED_FIELDS, reply, strict=True) if v is not None}
    return read_record(task_id, record)


def read_record(task_id: str, reply: dict[str, str] | list[str]) -> TaskRecord | None:
    """Read the answer of HGETALL; None when there is no such task."""
    if not reply:
        return None
    record = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    wire = record.get("spec") or record.get("brief")
    if wire is None:
        return None  # written by somebody else, or half expired
    usage = record.get("usage")
    created_ms = int(record["created_ms"])
    return TaskRecord(
        task_id=task_id,
        status=record["status"],  # type: ignore[arg-type]  # only our scripts write it
        attempt=int(record["attempt"]),
        wire=json.loads(wire),
        message_id=record.get("message_id"),
        error=record.get("error") or None,
        code=record.get("code") or None,
        usage=Usage.from_wire(json.loads(usage)) if usage else None,
        finish_reason=record.get("finish_reason"),
        created=from_ms(created_ms),
        updated=from_ms(int(record.get("updated_ms", created_ms))),
        answer=record.get("answer"),
        run_ms=int(record["run_ms"]) if "run_ms" in record else None,
        since=from_ms(int(record.get("since_ms", created_ms))),
        continues=record.get("continues") == "1",
    )
