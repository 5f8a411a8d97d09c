"""Cursors, the two wire forms of an event, and the fold."""

import codecs
import dataclasses
import json
from datetime import timedelta
from typing import Any

import pytest
from httpx_sse import ServerSentEvent
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longtask_kit.log.events import (
    EVENT_TYPES,
    START,
    STATUSES,
    TERMINAL_STATUSES,
    TERMINAL_TYPES,
    Cursor,
    EventType,
    TaskEvent,
    Usage,
    decode_entry,
    decode_frame,
    encode_entry,
    encode_frame,
    expand_entry,
    from_ms,
    to_json,
    to_ms,
    to_wire,
)
from longtask_kit.log.transcript import Transcript

examples = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])

TASK_ID = "task_1q2w3e4r5t6z7u8i9o0p1a"
NASTY = (
    'a\r\nb\rc\n\nd\x00\x0b\x0c\x1c\x85\u2028\u2029 data: id: 1\n: x 家 👩‍👩‍👧 \ufeff\\"\U0010ffff'
)
BEGAN = from_ms(1_700_000_000_000)
USAGE = Usage(prompt_tokens=3, completion_tokens=5, total_tokens=8)

texts = st.one_of(
    st.text(max_size=60), st.sampled_from([NASTY, "\n", "\r", "\u2028", "\0", "👩‍🔬"])
)
counts = st.integers(0, 10**12)
usages = st.builds(
    Usage,
    prompt_tokens=counts,
    completion_tokens=counts,
    total_tokens=counts,
    reasoning_tokens=st.none() | counts,
    cached_tokens=st.none() | counts,
)
cursors = st.builds(Cursor, st.integers(0, 10**6), st.integers(1, 10**18))
times = st.integers(0, 4_102_444_800_000).map(from_ms)


@st.composite
def events(draw: st.DrawFn) -> TaskEvent:
    """Draw an event as the store writes it: each type with the fields it may carry."""
    type_: EventType = draw(st.sampled_from(sorted(EVENT_TYPES)))
    event = TaskEvent(
        type=type_,
        cursor=START if type_ == "connected" else draw(cursors),
        time=draw(times),
        data=draw(texts),
    )
    match type_:
        case "start":
            return dataclasses.replace(event, data=str(draw(st.integers(1, 10**6))))
        case "status":
            return dataclasses.replace(
                event,
                data=draw(st.sampled_from(sorted(STATUSES))),
                code=draw(st.none() | texts),
                error=draw(st.none() | texts),
                arrived=draw(st.none() | times),
            )
        case "content" | "reasoning" | "refusal":
            return dataclasses.replace(event, tokens=draw(st.integers(1, 10**6)))
        case "tool_calls" | "data":
            name = draw(texts) if type_ == "data" else None
            return dataclasses.replace(event, data=to_json([draw(texts)]), name=name)
        case "end":
            return dataclasses.replace(
                event, usage=draw(st.none() | usages), finish_reason=draw(st.none() | texts)
            )
        case "error":
            return dataclasses.replace(event, code=draw(st.none() | texts))
        case _:
            return event


def entry_of(event: TaskEvent) -> list[str]:
    """Return what the append script stores and announces for an event."""
    fields = encode_entry(
        event.type,
        event.data,
        tokens=event.tokens,
        usage=event.usage,
        finish_reason=event.finish_reason,
        code=event.code,
        error=event.error,
        name=event.name,
        arrived=event.arrived,
    )
    return [str(event.cursor), "t", str(to_ms(event.time)), *fields]


def read_frames(stream: bytes, sizes: list[int]) -> list[ServerSentEvent]:
    """Decode SSE bytes with httpx-sse, in chunks of these sizes, cyclically."""
    to_text = codecs.getincrementaldecoder("utf-8")()
    lines, frames = SSELineDecoder(), SSEDecoder()
    found = []
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        text = to_text.decode(stream[at : at + size])
        at, turn = at + size, turn + 1
        for line in lines.decode(text) if text else []:
            frame = frames.decode(line)
            if frame is not None:
                found.append(frame)
    return found


