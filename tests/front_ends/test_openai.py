"""The official openai package for Python, unmodified, with the app of `longtask up` as base URL."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI, Header, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import longtask_kit as lt
from longtask_kit.server.front_ends.openai_edge import OpenAiRoute
from longtask_kit.server.sse import SseResponse
from tests.proxy import proxy_to
from tests.serving import free_port, serve
from tests.wait import wait_until

pytestmark = pytest.mark.gate

HTTP = httpx.Client(timeout=30)
QUESTION = "Explain tides"


@pytest.fixture
def sdk(base_url: str, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key=key) as client:
        yield client


def read_text(events: Any) -> tuple[str, int, str]:  # noqa: ANN401 - a stream of the SDK
    """Return the text of a stream, the last number, and the last event's type."""
    text, number, type_ = "", -1, ""
    for event in events:
        assert event.sequence_number > number
        number, type_ = event.sequence_number, event.type
        text += event.delta if type_ == "response.output_text.delta" else ""
    return text, number, type_


def test_background_mode_as_openais_guide_shows_it(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model="demo", input=QUESTION, background=True)
    assert response.status in {"queued", "in_progress"}
    while response.status in {"queued", "in_progress"}:
        time.sleep(0.05)
        response = sdk.responses.retrieve(response.id)
    assert response.status == "completed"
    assert response.output_text
    assert response.usage is not None
    assert response.usage.output_tokens > 0


def test_a_stream_is_continued_after_the_last_number_that_was_seen(sdk: openai.OpenAI) -> None:
    events = sdk.responses.create(model="demo", input=QUESTION, background=True, stream=True)
    text, cursor, response_id = "", -1, ""
    for event in events:
        cursor = event.sequence_number
        if event.type == "response.created":
            response_id = event.response.id
        if event.type == "response.output_text.delta":
            text += event.delta
            break
    events.close()  # the connection is lost; the response goes on
    rest = sdk.responses.retrieve(response_id, stream=True, starting_after=cursor)
    more, *_, type_ = read_text(rest)
    assert type_ == "response.completed"
    assert text + more == sdk.responses.retrieve(response_id).output_text


def test_a_stream_cut_anywhere_is_continued_exactly(
    sdk: openai.OpenAI, scale: Callable[..., int]
) -> None:
    answer = sdk.responses.create(model="demo@400", input=QUESTION)
    whole = list(sdk.responses.retrieve(answer.id, stream=True))
    for cut in range(scale(short=60, full=200)):
        events = iter(sdk.responses.retrieve(answer.id, stream=True))
        seen = [next(events) for _ in range(1 + cut % (len(whole) - 1))]
        cursor = seen[-1].sequence_number
        rest = list(sdk.responses.retrieve(answer.id, stream=True, starting_after=cursor))
        assert [e.to_dict() for e in seen + rest] == [e.to_dict() for e in whole], cut


def test_a_live_stream_whose_connection_breaks_is_continued_exactly(
    sdk: openai.OpenAI, stack: lt.LocalStack, key: str, scale: Callable[..., int]
) -> None:
    with proxy_to(stack.environment["LONGTASK_BASE_URL"]) as proxy:
        for number in range(scale(short=20, full=100)):
            prompt = f"{QUESTION} {number}"
            answer = sdk.responses.create(model="demo@400", input=prompt, background=True)
            text, cursor, type_ = "", -1, ""
            for life in (900 + 37 * number, 2500 + 91 * number, 4000, None):
                proxy.draw_budget = lambda life=life: life  # type: ignore[misc]
                broken = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0)
                place: Any = {} if cursor < 0 else {"starting_after": cursor}
                # Broken in the headers, in a frame, or between two.
                with contextlib.suppress(openai.APIConnectionError), broken:
                    for event in broken.responses.retrieve(answer.id, stream=True, **place):
                        cursor, type_ = event.sequence_number, event.type
                        text += event.delta if type_ == "response.output_text.delta" else ""
            assert type_ == "response.completed"
            assert text == sdk.responses.retrieve(answer.id).output_text


