"""Stage 1: one class submits, cancels, retries and deletes, for the kit and for the HTTP API."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import pytest
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.keys import TASK_INDEX, new_task_id, task_key
from longtask_kit.log.redis import RedisClient
from longtask_kit.log.store import Store
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
        ]
    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert [answer.json()["taskId"] for answer in answers] == [task_id] * 3


@pytest.mark.parametrize("task_id", ["", "task_x", "task_12345678\n", "other:12345678", "*"])
async def test_what_is_no_id_becomes_no_part_of_a_key(tasks: Tasks, task_id: str) -> None:
    for call in (tasks.delete, tasks.cancel, tasks.retry, tasks.read):
        with pytest.raises(lt.StreamExpiredError):
            await call(task_id)


async def test_each_action_costs_redis_one_request(settings: lt.Settings) -> None:
    class Counting(RedisClient):
        requests = 0

        async def run(self, commands: object, *, is_urgent: bool = False) -> list[object]:
            self.requests += 1
            return await super().run(commands, is_urgent=is_urgent)  # type: ignore[arg-type]

    redis, queue = Counting(settings), Queue.open(settings)
    tasks = Tasks(Store(redis, ttl_s=60, lease_s=15.0), queue)
    far = settings.model_copy(update={"base_url": "http://127.0.0.1:9"})  # nobody runs it
    waiting = Tasks(Store(redis, ttl_s=60, lease_s=15.0), Queue.open(far))
    counts = []
    for call in (tasks.cancel, tasks.delete):
        task_id, _ = await waiting.submit(lt.TaskSpec(prompt="x", model="demo-fast"))
        redis.requests = 0
        await call(task_id)
        counts.append(redis.requests)
    assert counts == [2, 1], "a cancel compacts the log as well"
    await waiting._queue.aclose()
    await queue.aclose()
    await redis.aclose()


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


def test_a_prompt_may_have_what_one_request_to_redis_takes(kit: lt.Kit) -> None:
    task = kit.submit("长" * 3_000_000, model="demo-fast", max_tokens=5)
    assert task.result(60)
    assert kit.attach(task.id).spec.prompt == "长" * 3_000_000
    with pytest.raises(lt.SubmitError, match="at most 9,900,000"):
        kit.submit("x" + "\n" * 4_000_000)  # each takes three bytes there


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
