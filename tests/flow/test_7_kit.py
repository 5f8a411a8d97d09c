"""The door: a script, an asyncio program, a kernel; and the ways to find a task again."""

import asyncio
import copy
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from types import MappingProxyType

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Mount
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.keys import log_key
from longtask_kit.server.handlers import Outcome, TaskContext
from longtask_kit.settings import is_loopback, secret
from tests.serving import serve
from tests.wait import wait_until

HTTP = httpx.Client(timeout=30)


def test_a_script_iterates_a_task(kit: lt.Kit) -> None:
    task = kit.submit("Name three rivers", model="demo@400")
    assert "".join(task) == task.text == task.result()
    assert task.status == "completed"
    assert repr(task) == f"<Task {task.id} completed>"


@pytest.mark.anyio
async def test_an_asyncio_program_awaits_and_iterates(kit: lt.Kit) -> None:
    gates = {"one": threading.Event(), "two": threading.Event()}

    async def speak_twice(context: TaskContext) -> AsyncIterator[str]:
        yield "before "
        await asyncio.to_thread(gates[context.spec.prompt].wait)
        yield "after"

    kit.serve(handlers={"speak": speak_twice})
    one, two = (kit.submit(name, handler="speak") for name in gates)
    loop, deltas = asyncio.get_running_loop(), list[str]()
    async for delta in one:
        deltas.append(delta)
        # Neither task ends unless the program's own loop has its turns meanwhile.
        loop.call_soon(gates["one"].set)
    assert await one == "".join(deltas) == "before after"
    loop.call_soon(gates["two"].set)
    assert await two == "before after"
    assert list(await asyncio.gather(one._wait(), two._wait())) == [one.text, two.text]


