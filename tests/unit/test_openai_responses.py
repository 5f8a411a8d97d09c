"""The Responses API: what is asked, and what its events say."""

import json
from typing import Any

import pytest

from longtask_kit.errors import NonRetryableError, RetryableError
from longtask_kit.log.events import Usage
from longtask_kit.server.handlers import Delta, Outcome
from longtask_kit.server.openai_decoder import Piece
from longtask_kit.server.openai_request import build_responses_request
from longtask_kit.server.openai_responses import ResponsesDecoder
from longtask_kit.submit.spec import TaskSpec
from tests.unit._model_stream import DONE, frame
from tests.unit._model_stream import decode as decode_with


def decode(*parts: bytes, **options: Any) -> list[Piece | Outcome]:  # noqa: ANN401
    return decode_with(*parts, decoder=ResponsesDecoder, **options)


def event(type_: str, **fields: object) -> bytes:
    """Return an event as the service sends it."""
    body = {"type": type_, "sequence_number": 1, **fields}
    return f"event: {type_}\n".encode() + frame(body)


def text(delta: str) -> bytes:
    return event("response.output_text.delta", output_index=0, content_index=0, delta=delta)


COUNTED = {
    "input_tokens": 3,
    "input_tokens_details": {"cached_tokens": 1},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 8,
}
USAGE = Usage(
    prompt_tokens=3, completion_tokens=5, total_tokens=8, reasoning_tokens=4, cached_tokens=1
)


def response(status: str, **fields: object) -> dict[str, Any]:
    return {"object": "response", "id": "r", "status": status, "error": None, **fields}


CREATED = event("response.created", response=response("in_progress"))
COMPLETED = event("response.completed", response=response("completed", usage=COUNTED, output=[]))
END = Outcome(usage=USAGE, finish_reason="stop")


# The events


def test_text_and_usage_of_a_response() -> None:
    stream = CREATED + text("Hel") + text("lo") + COMPLETED
    assert decode(stream) == decode(stream + DONE) == ["Hel", "lo", END]
    assert decode(*(stream[at : at + 1] for at in range(len(stream)))) == ["Hel", "lo", END]


@pytest.mark.parametrize(
    "name", ["reasoning_text", "reasoning_summary_text", "reasoning", "reasoning_summary"]
)
def test_reasoning_and_its_summary_are_reasoning_part_by_part(name: str) -> None:
    def thought(part: int, delta: str) -> bytes:
        return event(f"response.{name}.delta", item_id="i", summary_index=part, delta=delta)

    stream = CREATED + thought(0, "a") + thought(0, "b") + thought(1, "c") + text("Yes.")
    told = [Delta("reasoning", t) for t in ("a", "b", "\n\nc")]
    assert decode(stream + COMPLETED) == [*told, "Yes.", END]


def test_a_refusal_is_told_as_one() -> None:
    stream = CREATED + event("response.refusal.delta", delta="I can't.") + COMPLETED
    assert decode(stream) == [
        Delta("refusal", "I can't."),
        Outcome(usage=USAGE, finish_reason="refusal"),
    ]


def item(name: str = "weather", arguments: str = "", **more: object) -> dict[str, Any]:
    fields = {"type": "function_call", "id": "i", "call_id": "a", "name": name}
    return fields | {"arguments": arguments} | more


OSLO = '{"city": "Oslo"}'
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": OSLO}}
ADDED = event("response.output_item.added", output_index=1, item=item())
ARGUED = b"".join(
    event("response.function_call_arguments.delta", output_index=1, item_id="i", delta=part)
    for part in (OSLO[:5], OSLO[5:])
)
ALL_ARGUED = event("response.function_call_arguments.done", output_index=1, arguments=OSLO)
ITEM_DONE = event("response.output_item.done", output_index=1, item=item(arguments=OSLO))


@pytest.mark.parametrize(
    "stream",
    [
        ADDED + ARGUED + ALL_ARGUED + ITEM_DONE + COMPLETED,
        ADDED + ARGUED + COMPLETED,
        ADDED + ALL_ARGUED + COMPLETED,
        ITEM_DONE + COMPLETED,
        ADDED + ARGUED + ITEM_DONE + COMPLETED,
        event("response.completed", response=response("completed", output=[item(arguments=OSLO)])),
    ],
)
def test_a_tool_call_is_told_once_and_complete(stream: bytes) -> None:
    [told, outcome] = decode(CREATED + stream)
    assert told == Delta("tool_calls", json.dumps([CALL]))
    assert isinstance(outcome, Outcome)
    assert outcome.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"reason": "max_output_tokens"}, "length"),
        ({"reason": "content_filter"}, "content_filter"),
        (None, "incomplete"),
    ],
)
def test_an_incomplete_response_says_why(details: object, reason: str) -> None:
    ended = response("incomplete", incomplete_details=details, usage=COUNTED)
    expected = ["a", Outcome(usage=USAGE, finish_reason=reason)]
    assert decode(text("a") + event("response.incomplete", response=ended)) == expected


OUTPUT = [
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "message", "content": [{"type": "output_text", "text": "Yes."}]},
    item(arguments=OSLO),
]


