"""Stage 4: a wait for a limit burns no retry, is told, and hears a cancel."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.keys import log_key, new_group_id, new_task_id, task_key
from longtask_kit.log.limits import Call, LimitStore, name_bucket
from longtask_kit.log.many import ManyStore
from longtask_kit.log.record import Done
from longtask_kit.server.limiter import Limiter
from longtask_kit.server.writer import LogWriter
from tests.delivery import deliver
from tests.wait import wait_until

pytestmark = pytest.mark.anyio

calls: Counter[str] = Counter()


async def answer(context: lt.TaskContext) -> AsyncIterator[Any]:
    """Answer; a `busy` prompt is refused the first two times, as a model service does."""
    calls[context.spec.prompt] += 1
    if context.spec.prompt.startswith("busy") and calls[context.spec.prompt] < 3:
        raise lt.RetryableError("Rate limit.", code="rate_limit_exceeded", retry_after_s=0.05)
    yield context.spec.prompt.upper()


async def tell(context: lt.TaskContext) -> AsyncIterator[Any]:
    """Answer, and say what it took: then a group knows how long its next rows wait."""
    yield context.spec.prompt.upper()
    yield lt.Outcome(usage=lt.Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2))


def connect(settings: lt.Settings, **limits: float) -> Iterator[lt.Kit]:
    with lt.connect(settings=settings.model_copy(update=limits), quiet=True) as kit:
        handlers = ("answer", "held", "handed", "shared", "short")
        kit.serve(dict.fromkeys(handlers, answer) | {"left": tell})
        yield kit


@pytest.fixture(scope="module")
def kit(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    """A kit whose app holds what waits."""
    yield from connect(stack.settings)


@pytest.fixture(scope="module")
def hasty(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    """A kit whose app holds nothing: what has to wait is handed on at once."""
    yield from connect(stack.settings, limit_hold_s=0.0)


def find_waits(redis: Redis, task: lt.Task) -> list[str]:
    """Return what the log tells of waiting."""
    entries: Any = redis.execute(["XRANGE", log_key(task.id), "-", "+"])
    told = [dict(zip(f[::2], f[1::2], strict=True)) for _, f in entries]
    return [entry["e"] for entry in told if entry.get("c") == "limit"]


def test_a_long_wait_hands_the_task_on_and_costs_no_attempt(hasty: lt.Kit, redis: Redis) -> None:
    group = hasty.map([f"handed {i}" for i in range(8)], handler="handed", rpm=60)
    assert group.results(60) == [f"HANDED {i}" for i in range(8)]
    tasks = [task for task in group.tasks if task]
    waits = [find_waits(redis, task) for task in tasks]
    assert any(waits)
    assert all(wait.startswith("waits for the limit, next in ") for told in waits for wait in told)
    assert {task.attempt for task in tasks} == {1}
    assert {calls[f"handed {i}"] for i in range(8)} == {1}


async def test_a_message_that_handed_on_does_nothing_when_it_comes_again(
    hasty: lt.Kit, settings: lt.Settings, redis: Redis
) -> None:
    def run() -> list[lt.Task]:
        group = hasty.map(["again a", "again b", "again c"] * 3, handler="handed", rpm=20, n=3)
        wait_until(lambda: any(redis.hget(task_key(i), "handed") for i in group._ids))
        return [task for task in group.tasks if task and redis.hget(task_key(task.id), "handed")]

    [task, *_] = await asyncio.to_thread(run)
    store = ManyStore.open(settings)
    former, record = redis.hget(task_key(task.id), "handed") or "", await store.read_task(task.id)
    assert record is not None
    assert record.message_id != former
    assert isinstance(await store.begin(task.id, delivery_id=former), Done)
    await store.set_message_id(task.id, former)  # by whoever published it, late
    record = await store.read_task(task.id)
    assert record is not None
    assert record.message_id != former, "a cancel finds the message that is in the queue"
    await store.aclose()


def test_one_that_is_held_says_so_and_hears_a_cancel(kit: lt.Kit) -> None:
    group = kit.map([f"held {i}" for i in range(4)], handler="held", rpm=6)
    tasks = [task for task in group.tasks if task]
    wait_until(lambda: any("waits for the limit" in (task.error or "") for task in tasks))
    [held, *_] = [task for task in tasks if "waits for the limit" in (task.error or "")]
    assert (held.status, held.snapshot().code) == ("pending", "limit")
    assert held.cancel() in ("cancelling", "cancelled")
    with pytest.raises(lt.TaskCancelledError):
        held.result(30)
    group.cancel()


def test_a_task_that_is_ended_while_it_waits_keeps_no_place_that_others_wait_for(
    hasty: lt.Kit, settings: lt.Settings
) -> None:
    bucket = name_bucket("handler left", settings.model)

    def count_waiting() -> int:
        read: Any = lambda backend: backend.groups.store.limits.read_levels([bucket])  # noqa: E731
        [level] = hasty._door.ask(read)
        return level.waiting if level else 0

    hasty.map(["left"], handler="left", name="left", rpm=1).results(30)
    group = hasty.map([f"left {i}" for i in range(5)], handler="left", name="left", rpm=1)
    wait_until(lambda: count_waiting() == 5)
    tasks = [task for task in group.tasks if task]
    tasks[0].cancel()
    wait_until(lambda: count_waiting() == 4)
    tasks[1].delete()
    wait_until(lambda: count_waiting() == 3)
    group.cancel()
    wait_until(lambda: count_waiting() == 0)


def test_an_app_that_has_seen_no_limit_keeps_what_others_set(kit: lt.Kit, hasty: lt.Kit) -> None:
    assert kit.map(["first"], handler="shared", rpm=1).results(30) == ["FIRST"]
    task = hasty.submit("second", handler="shared")
    wait_until(lambda: "waits for the limit" in (task.snapshot().error or ""))
    task.cancel()
    assert calls["second"] == 0


async def test_an_app_that_is_told_to_end_hands_on_what_waits_for_its_turn_at_once(
    settings: lt.Settings,
) -> None:
    store, task_id = ManyStore.open(settings), new_task_id()
    limiter = Limiter(store.limits, store.budgets, store.groups, settings)
    wire = lt.TaskSpec(prompt="told to end", handler="drained").to_wire()
    limit = {"groupId": new_group_id(), "rpm": 4}  # 15 s: it is held
    first = new_task_id()
    await store.create_many([(i, wire, limit) for i in (first, task_id)], ttl_s=60)
    handlers = {"drained": tell}
    assert (await deliver(store, first, handlers, limiter=limiter)).status_code == 200

    async def drain(log_writer: LogWriter) -> None:
        while (record := await store.read_task(task_id)) and record.code != "limit":  # noqa: ASYNC110 - in Redis
            await asyncio.sleep(0.01)
        log_writer.drain()

    await deliver(store, task_id, handlers, beside=drain, limiter=limiter)
    record = await store.read_task(task_id)
    assert record is not None
    assert (record.status, record.code) == ("pending", "shutdown")
    await limiter.aclose()
    await store.aclose()


async def test_whether_there_is_a_limit_is_asked_once_for_all_calls(
    settings: lt.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, looks = ManyStore.open(settings), Counter[str]()
    limiter = Limiter(store.limits, store.budgets, store.groups, settings)
    call = Call(
        bucket="free", group="", task_id="t", rpm=0, tpm=0, prompt_tokens=1, answer_tokens=1
    )

    async def look(bucket: str) -> bool:
        looks[bucket] += 1
        return await LimitStore.is_kept(store.limits, bucket)

    monkeypatch.setattr(store.limits, "is_kept", look)
    for _ in range(3):
        assert await asyncio.gather(*[limiter.is_free(call) for _ in range(20)]) == [True] * 20
    assert looks == {"free": 1}
    await limiter.aclose()
    await store.aclose()


def test_a_wait_leaves_the_call_its_time_where_the_host_ends_requests(
    stack: lt.LocalStack,
) -> None:
    """It is handed on before, and whoever only waited doesn't end as out of time."""
    limits = {"max_duration_s": 2.0, "limit_minute_s": 30.0}
    with contextlib.contextmanager(connect)(stack.settings, **limits) as kit:
        group = kit.map([f"short {i}" for i in range(4)], handler="short", rpm=20)
        assert group.results(60) == [f"SHORT {i}" for i in range(4)]
        assert {calls[f"short {i}"] for i in range(4)} == {1}


def test_a_refusal_under_a_limit_is_a_wait(kit: lt.Kit) -> None:
    group = kit.map(["busy a"], handler="answer", rpm=6000, retries=0)
    assert group.results(30) == ["BUSY A"]
    assert calls["busy a"] == 3
    assert group.tasks[0] is not None
    assert group.tasks[0].attempt == 1
