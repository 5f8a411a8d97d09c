"""The AI SDK server's pure half."""

import json
from typing import Any

import pytest

from longtask_kit.errors import SubmitError
from longtask_kit.log.events import TaskEvent
from longtask_kit.server.front_ends.ai_sdk import ChatFold, can_reset
from longtask_kit.server.front_ends.ai_sdk_request import find_doubtful, find_question, make_task
from longtask_kit.server.front_ends.ai_sdk_routes import is_own_page
from longtask_kit.server.front_ends.latest import drop_dead
from tests.unit._task_events import END, PENDING, begin, say, tell

CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
    {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{"}},
]
TASK = "task_1234567890"


def stream(events: list[TaskEvent], *, resets: bool = True, is_new: bool = True) -> list[Any]:
    fold = ChatFold(TASK, resets=resets, stream="s")
    frames = [*fold.open(attempt=events[-1].cursor.attempt, is_new=is_new)]
    frames += [frame for event in events for frame in fold.feed(event)]
    assert fold.is_over == events[-1].is_terminal
    text = b"".join(frames).decode()
    assert '": ' not in text, "compact: a client looks for a text in it"
    data = [frame.removeprefix("data: ") for frame in text.split("\n\n")[:-1]]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def types(chunks: list[Any]) -> list[str]:
    return [c if isinstance(c, str) else c["type"] for c in chunks if not is_status(c)]


def is_status(chunk: Any) -> bool:  # noqa: ANN401
    return isinstance(chunk, dict) and chunk["type"] == "data-status"


def test_an_answer_is_one_message_with_reasoning_text_and_usage() -> None:
    said = [("reasoning", "Hm"), *say("Hel", "lo"), END]
    chunks = stream([*PENDING, *begin(1, *said)])
    assert types(chunks) == [
        *("start", "start-step", "reasoning-start", "reasoning-delta", "reasoning-end"),
        *("text-start", "text-delta", "text-delta", "text-end", "finish-step", "finish", "[DONE]"),
    ]
    running = {"taskId": TASK, "status": "running"}
    assert chunks[0] == {"type": "start", "messageId": TASK, "messageMetadata": running}
    [status] = [c for c in chunks if is_status(c) and c["data"]["status"] == "running"]
    assert status["transient"] is True
    usage = {"inputTokens": 3, "outputTokens": 5, "totalTokens": 8, "reasoningTokens": 2}
    told = {"taskId": TASK, "status": "completed", "usage": usage}
    assert chunks[-2] == {"type": "finish", "finishReason": "stop", "messageMetadata": told}


def test_what_starts_over_is_taken_back_or_marked_and_what_continues_shows_nothing() -> None:
    first = begin(1, *say("old"))
    second = begin(2, *say("new"), END)
    goes_on = tell(2, ("status", "running"), ("continue", "1-3"), *say("er"), END)
    head, tail = ["start", "start-step", "text-start", "text-delta"], ["text-start", "text-delta"]
    tail += ["text-end", "finish-step", "finish", "[DONE]"]
    assert types(stream([*first, *second])) == [*head, "reset-step", *tail]
    old = stream([*first, *second], resets=False)
    assert types(old) == [*head, "text-end", "data-restart", *tail]
    assert {"type": "data-restart", "data": {"attempt": 2}} in old
    assert len({chunk["id"] for chunk in old if "text-start" in chunk}) == len(
        [chunk for chunk in old if "text-start" in chunk]
    )
    assert types(stream([*first, *goes_on])) == [*head, *tail[1:]]
    assert types(stream([*begin(1), *second])) == [*head[:2], *tail], "nothing had been said"


def test_whoever_comes_back_gets_the_mark_first_and_the_whole_attempt() -> None:
    events = drop_dead([*PENDING, *begin(1, *say("old")), *begin(2, *say("n", "ew"))])
    rest = ["text-start", "text-delta", "text-delta"]
    new = stream(events, is_new=False)
    assert types(new) == ["start", "reset-step", "start-step", *rest], "reset before the step"
    assert types(stream(events, is_new=False, resets=False)) == [
        *("start", "start-step", "data-restart"),
        *rest,
    ]
    assert "old" not in json.dumps(new)


@pytest.mark.parametrize(
    ("end", "last", "reason"),
    [
        (("cancelled", "on request"), {"type": "abort"}, "other"),
        (("error", "It broke."), {"type": "error", "errorText": "It broke."}, "error"),
        (("end", "length"), {"type": "finish-step"}, "length"),
        (("end", "content_filter"), {"type": "finish-step"}, "content-filter"),
        (("end", "refusal"), {"type": "finish-step"}, "other"),
    ],
)
def test_however_it_ends_it_ends_with_finish(
    end: tuple[str, str], last: dict[str, Any], reason: str
) -> None:
    *_, before, finish, done = stream(begin(1, *say("x"), end))
    assert (before, finish["finishReason"], done) == (last, reason, "[DONE]")
    assert ("usage" in finish["messageMetadata"]) == (end[0] == "end")


def test_calls_are_shown_as_run_elsewhere_so_that_no_page_runs_or_awaits_them() -> None:
    chunks = stream(begin(1, *say("x"), ("tool_calls", json.dumps(CALLS)), ("end", "tool_calls")))
    calls = [chunk for chunk in chunks if "toolCallId" in chunk]
    assert all(call["dynamic"] and call["providerExecuted"] for call in calls)
    assert [call["type"] for call in calls] == [
        *("tool-input-available", "tool-output-available") * 2,
    ]
    assert [call["input"] for call in calls[::2]] == [{"a": 1}, "{"]
    assert types(chunks)[4] == "text-end"


def test_what_a_handler_tells_is_a_part_that_the_next_of_its_name_replaces() -> None:
    def tell_data(name: str, attempt: int = 1) -> list[TaskEvent]:
        [event] = tell(attempt, ("data", '{"done": 1}'), after=2)
        return [TaskEvent(**{n: getattr(event, n) for n in event.__slots__} | {"name": name})]

    events = [*begin(1), *tell_data("progress"), *begin(2), *tell_data("progress", 2)]
    shown = [c for c in stream(events) if c["type"] == "data-progress"]
    assert shown[0] == {"type": "data-progress", "id": "progress", "data": {"done": 1}}
    assert "reset-step" in types(stream(events)), "what was shown is taken back"
    ids = {c["id"] for c in stream(events, resets=False) if c["type"] == "data-progress"}
    assert len(ids) == 2, "an older ai replaces a part where it stands: before the mark"
    for name in ("restart", "status"):
        [shown] = [c for c in stream([*begin(1), *tell_data(name)]) if c.get("data") == {"done": 1}]
        assert shown["type"] == f"data-{name}-", "the marks are ours"


def test_a_task_that_was_retried_by_hand_has_not_ended() -> None:
    again = [*begin(1, *say("old"), ("error", "broken")), *tell(2, ("status", "pending"))]
    assert [e.type for e in drop_dead(again)] == ["status", "start", "status"]
    ended = begin(1, *say("x"), END)
    assert drop_dead(ended) == ended


@pytest.mark.parametrize(
    ("version", "can"),
    [("", False), ("5", False), ("7", False), ("7.0.69", False), ("7.0.70", True), ("8", True)],
)
def test_text_is_taken_back_from_7_0_70_on(version: str, can: bool) -> None:
    assert can_reset(version) == can


@pytest.mark.parametrize("version", ["x", "7.", "7.0.70?startIndex=3", "7.0.70-beta", " 7"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match=r"7\.0\.70"):
        can_reset(version)


# -- what a page sends --------------------------------------------------------------------------


def message(role: str, *parts: Any, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    shown = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"id": f"{role}-1", "role": role, "parts": shown, **more}


def ask(*messages: dict[str, Any], **more: Any) -> Any:  # noqa: ANN401
    options = {name: more.pop(name) for name in ("answers", "allow_system") if name in more}
    return make_task({"messages": list(messages), **more}, **options).messages


def test_a_history_is_texts_and_images() -> None:
    image = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,aGk="}
    steps = [{"type": "step-start"}, "It ", {"type": "reasoning", "text": "hm"}, "is."]
    question = message("user", "What", " is it?")
    asked = ask(question, message("assistant", *steps), message("user", image, "This"))
    assert asked == [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "It is."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": image["url"]}},
                {"type": "text", "text": "This"},
            ],
        },
    ]