def make_event(type_: EventType, data: str = "", at: str = "1-1", **fields: Any) -> TaskEvent:  # noqa: ANN401
    """Return an event whose time is `BEGAN` plus its seq in seconds."""
    cursor = Cursor.parse(at)
    time = BEGAN + timedelta(seconds=cursor.seq)
    return TaskEvent(type=type_, data=data, cursor=cursor, time=time, **fields)


# Cursors


def test_cursors_compare_in_log_order() -> None:
    in_order = [START, Cursor(0, 1), Cursor(1, 1), Cursor(1, 2), Cursor(1, 10), Cursor(2, 1)]
    assert sorted(reversed(in_order)) == in_order


def test_the_numbers_of_a_cursor_compare_as_numbers_not_as_text() -> None:
    assert Cursor.parse("1-9") < Cursor.parse("1-10") < Cursor.parse("10-1")


@examples
@given(st.builds(Cursor, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)))
def test_a_cursor_survives_its_text(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "1",
        "1-",
        "-1",
        "1-2-3",
        "1--2",
        "-1-2",
        "+1-2",
        " 1-2",
        "1-2\n",
        "1 - 2",
        "1.0-2",
        "a-b",
        "1-0x2",
        "1_0-2",
        "²-1",
        "١-٢",
        "１-２",
        "1–2",
        "$",
        "9" * 5000 + "-1",
    ],
)
def test_what_is_not_a_cursor_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a cursor|integer string conversion"):
        Cursor.parse(text)


def test_a_cursor_error_quotes_no_more_than_the_beginning() -> None:
    with pytest.raises(ValueError, match="expected a cursor") as caught:
        Cursor.parse("x" * 10_000)
    assert len(str(caught.value)) < 120


@examples
@given(st.text(max_size=12))
def test_any_text_is_a_cursor_or_a_value_error(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except ValueError:
        return
    assert cursor >= START


# The log entry


@examples
@given(events())
def test_an_event_survives_its_log_entry(event: TaskEvent) -> None:
    assert decode_entry(entry_of(event)) == event


@examples
@given(events(), st.sampled_from(["x", "kk", "", "T"]), texts)
def test_unknown_fields_of_an_entry_are_ignored(event: TaskEvent, name: str, value: str) -> None:
    assert decode_entry([*entry_of(event), name, value]) == event


def test_content_is_stored_without_a_type_since_every_flush_stores_one() -> None:
    assert encode_entry("content", "hi") == ["d", "hi"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (encode_entry("status", "running"), ["k", "status", "d", "running"]),
        (encode_entry("content", "ab", tokens=2), ["d", "ab", "n", "2"]),
        (
            encode_entry("end", "", usage=USAGE, finish_reason="stop"),
            [
                *["k", "end", "d", ""],
                *["u", '{"promptTokens":3,"completionTokens":5,"totalTokens":8}'],
                *["f", "stop"],
            ],
        ),
        (encode_entry("error", "no", code="c"), ["k", "error", "d", "no", "c", "c"]),
        (
            encode_entry("status", "retrying", error="why", code="c"),
            ["k", "status", "d", "retrying", "c", "c", "e", "why"],
        ),
        (encode_entry("error", "", code=""), ["k", "error", "d", "", "c", ""]),
    ],
)
def test_an_entry_holds_only_the_fields_that_say_something(
    fields: list[str], expected: list[str]
) -> None:
    assert fields == expected


def test_an_entry_without_fields_is_empty_content_of_one_token() -> None:
    event = decode_entry(["1-1"])
    assert (event.type, event.data, event.tokens, event.usage) == ("content", "", 1, None)


