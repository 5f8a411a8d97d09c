"""One data folder, one stack: also while one ends, is stopped, or lost its Valkey."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

import longtask_kit as lt
from longtask_kit.local.files import StackFiles, find_holder
from tests.local.processes import find_valkey, is_alive, run_python
from tests.wait import wait_until


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing while the context is open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.thorough
def test_a_joiner_waits_for_an_ending_stack_and_starts_a_new_one(home: Path) -> None:
    first = lt.LocalStack.join_or_start()
    with stopped(find_valkey(first.pid)):  # the stack's end waits for its Valkey
        os.kill(first.pid, signal.SIGTERM)
        wait_until(lambda: not first._files.state.exists())
        joiner = run_python("import longtask_kit as lt; print(lt.LocalStack.join_or_start().pid)")
        assert is_alive(first.pid)
        assert find_holder(first._files) == first.pid
    pid = int(joiner.communicate(timeout=60)[0])
    assert pid != first.pid
    again = lt.LocalStack.find()
    assert again is not None
    assert (again.pid, again.environment) == (pid, first.environment)


@pytest.mark.thorough
def test_an_idle_stack_stays_up_while_somebody_joins(home: Path) -> None:
    stack = lt.LocalStack.join_or_start(idle_exit_s=1.0)
    lt.LocalStack.find()  # which asks it something: a whole second from here
    log = stack.log_path
    with filelock.FileLock(stack._files.lock):  # a joiner that thinks long
        with pytest.raises(AssertionError):
            wait_until(lambda: "the stack ends" in log.read_text(), timeout_s=2.0)
        assert stack._files.state.exists()
    wait_until(lambda: "the stack ends" in log.read_text())


@pytest.mark.thorough
def test_a_stopped_stack_gets_no_twin(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = lt.LocalStack.join_or_start()
    monkeypatch.setattr("longtask_kit.local.state.STOP_TIMEOUT_S", 0.1)
    with stopped(stack.pid), pytest.raises(lt.LocalStackError) as caught:
        lt.LocalStack.join_or_start()
    assert f"Process {stack.pid} has the data folder {home / 'data'}" in str(caught.value)
    assert f"kill -CONT {stack.pid}" in str(caught.value)
    assert lt.LocalStack.join_or_start().pid == stack.pid, "it goes on as if nothing had been"


def test_a_stack_of_another_runtime_folder_gets_no_twin(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lt.LocalStack.start(tmp_path) as stack:
        monkeypatch.setenv("LONGTASK_HOME", str(home / "other"))
        monkeypatch.setattr("longtask_kit.local.state.STOP_TIMEOUT_S", 0.1)
        with pytest.raises(lt.LocalStackError, match=f"Process {stack.pid} has the data folder"):
            lt.LocalStack.start(tmp_path)


def test_a_killed_stack_frees_its_folder(home: Path, tmp_path: Path) -> None:
    stack = lt.LocalStack.start(tmp_path)
    files = StackFiles.of(tmp_path)
    assert find_holder(files) == stack.pid
    os.kill(stack.pid, signal.SIGKILL)
    wait_until(lambda: find_holder(files) is None)
    stack.stop()


def test_a_stack_ends_with_its_valkey_and_the_next_call_starts_a_new_one(home: Path) -> None:
    first = lt.LocalStack.join_or_start()
    with lt.connect(quiet=True) as kit:
        task = kit.submit("Explain tides", model="demo-fast")
        text = task.result(30)
        os.kill(find_valkey(first.pid), signal.SIGKILL)
        wait_until(lambda: not is_alive(first.pid))
        log = first.log_path.read_text()
        assert "LocalStackError: The stack's Valkey ended with code -9" in log
        assert "Traceback" not in log, log
        assert kit.submit("Explain tides", model="demo-fast").result(30) == text
    second = lt.LocalStack.find()
    assert second is not None
    assert second.pid != first.pid


def test_a_data_folder_of_somebody_else_is_an_error_with_the_cure(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "stack.lock").mkdir()  # as little to be opened for writing as root's file
    for attempt in (lt.LocalStack.start, lt.LocalStack.find):
        with pytest.raises(lt.LocalStackError, match=f"lock {tmp_path}/stack.lock.*--data"):
            attempt(tmp_path)
