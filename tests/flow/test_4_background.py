"""Stage 4: a response in the background is read on by the next attempt, and paid once."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.local.model.prose import split_tokens, write_reply
from longtask_kit.log.events import START, Usage
from longtask_kit.log.keys import task_key
from longtask_kit.log.record import Begun, Busy
from longtask_kit.server import openai_background
from longtask_kit.server.openai_background import BackgroundDecoder, name_run
from tests.cut_model import CutModel
from tests.flow.deliveries import Deliveries, fold, open_deliveries
from tests.wait import wait_until

pytestmark = pytest.mark.anyio
PROMPT = "Explain tides"
LIMIT = 10
USED = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
TEXT = "".join(split_tokens(write_reply(PROMPT))[:LIMIT])
WIRE = {
    **{"prompt": PROMPT, "model": "demo", "maxTokens": LIMIT},
    **{"api": "responses", "params": {"background": True}},
}


Scene = Deliveries[CutModel]


def count_runs(scene: Scene) -> int:
    """Return how many responses were begun."""
    return scene.model.posts("/v1/responses")


@pytest.fixture
async def scene(settings: lt.Settings, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    model = CutModel(stream_again_s=getattr(request, "param", 300.0))
    async with open_deliveries(settings, model, WIRE) as deliveries:
        yield deliveries


@pytest.mark.parametrize("model", ["demo", "demo-reason", "demo-refuse"])
async def test_cut_at_any_event_it_is_read_on_and_run_once(scene: Scene, model: str) -> None:
    task_id = await scene.begin(model=model)
    whole = fold(await scene.deliver(task_id))
    assert whole.status == "completed"
    for events_before in range(1, LIMIT + 3):
        scene.model.cuts, before = iter([events_before]), count_runs(scene)
        task_id = await scene.begin(model=model)
        await scene.deliver(task_id)
        assert scene.answers[-1].status_code == 500
        events = await scene.deliver(task_id)
        state = fold(events)
        assert scene.answers[-1].status_code == 200
        assert (state.text, state.reasoning, state.refusal, state.finish_reason) == (
            *(whole.text, whole.reasoning, whole.refusal, whole.finish_reason),
        )
        assert count_runs(scene) - before == 1
        assert state.usage == whole.usage, "one run of the model, paid once"
        assert [e.type for e in events if e.type in ("start", "continue")] == ["start", "continue"]


async def test_one_whose_id_nobody_has_stored_is_found_by_its_key(scene: Scene) -> None:
    scene.model.cuts = iter([0, 0])
    task_id = await scene.begin()
    events = []
    while not scene.answers or scene.answers[-1].status_code == 500:
        events = await scene.deliver(task_id)
    assert (fold(events).text, count_runs(scene)) == (TEXT, 3)
    assert len(scene.model.response_ids) == 1, "asked for three times, begun once"


async def test_one_that_is_retried_by_hand_or_gone_has_another_key(scene: Scene) -> None:
    request = {"model": "demo", "input": PROMPT}
    assert name_run("task_1", request) == name_run("task_1", dict(reversed(request.items())))
    keys = {name_run(run, request) for run in ("task_1", "task_1/1800000000000", "task_1/resp_1")}
    assert len(keys | {name_run("task_1", request | {"temperature": 1})}) == 4
    task_id = await scene.begin(model="demo-bad-key")
    await scene.deliver(task_id)
    await scene.store.retry(task_id)
    before, again = [
        await scene.store.begin(begun, delivery_id="msg_2")
        for begun in (await scene.begin(), task_id)
    ]
    assert isinstance(before, Begun)
    assert isinstance(again, Begun)
    assert (before.since, again.since > "") == ("", True)


async def test_cut_again_and_again_it_still_is_one_run(scene: Scene) -> None:
    scene.model.cuts = itertools.chain([4], itertools.repeat(1, 20))
    task_id = await scene.begin()
    events = []
    while not scene.answers or scene.answers[-1].status_code == 500:
        events = await scene.deliver(task_id)
    state = fold(events)
    assert (state.text, count_runs(scene)) == (TEXT, 1)
    assert state.seams >= 3


@pytest.mark.parametrize("scene", [0.0], indirect=True)
@pytest.mark.parametrize("model", ["demo", "demo-reason", "demo-refuse"])
async def test_too_late_for_its_events_it_is_asked_for_and_the_rest_appended(
    scene: Scene, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_background, "_POLL_S", 0.01)
    whole = fold(await scene.deliver(await scene.begin(model=model)))
    for events_before in (1, 3, 6, LIMIT + 2):
        scene.model.cuts, before = iter([events_before]), count_runs(scene)
        task_id = await scene.begin(model=model)
        await scene.deliver(task_id)
        state = fold(await scene.deliver(task_id))
        assert (state.text, state.refusal) == (whole.text, whole.refusal)
        assert count_runs(scene) - before == 1


async def test_one_that_is_gone_is_begun_anew(scene: Scene) -> None:
    scene.model.cuts = iter([6])
    task_id = await scene.begin()
    await scene.deliver(task_id)
    scene.model.forget()
    events = await scene.deliver(task_id)
    assert (fold(events).text, count_runs(scene)) == (TEXT, 2)
    assert [e.type for e in events if e.type in ("start", "continue")] == ["start", "start"]


@pytest.fixture
async def polled(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> str:
    """A task whose next attempt asks for its response until that has ended, in a second or so."""
    monkeypatch.setattr(openai_background, "_POLL_S", 0.01)
    scene.model.cuts = iter([4])
    task_id = await scene.begin(model="demo@40", maxTokens=60)
    await scene.deliver(task_id)
    return task_id


@pytest.mark.parametrize("scene", [0.0], indirect=True)
@pytest.mark.parametrize(
    ("told", "code"), [({"drains_in_s": 0.2}, "shutdown"), ({"max_duration_s": 0.4}, "time_limit")]
)
async def test_what_is_asked_for_is_handed_on_too(
    scene: Scene, polled: str, told: dict[str, float], code: str
) -> None:
    handed = fold(await scene.deliver(polled, **told))  # type: ignore[arg-type]
    assert (handed.attempts[-1].ended_as, handed.attempts[-1].code) == ("handed_on", code)
    assert handed.text, "it stays"
    state = fold(await scene.deliver(polled))
    assert state.text == "".join(split_tokens(write_reply(PROMPT))[:60])
    assert (state.status, count_runs(scene)) == ("completed", 1)


@pytest.mark.parametrize("scene", [0.0], indirect=True)
async def test_what_is_asked_for_is_cancelled_at_its_service_too(scene: Scene, polled: str) -> None:
    store = scene.store
    delivery = asyncio.create_task(scene.deliver(polled))
    while fold(await store.read_log(polled, after=START)).status != "running":  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await store.settle(polled, "cancelled", reason="x", ask_to_stop=True)
    assert fold(await delivery).status == "cancelled"
    assert [path.rpartition("/")[2] for path in scene.model.paths] == ["responses", "cancel"]


@dataclass
class FailingModel:
    """A service whose first response fails behind its first word, or only says that it has.

    Attributes:
        status: What is told of it when it is asked for.
        keys: Of each call that begins a response.
        code: Of the failure.
        cuts_second: Whether the second response's first stream breaks before it has said anything.
        numbers: Whether its events have numbers.
    """

    status: str = "failed"
    keys: list[str] = field(default_factory=list)
    code: str = "server_error"
    cuts_second: bool = False
    numbers: bool = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await Starlette()(scope, receive, send)
            return
        request = Request(scope, receive)
        if request.method == "POST":
            key = request.headers["idempotency-key"]
            self.keys.append(key)
            is_first = key == self.keys[0]
            answer = self._stream(0, "resp_1" if is_first else "resp_2")
            self.cuts_second = self.cuts_second and is_first
        elif "stream" not in request.query_params:
            whole = self._describe("resp_1", self.status)
            answer = JSONResponse(whole)
        else:
            after = int(request.query_params["starting_after"])
            answer = self._stream(after + 1, request.url.path.rpartition("/")[2])
        await answer(scope, receive, send)

    def _describe(self, response_id: str, status: str) -> dict[str, Any]:
        error = {"code": self.code, "message": "x"} if status == "failed" else None
        part = {"type": "output_text", "text": "one two"}
        output = [{"type": "message", "role": "assistant", "content": [part]}]
        told: dict[str, Any] = {"error": error, "output": output, "usage": USED}
        return told | {"id": response_id, "object": "response", "status": status}

    def _stream(self, number: int, response_id: str) -> Response:
        status = "failed" if response_id == "resp_1" else "completed"
        words = ["one"] if response_id == "resp_1" else ["one", " two"]
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": {"id": response_id}},
            *({"type": "response.output_text.delta", "delta": word} for word in words),
            {"type": f"response.{status}", "response": self._describe(response_id, status)},
        ]
        if self.cuts_second and response_id == "resp_2":
            events = events[:1]
        if self.numbers:
            events = [{**event, "sequence_number": n} for n, event in enumerate(events)]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events[number:])
        return Response(text, media_type="text/event-stream")


async def test_one_that_failed_is_begun_anew_by_the_next_attempt(settings: lt.Settings) -> None:
    model = FailingModel()
    async with open_deliveries(settings, model, WIRE) as deliveries:
        task_id = await deliveries.begin()
        assert fold(await deliveries.deliver(task_id)).text == "one"
        events = await deliveries.deliver(task_id)
    assert (fold(events).text, [a.status_code for a in deliveries.answers]) == (
        *("one two", [500, 200]),
    )
    assert fold(events).attempts[1].continued is None
    assert len(set(model.keys)) == 2, "no service takes it for the one that failed"


def make_call(number: int) -> dict[str, Any]:
    named = {"id": f"fc_{number}", "call_id": f"call_{number}", "name": f"f{number}"}
    return {"type": "function_call", **named, "arguments": f'{{"n":{number}}}'}


def make_events() -> list[dict[str, Any]]:
    """Return those of a response of two paragraphs of reasoning, a refusal and two calls."""
    kinds = ["reasoning_summary_text"] * 3 + ["refusal"] * 2
    texts, parts = ["one", "two", " words", "I", " won't"], [0, 1, 1, 0, 0]
    events = [
        {"type": f"response.{kind}.delta", "output_index": 0, "summary_index": part, "delta": text}
        for kind, part, text in zip(kinds, parts, texts, strict=True)
    ]
    events.append({"type": "response.refusal.done", "refusal": "I won't"})
    for at, call in enumerate([make_call(1), make_call(2)], 1):
        events += [
            {"type": f"response.output_item.{when}", "output_index": at, "item": item}
            for when, item in (("added", call | {"arguments": ""}), ("done", call))
        ]
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "I won't"}]}
    output = [refusal, make_call(1), make_call(2)]
    told = {"object": "response", "status": "completed", "output": output, "usage": USED}
    whole = {"id": "resp_1", **told}
    began = {"type": "response.created", "response": {"id": "resp_1"}}
    return [began, *events, {"type": "response.completed", "response": whole}]


async def test_wherever_it_is_cut_paragraphs_refusal_and_calls_are_the_undisturbed_ones(
    settings: lt.Settings,
) -> None:
    events = [{**event, "sequence_number": n} for n, event in enumerate(make_events())]
    posts, cut = 0, len(events)

    async def model(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal posts
        if scope["type"] != "http":
            await Starlette()(scope, receive, send)
            return
        request, told = Request(scope, receive), events[:cut]
        if request.method == "POST":
            posts += 1
        else:
            told = events[int(request.query_params["starting_after"]) + 1 :]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in told)
        await Response(text, media_type="text/event-stream")(scope, receive, send)

    async with open_deliveries(settings, model, WIRE) as deliveries:
        whole = fold(await deliveries.deliver(await deliveries.begin()))
        assert (whole.reasoning, whole.refusal) == ("one\n\ntwo words", "I won't")
        assert [call["id"] for call in whole.tool_calls] == ["call_1", "call_2"]
        for cut in range(1, len(events)):
            task_id, posts = await deliveries.begin(), 0
            await deliveries.deliver(task_id)
            state = fold(await deliveries.deliver(task_id))
            assert posts == 1, f"cut behind {cut} events it was asked for once"
            for name in ("reasoning", "refusal", "tool_calls", "finish_reason", "usage"):
                assert getattr(state, name) == getattr(whole, name), cut


async def test_a_refusal_that_another_attempt_has_read_is_the_reason_to_stop() -> None:
    decoder = BackgroundDecoder(place={"id": "resp_1", "seq": 6}, goes_on=True)
    whole = make_events()[-1]["response"]
    decoder.feed(
        {"type": "response.completed", "response": whole | {"output": whole["output"][:1]}}
    )
    assert decoder.end() == [lt.Outcome(usage=USED, finish_reason="refusal")]


@pytest.mark.parametrize("numbers", [True, False])
async def test_one_that_only_said_so_is_asked_for(settings: lt.Settings, numbers: bool) -> None:
    """As a front end of this kit does, whose task has started over; without numbers, too."""
    model = FailingModel(status="completed", numbers=numbers)
    async with open_deliveries(settings, model, WIRE) as deliveries:
        task_id = await deliveries.begin()
        await deliveries.deliver(task_id)
        events = await deliveries.deliver(task_id)
    assert (fold(events).text, fold(events).status) == ("one two", "completed")
    assert len(model.keys) == 1
    assert fold(events).usage == Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7)


async def test_one_that_no_retry_can_help_fails(settings: lt.Settings) -> None:
    async with open_deliveries(settings, FailingModel(code="invalid_prompt"), WIRE) as deliveries:
        state = fold(await deliveries.deliver(await deliveries.begin()))
    assert (state.status, state.code) == ("failed", "invalid_prompt")


async def test_what_stood_is_not_taken_for_what_the_next_response_said(
    settings: lt.Settings,
) -> None:
    model = FailingModel(cuts_second=True)
    async with open_deliveries(settings, model, WIRE) as deliveries:
        task_id = await deliveries.begin()
        await deliveries.deliver(task_id)
        assert fold(await deliveries.deliver(task_id)).text == "", "begun anew, and cut at once"
        model.cuts_second = False
        events = await deliveries.deliver(task_id)
    assert fold(events).text == "one two"
    assert [a.continued is None for a in fold(events).attempts] == [True, True, False]
    assert len(set(model.keys)) == 2


@pytest.mark.parametrize("cut", [None, 6])
async def test_a_cancel_between_two_attempts_cancels_it_at_its_service(
    scene: Scene, cut: int | None
) -> None:
    """Whether the first was handed on, and it is pending, or cut, and it is retrying."""
    task_id = await scene.begin(model="demo@20", maxTokens=200)
    if cut is None:
        await scene.deliver(task_id, drains_at="Tides")
    else:
        scene.model.cuts = iter([cut])
        await scene.deliver(task_id)
    asked = await scene.store.settle(task_id, "cancelled", reason="x", ask_to_stop=True)
    assert isinstance(asked, Busy), "whoever runs it next ends it there"
    state = fold(await scene.deliver(task_id))
    assert (state.status, scene.answers[-1].status_code) == ("cancelled", 200)
    assert [path.rpartition("/")[2] for path in scene.model.paths] == ["responses", "cancel"]


async def test_a_drain_hands_it_on_and_the_next_attempt_reads_on(scene: Scene) -> None:
    task_id = await scene.begin(model="demo@50", maxTokens=60)
    await scene.deliver(task_id, drains_at="Tides")
    state = fold(await scene.deliver(task_id))
    assert state.text == "".join(split_tokens(write_reply(PROMPT))[:60])
    assert [a.ended_as for a in state.attempts] == ["handed_on", "completed"]
    assert count_runs(scene) == 1


async def test_a_drain_before_it_can_be_handed_on_is_not_forgotten(scene: Scene) -> None:
    task_id = await scene.begin(model="demo@50", maxTokens=60)
    events = await scene.deliver(task_id, drains_in_s=1e-9)  # nothing is asked yet
    assert len(fold(events).text) < 50, "it did not run to its end"
    state = fold(await scene.deliver(task_id))
    assert [a.ended_as for a in state.attempts] == ["handed_on", "completed"]
    assert (state.text, count_runs(scene)) == ("".join(split_tokens(write_reply(PROMPT))[:60]), 1)


@pytest.fixture(scope="module")
def kit(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    with lt.connect(settings=stack.settings, quiet=True) as opened:
        opened.serve()
        yield opened


def test_a_cancel_cancels_it_at_its_service(
    kit: lt.Kit, stack: lt.LocalStack, redis: Redis
) -> None:
    task = kit.submit(PROMPT, model="demo@20", api="responses", params={"background": True})
    wait_until(lambda: task.text)
    place = json.loads(redis.hget(task_key(task.id), "place") or "")["value"]
    task.cancel()
    with pytest.raises(lt.TaskCancelledError):
        task.result(30)
    environment = stack.environment
    with openai.OpenAI(
        api_key=environment["OPENAI_API_KEY"], base_url=environment["OPENAI_BASE_URL"]
    ) as sdk:
        assert sdk.responses.retrieve(place["id"]).status == "cancelled"
