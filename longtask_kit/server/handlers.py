"""The contract of a handler: a `TaskContext` in; text, what else it tells, an `Outcome`, out.

A handler is an async generator. It raises `RetryableError` when a later attempt may succeed,
`NonRetryableError` when none can.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from longtask_kit.errors import NonRetryableError
from longtask_kit.log.events import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from longtask_kit.server.continuation import Standing
    from longtask_kit.submit.spec import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """What a handler gets: the task, which attempt this is, and what to run.

    Attributes:
        text: What stands of the answer: of a handler that continues, or else empty. What it yields
            is appended to that.
        standing: All that stands, for a source that knows how to go on behind it.
        sample: Which of several answers to one question, from 0 on: `kit.map(n=…)`.
        run_id: The same for all attempts until somebody retries the task: the `Idempotency-Key` for
            a service that knows one.
    """

    task_id: str
    attempt: int
    spec: TaskSpec
    text: str = ""
    standing: Standing | None = field(default=None, repr=False)
    sample: int = 0
    run_id: str = ""


# All below is checked where it is made, in the handler, so that the traceback leads there.


@dataclass(frozen=True, slots=True, init=False)
class Outcome:
    """What a handler may yield last: token counts and the reason the model stopped.

    Args:
        usage: A `Usage`, or what a model's SDK counted, as an object or dict: `prompt_tokens`,
            `completion_tokens` and `total_tokens`, or `input_tokens` and `output_tokens`, with
            their details.
        finish_reason: The model's word; 100 characters of it are kept.
    """

    usage: Usage | None
    finish_reason: str | None

    def __init__(self, *, usage: object = None, finish_reason: str | None = None) -> None:
        counted = None if usage is None else read_usage(usage)
        object.__setattr__(self, "usage", counted)
        if finish_reason is not None:
            _check_text("Outcome's finish_reason", finish_reason)
        object.__setattr__(self, "finish_reason", finish_reason and finish_reason[:100])


@dataclass(frozen=True, slots=True)
class Delta:
    """What a model says beside its answer.

    Attributes:
        type: Of what.
        text: A piece of it; for `tool_calls` the JSON list of the complete calls in the shape of
            chat completions, once, before the end.
    """

    type: Literal["reasoning", "refusal", "tool_calls"]
    text: str

    def __post_init__(self) -> None:
        if self.type not in ("reasoning", "refusal", "tool_calls"):
            raise _unusable(f"Delta's type is {self.type!r:.80}", "reasoning, refusal, tool_calls")
        _check_text("Delta's text", self.text)
        if self.type == "tool_calls" and not _is_json_list(self.text):
            raise _unusable(f"Delta's text is {self.text!r:.80}", "a JSON list of tool calls")


@dataclass(frozen=True, slots=True)
class DataEvent:
    """A value for whoever watches: `task.data[name]`, until the next of that name.

    Attributes:
        name: What it is called, 1 to 100 characters.
        value: Any JSON, at most 250,000 characters of it.
    """

    name: str
    value: Any

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and 1 <= len(self.name) <= 100):
            raise _unusable(f"DataEvent's name is {self.name!r:.80}", "text of 1 to 100 characters")
        text = _dump(self.value)
        if len(text) > MAX_DATA_CHARS:
            raise _unusable(
                f"DataEvent {self.name!r} has {len(text):,} characters of JSON",
                f"at most {MAX_DATA_CHARS:,}",
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a handler is: shown as a bar, and `task.data["progress"]`.

    Attributes:
        done: How much is done, >= 0.
        total: Of how much, or None when nobody knows.
        message: What is being done, or "".
    """

    done: float
    total: float | None = None
    message: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "done", _read_number("Progress's done", self.done))
        if self.total is not None:
            object.__setattr__(self, "total", _read_number("Progress's total", self.total))
        _check_text("Progress's message", self.message)

    def to_data(self) -> DataEvent:
        """Return it as the event that it is."""
        value = {"done": self.done, "total": self.total, "message": self.message or None}
        return DataEvent("progress", {name: v for name, v in value.items() if v is not None})


@dataclass(frozen=True, slots=True)
class Keep:
    """A later attempt may go on behind what has been said so far.

    Attributes:
        way: How; empty: it can't.
        place: What it needs to know for that; stored in the same append as the text.
    """

    way: str
    place: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TakeUp:
    """This attempt goes on: what it says next begins behind so many characters of each kind.

    Attributes:
        stood: Of kinds that are not in it all that stands; None: of every kind.
        is_paid_again: Whether the text that stands is part of the prompt, which is paid.
    """

    stood: Mapping[str, int] | None = None
    is_paid_again: bool = True


@dataclass(frozen=True, slots=True)
class StartOver:
    """What stands counts no more, what this attempt has said so far neither.

    Attributes:
        is_paid_again: Another run of the source comes; else it is the same one's, told whole.
    """

    is_paid_again: bool = True


