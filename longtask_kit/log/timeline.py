"""When what happened to a task: its log as spans of time, attempt by attempt; values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from longtask_kit.log.attempts import HANDED_ON_CODES
from longtask_kit.log.events import TEXT_TYPES, Cursor, TaskEvent, Usage
from longtask_kit.log.finish import describe_finish

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

Kind = Literal["queue", "delivery", "limit", "first", "reasoning", "streaming", "retry", "silence"]
WAITS: frozenset[Kind] = frozenset({"queue", "limit", "retry", "silence"})
"""In which nothing is done for the task."""
MODEL: frozenset[Kind] = frozenset({"first", "reasoning", "streaming"})
WORDS: dict[Kind, str] = {
    "queue": "waiting in the queue",
    "delivery": "delivered, not yet begun",
    "limit": "waiting for the limit",
    "first": "waiting for the first token",
    "reasoning": "reasoning",
    "streaming": "streaming",
    "retry": "waiting for the next try",
    "silence": "not heard of: its lease runs out",
}


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one kind, in seconds since the submit."""

    kind: Kind
    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """How long it lasts."""
        return self.end_s - self.begin_s


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text that was stored at once."""

    at_s: float
    tokens: int
    kind: Kind
    text: str


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt, and the wait behind it.

    Attributes:
        number: 1, 2, …; 0 is the wait before the first one.
        begin_s: When it began; a text before that is void.
        seams: When it was gone on with, from the text that stood.
        outcome: How it ended, in words; empty while it goes on.
        mood: The outcome's colour: `good`, `warn`, `bad`, `quiet` or, while it goes on, `run`.
    """

    number: int
    begin_s: float
    spans: list[Span] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    seams: list[float] = field(default_factory=list)
    outcome: str = ""
    mood: str = "run"

    @property
    def tokens(self) -> int:
        """How many were stored."""
        return sum(piece.tokens for piece in self.pieces)

    @property
    def rate(self) -> float | None:
        """Tokens a second while they came; None where that can't be told."""
        spoken_s = self.count_s("reasoning", "streaming")
        return self.tokens / spoken_s if spoken_s > 0.02 and self.tokens > 1 else None

    def count_s(self, *kinds: Kind) -> float:
        """Return how long spans of these kinds took together."""
        return sum(span.length_s for span in self.spans if span.kind in kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A task on one time axis, which begins with its submit.

    Attributes:
        status: The task's.
        word: The status as people read it; of an answer that is not whole why.
        mood: Its colour, as an attempt's.
        total_s: Until its end, or until now.
        attempts: The wait before the first, then each.
    """

    status: str
    word: str
    mood: str
    total_s: float
    attempts: list[Attempt]
    usage: Usage | None = None

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self.status in ("completed", "failed", "cancelled")

    def count_s(self, *kinds: Kind) -> float:
        """Return how long spans of these kinds took together."""
        return sum(attempt.count_s(*kinds) for attempt in self.attempts)


def read_timeline(
    events: Iterable[TaskEvent],
    *,
    created: datetime | None = None,
    now: datetime | None = None,
    max_tokens: int | None = None,
) -> Timeline:
    """Return when what happened.

    Args:
        events: All of a task's, in order.
        created: When it was submitted; None is when its log begins.
        now: Where the time of a task that goes on ends; None is with its last event.
        max_tokens: What it was submitted with.
    """
    reader: _Reader | None = None
    for event in events:
        if event.type == "connected":
            continue
        reader = reader or _Reader(created or event.time, max_tokens)
        reader.take(event)
    if reader is None:
        reader = _Reader(created or now, max_tokens) if (created or now) else None
    if reader is None:
        return Timeline(status="pending", word="queued", mood="wait", total_s=0.0, attempts=[])
    return reader.finish(now)


class _Reader:
    """Takes events in order: which span each ends, and which begins with it."""

    def __init__(self, began: datetime | None, max_tokens: int | None) -> None:
        self._began = began
        self._max_tokens = max_tokens
        self._attempt = Attempt(number=0, begin_s=0.0)
        self._attempts = [self._attempt]
        self._phase: Kind | None = "queue"
        self._since = self._last = 0.0
        self._held: Span | None = None  # a delivery's, of the attempt that comes
        self._status, self._word, self._mood = "pending", "queued", "wait"
        self._usage: Usage | None = None

    def take(self, event: TaskEvent) -> None:
        # A clock that was set back moves nothing back.
        at = max(self._last, self._seconds(event.time))
        if event.cursor == Cursor(0, 1):
            self._since = at  # on a group's axis it comes later than the first
        match str(event.type):  # also one that a newer version writes
            case "status":
                self._take_status(event, at)
            case "start":
                self._begin(int(event.data), at)
            case "end" | "error" | "cancelled":
                self._end(event, at)
            case "tool_calls":  # data are no word: a handler's progress, where a replay is from
                self._speak("streaming", at)
            case other if other in TEXT_TYPES:
                kind: Kind = "reasoning" if other == "reasoning" else "streaming"
                self._speak(kind, at)
                self._attempt.pieces.append(Piece(at, event.tokens, kind, event.data))
            case "continue":
                self._go_on(at)
        self._last = at

    def finish(self, now: datetime | None) -> Timeline:
        at = max(self._last, self._seconds(now)) if now else self._last
        if self._phase is not None:
            self._close(at)
        return Timeline(
            status=self._status,
            word=self._word,
            mood=self._mood,
            total_s=at if self._phase is not None else self._last,
            attempts=self._attempts,
            usage=self._usage,
        )

    def _seconds(self, time: datetime) -> float:
        return (time - self._began).total_seconds() if self._began else 0.0

    def _take_status(self, event: TaskEvent, at: float) -> None:
        match event.data:
            case "running":
                self._resume(event, at)
            case "pending":
                self._close(at)
                is_queued = not event.code or event.code in HANDED_ON_CODES
                self._phase = "queue" if is_queued else "limit"
            case "retrying":
                self._close(at)
                self._phase = "retry"
                self._tell_outcome(event.error or "it failed", "bad")
        if event.data in _STATES:
            self._status = event.data
            self._word, self._mood = _STATES[event.data]

    def _resume(self, event: TaskEvent, at: float) -> None:
        """A delivery has come, for the next attempt or for one that waited for the limit."""
        if self._phase in MODEL and event.cursor.attempt > self._attempt.number:
            self._close(self._last)
            self._phase = "silence"
            self._tell_outcome("nothing more was heard of it", "bad")
        came = at if event.arrived is None else self._seconds(event.arrived)
        came = min(max(came, self._since), at)
        self._close(came)
        delivery = Span("delivery", came, at) if event.arrived is not None else None
        self._since, self._phase = at, "first"
        if event.cursor.seq == 1:
            self._held = delivery
        elif delivery is not None:
            self._attempt.spans.append(delivery)

    def _begin(self, number: int, at: float) -> None:
        self._close_before(at)
        self._attempt = Attempt(number=number, begin_s=at)
        self._attempts.append(self._attempt)
        self._take_held()
        self._phase = "first"

    def _go_on(self, at: float) -> None:
        """The attempt goes on from the text that stands: its bar has a seam."""
        if self._attempt.outcome:
            self._attempt.outcome, self._attempt.mood = "", "run"
        self._close_before(at)
        self._take_held()
        self._attempt.seams.append(at)
        self._phase = "first"

    def _close_before(self, at: float) -> None:
        """Close what was before; a source may be long in saying whether it starts over."""
        if self._phase != "first":
            self._close(at)

    def _take_held(self) -> None:
        if self._held is not None:
            self._attempt.spans.append(self._held)
        self._held = None

    def _speak(self, kind: Kind, at: float) -> None:
        if self._phase != kind:
            self._close(at)
            self._phase = kind

    def _end(self, event: TaskEvent, at: float) -> None:
        if event.type == "error" and event.code == "lost" and self._phase in MODEL:
            self._close(self._last)
            self._phase = "silence"
        self._close(at)
        self._phase = None
        self._status = _ENDS[event.type]
        self._word, self._mood = _STATES[self._status]
        self._usage = event.usage
        if event.type == "end":
            calls = event.finish_reason in ("tool_calls", "function_call")
            note = describe_finish(event.finish_reason, max_tokens=self._max_tokens)
            if note:
                self._word, self._mood = note, "good" if calls else "warn"
            self._tell_outcome(note or event.finish_reason or "done", self._mood)
        elif event.type == "error":
            self._tell_outcome(event.data, "bad")
        else:
            self._tell_outcome("cancelled", "quiet")

    def _tell_outcome(self, words: str, mood: str) -> None:
        if not self._attempt.outcome:
            self._attempt.outcome, self._attempt.mood = words, mood

    def _close(self, at: float) -> None:
        if self._phase is not None and at > self._since:
            self._attempt.spans.append(Span(self._phase, self._since, at))
        self._since = max(at, self._since)


_STATES = {
    "pending": ("queued", "wait"),
    "running": ("running", "run"),
    "retrying": ("retrying", "wait"),
    "completed": ("completed", "good"),
    "failed": ("failed", "bad"),
    "cancelled": ("cancelled", "quiet"),
}
_ENDS = {"end": "completed", "error": "failed", "cancelled": "cancelled"}
