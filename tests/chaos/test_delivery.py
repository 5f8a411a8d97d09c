"""However often a task is delivered, and however its publish fails: it runs once, or says why."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from qstash import QStash
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import longtask_kit as lt
from longtask_kit.settings import secret
from longtask_kit.submit import queue as queue_module
from tests.chaos._deliveries import deliver, make_body, read_record, record_task
from tests.chaos._reading import check_tokens, model_tokens, read_all, redis_source
from tests.chaos._scripted import Refusal, ScriptedModel, answer, scripted_model, served_app
from tests.chaos._wire import Link, wire_to
from tests.serving import free_port, serve
from tests.thorough import first_of
from tests.wait import wait_until

Scale = Callable[..., int]
Figures = Callable[[str, str], None]
TOKENS = model_tokens("Explain tides")


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as running:
        yield running


@pytest.fixture(scope="module")
def own(settings: lt.Settings, model: ScriptedModel) -> Iterator[lt.Settings]:
    # A short lease: copies that were told to come back come back after it.
    with served_app(settings, model, lease_s=1.0) as led:
        yield led


@pytest.fixture
def sdk(settings: lt.Settings) -> Iterator[QStash]:
    client = QStash(secret(settings.qstash_token), retry=False, base_url=settings.qstash_url)
    yield client
    client.http._client.close()


def read_events(settings: lt.Settings, task_id: str) -> list[lt.TaskEvent]:
    """Return a task's events up to its end."""

    async def read() -> list[lt.TaskEvent]:
        async with redis_source(settings) as source, asyncio.timeout(60):
            return await read_all(source, task_id)

    return asyncio.run(read())


def check_answers(answers: list[httpx.Response]) -> list[int]:
    """Check that each copy ran the task, was told to come back, or that it is done."""
    for told in answers:
        assert told.status_code in (200, 503), told.text
        if told.status_code == 503:
            assert 1 <= int(told.headers["Retry-After"]) <= 2
    return sorted(told.status_code for told in answers)


def post_at_once(
    own: lt.Settings, body: bytes, ids: list[str], gate: threading.Event
) -> list[httpx.Response]:
    """Post copies in one moment; the one that runs ends once all the others are answered."""
    barrier = threading.Barrier(len(ids))

    def post(retried: int) -> httpx.Response:
        barrier.wait()
        return deliver(own, body, delivery_id=ids[retried], retried=retried)

    with ThreadPoolExecutor(len(ids)) as pool:
        posts = [pool.submit(post, number) for number in range(len(ids))]
        wait_until(lambda: sum(one.done() for one in posts) == len(ids) - 1)
        gate.set()
        return [one.result() for one in posts]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ids", ["one message", "as many messages"])
def test_copies_posted_at_once_run_the_model_once(
    own: lt.Settings, model: ScriptedModel, scale: Scale, figures: Figures, ids: str
) -> None:
    rng = random.Random(2)
    posted = 0
    for round_ in range(scale(short=8, full=300)):
        copies, prompt = rng.randint(2, 10), f"Explain tides {ids} {round_}"
        gate = threading.Event()
        model.script(prompt, answer(TOKENS, gate=gate))
        task_id = record_task(own, prompt)
        body = make_body(task_id)
        named = ["msg_one" if ids == "one message" else f"msg_{n}" for n in range(copies)]
        answers = post_at_once(own, body, named, gate)
        assert check_answers(answers) == [200] + [503] * (copies - 1)
        for number in range(3):
            again = deliver(own, body, delivery_id="msg_one" if number else "msg_late")
            assert (again.status_code, again.json()["status"]) == (200, "completed")
        assert model.calls[prompt] == 1
        assert read_record(own, task_id).attempt == 1
        check_tokens(read_events(own, task_id), TOKENS)
        posted += copies + 3
    figures(f"2 copies posted at once, {ids}", f"{round_ + 1} tasks, {posted} posts, 1 run each")


@pytest.mark.timeout(3600)
def test_copies_through_the_queue_run_the_model_once(
    own: lt.Settings, model: ScriptedModel, sdk: QStash, scale: Scale, figures: Figures
) -> None:
    rng = random.Random(3)
    total = 0
    for round_ in range(scale(short=3, full=40)):
        copies, prompt = rng.randint(2, 10), f"Explain tides by copies {round_}"
        gate = threading.Event()
        model.script(prompt, answer(TOKENS, gate=gate))
        with lt.connect(settings=own, quiet=True) as kit:
            task = kit.submit(prompt)
            body = json.dumps({"taskId": task.id, "prompt": prompt})
            sent = [publish(sdk, own, body) for _ in range(copies)]
            wait_until(lambda prompt=prompt: model.calls[prompt])  # type: ignore[misc]
            gate.set()
            assert task.result(30) == "".join(TOKENS)
            late = publish(sdk, own, body)
            for message_id in [*sent, late]:
                wait_until(lambda m=message_id: "DELIVERED" in states_of(sdk, m))  # type: ignore[misc]
            assert model.calls[prompt] == task.attempt == 1
            check_tokens(read_events(own, task.id), TOKENS)
        total += copies + 2
    figures("2 copies through the queue", f"{round_ + 1} tasks, {total} messages, 1 run each")


