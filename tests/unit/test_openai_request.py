"""What is asked of a model service, and what is left out when it refuses."""

from typing import Any

import httpx2
import openai
import pytest

from longtask_kit.server.openai_request import adapt_request, build_request
from longtask_kit.submit.spec import TaskSpec


def test_the_request_says_what_the_spec_says() -> None:
    spec = TaskSpec(prompt="hi", system="be brief", max_tokens=5, temperature=0)
    assert build_request(spec, "default-model") == {
        "model": "default-model",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
        ],
        "max_tokens": 5,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_the_specs_model_wins_over_the_default() -> None:
    request = build_request(TaskSpec(prompt="hi", model="mine"), "default-model")
    assert request["model"] == "mine"
    assert [message["role"] for message in request["messages"]] == ["user"]


def test_what_is_left_to_the_service_is_not_asked() -> None:
    spec = TaskSpec(prompt="hi", max_tokens=None, temperature=None)
    assert set(build_request(spec, "m")) == {"model", "messages", "stream", "stream_options"}


def test_messages_and_params_are_handed_on_untouched() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"x": 1}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "odd": True}]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    params: dict[str, Any] = {
        "stop": ["\n"],
        "seed": 7,
        "unheard_of": {"of": None},
        "stream_options": {"include_obfuscation": False},
    }
    request = build_request(TaskSpec(messages=messages, params=params), "m")
    assert request["messages"] == messages
    options = {"include_usage": True, "include_obfuscation": False}
    assert request | params | {"stream_options": options} == request


def test_a_limit_by_its_newer_name_replaces_ours() -> None:
    spec = TaskSpec(prompt="hi", params={"max_completion_tokens": 5})
    assert "max_tokens" not in build_request(spec, "m")


def refusal(
    body: object, status: int = 400, kind: type[openai.APIStatusError] = openai.BadRequestError
) -> openai.APIStatusError:
    """Return an error as the client raises it."""
    request = httpx2.Request("POST", "https://llm.example.com/v1/chat/completions")
    return kind("text", response=httpx2.Response(status, request=request), body=body)


def named(param: str | None, message: str = "m") -> dict[str, Any]:
    return {"message": message, "type": "invalid_request_error", "param": param, "code": None}


def not_permitted(*loc: str) -> dict[str, Any]:
    return {"type": "extra_forbidden", "loc": ["body", *loc], "msg": "Extra inputs", "input": {}}


@pytest.mark.parametrize(
    ("body", "gone"),
    [
        (named("max_tokens"), "max_tokens"),
        (named("temperature"), "temperature"),
        (named("stream_options"), "stream_options"),
        (named("stream_options.include_usage"), "stream_options"),
        (named(None, "Unrecognized request argument supplied: stream_options"), "stream_options"),
        (named(None, "'max_tokens' is unsupported. Use 'max_completion_tokens'."), "max_tokens"),
        (named(None, "'temperature' does not support 0.7 with this model."), "temperature"),
        (named("", "max_tokens is deprecated in favor of max_completion_tokens"), "max_tokens"),
        ({"detail": [not_permitted("stream_options", "include_usage")]}, "stream_options"),
        ({"object": "error", "message": {"detail": [not_permitted("temperature")]}}, "temperature"),
        ({"detail": [not_permitted("max_tokens") | {"input": {"temperature": 1}}]}, "max_tokens"),
        ("unknown field `stream_options`", "stream_options"),
        (["property 'temperature' is unsupported"], "temperature"),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_parameter_is_renamed_or_left_out_once(
    body: object, gone: str, status: int
) -> None:
    request = build_request(TaskSpec(prompt="hi"), "m")
    expected = {name: value for name, value in request.items() if name != gone}
    if gone == "max_tokens":
        expected["max_completion_tokens"] = 1000
    assert adapt_request(request, refusal(body, status))
    assert request == expected
    # Else the model would be asked for ever.
    assert not adapt_request(request, refusal(body, status))


@pytest.mark.parametrize(
    "body",
    [
        None,
        "",
        {},
        named("messages"),
        named("model"),
        named("max_completion_tokens"),
        named(None, "max_tokens_to_sample is unknown"),
        named(None, "max_tokens is too large: this model supports at most 512 tokens"),
        named("temperature", "temperature must be between 0 and 1"),
        {"detail": [not_permitted("messages") | {"input": {"temperature": 1}}]},
    ],
)
def test_any_other_refusal_stands(body: object) -> None:
    request = build_request(TaskSpec(prompt="hi"), "m")
    before = dict(request)
    assert not adapt_request(request, refusal(body))
    assert request == before
