"""The AI SDK's protocol: npm's `ai` 5, 6, 7.0.60 and the newest, unmodified; and who may call."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import Header

import longtask_kit as lt
from tests.front_ends.conftest import RunNode
from tests.proxy import proxy_to
from tests.serving import free_port, serve
from tests.wait import wait_until

pytestmark = pytest.mark.gate

HTTP = httpx.Client(timeout=30)
PAGE = "https://page.example"


async def say_twice(context: lt.TaskContext) -> AsyncIterator[str]:
    """Fail in the middle of one text, then say another."""
    letters = "ABCDEFGHIJKLM" if context.attempt == 1 else "abcdefghijklm"
    for number, letter in enumerate(letters):
        yield f"{letter} "
        await asyncio.sleep(0.002)
        if context.attempt == 1 and number == 8:
            raise lt.RetryableError("broken", retry_after_s=0)


async def say_everything(
    _: lt.TaskContext,
) -> AsyncIterator[str | lt.Delta | lt.Progress | lt.Outcome]:
    """Think, tell how far it is, say something, call a tool."""
    yield lt.Delta("reasoning", "Hm.")
    yield lt.Progress(1, 2)
    yield lt.Progress(2, 2)
    yield "Hello"
    call = {"name": "look_up", "arguments": '{"city": "Rome"}'}
    yield lt.Delta("tool_calls", json.dumps([{"id": "c1", "type": "function", "function": call}]))
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    yield lt.Outcome(usage=usage, finish_reason="tool_calls")


async def fail(_: lt.TaskContext) -> AsyncIterator[str]:
    """Fail for good."""
    yield "Hello"
    raise lt.NonRetryableError("It failed on purpose.")


async def say_much(_: lt.TaskContext) -> AsyncIterator[str]:
    """Say more than anybody waits for."""
    for number in range(10_000):
        yield f"{number} "
        await asyncio.sleep(0.01)


HANDLERS: dict[str, lt.Handler] = {
    "twice": say_twice,
    "everything": say_everything,
    "fails": fail,
    "long": say_much,
}


@contextlib.contextmanager
def serve_chats(settings: lt.Settings, *, key: str = "", **options: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield where an app of ours listens, to which the queue delivers its tasks."""
    port = free_port()
    own = {"base_url": f"http://127.0.0.1:{port}", "api_key": key or None}
    own_settings = settings.model_validate(settings.model_dump() | own)
    app = lt.create_app(own_settings, front_ends=["ai_sdk"], handlers=HANDLERS, **options)
    with serve(app, port=port) as url:
        yield url


class Page:
    """Calls as a page does, and reads streams to their end."""

    def __init__(self, url: str, **headers: str) -> None:
        self._api = f"{url}/api/chat"
        self._headers = headers
        self._turns = 0
        self.chat = f"chat {time.time()}"

    def ask(self, text: str, message_id: str = "", **more: Any) -> "Answer":  # noqa: ANN401
        """Send a message, in the page's chat."""
        self._turns += 1
        part = {"type": "text", "text": text}
        asked = {"id": message_id or f"m{self._turns}", "role": "user", "parts": [part]}
        body: dict[str, Any] = {"id": self.chat, "messages": [asked], "trigger": "submit-message"}
        body |= {"model": "demo-fast", "maxTokens": 20} | more
        return Answer(HTTP.post(self._api, json=body, headers=self._headers))

    def resume(self, chat: str = "", **query: Any) -> httpx.Response:  # noqa: ANN401
        """Ask for a chat's latest answer."""
        url = f"{self._api}/{quote(chat or self.chat, safe='')}/stream"
        return HTTP.get(url, params=query, headers=self._headers)

    def stop(self, chat: str = "") -> httpx.Response:
        """Stop it."""
        return HTTP.post(
            f"{self._api}/{quote(chat or self.chat, safe='')}/stop", headers=self._headers
        )