def test_the_text_grows_while_the_cell_is_busy(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@100")
    task.events()
    lengths: set[int] = set()
    give_up_at = time.monotonic() + 20
    while len(lengths) < 10 and time.monotonic() < give_up_at:
        sum(range(20_000))  # this thread computes and waits for nothing
        lengths.add(len(task._feed.transcript.text))
    assert len(lengths) >= 10
    task.cancel()


def test_a_result_that_takes_too_long_leaves_the_task_running(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@60")
    with pytest.raises(lt.TaskTimeoutError, match="It goes on") as caught:
        task.result(timeout_s=0.5)
    assert isinstance(caught.value, TimeoutError)
    assert task.text.startswith(caught.value.partial_text)
    assert task.status == "running"
    assert task.cancel() == "cancelling"
    with pytest.raises(lt.TaskCancelledError) as cancelled:
        task.result(20)
    assert cancelled.value.partial_text == task.text
    assert task.cancel() == "cancelled"


def test_a_cancel_reaches_a_silent_model(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-slow-start")
    wait_until(lambda: task.status == "running")
    task.events()
    task.cancel()
    with pytest.raises(lt.TaskCancelledError):
        task.result(20)
    types = [event.type for event in task.events()]
    assert "content" not in types, "the model had three more seconds to think"
    assert types[-1] == "cancelled"


def test_another_kit_attaches_to_a_running_and_to_an_ended_task(
    kit: lt.Kit, settings: lt.Settings
) -> None:
    task = kit.submit("Explain tides", model="demo@100", max_tokens=60)
    with lt.connect(settings=settings, quiet=True) as other:
        attached = other.attach(task.id)
        assert attached.result(30) == task.result(30)
        ended = other.attach(task.id)
        assert ended.text == task.text, "`.text` of an ended task is whole at once"
        assert ended.usage == task.usage
        assert ended.status == "completed"


def test_an_unknown_id_is_refused_at_once(kit: lt.Kit) -> None:
    for unknown in ("task_" + "0" * 22, "nonsense", "", "task_/../../x"):
        with pytest.raises(lt.StreamExpiredError, match="submit it again"):
            kit.attach(unknown)


def test_a_task_of_another_kit_is_as_good_as_its_id(kit: lt.Kit, settings: lt.Settings) -> None:
    task = kit.submit("rivers", model="demo-fast")
    with lt.connect(settings=settings, quiet=True) as other:
        attached = other.attach(task)
        assert attached is not task
        assert attached.result(30) == task.result(30)


def test_what_is_of_the_wrong_kind_is_told_in_our_words(kit: lt.Kit) -> None:
    for wrong_id in (5, None, ["task_12345678"]):
        with pytest.raises(lt.ConfigError, match="task's id"):
            kit.attach(wrong_id)  # type: ignore[arg-type]
    for limit in (0, -1, 1001, "ten", None, 1.5):
        with pytest.raises(lt.ConfigError, match="from 1 to 1,000"):
            kit.tasks(limit=limit)  # type: ignore[arg-type]
    with pytest.raises(lt.ConfigError, match="completed, failed"):
        kit.tasks(status="done")  # type: ignore[arg-type]
    for metadata in ([1], [], "x", 5, {"a": {1}}, {"a": float("nan")}):
        with pytest.raises(lt.SubmitError, match="metadata"):
            kit.submit("x", metadata=metadata)  # type: ignore[arg-type]
    task = kit.submit("x", model="demo-fast", metadata=MappingProxyType({"a": 1}))
    assert task.spec.metadata == {"a": 1}


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_kit_or_task_that_is_sent_elsewhere_says_what_to_send(
    kit: lt.Kit, send: Callable[[object], object]
) -> None:
    for thing in (kit, kit.submit("x", model="demo-fast"), [kit]):
        if send is copy.copy and thing is not kit:
            continue  # a shallow copy shares the kit, which is fine
        with pytest.raises(TypeError, match=r"task\.id"):
            send(thing)


def test_tasks_lists_what_there_is(kit: lt.Kit) -> None:
    task = kit.submit("one more", model="demo-fast")
    task.result(30)
    assert kit.tasks(limit=1)[0].id == task.id
    assert kit.tasks(limit=1)[0].text == task.text
    cut = kit.submit("one more", model="demo-length", max_tokens=9)
    cut.result(30)
    for found in (kit.tasks(limit=1)[0], kit.attach(cut.id), cut):
        assert repr(found) == f"<Task {cut.id} completed, stopped at max_tokens (9)>"
    assert all(found.status == "completed" for found in kit.tasks(status="completed", limit=3))


def test_a_deleted_task_is_gone(kit: lt.Kit) -> None:
    task = kit.submit("forget me", model="demo-fast")
    task.result(30)
    task.delete()
    with pytest.raises(lt.StreamExpiredError):
        kit.attach(task.id)
    assert task.id not in [found.id for found in kit.tasks()]


def test_an_answer_whose_log_is_gone_is_an_error_and_no_empty_text(
    kit: lt.Kit, redis: Redis
) -> None:
    task_id = (task := kit.submit("evicted", model="demo-fast")).id
    text = task.result(30)
    redis.delete(log_key(task_id))
    looks: list[Callable[[lt.Task], object]] = [
        lambda found: found.text,
        lambda found: found.message,
        lambda found: found.attempts,
        lambda found: found.reply("and then?"),
        lambda found: found.xray().svg,
        lambda found: found.result(30),
    ]
    for look in looks:
        found = kit.attach(task_id)
        assert found.status == "completed"
        with pytest.raises(lt.StreamExpiredError):
            look(found)
    assert task.text == text, "who has read it keeps it"


def test_serve_hosts_handlers_of_ones_own_in_this_process(settings: lt.Settings) -> None:
    seen_in: list[str] = []

    async def shout(context: TaskContext) -> AsyncIterator[str | Outcome]:
        seen_in.append(threading.current_thread().name)
        for word in context.spec.prompt.split():
            yield word.upper()
        yield Outcome(usage=lt.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3))

    with lt.connect(settings=settings, quiet=True) as kit:
        kit.serve(handlers={"shout": shout})
        task = kit.submit("hello there", handler="shout")
        assert task.result(30) == "HELLOTHERE"
        assert task.usage == lt.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
        assert seen_in == ["longtask-serve"]
        assert kit.submit("rivers", model="demo-fast").result(30), "and still the model"


def test_after_stop_new_tasks_go_where_they_went_before(settings: lt.Settings) -> None:
    with lt.connect(settings=settings, quiet=True) as kit:
        first, second = kit.serve(), kit.serve()
        assert kit.settings is not None
        assert kit.settings.base_url == second.url
        first.stop()
        assert kit.submit("rivers", model="demo-fast").result(30), "the second one runs it"
        second.stop()
        assert kit.settings == settings
        assert kit.submit("rivers", model="demo-fast").result(30)
        kit.serve()
        assert kit.submit("rivers", model="demo-fast").result(30), "and it can serve again"


def test_serving_again_and_again_keeps_nothing(settings: lt.Settings) -> None:
    async def shout(context: TaskContext) -> AsyncIterator[str]:
        yield context.spec.prompt.upper()

    with lt.connect(settings=settings, quiet=True) as kit:

        def count_after(turns: int) -> tuple[int, int]:
            for _ in range(turns):
                served = kit.serve(handlers={"shout": shout})
                assert kit.submit("hi", handler="shout").result(30) == "HI"
                served.stop()
            kit.submit("x", model="demo-fast").result(30)
            return len(os.listdir("/proc/self/fd")), threading.active_count()

        files, threads = count_after(2)
        files_after, threads_after = count_after(6)
        assert files_after < files + 6
        assert threads_after <= threads
        assert len(kit._door._backends) == 1
        assert len(kit._door._served) == len(kit._door._apps) == 1, "the last one, stopped"


EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - which is what is tried


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", *EVERYWHERE])
def test_a_task_runs_in_an_app_that_listens_on(host: str, settings: lt.Settings) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")

    async def shout(context: TaskContext) -> AsyncIterator[str]:
        yield context.spec.prompt.upper()

    with lt.connect(settings=settings, quiet=True) as kit:
        served = kit.serve(handlers={"shout": shout}, host=host)
        assert is_loopback(served.url)
        assert kit.submit("hi", handler="shout").result(30) == "HI"
        answer = HTTP.get(f"{served.url}/api/tasks", headers={"Host": "lab.example"})
        assert answer.status_code == (200 if host in EVERYWHERE else 421)


def test_a_served_app_refuses_a_web_page_whose_name_was_made_to_lead_to_it(
    settings: lt.Settings,
) -> None:
    with lt.connect(settings=settings, quiet=True) as kit:
        served = kit.serve()
        for host in ("rebound.example", "127.0.0.1.rebound.example:80", "[::1", ""):
            answer = HTTP.get(f"{served.url}/api/tasks", headers={"Host": host})
            assert answer.status_code == 421
            assert "127.0.0.1" in answer.json()["error"]
        for host in ("localhost", "[::1]:8000"):
            answer = HTTP.get(f"{served.url}/api/tasks", headers={"Host": host})
            assert answer.status_code == 200


def test_a_served_app_takes_no_call_of_a_page_that_is_not_named(settings: lt.Settings) -> None:
    own = settings.model_copy(update={"cors_origins": "https://own.example"})
    with lt.connect(settings=own, quiet=True) as kit:
        tasks = f"{kit.serve().url}/api/tasks"
        for origin, status in (("https://own.example", 200), ("https://evil.example", 403)):
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            assert HTTP.get(tasks, headers=headers).status_code == status


def test_a_served_app_behind_a_tunnel_takes_the_tunnels_name(settings: lt.Settings) -> None:
    public = settings.model_copy(update={"base_url": "https://tunnel.example"})
    with lt.connect(settings=public, quiet=True) as kit:
        url = f"{kit.serve().url}/api/tasks"
        assert HTTP.get(url, headers={"Host": "tunnel.example"}).status_code == 200


def test_a_handler_that_raises_is_retried_and_its_error_shown(settings: lt.Settings) -> None:
    calls: list[int] = []

    async def flaky(context: TaskContext) -> AsyncIterator[str]:
        calls.append(context.attempt)
        yield f"attempt {context.attempt} "
        if context.attempt == 1:
            raise ValueError("the first time never works")
        if context.attempt == 2:
            raise lt.RetryableError("busy", code="busy", retry_after_s=0)
        yield "done"

    with lt.connect(settings=settings, quiet=True) as kit:
        kit.serve(handlers={"flaky": flaky})
        task = kit.submit("x", handler="flaky", retries=3)
        assert task.result(30) == "attempt 3 done"
        assert calls == [1, 2, 3]
        errors = [event.error for event in task.events() if event.data == "retrying"]
        assert errors == ["The handler raised ValueError: the first time never works", "busy"]


@pytest.mark.parametrize(
    "look",
    [
        lambda task: task.text,
        lambda task: "".join(task).removeprefix("attempt 1 "),
        lambda task: "attempt 2 done" if task.attempts[-1].number == 2 else "",
    ],
    ids=["text", "iteration", "attempts"],
)
def test_who_saw_a_task_fail_sees_what_a_retry_elsewhere_made_of_it(
    settings: lt.Settings, look: Callable[[lt.Task], str]
) -> None:
    async def flaky(context: TaskContext) -> AsyncIterator[str]:
        yield f"attempt {context.attempt} "
        if context.attempt == 1:
            raise lt.NonRetryableError("the first time never works")
        yield "done"

    with (
        lt.connect(settings=settings, quiet=True) as kit,
        lt.connect(settings=settings, quiet=True) as other,
    ):
        kit.serve(handlers={"flaky": flaky})
        task = kit.submit("x", handler="flaky")
        seen = other.attach(task.id)
        with pytest.raises(lt.TaskFailedError):
            seen.result(30)
        task.retry()
        assert task.result(30) == "attempt 2 done"
        assert look(seen) == "attempt 2 done"


def test_over_the_http_api_no_secret_is_needed_but_the_apps_key(stack: lt.LocalStack) -> None:
    app, key = (stack.environment[f"LONGTASK_{name}"] for name in ("BASE_URL", "API_KEY"))
    with lt.connect(app, api_key=key, quiet=True) as kit:
        task = kit.submit("Name three rivers", model="demo@400")
        text = "".join(task)
        assert kit.attach(task.id).text == text == task.result()
        assert kit.tasks(limit=5)[0].id == task.id
        slow = kit.submit("x", model="demo-slow-start")
        slow.cancel()
        with pytest.raises(lt.TaskCancelledError):
            slow.result(20)
        with pytest.raises(lt.StreamExpiredError):
            kit.attach("task_" + "0" * 22)
        with pytest.raises(lt.SubmitError, match="at most 200"):
            kit.submit("x", model="gpt" * 100)
        with pytest.raises(lt.ConfigError, match="connect"):
            kit.serve()


def test_a_misspelt_argument_is_told_with_the_call_and_what_was_meant() -> None:
    with lt.connect("http://127.0.0.1:9", quiet=True) as kit:
        chat = kit.chat()
        calls: dict[str, Callable[[], object]] = {
            "map": lambda: kit.map(["x"], temprature=1),
            "compare": lambda: kit.compare(["x"], ["a", "b"], temprature=1),
            "chat": lambda: kit.chat(temprature=1),
            "send": lambda: chat.send("x", temprature=1),
        }
        for name, call in calls.items():
            told = rf"^{name}\(\) got .*'temprature' \(did you mean 'temperature'\?\)\.$"
            with pytest.raises(lt.SubmitError, match=told):
                call()


SOMEBODYS_SITES = [
    HTMLResponse("<!doctype html>"),  # a single-page site answers every call with its page
    RedirectResponse("https://elsewhere.example/"),
    PlainTextResponse("nothing here", 404),
    JSONResponse({"detail": "Not Found"}, 404),
    JSONResponse({"detail": "Bad Request"}, 400),
    JSONResponse({"message": "Forbidden", "reason": None}, 403),  # JupyterLab's
    JSONResponse({"error": {"message": "no key"}}, 401),
    PlainTextResponse("Unsupported method", 501),
    JSONResponse(["a list"]),
]


@pytest.mark.parametrize("answer", SOMEBODYS_SITES)
def test_a_url_without_our_app_is_not_taken_for_a_lost_task(answer: Response) -> None:
    site = Starlette(routes=[Mount("/", answer)])
    with serve(site) as url, lt.connect(url, quiet=True) as kit:
        calls = (lambda: kit.submit("x"), kit.tasks, lambda: kit.attach("task_" + "0" * 22))
        for call in calls:
            with pytest.raises(lt.ConfigError, match="prefix"):
                call()


def test_a_wrong_prefix_is_not_taken_for_a_lost_task(settings: lt.Settings) -> None:
    lost = "task_" + "0" * 22
    base_url = settings.base_url
    with lt.connect(base_url, quiet=True) as kit, lt.connect(f"{base_url}/x", quiet=True) as astray:
        with pytest.raises(lt.ConfigError, match="prefix"):
            astray.attach(lost)
        with pytest.raises(lt.StreamExpiredError, match=f"No task '{lost}'") as caught:
            kit.attach(lost)
        assert caught.value.task_id == lost


def test_connect_says_one_line_without_a_secret(
    settings: lt.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with lt.connect(settings=settings) as kit:
        said = capsys.readouterr().out
        assert said.count("\n") == 1
        assert said.startswith("longtask_kit: QStash 127.0.0.1:")
        shown = said + repr(kit) + repr(settings) + str(settings)
    for name in ("qstash_token", "upstash_redis_rest_token", "openai_api_key"):
        assert secret(getattr(settings, name)) not in shown
    assert secret(settings.qstash_current_signing_key) not in shown


def test_half_an_environment_is_a_config_error_that_names_the_other_half(
    settings: lt.Settings,
) -> None:
    half = settings.model_copy(update={"upstash_redis_rest_token": None, "base_url": None})
    with pytest.raises(lt.ConfigError) as caught:
        lt.connect(settings=half)
    assert "UPSTASH_REDIS_REST_TOKEN" in str(caught.value)
    assert "LONGTASK_BASE_URL" in str(caught.value)
    assert "console.upstash.com" in str(caught.value)
    with pytest.raises(lt.ConfigError, match="https://"):
        lt.connect("app.example.com")
    with pytest.raises(lt.ConfigError, match="api_key"):
        lt.connect(api_key="x")
    for url, key, name in ((b"https://a.com", None, "url"), ("https://a.com", 7, "…, api_key=…")):
        with pytest.raises(lt.ConfigError, match=rf"connect\({name}\) takes text, got "):
            lt.connect(url, api_key=key)  # type: ignore[arg-type]


def test_blanks_around_a_copied_url_are_left_out(settings: lt.Settings) -> None:
    with lt.connect(f" {settings.base_url}/\n", quiet=True) as kit:
        assert kit.submit("x", model="demo-fast").result(30)


def test_a_forked_child_is_told_to_connect_again(kit: lt.Kit) -> None:
    task = kit.submit("rivers", model="demo-fast")
    followed = kit.submit("rivers", model="demo-slow-start")
    followed.events()
    calls: list[Callable[[], object]] = [
        lambda: kit.submit("x"),
        task.result,
        followed.result,
        kit.tasks,
        lambda: kit.attach(task.id),
    ]

    def use_kit(answers: Connection) -> None:
        for call in calls:
            try:
                answers.send(str(call()))
            except lt.ConfigError as error:
                answers.send(str(error))
        kit.close()
        answers.send("closed")

    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=use_kit, args=[there])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of a fork beside threads, rightly
        child.start()
    for _ in calls:
        assert here.poll(20), "the child hangs"
        assert "connect() again" in here.recv()
    assert here.poll(20), "the child hangs"
    assert here.recv() == "closed"
    child.join(20)
    assert child.exitcode == 0
    assert task.result(30), "the parent goes on"


def test_a_closed_kit_leaves_no_thread(settings: lt.Settings) -> None:
    before = threading.active_count()
    kit = lt.connect(settings=settings, quiet=True)
    kit.submit("x", model="demo-fast").events()
    kit.close()
    kit.close()
    with pytest.raises(lt.ConfigError, match="closed"):
        kit.submit("x")
    wait_until(lambda: threading.active_count() <= before)


def test_a_kit_that_is_closed_meanwhile_never_passes_half_a_text_for_a_whole_one(
    settings: lt.Settings,
) -> None:
    kit = lt.connect(settings=settings, quiet=True)
    task = kit.submit("Explain tides", model="demo@30")
    task.events()
    wait_until(lambda: task._feed.transcript.tokens > 3)
    threading.Timer(0.2, kit.close).start()
    with pytest.raises(lt.ConfigError, match=r"attach\(\)"):
        task.result(20)


def test_many_threads_that_follow_one_task_see_each_event_once(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@400")
    threads = [threading.Thread(target=task.events) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = task.result(30)
    cursors = [event.cursor for event in task.events()]
    assert cursors == sorted(set(cursors))
    assert text == kit.submit("Explain tides", model="demo-fast").result(30)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_a_proxy_variable_does_not_come_between_us_and_this_machine(
    settings: lt.Settings, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("no_proxy", "example.com")
    with lt.connect(settings=settings, quiet=True) as kit:
        kit.serve()  # the model's client is made in this process
        assert kit.submit("Explain tides", model="demo-fast").result(30)
        base_url = kit.settings.base_url if kit.settings else ""
        with lt.connect(base_url, quiet=True) as remote:
            assert remote.submit("Explain tides", model="demo-fast").result(30)
    assert os.environ["no_proxy"] == "example.com"


_FORGETFUL = """
import asyncio, atexit, gc, sys, threading

@atexit.register
def tell_what_still_runs():  # the last of all, since it is the first to register
    sys.stderr.write("".join(t.name for t in threading.enumerate() if "longtask" in t.name))

import longtask_kit as lt

def forget():
    with_task = lt.connect(quiet=True).submit("Name a river", model="demo-fast")
    print(with_task.result(30))

forget()
gc.collect()

async def main():
    print(await lt.connect(quiet=True).submit("Name a river", model="demo-fast"))

asyncio.run(main())
kit = lt.connect(quiet=True)
print(kit.submit("Name a river", model="demo-fast").result(30))
next(iter(kit.submit("Name a river", model="demo-long")))  # followed to the end of the process
"""


def test_a_kit_that_nobody_closes_ends_without_a_word(stack: lt.LocalStack) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", _FORGETFUL],
        env=os.environ | stack.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.count("(A scripted demo reply.)") == 3
    assert done.stderr == ""


def test_tab_offers_a_person_only_what_is_for_a_person(kit: lt.Kit, stack: lt.LocalStack) -> None:
    def offered(thing: object) -> str:
        return " ".join(name for name in dir(thing) if not name.startswith("_"))

    assert offered(kit) == (
        "attach attach_group chat close compare dashboard description export_archive groups "
        "import_archive map panel record save_cassette serve settings submit tasks"
    )
    assert offered(kit.submit("x", model="demo-fast")) == (
        "attempt attempts cancel created_at data delete elapsed_s error events finish_reason "
        "first_token_s id message messages metadata model parse_error parsed prompt "
        "raise_for_finish reasoning refusal reply result retry snapshot spec status text "
        "tool_calls usage xray"
    )
    assert offered(stack) == (
        "DESCRIPTION data_dir environment find join_or_start log_path pid settings start stop"
    )
