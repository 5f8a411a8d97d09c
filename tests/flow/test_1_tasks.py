"""Stage 1: one class submits, cancels, retries and deletes, for the kit and for the HTTP API."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from qstash.log import LogState
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.keys import TASK_INDEX, log_key, new_task_id, task_key
from longtask_kit.log.redis import RedisClient, load_script
from longtask_kit.log.store import Store
from longtask_kit.log.waiting import sweep
from longtask_kit.submit.queue import Queue
from longtask_kit.submit.tasks import Tasks
from tests.wait import wait_until

HTTP = httpx.Client(timeout=30)
pytestmark = pytest.mark.anyio


@pytest.fixture
async def tasks(settings: lt.Settings) -> AsyncIterator[Tasks]:
    store, queue = Store.open(settings), Queue.open(settings)
    yield Tasks(store, queue)
    await queue.aclose()
    await store.aclose()


async def test_whoever_comes_after_a_delete_is_told_that_there_is_nothing(
    settings: lt.Settings, tasks: Tasks
) -> None:
    task_id, _ = await tasks.submit(lt.TaskSpec(prompt="x", model="demo-fast"))
    await tasks.delete(task_id)
    for call in (tasks.delete, tasks.cancel, tasks.retry, tasks.read):
        with pytest.raises(lt.StreamExpiredError, match=task_id):
            await call(task_id)
    async with httpx.AsyncClient(base_url=f"{settings.base_url}/api/tasks") as http:
        answers = [
            await http.delete(f"/{task_id}"),
            await http.post("/cancel", json={"taskId": task_id}),
            await http.post("/retry", json={"taskId": task_id}),
            await http.post("/try-now", json={"taskId": task_id}),
            await http.get(f"/{task_id}/next-try"),
        ]
    assert [answer.status_code for answer in answers] == [404] * 5
    assert [answer.json()["taskId"] for answer in answers] == [task_id] * 5


async def test_a_submit_sent_twice_is_one_task_that_runs_once(kit: lt.Kit, tasks: Tasks) -> None:
    spec, task_id = lt.TaskSpec(prompt="Explain tides", model="demo-fast"), new_task_id()
    for _ in range(2):
        assert (await tasks.submit(spec, task_id=task_id))[0] == task_id
    task = await asyncio.to_thread(kit.attach, task_id)
    await task
    await tasks.submit(spec, task_id=task_id)
    assert (await tasks.read(task_id)).status == "completed"
    assert task.attempt == 1


async def test_an_id_that_is_submitted_again_after_a_delete_runs_again_and_once(
    kit: lt.Kit, tasks: Tasks
) -> None:
    """The queue remembers a message's name for ten minutes, which has the task's id in it."""
    task_id = new_task_id()
    for prompt in ("Explain tides", "Explain rivers", "Explain clouds"):
        for _ in range(2):
            await tasks.submit(lt.TaskSpec(prompt=prompt, model="demo-fast"), task_id=task_id)
        task = await asyncio.to_thread(kit.attach, task_id)
        assert prompt.split()[1] in (await asyncio.to_thread(task.result, 30)).lower()
        assert len(task.attempts) == 1
        await tasks.delete(task_id)


async def test_a_retry_sent_twice_is_one_retry_whatever_came_of_it(
    kit: lt.Kit, tasks: Tasks
) -> None:
    task = await asyncio.to_thread(kit.submit, "x", model="demo-bad-key")
    for attempt, retry_id in enumerate(["", "one", "two"], start=1):
        if retry_id:
            assert await tasks.retry(task.id, retry_id=retry_id)
            await tasks.retry(task.id, retry_id=retry_id)
            await asyncio.to_thread(task._feed.reopen)
        with pytest.raises(lt.TaskFailedError, match="API key"):
            await task
        assert task.attempt == attempt
    await tasks.retry(task.id, retry_id="two")
    assert (await tasks.read(task.id)).status == "failed", "what came of it stands"
    await tasks.retry(task.id)  # by somebody else
    await asyncio.to_thread(task._feed.reopen)
    with pytest.raises(lt.TaskFailedError, match="API key"):
        await task
    assert task.attempt == 4


@pytest.mark.parametrize("task_id", ["", "task_x", "task_12345678\n", "other:12345678", "*"])
async def test_what_is_no_id_becomes_no_part_of_a_key(tasks: Tasks, task_id: str) -> None:
    for call in (tasks.delete, tasks.cancel, tasks.retry, tasks.read):
        with pytest.raises(lt.StreamExpiredError):
            await call(task_id)


async def test_each_action_costs_redis_one_request(settings: lt.Settings) -> None:
    class Counting(RedisClient):
        requests = 0

        async def run(self, commands: Sequence[list[Any]], *, is_urgent: bool = False) -> list[Any]:
            news = load_script("tell")  # which wait for no one
            self.requests += commands[0][1] not in news
            return await super().run(commands, is_urgent=is_urgent)

    redis, queue = Counting(settings), Queue.open(settings)
    tasks = Tasks(Store(redis, ttl_s=60, lease_s=15.0), queue)
    far = settings.model_copy(update={"base_url": "http://127.0.0.1:9"})  # nobody runs it
    waiting = Tasks(Store(redis, ttl_s=60, lease_s=15.0), Queue.open(far))
    counts = []
    for call in (tasks.cancel, tasks.delete) * 2:  # the first of each may have to load its script
        task_id, _ = await waiting.submit(lt.TaskSpec(prompt="x", model="demo-fast"))
        await waiting._store.notes.write_all()
        redis.requests = 0
        await call(task_id)
        counts.append(redis.requests)
    assert counts[2:] == [2, 1], "a cancel compacts the log as well"
    await waiting._queue.aclose()
    await queue.aclose()
    await redis.aclose()


async def test_a_cancel_right_after_the_submit_finds_the_message(settings: lt.Settings) -> None:
    far = settings.model_copy(update={"base_url": "http://127.0.0.1:9"})
    store, queue = Store.open(settings), Queue.open(far)
    for call in (Tasks.cancel, Tasks.delete):
        task_id, message_id = await (tasks := Tasks(store, queue)).submit(lt.TaskSpec(prompt="x"))
        await call(tasks, task_id)
        told = await queue._logs.list(filter={"message_id": message_id})
        assert LogState.CANCELED in {log.state for log in told.logs}
    await queue.aclose()
    await store.aclose()


def test_a_kit_that_is_closed_has_noted_what_it_submitted(
    settings: lt.Settings, redis: Redis
) -> None:
    with lt.connect(settings=settings, quiet=True) as brief:
        task_ids = [brief.submit("x", model="demo-fast").id for _ in range(3)]
    assert all(redis.hget(task_key(task_id), "message_id") for task_id in task_ids)


def test_a_message_is_the_tasks_id_alone(kit: lt.Kit, stack: lt.LocalStack) -> None:
    secret = "a prompt that belongs in one cloud"
    task = kit.submit(secret, model="demo-bad-key", system=secret)
    with pytest.raises(lt.TaskFailedError):
        task.result(30)
    env = stack.environment
    headers = {"Authorization": f"Bearer {env['QSTASH_TOKEN']}"}

    def find_letters() -> list[str]:
        answer = HTTP.get(f"{env['QSTASH_URL']}/v2/dlq", headers=headers).json()
        return [letter["body"] for letter in answer["messages"] if task.id in letter["body"]]

    wait_until(find_letters)  # the queue puts it there once the webhook has answered
    assert [json.loads(body) for body in find_letters()] == [{"taskId": task.id}]


def test_a_task_that_the_version_before_wrote_is_listed_and_attached_to(
    kit: lt.Kit, redis: Redis
) -> None:
    task_id = new_task_id()
    spec = {"prompt": " " * 300 + "x", "model": "demo-fast", "maxTokens": 7, "temperature": 0.1}
    values = {"status": "pending", "attempt": "0", "created_ms": "9000000000000"}
    brief = {"prompt": " " * 200, "model": "demo-fast"}
    redis.hset(
        task_key(task_id), values=values | {"spec": json.dumps(spec), "brief": json.dumps(brief)}
    )
    redis.expire(task_key(task_id), 60)
    redis.zadd(TASK_INDEX, {task_id: 9000000000000})
    [listed] = kit.tasks(limit=1)
    assert (listed.id, listed.spec.model) == (task_id, "demo-fast")
    attached = kit.attach(task_id).spec
    assert (attached.prompt, attached.max_tokens) == (spec["prompt"], 7)
    redis.zrem(TASK_INDEX, task_id)


async def test_a_task_that_the_version_before_queued_is_run(
    settings: lt.Settings, kit: lt.Kit, redis: Redis
) -> None:
    task_id = new_task_id()
    spec = lt.TaskSpec(prompt="Explain tides", model="demo-fast").to_wire()
    values = {"status": "pending", "attempt": "0", "created_ms": "1", "ttl_s": "60"}
    redis.hset(task_key(task_id), values=values | {"spec": json.dumps(spec)})
    queue = Queue.open(settings)
    await queue.publish(task_id)
    await queue.aclose()
    task = await asyncio.to_thread(kit.attach, task_id)
    assert "Tides" in await asyncio.to_thread(task.result, 30)


@pytest.fixture
async def store(settings: lt.Settings) -> AsyncIterator[Store]:
    opened = Store.open(settings)
    yield opened
    await opened.aclose()


SPEC = lt.TaskSpec(prompt="x", model="demo-fast").to_wire()


async def test_a_client_with_a_shorter_time_to_live_shortens_nobody_elses(
    settings: lt.Settings, store: Store, redis: Redis
) -> None:
    mine, theirs = new_task_id(), new_task_id()
    await store.create(mine, SPEC)
    redis.zadd(TASK_INDEX, {mine: 1.0})  # long ago
    short = Store.open(settings.model_copy(update={"ttl_s": 60}))
    await short.create(theirs, SPEC)
    await short.set_message_id(mine, "msg_1")
    await short.settle(mine, "failed", reason="x")
    await short.retry(mine)
    for key in (task_key(mine), log_key(mine), TASK_INDEX):
        assert redis.ttl(key) > settings.ttl_s - 60, key
    assert 0 < redis.ttl(task_key(theirs)) <= 60
    await sweep(short, deadline_s=3600.0)
    assert redis.zscore(TASK_INDEX, mine) is not None, "still listed"
    await short.aclose()


async def test_a_task_leaves_the_list_when_its_record_has_expired(
    store: Store, redis: Redis
) -> None:
    expired = [new_task_id() for _ in range(50)]
    redis.zadd(TASK_INDEX, dict.fromkeys(expired, 9e12))
    while any(redis.zscore(TASK_INDEX, task_id) for task_id in expired):
        await sweep(store, deadline_s=3600.0)


async def test_a_message_id_that_comes_after_a_delete_makes_no_record(
    store: Store, redis: Redis
) -> None:
    task_id = new_task_id()
    await store.set_message_id(task_id, "msg_1")
    assert not redis.exists(task_key(task_id))


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_long_list_has_each_task_once_while_others_come_and_go(
    settings: lt.Settings, store: Store, redis: Redis, at_once: bool
) -> None:
    task_ids = [new_task_id() for _ in range(250)]
    await asyncio.gather(*(store.create(task_id, SPEC) for task_id in task_ids))
    places = {i: 8e12 if at_once else 8e12 + n for n, i in enumerate(task_ids)}
    redis.zadd(TASK_INDEX, places)

    class Busy(RedisClient):
        """A Redis where something happens between two pages."""

        async def run(self, commands: list[list[object]], **options: bool) -> list[object]:  # type: ignore[override]
            if TASK_INDEX in commands[0]:
                pages.append(commands)
            if TASK_INDEX in commands[0] and len(pages) > 1:
                for _ in range(7):
                    await store.create(new := new_task_id(), SPEC)
                    redis.zadd(TASK_INDEX, {new: 9e12})
                listed_first = max(places, key=lambda i: (places[i], i))
                del places[listed_first]
                await store.delete(listed_first)
            return await super().run(commands, **options)

    pages: list[object] = []
    busy = Store(Busy(settings), ttl_s=60, lease_s=15.0)
    # Of one status they are read page by page; of all at once, as many as are wanted.
    records = await busy.list_tasks(limit=250, status="pending")
    listed = [record.task_id for record in records]
    assert len(listed) == len(set(listed))
    assert len(pages) > 2
    assert set(task_ids) <= set(listed), "those that went had been listed by then"
    await busy.aclose()
    for task_id in redis.zrange(TASK_INDEX, 8e12, "+inf", sortby="BYSCORE"):
        await store.delete(str(task_id))


async def test_a_slip_of_ours_is_not_told_as_an_outage(settings: lt.Settings) -> None:
    client = RedisClient(settings)
    with pytest.raises(TypeError, match="SET: set is no argument"):
        await client.run([["SET", "longtask:x", {1}]])
    await client.aclose()


def test_clients_leave_the_environment_of_the_process_alone(stack: lt.LocalStack) -> None:
    code = """
import sys
import longtask_kit as lt
import longtask_kit.server.openai as model

def refuse(event, args):
    assert event not in ("os.putenv", "os.unsetenv"), args

sys.addaudithook(refuse)
settings = lt.Settings(_env_file=None)
with lt.connect(settings=settings, quiet=True) as kit:
    model._open_http_client(settings.openai_base_url)
    print(kit.submit("x", model="demo-fast").result(30) != "")
"""
    proxies = {"ALL_PROXY": "socks5://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=stack.environment | proxies,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "True\n", done.stderr