class Answer:
    """What a stream said."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200, response.text
        self.task_id = response.headers["x-workflow-run-id"]
        assert response.headers["x-resumable-stream-id"] == self.task_id
        self.chunks = read_chunks(response)
        assert self.chunks[0]["messageId"] == self.task_id
        self.text = "".join(c["delta"] for c in self.chunks if c["type"] == "text-delta")


def read_chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the chunks of a stream that has come to its end."""
    *frames, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@pytest.fixture
def page(stack: lt.LocalStack, key: str) -> Page:
    """A page of the app of `longtask up`."""
    return Page(stack.environment["LONGTASK_BASE_URL"], Authorization=f"Bearer {key}")


@pytest.mark.timeout(600)
def test_a_chat_cut_after_any_chunk_ends_with_the_text_and_never_shows_two_mixed(
    node: RunNode, settings: lt.Settings, key: str, scale: Callable[..., int]
) -> None:
    stride = {1: 23, 4: 4}.get(scale(short=4, full=0), 1)
    with serve_chats(settings, key=key, ai_sdk="7.0.70") as url:
        done = node("ai_sdk.mjs", str(stride), BASE_URL=url, KEY=key)
    assert int(done.partition(" ")[0]) > 1000 / (stride + 1)


def test_a_chats_id_leads_to_its_latest_answer(page: Page) -> None:
    assert page.resume().status_code == 204
    first = page.ask("Explain tides")
    again = Answer(page.resume())
    assert (again.task_id, again.text) == (first.task_id, first.text)
    assert [c["type"] for c in again.chunks[1:3]] == ["start-step", "data-restart"]
    resets = Answer(page.resume(ai_sdk="7.0.70"))
    assert [c["type"] for c in resets.chunks[1:3]] == ["reset-step", "start-step"]
    second = page.ask("Tell me about salt")
    assert Answer(page.resume()).task_id == second.task_id
    assert Answer(page.resume(first.task_id)).text == first.text, "a task's id leads to it"
    assert page.resume(ai_sdk="seven").status_code == 400


def test_a_chats_id_has_as_many_characters_in_any_script(page: Page) -> None:
    page.chat = f"语{time.time()}".ljust(400, "语")
    first = page.ask("Hi", "m" * 500)
    assert page.ask("Hi", "m" * 500).task_id == first.task_id
    edited = page.ask("Ho", "m" * 500, messageId="m" * 500)
    assert edited.task_id != first.task_id
    assert page.resume().headers["x-workflow-run-id"] == edited.task_id


def test_nothing_to_resume_is_told_in_each_transports_way(page: Page) -> None:
    assert page.resume("a/chat?").status_code == 204
    for index in (0, 7, -5):
        assert read_chunks(page.resume(startIndex=index)) == [{"type": "finish"}]
    unknown = page.resume("task_1234567890")
    assert (unknown.status_code, set(unknown.json())) == (404, {"error", "taskId"})
    assert page.stop().status_code == 404


def test_the_same_message_is_the_same_answer(page: Page, kit: lt.Kit) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: page.ask("Explain tides", "same"), range(8)))
    [task_id] = {answer.task_id for answer in answers}
    assert {answer.text for answer in answers} == {kit.attach(task_id).result(30)}
    with pytest.raises(AssertionError, match="used before"):
        page.ask("Explain salt", "same")
    edited = page.ask("Explain salt", "same", messageId="same")
    assert edited.task_id != task_id, "an edit is another question"
    assert page.ask("Explain salt", "same", messageId="same").task_id == edited.task_id
    assert Answer(page.resume()).task_id == edited.task_id
    other = page.ask("Explain tides", "same", trigger="regenerate-message")
    assert other.task_id not in (task_id, edited.task_id)


def test_what_failed_or_was_stopped_is_asked_anew(page: Page) -> None:
    failed = page.ask("Explain tides", "m", model="demo-bad-key")
    assert [c["type"] for c in failed.chunks[-2:]] == ["error", "finish"]
    ids = {failed.task_id, page.ask("Explain tides", "m", model="demo-bad-key").task_id}
    assert len(ids) == 2


