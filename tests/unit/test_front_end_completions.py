"""The chat completions server's pure half."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from longtask_kit.errors import SubmitError
from longtask_kit.log.events import TaskEvent
from longtask_kit.log.transcript import Transcript
from longtask_kit.server.front_ends.completions import ChunkFold, describe_completion, make_task
from tests.unit._task_events import END, PENDING, begin, say, tell

CALLS = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def stream(events: list[TaskEvent]) -> list[Any]:
    fold = ChunkFold("chatcmpl-x", created=1, model="demo", has_usage=True)
    frames = [frame.decode() for event in events for frame in fold.feed(event)]
    assert fold.is_over
    assert all(frame.endswith("\n\n") and frame.count("\n") == 2 for frame in frames)
    data = [frame.removeprefix("data: ").strip() for frame in frames]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def test_what_a_model_says_comes_in_chunks_with_the_role_once() -> None:
    said = [("reasoning", "Hm"), *say("Hel", "lo"), ("tool_calls", json.dumps(CALLS))]
    *chunks, usage, done = stream([*PENDING, *begin(1, *said, ("end", "tool_calls"))])
    for chunk in (*chunks, usage):
        ChatCompletionChunk.model_validate(chunk)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta.get("role") for delta in deltas] == ["assistant", *[None] * 4]
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello"
    assert deltas[0]["reasoning_content"] == "Hm"
    assert deltas[3]["tool_calls"][0]["index"] == 0
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 8, "[DONE]")


@pytest.mark.parametrize(
    "events",
    [
        [*begin(1, *say("old")), *begin(2, *say("new"))],
        begin(1, *say("x"), ("error", "broken")),
        begin(1, *say("x"), ("cancelled", "on request")),
    ],
)
def test_what_is_no_whole_answer_ends_in_an_error(events: list[TaskEvent]) -> None:
    fold = ChunkFold("chatcmpl-x", created=1, model="demo", has_usage=True)
    frames: list[bytes] = []
    for event in events:
        if not fold.is_over:
            frames += fold.feed(event)
    assert json.loads(frames[-1].removeprefix(b"data: "))["error"]["message"]
    assert b"[DONE]" not in b"".join(frames)


def test_an_attempt_that_had_said_nothing_starts_over_unnoticed_and_one_continues() -> None:
    events = [*PENDING, *begin(1), *begin(2, *say("Hel"))]
    events += tell(3, ("status", "running"), ("continue", "3"), *say("lo"), END)
    *chunks, _, done = stream(events)
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert ("".join(texts), done) == ("Hello", "[DONE]")


def test_a_whole_completion_is_one_that_openais_own_type_takes() -> None:
    said = Transcript()
    for event in [*begin(1, *say("old")), *begin(2, *say("new"), ("end", "weird"))]:
        said.apply(event)
    whole = describe_completion("chatcmpl-x", created=1, model="demo", said=said)
    ChatCompletion.model_validate(whole)
    assert whole["choices"][0]["message"]["content"] == "new"
    assert whole["choices"][0]["finish_reason"] == "stop"


def test_further_parameters_are_handed_to_the_model() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]
    body = {"model": "m", "messages": messages, "top_k": 4, "stream": True, "store": False}
    spec = make_task(body)
    assert spec.to_messages() == messages
    assert (dict(spec.params), spec.max_tokens, spec.temperature) == ({"top_k": 4}, None, None)


@pytest.mark.parametrize("type_", ["file", "input_audio", "unheard-of", None])
def test_parts_that_are_not_served_are_refused(type_: str | None) -> None:
    with pytest.raises(SubmitError, match=r"messages\[0\].content\[0\]"):
        make_task({"messages": [{"role": "user", "content": [{"type": type_}]}]})
    with pytest.raises(SubmitError, match="n"):
        make_task({"messages": [{"role": "user", "content": "x"}], "n": 2})


@pytest.mark.parametrize(
    "more", [{"logprobs": True}, {"top_logprobs": 3}, {"audio": {"voice": "v", "format": "wav"}}]
)
def test_what_an_answer_would_lack_is_refused_before_it_is_paid(more: dict[str, Any]) -> None:
    asked = {"messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(SubmitError, match=next(iter(more))):
        make_task(asked | more)
    make_task(asked | dict.fromkeys(more) | {"logprobs": False})
