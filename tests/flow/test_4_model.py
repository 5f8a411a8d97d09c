"""Stage 4: what the model service is asked, to the byte, and all that it says."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import longtask_kit as lt
from longtask_kit.server.handlers import Keep, TaskContext
from longtask_kit.server.openai import OpenAIHandler
from longtask_kit.submit.spec import TaskSpec
from tests.serving import serve


class Recorder:
    """A model service that keeps what it is asked, and answers what the test says.

    Attributes:
        asked: Path and body of each request.
        refusals: Answered first, each once: a status and its words.
        frames: The stream after them.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refusals: list[tuple[int, str]] = []
        self.frames: list[dict[str, Any]] = []

    async def answer(self, request: Request) -> Response:
        self.asked.append((request.url.path, json.loads(await request.body())))
        if self.refusals:
            status, words = self.refusals.pop(0)
            return JSONResponse({"error": {"message": words}}, status)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[str]:
        for frame in self.frames:
            yield f"data: {json.dumps(frame)}\n\n"


@pytest.fixture
def model() -> Recorder:
    return Recorder()


@pytest.fixture
def url(model: Recorder) -> Iterator[str]:
    app = Starlette(routes=[Route("/v1/{path:path}", model.answer, methods=["POST"])])
    with serve(app) as url:
        yield f"{url}/v1"


def run(url: str, spec: TaskSpec) -> list[Any]:
    """Return what the handler says, without what it tells the attempt of its service."""
    key = SecretStr("sk-x")
    settings = lt.Settings(
        _env_file=None, openai_api_key=key, openai_base_url=url, model="gpt-4o-mini"
    )

    async def read() -> list[Any]:
        handler = OpenAIHandler(settings)
        try:
            context = TaskContext(task_id="task_12345678", attempt=1, spec=spec)
            return [item async for item in handler(context) if not isinstance(item, Keep)]
        finally:
            await handler.aclose()

    return asyncio.run(read())


def chunk(finish_reason: str | None = None, **delta: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


MESSAGES: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief.", "name": "ops"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this? 家\u2028", "cache_control": {"type": "x"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "newer", "value": [1, None, 0.1]},
        ],
    },
    {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "odd": {"x": 1}}]},
    {"role": "tool", "tool_call_id": "a", "content": ""},
]
PARAMS = {"stop": ["\n"], "seed": 7, "reasoning_effort": "low", "unheard_of": {"deep": [None]}}


def test_messages_and_params_arrive_as_they_were_given(url: str, model: Recorder) -> None:
    model.frames = [chunk("stop", content="Yes.")]
    spec = TaskSpec(messages=MESSAGES, params=PARAMS, model="m", max_tokens=None, temperature=None)
    assert run(url, spec) == ["Yes.", lt.Outcome(finish_reason="stop")]
    own = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
    assert model.asked == [("/v1/chat/completions", {**own, "messages": MESSAGES, **PARAMS})]


def test_a_refusal_is_told_in_the_services_words(url: str, model: Recorder) -> None:
    model.refusals = [(400, "'unheard_of' is not a thing here")]
    with pytest.raises(lt.NonRetryableError, match="'unheard_of' is not a thing here"):
        run(url, TaskSpec(prompt="hi", params=PARAMS))
    assert len(model.asked) == 1


def test_parameters_are_adapted_one_after_the_other(url: str, model: Recorder) -> None:
    model.frames = [chunk("stop", content="Yes.")]
    model.refusals = [
        (422, "stream_options: extra fields not permitted"),
        (400, "'temperature' is not supported with this model"),
        (400, "max_tokens is deprecated"),
    ]
    assert run(url, TaskSpec(prompt="hi"))[0] == "Yes."
    last = model.asked[-1][1]
    assert last.keys() == {"model", "messages", "stream", "max_completion_tokens"}


