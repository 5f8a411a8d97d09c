"""The model's stream as bytes, and what its errors mean for the queue."""

import asyncio
import importlib
import itertools
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from longtask_kit.errors import NonRetryableError, RetryableError
from longtask_kit.log.events import Usage
from longtask_kit.log.text import make_valid_text
from longtask_kit.server.handlers import Outcome
from longtask_kit.server.openai import (
    _adapt_request,
    _build_request,
    decode_stream,
    map_model_error,
    parse_retry_after,
)
from longtask_kit.submit.spec import TaskSpec

examples = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
DONE = b"data: [DONE]\n\n"
texts = st.text(max_size=12)


async def collect(parts: list[bytes]) -> list[str | Outcome]:
    async def feed() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return [item async for item in decode_stream(feed())]


def decode(*parts: bytes) -> list[str | Outcome]:
    """Run the decoder over a stream that arrives in these parts."""
    return asyncio.run(collect(list(parts)))


def frame(chunk: object) -> bytes:
    """Return a chunk as the model service sends it, non-ASCII as it is."""
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def delta(content: object, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return frame({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})


ROLE = frame({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
COUNTED = frame({"choices": [], "usage": USAGE})
STREAM = ROLE + delta("Hé") + delta("家👩‍🔬\n\0") + delta("", "stop") + COUNTED + DONE
ITEMS: list[str | Outcome] = [
    "Hé",
    "家👩‍🔬\n\0",
    Outcome(usage=Usage(**USAGE), finish_reason="stop"),
]


# The stream


def test_deltas_come_one_by_one_and_the_outcome_last() -> None:
    assert decode(STREAM) == ITEMS


def test_a_stream_cut_in_two_at_any_byte_gives_the_same_items() -> None:
    async def cut_everywhere() -> list[int]:
        return [
            at
            for at in range(len(STREAM) + 1)
            if await collect([STREAM[:at], STREAM[at:]]) != ITEMS
        ]

    assert asyncio.run(cut_everywhere()) == []


def test_a_stream_that_comes_byte_by_byte_gives_the_same_items() -> None:
    assert decode(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == ITEMS


@examples
@given(st.lists(st.text(min_size=1, max_size=12), max_size=6), st.data())
def test_any_text_survives_any_cut(deltas: list[str], data: st.DataObject) -> None:
    stream = b"".join(map(delta, deltas)) + DONE
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    ends = [0, *cuts, len(stream)]
    parts = [stream[a:b] for a, b in itertools.pairwise(ends)]
    assert decode(*parts) == [*deltas, Outcome()]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (STREAM.replace(b"\n", b"\r\n"), ITEMS),
        (b": a comment\n\n" + STREAM.replace(DONE, b": data: x\n\n" + DONE), ITEMS),
        (STREAM.replace(b"data: ", b"data:"), ITEMS),
        (b"".join(b"event: chunk\nid: 7\nretry: 5\n" + f for f in [delta("a"), DONE]), ["a"]),
        (b"\n\n\n" + delta("a") + b"\n\n" + DONE, ["a"]),
        (delta("a").strip() + b"\n" + DONE.strip() + b"\n", ["a"]),  # no blank lines between
        (delta("a") + DONE + DONE, ["a"]),
        (DONE, []),
        (delta(None) + delta("") + delta("a") + DONE, ["a"]),
        (frame({"choices": [{"delta": None}]}) + DONE, []),
        (frame({"choices": [{}]}) + frame({"choices": None}) + frame({}) + DONE, []),
        (frame({"choices": [], "usage": None}) + DONE, []),
        (frame({"error": None, "choices": []}) + DONE, []),
        (b'data: {"choices":[{"delta":{"content":"\\ud83d\\ude00"}}]}\n\n' + DONE, ["😀"]),
        (b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n' + DONE, ["a\ufffd"]),
        (b'data: {"choices":[{"delta":{"content":"\\udc00b"}}]}\n\n' + DONE, ["\ufffdb"]),
    ],
)
def test_variants_of_the_stream_mean_the_same(stream: bytes, expected: list[str | Outcome]) -> None:
    items = decode(stream)
    assert items == (expected if expected == ITEMS else [*expected, Outcome()])


_CHUNKS = st.fixed_dictionaries(
    {
        "choices": st.tuples(
            st.fixed_dictionaries({"delta": st.fixed_dictionaries({"content": texts})})
        )
    }
)


@examples
@given(st.lists(_CHUNKS, max_size=5), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_whatever_the_sdk_reads_is_read_the_same(
    chunks: list[dict[str, Any]], line_end: bytes, data: st.DataObject
) -> None:
    events = []
    indents = st.sampled_from([None, 1])  # with one an event takes several lines
    bodies = [json.dumps(chunk, indent=data.draw(indents)) for chunk in chunks]
    for text in [*bodies, "[DONE]"]:
        fields = [f"data: {line}" for line in text.split("\n")]
        odd = st.lists(st.sampled_from([": comment", "event: x", "id: 7", "retry: 5", "other"]))
        events.append("\n".join([*data.draw(odd), *fields, *data.draw(odd), "", ""]))
    stream = "".join(events).encode().replace(b"\n", line_end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    parts = [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]
    read = [event.data for event in SSEDecoder().iter_bytes(iter(parts))]
    said = [json.loads(d)["choices"][0]["delta"]["content"] for d in read if d != "[DONE]"]
    assert len(said) == len(chunks)
    assert decode(*parts) == [*filter(None, map(make_valid_text, said)), Outcome()]


def test_a_finish_reason_is_an_end_even_without_done() -> None:
    assert decode(delta("a") + delta("", "length")) == ["a", Outcome(finish_reason="length")]


def test_a_last_chunk_does_not_take_the_finish_reason_back() -> None:
    stream = delta("a", "length") + delta(None) + COUNTED + DONE
    assert decode(stream) == ["a", Outcome(usage=Usage(**USAGE), finish_reason="length")]


def test_the_latest_usage_counts() -> None:
    growing = frame({"choices": [], "usage": USAGE | {"total_tokens": 4}})
    assert decode(growing + COUNTED + DONE) == [Outcome(usage=Usage(**USAGE))]


def test_more_usage_details_than_ours_are_ignored() -> None:
    usage = USAGE | {"prompt_tokens_details": {"cached_tokens": 1}, "cost": 0.1}
    assert decode(frame({"choices": [], "usage": usage}) + DONE) == [Outcome(usage=Usage(**USAGE))]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": None, "completion_tokens": 5, "total_tokens": 8},
        {"prompt_tokens": 3, "completion_tokens": 5},
        {"prompt_tokens": "3", "completion_tokens": [], "total_tokens": {}},
        [],
        5,
    ],
    ids=str,
)
def test_an_odd_usage_never_costs_the_answer_and_never_reaches_the_log(usage: object) -> None:
    # The text is paid for. An entry with `null` counts would be unreadable for ever.
    *text, outcome = decode(delta("a") + frame({"choices": [], "usage": usage}) + DONE)
    assert text == ["a"]
    assert isinstance(outcome, Outcome)
    counts = () if outcome.usage is None else tuple(outcome.usage.to_wire().values())
    assert all(isinstance(count, int) for count in counts)


def test_an_odd_finish_reason_never_reaches_the_log() -> None:
    chunk = {"choices": [{"delta": {"content": "a"}, "finish_reason": 5}]}
    try:
        outcome = decode(frame(chunk) + DONE)[-1]
    except RetryableError:
        return
    assert isinstance(outcome, Outcome)
    assert outcome.finish_reason is None or isinstance(outcome.finish_reason, str)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"", "model_connection"),
        (b": only a comment\n\n", "model_connection"),
        (delta("a"), "model_connection"),
        (delta("a") + COUNTED, "model_connection"),
        (delta("a") + delta("b", "stop").rstrip()[:-5], "model_connection"),
        (b'{"error":{"message":"not SSE"}}', "model_connection"),
        (b"data: not json\n\n", "model_protocol"),
        (b"data: {\n\n", "model_protocol"),
        (b"data: \xff\xfe\n\n", "model_protocol"),
        (b"data: 5\n\n", "model_protocol"),
        (b"data: null\n\n", "model_protocol"),
        (b"data: []\n\n", "model_protocol"),
        (frame({"choices": [None]}), "model_protocol"),
        (frame({"choices": 5}), "model_protocol"),
        (frame({"choices": [{"delta": 5}]}), "model_protocol"),
        (delta(5), "model_protocol"),
        (delta([{"type": "text", "text": "a"}]), "model_protocol"),
        (frame({"error": {"message": "overloaded"}}), "model_error"),
        (delta("a") + frame({"error": "overloaded"}), "model_error"),
    ],
)
def test_a_broken_stream_is_worth_another_attempt(stream: bytes, code: str) -> None:
    with pytest.raises(RetryableError) as caught:
        decode(stream + (DONE if code == "model_protocol" else b""))
    assert caught.value.code == code


