"""After stage 5: an ended task's log is made smaller, and no reader sees a difference."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.events import START, Cursor
from longtask_kit.log.keys import log_key, new_task_id, task_key
from longtask_kit.log.record import Append, Begun, Settled
from longtask_kit.log.redis import RedisClient, load_script
from longtask_kit.log.store import Store
from longtask_kit.log.transcript import Transcript
from longtask_kit.server.attempt import Answer
from tests.delivery import deliver
from tests.flow.test_6_subscribe import read_frames
from tests.wait import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(settings: lt.Settings) -> AsyncIterator[Store]:
    opened = Store.open(settings)
    yield opened
    await opened.aclose()


async def write(store: Store, task_id: str, texts: Sequence[str], *, end: str = "completed") -> int:
    """Run an attempt that writes each text as an entry of its own, and ends; return its number."""
    begun = await store.begin(task_id, delivery_id=f"msg_{new_task_id()}")
    assert isinstance(begun, Begun), begun
    attempt, seq = begun.attempt, 3
    for at in range(0, len(texts), 100):  # a few at once: their times differ by the round trips
        entries = []
        for text in texts[at : at + 100]:
            tokens = ["n", "2"] if seq % 7 == 0 else []
            entries.append([f"{attempt}-{seq}", "d", text, *tokens])
            seq += 1
        await append(store, task_id, attempt, entries)
    if end:
        types = {"completed": "end", "failed": "error", "retrying": "status"}
        last = [f"{attempt}-{seq}", "k", types[end], "d", end if end == "retrying" else ""]
        await append(store, task_id, attempt, [last], "status", end)
    return attempt


async def append(
    store: Store, task_id: str, attempt: int, entries: list[list[str]], *fields: str
) -> None:
    part = Append(
        task_id=task_id,
        attempt=attempt,
        entries=entries,
        fields=list(fields),
        release=bool(fields),
    )
    assert await store.append([part]) == ["ok"]


async def run_task(store: Store, texts: Sequence[str], *, end: str = "completed") -> str:
    task_id = new_task_id()
    await store.create(task_id, {"prompt": "x"})
    await write(store, task_id, texts, end=end)
    return task_id


def dump(redis: Redis, task_id: str) -> list[Any]:
    """Return the log as it is stored."""
    return [redis.xrange(log_key(task_id)), redis.hgetall(task_key(task_id))]


def make_texts(count: int) -> list[str]:
    return [["Hi ", "Ä", "河流", "🏞️", "\n", 'a"b,1 2\\'][n % 6] for n in range(count)]


async def test_readers_get_the_same_events_from_every_cursor(store: Store, redis: Redis) -> None:
    task_id = await run_task(store, make_texts(350))
    before = await store.read_log(task_id, after=START)
    record = redis.hgetall(task_key(task_id))
    await store.compact(task_id)
    assert redis.xlen(log_key(task_id)) < 20
    assert await store.read_log(task_id, after=START) == before
    assert len({event.time for event in before}) > 3
    for at, event in enumerate(before):
        assert await store.read_log(task_id, after=event.cursor) == before[at + 1 :]
    assert redis.hgetall(task_key(task_id)) == record
    assert redis.ttl(log_key(task_id)) > 600_000
    assert redis.exists(f"{log_key(task_id)}:new") == 0


async def test_compacting_again_changes_nothing(store: Store, redis: Redis) -> None:
    task_id = await run_task(store, make_texts(3000))
    await asyncio.gather(*(store.compact(task_id) for _ in range(3)))  # whoever comes first
    stored = dump(redis, task_id)
    assert len(stored[0]) < 100
    await store.compact(task_id)
    assert dump(redis, task_id) == stored
    assert redis.exists(f"{log_key(task_id)}:new") == 0


@pytest.mark.parametrize("count", [0, 60])
async def test_a_short_log_is_left_alone(store: Store, redis: Redis, count: int) -> None:
    task_id = await run_task(store, make_texts(count))
    stored = dump(redis, task_id)
    await store.compact(task_id)
    assert dump(redis, task_id) == stored


async def test_large_pieces_are_left_alone(store: Store, redis: Redis) -> None:
    task_id = await run_task(store, ["x" * 1000] * 700)
    stored = dump(redis, task_id)
    await store.compact(task_id)
    assert dump(redis, task_id) == stored


async def test_a_task_that_runs_waits_or_is_gone_is_left_alone(store: Store, redis: Redis) -> None:
    runs = await run_task(store, make_texts(200), end="")
    waits = await run_task(store, make_texts(200), end="failed")
    await store.retry(waits)
    stored = [dump(redis, runs), dump(redis, waits)]
    gone = new_task_id()
    for task_id in (runs, waits, gone):
        await store.compact(task_id)
    assert [dump(redis, runs), dump(redis, waits)] == stored
    assert redis.exists(log_key(gone), task_key(gone)) == 0


async def test_a_retry_continues_a_compacted_log(store: Store) -> None:
    task_id = await run_task(store, make_texts(300), end="failed")
    before = await store.read_log(task_id, after=START)
    await store.compact(task_id)
    last = before[-1].cursor
    assert await store.retry(task_id) == Cursor(last.attempt, last.seq + 1)
    assert await write(store, task_id, ["second "] * 300) == 2
    events = await store.read_log(task_id, after=START)
    await store.compact(task_id)
    assert await store.read_log(task_id, after=START) == events
    assert events[: len(before) - 1] == before[:-1], "the error was not the end"
    transcript = Transcript()
    for event in events:
        transcript.apply(event)
    assert (transcript.status, transcript.text) == ("completed", "second " * 300)
    assert [event.cursor for event in events] == sorted({event.cursor for event in events})


async def test_a_retry_between_two_steps_leaves_the_log_as_it_was(
    store: Store, redis: Redis
) -> None:
    task_id = await run_task(store, make_texts(1200), end="failed")
    assert await store._run_script("compact", task_id, []) == [1]
    assert 0 < redis.ttl(f"{log_key(task_id)}:new") <= 60, "should nobody go on"
    await store.retry(task_id)
    stored = dump(redis, task_id)
    await store.compact(task_id)
    assert dump(redis, task_id) == stored
    assert redis.exists(f"{log_key(task_id)}:new") == 0


async def test_a_run_that_ended_between_two_steps_is_not_lost(store: Store) -> None:
    task_id = await run_task(store, make_texts(1200), end="failed")
    assert await store._run_script("compact", task_id, []) == [1]
    await store.retry(task_id)
    await write(store, task_id, make_texts(1200))
    before = await store.read_log(task_id, after=START)
    await store.compact(task_id)
    assert await store.read_log(task_id, after=START) == before


async def test_a_log_of_the_same_id_gets_nothing_of_one_deleted_between_two_steps(
    store: Store,
) -> None:
    task_id = await run_task(store, make_texts(1200))
    assert await store._run_script("compact", task_id, []) == [1]
    await store.delete(task_id)
    await store.create(task_id, {"prompt": "x"})
    await write(store, task_id, ["second "] * 1200)
    before = await store.read_log(task_id, after=START)
    await store.compact(task_id)
    assert await store.read_log(task_id, after=START) == before


class _Interrupting(RedisClient):
    """Lets a reader read its first page, and the next ones after a compaction."""

    pages = 0

    async def run(self, commands: Sequence[list[Any]], *, is_urgent: bool = False) -> list[Any]:
        is_page = commands[0][0] == "XRANGE"
        self.pages += is_page
        if is_page and self.pages == 2:
            task_id = commands[0][1].split("{")[1].split("}")[0]
            await Store(self, ttl_s=60, lease_s=15.0).compact(task_id)
        return await super().run(commands, is_urgent=is_urgent)


async def test_a_reader_in_the_middle_of_a_log_loses_nothing_when_it_is_compacted(
    settings: lt.Settings, redis: Redis
) -> None:
    interrupting = _Interrupting(settings)
    store = Store(interrupting, ttl_s=60, lease_s=15.0)
    texts = [f"{number:0400}" for number in range(2450)]  # two of them fit into an entry
    task_id = await run_task(store, texts)
    events = await store.read_log(task_id, after=START)
    assert [e.data for e in events if e.type == "content"] == texts
    assert redis.xlen(log_key(task_id)) < 1250
    interrupting.pages = 2
    assert await store.read_log(task_id, after=START) == events
    assert interrupting.pages == 4, "a compacted log has pages as well"
    await store.aclose()


async def test_a_log_takes_less_than_three_times_its_text(store: Store, redis: Redis) -> None:
    task_id = await run_task(store, [f"{number:04} " for number in range(10_000)])
    await store.compact(task_id)
    size_bytes = redis.execute(["MEMORY", "USAGE", log_key(task_id), "SAMPLES", "0"])
    assert isinstance(size_bytes, int)
    assert size_bytes < 3 * 50_000


_PIECES = st.tuples(
    st.sampled_from(["", "", "", "", "running", "p"]),  # the type; mostly none: text
    st.text(max_size=12) | st.sampled_from(["x" * 300, "河" * 200]),
    st.integers(1, 12),  # tokens
    st.integers(-2000, 100_000),  # ms after the one before; Redis' clock may be set back
    st.sampled_from([1, 1, 1, 1, 2]),  # seq after the one before
)


@given(st.lists(_PIECES, min_size=1, max_size=12), st.integers(70, 1100))
@hypothesis_settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_log_comes_back(
    store: Store, pieces: list[tuple[str, str, int, int, int]], count: int
) -> None:
    task_id = new_task_id()
    await store.create(task_id, {"prompt": "x"})
    key, seq, time_ms = log_key(task_id), 0, 1_700_000_000_000
    commands: list[list[Any]] = [["HSET", task_key(task_id), "status", "cancelled"]]
    for number in range(count):
        kind, text, tokens, gap_ms, step = pieces[number % len(pieces)]
        seq, time_ms = seq + step, time_ms + gap_ms
        fields = ["k", "status", "d", kind] if kind else ["d", text]
        fields += [] if tokens == 1 else ["n", str(tokens)]
        commands.append(["XADD", key, f"{1 + 2 * number // count}-{seq}", *fields, "t", time_ms])
    await store._redis.run(commands)
    before = await store.read_log(task_id, after=START)
    await store.compact(task_id)
    assert await store.read_log(task_id, after=START) == before


def count_entries(redis: Redis, task: lt.Task) -> int:
    return redis.xlen(log_key(task.id))


@pytest.mark.parametrize("ending", ["end", "cancelled"])
def test_the_webhook_leaves_a_small_log_behind(
    settings: lt.Settings, kit: lt.Kit, redis: Redis, ending: str
) -> None:
    task = kit.submit("Explain tides", model="demo@60")  # slow: most tokens have their own entry
    if ending == "cancelled":
        wait_until(lambda: count_entries(redis, task) > 100)
        task.cancel()
    live = read_frames(settings, task.id)
    assert live[-1][1]["type"] == ending
    wait_until(lambda: count_entries(redis, task) < len(live) / 2)
    assert read_frames(settings, task.id)[1:] == live[1:]
    middle = len(live) // 2
    assert read_frames(settings, task.id, live[middle][0])[1:] == live[middle + 1 :]


async def test_a_short_answer_costs_no_command_for_its_log(
    settings: lt.Settings, redis: Redis
) -> None:
    _, sha = load_script("compact")
    for tokens, is_compacted in ((20, 0), (200, 1)):
        redis.script_flush()
        with lt.connect(settings=settings, quiet=True) as own:
            own.serve({"count": count_to})
            task = own.submit("count", handler="count", metadata={"tokens": tokens})
            await asyncio.to_thread(task.result, 30)
        # The app has ended, after all that it had to do for the task.
        assert redis.script_exists(sha) == [is_compacted]


async def count_to(context: lt.TaskContext) -> AsyncIterator[str]:
    for number in range(context.spec.metadata["tokens"]):
        yield f"{number} "
        await asyncio.sleep(0.005)  # each an entry of its own


async def test_a_task_ended_without_an_attempt_leaves_a_small_log(
    store: Store, redis: Redis
) -> None:
    task_id = await run_task(store, make_texts(300), end="retrying")  # its last delivery is lost
    events = await store.read_log(task_id, after=START)
    assert await store.settle(task_id, "failed", reason="lost") == Settled(None)
    assert redis.xlen(log_key(task_id)) < 20
    assert (await store.read_log(task_id, after=START))[: len(events)] == events


async def test_a_log_that_can_not_be_compacted_changes_no_answer(
    store: Store, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await run_task(store, make_texts(300))
    stored = dump(redis, task_id)
    redis.set(f"{log_key(task_id)}:new", "not a stream", ex=60)
    answer = await deliver(store, task_id, {}, delivery_id="again")
    assert answer == Answer(200, {"taskId": task_id, "status": "completed"})
    assert "WRONGTYPE" in caplog.text
    assert dump(redis, task_id) == stored
    redis.delete(f"{log_key(task_id)}:new")


async def test_a_delivery_of_an_ended_task_makes_up_for_a_process_that_died(
    store: Store, redis: Redis
) -> None:
    task_id = await run_task(store, make_texts(300))
    await deliver(store, task_id, {}, delivery_id="again")
    assert redis.xlen(log_key(task_id)) < 20
