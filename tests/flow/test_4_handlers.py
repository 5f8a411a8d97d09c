"""Stage 4: what handlers get wrong, refuse or do to the process ends their attempt, and no more."""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from openai.types import CompletionUsage

import longtask_kit as lt
from longtask_kit.errors import StoreError
from longtask_kit.log.events import START, TaskEvent
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.record import Begun, TaskRecord
from longtask_kit.log.store import Store
from longtask_kit.log.text import make_printable
from longtask_kit.server.attempt import Answer, run_delivery
from longtask_kit.server.handlers import Delta, Handler, Outcome, TaskContext
from longtask_kit.server.writer import LogWriter
from tests.delivery import deliver
from tests.proxy import proxy_to
from tests.wait import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(settings: lt.Settings) -> AsyncIterator[Store]:
    opened = Store.open(settings)
    yield opened
    await opened.aclose()


async def create(store: Store) -> str:
    task_id = new_task_id()
    await store.create(task_id, {"prompt": "x", "handler": "mine"})
    return task_id


async def deliver_mine(
    store: Store, task_id: str, handler: Handler, *, grace_s: float = 5.0
) -> tuple[Answer, TaskRecord]:
    """Run a delivery; return the answer to the queue, and what is on record then."""
    answer = await deliver(store, task_id, {"mine": handler}, grace_s=grace_s)
    record = await store.read_task(task_id)
    assert record is not None
    return answer, record


def make_handler(act: Callable[[], object]) -> Handler:
    """Return one that yields text, and then what `act` returns, or raises what it raises."""

    async def handle(_: TaskContext) -> AsyncIterator[Any]:
        yield "text"
        yield act()

    return handle


def throw(exc: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise exc

    return act


class _UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class _OwnExit(BaseException):
    pass


async def test_the_usage_object_of_a_models_sdk_is_the_tasks_usage(store: Store) -> None:
    counted = CompletionUsage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    handler = make_handler(lambda: Outcome(usage=counted))
    answer, record = await deliver_mine(store, await create(store), handler)
    assert (answer.status_code, record.status) == (200, "completed")
    assert record.usage == lt.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)


@pytest.mark.parametrize(
    ("act", "status_code", "said", "code"),
    [
        (lambda: Outcome(usage=3), 489, "expected a Usage", "handler_type"),
        (lambda: Outcome(finish_reason=0), 489, "expected text", "handler_type"),  # type: ignore[arg-type]
        (lambda: lt.DataEvent("a", {1j}), 489, "value is no JSON", "handler_type"),
        (lambda: lt.Progress("3"), 489, "Progress's done is '3'", "handler_type"),  # type: ignore[arg-type]
        (lambda: Delta("thoughts", "x"), 489, "Delta's type", "handler_type"),  # type: ignore[arg-type]
        (lambda: b"bytes", 489, "yielded bytes: expected text", "handler_type"),
        (throw(lt.RetryableError("busy", code=429)), 500, "busy", "429"),  # type: ignore[arg-type]
        (throw(lt.RetryableError("busy", code=None)), 500, "busy", "error"),  # type: ignore[arg-type]
        (throw(lt.RetryableError("busy", retry_after_s="5")), 500, "busy", "error"),  # type: ignore[arg-type]
        (throw(lt.RetryableError("caf\udce9")), 500, "caf\ufffd", "error"),
        (throw(lt.RetryableError("x" * 20_000_000)), 500, "xxx", "error"),
        (throw(lt.NonRetryableError("bad", code=400)), 489, "bad", "400"),  # type: ignore[arg-type]
        (throw(_UnreadableError()), 500, "_UnreadableError", "handler_error"),
        (throw(SystemExit("no key set")), 500, "SystemExit: no key set", "handler_error"),
        (lambda: sys.exit(), 500, "SystemExit", "handler_error"),
        (throw(KeyboardInterrupt()), 500, "KeyboardInterrupt", "handler_error"),
        (throw(GeneratorExit()), 500, "GeneratorExit", "handler_error"),
        (throw(_OwnExit()), 500, "_OwnExit", "handler_error"),
        (throw(asyncio.CancelledError()), 500, "CancelledError", "handler_error"),
        (throw(StoreError("its own")), 500, "its own", "handler_error"),  # no outage of ours
    ],
)
async def test_a_handlers_mistake_is_on_record_and_the_lease_is_free(
    store: Store, act: Callable[[], object], status_code: int, said: str, code: str
) -> None:
    task_id = await create(store)
    answer, record = await deliver_mine(store, task_id, make_handler(act))
    assert answer.status_code == status_code
    assert str(answer.body).encode()
    assert record.status == ("failed" if status_code == 489 else "retrying")
    assert said in (record.error or "")
    assert record.code == code
    assert isinstance(await store.begin(task_id, delivery_id="msg_2"), Begun)


