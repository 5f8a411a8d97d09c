"""Stage 5: log entry and news in one atomic trip; fenced, idempotent, never slowing the model."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.events import START
from longtask_kit.log.keys import log_key, new_task_id, task_key
from longtask_kit.log.record import Append, Begun, Busy, CancelPending, Done, Gone, Settled
from longtask_kit.log.store import Store
from longtask_kit.log.transcript import Transcript
from longtask_kit.server.stop import AttemptStopped
from longtask_kit.server.writer import LogWriter
from tests.proxy import proxy_to

pytestmark = pytest.mark.anyio

SPEC = {"prompt": "x"}


@pytest.fixture
async def store(settings: lt.Settings) -> AsyncIterator[Store]:
    opened = Store.open(settings)
    yield opened
    await opened.aclose()


def open_store(settings: lt.Settings, **options: float) -> Store:
    original = Store.open(settings)
    return Store(original._redis, ttl_s=60, **{"lease_s": 15.0, **options})


async def begin(store: Store, task_id: str, delivery_id: str = "msg_1") -> int:
    begun = await store.begin(task_id, delivery_id=delivery_id)
    assert isinstance(begun, Begun), begun
    return begun.attempt


async def start_task(store: Store) -> tuple[str, int]:
    """Record a task and lease its first attempt."""
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    return task_id, await begin(store, task_id)


async def read_text(store: Store, task_id: str) -> str:
    transcript = Transcript()
    for event in await store.read_log(task_id, after=START):
        transcript.apply(event)
    return transcript.text


async def test_the_log_says_when_a_delivery_arrived(store: Store) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    await store.begin(task_id, delivery_id="msg_1", waited_s=2.5)
    _, begun, start = await store.read_log(task_id, after=START)
    assert begun.arrived is not None
    assert (begun.time - begun.arrived).total_seconds() == 2.5
    assert start.arrived is None


async def test_of_deliveries_at_once_one_gets_the_lease(store: Store) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    answers = await asyncio.gather(*(store.begin(task_id, delivery_id="m") for _ in range(10)))
    assert sum(isinstance(answer, Begun) for answer in answers) == 1
    busy = [answer for answer in answers if isinstance(answer, Busy)]
    assert len(busy) == 9
    assert all(0 < answer.left_s <= 15 for answer in busy)


async def test_an_ended_task_is_done_for_its_own_delivery(store: Store) -> None:
    task_id, attempt = await start_task(store)
    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=1) as log_writer:
        writer = log_writer.open_attempt(task_id, attempt)
        await writer.fail("no", code="no")
        log_writer.close_attempt(writer)
    assert await store.begin(task_id, delivery_id="msg_1") == Done("failed")
    # Another message for a failed task: somebody retried its dead letter.
    assert await begin(store, task_id, "msg_2") == 2


async def test_a_message_that_got_through_after_its_publish_failed_does_not_run(
    store: Store,
) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    await store.settle(task_id, "failed", reason="no answer of the queue", code="not_queued")
    assert await store.begin(task_id, delivery_id="msg_late") == Done("failed")
    assert isinstance(await store.retry(task_id), lt.Cursor)
    assert await begin(store, task_id, "msg_retry") == 2


async def test_a_late_word_about_an_old_message_ends_no_newer_run(settings: lt.Settings) -> None:
    store = open_store(settings, lease_s=0.05)
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    await begin(store, task_id, "msg_new")
    await asyncio.sleep(0.1)
    late = await store.settle(task_id, "failed", reason="old", delivery_id="msg_old")
    assert late == Done("running")
    own = await store.settle(task_id, "failed", reason="own", delivery_id="msg_new")
    assert own == Settled(None)
    await store.aclose()


async def test_a_zombie_can_write_nothing_once_another_attempt_began(
    settings: lt.Settings, redis: Redis
) -> None:
    store = open_store(settings, lease_s=0.05)
    task_id, first = await start_task(store)
    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=60) as log_writer:
        zombie = log_writer.open_attempt(task_id, first)
        await zombie.write("old ")
        await asyncio.sleep(0.2)  # past its lease
        assert await begin(store, task_id) == 2
        length = redis.xlen(f"longtask:{{{task_id}}}:log")
        await zombie.write("ghost")
        assert await asyncio.wait_for(zombie.stopped, 5) == "fenced"
        with pytest.raises(AttemptStopped):
            await zombie.write("more")
        log_writer.close_attempt(zombie)
    assert redis.xlen(f"longtask:{{{task_id}}}:log") == length
    await store.aclose()


async def test_a_lost_answer_doubles_nothing(settings: lt.Settings) -> None:
    with proxy_to(settings.upstash_redis_rest_url or "") as proxy:
        through = settings.model_copy(update={"upstash_redis_rest_url": proxy.url})
        store = Store.open(through)
        task_id, attempt = await start_task(store)
        words = [f"word{n} " for n in range(200)]
        async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=1) as log_writer:
            writer = log_writer.open_attempt(task_id, attempt)
            for n, word in enumerate(words):
                if n % 40 == 20:
                    proxy.swallow_answers = 1  # stored, but we never hear of it
                await writer.write(word)
                await asyncio.sleep(0.001)
            await writer.end(usage=None, finish_reason="stop")
            log_writer.close_attempt(writer)
        assert await read_text(store, task_id) == "".join(words)
        assert proxy.connections > 3
        await store.aclose()


async def test_a_redis_that_is_away_for_a_while_costs_no_token(settings: lt.Settings) -> None:
    with proxy_to(settings.upstash_redis_rest_url or "") as proxy:
        through = settings.model_copy(update={"upstash_redis_rest_url": proxy.url})
        store = Store.open(through)
        task_id, attempt = await start_task(store)
        async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=1) as log_writer:
            writer = log_writer.open_attempt(task_id, attempt)
            await writer.write("before ")
            while await read_text(store, task_id) != "before ":
                pass
            proxy.is_down = True
            proxy.cut_all()
            await writer.write("during ")
            await asyncio.sleep(0.3)
            proxy.is_down = False
            await writer.write("after")
            await writer.end(usage=None, finish_reason="stop")
            log_writer.close_attempt(writer)
        assert await read_text(store, task_id) == "before during after"
        await store.aclose()


async def test_a_server_that_forgot_its_scripts_is_taught_them_again(
    store: Store, redis: Redis
) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    redis.script_flush()
    attempt = await begin(store, task_id)
    redis.script_flush()
    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=1) as log_writer:
        writer = log_writer.open_attempt(task_id, attempt)
        await writer.write("still here")
        await writer.end(usage=None, finish_reason=None)
        log_writer.close_attempt(writer)
    assert await read_text(store, task_id) == "still here"


async def test_a_fast_model_is_batched_and_a_huge_delta_is_split(store: Store) -> None:
    task_id, attempt = await start_task(store)
    rng = random.Random(7)
    deltas = [rng.choice(["a", "Ä", "河", "🏞️", "\n"]) * rng.randint(1, 9) for _ in range(20_000)]
    deltas.insert(500, "x" * 200_000)
    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=1) as log_writer:
        writer = log_writer.open_attempt(task_id, attempt)
        for delta in deltas:
            await writer.write(delta)
        await writer.end(usage=None, finish_reason="stop")
        log_writer.close_attempt(writer)
    events = [e for e in await store.read_log(task_id, after=START) if e.type == "content"]
    assert "".join(event.data for event in events) == "".join(deltas)
    assert len(events) < len(deltas) / 10
    assert max(len(event.data) for event in events) <= 65_536


async def test_a_full_buffer_makes_the_model_wait(settings: lt.Settings) -> None:
    with proxy_to(settings.upstash_redis_rest_url or "") as proxy:
        through = settings.model_copy(update={"upstash_redis_rest_url": proxy.url})
        store = Store.open(through)
        task_id, attempt = await start_task(store)
        async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=1) as log_writer:
            writer = log_writer.open_attempt(task_id, attempt)
            proxy.is_down = True
            proxy.cut_all()
            written = []

            async def write_for_ever() -> None:
                while True:
                    await writer.write("y" * 10_000)
                    written.append(10_000)

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(write_for_ever(), 0.5)
            assert 1_000_000 <= sum(written) < 1_200_000
            proxy.is_down = False
            log_writer.close_attempt(writer)
        await store.aclose()


async def test_cancel_settles_what_waits_and_asks_what_runs(store: Store) -> None:
    waiting, running = new_task_id(), new_task_id()
    for task_id in (waiting, running):
        await store.create(task_id, SPEC)
    attempt = await begin(store, running)

    async def cancel(task_id: str) -> object:
        return await store.settle(task_id, "cancelled", reason="r", ask_to_stop=True)

    assert await cancel(waiting) == Settled(None)
    assert await cancel(waiting) == Done("cancelled")
    assert await store.begin(waiting, delivery_id="m") == Done("cancelled")
    assert isinstance(await cancel(running), Busy)
    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=0.1) as log_writer:
        writer = log_writer.open_attempt(running, attempt)
        assert await asyncio.wait_for(writer.stopped, 5) == "cancel"  # no delta: the heartbeat
        await writer.cancel()
        log_writer.close_attempt(writer)
    assert await cancel(running) == Done("cancelled")
    assert await cancel(new_task_id()) == Gone()


async def test_a_cancel_outlives_the_attempt_that_should_have_heeded_it(
    settings: lt.Settings,
) -> None:
    store = open_store(settings, lease_s=2)
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    await begin(store, task_id)
    assert isinstance(await store.settle(task_id, "cancelled", reason="r", ask_to_stop=True), Busy)
    while isinstance(outcome := await store.begin(task_id, delivery_id="msg_1"), Busy):  # noqa: ASYNC110
        await asyncio.sleep(outcome.left_s)  # the attempt died without a word
    assert outcome == CancelPending()
    await store.aclose()


@pytest.mark.parametrize("status", ["retrying", "failed", "completed", "cancelled"])
async def test_a_renewal_that_the_end_overtook_takes_no_lease(store: Store, status: str) -> None:
    task_id = new_task_id()
    await store.create(task_id, SPEC)
    attempt = await begin(store, task_id, "msg_1")
    entries = [[f"{attempt}-3", "k", "status", "d", status]]
    end = Append(
        task_id=task_id,
        attempt=attempt,
        entries=entries,
        fields=["status", status],
        release=True,
    )
    assert await store.append([end]) == ["ok"]
    assert await store.append([Append(task_id=task_id, attempt=attempt)]) == ["ok"]
    next_one = await store.begin(task_id, delivery_id="msg_2")
    is_over = status in ("completed", "cancelled")
    assert next_one == Done(status) if is_over else isinstance(next_one, Begun)  # type: ignore[arg-type]


async def test_a_deleted_task_stops_its_attempt(store: Store) -> None:
    task_id, attempt = await start_task(store)
    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=0.1) as log_writer:
        writer = log_writer.open_attempt(task_id, attempt)
        assert await store.delete(task_id) == Settled(None)
        assert await asyncio.wait_for(writer.stopped, 5) == "gone"
        log_writer.close_attempt(writer)
    assert await store.read_task(task_id) is None
    assert await store.delete(task_id) == Gone()


async def test_an_old_attempt_writes_nothing_into_a_task_of_the_same_id(store: Store) -> None:
    task_id, first = await start_task(store)
    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=60) as log_writer:
        old = log_writer.open_attempt(task_id, first)
        await old.write("apples ")
        while await read_text(store, task_id) != "apples ":
            pass
        await store.delete(task_id)
        await store.create(task_id, SPEC)
        await old.write("more apples")
        assert await asyncio.wait_for(old.stopped, 5) == "fenced", "before the next one begins"
        log_writer.close_attempt(old)
        new = log_writer.open_attempt(task_id, await begin(store, task_id))
        assert new.attempt > first
        await new.write("rivers")
        await new.end(usage=None, finish_reason="stop")
        log_writer.close_attempt(new)
    assert await read_text(store, task_id) == "rivers"
    late = Append(task_id=task_id, attempt=first, entries=[[f"{first}-4", "d", "apples"]])
    assert await store.append([late]) == ["fenced"]


@pytest.mark.parametrize("how", ["deleted", "deleted twice", "evicted"])
async def test_attempts_of_an_id_that_comes_again_go_on_counting(
    store: Store, redis: Redis, how: str
) -> None:
    task_id, first = await start_task(store)
    if how == "evicted":  # the record alone, by a Redis that is full
        redis.delete(task_key(task_id))
    else:
        await store.delete(task_id)
    if how == "deleted twice":
        assert await store.delete(task_id) == Gone()
    await store.create(task_id, SPEC)
    await store.create(task_id, SPEC)
    events = await store.read_log(task_id, after=START)
    assert [(event.data, event.cursor) for event in events] == [("pending", (first + 1, 1))]
    assert await begin(store, task_id) == first + 2


async def test_a_reader_of_a_deleted_task_starts_over_with_the_next_of_its_id(
    store: Store,
) -> None:
    task_id, first = await start_task(store)
    transcript = Transcript()
    text = Append(task_id=task_id, attempt=first, entries=[[f"{first}-3", "d", "apples"]])
    await store.append([text])
    for event in await store.read_log(task_id, after=START):
        transcript.apply(event)
    await store.delete(task_id)
    await store.create(task_id, SPEC)
    second = await begin(store, task_id)
    text = Append(task_id=task_id, attempt=second, entries=[[f"{second}-3", "d", "rivers"]])
    await store.append([text])
    for event in await store.read_log(task_id, after=transcript.cursor):
        transcript.apply(event)
    assert transcript.text == "rivers"


async def test_a_delta_larger_than_a_request_is_stored_and_holds_up_nobody(store: Store) -> None:
    (large_id, large), (small_id, small) = await start_task(store), await start_task(store)
    answer = "".join(f"{number:08x}" for number in range(1_400_000))  # 11 MB; a request holds 10
    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=1) as log_writer:
        writers = log_writer.open_attempt(large_id, large), log_writer.open_attempt(small_id, small)
        writing = asyncio.create_task(writers[0].write(answer))
        await writers[1].write("small")
        await writers[1].end(usage=None, finish_reason="stop")
        assert not writing.done(), "the small one did not wait for the large one"
        await writing
        await writers[0].end(usage=None, finish_reason="stop")
        for writer in writers:
            log_writer.close_attempt(writer)
    assert await read_text(store, small_id) == "small"
    assert await read_text(store, large_id) == answer


async def test_a_part_that_redis_refuses_holds_up_nobody(store: Store, redis: Redis) -> None:
    (bad_id, bad), (good_id, good) = await start_task(store), await start_task(store)
    redis.delete(log_key(bad_id))
    redis.set(log_key(bad_id), "not a stream", ex=60)
    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=1) as log_writer:
        writers = log_writer.open_attempt(bad_id, bad), log_writer.open_attempt(good_id, good)
        await writers[0].write("lost")
        await writers[1].write("kept")
        await writers[1].end(usage=None, finish_reason="stop")
        with pytest.raises(lt.LongTaskError, match="WRONGTYPE"):
            await writers[0].end(usage=None, finish_reason="stop")
        for writer in writers:
            log_writer.close_attempt(writer)
    assert await read_text(store, good_id) == "kept"
    redis.delete(log_key(bad_id))


async def test_a_wrong_token_is_told_to_a_pipeline_as_well(settings: lt.Settings) -> None:
    store = Store.open(settings.model_copy(update={"upstash_redis_rest_token": SecretStr("no")}))
    with pytest.raises(lt.LongTaskError, match="WRONGPASS"):
        await store.create(new_task_id(), SPEC)  # the script and the listing, in one pipeline
    await store.aclose()


async def test_a_flush_sent_again_undoes_nothing_that_happened_since(store: Store) -> None:
    task_id, attempt = await start_task(store)
    entry = [f"{attempt}-3", "k", "error", "d", "no"]
    end = Append(
        task_id=task_id,
        attempt=attempt,
        entries=[entry],
        fields=["status", "failed"],
        release=True,
    )
    assert await store.append([end]) == ["ok"]  # and the reply is lost
    await store.retry(task_id)
    assert await store.append([end]) == ["ok"]
    record = await store.read_task(task_id)
    assert record is not None
    assert record.status == "pending"


async def test_an_entry_whose_predecessors_are_lost_is_not_taken(store: Store) -> None:
    # Redis came back without its last writes; going on would leave a hole that nobody notices.
    task_id, attempt = await start_task(store)
    part = Append(task_id=task_id, attempt=attempt, entries=[[f"{attempt}-5", "d", "late"]])
    assert await store.append([part]) == ["torn"]
    assert await read_text(store, task_id) == ""
