"""The whole flow with the real model: shape, usage, order, and what happens when it breaks."""

import os
import signal
import time
from pathlib import Path

import pytest

import longtask_kit as lt
from longtask_kit.local.model.installed import SMOLLM2_LABEL
from tests.llm.conftest import MODEL, find_server
from tests.local.processes import is_alive, read_process_cpu_s
from tests.wait import wait_until

pytestmark = [pytest.mark.llm, pytest.mark.thorough]


def test_a_task_streams_a_real_answer_with_usage(llm_kit: lt.Kit) -> None:
    task = llm_kit.submit("Explain what a queue is.", model=MODEL, max_tokens=20)
    deltas = list(task)
    assert "".join(deltas) == task.result(timeout_s=30)
    assert len(deltas) > 1
    assert task.usage is not None
    assert task.usage.completion_tokens <= 20


def test_four_tasks_at_once_all_complete(llm_kit: lt.Kit) -> None:
    tasks = [llm_kit.submit(f"Count to {n}.", model=MODEL, max_tokens=20) for n in range(2, 6)]
    assert all(task.result(timeout_s=60) for task in tasks)


def test_a_killed_model_costs_an_attempt_and_no_word(
    llm_kit: lt.Kit, llm_stack: lt.LocalStack, llm_home: Path
) -> None:
    task = llm_kit.submit("Write a long story.", model=MODEL, max_tokens=150, temperature=0)
    wait_until(lambda: task.text, timeout_s=30)
    pid = find_server(llm_home, parent=llm_stack.pid)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    text = task.result(timeout_s=60)
    assert task.snapshot().attempt > 1
    again = llm_kit.submit("Write a long story.", model=MODEL, max_tokens=150, temperature=0)
    assert text == again.result(timeout_s=60)


def test_cancelling_frees_the_models_slots(
    llm_kit: lt.Kit, llm_stack: lt.LocalStack, llm_home: Path
) -> None:
    tasks = [llm_kit.submit("Write a long story.", model=MODEL, max_tokens=900) for _ in range(4)]
    wait_until(lambda: all(task.text for task in tasks), timeout_s=30)
    pid = find_server(llm_home, parent=llm_stack.pid)
    assert pid is not None
    for task in tasks:
        task.cancel()

    def rests() -> bool:
        before = read_process_cpu_s(pid)
        time.sleep(0.3)
        return read_process_cpu_s(pid) - before < 0.025  # at work it would be 0.3

    wait_until(rests, timeout_s=15)  # of answers that would take a minute
    assert {task.status for task in tasks} == {"cancelled"}


def test_a_killed_stack_leaves_no_model_process_behind(llm_home: Path) -> None:
    with lt.LocalStack.start(idle_exit_s=None) as stack:
        with lt.connect(settings=stack.settings, quiet=True) as kit:
            kit.submit("Say hello.", model=MODEL, max_tokens=2).result(timeout_s=30)
        server = find_server(llm_home, parent=stack.pid)
        assert server is not None
        os.kill(stack.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(server))


def test_a_prompt_beyond_the_context_fails_with_the_cure(llm_kit: lt.Kit) -> None:
    task = llm_kit.submit("word " * 1500, model=MODEL)
    with pytest.raises(lt.TaskFailedError, match="shorten it"):
        task.result(timeout_s=30)


def test_the_panel_offers_it_and_says_what_it_is(llm_kit: lt.Kit) -> None:
    panel = llm_kit.panel()
    wait_until(lambda: MODEL in panel.model.options)
    panel.model.value, panel.prompt.value = MODEL, "Say hello."
    panel.max_tokens.value = 10
    assert panel.model.notes[MODEL] == SMOLLM2_LABEL
    task = panel.submit()
    assert task is not None
    assert task.result(timeout_s=30)
    assert panel.output.get_state()["snapshot"]["meta"]["label"] == SMOLLM2_LABEL
