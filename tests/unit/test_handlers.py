"""What a handler may hand over beside text."""

import copy
from collections.abc import AsyncIterator, Callable
from fractions import Fraction
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from openai.types import CompletionUsage
from openai.types.responses import ResponseUsage

from longtask_kit.errors import NonRetryableError
from longtask_kit.log.events import Usage
from longtask_kit.server.handlers import (
    DataEvent,
    Declaration,
    Delta,
    Handler,
    Outcome,
    Progress,
    TaskContext,
    find_declaration,
    handler,
)

USAGE = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
COUNTS = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    "counted",
    [
        USAGE,
        CompletionUsage.model_validate(COUNTS),
        CompletionUsage.model_validate(COUNTS).model_dump(),
        ResponseUsage.model_construct(input_tokens=1, output_tokens=2, total_tokens=3),
        SimpleNamespace(input_tokens=1, output_tokens=2),  # as Anthropic's, without a total
        SimpleNamespace(prompt_tokens=1, completion_tokens=2, total_tokens=None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_usage_is_taken_as_a_models_sdk_counts_it(counted: object) -> None:
    outcome = Outcome(usage=counted, finish_reason="stop")
    assert outcome.usage == USAGE
    assert outcome == copy.copy(outcome) == Outcome(usage=USAGE, finish_reason="stop")


def test_usage_keeps_its_details() -> None:
    detailed = Usage(
        prompt_tokens=1, completion_tokens=2, total_tokens=3, reasoning_tokens=2, cached_tokens=0
    )
    of_chat: dict[str, Any] = COUNTS | {
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    for counted in (detailed, of_chat, CompletionUsage.model_validate(of_chat)):
        assert Outcome(usage=counted).usage == detailed


@pytest.mark.parametrize(
    "make",
    [
        lambda: Outcome(usage=3),
        lambda: Outcome(usage="3"),
        lambda: Outcome(usage={}),
        lambda: Outcome(usage={"prompt_tokens": 1}),
        lambda: Outcome(usage={**COUNTS, "total_tokens": 1.5}),
        lambda: Outcome(usage={**COUNTS, "prompt_tokens": -1}),
        lambda: Outcome(usage={**COUNTS, "completion_tokens": 10**400}),  # no price can be told
        lambda: Outcome(usage=Usage(**{**COUNTS, "prompt_tokens": None})),  # type: ignore[arg-type]
        lambda: Outcome(finish_reason=0),  # type: ignore[arg-type]
        lambda: Outcome(finish_reason=b"stop"),  # type: ignore[arg-type]
        lambda: Delta("thoughts", "x"),  # type: ignore[arg-type]
        lambda: Delta("reasoning", None),  # type: ignore[arg-type]
        lambda: Delta("tool_calls", "no JSON"),
        lambda: Delta("tool_calls", "{}"),
        lambda: DataEvent("", 1),
        lambda: DataEvent(5, 1),  # type: ignore[arg-type]
        lambda: DataEvent("a", object()),
        lambda: DataEvent("a", float("nan")),
        lambda: DataEvent("a", "x" * 300_000),
        lambda: Progress("3"),  # type: ignore[arg-type]
        lambda: Progress(None),  # type: ignore[arg-type]
        lambda: Progress(-1),
        lambda: Progress(float("nan")),
        lambda: Progress(10**400),
        lambda: Progress(1, "2"),  # type: ignore[arg-type]
        lambda: Progress(1, message=None),  # type: ignore[arg-type]
    ],
)
def test_what_can_not_be_told_is_refused_where_it_is_made(make: Callable[[], object]) -> None:
    with pytest.raises(NonRetryableError, match="expected") as caught:
        make()
    assert caught.value.code == "handler_type"


class _Numpy:
    """As numpy's whole numbers are: no `int`."""

    def __index__(self) -> int:
        return 3


@pytest.mark.parametrize("done", [3, _Numpy(), Fraction(3), 3.0])
def test_progress_takes_any_number(done: Any) -> None:  # noqa: ANN401
    told = Progress(done, done, "rows").to_data()
    assert told == DataEvent("progress", {"done": 3, "total": 3, "message": "rows"})


def test_a_long_reason_is_cut() -> None:
    assert len(Outcome(finish_reason="x" * 1_000_000).finish_reason or "") == 100


async def _count(context: TaskContext, step: int = 1) -> AsyncIterator[str]:
    yield context.text * step


class _Counter:
    async def __call__(self, context: TaskContext) -> AsyncIterator[str]:
        yield context.text


declare: Any = handler(version="2", continues=True)
_Counter.__call__ = declare(_Counter.__call__)  # type: ignore[method-assign]
declare(_count)


@pytest.mark.parametrize(
    "function", [_count, partial(_count, step=2), _Counter(), _Counter().__call__]
)
def test_what_a_handler_declares_is_found_whatever_kind_of_callable_it_is(
    function: Handler,
) -> None:
    assert find_declaration(function) == Declaration(version="2", continues=True)
