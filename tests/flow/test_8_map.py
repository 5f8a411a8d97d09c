"""Stage 8: many rows, asked once; whatever happens in between, nothing is asked twice."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from pydantic import BaseModel, SecretStr
from qstash.log import LogState
from redis import Redis as StackRedis
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.client.backend import ServiceBackend
from longtask_kit.client.door import Door
from longtask_kit.client.rows import is_empty
from longtask_kit.local.qstash.plan import Plan
from longtask_kit.log.changes import Change
from longtask_kit.log.keys import GROUP_INDEX, REUSE_SECRET, group_key, log_key, new_task_id
from longtask_kit.log.many import ManyStore
from longtask_kit.log.redis import RedisClient
from longtask_kit.log.store import Store
from longtask_kit.submit.identity import name_content
from longtask_kit.submit.queue import Queue
from tests.chaos.own_valkey import run_valkey
from tests.contract.qstash.destination import CURRENT_KEY, NEXT_KEY, TOKEN, make_app
from tests.serving import free_port, serve
from tests.wait import wait_until

pytestmark = pytest.mark.anyio

calls: Counter[str] = Counter()
gate = asyncio.Event()


async def answer(context: lt.TaskContext) -> AsyncIterator[Any]:
    """Answer with the prompt in capitals, and count who asks; `boom` fails once."""
    prompt = context.spec.prompt
    calls[prompt] += 1
    if prompt.startswith("boom") and calls[prompt] == 1:
        raise lt.NonRetryableError("out of order", code="broken")
    while prompt.startswith("wait") and not gate.is_set():  # noqa: ASYNC110 - set by a thread
        await asyncio.sleep(0.01)
    yield prompt.upper()
    usage = lt.Usage(prompt_tokens=2, completion_tokens=3, total_tokens=5)
    yield lt.Outcome(usage=usage, finish_reason="stop")


@pytest.fixture(scope="module")
def kit(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    with lt.connect(settings=stack.settings, quiet=True) as kit:
        kit.serve({"answer": answer})
        yield kit


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    calls.clear()
    gate.clear()


def ask(kit: lt.Kit, rows: Any, *args: Any, **options: Any) -> lt.TaskGroup:  # noqa: ANN401
    return kit.map(rows, *args, handler="answer", **options)


def test_rows_are_answered_in_their_order_and_asked_once(kit: lt.Kit) -> None:
    rows = [f"order {i}" for i in range(120)]
    group = ask(kit, rows)
    assert group.results(60) == [row.upper() for row in rows]
    assert group.counts == {"done": 120}
    assert group.usage.total_tokens == 120 * 5
    again = ask(kit, [*rows[:50], "order new", *rows[50:]])  # inserted: nothing drifts
    assert again.results(60)[50] == "ORDER NEW"
    assert set(calls.values()) == {1}
    assert kit.attach_group(again.id).results(10) == again.results()


def test_equal_rows_are_one_task_and_samples_are_not(kit: lt.Kit) -> None:
    group = ask(kit, ["equal", "equal", "other"])
    assert group.results(30) == ["EQUAL", "EQUAL", "OTHER"]
    assert (calls["equal"], len(set(group.tasks))) == (1, 2)
    three = ask(kit, ["equal"], n=3)
    assert three.results(30) == ["EQUAL"] * 3
    assert calls["equal"] == 3, "the first sample is what was asked before"
    assert ask(kit, ["equal"], n=3).results(30) == ["EQUAL"] * 3
    assert calls["equal"] == 3


@pytest.mark.parametrize("library", [pd, pl])
def test_a_frame_in_is_a_frame_of_its_kind_out(kit: lt.Kit, library: Any) -> None:  # noqa: ANN401
    texts = ["frame a", f"boom {library.__name__}", "frame c"]
    frame = library.DataFrame({"text": texts, "status": [1, 2, 3]})
    group = ask(kit, frame, "{text}")
    with pytest.raises(lt.TaskFailedError, match=r"Row 1 \(task_.*\): out of order\."):
        group.results(30)
    kept = group.results(errors="return")
    assert kept[0] == "FRAME A"
    assert isinstance(kept[1], lt.TaskFailedError)
    found = group.to_frame()
    assert type(found) is type(frame)
    assert [None if is_empty(a) else a for a in found["answer"]] == ["FRAME A", None, "FRAME C"]
    assert list(found["status"]) == [1, 2, 3], "a column of the row's own keeps its name"
    assert list(found["task_status"]) == ["completed", "failed", "completed"]
    assert group.errors == [None, "out of order", None]
    assert group.retry_failed() == 1
    assert group.results(30) == [text.upper() for text in texts]


def test_a_failed_row_is_run_again_by_the_next_map_and_a_cancelled_one_anew(kit: lt.Kit) -> None:
    group = ask(kit, ["boom again", "fine"])
    assert isinstance(group.results(30, errors="return")[0], lt.TaskFailedError)
    assert ask(kit, ["boom again", "fine"]).results(30) == ["BOOM AGAIN", "FINE"]
    assert calls == {"boom again": 2, "fine": 1}
    waiting = ask(kit, ["wait cancelled"])
    waiting.cancel()
    with pytest.raises(lt.TaskCancelledError):
        waiting.results(30)
    gate.set()
    anew = ask(kit, ["wait cancelled"])
    assert anew.results(30) == ["WAIT CANCELLED"]
    assert anew.tasks[0] is not waiting.tasks[0]


async def test_a_whole_group_is_cancelled_there_and_in_the_queue(
    kit: lt.Kit, settings: lt.Settings
) -> None:
    rows = [f"wait cancelled {i}" for i in range(230)]
    group = await asyncio.to_thread(ask, kit, rows, parallelism=2)
    await asyncio.to_thread(wait_until, lambda: group.counts.get("running") == 2)
    waiting = next(t for t in group.tasks if t and t.status == "pending")
    await asyncio.to_thread(group.cancel)
    store = Store.open(settings)
    record = await store.read_task(waiting.id)
    assert record is not None
    assert record.message_id is not None
    assert record.status == "cancelled", "what waits has ended when it returns"
    queue = Queue.open(settings)
    told = await queue._logs.list(filter={"message_id": record.message_id})
    assert LogState.CANCELED in {log.state for log in told.logs}
    gate.set()  # those that run find it at their next flush
    ends = await asyncio.to_thread(group.results, 30, errors="return")
    assert {type(end) for end in ends[2:]} == {lt.TaskCancelledError}
    assert calls.total() == 2, "no row takes the place of one that was cancelled"
    await queue.aclose()
    await store.aclose()


def test_what_still_runs_is_joined(kit: lt.Kit) -> None:
    first = ask(kit, ["wait joined"])
    second = ask(kit, ["wait joined", "more"])
    gate.set()
    assert second.results(30) == ["WAIT JOINED", "MORE"]
    assert first.results(30) == ["WAIT JOINED"]
    assert set(calls.values()) == {1}
    once = kit.submit("wait joined", handler="answer", reuse=True)
    assert once.result(30) == "WAIT JOINED"
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("written", ["pointer", "record", "message"])
def test_a_crash_between_two_writes_is_made_up_for(
    kit: lt.Kit, redis: Redis, settings: lt.Settings, written: str
) -> None:
    """As if whoever mapped had died behind this write."""
    prompt = f"wait crash {written}"
    spec = lt.TaskSpec(prompt=prompt, handler="answer")
    name = name_content(spec, secret=redis.get(REUSE_SECRET) or "", model=settings.model)

    async def begin() -> str:
        store = ManyStore.open(settings)
        _, _, now_ms = await store.groups.read_secret()
        [claim] = (await store.groups.claim({name: new_task_id()}, now_ms=now_ms)).values()
        if written != "pointer":
            wire = spec.to_wire()
            await store.create_many([(claim.task_id, wire, {})], ttl_s=600)
        await store.aclose()
        return claim.task_id

    task_id = asyncio.run(begin())
    if written == "message":
        assert kit.submit(prompt, handler="answer", reuse=True).id == task_id
    group = ask(kit, [prompt, "crash other"])
    gate.set()
    assert group.results(30) == [prompt.upper(), "CRASH OTHER"]
    assert group.tasks[0] == kit.attach(task_id) or group._record.rows[0] == task_id
    assert calls[prompt] == 1


def test_a_retry_cut_before_its_message_is_completed(kit: lt.Kit, settings: lt.Settings) -> None:
    """As if whoever retried had died: the first message's deduplication id is used up."""
    group = ask(kit, ["boom cut"])
    assert group.results(30, errors="return") != ["BOOM CUT"]
    [task] = group.tasks
    assert task is not None

    async def begin_retry() -> None:
        store = ManyStore.open(settings)
        await store.retry(task.id)
        await store.aclose()

    asyncio.run(begin_retry())
    again = ask(kit, ["boom cut"])
    assert again.results(30) == ["BOOM CUT"]
    assert again._record.rows == (task.id,)
    assert calls["boom cut"] == 2


