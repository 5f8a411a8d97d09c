"""A kit that is interrupted, or closed, while others still ask it something."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import longtask_kit as lt
from longtask_kit.client.backend import ServiceBackend
from longtask_kit.client.door import Door
from longtask_kit.client.kit import Kit
from longtask_kit.server.handlers import TaskContext
from tests.chaos._wire import Link, wire_to
from tests.proxy import proxy_to
from tests.wait import wait_until


@contextlib.contextmanager
def mute_queue(when_asked: Callable[[], None]) -> Iterator[str]:
    """Yield the URL of a queue that hears a request and answers nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def hear() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                held.append(client)
                client.recv(65_536)
                when_asked()

    threading.Thread(target=hear, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for one in (listener, *held):
            one.close()


def fail_a_task(kit: lt.Kit) -> lt.Task:
    task = kit.submit("x", model="demo-bad-key")
    with pytest.raises(lt.TaskFailedError):
        task.result(30)
    return task


def find_task(kit: lt.Kit, prompt: str) -> lt.Task | None:
    return next((task for task in kit.tasks() if task.spec.prompt == prompt), None)


def has_status(kit: lt.Kit, prompt: str, status: str) -> bool:
    task = find_task(kit, prompt)
    return task is not None and task.status == status


@pytest.fixture
def restarting() -> Iterator[None]:
    """Have SIGINT restart what waits, as it does once polars is imported."""
    signal.siginterrupt(signal.SIGINT, False)
    yield
    signal.siginterrupt(signal.SIGINT, True)


def interrupt() -> None:
    # At this thread: a signal for the process may go to another one, and then this one sleeps on.
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


@pytest.mark.usefixtures("restarting")
@pytest.mark.parametrize(
    ("prompt", "call"),
    [
        ("interrupted", lambda kit, prompt: kit.submit(prompt)),
        ("interrupted reuse", lambda kit, prompt: kit.submit(prompt, reuse=True)),
        ("interrupted row", lambda kit, prompt: kit.map([prompt])),
    ],
)
def test_an_interrupted_submit_leaves_no_task_that_waits(
    settings: lt.Settings, kit: lt.Kit, prompt: str, call: Callable[[lt.Kit, str], object]
) -> None:
    with mute_queue(interrupt) as url:
        mute = settings.model_copy(update={"qstash_url": url})
        with lt.connect(settings=mute, quiet=True) as interrupted:
            with pytest.raises(KeyboardInterrupt):
                call(interrupted, prompt)
            wait_until(lambda: has_status(kit, prompt, "cancelled"))
            assert len(interrupted.tasks(limit=1)) == 1, "the kit goes on"


@pytest.mark.usefixtures("restarting")
def test_an_interrupted_retry_leaves_a_task_that_can_be_retried(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    task = fail_a_task(kit)
    with mute_queue(interrupt) as url:
        mute = settings.model_copy(update={"qstash_url": url})
        with lt.connect(settings=mute, quiet=True) as interrupted:
            with pytest.raises(KeyboardInterrupt):
                interrupted.attach(task.id).retry()
            wait_until(lambda: kit.attach(task.id).error == "Its retry was interrupted.")
    task.retry()
    with pytest.raises(lt.TaskFailedError, match="API key"):
        task.result(30)


@pytest.mark.usefixtures("restarting")
@pytest.mark.parametrize(
    "wait",
    [
        lambda kit: kit.submit("Explain tides", model="demo@1").result(),
        lambda kit: list(kit.submit("Explain tides", model="demo@1")),
        lambda kit: kit.map(["Explain tides"], model="demo@1").results(),
    ],
    ids=["result", "iteration", "results"],
)
def test_who_waits_for_a_text_is_interrupted_at_once(
    kit: lt.Kit, wait: Callable[[lt.Kit], object]
) -> None:
    soon = threading.Timer(1.5, interrupt)
    soon.start()
    with pytest.raises(KeyboardInterrupt):
        wait(kit)
    soon.join()
    kit.tasks(limit=1)[0].cancel()


def test_a_retry_of_rows_that_the_queue_refuses_says_so_and_they_can_be_retried(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    group = kit.map(["a", "b"], model="demo-bad-key", reuse=False)
    assert all(isinstance(e, lt.TaskFailedError) for e in group.results(30, errors="return"))
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    refusing = settings.model_copy(update={"qstash_url": url})
    with lt.connect(settings=refusing, quiet=True) as refused:
        with pytest.raises(lt.SubmitError, match="not queued"):
            refused.attach_group(group.id).retry_failed()
        errors = refused.attach_group(group.id).results(30, errors="return")
        assert all(isinstance(error, lt.TaskFailedError) for error in errors)
    assert kit.attach_group(group.id).retry_failed() == 2


def test_a_submit_or_retry_whose_kit_is_closed_leaves_no_task_that_waits(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    failed = fail_a_task(kit)
    for name, call in {
        "closed meanwhile": lambda closing: closing.submit("closed meanwhile"),
        "retried": lambda closing: closing.attach(failed.id).retry(),
    }.items():
        asked = threading.Event()
        with mute_queue(asked.set) as url, ThreadPoolExecutor() as pool:
            mute = settings.model_copy(update={"qstash_url": url})
            closing = lt.connect(settings=mute, quiet=True)
            calling = pool.submit(call, closing)
            assert asked.wait(20)
            closing.close()
            with pytest.raises(lt.ConfigError, match="closed before the answer came"):
                calling.result(20)
        if name == "retried":
            assert failed.status == "failed"
        else:
            assert has_status(kit, name, "cancelled")


def test_whoever_asks_a_kit_that_is_being_closed_gets_an_error_of_ours(
    settings: lt.Settings,
) -> None:
    with lt.connect(settings=settings, quiet=True) as first:
        task_id = first.submit("Explain tides", model="demo-fast").id
        slow = first.map(["never over"], model="demo@1", reuse=False)

    async def await_all(group: lt.TaskGroup) -> None:
        await group

    async def see_all(group: lt.TaskGroup) -> None:
        async for _ in group.as_completed():
            pass

    calls: list[Callable[[lt.Kit], object]] = [
        lambda kit: kit.submit("Explain tides", model="demo-fast").result(60),
        lambda kit: kit.attach(task_id).text,
        lambda kit: kit.tasks(limit=5),
        lambda kit: kit.submit("Explain tides", model="demo-fast").cancel(),
        lambda kit: kit.serve().stop(),
        lambda kit: [*kit.attach(task_id).events()],
        lambda kit: kit.attach_group(slow.id).results(),
        lambda kit: asyncio.run(await_all(kit.attach_group(slow.id))),
        lambda kit: asyncio.run(see_all(kit.attach_group(slow.id))),
    ]

    made: list[str] = []

    def call_for_ever(kit: lt.Kit, call: Callable[[lt.Kit], object]) -> BaseException:
        while True:
            try:
                call(kit)
            except BaseException as exc:  # noqa: BLE001 - looked at by the test
                return exc
            made.append("a call")

    before = threading.active_count()
    for count in range(0, 40, 10):  # closed at another moment each time
        made.clear()
        kit = lt.connect(settings=settings, quiet=True)
        with ThreadPoolExecutor(len(calls) + 2) as pool:
            errors = [pool.submit(call_for_ever, kit, call) for call in calls]
            wait_until(lambda: len(made) >= count)  # noqa: B023
            for closing in [pool.submit(kit.close) for _ in range(2)]:
                closing.result(30)
            for error in errors:
                got = error.result(30)
                assert isinstance(got, lt.ConfigError), repr(got)
                assert "closed" in str(got)
    wait_until(lambda: threading.active_count() <= before)
    with lt.connect(settings=settings, quiet=True) as last:
        last.attach_group(slow.id).cancel()


def test_a_group_whose_kit_is_closed_says_so_to_whoever_asks_once_more(
    settings: lt.Settings,
) -> None:
    kit = lt.connect(settings=settings, quiet=True)
    group = kit.map(["never over"], model="demo@1", reuse=False)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(group.results)
        wait_until(lambda: group._watch.states)
        kit.close()
        with pytest.raises(lt.ConfigError, match="closed"):
            waiting.result(20)
        for _ in range(2):
            with pytest.raises(lt.ConfigError, match="closed"):
                pool.submit(group.results).result(20)
    with lt.connect(settings=settings, quiet=True) as other:
        other.attach_group(group.id).cancel()


def test_a_follower_that_begins_as_the_kit_is_closed_does_not_wait_for_ever(
    settings: lt.Settings,
) -> None:
    for _ in range(20):
        kit = lt.connect(settings=settings, quiet=True)
        task = kit.attach(kit.submit("x", model="demo-fast").id)
        kit._door._loop.call_soon_threadsafe(kit._door._loop.stop)  # as close() does
        with contextlib.suppress(lt.ConfigError):
            task.events()
        kit.close()
        assert task._feed.wait_until(lambda: task._feed.is_over, timeout_s=20)  # noqa: B023


def test_a_handler_may_close_the_kit_that_serves_it(settings: lt.Settings) -> None:
    kit = lt.connect(settings=settings, quiet=True)
    outcomes: list[str] = []

    async def close(context: TaskContext) -> AsyncIterator[str]:
        kit.close()
        outcomes.append("closed")
        yield context.spec.prompt

    kit.serve(handlers={"close": close})
    task_id = kit.submit("x", handler="close").id
    wait_until(lambda: outcomes)
    with lt.connect(settings=settings, quiet=True) as other:
        other.attach(task_id).cancel()


def test_a_question_asked_on_the_kits_own_loop_is_refused_instead_of_waiting_for_itself(
    kit: lt.Kit,
) -> None:
    async def ask() -> None:
        kit.tasks()

    with pytest.raises(lt.ConfigError, match="own event loop"):
        kit._door.start(ask()).result(20)


@pytest.mark.parametrize("reuse", [False, True])
def test_rows_that_are_mapped_again_as_the_answer_was_lost_are_one_group_that_runs_once(
    settings: lt.Settings, kit: lt.Kit, *, reuse: bool
) -> None:
    prompts = [f"row {i}, {reuse=}" for i in range(3)]
    called: list[str] = []

    async def count(context: TaskContext) -> AsyncIterator[str]:
        called.append(context.spec.prompt)
        yield "once"

    kit.serve(handlers={"count": count})
    assert kit.settings is not None
    others = {group.id for group in kit.groups(limit=100)}
    with proxy_to(settings.qstash_url) as proxy:
        through = kit.settings.model_copy(update={"qstash_url": proxy.url})
        revived: list[int] = []

        def revive() -> lt.Settings:
            revived.append(proxy.swallow_answers)
            proxy.swallow_answers = 0
            return through

        door = Door(lambda: ServiceBackend(through), settings=through, revive=revive)
        with contextlib.closing(Kit(door, "through a proxy")) as asking:
            proxy.swallow_answers = 1000
            group = asking.map(prompts, handler="count", reuse=reuse)
            assert group.results(30) == ["once"] * 3
    assert revived
    assert {found.id for found in kit.groups(limit=100)} - others == {group.id}
    assert sorted(called) == prompts


def test_a_submit_that_was_given_up_and_is_asked_again_is_one_task_that_runs_once(
    settings: lt.Settings, kit: lt.Kit
) -> None:
    attempts: list[int] = []

    async def count(context: TaskContext) -> AsyncIterator[str]:
        attempts.append(context.attempt)
        yield "once"

    kit.serve(handlers={"count": count})
    assert kit.settings is not None
    with proxy_to(settings.qstash_url) as proxy:
        through = kit.settings.model_copy(update={"qstash_url": proxy.url})

        def revive() -> lt.Settings:
            proxy.is_down = False
            return through

        door = Door(lambda: ServiceBackend(through), settings=through, revive=revive)
        with contextlib.closing(Kit(door, "through a proxy")) as asking:
            proxy.is_down = True
            task = asking.submit("given up", handler="count")
            assert task.result(30) == "once"
    found = [task for task in kit.tasks() if task.spec.prompt == "given up"]
    assert [one.id for one in found] == [task.id]
    assert len(attempts) == 1


def test_threads_that_meet_the_same_dead_stack_restart_it_once(settings: lt.Settings) -> None:
    with proxy_to(settings.upstash_redis_rest_url or "") as proxy:
        through = settings.model_copy(update={"upstash_redis_rest_url": proxy.url})
        revived: list[int] = []

        def revive() -> lt.Settings | None:
            was_down, proxy.is_down = proxy.is_down, False
            revived.append(was_down)
            return through if was_down else None

        door = Door(lambda: ServiceBackend(through), settings=through, revive=revive)
        with contextlib.closing(Kit(door, "through a proxy")) as kit, ThreadPoolExecutor() as pool:
            kit.tasks()
            proxy.is_down = True
            proxy.cut_all()
            asking = [pool.submit(kit.tasks) for _ in range(4)]
            assert all(isinstance(one.result(30), list) for one in asking)
    assert revived == [True]


def test_a_task_that_is_deleted_twice_as_the_answer_was_lost_is_deleted(
    settings: lt.Settings,
) -> None:
    with proxy_to(settings.upstash_redis_rest_url or "") as proxy:
        through = settings.model_copy(update={"upstash_redis_rest_url": proxy.url})
        door = Door(lambda: ServiceBackend(through), settings=through, revive=lambda: through)
        with contextlib.closing(Kit(door, "through a proxy")) as kit:
            task = kit.submit("x", model="demo-fast")
            task.result(30)
            proxy.swallow_answers = 1
            task.delete()
            with pytest.raises(lt.StreamExpiredError):
                kit.attach(task.id)
            with pytest.raises(lt.StreamExpiredError):
                task.delete()


@pytest.mark.parametrize("of", ["task", "group"])
def test_a_retry_that_is_asked_again_after_it_ran_is_not_a_second_one(
    settings: lt.Settings, kit: lt.Kit, of: str
) -> None:
    with (
        proxy_to(settings.upstash_redis_rest_url or "") as redis,
        wire_to(settings.qstash_url) as queue,
    ):
        urls = {"upstash_redis_rest_url": redis.url, "qstash_url": queue.url}
        through = settings.model_copy(update=urls)

        def die_before_the_answer(_: Link, __: bytes) -> None:
            redis.is_down = True
            redis.cut_all()

        def revive() -> lt.Settings:
            queue.on_answer = lambda _, data: data
            wait_until(lambda: find_end(kit, task_id) == ("failed", 2))
            redis.is_down = False
            return through

        door = Door(lambda: ServiceBackend(through), settings=through, revive=revive)
        with contextlib.closing(Kit(door, "through a proxy")) as asking:
            group = asking.map(["x"], model="demo-bad-key", reuse=False)
            assert isinstance(group.results(30, errors="return")[0], lt.TaskFailedError)
            [task_id] = [task.id for task in group.tasks if task]
            task = asking.attach(task_id)
            queue.on_answer = die_before_the_answer
            if of == "task":
                task.retry()
            else:
                group.retry_failed()
            with pytest.raises(lt.TaskFailedError):
                asking.attach(task_id).result(30)
            assert find_end(asking, task_id) == ("failed", 2)


def find_end(kit: lt.Kit, task_id: str) -> tuple[str, int]:
    task = kit.attach(task_id)
    return task.status, task.attempt


def test_a_retry_that_was_given_up_and_is_asked_again_runs(settings: lt.Settings) -> None:
    with proxy_to(settings.qstash_url) as proxy:
        through = settings.model_copy(update={"qstash_url": proxy.url})

        def revive() -> lt.Settings:
            proxy.is_down = False
            return through

        door = Door(lambda: ServiceBackend(through), settings=through, revive=revive)
        with contextlib.closing(Kit(door, "through a proxy")) as kit:
            task = fail_a_task(kit)
            proxy.is_down = True
            proxy.cut_all()
            task.retry()
            with pytest.raises(lt.TaskFailedError, match="API key"):
                task.result(30)
