"""Stage 6: replay, then live, each event exactly once, whatever happens to the connection."""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest
from httpx_sse import connect_sse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.client.backend import ServiceBackend
from longtask_kit.client.http_api import HttpBackend
from longtask_kit.log.events import START, Cursor, TaskEvent, encode_entry
from longtask_kit.log.keys import log_key, new_task_id
from longtask_kit.log.record import Append
from longtask_kit.log.store import Store
from longtask_kit.log.subscribe import RedisSource, follow
from longtask_kit.log.transcript import Transcript
from longtask_kit.submit.spec import TaskSpec
from tests.proxy import proxy_to
from tests.serving import serve
from tests.thorough import first_of
from tests.wait import wait_until

pytestmark = pytest.mark.anyio


def read_frames(
    settings: lt.Settings, task_id: str, last_event_id: str = ""
) -> list[tuple[str, dict[str, object]]]:
    """Return (id, JSON) of every frame, checking that none has an `event:` line."""
    frames = []
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    url = f"{settings.base_url}/api/tasks/stream"
    with (
        httpx.Client(timeout=30) as client,
        connect_sse(client, "GET", url, params={"taskId": task_id}, headers=headers) as source,
    ):
        for frame in source.iter_sse():
            assert frame.event == "message"
            frames.append((frame.id, json.loads(frame.data)))
    return frames


def count_readings(redis: Redis) -> int:
    """Return how many times any log was read so far."""
    stats = str(redis.execute(["INFO", "commandstats"]))
    return int(stats.partition("cmdstat_xrange:calls=")[2].partition(",")[0])


async def collect(settings: lt.Settings, task_id: str, *, after: Cursor = START) -> list[TaskEvent]:
    store = Store.open(settings)
    source = RedisSource(store, settings)
    try:
        return [event async for event in follow(source, task_id, after=after)]
    finally:
        await source.aclose()
        await store.aclose()


