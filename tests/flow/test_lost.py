"""A task whose message is lost ends, a task that was given up as lost still runs when it comes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.keys import OPEN_INDEX, new_task_id, task_key
from longtask_kit.log.record import Append, Begun, Busy, Done
from longtask_kit.log.store import Store
from longtask_kit.log.waiting import give_up_silent, sweep
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
    while not await give_up_silent(store, record, deadline_s=0.0):
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
    assert not await give_up_silent(store, record, deadline_s=0.0), "its lease holds"


HOUR_MS = 3_600_000


def shift(redis: Redis, task_id: str, name: str, ms: int) -> None:
    """Have a time in a record be another, as a clock that jumps or a machine that sleeps does."""
    key = task_key(task_id)
    redis.hset(key, name, str(int(redis.hget(key, name) or "") + ms))


@pytest.mark.parametrize("moved_ms", [-2 * HOUR_MS, 2 * HOUR_MS])
async def test_a_task_whose_message_is_queued_is_not_lost_when_the_clock_jumps(
    store: Store, redis: Redis, moved_ms: int
) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    shift(redis, task_id, "created_ms", moved_ms)
    record = await store.read_task(task_id)
    assert record is not None
    for _ in range(3):
        assert not await give_up_silent(store, record, deadline_s=3600.0)
    assert isinstance(await store.begin(task_id, delivery_id="m"), Begun), "here it comes"


async def test_an_attempt_that_slept_with_its_machine_is_not_lost(
    store: Store, redis: Redis
) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    await store.begin(task_id, delivery_id="m")
    for name in ("updated_ms", "lease_until"):
        shift(redis, task_id, name, -2 * HOUR_MS)
    record = await store.read_task(task_id)
    assert record is not None
    assert not await give_up_silent(store, record, deadline_s=3600.0)
    assert await store.append([Append(task_id=task_id, attempt=1)]) == ["ok"]


async def test_silence_counts_from_look_to_look_and_as_half_the_deadline_at_most(
    store: Store, redis: Redis
) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    shift(redis, task_id, "created_ms", -24 * HOUR_MS)
    record = await store.read_task(task_id)
    assert record is not None
    assert not await give_up_silent(store, record, deadline_s=3600.0), "half"
    since, looked, silent = (redis.hget(task_key(task_id), "looked") or "").split()
    assert int(silent) == HOUR_MS // 2
    an_hour_ago = f"{since} {int(looked) - HOUR_MS} {silent}"
    redis.hset(task_key(task_id), "looked", an_hour_ago)
    assert await give_up_silent(store, record, deadline_s=3600.0), "the whole"


async def test_a_lease_lasts_no_longer_than_its_length_when_the_clock_goes_back(
    settings: lt.Settings, redis: Redis
) -> None:
    store = Store.open(settings.model_copy(update={"lease_s": 1.0}))
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    await store.begin(task_id, delivery_id="m")
    shift(redis, task_id, "lease_until", HOUR_MS)
    cancel = await store.settle(task_id, "cancelled", reason="x")
    assert isinstance(cancel, Busy)
    assert cancel.left_s <= 1.0
    shift(redis, task_id, "lease_until", HOUR_MS)
    while isinstance(answer := await store.begin(task_id, delivery_id="m"), Busy):
        assert answer.left_s <= 1.0
        await asyncio.sleep(answer.left_s)
    assert isinstance(answer, Begun)
    shift(redis, task_id, "lease_until", HOUR_MS)
    await store.append([Append(task_id=task_id, attempt=2)])  # renewed, so by the new time
    seconds, _ = redis.time()
    assert int(redis.hget(task_key(task_id), "lease_until") or "") < (seconds + 60) * 1000
    await store.aclose()


async def leave_index(store: Store, redis: Redis, task_id: str) -> None:
    """Sweep until no sweep will look at it again."""
    while redis.zscore(OPEN_INDEX, task_id) is not None:
        await sweep(store, deadline_s=0.0)


async def test_a_retried_task_whose_message_is_lost_ends_as_well(
    store: Store, redis: Redis
) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    await store.settle(task_id, "failed", reason="x")
    await leave_index(store, redis, task_id)
    await store.retry(task_id)  # and then whoever called died
    while redis.hget(task_key(task_id), "code") != "lost":
        await sweep(store, deadline_s=0.01)


async def test_a_dead_letter_sent_again_by_hand_is_looked_at_again(
    store: Store, redis: Redis
) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    await store.settle(task_id, "failed", reason="x", code="retries_exhausted")
    await leave_index(store, redis, task_id)
    assert isinstance(await store.begin(task_id, delivery_id="by hand"), Begun)
    assert redis.zscore(OPEN_INDEX, task_id) == 0


async def test_a_task_that_waits_again_while_it_is_taken_out_stays_in(
    store: Store, redis: Redis
) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)  # as if retried after the sweep had read that it failed
    await store.index.note_ended([task_id])
    assert redis.zscore(OPEN_INDEX, task_id) == 0


async def test_one_sweep_looks_at_all_there_are(store: Store, redis: Redis) -> None:
    task_ids = [new_task_id() for _ in range(220)]
    await asyncio.gather(*(store.create(task_id, SPEC) for task_id in task_ids))
    # Looked at by one whose clock was ahead: of the sweeper, or before it went back.
    redis.zadd(OPEN_INDEX, dict.fromkeys(task_ids[:5], 9e12))
    await sweep(store, deadline_s=3600.0)
    now_s, _ = redis.time()
    assert all(0 < (redis.zscore(OPEN_INDEX, i) or 0) <= (now_s + 1) * 1000 for i in task_ids)


async def test_the_sweep_looks_once_at_what_has_ended(store: Store, redis: Redis) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    await store.settle(task_id, "cancelled", reason="x")
    await sweep(store, deadline_s=3600.0)
    assert redis.zscore(OPEN_INDEX, task_id) is None


async def test_a_task_retried_by_hand_waits_from_that_moment_on(
    kit: lt.Kit, settings: lt.Settings, store: Store
) -> None:
    task = kit.submit("Explain tides", model="demo-bad-key")
    with pytest.raises(lt.TaskFailedError):
        await task
    ended = task.snapshot().cursor
    assert await store.retry(task.id) == (1, ended.seq + 1)
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
    left = redis.keys(f"longtask:{{{task.id}}}*")
    assert left == [f"{task_key(task.id)}:fence"], "the number of its last attempt, no more"
