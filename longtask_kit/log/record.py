"""A task as Redis holds it, and what a change of it can answer; values only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from longtask_kit.log.events import TERMINAL_STATUSES, Status, Usage, from_ms, to_ms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime


_BRIEF_CHARS = 200  # of a prompt, where tasks are listed
_BRIEF = ("prompt", "model", "maxTokens", "temperature", "handler")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task as its hash in Redis tells it; the text is in the log.

    Attributes:
        wire: What runs, as `TaskSpec.to_wire` wrote it; brief where tasks are listed and over HTTP.
    """

    task_id: str
    status: Status
    attempt: int
    wire: dict[str, Any]
    message_id: str | None
    error: str | None
    code: str | None
    usage: Usage | None
    created: datetime
    updated: datetime

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self.status in TERMINAL_STATUSES

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
            "messageId": self.message_id,
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
            wire={name: wire[name] for name in _BRIEF if wire.get(name) is not None},
            message_id=wire["messageId"],
            error=wire["error"],
            code=wire["code"],
            usage=Usage.from_wire(wire["usage"]) if wire["usage"] else None,
            created=from_ms(wire["createdAt"]),
            updated=from_ms(wire["updatedAt"]),
        )


@dataclass(frozen=True, slots=True)
class Begun:
    """The delivery holds the lease of attempt `attempt`; `wire` is what to run, as recorded."""

    attempt: int
    wire: dict[str, Any]


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
    """A cancel was asked for, and the attempt that should have heeded it is gone."""


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
    "brief",
)


def make_brief(wire: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a list shows of what runs: the prompt's beginning, the model, the short rest."""
    prompt = str(wire.get("prompt", "")).strip()[:_BRIEF_CHARS]
    return {name: wire.get(name) for name in _BRIEF} | {"prompt": prompt}


def read_listed(task_id: str, reply: list[str | None]) -> TaskRecord | None:
    """Read the answer of HMGET for `LISTED_FIELDS`; None when there is no such task."""
    record = {n: v for n, v in zip(LISTED_FIELDS, reply, strict=True) if v is not None}
    if "brief" in record:
        record["spec"] = record.pop("brief")
    return read_record(task_id, record)


def read_record(task_id: str, reply: dict[str, str] | list[str]) -> TaskRecord | None:
    """Read the answer of HGETALL; None when there is no such task."""
    if not reply:
        return None
    record = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    if "spec" not in record:
        return None  # written by somebody else, or half expired
    usage = record.get("usage")
    created_ms = int(record["created_ms"])
    return TaskRecord(
        task_id=task_id,
        status=record["status"],  # type: ignore[arg-type]  # only our scripts write it
        attempt=int(record["attempt"]),
        wire=json.loads(record["spec"]),
        message_id=record.get("message_id"),
        error=record.get("error"),
        code=record.get("code"),
        usage=Usage.from_wire(json.loads(usage)) if usage else None,
        created=from_ms(created_ms),
        updated=from_ms(int(record.get("updated_ms", created_ms))),
    )