def test_the_stream_is_what_the_seeds_page_expects(settings: lt.Settings, kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@300", max_tokens=60)
    frames = read_frames(settings, task.id)  # live; the server closes after the terminal event
    types = [frame["type"] for _, frame in frames]
    assert types[0] == "connected"
    assert {"status", "start", "content"} <= set(types)
    assert types[-1] == "end"
    assert all(frame["taskId"] == task.id for _, frame in frames)
    assert all(isinstance(frame["timestamp"], int) for _, frame in frames)
    text = "".join(str(frame["data"]) for _, frame in frames if frame["type"] == "content")
    assert frames[-1][1]["data"] == text == task.result(10)
    ids = [Cursor.parse(frame_id) for frame_id, _ in frames[1:]]
    assert ids == sorted(set(ids))


def test_a_reader_resumes_after_its_last_event_id(settings: lt.Settings, kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@300", max_tokens=60)
    text = task.result(30)
    whole = read_frames(settings, task.id)
    cut = len(whole) // 2
    rest = read_frames(settings, task.id, whole[cut][0])
    assert rest[1:] == whole[cut + 1 :]
    assert rest[-1][1]["data"] == text, "`end` carries the full text however late one joins"
    response = httpx.get(
        f"{settings.base_url}/api/tasks/stream", params={"taskId": task.id, "lastEventId": "x"}
    )
    assert response.status_code == 400


def draw_budgets(seed: int) -> Callable[[], int | None]:
    """Return what cuts two of three connections at a random byte."""
    rng = random.Random(seed)
    return lambda: rng.randint(1, 2500) if rng.random() < 0.67 else None


@pytest.mark.thorough
async def test_a_dropped_connection_costs_no_token(settings: lt.Settings, kit: lt.Kit) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    with proxy_to(settings.upstash_redis_rest_url or "") as proxy:
        proxy.draw_budget = draw_budgets(seed=3)
        through = settings.model_copy(update={"upstash_redis_rest_url": proxy.url})
        for model in ("demo@400", "demo-cut-then-ok", "demo-fast") * 2:
            task = kit.submit("Explain tides", model=model)
            events = await collect(through, task.id)
            cursors = [event.cursor for event in events]
            assert cursors == sorted(set(cursors))
            transcript = Transcript()
            for event in events:
                transcript.apply(event)
            assert transcript.text == plain
        assert proxy.connections > 12


async def test_a_dropped_http_stream_costs_no_token(settings: lt.Settings, kit: lt.Kit) -> None:
    with proxy_to(settings.base_url or "") as proxy:
        proxy.draw_budget = draw_budgets(seed=4)
        for _ in range(5):
            backend = HttpBackend(proxy.url)  # else one that is not cut may serve all of them
            task = kit.submit("Explain tides", model="demo@400")
            events = [event async for event in follow(backend.source, task.id)]
            text = "".join(event.data for event in events if event.type == "content")
            assert text == task.result(10)
            await backend.aclose()
        assert proxy.connections > 5


async def test_a_late_reader_gets_everything_and_after_gets_the_rest(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    task = kit.submit("x", model="demo-long", max_tokens=10_000)
    text = task.result(60)
    events = await collect(settings, task.id)
    assert "".join(e.data for e in events if e.type == "content") == text
    assert sum(e.tokens for e in events if e.type == "content") == 10_000
    for event in (events[0], events[len(events) // 2], events[-2]):
        rest = await collect(settings, task.id, after=event.cursor)
        assert rest == events[events.index(event) + 1 :]


async def test_two_readers_of_one_task_see_the_same(settings: lt.Settings, kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@300", max_tokens=50)
    one = await collect(settings, task.id)
    two = await collect(settings, task.id)
    assert one == two == list(task.events())


async def test_an_unknown_task_is_an_error_not_silence(settings: lt.Settings) -> None:
    with pytest.raises(lt.StreamExpiredError, match="submit it again"):
        await collect(settings, new_task_id())
    backend = HttpBackend(settings.base_url or "")
    with pytest.raises(lt.StreamExpiredError):
        async for _ in follow(backend.source, new_task_id()):
            pass
    await backend.aclose()


@pytest.mark.thorough
async def test_a_task_that_vanishes_is_an_error_not_silence(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    task = kit.submit("x", model="demo-slow-start")
    backend = ServiceBackend(settings)
    events = follow(backend.source, task.id)
    while (await anext(events)).type != "start":
        pass
    await backend.delete(task.id)
    with pytest.raises(lt.StreamExpiredError):
        await anext(events)
    await backend.aclose()


async def test_a_service_that_stays_away_is_said_within_the_limit(settings: lt.Settings) -> None:
    with proxy_to(settings.upstash_redis_rest_url or "") as proxy:
        proxy.is_down = True
        through = settings.model_copy(update={"upstash_redis_rest_url": proxy.url})
        store = Store.open(through)
        source = RedisSource(store, through)
        with pytest.raises(lt.StreamSilentError, match="attach again later"):
            async for _ in follow(source, new_task_id(), silence_limit_s=0.3):
                pass
        await source.aclose()
        await store.aclose()


async def test_a_refused_token_is_said_at_once(settings: lt.Settings) -> None:
    wrong = settings.model_copy(update={"upstash_redis_rest_token": settings.openai_api_key})
    store = Store.open(wrong)
    source = RedisSource(store, wrong)
    with pytest.raises(lt.ConfigError, match="UPSTASH_REDIS_REST_TOKEN"):
        await anext(follow(source, new_task_id()))
    await source.aclose()
    await store.aclose()


def test_viewers_that_leave_leave_no_subscription_behind(
    settings: lt.Settings, kit: lt.Kit, redis: Redis
) -> None:
    task = kit.submit("Explain tides", model="demo@10")
    channel = f"longtask:{task.id}"

    def count() -> int:
        [_, number] = cast("list[Any]", redis.execute(["PUBSUB", "NUMSUB", channel]))
        return int(number)

    url = f"{settings.base_url}/api/tasks/stream"
    for _ in range(10):
        with (
            httpx.Client(timeout=30) as client,
            connect_sse(client, "GET", url, params={"taskId": task.id}) as source,
        ):
            next(source.iter_sse())
    wait_until(lambda: count() == 0)
    task.cancel()


async def test_silence_is_no_loss_and_a_lasting_error_is_said(settings: lt.Settings) -> None:
    with proxy_to(settings.upstash_redis_rest_url or "") as proxy:
        through = settings.model_copy(update={"upstash_redis_rest_url": proxy.url})
        backend = ServiceBackend(through)
        task_id, _ = await backend.submit(TaskSpec(prompt="x", model="demo-slow-start"))
        events = follow(backend.source, task_id, silence_limit_s=0.5)
        while (await anext(events)).type != "start":
            pass
        await asyncio.sleep(1)  # silent for longer than the limit, but connected
        proxy.cut_all()
        assert (await anext(events)).type == "content", "a drop after it is reconnected"
        await backend.aclose()


_NEWER = """
local entry = {'1-' .. ARGV[1], 'k', 'unheard-of', 'd', 'x', 'p', 'y', 't', '1'}
redis.call('XADD', KEYS[1], unpack(entry))
redis.call('PUBLISH', ARGV[2], cjson.encode(entry))
"""


@pytest.mark.parametrize("kind", ["redis", "http"])
async def test_what_a_newer_version_writes_is_skipped_and_costs_nothing(
    settings: lt.Settings, redis: Redis, kind: str
) -> None:
    backend = ServiceBackend(settings)
    remote = HttpBackend(settings.base_url or "")
    source = backend.source if kind == "redis" else remote.source
    store, task_id = Store.open(settings), new_task_id()
    await store.create(task_id, TaskSpec(prompt="x").to_wire())
    await store.begin(task_id, delivery_id="m")

    async def write(seq: int, *entry: str) -> None:
        fields = ["status", "completed"] if "end" in entry else []
        part = Append(task_id=task_id, attempt=1, entries=[[f"1-{seq}", *entry]], fields=fields)
        assert await store.append([part]) == ["ok"]

    def write_newer(seq: int) -> None:
        redis.eval(_NEWER, keys=[log_key(task_id)], args=[str(seq), f"longtask:{task_id}"])

    await write(3, *encode_entry("content", "re"))
    write_newer(4)  # replayed
    seen: list[TaskEvent] = []

    async def read() -> None:
        async for event in follow(source, task_id):
            seen.append(event)

    reading = asyncio.create_task(read())
    await asyncio.to_thread(wait_until, lambda: len(seen) == 4)
    before = count_readings(redis)
    for seq in range(5, 25):
        await asyncio.to_thread(write_newer, seq)  # live
    await write(25, *encode_entry("content", "ad"))
    await asyncio.to_thread(wait_until, lambda: len(seen) == 5)
    assert count_readings(redis) - before < 10, "none is a hole that the log must fill"
    await write(26, *encode_entry("end", ""))
    await reading
    assert [event.type for event in seen][2:] == ["start", "content", "content", "end"]
    assert "".join(event.data for event in seen if event.type == "content") == "read"
    for closed in (backend, remote, store):
        await closed.aclose()


FRAMES = [
    'data: {"type":"connected","taskId":"t","timestamp":1}',
    'id: 1-1\ndata: {"type":"content","data":"re","taskId":"t","timestamp":1}',
    ": a comment, which has a frame of its own behind an id",
    'id: 1-2\ndata: {"type":"unheard-of","data":{"a":[1]},"taskId":"t","timestamp":1}',
    "event: ping\ndata: of somebody else",
    'data: {"type":"ping"}',
    "retry: 5",
    'id: 1-3\ndata: {"type":"content","data":"ad","taskId":"t","timestamp":1}',
    'id: 1-4\ndata: {"type":"end","data":"read","taskId":"t","timestamp":1}',
]


async def test_frames_that_are_not_for_us_do_not_break_a_stream() -> None:
    opened = 0

    async def stream(_: Request) -> StreamingResponse:
        nonlocal opened
        opened += 1
        return StreamingResponse(
            (f"{frame}\n\n" for frame in FRAMES), media_type="text/event-stream"
        )

    with serve(Starlette(routes=[Route("/api/tasks/stream", stream)])) as url:
        backend = HttpBackend(url)
        events = [event async for event in follow(backend.source, "task_12345678")]
        await backend.aclose()
    assert [event.data for event in events] == ["re", "ad", "read"]
    assert opened == 1


@pytest.mark.parametrize(
    "cursor", first_of(["18446744073709551615-18446744073709551615", "9-0"], rest_in_gate=True)
)
async def test_a_reader_that_is_ahead_of_the_log_is_sent_away_once_the_task_has_ended(
    settings: lt.Settings, kit: lt.Kit, cursor: str
) -> None:
    task = kit.submit("x", model="demo@10", max_tokens=30)
    assert read_frames(settings, task.id, cursor)[1:] == []
    assert task.status == "completed"
    url = f"{settings.base_url}/api/tasks/stream"
    query = {"taskId": task.id, "lastEventId": cursor}
    async with httpx.AsyncClient() as client:
        assert (await client.get(url, params=query)).status_code == 204
    assert await collect(settings, task.id, after=Cursor.parse(cursor)) == []


def test_a_cursor_that_can_not_be_is_a_400(settings: lt.Settings, kit: lt.Kit) -> None:
    task = kit.submit("x", model="demo-fast")
    query = {"taskId": task.id, "lastEventId": "99999999999999999999999-1"}
    response = httpx.get(f"{settings.base_url}/api/tasks/stream", params=query)
    assert response.status_code == 400


async def test_a_reader_that_returns_after_the_end_is_sent_away(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    task = kit.submit("Explain tides", model="demo-fast", max_tokens=10)
    await task
    last = task.snapshot().cursor
    # An EventSource comes back after every end; only 204 tells it not to.
    async with httpx.AsyncClient(timeout=10) as client:
        answer = await client.get(
            f"{settings.base_url}/api/tasks/stream",
            params={"taskId": task.id},
            headers={"Last-Event-ID": str(last)},
        )
    assert (answer.status_code, answer.content) == (204, b"")
    assert await collect(settings, task.id, after=last) == []
    backend = HttpBackend(settings.base_url or "")
    assert [event async for event in follow(backend.source, task.id, after=last)] == []
    await backend.aclose()


def test_who_asks_for_what_follows_an_ended_task_costs_no_reading_of_its_log(
    settings: lt.Settings, kit: lt.Kit, redis: Redis
) -> None:
    task = kit.submit("Explain tides", model="demo-fast", max_tokens=10)
    task.result(30)
    last = task.snapshot().cursor

    def count_readings() -> int:
        stats = str(redis.execute(["INFO", "commandstats"]))
        return int(stats.partition("cmdstat_xrange:calls=")[2].partition(",")[0])

    def ask(after: Cursor) -> httpx.Response:
        query = {"taskId": task.id, "lastEventId": str(after)}
        return httpx.get(f"{settings.base_url}/api/tasks/stream", params=query)

    def is_free() -> bool:
        before = count_readings()
        for beyond in (last, Cursor(last.attempt, last.seq + 1), Cursor(last.attempt + 1, 0)):
            assert ask(beyond).status_code == 204
        return count_readings() == before

    wait_until(is_free)  # once, at least, nobody else has read meanwhile
    assert '"end"' in ask(Cursor(last.attempt, last.seq - 1)).text
    redis.delete(log_key(task.id))
    assert ask(last).status_code == 404


async def test_all_followers_of_a_process_share_one_subscription(
    settings: lt.Settings, kit: lt.Kit, redis: Redis
) -> None:
    task = kit.submit("Explain tides", model="demo@50", max_tokens=60)
    channel = f"longtask:{task.id}"
    store = Store.open(settings)
    source = RedisSource(store, settings)

    async def read_text(limit: int | None = None) -> str:
        transcript = Transcript()
        async with contextlib.aclosing(follow(source, task.id)) as events:  # type: ignore[type-var]
            async for event in events:
                transcript.apply(event)
                if limit is not None and transcript.tokens >= limit:
                    break  # one that leaves early ends nobody else's
        return transcript.text

    def count_subscriptions() -> int:
        _, count = cast("list[Any]", redis.execute(["PUBSUB", "NUMSUB", channel]))
        return int(count)

    early = [asyncio.create_task(read_text(limit=5)) for _ in range(5)]
    whole = [asyncio.create_task(read_text()) for _ in range(20)]
    await asyncio.gather(*early)
    assert count_subscriptions() == 1
    late = await read_text()
    assert {late, *await asyncio.gather(*whole)} == {await task}
    await asyncio.to_thread(wait_until, lambda: count_subscriptions() == 0)
    await source.aclose()
    await store.aclose()


async def test_followers_of_a_task_read_its_log_together_when_an_attempt_begins(
    settings: lt.Settings, redis: Redis
) -> None:
    store, task_id = Store.open(settings), new_task_id()
    source = RedisSource(store, settings)
    await store.create(task_id, TaskSpec(prompt="Explain tides").to_wire())
    joined: set[int] = set()

    async def read_start(number: int) -> TaskEvent:
        async with contextlib.aclosing(follow(source, task_id)) as events:  # type: ignore[type-var]
            async for event in events:
                joined.add(number)
                if event.type == "start":
                    return event
        raise AssertionError("no attempt began")

    following = [asyncio.create_task(read_start(number)) for number in range(40)]
    await asyncio.to_thread(wait_until, lambda: len(joined) == 40)
    before = await asyncio.to_thread(count_readings, redis)
    await store.begin(task_id, delivery_id="m")
    assert len(set(await asyncio.gather(*following))) == 1
    readings = await asyncio.to_thread(count_readings, redis) - before
    assert readings < 10  # 40, were it each for himself
    await source.aclose()
    await store.aclose()


async def test_a_thousand_readers_at_once_all_get_their_answer(settings: lt.Settings) -> None:
    store = Store.open(settings)
    try:
        reads = (store.read_log(new_task_id(), after=START) for _ in range(1000))
        assert await asyncio.gather(*reads) == [[]] * 1000  # none waited past its time limit
    finally:
        await store.aclose()