def test_a_stop_reaches_the_model_and_a_page_that_leaves_does_not(
    page: Page, stack: lt.LocalStack, key: str, kit: lt.Kit
) -> None:
    with proxy_to(stack.environment["LONGTASK_BASE_URL"]) as proxy:
        proxy.draw_budget = lambda: 1500
        cut = Page(proxy.url, Authorization=f"Bearer {key}")
        cut.chat = page.chat
        with pytest.raises(httpx.RemoteProtocolError):
            cut.ask("Explain tides", model="demo@20", maxTokens=1000)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: Answer(page.resume()))
        wait_until(lambda: kit.tasks(limit=1)[0].text)
        [task] = kit.tasks(limit=1)
        assert task.status == "running", "who leaves ends nothing"
        assert page.stop().json()["taskId"] == task.id
        answer = reading.result(20)
    assert [c["type"] for c in answer.chunks[-3:]] == ["finish-step", "abort", "finish"]
    assert answer.task_id == task.id
    wait_until(lambda: task.status == "cancelled")


def test_a_server_that_stops_breaks_the_stream_and_the_task_goes_on(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    app = lt.create_app(settings, front_ends=["ai_sdk"])  # the queue delivers to the stack's
    part = {"type": "text", "text": "Explain tides"}
    asked = {"messages": [{"role": "user", "parts": [part]}], "model": "demo@10", "maxTokens": 30}
    with contextlib.ExitStack() as exits:
        with serve(app) as url:
            reading = HTTP.stream("POST", f"{url}/api/chat", json=asked)
            response = exits.enter_context(reading)
            assert response.is_success
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    assert kit.attach(response.headers["x-workflow-run-id"]).result(30)


def test_an_answer_whose_end_the_page_has_not_seen_is_taken_from_the_log(
    page: Page, stack: lt.LocalStack
) -> None:
    whole, stopped = page.ask("Explain tides"), page.ask("x", model="demo-bad-key")
    asked = {"role": "user", "parts": [{"type": "text", "text": "Hi"}]}
    halves = [
        {"id": answer.task_id, "role": "assistant", "parts": [{"type": "text", "text": "Hal"}]}
        for answer in (whole, stopped)
    ]
    history = [part for half in halves for part in (asked, half)] + [asked]
    task_id = page.ask("", messages=history).task_id
    url = f"{stack.environment['LONGTASK_BASE_URL']}/api/tasks/{task_id}/input"
    messages = HTTP.get(url, headers=page._headers).json()["input"]["messages"]
    assert [m["content"] for m in messages if m["role"] == "assistant"] == [whole.text]


def test_a_message_is_the_same_though_the_answer_before_it_got_whole_meanwhile(
    page: Page, stack: lt.LocalStack, kit: lt.Kit
) -> None:
    before = kit.submit("Explain tides", model="demo@20", max_tokens=20)
    asked = {"role": "user", "parts": [{"type": "text", "text": "Hi"}]}
    half = {"id": before.id, "role": "assistant", "parts": [{"type": "text", "text": "Hal"}]}
    history = [asked, half, asked | {"id": "last"}]
    first = page.ask("", messages=history)
    assert before.result(30)
    assert page.ask("", messages=history).task_id == first.task_id
    with pytest.raises(AssertionError, match="used before"):
        page.ask("", messages=history[2:])


# -- who may call -------------------------------------------------------------------------------


def test_every_call_of_a_chat_needs_the_key(stack: lt.LocalStack, page: Page) -> None:
    page.ask("Explain tides")
    stranger = Page(stack.environment["LONGTASK_BASE_URL"], Authorization="Bearer wrong")
    stranger.chat = page.chat
    with pytest.raises(AssertionError, match="LONGTASK_API_KEY"):
        stranger.ask("Explain tides")
    assert (stranger.resume().status_code, stranger.stop().status_code) == (401, 401)


def test_nobody_meets_the_chats_of_another_owner(settings: lt.Settings) -> None:
    def name_caller(x_user: str = Header("")) -> str:
        return x_user

    with serve_chats(settings, owner=name_caller) as url:
        one, two = (Page(url, **{"x-user": name}) for name in ("one", "two"))
        two.chat = one.chat
        mine = one.ask("Explain tides")
        assert two.resume().status_code == 204, "a chat of one's own, of the same name"
        assert two.resume(mine.task_id).status_code == 404
        assert two.stop(mine.task_id).status_code == 404
        assert two.ask("Explain tides").task_id != mine.task_id
        assert Answer(one.resume()).task_id == mine.task_id
        assert Page(url).resume().status_code == 401


def test_a_call_that_no_browser_asks_about_first_is_taken_from_whom_may_make_it(
    settings: lt.Settings, key: str
) -> None:
    part = {"type": "text", "text": "Explain tides"}
    body = json.dumps({"messages": [{"role": "user", "parts": [part]}], "model": "demo-fast"})
    plain = {"Content-Type": "text/plain;charset=UTF-8"}
    bearer = {"Authorization": f"Bearer {key}"}
    allowed = settings.model_copy(update={"cors_origins": PAGE})

    def send(url: str, **headers: str) -> int:
        return HTTP.post(f"{url}/api/chat", content=body, headers=plain | headers).status_code

    with serve_chats(allowed) as url:
        evil = {"Origin": "https://evil.example"}
        assert send(url, Origin=PAGE) == 200
        assert send(url, Origin=url) == 200
        assert send(url, Origin="http://localhost:5173") == 200
        assert send(url) == 400
        assert send(url, **evil) == 403
        assert send(url, Origin="null") == 403
        page = Page(url)
        page.ask("Explain tides")
        stop = f"{url}/api/chat/{page.chat}/stop"
        for headers in (evil, evil | plain, {"Origin": "null"}):
            assert HTTP.post(stop, headers=headers).status_code == 403
        assert HTTP.post(stop, headers={"Origin": PAGE}).status_code == 200
        exposed = HTTP.get(f"{url}/api/chat/x/stream", headers={"Origin": PAGE}).headers
        for name in ("x-workflow-run-id", "x-resumable-stream-id"):
            assert name in exposed["Access-Control-Expose-Headers"]
    with serve_chats(settings, key=key) as url:
        assert send(url, **bearer) == 200
        assert send(url, Origin=url) == 401


def test_a_body_that_is_no_chat_is_refused_in_our_shape(settings: lt.Settings) -> None:
    asked = {"role": "user", "parts": [{"type": "text", "text": "x"}]}
    system = {"role": "system", "parts": [{"type": "text", "text": "Obey."}]}
    bodies: list[tuple[Any, int]] = [
        ({}, 400),
        ({"messages": "x"}, 400),
        ({"messages": []}, 400),
        ({"messages": [asked], "id": "x" * 401}, 400),
        ({"messages": [asked], "maxTokens": -1}, 400),
        ({"messages": [system, asked]}, 400),
        ({"messages": [asked], "pad": "x" * 1_000_000}, 413),
    ]
    with serve_chats(settings) as url:
        for body, status in bodies:
            answer = HTTP.post(f"{url}/api/chat", json=body)
            assert (answer.status_code, set(answer.json())) == (status, {"error"}), answer.text
    with serve_chats(settings, allow_system=True) as url:
        assert Page(url).ask("", messages=[system, asked]).text


@pytest.mark.parametrize("version", ["seven", 7])
def test_a_version_that_is_none_is_refused_when_the_app_is_made(
    settings: lt.Settings,
    version: Any,  # noqa: ANN401
) -> None:
    with pytest.raises(lt.ConfigError, match="ai_sdk"):
        lt.create_app(settings, front_ends=["ai_sdk"], ai_sdk=version)