@pytest.mark.parametrize(
    "entry",
    [
        [],
        ["1-1", "d"],
        ["x", "d", "text"],
        ["", "d", "text"],
        ["1-1", "n", "many"],
        ["1-1", "t", "today"],
        ["1-1", "t", "9" * 18],
        ["1-1", "t", "9" * 400],
        ["1-1", "u", "not json"],
        ["1-1", "u", "[]"],
        ["1-1", "u", "{}"],
        ["1-1", "u", "null"],
        ["1-1", "u", '{"promptTokens":null,"completionTokens":1,"totalTokens":1}'],
        *(["1-1", "k", "end", "a", told] for told in ("[1]", "7", '{"1":[]}', '{"one":1}')),
        ["1-1", "d", 5],
        [1, "d", "text"],
        ["1-1", None, "text"],
        5,
        None,
        True,
        "1-1",
        "abc",
        {},
        {"1-1": "d"},
        {"a": 1, "b": 2, "c": 3},
    ],
    ids=lambda entry: str(entry)[:50],
)
def test_a_foreign_entry_is_a_value_error(entry: Any) -> None:  # noqa: ANN401 - as JSON gives it
    # Anybody may publish to the channel: what comes is whatever `json.loads` returned.
    with pytest.raises(ValueError, match=r".+"):
        decode_entry(entry)


@pytest.mark.parametrize(
    "fields",
    [["d", "x"], ["u", "[]"], ["n", "many"], ["d", "abc", "p", "1 0,2 5"], ["p", "nonsense"]],
    ids=str,
)
def test_of_an_entry_of_a_newer_version_only_place_and_time_are_read(fields: list[str]) -> None:
    entry = ["1-7", "k", "unheard-of", *fields, "t", "1700000007000"]
    expected = make_event("unheard-of", at="1-7")  # type: ignore[arg-type]
    assert decode_entry(entry) == expected
    assert expand_entry(entry, after=START) == [expected]
    assert not expected.is_known
    assert not expected.is_terminal


@pytest.mark.parametrize("rest", [{}, {"data": [1]}, {"usage": []}, {"tokens": None}], ids=str)
def test_of_a_frame_of_a_newer_version_only_place_and_time_are_read(rest: dict[str, Any]) -> None:
    wire = {"type": "unheard-of", "timestamp": 1_700_000_007_000} | rest
    event = decode_frame(json.dumps(wire), "1-7")
    assert event == make_event("unheard-of", at="1-7")  # type: ignore[arg-type]
    assert decode_frame('{"type":"ping"}', "").cursor == START


def test_an_error_about_a_foreign_entry_quotes_no_more_than_its_beginning() -> None:
    with pytest.raises(ValueError, match="expected a log entry") as caught:
        decode_entry(["1-1", "x" * 10_000])
    assert len(str(caught.value)) < 200


# The SSE frame


@examples
@given(st.lists(events(), min_size=1, max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_events_survive_an_sse_stream_cut_anywhere(sent: list[TaskEvent], sizes: list[int]) -> None:
    stream = b"".join(encode_frame(TASK_ID, event) for event in sent)
    frames = read_frames(stream, sizes)
    assert [decode_frame(frame.data, frame.id) for frame in frames] == sent
    assert {frame.event for frame in frames} == {"message"}  # what EventSource.onmessage sees


@examples
@given(events())
def test_a_frame_is_an_id_line_and_one_data_line_and_no_event_line(event: TaskEvent) -> None:
    lines = encode_frame(TASK_ID, event).split(b"\n")
    names = [line.partition(b":")[0] for line in lines]
    assert names == ([b"data", b"", b""] if event.cursor == START else [b"id", b"data", b"", b""])
    assert not any(b"\r" in line or b"\0" in line for line in lines)


def test_heartbeat_comments_between_frames_are_no_events() -> None:
    event = make_event("content", "x", at="1-3")
    stream = b": ping\n\n" + encode_frame(TASK_ID, event) + b": ping\n\n"
    frames = [frame for frame in read_frames(stream, [7]) if frame.data]
    assert [decode_frame(frame.data, frame.id) for frame in frames] == [event]


def test_connected_stands_before_the_log_even_after_a_reconnect_gave_it_an_id() -> None:
    connected = TaskEvent(type="connected", cursor=START, time=BEGAN)
    frame = encode_frame(TASK_ID, connected)
    assert b"id:" not in frame
    data = frame.decode().partition("data: ")[2].strip()
    assert decode_frame(data, "2-7").cursor == START


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (make_event("start", "2"), {"type": "start", "data": 2}),
        (make_event("content", "hi"), {"type": "content", "data": "hi"}),
        (make_event("content", "hi", tokens=3), {"type": "content", "data": "hi", "tokens": 3}),
        (
            make_event("end", "all", usage=USAGE, finish_reason="stop"),
            {
                "type": "end",
                "data": "all",
                "usage": {"promptTokens": 3, "completionTokens": 5, "totalTokens": 8},
                "finishReason": "stop",
            },
        ),
        (
            make_event("error", "no", code="bad"),
            {"type": "error", "data": "no", "code": "bad"},
        ),
        (
            make_event("status", "retrying", error="why", code="c"),
            {"type": "status", "data": "retrying", "error": "why", "code": "c"},
        ),
        (make_event("cancelled", "on request"), {"type": "cancelled", "data": "on request"}),
    ],
)
def test_the_wire_form_is_camel_case_with_task_and_milliseconds(
    event: TaskEvent, expected: dict[str, Any]
) -> None:
    common = {"taskId": TASK_ID, "timestamp": 1_700_000_001_000}
    assert to_wire(TASK_ID, event) == expected | common


