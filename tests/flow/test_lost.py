"""A task whose message is lost ends, a task that was given up as lost still runs when it comes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.keys import OPEN_INDEX, new_task_id
from longtask_kit.log.record import Begun, Done
from longtask_kit.log.store import Store
from longtask_kit.server.services import Services
from longtask_kit.submit.queue import Queue
from longtask_kit.submit.spec import TaskSpec
from tests.wait import wait_until

pytestmark = pytest.mark.anyio

SPEC = TaskSpec(prompt="Explain tides", model="demo-fast", max_tokens=20).to_wire()


@pytest.fixture
def impatient(settings: lt.Settings) -> lt.Settings:
    return settings.model_copy(update={"deadline_s": 1.0})


@pytest.fixture
async def store(settings: lt.Settings) -> AsyncIterator[Store]:
    opened = Store.open(settings)
    yield opened
    await opened.aclose()


async def test_its_reader_does_not_wait_for_ever(impatient: lt.Settings, store: Store) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)  # and then the submitter died
    with (
        lt.connect(settings=impatient, quiet=True) as kit,
        pytest.raises(lt.TaskFailedError, match="LONGTASK_DEADLINE_S") as failed,
    ):
        await kit.attach(task_id)
    assert failed.value.code == "lost"


async def test_nobody_need_read_it(impatient: lt.Settings, store: Store, redis: Redis) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    services = Services(impatient, {})  # as a webhook app holds them
    await services.open()

    def has_failed() -> bool:
        return redis.hget(f"longtask:{{{task_id}}}", "status") == "failed"

    await asyncio.to_thread(wait_until, has_failed)
    await services.aclose()


async def test_its_message_runs_it_after_all(
    impatient: lt.Settings, store: Store, kit: lt.Kit
) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    record = await store.read_task(task_id)
    assert record is not None
    while not await store.give_up_silent(record, deadline_s=0.0):
        pass  # it is as old as that in the next millisecond
    queue = Queue.open(impatient)
    await queue.publish(task_id)  # a laptop that slept, a queue that was paused
    await queue.aclose()
    await asyncio.to_thread(wait_until, lambda: kit.attach(task_id).status == "completed")
    assert (await kit.attach(task_id)).endswith(kit.attach(task_id).text)


async def test_a_task_that_works_is_not_lost(settings: lt.Settings, store: Store) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    assert isinstance(await store.begin(task_id, delivery_id="m"), Begun)
    record = await store.read_task(task_id)
    assert record is not None
    assert not await store.give_up_silent(record, deadline_s=0.0), "its lease holds"


async def test_the_sweep_looks_once_at_what_has_ended(store: Store, redis: Redis) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    await store.settle(task_id, "cancelled", reason="x")
    while redis.zscore(OPEN_INDEX, task_id) is not None:
        await store.sweep(deadline_s=0.0)


async def test_a_task_retried_by_hand_waits_from_that_moment_on(
    kit: lt.Kit, settings: lt.Settings, store: Store
) -> None:
    task = kit.submit("Explain tides", model="demo-bad-key")
    with pytest.raises(lt.TaskFailedError):
        await task
    assert await store.retry(task.id) == (1, task.snapshot().cursor.seq + 1)
    # Before any delivery: whoever comes now waits, and a cancel finds a task that waits.
    elsewhere = kit.attach(task.id)
    assert elsewhere.status == "pending"
    assert isinstance(await store.retry(task.id), Done), "it has not failed, now"
    assert elsewhere.cancel() == "cancelled"
    with pytest.raises(lt.TaskCancelledError):
        await elsewhere


async def test_a_deleted_task_is_not_delivered_any_more(kit: lt.Kit, redis: Redis) -> None:
    task = kit.submit("Explain tides", model="demo-500")
    await asyncio.to_thread(wait_until, lambda: task.status == "retrying")
    task.delete()
    with pytest.raises(lt.StreamExpiredError):
        kit.attach(task.id)
    assert not redis.keys(f"longtask:{{{task.id}}}*")
