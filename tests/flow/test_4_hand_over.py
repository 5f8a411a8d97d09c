"""Stage 4: an attempt hands over before its host's time limit, or fails in time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.keys import task_key
from longtask_kit.log.record import Done
from longtask_kit.log.store import Store
from longtask_kit.server import duration
from tests.wait import wait_until

pytestmark = pytest.mark.anyio
WORDS = [f"{n} " for n in range(60)]
calls: Counter[str] = Counter()


async def say(context: lt.TaskContext) -> AsyncIterator[Any]:
    """Say a word each 40 ms, from where the text ends."""
    calls[context.task_id] += 1
    for word in WORDS[len(context.text.split()) :]:
        yield word
        await asyncio.sleep(0.04)


@lt.handler(continues=True)
async def go_on(context: lt.TaskContext) -> AsyncIterator[Any]:
    async for word in say(context):
        yield word


@lt.handler(continues=True)
async def brood(context: lt.TaskContext) -> AsyncIterator[Any]:
    calls[context.task_id] += 1
    await asyncio.sleep(30)
    yield "at last"


@pytest.fixture(scope="module")
def kit(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    limited = stack.settings.model_copy(update={"max_duration_s": 1.0})
    with lt.connect(settings=limited, quiet=True) as opened:
        opened.serve({"go_on": go_on, "say": say, "brood": brood})
        yield opened


def test_an_answer_longer_than_the_limit_comes_whole_and_burns_no_retry(kit: lt.Kit) -> None:
    task = kit.submit("x", handler="go_on", retries=0)
    deltas = [*task]
    assert "".join(deltas) == task.text == "".join(WORDS)
    assert not any(delta.is_restart for delta in deltas)
    *handed, last = task.attempts
    assert len(handed) >= 2
    assert {(a.ended_as, a.code) for a in handed} == {("handed_on", "time_limit")}
    assert last.ended_as == "completed"
    assert sum(a.tokens for a in task.attempts) == len(WORDS), "nothing was said twice"
    assert calls[task.id] == len(task.attempts)
    assert "retrying" not in [e.data for e in task.events() if e.type == "status"]


def test_where_nobody_names_a_limit_what_can_go_on_hands_on_and_the_rest_runs(
    stack: lt.LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duration, "UNSET_S", 1.0)
    with lt.connect(settings=stack.settings, quiet=True) as kit:
        kit.serve({"go_on": go_on, "say": say})
        tasks = [kit.submit("x", handler=handler, retries=0) for handler in ("go_on", "say")]
        assert [task.result(30) for task in tasks] == ["".join(WORDS)] * 2
    continued, whole = tasks
    assert {a.code for a in continued.attempts[:-1]} == {"time_limit"}
    assert len(whole.attempts) == 1


@pytest.mark.parametrize(("handler", "text"), [("say", "0 1 2 "), ("brood", "")])
def test_what_can_not_go_on_fails_in_time_and_is_not_paid_again(
    kit: lt.Kit, handler: str, text: str
) -> None:
    task = kit.submit("x", handler=handler, retries=3)
    with pytest.raises(lt.TaskFailedError, match="LONGTASK_MAX_DURATION_S") as caught:
        task.result(30)
    assert caught.value.code == "time_limit"
    assert caught.value.partial_text.startswith(text)
    assert "max_tokens" in str(caught.value)
    assert calls[task.id] == 1


def test_a_cancel_between_two_parts_ends_it(kit: lt.Kit, redis: Redis) -> None:
    for _ in range(5):
        task = kit.submit("x", handler="go_on")
        wait_until(lambda task=task: redis.hexists(task_key(task.id), "handed"))  # type: ignore[misc]
        task.cancel()
        with pytest.raises(lt.TaskCancelledError):
            task.result(30)
        said = task.text
        assert "".join(WORDS).startswith(said)
        assert [e.type for e in task.events()].count("cancelled") == 1


async def test_a_message_that_handed_on_long_ago_does_nothing(
    kit: lt.Kit, settings: lt.Settings, redis: Redis
) -> None:
    task = await asyncio.to_thread(kit.submit, "x", handler="go_on")
    await asyncio.to_thread(wait_until, lambda: redis.hexists(task_key(task.id), "handed_before"))
    first = (redis.hget(task_key(task.id), "handed_before") or "").split()[-1]
    store = Store.open(settings)
    assert isinstance(await store.begin(task.id, delivery_id=first), Done)
    await store.set_message_id(task.id, first)  # by whoever published it, very late
    record = await store.read_task(task.id)
    assert record is not None
    assert record.message_id != first
    await store.aclose()
    assert await task == "".join(WORDS)