def test_chinese_is_sent_as_it_is() -> None:
    assert "写一个短故事".encode() in encode_frame(TASK_ID, make_event("content", "写一个短故事"))


def test_unknown_keys_of_a_frame_are_ignored() -> None:
    event = make_event("content", "x")
    data = json.dumps(to_wire(TASK_ID, event) | {"later": {"more": []}})
    assert decode_frame(data, "1-1") == event


@pytest.mark.parametrize(
    ("data", "cursor"),
    [
        ("", "1-1"),
        ("not json", "1-1"),
        ("[]", "1-1"),
        ("5", "1-1"),
        ("null", "1-1"),
        ('"text"', "1-1"),
        ("{}", "1-1"),
        ('{"type":"content"}', "1-1"),
        ('{"type":[],"timestamp":1}', "1-1"),
        ('{"type":"content","timestamp":null}', "1-1"),
        ('{"type":"content","timestamp":1e30}', "1-1"),
        ('{"type":"content","timestamp":1e400}', "1-1"),
        ('{"type":"content","timestamp":1,"tokens":null}', "1-1"),
        ('{"type":"end","timestamp":1,"usage":[]}', "1-1"),
        ('{"type":"end","timestamp":1,"usage":{}}', "1-1"),
        ('{"type":"content","timestamp":1}', "one"),
    ],
)
def test_a_foreign_frame_is_a_value_error(data: str, cursor: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_frame(data, cursor)


@examples
@given(st.integers(0, 4_102_444_800_000))
def test_a_wire_timestamp_survives_the_datetime_and_is_utc(milliseconds: int) -> None:
    time = from_ms(milliseconds)
    assert to_ms(time) == milliseconds
    assert time.utcoffset() == timedelta(0)


def test_terminal_words_are_among_the_words() -> None:
    assert TERMINAL_TYPES < EVENT_TYPES
    assert TERMINAL_STATUSES < STATUSES


# The fold

RETRYING = make_event("status", "retrying", at="1-4", error="model says 500", code="http_500")
FIRST_TRY = [
    make_event("status", "pending", at="0-1"),
    make_event("status", "running", at="1-1"),
    make_event("start", "1", at="1-2"),
    make_event("content", "Hel", at="1-3", tokens=2),
    RETRYING,
]


@pytest.mark.parametrize(
    ("applied", "expected"),
    [
        ([], {"status": "pending", "text": "", "attempt": 0, "is_terminal": False}),
        (FIRST_TRY[:1], {"status": "pending", "cursor": Cursor(0, 1)}),
        (FIRST_TRY[:2], {"status": "running", "attempt": 0}),
        (
            [make_event("start", "1", at="1-1")],
            {"status": "running", "attempt": 1, "started": BEGAN + timedelta(seconds=1)},
        ),
        (FIRST_TRY[:4], {"text": "Hel", "tokens": 2, "status": "running", "error": None}),
        (
            FIRST_TRY,
            {
                "status": "retrying",
                "text": "Hel",
                "error": "model says 500",
                "code": "http_500",
                "is_terminal": False,
                "ended": None,
            },
        ),
        (
            [*FIRST_TRY, make_event("status", "running", at="2-1")],
            {"status": "running", "error": None, "code": None},
        ),
        (
            [*FIRST_TRY, make_event("start", "2", at="2-1")],
            {
                "status": "running",
                "attempt": 2,
                "text": "",
                "tokens": 0,
                "error": None,
                "code": None,
                "first_token": None,
                "cursor": Cursor(2, 1),
            },
        ),
        (
            [
                make_event("start", "1", at="1-1"),
                make_event("content", "ab", at="1-2", tokens=2),
                make_event("content", "c", at="1-9"),
                make_event("status", "completed", at="1-10"),
                make_event("end", "abc", at="1-11", usage=USAGE, finish_reason="length"),
            ],
            {
                "status": "completed",
                "text": "abc",
                "tokens": 3,
                "usage": USAGE,
                "finish_reason": "length",
                "is_terminal": True,
                "started": BEGAN + timedelta(seconds=1),
                "first_token": BEGAN + timedelta(seconds=2),
                "ended": BEGAN + timedelta(seconds=11),
            },
        ),
        (
            [*FIRST_TRY[:4], make_event("error", "bad key", at="1-5", code="invalid_api_key")],
            {
                "status": "failed",
                "error": "bad key",
                "code": "invalid_api_key",
                "text": "Hel",
                "is_terminal": True,
            },
        ),
        (
            [*FIRST_TRY[:4], make_event("cancelled", "on request", at="1-5")],
            {"status": "cancelled", "text": "Hel", "error": None, "is_terminal": True},
        ),
        ([make_event("connected", at="0-0")], {"status": "pending", "cursor": START}),
    ],
)
def test_a_transcript_is_the_fold_of_its_events(
    applied: list[TaskEvent], expected: dict[str, Any]
) -> None:
    transcript = Transcript()
    for event in applied:
        transcript.apply(event)
    assert {name: getattr(transcript, name) for name in expected} == expected


def test_a_higher_attempt_clears_the_text() -> None:
    transcript = Transcript()
    for event in FIRST_TRY:
        transcript.apply(event)
    transcript.apply(make_event("start", "2", at="2-1"))
    transcript.apply(make_event("content", "Bonjour", at="2-2"))
    assert (transcript.text, transcript.tokens, transcript.attempt) == ("Bonjour", 1, 2)
    assert transcript.first_token == BEGAN + timedelta(seconds=2)


def test_connected_does_not_move_the_cursor_back() -> None:
    transcript = Transcript()
    transcript.apply(make_event("content", "x", at="1-3"))
    transcript.apply(TaskEvent(type="connected", cursor=START, time=BEGAN))
    assert (transcript.cursor, transcript.text) == (Cursor(1, 3), "x")


@examples
@given(st.lists(st.tuples(texts, st.booleans()), max_size=20))
def test_looking_at_the_text_does_not_change_what_it_becomes(
    deltas: list[tuple[str, bool]],
) -> None:
    transcript = Transcript()
    for seq, (delta, is_watched) in enumerate(deltas, start=1):
        transcript.apply(make_event("content", delta, at=f"1-{seq}"))
        if is_watched:
            assert transcript.text == "".join(text for text, _ in deltas[:seq])
    assert transcript.text == "".join(text for text, _ in deltas)
    assert transcript.tokens == len(deltas)


@pytest.mark.parametrize("type_", sorted(EVENT_TYPES))
def test_only_end_error_and_cancelled_are_terminal(type_: EventType) -> None:
    event = make_event(type_, "1")
    transcript = Transcript()
    transcript.apply(event)
    assert event.is_terminal is transcript.is_terminal is (type_ in {"end", "error", "cancelled"})


def test_a_usage_is_read_with_and_without_its_details() -> None:
    wire = {"promptTokens": 3, "completionTokens": 5, "totalTokens": 8}
    assert Usage.from_wire(wire) == USAGE
    assert USAGE.to_wire() == wire
    detailed = Usage.from_wire(wire | {"reasoningTokens": 4, "cachedTokens": 0, "newer": 1})
    assert detailed.to_wire() == wire | {"reasoningTokens": 4, "cachedTokens": 0}
    assert repr(USAGE) == "Usage(prompt_tokens=3, completion_tokens=5, total_tokens=8)"
    assert "reasoning_tokens=4" in repr(detailed)