def test_of_an_output_behind_reasoning_or_text_what_was_not_streamed_is_new() -> None:
    completed = event("response.completed", response=response("completed", output=OUTPUT))
    thought = event("response.reasoning_text.delta", output_index=0, delta="hm")
    end = [Delta("tool_calls", json.dumps([CALL])), Outcome(finish_reason="tool_calls")]
    assert decode(thought + completed) == [Delta("reasoning", "hm"), "Yes.", *end]
    assert decode(thought + text("Yes.") + completed) == [Delta("reasoning", "hm"), "Yes.", *end]


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_response_in_one_piece_is_an_answer(*, is_stream: bool) -> None:
    whole = response("completed", output=OUTPUT)
    body = event("response.completed", response=whole) if is_stream else json.dumps(whole).encode()
    assert decode(body) == [
        Delta("reasoning", "hm"),
        "Yes.",
        Delta("tool_calls", json.dumps([CALL])),
        Outcome(finish_reason="tool_calls"),
    ]


@pytest.mark.parametrize(
    ("end", "code", "is_final"),
    [
        (
            event(
                "response.failed",
                response=response("failed", error={"code": "server_error", "message": "why"}),
            ),
            "server_error",
            False,
        ),
        (
            event(
                "response.failed",
                response=response("failed", error={"code": "invalid_prompt", "message": "why"}),
            ),
            "invalid_prompt",
            True,
        ),
        (event("error", code="rate_limit_exceeded", message="why"), "rate_limit_exceeded", False),
        (event("error", error={"code": 503, "message": "why"}), "http_503", False),
        (event("response.cancelled", response=response("cancelled")), "model_error", False),
        (json.dumps({"error": {"message": "why", "code": 400}}).encode(), "http_400", True),
    ],
)
def test_a_response_that_failed_is_an_error(end: bytes, code: str, *, is_final: bool) -> None:
    with pytest.raises((RetryableError, NonRetryableError), match=r"why|cancelled") as caught:
        decode(CREATED + text("a") + end)
    told = (vars(caught.value)["code"], isinstance(caught.value, NonRetryableError))
    assert told == (code, is_final)


def test_a_response_without_its_end_is_none() -> None:
    with pytest.raises(RetryableError, match="ended before"):
        decode(CREATED + text("a"))
    with pytest.raises(RetryableError, match="held no answer"):
        decode(CREATED)


def test_an_event_of_a_broken_shape_is_worth_another_attempt() -> None:
    for broken in (
        event("response.refusal.delta"),
        event("response.completed"),
        event("response.output_item.done", item=5),
    ):
        with pytest.raises(RetryableError) as caught:
            decode(CREATED + broken)
        assert caught.value.code == "model_protocol"


# The request


def test_a_conversation_becomes_input_items() -> None:
    asked: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:xx"}},
                {"type": "input_video", "url": "x"},
            ],
        },
        {"role": "assistant", "content": "A cat.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "content": "12 °C"},
        {"role": "user", "content": "Thanks."},
    ]
    request = build_responses_request(TaskSpec(messages=asked), "m")
    assert request == {
        "model": "m",
        "instructions": "Be brief.",
        "max_output_tokens": 1000,
        "temperature": 0.7,
        "stream": True,
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {
                        "type": "input_image",
                        "image_url": "data:image/png;base64,xx",
                        "detail": "auto",
                    },
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:xx"},
                    {"type": "input_video", "url": "x"},
                ],
            },
            {"role": "assistant", "content": "A cat."},
            {"type": "function_call", "call_id": "a", "name": "weather", "arguments": OSLO},
            {"type": "function_call_output", "call_id": "a", "output": "12 °C"},
            {"role": "user", "content": "Thanks."},
        ],
    }


def test_parameters_go_where_they_are_in_this_api_and_others_as_they_are() -> None:
    schema = {"name": "s", "schema": {"type": "object"}, "strict": True}
    function = {"name": "weather", "parameters": {"type": "object"}}
    params = {
        "response_format": {"type": "json_schema", "json_schema": schema},
        "verbosity": "low",
        "reasoning_effort": "high",
        "reasoning": {"summary": "auto"},
        "tools": [{"type": "function", "function": function}, {"type": "web_search"}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "max_completion_tokens": 7,
        "top_p": 0.5,
        "store": False,
    }
    spec = TaskSpec(prompt="hi", model="mine", temperature=None, params=params)
    assert build_responses_request(spec, "m") == {
        "model": "mine",
        "input": [{"role": "user", "content": "hi"}],
        "stream": True,
        "max_output_tokens": 7,
        "text": {"format": {"type": "json_schema", **schema}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "tools": [{"type": "function", **function}, {"type": "web_search"}],
        "tool_choice": {"type": "function", "name": "weather"},
        "top_p": 0.5,
        "store": False,
    }
    assert spec.params == params


def test_what_is_left_to_the_service_is_not_asked() -> None:
    spec = TaskSpec(prompt="hi", max_tokens=None, temperature=None)
    assert set(build_responses_request(spec, "m")) == {"model", "input", "stream"}
