"""When what happened to a task, from its events alone."""

from datetime import timedelta
from typing import Any

import pytest

from longtask_kit.log.events import Cursor, TaskEvent, Usage, from_ms
from longtask_kit.log.timeline import Timeline, read_timeline

BEGAN = from_ms(1_700_000_000_000)


def at(seconds: float, type_: str, data: str = "", cursor: str = "1-9", **more: Any) -> TaskEvent:  # noqa: ANN401
    if "arrived" in more:
        more["arrived"] = BEGAN + timedelta(seconds=more["arrived"])
    return TaskEvent(
        type=type_,  # type: ignore[arg-type]
        data=data,
        cursor=Cursor.parse(cursor),
        time=BEGAN + timedelta(seconds=seconds),
        **more,
    )


SUBMIT = at(0, "status", "pending", "0-1")
BEGIN = [at(2, "status", "running", "1-1", arrived=1.5), at(2, "start", "1", "1-2")]
SAID = [at(3, "content", "One ", tokens=2), at(4, "content", "two", tokens=2)]
END = [
    at(5, "status", "completed"),
    at(
        5,
        "end",
        finish_reason="stop",
        usage=Usage(prompt_tokens=1, completion_tokens=4, total_tokens=5),
    ),
]


def list_spans(timeline: Timeline) -> list[list[tuple[str, float, float]]]:
    return [[(s.kind, s.begin_s, s.end_s) for s in a.spans] for a in timeline.attempts]


def test_a_task_waits_is_delivered_waits_for_its_first_token_and_streams() -> None:
    timeline = read_timeline([SUBMIT, *BEGIN, *SAID, *END])
    assert list_spans(timeline) == [
        [("queue", 0, 1.5)],
        [("delivery", 1.5, 2), ("first", 2, 3), ("streaming", 3, 5)],
    ]
    assert (timeline.word, timeline.mood, timeline.total_s) == ("completed", "good", 5)
    attempt = timeline.attempts[1]
    assert (attempt.tokens, attempt.rate, attempt.outcome) == (4, 2.0, "stop")
    assert timeline.usage is not None


def test_a_log_of_a_version_before_has_no_delivery() -> None:
    timeline = read_timeline([SUBMIT, at(2, "status", "running", "1-1"), BEGIN[1], *SAID])
    assert list_spans(timeline)[:1] == [[("queue", 0, 2)]]
    assert timeline.count_s("delivery") == 0


def test_each_attempt_says_why_it_ended_and_how_long_the_next_is_waited_for() -> None:
    again = [
        at(4.5, "status", "retrying", error="The connection broke.", code="cut"),
        at(16, "status", "running", "2-1", arrived=15.9),
        at(16, "start", "2", "2-2"),
        at(17, "reasoning", "hm", "2-3"),
        at(18, "content", "x", "2-4"),
        at(19, "status", "completed", "2-5"),
        at(19, "end", "", "2-6", finish_reason="length"),
    ]
    timeline = read_timeline([SUBMIT, *BEGIN, *SAID, *again], max_tokens=5)
    assert [(a.number, a.outcome, a.mood) for a in timeline.attempts[1:]] == [
        (1, "The connection broke.", "bad"),
        (2, "stopped at max_tokens (5)", "warn"),
    ]
    assert list_spans(timeline)[1][-1] == ("retry", 4.5, 15.9)
    assert [kind for kind, *_ in list_spans(timeline)[2]] == [
        "delivery",
        "first",
        "reasoning",
        "streaming",
    ]
    assert timeline.attempts[2].begin_s == 16


def test_a_wait_for_the_limit_is_one_also_where_the_task_was_handed_on() -> None:
    waits = [
        at(2.1, "status", "pending", code="limit", error="waits for the limit, next in 9 s"),
        at(11, "status", "running", "1-4", arrived=10.5),
    ]
    timeline = read_timeline([SUBMIT, *BEGIN, *waits, at(12, "content", "x", "1-5")])
    assert list_spans(timeline)[1] == [
        ("delivery", 1.5, 2),
        ("first", 2, 2.1),
        ("limit", 2.1, 10.5),
        ("delivery", 10.5, 11),
        ("first", 11, 12),
    ]