@dataclass(frozen=True, slots=True)
class Replayed:
    """What is said is a recorded answer, whose counts are of all that was paid then.

    Attributes:
        source: Where it was recorded; readers are told it as `data["replayed"]`.
    """

    source: Mapping[str, Any]


Control = Keep | TakeUp | StartOver
"""What a source tells of going on, beside what it says."""

MAX_DATA_CHARS = 250_000
_MAX_COUNT = 2**53 - 1  # of tokens: more is no number in a browser, nor a price's factor

Said = str | Delta | DataEvent | Progress | Outcome | Replayed | Control
"""What a handler may yield."""


class Handler(Protocol):
    """An async generator function: what runs a task, by its name in `create_app(handlers=…)`."""

    def __call__(self, context: TaskContext, /) -> AsyncIterator[Said]:
        """Yield what the task says, an `Outcome` last if there is one to tell."""
        ...


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a handler of one's own says of itself.

    Attributes:
        version: Of what it does: another version gives another answer to the same task.
        continues: Whether a later attempt goes on behind what an earlier one has yielded.
    """

    version: str = ""
    continues: bool = False


def handler(*, version: str = "", continues: bool = False) -> Callable[[Handler], Handler]:
    """Declare of a handler what can't be seen of it: `@lt.handler(version="2")`."""

    def declare(function: Handler) -> Handler:
        function.declaration = Declaration(version, continues)  # type: ignore[attr-defined]
        return function

    return declare


def find_declaration(function: Handler) -> Declaration:
    """Return what a handler declares, a `partial` of one and an object with `__call__`, too."""
    inner = function.func if isinstance(function, functools.partial) else function
    for told in (inner, getattr(inner, "__call__", None)):  # noqa: B004 - it is not called
        if isinstance(declared := getattr(told, "declaration", None), Declaration):
            return declared
    return Declaration()


def read_usage(counted: object) -> Usage:
    """Return the counts of either of OpenAI's APIs, or of a `Usage`.

    Raises:
        NonRetryableError: Those of prompt and answer are not there; odd details are passed over.
    """
    prompt = _read_count(counted, "prompt_tokens", "input_tokens")
    completion = _read_count(counted, "completion_tokens", "output_tokens")
    total = _read_count(counted, "total_tokens")
    if prompt is None or completion is None:
        raise _unusable(
            f"Outcome's usage is of type {type(counted).__name__}",
            "a Usage, or prompt_tokens and completion_tokens in an object or dict",
        )
    asked = _find(counted, "prompt_tokens_details", "input_tokens_details")
    said = _find(counted, "completion_tokens_details", "output_tokens_details")
    cached = _find(asked, "cached_tokens")
    reasoning = _find(said, "reasoning_tokens")
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion if total is None else total,
        reasoning_tokens=_as_detail(reasoning, _find(counted, "reasoning_tokens")),
        cached_tokens=_as_detail(
            cached, _find(counted, "cached_tokens", "prompt_cache_hit_tokens")
        ),
    )


def _as_detail(*counts: object) -> int | None:
    return next((n for n in counts if type(n) is int and 0 <= n <= _MAX_COUNT), None)


def _find(counted: object, *names: str) -> Any:  # noqa: ANN401
    """Return what an object or dict holds by the first of some names that is there."""
    get = counted.get if isinstance(counted, Mapping) else functools.partial(getattr, counted)
    return next((value for name in names if (value := get(name, None)) is not None), None)


def _read_count(counted: object, *names: str) -> int | None:
    """Return the first count that is there, by any of its names."""
    given = _find(counted, *names)
    if given is None:
        return None
    with contextlib.suppress(TypeError):
        count = operator.index(given)  # an int, or numpy's
        if 0 <= count <= _MAX_COUNT:
            return count
    raise _unusable(f"Outcome's {names[0]} is {given!r:.80}", "a whole number >= 0")


def _read_number(what: str, given: Any) -> float:  # noqa: ANN401 - it may be anything
    """Return a count or a part of one, numpy's as Python's own."""
    number: float | None = None
    if not isinstance(given, str | bytes):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            read = operator.index(given) if hasattr(given, "__index__") else float(given)
            number = read if math.isfinite(read) else None
    if number is None or number < 0:
        raise _unusable(f"{what} is {given!r:.80}", "a number >= 0")
    return number


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise _unusable(f"{what} is {text!r:.80}", "text")


def _is_json_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


def _dump(value: Any) -> str:  # noqa: ANN401
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise _unusable(f"DataEvent's value is no JSON ({exc})", "what json.dumps takes") from exc


def _unusable(found: str, expected: str) -> NonRetryableError:
    return NonRetryableError(f"{found}: expected {expected}.", code="handler_type")
