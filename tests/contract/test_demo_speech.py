"""What the demo models say beside a text, as the official `openai` SDK sees it."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pydantic
import pytest

from longtask_kit.local.model.app import create_model_app
from longtask_kit.local.model.instance import make_instance
from longtask_kit.local.model.native_request import read_native_chat
from longtask_kit.local.model.prose import split_tokens, write_line, write_reply
from longtask_kit.local.model.request import MODELS, ApiError
from longtask_kit.settings import DEMO_LABEL
from tests.serving import serve

KEY = "demo-key-for-tests"
PROMPT = "Explain tides"
ASK: Any = [{"role": "user", "content": PROMPT}]
SPEAKING = [model.name for model in MODELS if model.speaks]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    app = create_model_app(api_key=KEY, label=DEMO_LABEL, tokens_per_s=50_000)
    with serve(app) as url, openai.OpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0) as sdk:
        yield sdk


def ask(client: openai.OpenAI, model: str, **options: Any) -> Any:  # noqa: ANN401
    """Return the one choice of an answer."""
    options = {"messages": ASK} | options
    return client.chat.completions.create(model=model, **options).choices[0]


def stream(client: openai.OpenAI, model: str, **options: Any) -> tuple[dict[str, str], Any]:  # noqa: ANN401
    """Return the texts of a stream by their field, and the finish reason."""
    options = {"messages": ASK} | options
    texts: dict[str, str] = {}
    reason = None
    for chunk in client.chat.completions.create(model=model, stream=True, **options):
        choice = chunk.choices[0]
        reason = choice.finish_reason or reason
        for name, value in choice.delta.model_dump(exclude_none=True).items():
            if isinstance(value, str) and value:
                texts[name] = texts.get(name, "") + value
    return texts, reason


@pytest.mark.parametrize("model", SPEAKING)
def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI, model: str) -> None:
    whole = ask(client, model).message.model_dump(exclude_none=True)
    texts, _ = stream(client, model)
    assert texts == {name: text for name, text in whole.items() if name in texts}
    assert texts.pop("role") == "assistant"
    assert texts or whole["tool_calls"]


@pytest.mark.parametrize("prompt", [PROMPT, "解释一下潮汐"])
def test_the_same_words_on_every_machine(client: openai.OpenAI, prompt: str) -> None:
    messages = [{"role": "user", "content": prompt}]
    said = stream(client, "demo-reason", messages=messages, seed=3)[0]
    assert said["reasoning_content"] == write_line("reasoning", prompt, seed=3)
    assert said["content"] == write_reply(prompt, seed=3)
    assert len({write_line("reasoning", prompt, seed=seed) for seed in range(8)}) > 1
    assert "潮汐" in said["reasoning_content"] or "tides" in said["reasoning_content"]


def test_reasoning_counts_and_may_use_up_the_limit(client: openai.OpenAI) -> None:
    thought = split_tokens(write_line("reasoning", PROMPT))
    answer = client.chat.completions.create(model="demo-reason", messages=ASK)
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == len(thought)
    cut, reason = stream(client, "demo-reason", max_tokens=len(thought) - 1)
    assert (cut.get("content"), reason) == (None, "length")


def test_a_refusal_is_no_content(client: openai.OpenAI) -> None:
    choice = ask(client, "demo-refuse")
    assert choice.message.content is None
    assert "tides" in choice.message.refusal


@pytest.mark.parametrize("limit", [None, 1, 100, 1_000_000])
def test_the_model_without_an_end_stops_at_its_limit(
    client: openai.OpenAI, limit: int | None
) -> None:
    texts, reason = stream(client, "demo-length", max_tokens=limit)
    assert reason == "length"
    assert limit is None or limit > 100 or len(split_tokens(texts["content"])) == limit


def test_a_speaking_model_takes_a_speed(client: openai.OpenAI) -> None:
    assert stream(client, "demo-reason@100000") == stream(client, "demo-reason")


# Tools


def tool(name: str, **properties: object) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": [*properties]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool("weather", city={"type": "string"}, days={"type": "integer", "maximum": 3})
CLOCK = tool("clock")


def test_each_tool_is_called_once_in_pieces_that_the_sdk_joins(client: openai.OpenAI) -> None:
    options: Any = {"tools": [WEATHER, CLOCK], "messages": ASK}
    with client.chat.completions.stream(model="demo-tools", **options) as streamed:
        chunks = [event for event in streamed if event.type == "chunk"]
        [choice] = streamed.get_final_completion().choices
    assert len(chunks) > 6
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls] == ["weather", "clock"]
    arguments = json.loads(calls[0].function.arguments)
    jsonschema.validate(arguments, WEATHER["function"]["parameters"])
    assert len({call.id for call in calls}) == 2
    again = ask(client, "demo-tools", tools=[WEATHER, CLOCK]).message.tool_calls
    assert [call.id for call in again] == [call.id for call in calls]


def test_a_tool_may_be_chosen_or_forbidden(client: openai.OpenAI) -> None:
    chosen = {"type": "function", "function": {"name": "clock"}}
    options: Any = {"tools": [WEATHER, CLOCK]}
    [call] = ask(client, "demo-tools", tool_choice=chosen, **options).message.tool_calls
    assert call.function.name == "clock"
    assert ask(client, "demo-tools", tool_choice="none", **options).message.tool_calls is None


def test_without_tools_it_asks_for_the_weather(client: openai.OpenAI) -> None:
    [call] = ask(client, "demo-tools").message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"]


def test_after_the_tools_answers_it_tells_them(client: openai.OpenAI) -> None:
    called = ask(client, "demo-tools", tools=[WEATHER, CLOCK]).message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": content}
        for call, content in zip(called.tool_calls, ("12 °C", "noon"), strict=True)
    ]
    choice = ask(client, "demo-tools", tools=[WEATHER, CLOCK], messages=[*ASK, called, *results])
    assert choice.finish_reason == "stop"
    assert choice.message.content.endswith("- 12 °C\n- noon")


# Structured output


class Place(pydantic.BaseModel):
    city: str
    country: str | None
    inhabitants: int = pydantic.Field(ge=1, lt=100)


class Trip(pydantic.BaseModel):
    title: str
    places: list[Place]
    mood: str = pydantic.Field(pattern="^(calm|brisk|[a-z]+)$", min_length=3, max_length=5)
    nested: "Trip | None"


def format_of(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}


def test_a_pydantic_model_gets_an_instance_of_itself(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="demo-json", messages=ASK, response_format=Trip, max_tokens=100_000
    )
    trip = answer.choices[0].message.parsed
    assert trip is not None
    assert len(trip.places) == 2


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a", "b"]},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"enum": ["x", 2, None]},
        {"const": {"a": [1]}},
        {"type": ["null", "string"], "minLength": 12, "maxLength": 14},
        {"type": "string", "maxLength": 1},
        {"type": "string", "format": "date-time"},
        {"type": "string", "pattern": "^[0-9]{4}$"},
        {"type": "integer", "minimum": -3, "exclusiveMaximum": -2},
        {"type": "integer", "exclusiveMinimum": 4, "maximum": 5},
        {"type": "integer", "multipleOf": 7, "minimum": 100},
        {"type": "number", "minimum": 0, "maximum": 0},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "maximum": -10},
        {"type": "array", "minItems": 5, "items": {"type": "boolean"}},
        {"type": "array", "maxItems": 0},
        {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2},
        {"anyOf": [{"type": "null"}, {"type": "object", "required": ["x"]}]},
        {"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "integer"}}}]},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}},
        {
            "type": "object",
            "properties": {"child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "required": ["child"],
        },
        {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}},
    ],
    ids=str,
)
def test_an_instance_obeys_its_schema_and_is_the_same_again(schema: dict[str, Any]) -> None:
    for key in ("a", "b", "c"):
        instance = make_instance(schema, key=key)
        jsonschema.validate(instance, schema)
        assert make_instance(schema, key=key) == instance
        assert len(json.dumps(instance)) < 50_000


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"$ref": "#/nowhere"}, {"anyOf": []}, {"items": 5}, {"pattern": "("}]
)
def test_a_schema_that_nothing_obeys_does_no_harm(schema: dict[str, Any]) -> None:
    json.dumps(make_instance(schema, key="a"))


def test_an_answer_in_json_mode_is_an_object(client: openai.OpenAI) -> None:
    text = ask(client, "demo-json", response_format={"type": "json_object"}).message.content
    assert isinstance(json.loads(text), dict)
    assert ask(client, "demo-json").message.content == write_reply(PROMPT)


# What a request may hold


def test_it_says_what_it_was_shown_and_how_much_of_it(client: openai.OpenAI) -> None:
    data = base64.b64encode(b"x" * 1234).decode()
    parts: dict[str, dict[str, Any]] = {
        "I was shown an image (image/png, 1,234 bytes).": {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{data}"},
        },
        "I was shown a recording (wav, 1,234 bytes).": {
            "type": "input_audio",
            "input_audio": {"data": data, "format": "wav"},
        },
        "I was shown a file (terms.pdf, 1,234 bytes).": {
            "type": "file",
            "file": {"file_data": f"data:application/pdf;base64,{data}", "filename": "terms.pdf"},
        },
        "I was shown an image at an address, which I did not call.": {
            "type": "image_url",
            "image_url": {"url": "https://example.com/cat.png"},
        },
        "I was shown a file at an address, which I did not call.": {
            "type": "file",
            "file": {"file_id": "file-1"},
        },
    }
    text = {"type": "text", "text": PROMPT}
    for model in ("demo", "demo-reason"):
        for line, part in parts.items():
            asked = [{"role": "user", "content": [text, part]}]
            said = ask(client, model, messages=asked).message.content
            assert said.startswith(line)
            assert said.endswith(write_reply(PROMPT))
    both = [{"role": "user", "content": [text, *parts.values()]}]
    assert ask(client, "demo", messages=both).message.content.count(" and ") >= 4


def test_of_earlier_messages_images_nothing_is_said(client: openai.OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    said = [{"role": "user", "content": [image]}, *ASK]
    assert ask(client, "demo", messages=said).message.content == write_reply(PROMPT)


def test_a_real_text_model_refuses_what_it_can_not_see() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    asked = {"model": "real", "messages": [{"role": "user", "content": [image]}]}
    with pytest.raises(ApiError, match="expected a string, or a list of text parts"):
        read_native_chat(asked)


def test_an_image_without_a_word_is_told_in_the_prompts_language(client: openai.OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlh"}}
    text = {"type": "text", "text": "这是什么"}
    shown = [{"role": "user", "content": [text, image]}]
    assert "一张图片（image/gif, 6 字节）" in ask(client, "demo", messages=shown).message.content
    assert ask(client, "demo", messages=[{"role": "user", "content": [image]}]).message.content


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tools": [CLOCK], "tool_choice": WEATHER}, "tool_choice"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": format_of([])}, "response_format.json_schema"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(
    client: openai.OpenAI, wrong: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "demo", **wrong)
    assert caught.value.param == param