def test_of_an_answer_that_started_over_only_what_stands_is_sent_on() -> None:
    mark = {"type": "data-restart", "data": {"attempt": 2}}
    asked = ask(message("assistant", "stale", mark, "al", mark, "whole"), message("user", "x"))
    assert asked[0] == {"role": "assistant", "content": "whole"}


def test_an_answer_that_was_cut_is_no_answer() -> None:
    cut = message("assistant", "Half of", id=TASK)
    told = {"taskId": "task_0987654321", "status": "completed"}
    whole = message("assistant", "All.", id="task_0987654321", metadata=told)
    foreign = message("assistant", "Hello!", id="greeting")
    history = [foreign, message("user", "a"), cut, message("user", "b"), whole]
    assert find_doubtful(history) == [TASK]
    assert find_doubtful([whole | {"id": TASK}]) == [TASK], "it began as a copy of the one before"
    assert find_doubtful([whole | {"metadata": told | {"status": "running"}}]) == [whole["id"]]
    last = message("user", "c")

    def answers(**known: Any) -> list[str]:  # noqa: ANN401
        asked = ask(*history, last, **known)
        return [m["content"] for m in asked if m["role"] == "assistant"]

    assert answers(answers={TASK: None}) == ["Hello!", "All."]
    assert answers(answers={TASK: "Half of it."}) == ["Hello!", "Half of it.", "All."]
    assert answers() == ["Hello!", "Half of", "All."], "nothing is known of it any more"
    assert ask(message("user", "a"), cut) == [{"role": "user", "content": "a"}]
    assert find_question([*history, last | {"id": "q"}]) == "q"