@pytest.mark.parametrize("code", ["time_limit", "shutdown"])
def test_what_was_handed_on_waits_in_the_queue_and_goes_on_at_a_seam(code: str) -> None:
    again = [
        at(4.5, "status", "pending", "1-5", code=code),
        at(6, "status", "running", "2-1", arrived=5.9),
        at(6, "continue", "1-4", "2-2"),
        at(7, "content", " three", "2-3"),
    ]
    timeline = read_timeline([SUBMIT, *BEGIN, *SAID, *again])
    assert list_spans(timeline)[1][3:5] == [("queue", 4.5, 5.9), ("delivery", 5.9, 6)]
    assert timeline.count_s("limit") == 0
    assert timeline.attempts[1].seams == [6]


def test_an_attempt_that_was_killed_is_silent_until_the_next_begins() -> None:
    again = [at(30, "status", "running", "2-1", arrived=29), at(30, "start", "2", "2-2")]
    timeline = read_timeline([SUBMIT, *BEGIN, *SAID, *again])
    first = timeline.attempts[1]
    assert (first.outcome, first.mood) == ("nothing more was heard of it", "bad")
    assert list_spans(timeline)[1][-2:] == [("streaming", 3, 4), ("silence", 4, 29)]


def test_an_attempt_that_goes_on_is_one_bar_with_a_seam() -> None:
    again = [
        at(4.5, "status", "retrying", error="The connection broke."),
        at(6, "status", "running", "2-1", arrived=5.9),
        at(6, "continue", "2", "2-2"),
        at(7, "content", " three", "2-3"),
        at(8, "status", "completed", "2-4"),
        at(8, "end", "", "2-5", finish_reason="stop"),
    ]
    timeline = read_timeline([SUBMIT, *BEGIN, *SAID, *again])
    [_, only] = timeline.attempts
    assert only.seams == [6]
    assert (only.tokens, only.outcome) == (5, "stop")
    assert [kind for kind, *_ in list_spans(timeline)[1]][-5:] == [
        "streaming",
        "retry",
        "delivery",
        "first",
        "streaming",
    ]


@pytest.mark.parametrize("how", [("continue", "1-4"), ("start", "2")])
def test_a_source_that_is_long_in_saying_whether_it_goes_on_is_waited_for(
    how: tuple[str, str],
) -> None:
    again = [
        at(4.5, "status", "retrying", error="The connection broke."),
        at(6, "status", "running", "2-1", arrived=5.9),
        at(16, *how, "2-2"),
        at(16.5, "content", " three", "2-3", tokens=1),
        at(17, "end", "", "2-4", finish_reason="stop"),
    ]
    timeline = read_timeline([SUBMIT, *BEGIN, *SAID, *again])
    spans = [span for attempt in list_spans(timeline) for span in attempt]
    assert spans[-3:] == [("delivery", 5.9, 6), ("first", 6, 16.5), ("streaming", 16.5, 17)]


@pytest.mark.parametrize(
    ("last", "word", "mood"),
    [
        (at(9, "error", "No key.", code="invalid_api_key"), "failed", "bad"),
        (at(9, "cancelled", "cancelled on request"), "cancelled", "quiet"),
        (at(9, "end", finish_reason="content_filter"), "filtered", "warn"),
    ],
)
def test_every_end_has_its_word(last: TaskEvent, word: str, mood: str) -> None:
    timeline = read_timeline([SUBMIT, *BEGIN, *SAID, last])
    assert (timeline.word, timeline.mood, timeline.is_over) == (word, mood, True)
    assert timeline.attempts[-1].outcome


@pytest.mark.parametrize("name", ["progress", "replayed"])
def test_data_ahead_of_the_text_are_no_first_token(name: str) -> None:
    told = [at(2.01, "data", "{}", name=name), at(2.5, "data", "{}", name=name)]
    timeline = read_timeline([SUBMIT, *BEGIN, *told, *SAID, *END])
    assert list_spans(timeline) == list_spans(read_timeline([SUBMIT, *BEGIN, *SAID, *END]))
    assert timeline.attempts[1].rate == 2.0
    silent = read_timeline([SUBMIT, *BEGIN, *told, *END])
    assert silent.attempts[1].count_s("first") == 3


def test_what_goes_on_lasts_until_now_and_a_clock_set_back_moves_nothing_back() -> None:
    now = BEGAN + timedelta(seconds=60)
    assert list_spans(read_timeline([SUBMIT], now=now)) == [[("queue", 0, 60)]]
    back = read_timeline([SUBMIT, *BEGIN, SAID[1], SAID[0]], now=now)
    assert [piece.at_s for piece in back.attempts[1].pieces] == [4, 4]
    assert back.total_s == 60
    assert read_timeline([]).attempts == []
