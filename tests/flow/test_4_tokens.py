"""Stage 4: a service that tells its tokens is asked to go on behind exactly these."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

import longtask_kit as lt
from longtask_kit.log.events import TaskEvent
from longtask_kit.log.record import Settled
from tests.flow.deliveries import Deliveries, fold, open_deliveries

pytestmark = pytest.mark.anyio

# What a chunk says, and the tokens that it is: some are several, of some the text comes later.
CHUNKS: list[tuple[str, list[int]]] = [
    ("Tides", [11]),
    (" 🎉", [12, 13, 14]),
    ("", []),
    (" rise", [15, 16]),
    (" and", [17]),
    (" fall", [18]),
    (".", [19]),
]
TEXT = "".join(text for text, _ in CHUNKS)
IDS = [token for _, ids in CHUNKS for token in ids]
ROLE = 1  # events before the first chunk


@dataclass(eq=False)
class TokenModel:
    """A service that tells tokens.

    Attributes:
        cuts: After how many events of its stream each call breaks; further ones come to their end.
        asked: Body of every request.
        lost_from: From this chunk on it says that it doesn't know its tokens any more.
        refuses: It takes no tokens to go on behind.
        says: Whether it continues.
        gate: Set, each stream comes to its end; else it waits behind its third chunk.
    """

    cuts: list[int] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    lost_from: int = len(CHUNKS)
    refuses: bool = False
    says: str = "token_ids"
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        body = json.loads(await Request(scope, receive).body())
        self.asked.append(body)
        await self._answer(body)(scope, receive, send)

    @property
    def begun(self) -> list[list[int]]:
        """The tokens that each call was to go on behind."""
        return [body["messages"][-1].get("token_ids", []) for body in self.asked]

    def _answer(self, body: dict[str, Any]) -> Response:
        begun = body["messages"][-1].get("token_ids", [])
        is_known = begun == IDS[: len(begun)] and not self.refuses
        if begun and not is_known:
            return JSONResponse({"error": {"message": "no such tokens", "param": "token_ids"}}, 400)
        cut = self.cuts.pop(0) if self.cuts else None
        headers = {"X-Continues-Final-Message": self.says}
        return StreamingResponse(self._stream(len(begun), cut), headers=headers)

    async def _stream(self, stand: int, cut: int | None) -> AsyncIterator[str]:
        frames = [_frame({"delta": {"role": "assistant", "content": ""}})]
        for number, (text, ids) in enumerate(CHUNKS):
            known: Any = ids if number < self.lost_from else None
            if sum(len(own) for _, own in CHUNKS[: number + 1]) > stand:
                frames.append(_frame({"delta": {"content": text}, "token_ids": known}))
        counted = {"prompt_tokens": 5 + stand, "completion_tokens": len(IDS) - stand}
        end = json.dumps({"choices": [], "usage": counted})
        frames += [_frame({"delta": {}, "finish_reason": "stop"}), f"data: {end}\n\n"]
        for number, frame in enumerate(frames[:cut]):
            while number > ROLE + 2 and not self.gate.is_set():  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.01)
            yield frame
        if cut is None:
            yield "data: [DONE]\n\n"


def _frame(choice: dict[str, Any]) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0} | choice]})}\n\n"


Scene = Deliveries[TokenModel]


async def run(scene: Scene, *, cuts: list[int], **wire: Any) -> list[TaskEvent]:  # noqa: ANN401
    """Deliver a task once more than it is cut."""
    task_id = await scene.begin(**wire)
    scene.model.cuts = [*cuts]
    for _ in range(len(cuts) + 1):
        events = await scene.deliver(task_id)
    return events


@pytest.fixture
async def scene(settings: lt.Settings) -> AsyncIterator[Scene]:
    wire = {"prompt": "Explain tides", "model": "own"}
    async with open_deliveries(settings, TokenModel(), wire) as deliveries:
        yield deliveries


def list_ways(events: list[TaskEvent]) -> list[str]:
    return [e.type for e in events if e.type in ("start", "continue")]


async def test_cut_at_any_chunk_it_is_sent_exactly_the_tokens_that_stand(scene: Scene) -> None:
    for chunks in range(len(CHUNKS) + 1):
        scene.model.asked.clear()
        events = await run(scene, cuts=[ROLE + chunks], maxTokens=20)
        state = fold(events)
        stand = [token for _, ids in CHUNKS[:chunks] for token in ids]
        assert (state.text, state.status) == (TEXT, "completed"), chunks
        assert scene.model.begun == [[], stand]
        assert scene.model.asked[1]["max_tokens"] == 20 - len(stand)
        if stand:
            said = "".join(text for text, _ in CHUNKS[:chunks])
            assert scene.model.asked[1]["messages"][-1]["content"] == said
            assert list_ways(events) == ["start", "continue"]
            assert [a.prompt_tokens for a in state.attempts] == [5, 5 + len(stand)]


async def test_cut_again_and_again_it_goes_on_behind_all_of_them(scene: Scene) -> None:
    state = fold(await run(scene, cuts=[3, 2, 2, 2]))
    assert (state.text, state.seams) == (TEXT, 4)
    assert scene.model.begun == [[], IDS[:4], IDS[:6], IDS[:7], IDS[:8]]


async def test_once_a_token_is_not_known_the_attempt_starts_over(scene: Scene) -> None:
    scene.model.lost_from = 3
    for chunks in (4, 6):
        scene.model.asked.clear()
        events = await run(scene, cuts=[ROLE + chunks])
        assert fold(events).text == TEXT
        assert list_ways(events) == ["start", "start"]
        assert scene.model.begun == [[], []]


async def test_tokens_that_are_told_for_another_reason_are_not_sent_back(scene: Scene) -> None:
    scene.model.says = "false"
    events = await run(scene, cuts=[4])
    assert fold(events).text == TEXT
    assert list_ways(events) == ["start", "start"]
    assert scene.model.begun == [[], []]


async def test_a_service_that_refuses_the_tokens_begins_anew_in_the_same_attempt(
    scene: Scene,
) -> None:
    scene.model.refuses = True
    events = await run(scene, cuts=[4])
    assert fold(events).text == TEXT
    assert list_ways(events) == ["start", "start"]
    assert scene.model.begun == [[], IDS[:4], []]


async def test_told_to_end_it_hands_on_what_can_go_on_behind_its_tokens(scene: Scene) -> None:
    task_id = await scene.begin()
    scene.model.gate.clear()
    await scene.deliver(task_id, drains_at="🎉")
    scene.model.gate.set()
    state = fold(await scene.deliver(task_id))
    assert (state.text, state.status) == (TEXT, "completed")
    assert [a.ended_as for a in state.attempts] == ["handed_on", "completed"]
    assert scene.model.begun == [[], IDS[:4]]


async def test_what_was_cut_is_cancelled_at_once_for_nothing_of_it_runs_anywhere(
    scene: Scene,
) -> None:
    scene.model.cuts = [4]
    task_id = await scene.begin()
    await scene.deliver(task_id)
    assert scene.answers[-1].status_code == 500
    ended = await scene.store.settle(task_id, "cancelled", reason="x", ask_to_stop=True)
    assert isinstance(ended, Settled)