def test_the_responses_api_is_asked_and_read_too(url: str, model: Recorder) -> None:
    usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    item = {"type": "function_call", "call_id": "a", "name": "now", "arguments": "{}"}
    model.frames = [
        {"type": "response.created", "response": {"status": "in_progress"}},
        {"type": "response.reasoning_summary_text.delta", "delta": "hm", "summary_index": 0},
        {"type": "response.output_text.delta", "delta": "Yes."},
        {"type": "response.output_item.done", "output_index": 1, "item": item},
        {"type": "response.completed", "response": {"status": "completed", "usage": usage}},
    ]
    spec = TaskSpec(prompt="hi", system="Be brief.", api="responses", params={"seed": 7})
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    assert run(url, spec) == [
        lt.Delta("reasoning", "hm"),
        "Yes.",
        lt.Delta("tool_calls", json.dumps([call])),
        lt.Outcome(
            usage=lt.Usage(prompt_tokens=3, completion_tokens=5, total_tokens=8),
            finish_reason="tool_calls",
        ),
    ]
    [(path, body)] = model.asked
    assert path == "/v1/responses"
    assert body == {
        "model": "gpt-4o-mini",
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": "hi"}],
        "max_output_tokens": 1000,
        "temperature": 0.7,
        "seed": 7,
        "stream": True,
    }


# Through the whole flow, with the demo models


def test_reasoning_is_told_beside_the_text_and_counted(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-reason@2000")
    text = task.result(30)
    assert "tides" in task.reasoning
    assert task.reasoning not in text
    assert task.usage is not None
    assert task.usage.reasoning_tokens is not None
    assert 0 < task.usage.reasoning_tokens < task.usage.completion_tokens
    types = [event.type for event in task.events() if event.type in ("reasoning", "content")]
    assert types == sorted(types, reverse=True), "the reasoning comes first"
    assert task.finish_reason == "stop"


def test_a_limit_may_go_for_reasoning_alone(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-reason@2000", max_tokens=10)
    assert task.result(30) == ""
    assert task.reasoning
    assert task.finish_reason == "length"


def test_tools_are_called_and_their_results_are_told(kit: lt.Kit) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    task = kit.submit("How is it in Oslo?", model="demo-tools@2000", params={"tools": tools})
    assert task.result(30) == ""
    [call] = task.tool_calls
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"]
    assert task.finish_reason == "tool_calls"
    told = task.reply(tool_results={call["id"]: "12 °C"})
    assert told.result(30).endswith("- 12 °C")


def test_a_schema_is_obeyed_and_a_refusal_told(kit: lt.Kit) -> None:
    schema = {"type": "object", "properties": {"tides": {"type": "integer"}}}
    task = kit.submit("Count tides", model="demo-json@2000", schema=schema)
    assert isinstance(json.loads(task.result(30))["tides"], int)
    refused = kit.submit("Explain tides", model="demo-refuse@2000")
    assert refused.result(30) == ""
    assert "tides" in refused.refusal
    assert refused.finish_reason == "refusal"


def test_an_answer_without_an_end_stops_at_its_limit(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-length", max_tokens=50)
    task.result(30)
    assert task.finish_reason == "length"
    assert task.usage is not None
    assert task.usage.completion_tokens == 50


def test_an_error_that_breaks_off_is_one_of_the_connection() -> None:
    """The status came, its words did not: whether it can be mended, nobody has said."""

    async def break_off(_: Request) -> Response:
        async def half() -> AsyncIterator[str]:
            yield '{"error": {"mess'
            raise ConnectionError

        return StreamingResponse(half(), 503, media_type="application/json")

    with serve(Starlette(routes=[Route("/v1/{path:path}", break_off, methods=["POST"])])) as url:
        for api in ("chat", "responses"):
            with pytest.raises(lt.RetryableError, match="broke") as raised:
                run(f"{url}/v1", TaskSpec(prompt="x", api=api))
            assert raised.value.code == "model_connection"
