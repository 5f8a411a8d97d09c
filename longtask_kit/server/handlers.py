"""The contract of a handler: a `TaskContext` in; text, and at the end an `Outcome`, out.

A handler is an async generator. It raises `RetryableError` when a later attempt may succeed,
`NonRetryableError` when none can.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longtask_kit.log.events import Usage
    from longtask_kit.submit.spec import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """What a handler gets: the task, which attempt this is, and what to run."""

    task_id: str
    attempt: int
    spec: TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a handler may yield last: token counts and the reason the model stopped."""

    usage: Usage | None = None
    finish_reason: str | None = None


Handler = Callable[[TaskContext], AsyncIterator[str | Outcome]]
