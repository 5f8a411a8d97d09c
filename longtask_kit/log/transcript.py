"""The fold: what a task looks like after its events so far."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from longtask_kit.log.attempts import Attempt, add_tokens, apply_event
from longtask_kit.log.events import START, Cursor, Status, TaskEvent, Usage


@dataclass(slots=True)
class Transcript:
    """What a task looks like after the events so far: `apply` each one in order.

    A `start` clears the text: a retried run starts over. Behind a `continue` it goes on.

    Attributes:
        tokens: Deltas of text and reasoning so far.
        first_token: When the first of them came.
        answered: When the first one of the text came: until then the model was reasoning.
        tool_calls: Complete calls in the shape of chat completions.
        data: The last value of each name that a handler told.
        origin: Where the `start` stands that the text began with.
        seams: How often the text was continued since.
        silence: How long nothing was said at these seams, from the last delta before each one.
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
    answered: datetime | None = None
    ended: datetime | None = None
    refusal: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    origin: Cursor = START
    seams: int = 0
    silence: timedelta = timedelta()
    _attempts: list[Attempt] = field(default_factory=list)
    _own_tokens: int = 0  # of the last attempt, that it does not know yet: text comes often
    _said: datetime | None = None  # when the last delta came
    _is_at_seam: bool = False
    _chunks: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the latest attempt so far."""
        return "".join(self._chunks)

    @property
    def reasoning(self) -> str:
        """What the model thought in the latest attempt so far, where it shows that."""
        return "".join(self._reasoning)

    @property
    def attempts(self) -> list[Attempt]:
        """Each run so far, with why it ended, and what it went on from."""
        return add_tokens(self._attempts, self._own_tokens)

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
        return self.ended is not None

    def copy(self) -> Transcript:
        """Return the state as a value of its own, in microseconds also for a long text."""
        return replace(
            self,
            tool_calls=self.tool_calls.copy(),
            data=self.data.copy(),
            _attempts=self._attempts.copy(),
            _chunks=self._chunks.copy(),
            _reasoning=self._reasoning.copy(),
        )

    def apply(self, event: TaskEvent) -> None:
        """Take one event in; cursors must come in increasing order."""
        self.cursor = max(self.cursor, event.cursor)
        self.began, self.updated = self.began or event.time, event.time
        if event.type in ("content", "reasoning"):
            self._own_tokens += event.tokens
            self._hear(event.time)
        else:
            self._attempts, self._own_tokens = self.attempts, 0
            apply_event(self._attempts, event)
        match event.type:
            case "status":
                self.status = event.data  # type: ignore[assignment]  # one of ours, by contract
                if event.data == "pending":  # retried by hand: the end before was none
                    self.ended = None
                self.error, self.code = event.error, event.code
            case "start":
                self._restart(int(event.data), event)
            case "continue":
                self.attempt, self.status = event.cursor.attempt, "running"
                self.seams += 1
                self._is_at_seam = True
                self.ended = self.error = self.code = None
            case "content":
                self.answered = self.answered or event.time
                self.tokens += event.tokens
                self._chunks.append(event.data)
            case "reasoning":
                self.tokens += event.tokens
                self._reasoning.append(event.data)
            case "refusal":
                self.refusal += event.data
            case "tool_calls":
                self.tool_calls = json.loads(event.data)
            case "data":
                self.data[event.name or ""] = json.loads(event.data)
            case "end":
                self._end("completed", event)
                self.usage, self.finish_reason = event.usage, event.finish_reason
            case "error":
                self._end("failed", event)
                self.error, self.code = event.data, event.code
            case "cancelled":
                self._end("cancelled", event)

    def _hear(self, time: datetime) -> None:
        self.first_token = self.first_token or time
        if self._is_at_seam and self._said is not None:
            self.silence += time - self._said
        self._said, self._is_at_seam = time, False

    def _restart(self, attempt: int, event: TaskEvent) -> None:
        self.attempt, self.started, self.status = attempt, event.time, "running"
        self.origin, self.seams, self.silence = event.cursor, 0, timedelta()
        self._said, self._is_at_seam = None, False
        self.first_token = self.answered = self.ended = self.error = self.code = None
        self.tokens, self.refusal, self.tool_calls, self.data = 0, "", [], {}
        self._chunks.clear()
        self._reasoning.clear()

    def _end(self, status: Status, event: TaskEvent) -> None:
        self.status, self.ended = status, event.time
