"""The demo model as the official `openai` SDK sees it, over real sockets."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import anyio
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtask_kit.local.model.app import create_model_app
from longtask_kit.local.model.prose import read_prompt, split_tokens, write_long_reply, write_reply
from longtask_kit.local.model.reply import due_tokens
from longtask_kit.local.model.request import MODELS
from longtask_kit.settings import DEMO_LABEL
from tests.serving import serve

KEY = "demo-key-for-tests"
PROMPT = "Explain durable queues"
ASK: Any = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with serve(create_model_app(api_key=KEY, label=DEMO_LABEL, tokens_per_s=50_000)) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=base_url, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def http(base_url: str) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=base_url, headers=headers) as raw:
        yield raw


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def read_stream(client: openai.OpenAI, **options: Any) -> list[Any]:  # noqa: ANN401
    asked = {"model": "demo-fast", "messages": ASK} | options
    with client.chat.completions.create(stream=True, **asked) as stream:
        return list(stream)


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# The words


@pytest.mark.parametrize(
    ("prompt", "digest"),
    [
        ("Write a haiku about rivers", "2316d0d35441ac72"),
        ("写一个关于小猫的短故事", "24379d00d7d19403"),
    ],
)
def test_the_same_prompt_gives_the_same_reply_on_every_machine(prompt: str, digest: str) -> None:
    assert digest_of(write_reply(prompt, seed=7)) == digest


def test_another_seed_gives_another_text() -> None:
    assert len({write_reply(PROMPT, seed=seed) for seed in range(8)}) > 4


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(split_tokens(text)) == text


@pytest.mark.parametrize("emoji", ["👩‍💻", "🏞️", "🇫🇷", "👍🏽", "1️⃣", "e\u0301", "👨‍👩‍👧‍👦"])
def test_a_token_never_parts_an_emoji_from_its_modifiers(emoji: str) -> None:
    tokens = split_tokens(f"a{emoji}b {emoji}{emoji}猫{emoji}")
    assert sum(token.count(emoji) for token in tokens) == 4


@pytest.mark.parametrize("prompt", [PROMPT, "Tell me a story about a cat", "解释一下消息队列"])
def test_a_token_has_about_five_bytes(prompt: str) -> None:
    reply = write_reply(prompt)
    assert 4 < len(reply.encode()) / len(split_tokens(reply)) < 6


@pytest.mark.parametrize(
    ("prompt", "kind", "topic"),
    [
        ("Write a haiku about rivers.", "poem", "rivers"),
        ("Please write me a short poem on the sea, please", "poem", "the sea"),
        ("Tell me a short story about a cat in Rome", "story", "a cat in Rome"),
        ("Explain what a durable queue is to a beginner.", "explain", "a durable queue"),
        ("What are black holes?", "explain", "black holes"),
        ("Why is the sky blue?", "explain", "the question “Why is the sky blue?”"),
        ("Give me five ideas for a birthday party", "list", "a birthday party"),
        ("Write a Python function that reverses a list", "code", "reverses a list"),
        ("Hello!", "other", "Hello"),
        ("写一个关于小猫的短故事", "story", "小猫"),
        ("请写一首关于月亮的诗", "poem", "月亮"),
        ("解释一下什么是消息队列。", "explain", "消息队列"),
        ("为什么天空是蓝色的？", "explain", "“为什么天空是蓝色的？”这个问题"),
        ("用Python写一个反转字符串的函数", "code", "反转字符串"),
        ("推荐五个周末活动的点子", "list", "周末活动"),
    ],
)
def test_a_prompt_is_read_for_its_kind_and_topic(prompt: str, kind: str, topic: str) -> None:
    reading = read_prompt(prompt)
    assert (reading.kind, reading.topic) == (kind, topic)


def test_a_haiku_has_three_lines() -> None:
    first = write_reply("Write a haiku about rivers").split("\n\n")[0]
    assert len(first.splitlines()) == 3
    assert "rivers" in first.lower()


@pytest.mark.parametrize("kind", ["poem", "story", "list", "note"])
def test_markup_and_braces_in_a_prompt_survive_as_text(kind: str) -> None:
    topic = "<script>alert(1)</script> {name}"
    assert topic in write_reply(f"Write a {kind} about {topic}")


@given(st.text(), st.integers())
def test_any_prompt_gets_a_whole_reply(prompt: str, seed: int) -> None:
    reply = write_reply(prompt, seed=seed)
    assert reply.strip()
    assert len(reply) < 3_000


@pytest.mark.parametrize("prompt", ["x" * 200_000, ", " * 100_000, "about 的" * 50_000])
def test_a_huge_prompt_is_answered_with_a_short_topic(prompt: str) -> None:
    assert len(read_prompt(prompt).topic) < 110


def test_a_long_reply_has_about_ten_thousand_tokens() -> None:
    assert 10_000 <= len(split_tokens(write_long_reply(PROMPT))) < 11_000


def test_the_first_token_is_due_at_once_and_the_others_by_the_clock() -> None:
    assert [due_tokens(t, 10) for t in (0, 0.05, 0.1, 1)] == [1, 1, 2, 11]


# The wire


def test_a_whole_answer_has_the_text_and_counts_its_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=ASK, seed=3)
    text = answer.choices[0].message.content
    assert text == write_reply(PROMPT, seed=3)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(split_tokens(PROMPT))
    assert answer.usage.completion_tokens == len(split_tokens(text))
    assert answer.usage.total_tokens == sum(len(split_tokens(t)) for t in (PROMPT, text))


def test_a_stream_carries_role_text_finish_reason_and_usage(client: openai.OpenAI) -> None:
    chunks = read_stream(client, stream_options={"include_usage": True})
    assert text_of(chunks) == write_reply(PROMPT)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(split_tokens(text_of(chunks)))
    assert len({(c.id, c.object, c.created, c.model, c.system_fingerprint) for c in chunks}) == 1


def test_a_stream_without_the_option_has_no_usage(client: openai.OpenAI) -> None:
    assert all(chunk.choices and chunk.usage is None for chunk in read_stream(client))


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_ends_the_reply_with_length(client: openai.OpenAI, limit: str) -> None:
    chunks = read_stream(client, **{limit: 5})
    assert text_of(chunks) == "".join(split_tokens(write_reply(PROMPT))[:5])
    assert chunks[-1].choices[0].finish_reason == "length"


def test_content_given_in_parts_is_joined(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": PROMPT[:5]}, {"type": "text", "text": PROMPT[5:]}]
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": parts}]
    assert text_of(read_stream(client, messages=messages)) == write_reply(PROMPT)


@pytest.mark.thorough
def test_the_long_model_obeys_the_token_limit(client: openai.OpenAI) -> None:
    assert len(split_tokens(text_of(read_stream(client, model="demo-long")))) >= 10_000
    chunks = read_stream(client, model="demo-long", max_tokens=2_000)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_speed_can_be_named_in_the_model(client: openai.OpenAI) -> None:
    chunks = read_stream(client, model="demo@100000")
    assert (chunks[0].model, text_of(chunks)) == ("demo@100000", write_reply(PROMPT))


def test_the_models_are_listed_and_say_that_they_are_scripted(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == [model.name for model in MODELS]
    assert all(DEMO_LABEL in model.model_dump()["description"] for model in models)
    assert client.models.retrieve("demo@42").owned_by == "longtask-demo"


@pytest.mark.anyio
async def test_the_async_client_streams_too(base_url: str) -> None:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=base_url, max_retries=0) as client:
        stream = await client.chat.completions.create(model="demo", messages=ASK, stream=True)
        assert text_of([chunk async for chunk in stream]) == write_reply(PROMPT)


def test_the_stream_ends_with_done_and_every_answer_is_labelled(http: httpx2.Client) -> None:
    body = {"model": "demo-fast", "messages": ASK, "stream": True}
    stream = http.post("/chat/completions", json=body)
    assert stream.text.endswith("\n\ndata: [DONE]\n\n")
    assert stream.headers["content-type"].startswith("text/event-stream")
    answers = [stream, http.get("/models"), http.get("/nowhere"), http.get("/chat/completions")]
    assert {answer.headers["x-demo-label"] for answer in answers} == {DEMO_LABEL}


# The errors


@pytest.mark.parametrize("key", ["wrong", ""])
def test_a_wrong_or_missing_key_is_401(http: httpx2.Client, key: str) -> None:
    for answer in (
        http.get("/models", headers={"Authorization": f"Bearer {key}".strip()}),
        http.post("/chat/completions", headers={"Authorization": key}),
    ):
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert KEY not in answer.text


def test_the_sdk_sees_a_wrong_key_as_authentication_error(base_url: str) -> None:
    with (
        openai.OpenAI(api_key="wrong", base_url=base_url, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


@pytest.mark.parametrize("name", ["gpt-9", "demo@0", "demo@100001", "demo@fast", "a/b"])
def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(
    client: openai.OpenAI, name: str
) -> None:
    with pytest.raises(openai.NotFoundError, match="demo-fast") as caught:
        client.chat.completions.create(model=name, messages=ASK)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": False}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"n": 2}, "n"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(
    client: openai.OpenAI, wrong: dict[str, Any], param: str
) -> None:
    body: Any = {"model": "demo-fast", "messages": ASK} | wrong
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**body)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b'{"model": "\\ud83d"}', b"[" * 9**5])
def test_a_body_that_is_no_json_object_is_a_bad_request(http: httpx2.Client, raw: bytes) -> None:
    answer = http.post("/chat/completions", content=raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_path_or_method_answers_in_the_same_shape(http: httpx2.Client) -> None:
    for answer, status in (
        (http.get("/nowhere"), 404),
        (http.get("/models/"), 404),
        (http.get("/chat/completions"), 405),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


# The faults


def test_a_rate_limit_says_when_to_come_back_and_then_lets_pass(client: openai.OpenAI) -> None:
    asked: Any = {"model": "demo-429-then-ok", "messages": ASK}
    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**asked)
        assert caught.value.response.headers["retry-after"] == "1"
        assert caught.value.code == "rate_limit_exceeded"
        assert client.chat.completions.create(**asked).choices[0].finish_reason == "stop"


def test_each_prompt_has_its_own_turn(client: openai.OpenAI) -> None:
    for prompt in ("first", "second"):
        with pytest.raises(openai.RateLimitError):
            read_stream(
                client, model="demo-429-then-ok", messages=[{"role": "user", "content": prompt}]
            )


def test_the_500_model_always_fails(client: openai.OpenAI) -> None:
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            read_stream(client, model="demo-500")


def test_the_bad_key_model_refuses_a_good_key(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        read_stream(client, model="demo-bad-key")
    assert caught.value.code == "invalid_api_key"


def test_a_cut_breaks_the_stream_after_a_third_of_the_text(client: openai.OpenAI) -> None:
    got: list[Any] = []
    stream = client.chat.completions.create(model="demo-cut", messages=ASK, stream=True)
    with stream, pytest.raises((openai.APIConnectionError, httpx2.TransportError)):
        got.extend(stream)
    tokens = split_tokens(write_reply(PROMPT))
    assert text_of(got) == "".join(tokens[: len(tokens) // 3])


def test_a_cut_breaks_a_whole_answer_too(client: openai.OpenAI) -> None:
    with pytest.raises((openai.APIConnectionError, httpx2.TransportError)):
        client.chat.completions.create(model="demo-cut", messages=ASK)


def test_a_healing_cut_is_whole_the_second_time(client: openai.OpenAI) -> None:
    for _ in range(2):
        with pytest.raises((openai.APIConnectionError, httpx2.TransportError)):
            read_stream(client, model="demo-cut-then-ok")
        assert text_of(read_stream(client, model="demo-cut-then-ok")) == write_reply(PROMPT)


@pytest.mark.anyio
async def test_a_client_that_left_ends_the_stream() -> None:
    app = create_model_app(api_key=KEY, label=DEMO_LABEL, tokens_per_s=0.01)
    body = json.dumps({"model": "demo", "messages": ASK, "stream": True}).encode()
    inbox = [{"type": "http.request", "body": body, "more_body": False}]
    has_left, sent = anyio.Event(), []

    async def receive() -> Any:  # noqa: ANN401
        if inbox:
            return inbox.pop()
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)
        if len(sent) == 3:
            has_left.set()

    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {KEY}".encode())],
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    with anyio.fail_after(5):
        await app(scope, receive, send)
    assert len(sent) == 3  # headers, the role, the first token, and nothing after


def test_a_speed_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        create_model_app(api_key=KEY, label=DEMO_LABEL, tokens_per_s=0)
