"""What was paid for an answer, over all attempts."""

from datetime import UTC, datetime
from typing import Any

import pytest

from longtask_kit.log.attempts import Attempt
from longtask_kit.log.events import Cursor, Usage
from longtask_kit.server.continuation import Lost, add_up

ASKED = 10  # tokens of the prompt
NOW = datetime(2026, 11, 29, tzinfo=UTC)


def run(number: int, tokens: int, *, goes_on: bool = False) -> Attempt:
    """Return a run that stored so many deltas, from the beginning or behind what stood."""
    continued = Cursor(number - 1, 9) if goes_on else None
    return Attempt(number=number, began=NOW, tokens=tokens, continued=continued)


@pytest.mark.parametrize(
    ("before", "options", "prompts", "answered"),
    [
        # One call: as it was told.
        ([], {}, None, 50),
        ([run(1, 0)], {}, {2: 10}, 50),
        # Cut, and started over, as everything does that can't go on.
        ([run(1, 7)], {}, {1: 10, 2: 10}, 57),
        ([run(1, 7), run(2, 0), run(3, 4)], {}, {1: 10, 3: 10, 4: 10}, 61),
        # Cut, and gone on with: what stood is in the prompt.
        ([run(1, 7)], {"sent": 7}, {1: 10, 2: 17}, 57),
        ([run(1, 7), run(2, 5, goes_on=True)], {"sent": 12}, {1: 10, 2: 17, 3: 22}, 62),
        ([run(1, 7), run(2, 5, goes_on=True)], {}, {1: 10, 2: 17, 3: 10}, 62),
        ([run(1, 7), run(2, 5)], {"sent": 5}, {1: 10, 2: 10, 3: 15}, 62),
        # Gone on with, differed from what stood, and started over in the same attempt.
        ([run(1, 7)], {"lost": Lost(tokens=3, sent=7)}, {1: 10, 2: 27}, 60),
        # One run at its service, however often it was cut, told in full.
        ([run(1, 7), run(2, 5, goes_on=True)], {"reads_on": True}, {3: 10}, 50),
        # The same, of a run behind one that failed, which was read twice and paid once.
        (
            [run(1, 7), run(2, 5, goes_on=True), run(3, 4)],
            {"reads_on": True},
            {1: 10, 2: 0, 4: 10},
            62,
        ),
        ([run(1, 7), run(2, 5, goes_on=True)], {}, {1: 10, 2: 0, 3: 10}, 62),
    ],
)
def test_usage_is_what_all_calls_took(
    before: list[Attempt], options: dict[str, Any], prompts: dict[int, int] | None, answered: int
) -> None:
    number = len(before) + 1
    told = Usage(
        prompt_tokens=ASKED + options.get("sent", 0), completion_tokens=50, total_tokens=60
    )
    is_one_run = bool(prompts and 0 in prompts.values()) or options.get("reads_on", False)
    usage, each = add_up(
        told, number=number, attempts=[*before, run(number, 0)], is_one_run=is_one_run, **options
    )
    assert usage is not None
    assert each == prompts
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        *(sum((prompts or {1: ASKED}).values()), answered),
    )


def test_what_tells_no_counts_is_not_guessed() -> None:
    assert add_up(None, number=2, attempts=[run(1, 7), run(2, 3)]) == (None, None)