async def test_a_handler_that_cancels_its_own_task_is_told_so(store: Store) -> None:
    async def cancels(_: TaskContext) -> AsyncIterator[str]:
        yield "text"
        if (task := asyncio.current_task()) is not None:
            task.cancel()

    _, record = await deliver_mine(store, await create(store), cancels)
    assert (record.status, record.error) == ("retrying", "The handler raised CancelledError")


class Stubborn:
    """A handler that swallows its cancel, as old code with a bare `except` does."""

    def __init__(self) -> None:
        self.is_free = False
        self.swallowed = 0
        self.task: asyncio.Task[Any] | None = None

    async def __call__(self, _: TaskContext) -> AsyncIterator[str]:
        """Yield a word, then wait until it is free, whatever happens."""
        self.task = asyncio.current_task()
        yield "a"
        while not self.is_free:
            try:
                await asyncio.sleep(3600)
            except BaseException:  # noqa: BLE001 - that is what it is about
                self.swallowed += 1
        yield "too late"

    async def end(self) -> None:
        """Let it end, should it have begun."""
        self.is_free = True
        if self.task is not None:
            assert self.task.cancel(), "it was left, not ended"
            await asyncio.wait({self.task})


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_a_handler_that_swallows_its_cancel_is_left_behind(store: Store, how: str) -> None:
    task_id, stubborn = await create(store), Stubborn()

    async def stop() -> None:
        while not await store.read_log(task_id, after=lt.Cursor(1, 2)):
            pass
        if how == "delete":
            await store.delete(task_id)
        else:
            await store.settle(task_id, "cancelled", reason="r", ask_to_stop=True)

    async with LogWriter(store, min_flush_interval_s=0, heartbeat_s=0.05) as log_writer:
        stopping = asyncio.create_task(stop())
        answer = await run_delivery(
            task_id,
            delivery_id="m",
            store=store,
            log_writer=log_writer,
            handlers={"mine": stubborn},
            grace_s=0.05,
        )
        await stopping
        assert answer.status_code == (489 if how == "delete" else 200)
        assert stubborn.swallowed == 1
        written = await store.read_log(task_id, after=START)
        await stubborn.end()
    assert await store.read_log(task_id, after=START) == written
    if how == "cancel":
        assert written[-1].type == "cancelled"


@pytest.mark.parametrize("item", ["", Outcome(finish_reason="stop")])
async def test_a_handler_that_never_waits_and_says_nothing_leaves_others_their_turn(
    store: Store, item: object
) -> None:
    task_id = await create(store)

    async def repeat(_: TaskContext) -> AsyncIterator[Any]:
        while time.monotonic() < give_up_at:
            yield item

    async def cancel(_: LogWriter) -> None:
        while not await store.read_log(task_id, after=lt.Cursor(1, 1)):
            pass
        await store.settle(task_id, "cancelled", reason="r", ask_to_stop=True)

    give_up_at = time.monotonic() + 30
    answer = await deliver(store, task_id, {"mine": repeat}, beside=cancel)
    assert answer.body["status"] == "cancelled"


async def write_words(_: TaskContext) -> AsyncIterator[str]:
    for number in itertools.count():
        yield f"{number} "
        await asyncio.sleep(0.001)


async def end_server(
    settings: lt.Settings, task_id: str, handler: Handler, how: str
) -> tuple[TaskRecord | None, list[TaskEvent], object]:
    """Deliver a task, and in the middle of its text end all there is, as `asyncio.run` does.

    So it comes to an app whose lifespan nobody runs, or whose server was told twice to go.
    """
    store = Store.open(settings)
    log_writer = LogWriter(store, min_flush_interval_s=0, heartbeat_s=0.05)
    await log_writer.__aenter__()  # and nobody leaves it
    scope = anyio.CancelScope()

    async def serve() -> None:
        with scope:
            await run_delivery(
                task_id,
                delivery_id="msg_1",
                store=store,
                log_writer=log_writer,
                handlers={"mine": handler},
                grace_s=0.05,
            )

    request = asyncio.create_task(serve())
    while not await store.read_log(task_id, after=lt.Cursor(1, 2)):
        pass
    if how == "cancelled before":  # as uvicorn does when its patience is at an end
        request.cancel()
        await asyncio.sleep(0)
    elif how == "cancelled again and again":  # as below a middleware of Starlette's
        scope.cancel()
        await asyncio.wait({request})
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    found = (
        await store.read_task(task_id),
        await store.read_log(task_id, after=START),
        await store.begin(task_id, delivery_id="msg_1"),
    )
    await store.aclose()
    return found