def test_the_sdks_stream_helper_follows_and_takes_up_a_response(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="demo-reason", input=QUESTION, background=True) as stream:
        first = next(iter(stream))
    assert first.type == "response.created"
    with sdk.responses.stream(response_id=first.response.id) as again:
        final = again.get_final_response()
    assert final.output_text == sdk.responses.retrieve(first.response.id).output_text


def test_structured_output_tools_images_and_a_conversation(sdk: openai.OpenAI) -> None:
    class River(BaseModel):
        name: str
        length_km: int

    parsed = sdk.responses.parse(model="demo-json", input="A river", text_format=River)
    assert isinstance(parsed.output_parsed, River)
    tool: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    called = sdk.responses.create(model="demo-tools", input="Look!", tools=[tool])
    [call] = [item for item in called.output if item.type == "function_call"]
    assert call.name == "look"
    done: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "a river"}
    then = sdk.responses.create(
        model="demo-fast", input=[done], previous_response_id=called.id, instructions="Be brief."
    )
    assert then.output_text
    items = list(sdk.responses.input_items.list(then.id, order="asc", limit=2))
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"]
    image: Any = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    content = [{"type": "input_text", "text": "What is this?"}, image]
    seen = sdk.responses.create(model="demo-fast", input=[{"role": "user", "content": content}])
    assert seen.output_text


def test_cancel_delete_and_ids_that_are_not_there(sdk: openai.OpenAI) -> None:
    running = sdk.responses.create(model="demo", input=QUESTION, background=True)
    events = iter(sdk.responses.retrieve(running.id, stream=True))
    while next(events).type != "response.output_text.delta":
        pass
    assert sdk.responses.cancel(running.id).status == "cancelled"
    last = list(events)[-1]
    assert last.type == "response.failed"
    assert last.response.status == "cancelled"
    sdk.responses.delete(running.id)
    for call in (sdk.responses.retrieve, sdk.responses.cancel, sdk.responses.delete):
        for response_id in (running.id, "resp_nothing", "task_12345678", "x"):
            with pytest.raises(openai.NotFoundError):
                call(response_id)