def publish(sdk: QStash, own: lt.Settings, body: str) -> str:
    """Publish a copy; returns the message's id."""
    answered = sdk.message.publish(url=own.webhook_url, body=body, retries=5)
    return str(answered.message_id)  # type: ignore[union-attr]


def states_of(sdk: QStash, message_id: str) -> list[str]:
    """Return the states a message went through, newest first."""
    return [e.state.value for e in sdk.log.list(filter={"message_id": message_id}).logs]


def test_a_failed_task_is_not_run_again_by_its_own_message(
    own: lt.Settings, model: ScriptedModel, figures: Figures
) -> None:
    prompt = "Explain tides, refused"
    model.script(prompt, Refusal(401, "no", code="invalid_api_key"))
    task_id = record_task(own, prompt)
    body = make_body(task_id)
    assert deliver(own, body).status_code == 489
    with ThreadPoolExecutor(5) as pool:
        again = list(pool.map(lambda _: deliver(own, body), range(5)))
    assert [told.status_code for told in again] == [200] * 5
    assert model.calls[prompt] == 1
    figures("2 a failed task's own message, 5 times", "200 each, 1 run")


def test_a_copy_takes_over_from_a_dead_attempt_and_only_one_does(
    own: lt.Settings, model: ScriptedModel, figures: Figures
) -> None:
    prompt = "Explain tides after a death"
    task_id = record_task(own, prompt)
    body = make_body(task_id)
    begin_and_die(own, task_id)
    assert check_answers([deliver(own, body) for _ in range(3)]) == [503] * 3
    wait_until(lambda: deliver(own, body).status_code == 200)
    with ThreadPoolExecutor(5) as pool:
        assert {told.status_code for told in pool.map(lambda _: deliver(own, body), range(5))} == {
            200
        }
    assert (model.calls[prompt], read_record(own, task_id).attempt) == (1, 2)
    check_tokens(read_events(own, task_id), model_tokens(prompt))
    figures("2 copies after a dead attempt", "503 while the lease lasts, then 1 run")


def begin_and_die(own: lt.Settings, task_id: str) -> None:
    """Lease an attempt and never say another word."""

    async def begin() -> None:
        async with redis_source(own) as source:
            await source._store.begin(task_id, delivery_id="msg_dead")

    asyncio.run(begin())


def submit_and_fail(through: lt.Settings, prompt: str) -> lt.SubmitError:
    """Submit, which is refused."""
    with lt.connect(settings=through, quiet=True) as kit, pytest.raises(lt.SubmitError) as caught:
        kit.submit(prompt)
    assert caught.value.task_id
    return caught.value


def check_never_ran(own: lt.Settings, model: ScriptedModel, error: lt.SubmitError) -> None:
    """Check that the task is failed, says why, and runs when it is told to."""
    task_id = error.task_id or ""
    record = read_record(own, task_id)
    assert (record.status, record.code) == ("failed", "not_queued")
    assert record.error == str(error)
    prompt = record.wire["prompt"]
    assert model.calls[prompt] == 0
    with lt.connect(settings=own, quiet=True) as kit:
        task = kit.attach(task_id)
        with pytest.raises(lt.TaskFailedError, match="not queued") as failed:
            task.result(10)
        assert failed.value.code == "not_queued"
        task.retry()
        assert task.result(30) == "".join(model_tokens(prompt))
    assert model.calls[prompt] == 1


@pytest.mark.parametrize("status", first_of([500, 502, 503, 400, 401, 404, 412]))
def test_a_queue_that_refuses_leaves_a_failed_task_that_says_why(
    own: lt.Settings, model: ScriptedModel, figures: Figures, status: int
) -> None:
    asked = 0

    async def refuse(_: Request) -> JSONResponse:
        nonlocal asked
        asked += 1
        return JSONResponse({"error": f"chaos {status}"}, status)

    app = Starlette(routes=[Route("/{path:path}", refuse, methods=["POST"])])
    with serve(app) as url:
        through = own.model_copy(update={"qstash_url": url})
        error = submit_and_fail(through, f"Explain tides refused by {status}")
        assert f"chaos {status}" in str(error)
        assert "QSTASH_TOKEN" in str(error)
    check_never_ran(own, model, error)
    figures(f"7 queue answers {status}", f"{asked} publishes, failed/not_queued; retry() ran once")


