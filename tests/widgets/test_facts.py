"""What a card says beside its text; `npm test` holds the page to the same cases."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import longtask_kit
from longtask_kit.log.events import Cursor, EventType, TaskEvent, Usage
from longtask_kit.log.transcript import Transcript
from longtask_kit.submit.spec import TaskSpec
from longtask_kit.widgets import facts as wording

CASES: dict[str, Any] = json.loads(
    (Path(longtask_kit.__file__).parent / "widgets/js/test/facts_cases.json").read_text("utf-8")
)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def test_words_are_those_of_the_page() -> None:
    for ms, text in CASES["durations"]:
        assert wording.format_duration(ms) == text
    for facts, words in CASES["figures"]:
        found = wording.describe_figures(facts)
        assert [f"{figure.before}{figure.value}{figure.after}" for figure in found] == words
    for facts, note in CASES["notes"]:
        made = wording.describe_note(facts)
        assert (made and list(made)) == note
    for progress, words in CASES["progress"]:
        shown = wording.describe_progress({"progress": progress})
        assert (shown and list(shown)) == words
    for facts, blocks in CASES["blocks"]:
        assert wording.describe_blocks(facts) == blocks


@pytest.mark.parametrize(
    ("state", "word", "kind"),
    [
        (Transcript(), "queued", "wait"),
        (Transcript(status="running"), "waiting for the first token", "run"),
        (Transcript(status="running", first_token=BEGAN), "thinking", "run"),
        (Transcript(status="running", first_token=BEGAN, answered=BEGAN), "streaming", "run"),
        (Transcript(status="running", refusal="I c"), "streaming", "run"),
        (Transcript(status="retrying"), "retrying", "wait"),
        (Transcript(status="completed", finish_reason="stop"), "completed", "good"),
        (Transcript(status="completed", finish_reason="content_filter"), "filtered", "warn"),
        (Transcript(status="completed", refusal="I can't."), "refused", "warn"),
        (Transcript(status="completed", tool_calls=[{}]), "1 tool call", "warn"),
        (Transcript(status="failed"), "failed", "bad"),
        (Transcript(status="cancelled"), "cancelled", "quiet"),
    ],
)
def test_every_state_has_a_word_and_a_colour(state: Transcript, word: str, kind: str) -> None:
    facts = wording.read_facts(state)
    assert (facts["word"], facts["kind"]) == (word, kind)


def test_a_handlers_pieces_are_not_called_tokens() -> None:
    spec = TaskSpec(prompt="x", handler="count")
    assert wording.read_facts(Transcript(status="running"), spec=spec)["word"] == (
        "waiting for the first piece"
    )
    found = wording.read_facts(Transcript(status="running", tokens=2), spec=spec)
    assert wording.describe_figures({"taskId": "a"} | found)[0] == ("", "2", " pieces")


def test_a_replayed_answer_costs_nothing() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    recorded = {"file": "a.jsonl", "recorded": "2026-11-28", "model": "demo"}
    asked, replayed = (
        Transcript(status="completed", usage=usage, data=data)
        for data in ({}, {"replayed": recorded})
    )
    assert wording.read_facts(asked, price=(1, 1))["costUsd"] is not None
    assert wording.read_facts(replayed, price=(1, 1))["costUsd"] is None


def test_an_end_at_the_limit_names_it() -> None:
    state = Transcript(status="completed", finish_reason="length")
    state._chunks.append("half")
    facts = wording.read_facts(state, spec=TaskSpec(prompt="x", max_tokens=1000))
    assert (facts["word"], facts["kind"]) == ("stopped at max_tokens (1,000)", "warn")


def test_the_facts_of_a_task_that_reasoned() -> None:
    state = Transcript(
        status="completed",
        began=BEGAN,
        started=after(0.5),
        first_token=after(1),
        answered=after(9),
        updated=after(10),
        usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
    )
    state._reasoning.append("Six times seven …")
    facts = wording.read_facts(state)
    assert facts["elapsedMs"] == 10_000
    assert facts["attemptBeganMs"] == facts["firstTokenMs"] == 500
    assert facts["reasoningMs"] == 8000


def test_the_rate_of_an_answer_that_went_on_leaves_out_the_silence_between_its_attempts() -> None:
    state = Transcript()
    told: list[tuple[float, int, EventType, str]] = [
        (0, 1, "start", "1"),
        (1, 1, "content", "a"),
        (2, 1, "content", "b"),
        (62, 2, "continue", "1-3"),
        (63, 2, "content", "c"),
        (64, 3, "continue", "2-2"),  # and one that said nothing
        (93, 4, "continue", "2-2"),
        (94, 4, "content", "d"),
        (95, 4, "end", ""),
    ]
    for seq, (seconds, attempt, type_, data) in enumerate(told, start=1):
        cursor = Cursor(attempt, seq)
        state.apply(TaskEvent(type=type_, cursor=cursor, time=after(seconds), data=data))
    facts = wording.read_facts(state)
    assert facts["silenceMs"] == 61_000 + 31_000
    assert wording.count_rate(facts) == 2.0