def test_chat_completions_in_one_piece_and_in_chunks(sdk: openai.OpenAI) -> None:
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    whole = sdk.chat.completions.create(model="demo-fast", messages=messages)
    chunks = sdk.chat.completions.create(
        model="demo-fast", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    text = ""
    for chunk in chunks:
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    assert text == whole.choices[0].message.content
    assert chunk.usage is not None
    assert whole.usage == chunk.usage
    with sdk.chat.completions.stream(model="demo-tools", messages=messages) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"


def test_a_readers_stream_fails_when_an_attempt_starts_over_and_the_poll_goes_on(
    sdk: openai.OpenAI,
) -> None:
    prompt = f"{QUESTION} {time.time()}"  # the demo's fault strikes the first call of a prompt
    events = sdk.responses.create(model="demo-cut-then-ok", input=prompt, stream=True)
    _, cursor, type_ = read_text(events)
    assert type_ == "response.failed"
    response_id = sdk.responses.create(
        model="demo-cut-then-ok", input=f"{prompt} again", background=True
    ).id
    text, at, type_ = read_text(sdk.responses.retrieve(response_id, stream=True))
    while type_ != "response.completed":  # it may have been read before the cut
        text, at, type_ = read_text(sdk.responses.retrieve(response_id, stream=True))
    assert text == sdk.responses.retrieve(response_id).output_text
    assert at > cursor
    messages: Any = [{"role": "user", "content": f"{prompt} chat"}]
    with pytest.raises(openai.APIError, match="starts over"):
        list(sdk.chat.completions.create(model="demo-cut-then-ok", messages=messages, stream=True))


def test_a_place_of_an_attempt_that_was_started_over_is_never_gone_on_from(
    sdk: openai.OpenAI,
) -> None:
    prompt = f"{QUESTION} {time.time()}"
    events = sdk.responses.create(model="demo-cut-then-ok", input=prompt, stream=True)
    seen: Any = list(events)
    last = seen[-2].sequence_number  # of the text that was started over
    response_id = seen[0].response.id
    for cursor in (last, seen[-1].sequence_number):
        rest = list(sdk.responses.retrieve(response_id, stream=True, starting_after=cursor))
        assert [event.type for event in rest] == ["response.failed"]
        assert rest[0].sequence_number > cursor


def test_the_same_idempotency_key_is_the_same_answer(sdk: openai.OpenAI, kit: lt.Kit) -> None:
    mine = {"Idempotency-Key": f"key {time.time()}"}

    def ask(**options: Any) -> Any:  # noqa: ANN401
        given = {"model": "demo-fast", "input": QUESTION, "extra_headers": mine} | options
        return sdk.responses.create(**given)

    with ThreadPoolExecutor(8) as pool:
        ids = {answer.id for answer in pool.map(lambda _: ask(), range(8))}
    assert len(ids) == 1
    assert ask(background=True).id in ids
    assert next(iter(ask(stream=True))).response.id in ids
    with pytest.raises(openai.ConflictError, match="used before"):
        ask(input="something else")
    messages: Any = [{"role": "user", "content": "Hi"}]
    calls = [
        sdk.chat.completions.create(model="demo-fast", messages=messages, extra_headers=mine)
        for _ in range(2)
    ]
    assert len({call.id for call in calls}) == 1
    assert ask(extra_headers={}).id not in ids, "without a key each call is a new task"
    assert kit.attach(calls[0]._request_id or "").text == calls[0].choices[0].message.content


def test_no_answer_about_a_task_makes_the_sdk_run_it_again(
    sdk: openai.OpenAI, settings: lt.Settings, kit: lt.Kit
) -> None:
    before = {task.id for task in kit.tasks(limit=100)}

    def count() -> int:
        return sum(task.id not in before for task in kit.tasks(limit=50))

    messages: Any = [{"role": "user", "content": "x"}]
    with pytest.raises(openai.AuthenticationError, match="401"):
        sdk.chat.completions.create(model="demo-bad-key", messages=messages)
    assert sdk.responses.create(model="demo-bad-key", input="x").status == "failed"
    assert count() == 2
    broken = settings.model_copy(update={"qstash_token": settings.openai_api_key})
    with serve(lt.create_app(broken, front_ends=["responses"])) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any")
        with pytest.raises(openai.InternalServerError, match="queue"):
            client.responses.create(model="demo-fast", input="x")
        client.close()
    assert count() == 3, "recorded once, however often it could be asked"


def test_an_sdk_in_a_page_of_another_origin_runs_nothing_twice(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    page = "https://page.example"

    def hide(response: httpx2.Response) -> None:
        """Leave what a browser shows to a page: a few headers, and those that are exposed."""
        shown = {"content-type", "content-length"}
        shown |= set(response.headers["access-control-expose-headers"].lower().split(", "))
        for name in set(response.headers) - shown:
            del response.headers[name]

    before = {task.id for task in kit.tasks(limit=100)}
    unqueued = {"qstash_token": settings.openai_api_key, "cors_origins": page}
    app = lt.create_app(settings.model_copy(update=unqueued), front_ends=["responses"])
    http = openai.DefaultHttpxClient(headers={"Origin": page}, event_hooks={"response": [hide]})
    with (
        serve(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", http_client=http) as sdk,
        pytest.raises(openai.InternalServerError, match="queue") as caught,
    ):
        sdk.responses.create(model="demo-fast", input="x")
    assert [task.id for task in kit.tasks(limit=50) if task.id not in before] == [
        caught.value.request_id
    ]


def test_what_nobody_foresaw_has_openais_shape_and_is_not_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[str] = []

    async def recorded(request: Request) -> None:
        asked.append(request.url.path)
        request.state.longtask_task = "task_12345678"
        raise ZeroDivisionError

    app = FastAPI()
    app.router.route_class = OpenAiRoute
    app.post("/v1/responses")(recorded)
    with (
        serve(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any") as sdk,
        pytest.raises(openai.InternalServerError, match="inside the app") as caught,
    ):
        sdk.responses.create(model="demo", input="x")
    assert caught.value.type == "server_error"
    assert caught.value.request_id == "task_12345678"
    assert asked == ["/v1/responses"], "the SDK asks no second time"
    assert "ZeroDivisionError" in caplog.text


def test_silence_is_filled_without_what_the_sdk_would_read_as_an_event(
    settings: lt.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults: Any = SseResponse.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "heartbeat_s", 0.01)
    with (
        serve(lt.create_app(settings, front_ends=["responses"])) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client,
    ):
        events = client.responses.create(model="demo-slow-start", input="x", stream=True)
        assert read_text(events)[2] == "response.completed"
        answer_id = client.responses.create(model="demo@20", input="x", background=True).id
        with HTTP.stream("GET", f"{url}/v1/responses/{answer_id}?stream=true") as reading:
            answer = ""
            for piece in reading.iter_text():
                answer += piece
                if answer.count(": ping\n") == 3:
                    break
        assert ": ping\n" in answer
        assert ": ping\n\n" not in answer


def test_a_server_that_stops_breaks_the_connection_and_the_task_goes_on(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    with serve(lt.create_app(settings, front_ends=["responses"])) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        events = iter(client.responses.create(model="demo-slow-start", input="x", stream=True))
        created: Any = next(events)
    with pytest.raises((openai.APIConnectionError, httpx2.HTTPError)):
        list(events)
    client.close()
    assert kit.attach(created.response.id.replace("resp_", "task_")).result(30)


def test_a_cancel_closes_the_connection_to_the_model(settings: lt.Settings) -> None:
    left = threading.Event()

    async def talk() -> AsyncIterator[str]:
        try:
            while True:
                yield 'data: {"choices":[{"delta":{"content":"on and on "}}]}\n\n'
                await asyncio.sleep(0.02)
        finally:
            left.set()

    async def complete() -> StreamingResponse:
        return StreamingResponse(talk(), media_type="text/event-stream")

    model = FastAPI()
    model.post("/v1/chat/completions")(complete)
    port = free_port()
    with serve(model) as url:
        services = {"openai_base_url": f"{url}/v1", "base_url": f"http://127.0.0.1:{port}"}
        own = settings.model_copy(update=services)
        with (
            serve(lt.create_app(own, front_ends=["responses"]), port=port) as app,
            openai.OpenAI(base_url=f"{app}/v1", api_key="any") as sdk,
        ):
            events = sdk.responses.create(input="x", background=True, stream=True)
            created: Any = next(events)
            next(event for event in events if event.type == "response.output_text.delta")
            assert not left.is_set()
            assert sdk.responses.cancel(created.response.id).status == "cancelled"
            assert left.wait(5), "else the model would go on, and be paid"


def test_a_wrong_model_is_the_callers_to_mend_in_each_of_openais_apis(sdk: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "x"}]
    with pytest.raises(openai.NotFoundError, match="dmeo") as caught:
        sdk.chat.completions.create(model="dmeo", messages=messages)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.APIError, match="dmeo") as streamed:
        list(sdk.chat.completions.create(model="dmeo", messages=messages, stream=True))
    assert streamed.value.code == "model_not_found"
    error = sdk.responses.create(model="dmeo", input="x").error
    assert error is not None
    assert str(error.code) == "model_not_found"


def test_models_are_listed_and_a_base_url_without_v1_is_told(
    sdk: openai.OpenAI, settings: lt.Settings, base_url: str
) -> None:
    assert [model.id for model in sdk.models.list()] == [settings.model]
    with pytest.raises(openai.NotFoundError, match="Served are /v1/responses,") as no:
        sdk.embeddings.create(model="demo", input="x")
    assert isinstance(no.value.body, dict)
    assert set(no.value.body) == {"message", "type", "param", "code"}
    short = sdk.with_options(base_url=base_url.removesuffix("/v1"))
    with pytest.raises(openai.NotFoundError, match="base URL must end with /v1"):
        short.responses.create(model="demo", input="x")


# -- who may call -------------------------------------------------------------------------------


def test_every_call_needs_the_key_and_is_refused_as_openai_refuses(base_url: str) -> None:
    stranger = openai.OpenAI(base_url=base_url, api_key="sk-wrong", max_retries=0)
    calls: list[Callable[[], Any]] = [
        lambda: stranger.responses.create(model="demo", input="x"),
        lambda: stranger.responses.retrieve("resp_12345678"),
        lambda: stranger.responses.cancel("resp_12345678"),
        lambda: stranger.responses.delete("resp_12345678"),
        lambda: stranger.responses.input_items.list("resp_12345678"),
        lambda: stranger.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "x"}]
        ),
        lambda: stranger.models.list(),
    ]
    for call in calls:
        with pytest.raises(openai.AuthenticationError, match="LONGTASK_API_KEY"):
            call()
    stranger.close()