def test_an_expired_answer_is_asked_again(kit: lt.Kit, redis: Redis) -> None:
    """Even where the queue would still take its id for one it has had."""
    with pytest.raises(lt.ConfigError, match="`ttl_s` is 59"):
        ask(kit, ["expired"], ttl_s=59)
    [task] = ask(kit, ["expired"], ttl_s=60).tasks
    assert task is not None
    task.result(30)
    for key in redis.keys(f"longtask:{{{task.id}}}*"):
        redis.delete(key)
    for key in redis.keys("longtask:reuse:*"):  # a minute later
        task_id, _, at_ms = (redis.get(key) or "").partition(" ")
        redis.set(key, f"{task_id} {int(at_ms) - 60_000}", ex=600)
    assert ask(kit, ["expired"], ttl_s=60).results(30) == ["EXPIRED"]
    assert calls["expired"] == 2


def test_a_deleted_answer_is_asked_again(kit: lt.Kit, redis: Redis) -> None:
    first = ask(kit, ["deleted"])
    first.results(30)
    kit.attach(first._record.rows[0] or "").delete()
    assert ask(kit, ["deleted"]).results(30) == ["DELETED"]
    assert calls["deleted"] == 2


def test_of_a_deleted_task_no_word_stays_in_redis(
    kit: lt.Kit, redis: Redis, settings: lt.Settings
) -> None:
    """Neither of prompt, answer or error, nor of what an app tells of its end a moment later."""
    (group := ask(kit, ["tells a SECRET", "boom SECRET"])).results(30, errors="return")
    wait_until(lambda: any("SECRET" in text for text in read_all(redis)))
    done, failed = (task for task in group.tasks if task)
    assert group._watch.states[done.id].answer == "TELLS A SECRET", (
        "while they are there, it is told"
    )
    for task in (done, failed):
        task.delete()
    late = Change(task_id=done.id, status="completed", attempt=1, answer="TELLS A SECRET")

    async def tell() -> list[Change]:
        store = ManyStore.open(settings)
        place = await store.changes.find_end()
        store.changes.tell(late)
        await store.changes.aclose()
        changes, _, _ = await store.changes.read(place)
        await store.aclose()
        return changes

    # The app's own news may come as late.
    assert {c.answer for c in asyncio.run(tell()) if c.task_id == done.id} == {None}
    assert [text for text in read_all(redis) if "SECRET" in text] == []


