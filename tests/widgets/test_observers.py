"""Observers of what is drawn may call the kit, whatever they want of it."""

import threading
from typing import Any

import pytest

import longtask_kit as lt
from longtask_kit.client import feed
from longtask_kit.widgets import TaskOutput
from tests.wait import wait_until


def test_an_observer_submits_the_next_prompt(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.model.value = "demo-fast"
    prompts = ["Explain tides", "Explain rivers", "Explain clouds"]
    seen: list[str] = []

    def go_on(change: dict[str, Any]) -> None:
        seen.append(change["new"])
        if change["new"] == "completed" and prompts:
            panel.prompt.value = prompts.pop(0)
            panel.submit()

    panel.observe(go_on, "status")
    panel.prompt.value = prompts.pop(0)
    panel.submit()
    wait_until(lambda: seen.count("completed") == 3)
    wait_until(lambda: panel.status == "completed")
    assert [task.spec.prompt[8:] for task in panel.tasks] == ["tides", "rivers", "clouds"]
    assert all(task.result(10) for task in panel.tasks)
    assert seen.count("pending") == 3
    assert [kind for kind in seen if kind != "running"] == ["pending", "completed"] * 3


def use_kit(kit: lt.Kit, task: lt.Task) -> None:
    """Call all that waits for an answer."""
    text = task.result(10)
    assert text == task.text == kit.attach(task.id).result(10)
    assert task.id in [found.id for found in kit.tasks()]
    other = kit.submit("Explain rivers", model="demo-slow-start")
    other.cancel()
    with pytest.raises(lt.TaskCancelledError):
        other.result(20)
    with lt.connect(settings=kit.settings, quiet=True) as another:
        assert another.attach(task.id).text == text
    failing = kit.submit("x", model="demo-bad-key")
    with pytest.raises(lt.TaskFailedError):
        failing.result(20)
    failing.retry()
    with pytest.raises(lt.TaskFailedError):
        failing.result(20)
    task.delete()
    with pytest.raises(lt.StreamExpiredError):
        kit.attach(task.id)


def test_an_observer_may_call_all_of_the_kit(kit: lt.Kit) -> None:
    output = TaskOutput()
    outcomes: list[BaseException | None] = []

    def call_all(change: dict[str, Any]) -> None:
        if change["new"] != "completed":
            return
        try:
            assert output.task is not None
            use_kit(kit, output.task)
        except BaseException as exc:  # noqa: BLE001 - handed to the test
            outcomes.append(exc)
        else:
            outcomes.append(None)

    output.observe(call_all, "status")
    task = kit.submit("Explain tides", model="demo-fast")
    output.watch(task)
    wait_until(lambda: outcomes, timeout_s=60)
    assert outcomes == [None]


def test_an_observer_may_close_the_kit(settings: lt.Settings) -> None:
    kit = lt.connect(settings=settings, quiet=True)
    output = TaskOutput()
    closed = threading.Event()

    def close(change: dict[str, Any]) -> None:
        if change["new"] == "completed":
            kit.close()
            closed.set()

    output.observe(close, "status")
    waiting = kit.submit("x", model="demo@1")
    waiting.events()
    task = kit.submit("Explain tides", model="demo-fast")
    output.watch(task)
    assert closed.wait(20)
    for call in (waiting.result, kit.tasks):
        with pytest.raises(lt.ConfigError, match="closed"):
            call()
    with lt.connect(settings=settings, quiet=True) as other:
        other.attach(waiting.id).cancel()


def test_an_observer_runs_a_failed_task_again(kit: lt.Kit) -> None:
    output = TaskOutput()
    task = kit.submit("x", model="demo-bad-key")

    def retry_once(change: dict[str, Any]) -> None:
        if change["new"] == "failed" and task.attempt == 1:
            task.retry()

    output.observe(retry_once, "status")
    output.watch(task)
    wait_until(lambda: output.status == "failed" and task.attempt == 2)
    with pytest.raises(lt.TaskFailedError):
        task.result(10)


def test_whoever_waits_finds_everything_drawn_and_observed(kit: lt.Kit) -> None:
    for _ in range(5):
        output = TaskOutput()
        seen: list[str] = []
        output.observe(lambda change, seen=seen: seen.append(change["new"]), "status")
        task = kit.submit("Explain tides", model="demo-fast")
        output.watch(task)
        text = task.result(30)
        assert (output.status, output._text, seen[-1]) == ("completed", text, "completed")


def test_an_observer_that_takes_its_time_holds_up_nobody_for_long(
    kit: lt.Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_TELL_S", 0.2)
    output, gate = TaskOutput(), threading.Event()
    output.observe(lambda change: change["new"] == "completed" and gate.wait(60), "status")
    task = kit.submit("Explain tides", model="demo-fast")
    output.watch(task)
    try:
        text = task.result(30)
        assert kit.submit("Explain tides", model="demo-fast").result(30) == text
    finally:
        gate.set()


def test_an_observer_of_the_model_menu_may_call_the_kit(kit: lt.Kit) -> None:
    panel = kit.panel()
    counts: list[int] = []
    panel.model.observe(lambda _: counts.append(len(kit.tasks(limit=1))), "options")
    wait_until(lambda: counts)


def test_an_observer_that_exits_ends_nothing_but_itself(
    kit: lt.Kit, caplog: pytest.LogCaptureFixture
) -> None:
    def leave() -> None:
        raise SystemExit

    task = kit.submit("Explain tides", model="demo-fast")
    task._feed.listen(lambda _: task._door.hand_over(leave))
    task.events()
    assert task.result(30)
    assert "a listener of a task failed" in caplog.text
    seen: list[str] = []
    panel = kit.panel()
    panel.observe(lambda change: seen.append(change["new"]), "status")
    panel.watch(kit.submit("Explain tides", model="demo-fast"))
    wait_until(lambda: seen[-1:] == ["completed"])