@pytest.mark.parametrize("how", ["all at once", "cancelled before", "cancelled again and again"])
@pytest.mark.parametrize("kind", ["polite", "stubborn"])
def test_a_server_that_ends_without_a_word_gives_its_attempt_back(
    settings: lt.Settings, kind: str, how: str
) -> None:
    stubborn = Stubborn()
    handler = stubborn if kind == "stubborn" else write_words

    async def run() -> tuple[TaskRecord | None, list[TaskEvent], object]:
        store = Store.open(settings)
        task_id = await create(store)
        await store.aclose()
        found = await end_server(settings, task_id, handler, how)
        await stubborn.end()
        return found

    record, events, begun = asyncio.run(run())
    assert record is not None
    assert (record.status, record.error) == ("retrying", "The server was shut down.")
    assert isinstance(begun, Begun), "the lease is free"
    words = "".join(event.data for event in events if event.type == "content").split()
    expected = ["a"] if kind == "stubborn" else [str(number) for number in range(len(words))]
    assert words == expected


async def test_what_an_attempt_had_come_to_stands_when_its_server_ends(
    settings: lt.Settings, store: Store
) -> None:
    task_id = await create(store)
    with proxy_to(settings.upstash_redis_rest_url or "") as proxy:
        through = Store.open(settings.model_copy(update={"upstash_redis_rest_url": proxy.url}))
        async with LogWriter(through, min_flush_interval_s=0, heartbeat_s=60) as log_writer:

            def lose_answers() -> Outcome:
                proxy.swallow_answers = 1000  # of every flush, so also of the end's
                return Outcome(finish_reason="stop")

            running = asyncio.create_task(
                run_delivery(
                    task_id,
                    delivery_id="msg_1",
                    store=through,
                    log_writer=log_writer,
                    handlers={"mine": make_handler(lose_answers)},
                )
            )
            while (record := await store.read_task(task_id)) and record.status != "completed":
                pass
            proxy.swallow_answers = 0
            running.cancel()
            await asyncio.wait({running})
        await through.aclose()
    record = await store.read_task(task_id)
    assert record is not None
    assert record.status == "completed"
    assert (await store.read_log(task_id, after=START))[-1].type == "end"


def test_a_served_app_goes_on_after_a_handler_that_exits_and_stops_in_spite_of_one(
    settings: lt.Settings,
) -> None:
    async def leaves(_: TaskContext) -> AsyncIterator[str]:
        yield "a"
        sys.exit("no key set")

    stubborn = Stubborn()
    with lt.connect(settings=settings, quiet=True) as kit:
        served = kit.serve(handlers={"leaves": leaves, "stubborn": stubborn})
        left = kit.submit("x", handler="leaves", retries=3)
        wait_until(lambda: left.error)
        assert left.error == "The handler raised SystemExit: no key set"
        assert kit.submit("rivers", model="demo-fast").result(30), "it goes on"
        stuck = kit.submit("x", handler="stubborn")
        wait_until(lambda: stubborn.task)
        served.stop()
        assert not served._thread.is_alive()
        assert stuck.status == "retrying"
        stubborn.is_free = True


async def mistyped(context: TaskContext) -> AsyncIterator[str]:
    yield "half"
    yield context.promt  # type: ignore[attr-defined]


def test_a_typo_in_a_handler_that_is_being_written_is_told_at_once(kit: lt.Kit) -> None:
    with lt.connect(settings=kit.settings, quiet=True) as own:
        own.serve({"mistyped": mistyped})
        with pytest.raises(lt.TaskFailedError, match="AttributeError") as caught:
            own.submit("x", handler="mistyped").result(10)
        assert (caught.value.attempt, caught.value.code) == (1, "handler_error")
        assert "in mistyped\n    yield context.promt" in str(caught.value)
        asked = own.submit("x", handler="mistyped", retries=1)
        wait_until(lambda: asked.status == "retrying")
        asked.cancel()


CLEARS = "\x1b[2J\x1b]0;title\x07\n\u202eword"  # a screen, a title and a direction


def test_no_terminal_obeys_what_a_model_or_handler_gives_as_its_reason(kit: lt.Kit) -> None:
    async def ends(_: TaskContext) -> AsyncIterator[Any]:
        yield "text"
        yield Outcome(finish_reason=CLEARS)

    async def fails(_: TaskContext) -> AsyncIterator[str]:
        yield "text"
        raise lt.NonRetryableError(CLEARS)

    with lt.connect(settings=kit.settings, quiet=True) as own:
        own.serve({"ends": ends, "fails": fails})
        ended = own.submit("x", handler="ends")
        with pytest.raises(lt.TaskIncompleteError) as cut:
            ended.raise_for_finish()
        failed = own.submit("x", handler="fails")
        with pytest.raises(lt.TaskFailedError) as caught:
            failed.result(10)
        with pytest.raises(lt.TaskFailedError) as of_row:
            own.map(["x"], "{}", handler="fails").results(10)
        assert (ended.finish_reason, failed.error) == (CLEARS, CLEARS), "what it said stays"
        listed = str(own.tasks())
    told = [repr(ended), listed, *(str(error.value) for error in (cut, caught, of_row))]
    for text in told:
        assert "word" in text
        assert make_printable(text) == text
    assert "\n" not in repr(ended)
