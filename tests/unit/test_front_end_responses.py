"""The Responses server's pure half: events to a response's events, a body to a task and back."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from longtask_kit.errors import SubmitError
from longtask_kit.log.events import TaskEvent
from longtask_kit.server.front_ends.latest import drop_dead
from longtask_kit.server.front_ends.responses import Facts, Frame, ResponseFold
from longtask_kit.server.front_ends.responses_request import (
    describe_asked,
    find_asked,
    list_items,
    make_task,
)
from tests.unit._task_events import END, PENDING, begin, say, tell

FACTS = Facts(
    response_id="resp_x",
    created_at=1,
    model="demo",
    asked=describe_asked(make_task({"input": "x"}).to_wire()),
)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def stream(events: Iterable[TaskEvent], *, is_streamed: bool = True) -> list[Frame]:
    fold = ResponseFold(FACTS, is_streamed=is_streamed)
    return [*fold.open(), *(frame for event in events for frame in fold.feed(event))]


def texts(frames: Sequence[Frame]) -> str:
    return "".join(f.body["delta"] for f in frames if f.type == "response.output_text.delta")


def kinds(frames: Sequence[Frame]) -> list[str]:
    return [frame.type.removeprefix("response.") for frame in frames]


WHOLE = [
    *PENDING,
    *begin(
        1,
        ("reasoning", "Hm"),
        *say("Hel", "lo"),
        ("data", '{"a":1}'),
        ("refusal", "No"),
        ("tool_calls", json.dumps(CALLS)),
        END,
    ),
]


def test_a_text_is_told_in_the_order_that_the_sdks_want() -> None:
    frames = stream([*PENDING, *begin(1, *say("Hel", "lo"), END)])
    assert kinds(frames) == [
        *("created", "queued", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    response = frames[-1].body["response"]
    assert response["output"][0]["content"][0]["text"] == "Hello"
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}


@pytest.mark.parametrize(
    "events",
    [
        WHOLE,
        [*PENDING, *begin(1, *say("x"), ("end", "length"))],
        [*PENDING, *begin(1, *say("x"), ("error", "broken"))],
        [*PENDING, *begin(1, *say("x"), ("cancelled", "on request"))],
        [*PENDING, *tell(0, ("cancelled", "on request"), after=1)],
        [*PENDING, *begin(1, *say("x")), *begin(2, *say("y"))],
    ],
)
def test_every_event_is_one_that_openais_own_types_take(events: list[TaskEvent]) -> None:
    frames = stream(events)
    for frame in frames:
        name, data, *rest = frame.encode().decode().split("\n")
        assert (name, rest) == (f"event: {frame.type}", ["", ""])
        EVENT.validate_json(data.removeprefix("data: "), strict=True)
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0


def test_whatever_a_model_says_is_in_the_response() -> None:
    output = stream(WHOLE)[-1].body["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert [part["type"] for part in output[1]["content"]] == ["output_text", "refusal"]
    assert (output[2]["name"], output[2]["call_id"]) == ("f", "call_1")


@pytest.mark.parametrize(
    ("last", "status", "type_"),
    [
        (END, "completed", "response.completed"),
        (("end", "length"), "incomplete", "response.incomplete"),
        (("end", "content_filter"), "incomplete", "response.incomplete"),
        (("end", "tool_calls"), "completed", "response.completed"),
        (("error", "broken"), "failed", "response.failed"),
        (("cancelled", "on request"), "cancelled", "response.failed"),
    ],
)
def test_each_end_has_its_event(last: tuple[str, str], status: str, type_: str) -> None:
    frame = stream([*PENDING, *begin(1, *say("x"), last)])[-1]
    assert (frame.type, frame.body["response"]["status"]) == (type_, status)
    Response.model_validate(frame.body["response"])


def test_who_reads_as_an_attempt_starts_over_is_told_that_it_failed() -> None:
    frames = stream([*PENDING, *begin(1, *say("old")), *begin(2)])
    assert frames[-1].type == "response.failed"
    assert "starts over" in frames[-1].body["response"]["error"]["message"]
    assert frames[-1].number > frames[-2].number


def test_an_attempt_that_had_said_nothing_may_start_over_unnoticed() -> None:
    frames = stream([*PENDING, *begin(1), *begin(2, *say("new"), END)])
    assert (texts(frames), frames[-1].type) == ("new", "response.completed")
    assert kinds(frames).count("in_progress") == 1


def test_who_comes_later_gets_the_latest_attempt_under_higher_numbers() -> None:
    first = stream([*PENDING, *begin(1, *say("old", "er"))])
    log = [*PENDING, *begin(1, *say("old", "er")), *begin(2, *say("new"), END)]
    frames = stream(drop_dead(log))
    assert texts(frames) == "new"
    assert frames[:3] == first[:3], "what both have is the same under the same numbers"
    assert all(frame.number > first[-1].number for frame in frames[3:])


def test_an_attempt_that_continues_is_the_same_response() -> None:
    log = [*PENDING, *begin(1, *say("Hel"))]
    log += tell(2, ("status", "running"), ("continue", "2"), *say("lo"), END)
    frames = stream(drop_dead(log))
    assert (texts(frames), frames[-1].type) == ("Hello", "response.completed")
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))


def test_a_place_in_an_attempt_that_was_started_over_is_known_for_one() -> None:
    seen = {f.type: f.number for f in stream([*PENDING, *begin(1, *say("old"))])}
    fold = ResponseFold(FACTS)
    log = drop_dead([*PENDING, *begin(1, *say("old")), *begin(2)])
    numbers = {f.number for f in fold.open()} | {f.number for e in log for f in fold.feed(e)}
    assert fold.is_dead(seen["response.output_text.delta"], numbers)
    assert not fold.is_dead(seen["response.in_progress"], numbers), "nothing was said by then"
    assert not fold.is_dead(seen["response.queued"], numbers)


def test_who_polls_gets_the_latest_attempt_so_far() -> None:
    fold = ResponseFold(FACTS, is_streamed=False)
    statuses = []
    for event in [*PENDING, *begin(1, *say("old")), *begin(2, *say("new"), END)]:
        list(fold.feed(event))
        statuses.append(fold.describe()["status"])
    assert [*dict.fromkeys(statuses)] == ["queued", "in_progress", "completed"]
    [message] = fold.describe()["output"]
    assert message["content"][0]["text"] == "new"


# -- what is asked ------------------------------------------------------------------------------


def test_a_request_is_a_task_and_the_response_repeats_it() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    tool = {"type": "function", "name": "f", "parameters": {}}
    body = {
        "model": "m",
        "input": "Hi",
        "instructions": "Be brief.",
        "max_output_tokens": 7,
        "temperature": 0.5,
        "metadata": {"a": "b"},
        "text": {"format": schema, "verbosity": "low"},
        "reasoning": {"effort": "low"},
        "tools": [tool],
        "tool_choice": {"type": "function", "name": "f"},
        "top_p": 0.9,
        "seed": 7,
    }
    spec = make_task(body)
    assert spec.to_messages()[0] == {"role": "system", "content": "Be brief."}
    assert (spec.model, spec.max_tokens, spec.temperature) == ("m", 7, 0.5)
    assert spec.params["response_format"]["json_schema"]["name"] == "n"
    assert spec.params["tools"][0]["function"]["name"] == "f"
    assert (spec.params["reasoning_effort"], spec.params["seed"]) == ("low", 7)
    told = describe_asked(spec.to_wire())
    for name in ("instructions", "max_output_tokens", "temperature", "metadata", "tools"):
        assert told[name] == body[name]
    assert told["text"] == body["text"]
    assert told["tool_choice"] == body["tool_choice"]
    assert find_asked(spec.to_wire()) == [{"role": "user", "content": "Hi"}]


def test_what_is_left_out_is_the_model_services_to_choose() -> None:
    spec = make_task({"input": "x"})
    assert (spec.max_tokens, spec.temperature, dict(spec.params)) == (None, None, {})


def test_items_are_messages_and_come_back_as_items() -> None:
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "d"},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": "data:,", "detail": "low"},
            ],
        },
        {"type": "reasoning", "id": "rs", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"role": "assistant", "status": "in_progress", "content": "half"},
    ]
    wire = make_task({"input": items}).to_wire()
    assert [m["role"] for m in wire["messages"]] == [
        "developer",
        "user",
        *["assistant"] * 2,
        "tool",
    ]
    assert [c["id"] for c in wire["messages"][3]["tool_calls"]] == ["c1", "c2"]
    assert "half" not in json.dumps(wire), "what a model had not finished, it never said"
    listed = list_items(wire, "x")
    assert [item["type"] for item in listed] == [
        *["message"] * 3,
        *["function_call"] * 2,
        "function_call_output",
    ]
    assert len({item["id"] for item in listed}) == len(listed)
    assert listed[1]["content"][1] == {
        "type": "input_image",
        "image_url": "data:,",
        "detail": "low",
    }


def test_what_is_listed_can_be_asked_again() -> None:
    items: list[dict[str, Any]] = [
        {"type": "function_call", "call_id": "c1", "name": "see", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [
                {"type": "input_text", "text": "a river"},
                {"type": "input_image", "image_url": "data:,", "detail": "auto"},
            ],
        },
        {"role": "user", "content": "Do harm"},
    ]
    refused = {"role": "assistant", "content": None, "refusal": "I can't."}
    wire = make_task({"input": items}).to_wire()
    wire["messages"].append(refused)  # as it comes by previous_response_id
    listed = list_items(wire, "x")
    assert listed[1]["output"] == items[1]["output"]
    assert listed[3]["content"] == [{"type": "refusal", "refusal": "I can't."}]
    again = list_items(make_task({"input": listed}).to_wire(), "x")
    assert again == listed


@pytest.mark.parametrize("status", ["in_progress", "incomplete"])
def test_what_a_model_had_not_finished_does_not_come_back_as_whole(status: str) -> None:
    """A script hands `response.output` on, also of a response that was cancelled."""
    fold = ResponseFold(FACTS)
    for event in begin(1, *say("half a"), ("cancelled", "x")):
        list(fold.feed(event))
    said = fold.describe()["output"]
    assert said[0]["status"] == "incomplete"
    call = {
        "type": "function_call",
        "call_id": "c1",
        "name": "f",
        "arguments": '{"a',
        "status": status,
    }
    kept = [
        {"role": "user", "content": "hi", "status": status},
        {"role": "assistant", "content": "whole", "status": "completed"},
        {"role": "assistant", "content": "as it was"},
    ]
    unfinished = [
        *said,
        {"role": "assistant", "content": "x", "status": status},
    ]
    messages = make_task({"input": [*unfinished, call, *kept]}).to_wire()["messages"]
    assert [message["content"] for message in messages] == ["hi", "whole", "as it was"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
        ({"input": "x", "store": False}, "store"),
        ({"input": "x", "prompt": {"id": "p"}}, "prompt"),
        ({"input": "x", "truncation": "auto"}, "truncation"),
        ({"input": "x", "top_logprobs": 3}, "top_logprobs"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools"),
        ({"input": "x", "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"input": []}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "[0]",
        ),
        ({"input": [{"role": "nobody", "content": "x"}]}, "input[0].role"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_is_not_served_is_refused_by_name(body: dict[str, Any], named: str) -> None:
    with pytest.raises(SubmitError) as caught:
        make_task(body)
    assert named in str(caught.value)


def test_a_conversation_goes_on_without_the_instructions_before() -> None:
    first = make_task({"input": "one", "instructions": "I"}).to_wire()
    before = [*find_asked(first), {"role": "assistant", "content": "1"}]
    spec = make_task({"input": "two", "previous_response_id": "resp_1"}, before=before)
    assert [m["content"] for m in spec.to_messages()] == ["one", "1", "two"]
    assert describe_asked(spec.to_wire())["previous_response_id"] == "resp_1"


def test_a_task_that_was_submitted_otherwise_is_a_response_too() -> None:
    wire = {"prompt": "hi", "system": "s", "maxTokens": 5}
    assert describe_asked(wire)["instructions"] == "s"
    assert find_asked(wire) == [{"role": "user", "content": "hi"}]