async def test_what_is_told_of_an_end_names_its_attempt(settings: lt.Settings) -> None:
    store, task_id = ManyStore.open(settings), new_task_id()
    place = await store.changes.find_end()
    await store.create(task_id, {"prompt": "x"})
    await store.settle(task_id, "cancelled", reason="")
    await store.changes.aclose()
    told = [(c.status, c.attempt) for c in (await store.changes.read(place))[0]]
    await store.aclose()
    assert told == [("pending", 0), ("cancelled", 1)]


def read_all(redis: Redis) -> Iterator[str]:
    """Yield all that Redis holds, key by key."""
    commands: dict[str | None, list[str]] = {
        "string": ["GET"],
        "hash": ["HGETALL"],
        "stream": ["XRANGE", "-", "+"],
        "zset": ["ZRANGE", "0", "-1"],
        "set": ["SMEMBERS"],
        "list": ["LRANGE", "0", "-1"],
    }
    kinds, values = redis.pipeline(), redis.pipeline()
    for key in (keys := redis.keys("*")):
        kinds.type(key)
    for key, kind in zip(keys, kinds.exec(), strict=True):
        name, *more = commands.get(str(kind), ["TYPE"])
        values.execute([name, key, *more])
    for key, value in zip(keys, values.exec(), strict=True):
        yield f"{key} {value}"


def test_a_named_group_is_the_same_group_with_other_rows(kit: lt.Kit) -> None:
    first = ask(kit, ["named a"], name="mine")
    second = ask(kit, ["named a", "named b"], name="mine")
    assert (second.id, len(second)) == (first.id, 2)
    assert second.results(30) == ["NAMED A", "NAMED B"]
    assert kit.groups(limit=1)[0].id == second.id
    assert ask(kit, ["named a"]).id != first.id
    assert set(calls.values()) == {1}