def test_what_came_before_the_break_was_yielded() -> None:
    seen: list[str | Outcome] = []

    async def feed() -> AsyncIterator[bytes]:
        yield delta("a") + delta("b") + frame({"error": {"message": "overloaded"}})

    async def follow() -> None:
        async for item in decode_stream(feed()):
            seen.append(item)

    with pytest.raises(RetryableError, match="overloaded"):
        asyncio.run(follow())
    assert seen == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain 家 👩‍🔬", "plain 家 👩‍🔬"),
        ("\ud83d\ude00", "😀"),
        ("\ud83d", "\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ufeffa\udc00", "\ufeffa\ufffd"),
    ],
)
def test_half_a_surrogate_pair_becomes_the_replacement_character(text: str, expected: str) -> None:
    assert make_valid_text(text) == expected


@examples
@given(st.text(st.characters()))
def test_any_text_can_be_encoded_once_it_is_made_valid(text: str) -> None:
    valid = make_valid_text(text)
    assert valid.encode().decode() == valid
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert valid == text


# The request


def test_the_request_says_what_the_spec_says() -> None:
    spec = TaskSpec(prompt="hi", system="be brief", max_tokens=5, temperature=0)
    assert _build_request(spec, "default-model") == {
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
    request = _build_request(TaskSpec(prompt="hi", model="mine"), "default-model")
    assert request["model"] == "mine"
    assert [message["role"] for message in request["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("refused", "gone", "new"),
    [
        ("max_tokens", "max_tokens", {"max_completion_tokens": 1000}),
        ("temperature", "temperature", {}),
        ("stream_options", "stream_options", {}),
    ],
)
def test_a_refused_parameter_is_renamed_or_left_out_once(
    refused: str, gone: str, new: dict[str, Any]
) -> None:
    request = _build_request(TaskSpec(prompt="hi"), "m")
    before = dict(request)
    assert _adapt_request(request, refused)
    assert request == {name: value for name, value in before.items() if name != gone} | new
    assert not _adapt_request(request, refused)  # else the model would be asked for ever


@pytest.mark.parametrize("refused", [None, "", "messages", "model", "max_completion_tokens"])
def test_any_other_refusal_stands(refused: str | None) -> None:
    request = _build_request(TaskSpec(prompt="hi"), "m")
    before = dict(request)
    assert not _adapt_request(request, refused)
    assert request == before


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("5", 5.0),
        ("0.5", 0.5),
        (" 5 ", 5.0),
        ("86400", 86_400.0),
        ("86401", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e9", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_nothing(value: str | None, expected: float | None) -> None:
    assert parse_retry_after(value) == expected


# Errors of the model service

STATUS_ERRORS = {
    "APIStatusError": 418,
    "AuthenticationError": 401,
    "BadRequestError": 400,
    "ConflictError": 409,
    "InternalServerError": 500,
    "NotFoundError": 404,
    "OAuthError": 401,
    "PermissionDeniedError": 403,
    "RateLimitError": 429,
    "UnprocessableEntityError": 422,
}
TIMEOUTS = {"APITimeoutError"}
UNREACHABLE = {"APIConnectionError"}
# Chat completions read as raw bytes raise none of these; retrying them is the cautious answer.
NEVER_SEEN = {
    "APIError",
    "APIRemovedInV1",
    "APIResponseValidationError",
    "AgentFilePreparationError",
    "AgentFileStagingError",
    "AgentOutputParseError",
    "AgentTurnResultError",
    "ContentFilterFinishReasonError",
    "LengthFinishReasonError",
    "MissingDependencyError",
    "MutuallyExclusiveAuthError",
    "OpenAIError",
    "StreamAlreadyConsumed",
    "SubjectTokenProviderError",
    "WebSocketConnectionClosedError",
    "WebSocketQueueFullError",
    "_AmbiguousModuleClientUsageError",
}


def import_what_defines_errors() -> None:
    """Import every module of openai whose source derives a class from one of its errors."""
    root = Path(openai.__file__).parent
    classes = [
        (match[1], re.findall(r"\w+", match[2]), path)
        for path in root.rglob("*.py")
        if {"types", "resources"}.isdisjoint(path.relative_to(root).parts)
        for match in re.finditer(r"^class (\w+)\(([^)]*)\)", path.read_text("utf-8"), re.MULTILINE)
    ]
    known: set[str] = {"OpenAIError"}
    while found := {c for c in classes_of(classes, known) if c[0] not in known}:
        known |= {name for name, _ in found}
        for _, path in found:
            parts = path.relative_to(root.parent).with_suffix("").parts
            importlib.import_module(".".join(parts).removesuffix(".__init__"))


def classes_of(
    classes: list[tuple[str, list[str], Path]], bases: set[str]
) -> set[tuple[str, Path]]:
    return {(name, path) for name, names, path in classes if not bases.isdisjoint(names)}


def subclasses_of(cls: type[openai.OpenAIError]) -> set[type[openai.OpenAIError]]:
    return {cls}.union(*(subclasses_of(child) for child in cls.__subclasses__()))


def make_status_error(
    cls: type[Any], status_code: int, body: object, headers: dict[str, str] | None = None
) -> openai.APIStatusError:
    """Return an error as the client raises it; the body as the client unwraps it."""
    request = httpx2.Request("POST", "https://llm.example.com/v1/chat/completions")
    response = httpx2.Response(status_code, request=request, headers=headers)
    error: openai.APIStatusError
    if cls is openai.OAuthError:
        error = cls(response=response, body=body)
    else:
        error = cls("text", response=response, body=body)
    return error


def test_every_error_class_of_the_openai_client_is_known() -> None:
    import_what_defines_errors()
    found = {cls.__name__ for cls in subclasses_of(openai.OpenAIError)}
    assert found == set(STATUS_ERRORS) | TIMEOUTS | UNREACHABLE | NEVER_SEEN


def test_every_error_of_the_openai_client_maps_to_one_of_ours() -> None:
    import_what_defines_errors()
    for cls in subclasses_of(openai.OpenAIError):
        name = cls.__name__
        if issubclass(cls, openai.APIStatusError):
            mapped = map_model_error(make_status_error(cls, STATUS_ERRORS[name], None))
            is_retryable = STATUS_ERRORS[name] in (409, 429, 500)
            assert type(mapped) is (RetryableError if is_retryable else NonRetryableError), name
            assert mapped.code == f"http_{STATUS_ERRORS[name]}"
        else:
            mapped = map_model_error(cls.__new__(cls))
            assert type(mapped) is RetryableError, name
            assert mapped.code == ("model_timeout" if name in TIMEOUTS else "model_connection")


@pytest.mark.parametrize(
    ("status_code", "expected"),
    [
        (400, NonRetryableError),
        (401, NonRetryableError),
        (403, NonRetryableError),
        (404, NonRetryableError),
        (408, RetryableError),
        (409, RetryableError),
        (413, NonRetryableError),
        (422, NonRetryableError),
        (429, RetryableError),
        (500, RetryableError),
        (502, RetryableError),
        (503, RetryableError),
        (529, RetryableError),
    ],
)
def test_the_status_says_whether_another_attempt_may_help(
    status_code: int, expected: type[Exception]
) -> None:
    error = make_status_error(openai.APIStatusError, status_code, {"message": "why"})
    mapped = map_model_error(error)
    assert type(mapped) is expected
    assert str(mapped) == f"The model service answered {status_code}: why"


def test_an_empty_account_is_not_a_busy_service() -> None:
    body = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    mapped = map_model_error(make_status_error(openai.RateLimitError, 429, body))
    assert isinstance(mapped, NonRetryableError)
    assert mapped.code == "insufficient_quota"


def test_the_services_retry_after_is_kept() -> None:
    error = make_status_error(openai.RateLimitError, 429, None, {"Retry-After": "7"})
    mapped = map_model_error(error)
    assert isinstance(mapped, RetryableError)
    assert mapped.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (None, "http_400"),
        ("<html>Bad Gateway</html>", "http_400"),
        ([], "http_400"),
        ({}, "http_400"),
        ({"message": None, "code": None}, "http_400"),
        ({"message": "m", "code": "context_length_exceeded"}, "context_length_exceeded"),
        ({"message": "m", "code": 400}, "400"),  # OpenRouter's are numbers
        ({"error": {"message": "m"}}, "http_400"),
        ({"error": "m"}, "http_400"),
    ],
)
def test_any_body_gives_a_text_and_a_text_code(body: object, code: str) -> None:
    mapped = map_model_error(make_status_error(openai.BadRequestError, 400, body))
    assert mapped.code == code
    assert str(mapped).startswith("The model service answered 400")


KEY = "sk-canary-0123456789abcdef"


@pytest.mark.parametrize("padding", [0, 10, 474, 480, 490, 499, 500, 600])
@pytest.mark.parametrize("shape", ["message", "error", "text", "odd"])
def test_the_key_does_not_show_even_where_the_text_is_cut(padding: int, shape: str) -> None:
    text = "x" * padding + KEY + " is not a valid key " + KEY
    bodies = {"message": {"message": text}, "error": {"error": {"message": text}}, "text": text}
    error = make_status_error(openai.AuthenticationError, 401, bodies.get(shape, [text]))
    shown = str(map_model_error(error, KEY))
    assert "sk-c" not in shown
    assert len(shown) < 600


def test_no_key_leaves_the_text_as_it_is() -> None:
    error = make_status_error(openai.BadRequestError, 400, {"message": "why"})
    assert str(map_model_error(error, "")) == "The model service answered 400: why"


def test_half_a_surrogate_pair_in_an_error_can_still_be_stored() -> None:
    error = make_status_error(openai.BadRequestError, 400, {"message": "bad \ud83d"})
    assert str(map_model_error(error)).encode()


def test_half_a_surrogate_pair_in_an_error_chunk_can_still_be_stored() -> None:
    with pytest.raises(RetryableError) as caught:
        decode(b'data: {"error":{"message":"bad \\ud83d"}}\n\n')
    assert str(caught.value).encode()


def test_an_error_chunk_that_quotes_the_key_is_stored_without_it() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'data: {"error":{"message":"Incorrect API key: sk-canary"}}\n\n'

    async def read() -> None:
        async for _ in decode_stream(chunks(), "sk-canary"):
            pass

    with pytest.raises(RetryableError, match=r"Incorrect API key: \*\*\*"):
        asyncio.run(read())


_FIRST_ATTEMPT = """
import asyncio, sys, threading
import longtask_kit as lt
import longtask_kit.server.app
from longtask_kit.server.handlers import TaskContext
from longtask_kit.server.openai import OpenAIHandler
from longtask_kit.submit.spec import TaskSpec

beside, on_the_loop = set(), set()

class Recorder:
    def find_spec(name, path, target=None):
        if name.partition(".")[0] == "openai":
            is_main = threading.current_thread() is threading.main_thread()
            (on_the_loop if is_main else beside).add(name)

async def main():
    nobody = "http://127.0.0.1:9/v1"
    settings = lt.Settings(_env_file=None, openai_api_key="k", openai_base_url=nobody)
    handler = OpenAIHandler(settings)
    spec = TaskSpec(prompt="x", model="x")
    try:
        async for _ in handler(TaskContext(task_id="task_12345678", attempt=1, spec=spec)):
            pass
    except lt.RetryableError:
        print(len(beside) > 100, sorted(on_the_loop))
    await handler.aclose()

sys.meta_path.insert(0, Recorder)
asyncio.run(main())
"""


def test_the_first_attempt_loads_the_client_beside_the_event_loop() -> None:
    command = [sys.executable, "-c", _FIRST_ATTEMPT]
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert seen.strip() == "True []"
