"""The real model behind the model service, as the official SDK sees it: shapes, never the text."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from longtask_kit.local.model.installed import SMOLLM2_LABEL
from longtask_kit.local.model.native import MAX_OPEN, LocalModel, LocalModels
from tests.llm.conftest import MODEL
from tests.wait import wait_until

pytestmark = [pytest.mark.llm, pytest.mark.thorough]

ASK: Any = [{"role": "user", "content": "Explain what a message queue is."}]
FOREVER: Any = [{"role": "user", "content": "Write a very long story about a river."}]


def running(models: LocalModels) -> LocalModel:
    model = models.find(MODEL)
    assert model is not None
    return model


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def test_it_is_listed_with_what_it_is(client: openai.OpenAI) -> None:
    listed = {model.id: model.model_dump()["description"] for model in client.models.list()}
    assert listed[MODEL] == SMOLLM2_LABEL
    assert client.models.retrieve(MODEL).owned_by == "this-computer"


def test_a_stream_has_role_text_finish_reason_and_usage_in_this_order(
    client: openai.OpenAI,
) -> None:
    asked: Any = {"model": MODEL, "messages": ASK, "max_tokens": 12}
    usage: Any = {"include_usage": True}
    with client.chat.completions.create(stream=True, stream_options=usage, **asked) as stream:
        assert "x-demo-label" not in stream.response.headers
        assert stream.response.headers["x-continues-final-message"] == "token_ids"
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks)
    assert chunks[-2].choices[0].finish_reason == "length"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 12)
    assert {chunk.model for chunk in chunks} == {MODEL}


def test_temperature_0_gives_the_same_text_twice_streamed_or_not(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": ASK, "max_tokens": 16, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.create(stream=True, **asked) as stream:
        assert text_of(list(stream)) == whole.choices[0].message.content
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 16


def test_responses_pass_through_streaming_and_not(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "input": "Say hello.", "max_output_tokens": 16}
    whole = client.responses.create(**asked)
    assert whole.output_text
    assert whole.usage is not None
    with client.responses.create(stream=True, **asked) as stream:
        kinds = [event.type for event in stream]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert "response.output_text.delta" in kinds


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"n": 2}, "n"),
        ({"stop": [""]}, "stop"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    client: openai.OpenAI, wrong: dict[str, Any], param: str
) -> None:
    asked: Any = {"model": MODEL, "messages": ASK} | wrong
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("wrong", "param"), [({"input": []}, "input"), ({"tools": [{"type": "web_search"}]}, "tools")]
)
def test_a_wrong_response_request_is_refused_by_name(
    client: openai.OpenAI, wrong: dict[str, Any], param: str
) -> None:
    asked: Any = {"model": MODEL, "input": "hi"} | wrong
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asked)
    assert caught.value.param == param


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "word " * 1500}]
    with pytest.raises(openai.BadRequestError, match=r"1024 tokens.*15\d\d.*shorten") as caught:
        client.chat.completions.create(model=MODEL, messages=long)
    assert caught.value.code == "context_length_exceeded"


def test_a_client_that_left_frees_its_place_at_once(
    client: openai.OpenAI, local_models: LocalModels
) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=FOREVER, stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: running(local_models).open_requests == 0)  # its answer would take longer


def test_more_than_it_can_queue_are_told_when_to_come_back(
    client: openai.OpenAI, local_models: LocalModels
) -> None:
    def ask(_: int) -> Any:  # noqa: ANN401
        return client.chat.completions.create(model=MODEL, messages=FOREVER, stream=True)

    with ThreadPoolExecutor(MAX_OPEN) as pool:
        waiting = [pool.submit(ask, i) for i in range(MAX_OPEN)]
        wait_until(lambda: running(local_models).open_requests == MAX_OPEN)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(0)
        assert int(caught.value.response.headers["retry-after"]) > 0
        while waiting:
            for done in [w for w in waiting if w.done()]:
                done.result().close()
                waiting.remove(done)
    wait_until(lambda: running(local_models).open_requests == 0)


@pytest.mark.anyio
async def test_it_ends_when_nobody_asks_any_more_and_starts_again() -> None:
    import httpx

    models = LocalModels(threads=1, idle_stop_s=0.2)
    from longtask_kit.local.model.app import create_model_app
    from longtask_kit.settings import DEMO_LABEL

    transport = httpx.ASGITransport(
        create_model_app(api_key="k", label=DEMO_LABEL, local_models=models)
    )
    headers = {"Authorization": "Bearer k"}
    body = {"model": MODEL, "messages": ASK, "max_tokens": 2}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://local", headers=headers, timeout=30
    ) as http:
        for _ in range(2):
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200
            async with asyncio.timeout(5):
                while running(models).pid is not None:  # noqa: ASYNC110 - it has no event to wait for
                    await asyncio.sleep(0.02)
    await models.stop()
