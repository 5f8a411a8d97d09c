"""The model's stream as bytes, and what it says."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from longtask_kit.errors import NonRetryableError, RetryableError
from longtask_kit.log.events import Usage
from longtask_kit.server.handlers import Delta, Outcome
from longtask_kit.server.openai_chat import ChatDecoder
from longtask_kit.server.openai_decoder import Piece
from longtask_kit.server.openai_stream import decode_stream
from tests.unit._model_stream import DONE, USAGE, collect, decode, delta, frame

examples = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
texts = st.text(max_size=12)

ROLE = frame({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
COUNTED = frame({"choices": [], "usage": USAGE})
STREAM = ROLE + delta("Hé") + delta("家👩‍🔬\n\0") + delta("", "stop") + COUNTED + DONE
ITEMS: list[Piece | Outcome] = [
    "Hé",
    "家👩‍🔬\n\0",
    Outcome(usage=Usage(**USAGE), finish_reason="stop"),
]


def test_deltas_come_one_by_one_and_the_outcome_last() -> None:
    assert decode(STREAM) == ITEMS


def test_a_stream_cut_in_two_at_any_byte_gives_the_same_items() -> None:
    async def cut_everywhere() -> list[int]:
        return [
            at
            for at in range(len(STREAM) + 1)
            if await collect([STREAM[:at], STREAM[at:]]) != ITEMS
        ]

    assert asyncio.run(cut_everywhere()) == []


def test_a_stream_that_comes_byte_by_byte_gives_the_same_items() -> None:
    assert decode(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == ITEMS


@examples
@given(st.lists(st.text(min_size=1, max_size=12), max_size=6), st.data())
def test_any_text_survives_any_cut(deltas: list[str], data: st.DataObject) -> None:
    deltas = ["a", *deltas]  # blanks at the beginning wait for what follows
    stream = b"".join(map(delta, deltas)) + delta("", "stop") + DONE
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    ends = [0, *cuts, len(stream)]
    parts = [stream[a:b] for a, b in itertools.pairwise(ends)]
    assert decode(*parts) == [*deltas, Outcome(finish_reason="stop")]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (STREAM.replace(b"\n", b"\r\n"), ITEMS),
        (b": a comment\n\n" + STREAM.replace(DONE, b": data: x\n\n" + DONE), ITEMS),
        (STREAM.replace(b"data: ", b"data:"), ITEMS),
        (b"".join(b"event: chunk\nid: 7\nretry: 5\n" + f for f in [delta("a"), DONE]), ["a"]),
        (b"\n\n\n" + delta("a") + b"\n\n" + DONE, ["a"]),
        (delta("a").strip() + b"\n" + DONE.strip() + b"\n", ["a"]),  # no blank lines between
        (delta("a") + DONE + DONE, ["a"]),
        (delta(None) + delta("") + delta("a") + DONE, ["a"]),
        (frame({"choices": [{"delta": None}]}) + delta("a") + DONE, ["a"]),
        (frame({"choices": [{}]}) + frame({"choices": None}) + delta("a") + DONE, ["a"]),
        (frame({"error": None, "choices": [], "usage": None}) + delta("a") + DONE, ["a"]),
        (b"\xef\xbb\xbf" + delta("a") + DONE, ["a"]),
        (b"\xef\xbb\xbf: hello\n\n" + delta("a") + DONE, ["a"]),
        (delta("a") + DONE.strip(), ["a"]),
        (b'data: {"choices":[{"delta":{"content":"\\ud83d\\ude00"}}]}\n\n' + DONE, ["😀"]),
    ],
)
def test_variants_of_the_stream_mean_the_same(
    stream: bytes, expected: list[Piece | Outcome]
) -> None:
    items = decode(stream)
    assert items == (expected if expected == ITEMS else [*expected, Outcome()])


_CHUNKS = st.fixed_dictionaries(
    {
        "choices": st.tuples(
            st.fixed_dictionaries({"delta": st.fixed_dictionaries({"content": texts})})
        )
    }
)


@examples
@given(st.lists(_CHUNKS, max_size=5), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_whatever_the_sdk_reads_is_read_the_same(
    chunks: list[dict[str, Any]], line_end: bytes, data: st.DataObject
) -> None:
    events = []
    indents = st.sampled_from([None, 1])  # with one an event takes several lines
    bodies = [json.dumps(chunk, indent=data.draw(indents)) for chunk in chunks]
    stop = {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}
    for text in [*bodies, json.dumps(stop), "[DONE]"]:
        fields = [f"data: {line}" for line in text.split("\n")]
        odd = st.lists(st.sampled_from([": comment", "event: x", "id: 7", "retry: 5", "other"]))
        events.append("\n".join([*data.draw(odd), *fields, *data.draw(odd), "", ""]))
    stream = "".join(events).encode().replace(b"\n", line_end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    parts = [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]
    read = [event.data for event in SSEDecoder().iter_bytes(iter(parts))]
    said = [json.loads(d)["choices"][0]["delta"]["content"] for d in read if d != "[DONE]"]
    assert len(said) == len(chunks) + 1
    *told, outcome = decode(*parts)
    assert "".join(map(str, told)) == "".join(filter(None, said))
    assert outcome == Outcome(finish_reason="stop")


def test_a_finish_reason_is_an_end_even_without_done() -> None:
    assert decode(delta("a") + delta("", "length")) == ["a", Outcome(finish_reason="length")]


def test_a_last_chunk_does_not_take_the_finish_reason_back() -> None:
    stream = delta("a", "length") + delta(None) + COUNTED + DONE
    assert decode(stream) == ["a", Outcome(usage=Usage(**USAGE), finish_reason="length")]


def test_the_latest_usage_counts() -> None:
    growing = frame({"choices": [], "usage": USAGE | {"total_tokens": 4}})
    expected = ["a", Outcome(usage=Usage(**USAGE))]
    assert decode(growing + delta("a") + COUNTED + DONE) == expected


@pytest.mark.parametrize(
    ("more", "reasoning", "cached"),
    [
        ({"cost": 0.1, "prompt_tokens_details": {"audio_tokens": 0}}, None, None),
        ({"prompt_tokens_details": None, "completion_tokens_details": None}, None, None),
        ({"prompt_tokens_details": {"cached_tokens": 1}}, None, 1),
        ({"completion_tokens_details": {"reasoning_tokens": 4}}, 4, None),
        ({"completion_tokens_details": {"reasoning_tokens": 0}, "reasoning_tokens": 9}, 0, None),
        ({"reasoning_tokens": 4, "cached_tokens": 1}, 4, 1),
        ({"prompt_cache_hit_tokens": 2}, None, 2),
        ({"completion_tokens_details": {"reasoning_tokens": "4"}}, None, None),
    ],
    ids=str,
)
def test_usage_has_its_details(
    more: dict[str, Any], reasoning: int | None, cached: int | None
) -> None:
    [_, outcome] = decode(delta("a") + frame({"choices": [], "usage": USAGE | more}) + DONE)
    usage = Usage(**USAGE, reasoning_tokens=reasoning, cached_tokens=cached)
    assert outcome == Outcome(usage=usage)
    assert Usage.from_wire(usage.to_wire()) == usage


@pytest.mark.parametrize(
    "last",
    [
        frame({"choices": [{"delta": {}, "finish_reason": "stop", "usage": USAGE}]}),
        frame(
            {"choices": [{"delta": {}, "finish_reason": "stop"}], "x_groq": {"usage": USAGE}},
        ),
        delta("", "stop") + frame({"usage": {"prompt_tokens": 3, "completion_tokens": 5}}),
    ],
)
def test_usage_is_found_wherever_a_server_puts_it(last: bytes) -> None:
    expected = Outcome(usage=Usage(**USAGE), finish_reason="stop")
    assert decode(delta("a") + last + DONE) == ["a", expected]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": None, "completion_tokens": 5, "total_tokens": 8},
        {"prompt_tokens": 3, "completion_tokens": 5},
        {"prompt_tokens": "3", "completion_tokens": [], "total_tokens": {}},
        [],
        5,
    ],
    ids=str,
)
def test_an_odd_usage_never_costs_the_answer_and_never_reaches_the_log(usage: object) -> None:
    # The text is paid for. An entry with `null` counts would be unreadable for ever.
    *text, outcome = decode(delta("a") + frame({"choices": [], "usage": usage}) + DONE)
    assert text == ["a"]
    assert isinstance(outcome, Outcome)
    counts = () if outcome.usage is None else tuple(outcome.usage.to_wire().values())
    assert all(isinstance(count, int) for count in counts)


def test_an_odd_finish_reason_never_reaches_the_log() -> None:
    chunk = {"choices": [{"delta": {"content": "a"}, "finish_reason": 5}]}
    try:
        outcome = decode(frame(chunk) + DONE)[-1]
    except RetryableError:
        return
    assert isinstance(outcome, Outcome)
    assert outcome.finish_reason is None or isinstance(outcome.finish_reason, str)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"", "model_connection"),
        (b": only a comment\n\n", "model_connection"),
        (delta("a"), "model_connection"),
        (delta("a") + COUNTED, "model_connection"),
        (delta("a") + delta("b", "stop").rstrip()[:-5], "model_connection"),
        (b'{"error":{"message":"not SSE"}}', "model_error"),
        (b"data: not json\n\n", "model_protocol"),
        (b"data: {\n\n", "model_protocol"),
        (b"data: \xff\xfe\n\n", "model_protocol"),
        (frame({"choices": [None]}), "model_protocol"),
        (frame({"choices": 5}), "model_protocol"),
        (frame({"choices": [{"delta": 5}]}), "model_protocol"),
        (delta(5), "model_protocol"),
        (delta([5]), "model_protocol"),
        (frame({"error": {"message": "overloaded"}}), "model_error"),
        (delta("a") + frame({"error": "overloaded"}), "model_error"),
    ],
)
def test_a_broken_stream_is_worth_another_attempt(stream: bytes, code: str) -> None:
    with pytest.raises(RetryableError) as caught:
        decode(stream + (DONE if code == "model_protocol" else b""))
    assert caught.value.code == code


# Errors in a stream, wherever they stand

BAD = {"message": "the prompt is too long", "type": "BadRequestError", "code": 400}
BAD_TEXT = json.dumps(BAD).encode()


@pytest.mark.parametrize(
    "said",
    [
        frame({"error": BAD}),
        frame({"object": "error", "param": None} | BAD),
        frame({"type": "error", "error": BAD}),
        frame(BAD | {"type": "error"}),
        frame(BAD),
        frame({"error": True} | BAD),
        frame({"detail": BAD["message"], "status": 400}),
        frame({"errors": [BAD], "status_code": "422"}),
        frame({"choices": [{"index": 0, "delta": {}, "error": BAD}]}),
        frame({"choices": [{"delta": {}, "finish_reason": "error"} | BAD]}),
        frame({"choices": [{"delta": {}, "finish_reason": "network_error"} | BAD]}),
        frame({"error": BAD, "choices": [{"delta": {"content": ""}, "finish_reason": "error"}]}),
        b"error: " + BAD_TEXT + b"\n\n",
        b"error: HTTP 400, the prompt is too long\n\n",
        b"event: error\ndata: " + BAD_TEXT + b"\n\n",
        b"event: error\ndata: the prompt is too long\n\n",
        b'event: error\ndata: "the prompt is too long"\n\n',
        BAD_TEXT.join([b'{"error":', b"}\n"]),
    ],
)
@pytest.mark.parametrize("before", [[], ["Hello "]], ids=["at once", "mid-stream"])
def test_an_error_is_told_wherever_it_stands(said: bytes, before: list[str]) -> None:
    with pytest.raises((RetryableError, NonRetryableError), match="the prompt is too long"):
        decode(b"".join(map(delta, before)) + said + DONE)


@pytest.mark.parametrize(
    ("error", "code", "is_final"),
    [
        (BAD, "http_400", True),
        ({"message": "m", "code": "429"}, "http_429", False),
        ({"message": "m", "code": 503}, "http_503", False),
        ({"message": "m", "code": "rate_limit_exceeded"}, "rate_limit_exceeded", False),
        ({"message": "m", "type": "overloaded_error"}, "model_error", False),
        ({"message": "m", "type": "invalid_request_error"}, "model_error", True),
        ({"message": "m", "code": "context_length_exceeded"}, "context_length_exceeded", True),
        ({"message": "Insufficient balance", "code": 429}, "insufficient_quota", True),
        ("Insufficient Balance", "insufficient_quota", True),
        ({"message": "m", "code": {"a": 1}}, "model_error", False),
    ],
    ids=str,
)
def test_an_error_in_the_stream_is_judged_as_one_instead_of_it(
    error: object, code: str, *, is_final: bool
) -> None:
    with pytest.raises((RetryableError, NonRetryableError)) as caught:
        decode(frame({"error": error}))
    told = (vars(caught.value)["code"], isinstance(caught.value, NonRetryableError))
    assert told == (code, is_final)


@pytest.mark.parametrize(
    "extra",
    [
        frame(None),
        frame(5),
        frame([]),
        frame({}),
        frame({"type": "ping"}),
        frame({"object": "usage.partial", "message": "12 tokens so far"}),
        b"data: ping\n\n",
        b"data: ping\n",
        b"event: ping\ndata: {}\n\n",
        b"data:\n\n",
        b"a line of no field at all\n\n",
    ],
)
def test_what_is_neither_answer_nor_error_is_passed_over(extra: bytes) -> None:
    stream = extra + delta("a") + extra + delta("b", "stop") + extra + DONE
    assert decode(stream) == ["a", "b", Outcome(finish_reason="stop")]


def test_an_error_event_without_a_word_is_one() -> None:
    with pytest.raises(RetryableError, match="no explanation"):
        decode(delta("a") + b"event: error\n\n" + DONE)


# What is no answer


@pytest.mark.parametrize(
    "stream",
    [
        DONE,
        ROLE + DONE,
        COUNTED + DONE,
        delta("") + delta(None) + DONE,
        frame({"choices": [{}]}) + frame({"choices": None}) + DONE,
        frame({"type": "ping"}) + DONE,
    ],
)
def test_neither_a_delta_nor_a_finish_reason_is_no_answer_whatever_done_says(
    stream: bytes,
) -> None:
    with pytest.raises(RetryableError, match="held no answer"):
        decode(stream)


def test_a_finish_reason_alone_is_an_empty_answer() -> None:
    assert decode(delta(None, "stop") + DONE) == [Outcome(finish_reason="stop")]


@pytest.mark.parametrize(
    ("body", "content_type", "told"),
    [
        (b"<html>\n<p>Blocked by gateway</p>", "text/html; charset=utf-8", "text/html.*Blocked"),
        (b"<html>Blocked by gateway</html>", "text/event-stream", "Blocked by gateway"),
        (b"upstream said no\n", "text/plain", "text/plain.*upstream said no"),
        (b'{"status": "queued"}', "application/json", "application/json.*queued"),
        (frame({"base_resp": {"status_msg": "login fail"}}), "text/event-stream", "login fail"),
        (b"data: please log in\n\n", "text/event-stream", "please log in"),
        (frame({"type": "ping"}) + frame({"msg": "no room"}), "text/event-stream", "no room"),
        (b"", "text/html", "text/html"),
    ],
)
@pytest.mark.parametrize("end", [b"", b"\n\n", b"\n\n" + DONE])
def test_what_came_instead_of_an_answer_is_quoted(
    body: bytes, content_type: str, told: str, end: bytes
) -> None:
    with pytest.raises(RetryableError, match=f"(?s){told}"):
        decode(body + end, content_type=content_type)


def test_a_quote_holds_neither_the_key_nor_half_a_surrogate_pair_nor_a_whole_page() -> None:
    page = b"<html>sk-canary \xf0\x9f" + b"x" * 100_000
    with pytest.raises(RetryableError) as caught:
        decode(page, key="sk-canary", content_type="text/html")
    assert "sk-canary" not in str(caught.value)
    assert len(str(caught.value).encode()) < 1000


@pytest.mark.parametrize("indent", [None, 1])
def test_an_error_as_json_instead_of_a_stream_is_an_error_answer(indent: int | None) -> None:
    error = {"message": "Insufficient balance", "code": "invalid_request_error"}
    body = json.dumps({"error": error}, indent=indent).encode()
    with pytest.raises(NonRetryableError, match="Insufficient balance"):
        decode(body, content_type="application/json")


@pytest.mark.parametrize("indent", [None, 1])
def test_an_answer_in_one_piece_of_json_is_an_answer(indent: int | None) -> None:
    message = {"role": "assistant", "content": "Hello\nworld"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"object": "chat.completion", "choices": [choice], "usage": USAGE}
    body = json.dumps(whole, indent=indent).encode()
    expected = ["Hello\nworld", Outcome(usage=Usage(**USAGE), finish_reason="stop")]
    assert decode(body, content_type="application/json") == expected


# Text elsewhere than in `delta.content`


def choice_of(**fields: object) -> bytes:
    return frame({"choices": [{"index": 0, "finish_reason": None, **fields}]})


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (delta([{"type": "text", "text": "a"}]), "a"),
        (delta({"type": "text", "text": "a"}), "a"),
        (delta([{"type": "output_text", "text": "a"}, {"type": "reference", "ids": [1]}]), "a"),
        (delta(["a"]), "a"),
        (choice_of(text="a"), "a"),
        (choice_of(message={"content": "a"}), "a"),
        (choice_of(message={"content": [{"type": "text", "text": "a"}]}), "a"),
        (choice_of(delta={}, message={"content": "a"}), "a"),
        (choice_of(delta={"role": "assistant", "content": "a", "vendor": 1}), "a"),
        (choice_of(delta={"role": "assistant"}, text="a"), "a"),
        (choice_of(delta={"role": "assistant", "content": ""}, text="a"), "a"),
        (choice_of(delta={"role": "assistant"}, message={"content": "a"}), "a"),
        (choice_of(delta={"role": "assistant", "content": ""}, message={"content": "a"}), "a"),
    ],
)
def test_text_is_found_wherever_a_server_puts_it(said: bytes, text: str) -> None:
    assert decode(said + DONE) == [text, Outcome()]


def test_a_message_that_repeats_what_the_deltas_said_is_not_said_twice() -> None:
    repeat = choice_of(message={"content": "ab"})
    assert decode(delta("a") + delta("b", "stop") + repeat + DONE)[:-1] == ["a", "b"]


def test_of_a_message_behind_reasoning_the_answer_is_new() -> None:
    thought = choice_of(delta={"reasoning_content": "hm"})
    message = choice_of(message={"reasoning_content": "hm", "content": "ab"})
    told = Delta("reasoning", "hm")
    assert decode(thought + message + DONE)[:-1] == [told, "ab"]
    streamed = thought + delta("a") + delta("b", "stop")
    assert decode(streamed + message + DONE)[:-1] == [told, "a", "b"]


# Where an answer ends

BROKEN = RetryableError("The model's connection broke mid-stream.", code="model_connection")


@pytest.mark.parametrize(
    "late",
    [frame({"error": {"message": "late"}}), b"data: {\n\n", delta("late"), b"<html>", delta(5)],
)
def test_nothing_that_comes_behind_done_counts(late: bytes) -> None:
    whole = delta("a") + DONE
    assert decode(whole + late) == decode(whole, late, then=BROKEN) == ["a", Outcome()]


def test_nothing_is_read_behind_done() -> None:
    async def feed() -> AsyncIterator[bytes]:
        yield delta("a") + DONE
        pytest.fail("a held connection would hold the answer")

    async def read() -> list[Piece | Outcome]:
        return [item async for item in decode_stream(feed(), ChatDecoder())]

    assert asyncio.run(read()) == ["a", Outcome()]


@pytest.mark.parametrize("late", [b"", frame({"error": {"message": "late"}}), b"data: {\n\n"])
def test_a_cut_behind_a_finish_reason_takes_nothing_back(late: bytes) -> None:
    whole = [delta("a"), delta("b", "stop")]
    assert decode(*whole, late, then=BROKEN) == ["a", "b", Outcome(finish_reason="stop")]


def test_a_cut_before_it_does() -> None:
    with pytest.raises(RetryableError, match="broke mid-stream"):
        decode(delta("a"), delta("b"), then=BROKEN)


def test_what_came_before_the_break_was_yielded() -> None:
    seen: list[Piece | Outcome] = []

    async def feed() -> AsyncIterator[bytes]:
        yield delta("a") + delta("b") + frame({"error": {"message": "overloaded"}})

    async def follow() -> None:
        async for item in decode_stream(feed(), ChatDecoder()):
            seen.append(item)

    with pytest.raises(RetryableError, match="overloaded"):
        asyncio.run(follow())
    assert seen == ["a", "b"]


def test_half_a_surrogate_pair_in_an_error_chunk_can_still_be_stored() -> None:
    with pytest.raises(RetryableError) as caught:
        decode(b'data: {"error":{"message":"bad \\ud83d"}}\n\n')
    assert str(caught.value).encode()


def test_an_error_chunk_that_quotes_the_key_is_stored_without_it() -> None:
    with pytest.raises(RetryableError, match=r"Incorrect API key: \*\*\*"):
        decode(b'data: {"error":{"message":"Incorrect API key: sk-canary"}}\n\n', key="sk-canary")
