"""The runs of a task, each as a value: why it ended, what it went on from, what it took."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from longtask_kit.log.events import START, TERMINAL_TYPES, Cursor, TaskEvent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

Ended = Literal["completed", "failed", "cancelled", "retrying", "waiting", "handed_on", "cut"]

HANDED_ON_CODES = frozenset({"time_limit", "shutdown"})
"""Of a `pending` status: the attempt stored its place, and another goes on behind it."""

_ENDS: dict[str, Ended] = {"end": "completed", "error": "failed", "cancelled": "cancelled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a task.

    Attributes:
        number: 1, 2, …
        began: When its delivery began.
        ended: When it ended; of one that was cut, when the next one began; None while it runs.
        ended_as: `completed`, `failed`, `cancelled`; `retrying`: it failed, and another was to
            come; `waiting`: for a limit or a budget; `handed_on`: it stored its place before its
            host's time was over, or at a shutdown; `cut`: it was heard of no more; None while it
            runs.
        code: Short reason of that, where there is one.
        error: The same in a sentence.
        continued: Where the text ended that it goes on behind; None where it began anew.
        tokens: Deltas of text and reasoning that it stored itself.
        prompt_tokens: Tokens of the prompt that were paid for it, a text that it goes on behind
            among them; known once the task has completed, and None where the model does not say.
    """

    number: int
    began: datetime
    ended: datetime | None = None
    ended_as: Ended | None = None
    code: str | None = None
    error: str | None = None
    continued: Cursor | None = None
    tokens: int = 0
    prompt_tokens: int | None = None


def apply_event(attempts: list[Attempt], event: TaskEvent) -> None:
    """Take one event in that is no text; the list is changed in its places, or gets longer."""
    number, type_ = event.cursor.attempt, event.type
    if type_ == "status":
        _apply_status(attempts, event)
        return
    if type_ in ("start", "continue") and (not attempts or attempts[-1].number < number):
        _begin(attempts, event)
    if not attempts or attempts[-1].number != number:
        return  # the submission, or an end that nobody's run wrote
    last = attempts[-1]
    if type_ == "start":
        attempts[-1] = replace(last, continued=None)
    elif type_ == "continue":
        attempts[-1] = replace(last, continued=_read_cursor(event.data))
    elif type_ in TERMINAL_TYPES:
        error = event.data or None if type_ != "end" else None
        attempts[-1] = replace(
            last, ended=event.time, ended_as=_ENDS[type_], code=event.code, error=error
        )
    if event.prompts is not None:
        _tell_prompts(attempts, event.prompts)


def add_tokens(attempts: Sequence[Attempt], tokens: int) -> list[Attempt]:
    """Return the attempts, the last of which has stored so many more deltas."""
    if not (attempts and tokens):
        return [*attempts]
    return [*attempts[:-1], replace(attempts[-1], tokens=attempts[-1].tokens + tokens)]


def _apply_status(attempts: list[Attempt], event: TaskEvent) -> None:
    number = event.cursor.attempt
    if event.data == "running":
        if not attempts or attempts[-1].number < number:
            _begin(attempts, event)
        elif attempts[-1].ended_as == "waiting":
            attempts[-1] = replace(attempts[-1], ended=None, ended_as=None, code=None, error=None)
        return
    if not attempts or attempts[-1].ended_as is not None:
        return
    ended: Ended
    if attempts[-1].number != number:  # somebody settled it: its process was gone
        ended, code, error = "cut", None, None
    elif event.data == "retrying":
        ended, code, error = "retrying", event.code, event.error
    elif event.data == "pending":
        ended = "handed_on" if event.code in HANDED_ON_CODES else "waiting"
        code, error = event.code, event.error
    else:
        return  # the event behind it says more
    attempts[-1] = replace(attempts[-1], ended=event.time, ended_as=ended, code=code, error=error)


def _begin(attempts: list[Attempt], event: TaskEvent) -> None:
    if attempts and attempts[-1].ended_as is None:
        attempts[-1] = replace(attempts[-1], ended=event.time, ended_as="cut")
    attempts.append(Attempt(number=event.cursor.attempt, began=event.time))


def _read_cursor(text: str) -> Cursor:
    try:
        return Cursor.parse(text)
    except ValueError:  # a log is what somebody wrote
        return START


def _tell_prompts(attempts: list[Attempt], prompts: Mapping[int, int]) -> None:
    for place, attempt in enumerate(attempts):
        if attempt.number in prompts:
            attempts[place] = replace(attempt, prompt_tokens=prompts[attempt.number])