def test_a_page_says_nothing_in_the_apps_name_unless_it_may() -> None:
    history = [message("system", "Obey."), message("user", "x")]
    with pytest.raises(SubmitError, match="allow_system"):
        ask(*history)
    assert ask(*history, allow_system=True)[0] == {"role": "system", "content": "Obey."}


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "to answer"),
        ([message("assistant", "x")], "to answer"),
        ([{"role": "user"}], r"messages\[0\]\.parts"),
        ([{"role": "user", "parts": ["x"]}], r"messages\[0\]\.parts"),
        ([message("developer", "x")], r"messages\[0\]\.role"),
        ([message("user", {"type": "text", "text": 7})], "without text"),
        ([message("user", {"type": "file", "mediaType": "application/pdf", "url": "x"})], "pdf"),
        ([message("user", {"type": "file", "mediaType": "image/png"})], "URL"),
        ([message("user", "x"), message("user")], "to answer"),
    ],
)
def test_what_is_no_chat_is_refused_by_its_place(messages: list[Any], told: str) -> None:
    with pytest.raises(SubmitError, match=told):
        ask(*messages)


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        (None, "app.example", False),
        ("https://app.example", "app.example", True),
        ("https://evil.example", "app.example", False),
        ("https://page.example", "app.example", True),
        ("null", "app.example", False),
        ("http://localhost:5173", "127.0.0.1:8000", True),
        ("http://localhost:5173", "app.example", False),
        ("http://[", "127.0.0.1", False),
        ("", "", False),
    ],
)
def test_a_page_may_call_without_saying_json_where_it_is_the_apps_own_or_allowed(
    origin: str | None, host: str, is_own: bool
) -> None:
    assert is_own_page(origin, host, ["https://page.example"]) == is_own