def test_groups_that_are_gone_hide_none_that_are_there(kit: lt.Kit, redis: Redis) -> None:
    old = ask(kit, ["old a"]), ask(kit, ["old b"])
    gone = [ask(kit, ["brief"]).id for _ in range(5)]
    for key in (group_key(i) for i in gone):
        redis.delete(key)
    assert [group.id for group in kit.groups(limit=2)] == [old[1].id, old[0].id]
    listed = redis.zrange(GROUP_INDEX, 0, -1)
    assert not set(gone) & set(listed), "they are looked for once"


def test_a_wrong_row_is_told_before_anything_is_queued(kit: lt.Kit, redis: Redis) -> None:
    before = redis.dbsize()
    with pytest.raises(lt.SubmitError, match="Row 2 is empty"):
        ask(kit, ["a", "b", None])
    frame = pd.DataFrame({"text": ["a", None, None], "words": [3, 4, 5]}, index=[7, 8, 9])
    told = r"Row 1 \(8\) has nothing in \{text\}: .* 2 rows are like that"
    with pytest.raises(lt.SubmitError, match=told):
        ask(kit, frame, "In {words} words: {text}")
    assert redis.dbsize() <= before  # what others have left may expire
    group = ask(kit, ["skip a", None], skip_empty=True)
    assert group.results(30) == ["SKIP A", None]
    assert group.counts == {"done": 1, "skipped": 1}


