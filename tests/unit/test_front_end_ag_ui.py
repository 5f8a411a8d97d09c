"""AG-UI's pure half: a task's events to a run's events, a run's input to a task."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from longtask_kit.errors import SubmitError
from longtask_kit.log.events import TaskEvent
from longtask_kit.server.front_ends.ag_ui import Run, RunFold
from longtask_kit.server.front_ends.ag_ui_request import (
    digest_question,
    drop_answer,
    find_answers,
    make_task,
)
from longtask_kit.server.front_ends.ag_ui_routes import knows_cancelled
from longtask_kit.server.front_ends.latest import drop_dead
from tests.unit._task_events import END, PENDING, begin, say, tell

ASKED = {"id": "q", "role": "user", "content": "Explain tides"}
RUN = Run(thread_id="t", run_id="r", task_id="task_1", model="demo", messages=[ASKED])
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
OURS = "task_1234567890abcdefghij"
BODY: dict[str, Any] = {"threadId": "t", "runId": "r"}


def stream(events: Iterable[TaskEvent], run: Run = RUN) -> list[dict[str, Any]]:
    fold = RunFold(run)
    frames = [*fold.open(), *(frame for event in events for frame in fold.feed(event))]
    read = []
    for frame in frames:
        text = frame.decode()
        assert text.startswith("data: {")
        assert text.endswith("}\n\n")
        assert "null" not in text, "an absent value is left out: a null is refused"
        read.append(json.loads(text.removeprefix("data: ")))
    return read


def kinds(events: Iterable[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events if event["type"] != "CUSTOM"]


def make(messages: list[Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    options = {name: more.pop(name) for name in ("answers", "allow_system") if name in more}
    return make_task(BODY | more, messages, **options).to_wire()


def test_a_text_is_told_in_the_order_that_the_client_verifies() -> None:
    told = stream([*PENDING, *begin(1, ("reasoning", "Hm"), *say("Hel", "lo"), END)])
    assert kinds(told) == [
        *("RUN_STARTED", "REASONING_START", "REASONING_MESSAGE_START"),
        *("REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END", "REASONING_END"),
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT"),
        *("TEXT_MESSAGE_END", "RUN_FINISHED"),
    ]
    assert [event["value"] for event in told if event["type"] == "CUSTOM"] == [
        {"status": "pending"},
        {"status": "running"},
    ]
    assert told[-1]["usage"][0]["outputTokens"] == 5


def test_an_attempt_that_starts_over_is_taken_back_by_what_was_asked() -> None:
    told = stream([*PENDING, *begin(1, *say("old")), *begin(2, *say("new"), END)])
    at = kinds(told).index("MESSAGES_SNAPSHOT")
    assert kinds(told)[at - 1 : at + 2] == [
        *("TEXT_MESSAGE_END", "MESSAGES_SNAPSHOT", "TEXT_MESSAGE_START")
    ]
    [snapshot] = [event for event in told if event["type"] == "MESSAGES_SNAPSHOT"]
    assert snapshot["messages"] == [ASKED]


def test_reasoning_that_started_over_is_emptied_since_a_page_keeps_what_no_snapshot_names() -> None:
    told = stream([*begin(1, ("reasoning", "old")), *begin(2, *say("new"), END)])
    [snapshot] = [event for event in told if event["type"] == "MESSAGES_SNAPSHOT"]
    empty = {"id": "task_1-reasoning", "role": "reasoning", "content": ""}
    assert snapshot["messages"] == [ASKED, empty]
    again = stream(begin(1, END), replace(RUN, is_stale=True, has_reasoning=True))
    assert again[1]["messages"] == [ASKED, empty]


def test_nothing_is_taken_back_that_was_not_said() -> None:
    told = stream([*PENDING, *begin(1), *begin(2, *say("new"), END)])
    assert "MESSAGES_SNAPSHOT" not in kinds(told)


def test_an_attempt_that_continues_is_the_same_message() -> None:
    log = [*begin(1, *say("Hel")), *tell(2, ("status", "running"), ("continue", "2"), *say("lo"))]
    assert kinds(stream(drop_dead(log))).count("TEXT_MESSAGE_START") == 1


def test_whoever_comes_again_gets_it_from_the_beginning() -> None:
    told = stream([*PENDING, *begin(1, *say("Hello"), END)], replace(RUN, is_stale=True))
    assert kinds(told)[:3] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "TEXT_MESSAGE_START"]


def test_half_a_surrogate_pair_of_a_page_comes_back_as_it_was() -> None:
    odd = [{**ASKED, "id": "\ud800"}]
    assert stream([], replace(RUN, messages=odd, is_stale=True))[1]["messages"] == odd


def test_calls_of_tools_are_the_messages_own_and_data_is_custom() -> None:
    data = TaskEvent(**{**_fields(tell(1, ("data", '{"a":1}'))[0]), "name": "progress"})
    told = stream([*begin(1, *say("x"), ("tool_calls", json.dumps(CALLS)), END), data])
    start = next(event for event in told if event["type"] == "TOOL_CALL_START")
    assert (start["toolCallId"], start["parentMessageId"]) == ("call_1", "task_1")
    assert told[-1] == {"type": "CUSTOM", "name": "progress", "value": {"a": 1}}


def _fields(event: TaskEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__dataclass_fields__}


@pytest.mark.parametrize("version", [None, "", "0.0.58", "x", "1.0", "2"])
def test_a_run_that_is_stopped_finishes_and_newer_pages_are_told_how(version: str | None) -> None:
    run = replace(RUN, knows_cancelled=knows_cancelled(version))
    told = stream([*begin(1, *say("x"), ("cancelled", "on request"))], run)
    assert [event["type"] for event in told[-3:]] == ["TEXT_MESSAGE_END", "CUSTOM", "RUN_FINISHED"]
    outcome = {"type": "cancelled"} if version in ("1.0", "2") else None
    assert told[-1].get("outcome") == outcome


def test_a_failure_says_why_and_nothing_follows() -> None:
    fold = RunFold(RUN)
    for event in begin(1, *say("x"), ("error", "broken")):
        list(fold.feed(event))
    assert fold.is_over
    assert stream(begin(1, ("error", "broken")))[-1] == {"type": "RUN_ERROR", "message": "broken"}


def test_a_conversation_is_what_was_said_and_not_what_a_page_adds() -> None:
    image = {"type": "image", "source": {"type": "data", "value": "aGk=", "mimeType": "image/png"}}
    old = {"type": "binary", "mimeType": "image/png", "url": "https://example.org/a.png"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    wire = make(
        [
            {"id": "1", "role": "user", "content": [{"type": "text", "text": "See"}, image, old]},
            {"id": "2", "role": "reasoning", "content": "Hm"},
            {"id": "3", "role": "assistant", "toolCalls": [call]},
            {"id": "4", "role": "tool", "toolCallId": "c", "content": "42"},
            {"id": "5", "role": "activity", "activityType": "x", "content": {}},
            ASKED,
        ],
        tools=[{"name": "f", "description": "F", "parameters": {"type": "object"}}],
        context=[{"description": "Page", "value": "home"}],
        forwardedProps={"model": "demo", "maxTokens": 9, "else": 1},
    )
    context, see, assistant, tool, last = wire["messages"]
    assert context == {"role": "user", "content": "Page: home"}
    assert [part["type"] for part in see["content"]] == ["text", "image_url", "image_url"]
    assert see["content"][1]["image_url"]["url"] == "data:image/png;base64,aGk="
    assert assistant["tool_calls"] == [call]
    assert (tool["tool_call_id"], last["content"]) == ("c", "Explain tides")
    assert (wire["model"], wire["maxTokens"]) == ("demo", 9)
    assert wire["params"]["tools"][0]["function"]["name"] == "f"


@pytest.mark.parametrize(
    ("messages", "more", "field"),
    [
        ([], {}, "messages"),
        ([{"role": "system", "content": "Be rude."}], {}, "messages[0].role"),
        ([{"role": "developer", "content": "x"}], {}, "messages[0].role"),
        ([{"role": "king", "content": "x"}], {}, "messages[0].role"),
        ([{"role": "user", "content": [{"type": "video"}]}], {}, "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "image"}]}], {}, "messages[0].content[0]"),
        ([{"role": "assistant", "toolCalls": ["x"]}, ASKED], {}, "messages[0].toolCalls"),
        ([{"role": "assistant", "toolCalls": 7}, ASKED], {}, "messages[0].toolCalls"),
        ([{"role": "tool", "content": "x"}], {}, "messages[0].tool_call_id"),
        ([ASKED], {"tools": [{}]}, "tools[0].name"),
        ([ASKED], {"resume": [{"interruptId": "x"}]}, "resume"),
        ([ASKED], {"forwardedProps": {"maxTokens": "many"}}, "forwardedProps.maxTokens"),
    ],
)
def test_what_is_not_served_is_refused_by_its_place(
    messages: list[Any], more: dict[str, Any], field: str
) -> None:
    with pytest.raises(SubmitError) as caught:
        make(messages, **more)
    assert caught.value.field == field
    assert field in str(caught.value)


def test_a_system_message_is_taken_where_the_app_allows_it() -> None:
    wire = make([{"role": "system", "content": "Be brief."}, ASKED], allow_system=True)
    assert [message["role"] for message in wire["messages"]] == ["system", "user"]


def test_of_an_answer_of_ours_the_log_knows_what_it_is() -> None:
    history = [ASKED, {"id": OURS, "role": "assistant", "content": "Ti"}, ASKED | {"id": "2"}]
    whole = {"role": "assistant", "content": "Tides are …"}
    assert find_answers(history) == [OURS]
    assert make(history, answers={OURS: whole})["messages"][1] == whole
    assert len(make(history, answers={OURS: None})["messages"]) == 2, "it never got whole"
    assert make(history)["messages"][1]["content"] == "Ti", "it is forgotten: what the page says"


def test_a_run_asks_the_same_whatever_the_page_holds_of_its_answer_by_then() -> None:
    partial: list[Any] = [
        {"id": f"{OURS}-reasoning", "role": "reasoning", "content": "Hm"},
        {"id": OURS, "role": "assistant", "content": "Ti"},
    ]
    assert drop_answer([ASKED, *partial]) == [ASKED]
    assert drop_answer(partial) == []
    later = [{**partial[1], "content": "Tides"}, ASKED]
    assert digest_question("t", [partial[1], ASKED]) == digest_question("t", later)
    assert digest_question("t", [ASKED]) != digest_question("t", [ASKED | {"content": "x"}])
    assert digest_question("t", [ASKED]) != digest_question("u", [ASKED])