def test_a_queue_that_is_not_there_leaves_a_failed_task(
    own: lt.Settings, model: ScriptedModel, figures: Figures
) -> None:
    through = own.model_copy(update={"qstash_url": f"http://127.0.0.1:{free_port()}"})
    error = submit_and_fail(through, "Explain tides to nobody")
    assert "Cannot connect to host 127.0.0.1" in str(error)
    check_never_ran(own, model, error)
    figures("7 nobody listens", "failed/not_queued; retry() ran once")


@pytest.mark.parametrize(
    "body",
    first_of([b"<!doctype html>", b'{"messageId": 7', b"", b"[]", b"{}", b"null", b"7"]),
    ids=ascii,
)
def test_a_queue_that_answers_something_else_leaves_a_failed_task(
    own: lt.Settings, model: ScriptedModel, figures: Figures, body: bytes
) -> None:
    async def answer_it(_: Request) -> Response:
        return Response(body, 200, media_type="application/json")

    with serve(Starlette(routes=[Route("/{path:path}", answer_it, methods=["POST"])])) as url:
        through = own.model_copy(update={"qstash_url": url})
        error = submit_and_fail(through, f"Explain tides to {body!r}")
    check_never_ran(own, model, error)
    figures(f"7 queue answers 200 {body.decode()}", "failed/not_queued; retry() ran once")


def test_a_message_that_arrives_after_its_submitter_gave_up_never_runs(
    own: lt.Settings, model: ScriptedModel, sdk: QStash, figures: Figures
) -> None:
    through = own.model_copy(update={"qstash_url": f"http://127.0.0.1:{free_port()}"})
    error = submit_and_fail(through, "Explain tides too late")
    body = json.dumps({"taskId": error.task_id, "prompt": "Explain tides too late"})
    message_id = publish(sdk, own, body)
    wait_until(lambda: "DELIVERED" in states_of(sdk, message_id))
    check_never_ran(own, model, error)
    figures("7 publish arrives after giving up", "200, not run; retry() ran once")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", ["reply lost", "reply late"])
def test_a_publish_of_unknown_outcome_runs_once_or_is_failed(
    own: lt.Settings,
    model: ScriptedModel,
    monkeypatch: pytest.MonkeyPatch,
    scale: Scale,
    figures: Figures,
    how: str,
) -> None:
    """The queue took it, and nobody heard: told as failed, it must not run behind one's back.

    Or it was running already; then it runs on, once, and its status says so.
    """
    if how == "reply late":
        monkeypatch.setattr(queue_module, "_TIMEOUT_S", 0.3)  # 30 s
    outcomes = {"failed": 0, "completed": 0}
    for round_ in range(scale(short=2, full=100)):
        prompt = f"Explain tides {how} {round_}"
        with wire_to(own.qstash_url) as wire:
            wire.on_answer = lambda *_: None if how == "reply lost" else b""
            with lt.connect(
                settings=own.model_copy(update={"qstash_url": wire.url}), quiet=True
            ) as kit:
                try:
                    task_id = kit.submit(prompt).id
                except lt.SubmitError as error:
                    task_id = error.task_id or ""
                    assert read_record(own, task_id).status == "failed", "it says the truth"
        wait_until(lambda task_id=task_id: read_record(own, task_id).status in outcomes)  # type: ignore[misc]
        status = read_record(own, task_id).status
        outcomes[status] += 1
        events = read_events(own, task_id)
        if status == "completed":
            check_tokens(events, model_tokens(prompt))
        else:
            assert events[-1].code == "not_queued"
        # What still is in the queue is delivered soon; it changes nothing.
        assert deliver(own, make_body(task_id), delivery_id="msg_late").status_code == 200
        assert model.calls[prompt] == (status == "completed")
        assert read_record(own, task_id).status == status
    figures(f"7 publish {how}", f"{outcomes['completed']} ran once, {outcomes['failed']} failed")


@pytest.mark.parametrize("lost", first_of([2, 1]))
def test_a_publish_whose_first_replies_are_lost_is_sent_again_and_runs_once(
    own: lt.Settings, model: ScriptedModel, figures: Figures, lost: int
) -> None:
    prompt = f"Explain tides {lost} lost"

    def lose(link: Link, data: bytes) -> bytes | None:
        return None if wire.connections <= lost else data

    with wire_to(own.qstash_url) as wire:
        wire.on_answer = lose
        through = own.model_copy(update={"qstash_url": wire.url})
        with lt.connect(settings=through, quiet=True) as kit:
            task = kit.submit(prompt)
            assert task.result(30) == "".join(model_tokens(prompt))
        assert wire.connections == lost + 1
    assert model.calls[prompt] == read_record(own, task.id).attempt == 1
    figures(f"7 first {lost} publish replies lost", "sent again, ran once")