@pytest.mark.parametrize("name", ["lost", ""])
def test_nothing_can_be_kept_where_the_secret_is_lost(
    kit: lt.Kit, redis: Redis, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rows = [f"secret {name}"]
    ask(kit, rows, name=name).results(30)
    redis.delete(REUSE_SECRET)
    capsys.readouterr()
    ask(kit, rows, name=name).results(30)
    assert "nothing could be kept" in capsys.readouterr().out
    ask(kit, rows, name=name).results(30)
    assert "1 kept" in capsys.readouterr().out
    redis.delete(REUSE_SECRET, GROUP_INDEX)  # as if nobody had ever mapped here
    ask(kit, rows, name=name).results(30)
    assert "nothing could be kept" not in capsys.readouterr().out
    assert calls.total() == 3


def test_a_quota_hit_half_way_says_how_far_it_got_and_the_next_run_goes_on(
    stack: lt.LocalStack,
) -> None:
    plan = Plan(name="small", messages_per_day=110)
    rows = [f"quota {i}" for i in range(120)]
    with (
        tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp") as folder,
        run_valkey(Path(folder)) as valkey,
        serve(make_app(valkey.url, plan=plan)) as queue,
    ):
        own = {
            "qstash_url": queue,
            "qstash_token": SecretStr(TOKEN),
            "qstash_current_signing_key": SecretStr(CURRENT_KEY),
            "qstash_next_signing_key": SecretStr(NEXT_KEY),
        }
        with lt.connect(settings=stack.settings.model_copy(update=own), quiet=True) as kit:
            kit.serve({"answer": answer})
            told = "100 of 120 tasks are queued: .*daily.* Run the cell again: it goes on"
            with pytest.raises(lt.QuotaError, match=told):
                ask(kit, rows)
            with StackRedis.from_url(valkey.url) as redis:  # the next day
                redis.delete(*redis.keys("{qstash}:used:*"))
            assert ask(kit, rows).results(60) == [row.upper() for row in rows]
    assert set(calls.values()) == {1}


class Count(BaseModel):
    N: int


def test_answers_with_a_schema_are_instances_and_one_that_is_none_says_why(kit: lt.Kit) -> None:
    frame = pd.DataFrame({"text": ['{"n": 1}', "not json", '{"n": "x"}']})
    group = ask(kit, frame, "{text}", schema=Count)
    assert group.results(30) == [Count(N=1), None, None]
    answers = group.to_frame()["answer"]
    assert answers.iloc[0] == Count(N=1)
    why = [task.parse_error for task in group.tasks if task]
    assert why[0] is None
    assert all(why[1:])
    assert group.errors == [None] * 3, "the model has answered"
    assert kit.attach_group(group.id, schema=Count).results(10) == group.results()


async def test_tasks_come_as_they_end(kit: lt.Kit) -> None:
    group = await asyncio.to_thread(ask, kit, ["wait last", "first"])
    ended = []
    async for task in group.as_completed():
        ended.append(task.text)
        gate.set()
    assert ended == ["FIRST", "WAIT LAST"]
    assert await group == ["WAIT LAST", "FIRST"]


def test_over_http_reuse_needs_the_apps_key_and_meets_nobody_elses(kit: lt.Kit) -> None:
    settings = kit.settings
    assert settings is not None
    app = {"answer": answer}
    with (
        serve(lt.create_app(settings, handlers=app)) as url,
        lt.connect(url, quiet=True) as stranger,
    ):
        with pytest.raises(lt.SubmitError, match="needs an app with an API key"):
            ask(stranger, ["http a"])
        with pytest.raises(lt.SubmitError, match="needs an app with an API key"):
            stranger.submit("http a", handler="answer", reuse=True)
        mine = ask(kit, ["mine"], name="mine too")
        mine.results(30)
        theirs = ask(stranger, ["http a"], reuse=False, name="mine too")
        assert theirs.results(30) == ["HTTP A"]
        assert theirs.id != mine.id, "nobody without a key writes over a group of the services'"
    keyed = settings.model_copy(update={"api_key": SecretStr("the-key")})
    with (
        serve(lt.create_app(keyed, handlers=app)) as url,
        lt.connect(url, api_key="the-key", quiet=True) as friend,
    ):
        group = ask(friend, ["http a", "http b"], name="over http")
        assert group.results(30) == ["HTTP A", "HTTP B"]
        assert ask(friend, ["http a", "http b"], name="over http").results(30)[1] == "HTTP B"
        once = friend.submit("http b", handler="answer", reuse=True)
        assert once.result(30) == "HTTP B"
        assert once.id in group._record.rows
        assert calls == {"http a": 2, "http b": 1, "mine": 1}, "the stranger's task is not met"
        assert friend.attach_group(group.id).usage.total_tokens == 10
        assert friend.groups(limit=1)[0].id == group.id


def test_over_http_more_rows_are_asked_and_cancelled_than_a_request_holds(kit: lt.Kit) -> None:
    assert kit.settings is not None
    keyed = kit.settings.model_copy(update={"api_key": SecretStr("the-key")})
    rows = [f"wait {i} {'x' * 900}" for i in range(1050)]
    with (
        serve(lt.create_app(keyed, handlers={"answer": answer})) as url,
        lt.connect(url, api_key="the-key", quiet=True) as friend,
    ):
        group = ask(friend, rows, parallelism=2, name="many over http")
        assert len(set(group._record.rows)) == len(rows)
        assert friend.attach_group(group.id)._record.rows == group._record.rows
        group.cancel()
        gate.set()
        ends = group.results(60, errors="return")
        assert {type(end) for end in ends[2:]} == {lt.TaskCancelledError}
        assert calls.total() <= 2


@pytest.mark.parametrize("is_over_http", [False, True])
def test_another_version_of_a_handler_runs_rows_anew_and_the_former_one_is_kept(
    settings: lt.Settings, *, is_over_http: bool
) -> None:
    """Whoever maps: a kernel that knows Redis and the queue, or one that knows the app."""
    url, prompt, counts = f"http://127.0.0.1:{(port := free_port())}", f"version {is_over_http}", []
    own = settings.model_copy(update={"api_key": SecretStr("the-key"), "base_url": url})
    for version in ("1", "2", "1", ""):

        @lt.handler(version=version)
        async def versioned(context: lt.TaskContext) -> AsyncIterator[Any]:
            async for said in answer(context):
                yield said

        app = lt.create_app(own, handlers={"versioned": versioned})
        where: dict[str, Any] = (
            {"url": url, "api_key": "the-key"} if is_over_http else {"settings": own}
        )
        with serve(app, port=port), lt.connect(**where, quiet=True) as kit:
            assert kit.map([prompt], handler="versioned").results(30) == [prompt.upper()]
        counts.append(calls[prompt])
    assert counts == [1, 2, 2, 3]


def test_what_is_no_group_is_told(kit: lt.Kit) -> None:
    with pytest.raises(lt.StreamExpiredError, match="No group 'None'"):
        kit.attach_group(None)  # type: ignore[arg-type]
    with pytest.raises(lt.ConfigError, match="`limit` is 0"):
        kit.groups(limit=0)


@pytest.mark.parametrize("odd", ["\ud800", "../tasks", "group_12345678?x=1", "", "group_\n"])
def test_over_http_what_can_be_no_groups_id_is_told_as_that(kit: lt.Kit, odd: str) -> None:
    app = lt.create_app(kit.settings)
    with (
        serve(app) as url,
        lt.connect(url, quiet=True) as friend,
        pytest.raises(lt.StreamExpiredError, match="No group"),
    ):
        friend.attach_group(odd)


def test_rows_of_a_group_that_is_deleted_are_told(kit: lt.Kit) -> None:
    group = ask(kit, ["gone a", "gone b"])
    group.results(30)
    kit.attach(group.tasks[0].id if group.tasks[0] else "").delete()
    other = kit.attach_group(group.id)
    wait_until(lambda: other.counts["failed"] == 1)
    assert other.errors[0] is not None
    assert "not there any more" in other.errors[0]
    frame = other.to_frame()
    assert list(frame["row"][1:]) == ["gone b"], "and those of the others are"
    assert list(frame["status"]) == ["gone", "completed"]
    assert other.rows[0] is None
    with pytest.raises(lt.StreamExpiredError, match="No group"):
        kit.attach_group("group_12345678")


def test_of_rows_that_are_gone_nobody_says_that_a_retry_runs_them_again(kit: lt.Kit) -> None:
    group = ask(kit, ["went a", "went b"])
    group.results(30)
    for task in group.tasks:
        assert task is not None
        task.delete()
    other = kit.attach_group(group.id)
    wait_until(lambda: other.counts["failed"] == 2)
    with pytest.raises(lt.TaskFailedError, match=r"or it was deleted\.$"):
        other.results(30)
    assert other.retry_failed() == 0


def test_a_row_whose_answer_was_evicted_is_an_error_and_none_that_was_left_out(
    kit: lt.Kit, redis: Redis
) -> None:
    group = ask(kit, ["evicted a", "kept a"])
    group.results(30)
    lost, _ = group.tasks
    assert lost is not None
    redis.delete(log_key(lost.id))
    other = kit.attach_group(group.id)
    with pytest.raises(lt.TaskFailedError, match=r"Row 0 .* its answer is not there any more"):
        other.results(30)
    error, kept = other.results(30, errors="return")
    assert isinstance(error, lt.TaskFailedError)
    assert kept == "KEPT A"
    frame = other.to_frame()
    assert "its answer is not there any more" in frame["error"][0]
    assert frame["error"].isna().tolist() == [False, True]
    lost.delete()
    assert ask(kit, ["evicted a", "kept a"]).results(30) == ["EVICTED A", "KEPT A"]


class Counting(RedisClient):
    """Notes each command that it sends."""

    def __init__(self, settings: lt.Settings) -> None:
        super().__init__(settings)
        self.sent: list[Any] = []

    async def run(self, commands: Sequence[list[Any]], *, is_urgent: bool = False) -> list[Any]:
        self.sent += commands
        return await super().run(commands, is_urgent=is_urgent)


async def test_a_look_at_many_rows_is_one_command(kit: lt.Kit, settings: lt.Settings) -> None:
    group = await asyncio.to_thread(ask, kit, [f"look {i}" for i in range(120)])
    await asyncio.to_thread(group.results, 60)
    redis = Counting(settings)
    store = ManyStore(redis, ttl_s=60, lease_s=15.0)
    ids = [task_id for task_id in group._record.rows if task_id]
    await store.read_tasks(ids[:1])  # it may have to load its script
    redis.sent.clear()
    records = await store.read_tasks([*ids, new_task_id()])
    assert [record.task_id for record in records] == ids
    assert len(redis.sent) == 1
    await redis.aclose()


def test_whoever_follows_a_group_sends_two_commands_a_second(
    kit: lt.Kit, settings: lt.Settings
) -> None:
    group = ask(kit, [f"wait {i}" for i in range(3)])
    redis = Counting(settings)
    store = ManyStore(redis, ttl_s=60, lease_s=15.0)
    door = Door(lambda: ServiceBackend(settings, store), settings=settings)
    watch = lt.TaskGroup(door, group._record)._watch
    began = time.monotonic()
    with watch.reading():
        wait_until(lambda: len(redis.sent) > 6)
        spent_s = time.monotonic() - began
        assert len(redis.sent) <= 5 + 2 * spent_s, "a first look, then what has changed"
    gate.set()
    group.results(30)
    door.close()


def test_nothing_is_read_while_nobody_looks(kit: lt.Kit) -> None:
    group = ask(kit, ["wait unseen", "seen"])
    watch = group._watch
    wait_until(lambda: group.counts["done"] == 1)
    assert watch.is_running, "one look may be followed by another"
    wait_until(lambda: not watch.is_running)
    read_at = watch._read_at
    gate.set()
    wait_until(lambda: kit.attach(group._record.rows[0] or "").status == "completed")
    assert watch._read_at == read_at
    wait_until(lambda: group.counts == {"done": 2})  # it goes on where it left off
