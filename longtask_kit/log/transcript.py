"""The fold: what a task looks like after its events so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from longtask_kit.log.events import START, Cursor, Status, TaskEvent, Usage

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(slots=True)
class Transcript:
    """What a task looks like after the events so far: `apply` each one in order.

    A `start` of a higher attempt clears the text: a retried run starts over.
    """

    status: Status = "pending"
    attempt: int = 0
    error: str | None = None
    code: str | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    tokens: int = 0
    cursor: Cursor = START
    began: datetime | None = None
    updated: datetime | None = None
    started: datetime | None = None
    first_token: datetime | None = None
    ended: datetime | None = None
    _chunks: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the latest attempt so far."""
        return "".join(self._chunks)

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
        return self.ended is not None

    def copy(self) -> Transcript:
        """Return the state as a value of its own, in microseconds also for a long text."""
        return replace(self, _chunks=self._chunks.copy())

    def apply(self, event: TaskEvent) -> None:
        """Take one event in; cursors must come in increasing order."""
        self.cursor = max(self.cursor, event.cursor)
        self.began, self.updated = self.began or event.time, event.time
        match event.type:
            case "status":
                self.status = event.data  # type: ignore[assignment]  # one of ours, by contract
                if event.data == "pending":  # retried by hand: the end before was none
                    self.ended = None
                self.error, self.code = event.error, event.code
            case "start":
                self._restart(int(event.data), event.time)
            case "content":
                self.first_token = self.first_token or event.time
                self.tokens += event.tokens
                self._chunks.append(event.data)
            case "end":
                self._end("completed", event)
                self.usage, self.finish_reason = event.usage, event.finish_reason
            case "error":
                self._end("failed", event)
                self.error, self.code = event.data, event.code
            case "cancelled":
                self._end("cancelled", event)

    def _restart(self, attempt: int, time: datetime) -> None:
        self.attempt, self.started, self.status = attempt, time, "running"
        self.first_token = self.ended = self.error = self.code = None
        self.tokens = 0
        self._chunks.clear()

    def _end(self, status: Status, event: TaskEvent) -> None:
        self.status, self.ended = status, event.time
