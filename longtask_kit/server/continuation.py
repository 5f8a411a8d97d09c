"""Going on behind a text that stands: what a source tells of it, and what is checked.

A source that can go on says so (`Keep`), so that the next attempt finds the text unspoilt. That
one says that it does (`TakeUp`) before anything else, or it starts over. Nothing that was shown is
taken back in part: what a source repeats is swallowed while it is equal; at the first difference
the attempt starts over.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longtask_kit.log.events import START, Cursor, Usage
from longtask_kit.log.transcript import Transcript
from longtask_kit.server.handlers import Handler, Keep, TakeUp, find_declaration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from datetime import datetime

    from longtask_kit.log.attempts import Attempt
    from longtask_kit.log.events import TaskEvent
    from longtask_kit.server.handlers import Said, TaskContext

OWN = "handler"
"""How a handler of one's own goes on: by itself, from `context.text`."""


class OverlapDiffersError(Exception):
    """A source that should have repeated what stands says something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What stands of a task when another attempt begins.

    Attributes:
        texts: By kind: content, reasoning, refusal.
        cursor: Where it ends.
        way: How it may go on.
        place: What its source needs to know, or empty; `stood` says what stood there.
        tokens: Deltas in it.
        has_calls: Whether complete tool calls stand, behind which nothing comes.
    """

    texts: Mapping[str, str]
    cursor: Cursor
    way: str
    place: Mapping[str, Any] = field(default_factory=dict)
    stood: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0
    has_calls: bool = False

    @property
    def text(self) -> str:
        """The answer so far."""
        return self.texts["content"]

    @property
    def ids(self) -> Sequence[int]:
        """The tokens of its beginning, where its source has told them."""
        ids: Sequence[int] = self.place.get("ids", ())
        return ids

    @property
    def told_text(self) -> str:
        """The text of these tokens, or all that stands."""
        return self.text[: self.stood.get("content", 0)] if self.ids else self.text

    @property
    def sent_tokens(self) -> int:
        """How many tokens of a prompt it is."""
        return len(self.ids) or self.tokens

    @property
    def is_plain(self) -> bool:
        """Whether only text of the answer stands: all of what a model said, as a prompt has it."""
        beside = self.texts["reasoning"] or self.texts["refusal"] or self.has_calls
        return bool(self.text) and not beside


@dataclass(frozen=True, slots=True)
class Past:
    """What a task's log says when another attempt begins.

    Attributes:
        attempts: The runs so far.
        standing: What it may go on behind, if there is something.
        is_open: Whether the log is yet to say if it does.
        spoken_ms: How long those runs took, each up to its last text, whose tokens count as paid.
    """

    attempts: Sequence[Attempt] = ()
    standing: Standing | None = None
    is_open: bool = False
    spoken_ms: int = 0


def read_past(
    events: Iterable[TaskEvent], *, attempt: int, way: str, place: Mapping[str, Any]
) -> Past:
    """Return what a log says to an attempt that begins; without a way it starts over."""
    state, last = Transcript(), START
    spoken: Cursor = START
    times = _Times()
    for event in events:
        state.apply(event)
        times.take(event)
        if event.type in ("content", "reasoning", "refusal", "data", "tool_calls"):
            last = event.cursor
        if event.type in ("start", "continue"):
            spoken = event.cursor
    texts = {"content": state.text, "reasoning": state.reasoning, "refusal": state.refusal}
    standing = Standing(
        texts=texts,
        cursor=max(last, state.origin),
        way=way,
        place=place.get("value") or {},
        stood=place.get("stood") or {},
        tokens=state.tokens,
        has_calls=bool(state.tool_calls),
    )
    spoken_ms = times.count_ms(before=attempt)
    if not way:
        return Past(state.attempts, spoken_ms=spoken_ms)
    is_something = any(texts.values()) or bool(standing.place)
    return Past(
        attempts=state.attempts,
        standing=standing if is_something else None,
        is_open=spoken.attempt < attempt,
        spoken_ms=spoken_ms,
    )