def test_nobody_meets_the_responses_of_another_owner(settings: lt.Settings) -> None:
    def name_caller(x_user: str = Header("")) -> str:
        return x_user

    app = lt.create_app(settings, front_ends=["responses"], owner=name_caller)
    with serve(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        one, two = (client.with_options(default_headers={"x-user": u}) for u in ("one", "two"))
        chosen = {"Idempotency-Key": f"same {time.time()}"}
        first = one.responses.create(model="demo-fast", input="x", extra_headers=chosen)
        other = two.responses.create(model="demo-fast", input="y", extra_headers=chosen)
        assert first.id != other.id, "each has ids of his own"
        assert one.responses.retrieve(first.id).output_text
        for call in (
            lambda: two.responses.retrieve(first.id),
            lambda: two.responses.retrieve(first.id, stream=True),
            lambda: two.responses.cancel(first.id),
            lambda: two.responses.delete(first.id),
            lambda: two.responses.input_items.list(first.id),
            lambda: two.responses.create(input="x", previous_response_id=first.id),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        with pytest.raises(openai.AuthenticationError, match="who you are"):
            client.responses.create(model="demo-fast", input="x")


def test_a_body_is_bounded_and_a_wrong_one_is_told_in_openais_shape(
    base_url: str, key: str
) -> None:
    bearer = {"Authorization": f"Bearer {key}"}
    url = f"{base_url}/responses"
    for body, status in (
        (b"{", 400),
        (b"[]", 400),
        (b'{"input": 7}', 400),
        (b'{"input": "x", "max_output_tokens": "many"}', 400),
        (json.dumps({"input": "x" * 20_500_000}).encode(), 400),
        (b" " * 30_000_001, 413),
    ):
        headers = bearer | {"Content-Type": "application/json"}
        answer = HTTP.post(url, content=body, headers=headers)
        assert answer.status_code == status, answer.text[:200]
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    plain = HTTP.post(url, content=b'{"input": "x"}', headers=bearer)
    assert plain.status_code == 400, "a page of somebody else's can send no JSON unasked"


def test_a_front_end_that_is_not_there_is_refused_by_name(settings: lt.Settings) -> None:
    with pytest.raises(lt.ConfigError, match="nothing"):
        lt.create_app(settings, front_ends=["nothing"])
    with pytest.raises(lt.ConfigError, match="list"):
        lt.create_router(settings, front_ends="responses")
    with serve(lt.create_app(settings)) as url:
        assert HTTP.post(f"{url}/v1/responses", json={"input": "x"}).status_code == 404


@pytest.mark.thorough
def test_a_hundred_streams_at_once_are_exact(sdk: openai.OpenAI) -> None:
    def ask(number: int) -> bool:
        events = sdk.responses.create(
            model="demo@60", input=f"{QUESTION} {number % 4}", stream=True
        )
        first: Any = next(iter(events))
        text, *_, type_ = read_text(events)
        assert type_ == "response.completed"
        return text == sdk.responses.retrieve(first.response.id).output_text

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(ask, range(100)))


def test_a_wait_that_is_left_ends_no_task(sdk: openai.OpenAI, kit: lt.Kit) -> None:
    prompt = f"{QUESTION} {time.time()}"
    quick = sdk.with_options(timeout=0.3, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        quick.responses.create(model="demo-slow-start", input=prompt)
    [task] = [t for t in kit.tasks(limit=20) if t.prompt == prompt]
    assert task.result(30)
    wait_until(lambda: task.status == "completed")
