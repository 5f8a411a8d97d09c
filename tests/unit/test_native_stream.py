"""Streams of the real model's engine: which tokens their chunks are, in the shape of a chat."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from longtask_kit.local.model.native_stream import TokenTeller, chat_from_raw, tell_tokens

pytestmark = pytest.mark.anyio
PARTY = [12, 13, 14]  # the tokens of one character


async def tokenize(text: str) -> list[int]:
    return {"🎉": PARTY, "?": [9]}[text]


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ([("a", [1], 1), ("b", [2], 2)], [[1], [2]]),
        # Of a character in several tokens the engine names the last.
        ([("a", [1], 1), ("🎉", [14], 4), ("b", [2], 5)], [[1], PARTY, [2]]),
        # Text that may be a stop string is held back: its tokens come with it.
        ([("", [1], 1), ("ab", [2], 2)], [[], [1, 2]]),
        # Both at once, another count, another last token: nobody knows, from then on.
        ([("", [1], 1), ("🎉", [14], 4), ("b", [2], 5)], [[], None, None]),
        ([("🎉", [14], 2), ("b", [2], 3)], [None, None]),
        ([("🎉", [15], 3)], [None]),
    ],
)
async def test_a_chunk_is_told_with_the_tokens_that_its_text_is(
    chunks: list[tuple[str, list[int], int]], told: list[list[int] | None]
) -> None:
    teller = TokenTeller(tokenize=tokenize)
    found = [await teller.take(text, ids, generated=number) for text, ids, number in chunks]
    assert found == told


async def frames_of(*events: object) -> AsyncIterator[str]:
    for event in events:
        yield event if isinstance(event, str) else f"data: {json.dumps(event)}"


async def read(frames: AsyncIterator[str]) -> list[Any]:
    told = [frame async for frame in frames]
    assert all(frame.endswith("\n\n") for frame in told)
    data = [frame.removeprefix("data: ").strip() for frame in told]
    return [json.loads(text) if text.startswith("{") else text for text in data]


async def test_a_chats_chunks_say_their_tokens_and_not_how_these_were_learnt() -> None:
    logprobs = {"content": [{"id": 7, "logprob": -0.1}]}
    timings = {"predicted_n": 1}
    spoken = {"index": 0, "delta": {"content": "a"}, "logprobs": logprobs}
    ended = {"index": 0, "delta": {}, "finish_reason": "stop"}
    frames = frames_of(
        {"id": "x", "choices": [spoken], "timings": timings},
        ":",
        {"id": "x", "choices": [ended], "timings": timings},
        {"choices": [], "usage": {"prompt_tokens": 3}},
        "data: [DONE]",
    )
    assert await read(tell_tokens(frames, TokenTeller(tokenize=tokenize))) == [
        {"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "token_ids": [7]}]},
        ":",
        {"id": "x", "choices": [ended]},
        {"choices": [], "usage": {"prompt_tokens": 3}},
        "[DONE]",
    ]


@pytest.mark.parametrize(
    ("stop_type", "reason"), [("eos", "stop"), ("word", "stop"), ("limit", "length")]
)
async def test_a_raw_completion_reads_as_a_chat_with_counts(stop_type: str, reason: str) -> None:
    end = {"content": "", "tokens": [], "stop": True, "stop_type": stop_type}
    frames = frames_of(
        {"content": "🎉", "tokens": [14], "stop": False, "tokens_predicted": 3},
        'data: {"error": {"message": "no"}}',
        end | {"tokens_predicted": 4, "tokens_evaluated": 20},
    )
    teller = TokenTeller(tokenize=tokenize)
    head, spoken, error, last, counted, done = await read(
        chat_from_raw(frames, teller, model="m", counts=True)
    )
    assert (head["model"], head["choices"][0]["delta"]["role"]) == ("m", "assistant")
    assert spoken["choices"][0] == {
        **{"index": 0, "delta": {"content": "🎉"}, "finish_reason": None, "token_ids": PARTY}
    }
    assert error == {"error": {"message": "no"}}
    assert last["choices"][0]["finish_reason"] == reason
    usage = {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}
    assert (counted["usage"], done) == (usage, "[DONE]")