class _Times:
    """When each attempt began, and when it said its last: one that was cut tells no end."""

    def __init__(self) -> None:
        self._began: dict[int, datetime] = {}
        self._spoke: dict[int, datetime] = {}

    def take(self, event: TaskEvent) -> None:
        if event.type == "status" and event.data == "running":
            self._began[event.cursor.attempt] = event.time
        elif event.type in ("content", "reasoning"):
            self._spoke[event.cursor.attempt] = event.time

    def count_ms(self, *, before: int) -> int:
        took = [
            (spoke - self._began.get(number, spoke)).total_seconds()
            for number, spoke in self._spoke.items()
            if number < before
        ]
        return round(1000 * sum(max(0.0, seconds) for seconds in took))


@dataclass(frozen=True, slots=True)
class Lost:
    """What a call took whose text counts no more, and that told no counts.

    Attributes:
        tokens: Deltas that it said.
        sent: Tokens of the text that it went on behind.
    """

    tokens: int
    sent: int


class Overlap:
    """What a source says again of what stands.

    Args:
        standing: What stands.
        stood: Of each kind, how much lies before what it says next.

    Attributes:
        left: Of each kind, what it has yet to repeat.
    """

    def __init__(self, standing: Standing, stood: Mapping[str, int] | None) -> None:
        self.left = {
            kind: text[(len(text) if stood is None else stood.get(kind, len(text))) :]
            for kind, text in standing.texts.items()
        }

    def swallow(self, kind: str, text: str) -> str:
        """Return what is new of a delta.

        Raises:
            OverlapDiffersError: It is not what stands.
        """
        left = self.left.get(kind, "")
        if not left:
            return text
        most = min(len(left), len(text))
        if left[:most] != text[:most]:
            raise OverlapDiffersError
        self.left[kind] = left[most:]
        return text[most:]

    def check_end(self) -> None:
        """Raise if it has ended before it had said all that stands."""
        if any(self.left.values()):
            raise OverlapDiffersError


def let_continue(handler: Handler) -> Handler:
    """Return a handler of one's own as one that says what it declares."""
    return _GoesOn(handler) if find_declaration(handler).continues else handler


class _GoesOn:
    """A handler that goes on behind `context.text` by itself."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, context: TaskContext) -> AsyncIterator[Said]:
        """Yield what it does, and first that it can go on, or does."""
        yield Keep(OWN)
        if context.text:
            yield TakeUp()
        said: Any = self._handler(context)
        async with contextlib.aclosing(said):
            async for item in said:
                yield item


def add_up(
    usage: Usage | None,
    *,
    number: int,
    attempts: Sequence[Attempt],
    sent: int = 0,
    is_one_run: bool = False,
    reads_on: bool = False,
    lost: Lost | None = None,
) -> tuple[Usage | None, dict[int, int] | None]:
    """Return what was paid in all, and what of the prompt for each attempt.

    A call that was cut told no counts: its answer is counted by its deltas, and its prompt is the
    last one's without the text that this one sent and that one had not. A call that told none of
    its text, as one that was refused, counts for nothing.

    Args:
        usage: Of the call that came to the end.
        number: Its attempt.
        attempts: The runs so far.
        sent: Tokens of the text that it went on behind, as a part of its prompt.
        is_one_run: Attempts that go on pay nothing, since the model runs by itself.
        reads_on: So does this one, and its usage is that of the whole run.
        lost: A call of the same attempt before it.
    """
    before = [attempt for attempt in attempts if attempt.number != number]
    if usage is None or not before:
        return usage, None
    if reads_on:
        while before.pop().continued is not None and before:
            pass
    bare = usage.prompt_tokens - sent
    paid, stands = {number: usage.prompt_tokens}, 0
    answered = usage.completion_tokens
    for attempt in before:
        stands = 0 if attempt.continued is None else stands
        if attempt.tokens:
            is_paid = attempt.continued is None or not is_one_run
            paid[attempt.number] = max(0, bare + stands) if is_paid else 0
            answered += attempt.tokens
        stands += attempt.tokens
    if lost is not None:
        paid[number] += bare + lost.sent
        answered += lost.tokens
    if answered == usage.completion_tokens:  # one call, told in full
        return usage, {number: usage.prompt_tokens}
    prompt = sum(paid.values())
    total = Usage(
        prompt_tokens=prompt,
        completion_tokens=answered,
        total_tokens=prompt + answered,
        reasoning_tokens=usage.reasoning_tokens,
        cached_tokens=usage.cached_tokens,
    )
    return total, dict(sorted(paid.items()))
