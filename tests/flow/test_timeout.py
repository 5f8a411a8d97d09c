"""A task that may take so long ends as failed when that is over, whatever it is doing then."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.keys import new_task_id, task_key
from longtask_kit.log.record import Begun, Done, Late, Settled
from longtask_kit.log.store import Store
from longtask_kit.log.waiting import sweep
from longtask_kit.server.ending import MustWait
from longtask_kit.server.limiter import wait_ending
from longtask_kit.submit.queue import Queue
from longtask_kit.submit.tasks import Tasks
from tests.delivery import deliver
from tests.serving import free_port
from tests.wait import wait_until

pytestmark = pytest.mark.anyio

attempts: list[str] = []


async def slow(context: lt.TaskContext) -> AsyncIterator[str]:
    """Say one word, then nothing for ever; a second attempt is quick."""
    attempts.append(context.task_id)
    yield "begun"
    if attempts.count(context.task_id) == 1:
        await asyncio.Event().wait()


@pytest.fixture(scope="module")
def kit(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    with lt.connect(settings=stack.settings, quiet=True) as kit:
        kit.serve({"slow": slow})
        yield kit


@pytest.fixture
async def store(settings: lt.Settings) -> AsyncIterator[Store]:
    opened = Store.open(settings)
    yield opened
    await opened.aclose()


@pytest.fixture
async def nowhere(settings: lt.Settings, store: Store) -> AsyncIterator[Tasks]:
    """Tasks that the queue keeps for a while: their webhook is not there."""
    away = settings.model_copy(update={"base_url": f"http://127.0.0.1:{free_port()}"})
    queue = Queue.open(away)
    yield Tasks(store, queue)
    await queue.aclose()


def expire(redis: Redis, task_id: str) -> None:
    """Have a task be as old as it may become, without waiting for it."""
    key = task_key(task_id)
    redis.hset(key, "since_ms", str(int(redis.hget(key, "since_ms") or "") - 3_600_000))


SPEC = lt.TaskSpec(prompt="x", model="demo-fast", timeout_s=3600)


def test_an_attempt_that_runs_is_stopped_and_a_retry_has_as_long_again(kit: lt.Kit) -> None:
    task = kit.submit("x", handler="slow", timeout_s=1)
    with pytest.raises(lt.TaskFailedError, match="timeout_s") as failed:
        task.result(30)
    assert (failed.value.code, failed.value.partial_text) == ("timeout", "begun")
    assert attempts.count(task.id) == 1, "no retry of the queue's"
    task.retry()
    assert task.result(30) == "begun"


async def test_one_that_waits_ends_as_soon_as_somebody_looks(
    nowhere: Tasks, store: Store, redis: Redis
) -> None:
    looked, swept = [(await nowhere.submit(SPEC))[0] for _ in range(2)]
    expire(redis, looked)
    expire(redis, swept)
    record = await nowhere.read(looked)
    assert (record.status, record.code) == ("failed", "timeout")
    await sweep(store, deadline_s=3600.0)
    assert redis.hget(task_key(swept), "code") == "timeout"


async def test_its_reader_is_told(nowhere: Tasks, kit: lt.Kit, redis: Redis) -> None:
    task_id, _ = await nowhere.submit(SPEC)
    task = await asyncio.to_thread(kit.attach, task_id)
    wait = asyncio.ensure_future(asyncio.to_thread(task.result, 30))
    await asyncio.to_thread(wait_until, lambda: task._feed.transcript.began)
    expire(redis, task_id)
    with pytest.raises(lt.TaskFailedError) as failed:
        await wait
    assert failed.value.code == "timeout"


async def test_its_message_that_comes_too_late_runs_nothing(store: Store, redis: Redis) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC.to_wire())
    await store.set_message_id(task_id, "m1")
    expire(redis, task_id)
    assert isinstance(await store.begin(task_id, delivery_id="m1"), Late)
    await store.settle(task_id, "failed", reason="x", code="timeout", only="late")
    assert await store.begin(task_id, delivery_id="m1") == Done("failed")
    by_hand = await store.begin(task_id, delivery_id="m2")
    assert isinstance(by_hand, Begun), "a dead letter sent again by hand"
    assert 0 < (by_hand.left_s or 0) <= 3600


async def hand_on(store: Store, task_id: str) -> None:
    """Have message `m1` begin a task and hand it on to `m2`."""
    await store.set_message_id(task_id, "m1")

    async def say(_: lt.TaskContext) -> AsyncIterator[str]:
        yield "text"
        raise MustWait(wait_ending(30, ""))

    answer = await deliver(store, task_id, {"openai": say}, delivery_id="m1")
    assert answer.status_code == 500, "no queue took it here"
    await store.set_message_id(task_id, "m2", handed="m1")


async def test_one_that_was_handed_on_and_is_late_is_not_run_by_its_next_message(
    store: Store, redis: Redis
) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC.to_wire())
    await hand_on(store, task_id)
    expire(redis, task_id)
    ended = await store.settle(task_id, "failed", reason="x", code="timeout", only="late")
    assert isinstance(ended, Settled)
    assert await store.begin(task_id, delivery_id="m2") == Done("failed"), "nobody retried it"
    assert isinstance(await store.begin(task_id, delivery_id="m3"), Begun), "by hand"


async def test_one_that_was_handed_on_fails_when_its_next_message_does(store: Store) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC.to_wire())
    await hand_on(store, task_id)
    old, new = [
        await store.settle(task_id, "failed", reason="x", code="retries_exhausted", delivery_id=m)
        for m in ("m1", "m2")
    ]
    assert old == Done("pending"), "a word about the message that handed it on"
    assert isinstance(new, Settled), "else it would wait for ever"


async def test_a_task_that_waits_is_not_lost_while_the_queue_has_its_message(
    settings: lt.Settings, nowhere: Tasks, store: Store, redis: Redis
) -> None:
    queue = Queue.open(settings)
    [kept, gone] = [(await nowhere.submit(SPEC))[0] for _ in range(2)]
    message = (await nowhere.read(gone)).message_id
    asked = []

    async def has(message_id: str) -> bool:
        asked.append(message_id)
        return message_id != message and await queue.has(message_id)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while redis.hget(task_key(gone), "code") != "lost":
                await sweep(store, deadline_s=0.05, has_message=has)
    assert redis.hget(task_key(gone), "code") == "lost"
    assert redis.hget(task_key(kept), "message_id") in asked
    assert redis.hget(task_key(kept), "code") != "lost"
    assert not await queue.has("msg_that_is_not_there")
    await queue.aclose()