def fail_for_good(own: lt.Settings, model: ScriptedModel, prompt: str) -> str:
    """Run a task that fails four times and would then be well; returns its id."""
    model.script(prompt, *[Refusal(500, f"sorry for {prompt}")] * 4, answer(TOKENS))
    with lt.connect(settings=own, quiet=True) as kit:
        task = kit.submit(prompt)
        with pytest.raises(lt.TaskFailedError, match="All 4 deliveries failed") as caught:
            task.result(60)
    assert caught.value.code == "retries_exhausted"
    assert f"sorry for {prompt}" in str(caught.value)
    assert model.calls[prompt] == 4
    return task.id


def test_a_task_whose_retries_are_used_up_is_a_dead_letter_with_its_reason(
    own: lt.Settings, model: ScriptedModel, sdk: QStash, figures: Figures
) -> None:
    task_id = fail_for_good(own, model, "Explain dead letters")
    message_id = read_record(own, task_id).message_id
    [dead] = [one for one in sdk.dlq.list().messages if one.message_id == message_id]
    assert dead.url == own.webhook_url
    assert dead.response_status == 500
    assert task_id in (dead.body or "")
    assert "sorry for Explain dead letters" in str(dead.response_body)
    assert sdk.dlq.get(dead.dlq_id).message_id == message_id
    figures("10 dead letter", "response 500 with its reason, by the qstash SDK")


def test_a_retry_gives_readers_from_before_and_after_the_new_text(
    own: lt.Settings, model: ScriptedModel, figures: Figures
) -> None:
    task_id = fail_for_good(own, model, "Explain retries")
    with (
        lt.connect(settings=own, quiet=True) as one,
        lt.connect(settings=own, quiet=True) as two,
        lt.connect(own.base_url, quiet=True) as three,
    ):
        task, unread, over_http = (kit.attach(task_id) for kit in (one, two, three))
        assert task.status == "failed"
        with pytest.raises(lt.TaskFailedError):
            task.result(10)
        task.retry()
        late = two.attach(task_id)
        for reader in (task, late, unread, over_http):
            assert reader.result(30) == "".join(TOKENS)
            assert reader.status == "completed"
            assert reader.attempt == 6, "four failed, the fifth is the end itself"
        assert model.calls["Explain retries"] == 5
        check_tokens(read_events(own, task_id), TOKENS)
        with pytest.raises(lt.SubmitError, match="Only a failed or cancelled task"):
            task.retry()
    figures("10 retry()", "attempt 6; 4 readers from before and after have the new text")


def test_a_reader_that_saw_the_failure_sees_another_kits_retry(
    own: lt.Settings, model: ScriptedModel
) -> None:
    task_id = fail_for_good(own, model, "Explain being told")
    with lt.connect(settings=own, quiet=True) as one, lt.connect(settings=own, quiet=True) as two:
        seen = two.attach(task_id)
        with pytest.raises(lt.TaskFailedError):
            seen.result(10)
        task = one.attach(task_id)
        task.retry()
        assert task.result(30) == "".join(TOKENS)
        assert seen.status == "completed"
        assert seen.result(30) == "".join(TOKENS)


@pytest.mark.timeout(3600)
def test_retries_asked_for_at_once_run_the_task_once(
    own: lt.Settings, model: ScriptedModel, scale: Scale, figures: Figures
) -> None:
    rounds = scale(short=1, full=30)
    for round_ in range(rounds):
        prompt = f"Explain impatience {round_}"
        task_id = fail_for_good(own, model, prompt)
        with lt.connect(settings=own, quiet=True) as kit:
            tasks = [kit.attach(task_id) for _ in range(5)]
            refused: list[lt.SubmitError] = []

            def retry(task: lt.Task, refused: list[lt.SubmitError] = refused) -> None:
                try:
                    task.retry()
                except lt.SubmitError as error:  # another one's retry runs already
                    refused.append(error)

            with ThreadPoolExecutor(5) as pool:
                list(pool.map(retry, tasks))
            assert len(refused) < 5
            assert kit.attach(task_id).result(30) == "".join(TOKENS)
        started = time.monotonic()
        wait_until(lambda started=started: time.monotonic() - started > 0.3)  # type: ignore[misc]
        assert model.calls[prompt] == 5, "four failures and one retry"
        check_tokens(read_events(own, task_id), TOKENS)
    figures("10 five retry() at once", f"{rounds} tasks: 1 more run each")
