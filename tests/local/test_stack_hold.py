"""One data folder, one stack: also while one ends, is stopped, or lost its Valkey."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import pytest

import longtask_kit as lt
from longtask_kit.local.files import StackFiles, find_holder
from longtask_kit.local.state import find_running, read_state
from tests.command import longtask
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


def test_a_dead_stacks_state_leads_to_no_stranger(home: Path) -> None:
    dead = lt.LocalStack.join_or_start()
    os.kill(dead.pid, signal.SIGKILL)
    wait_until(lambda: find_holder(dead._files) is None)
    port = urlsplit(dead.environment["OPENAI_BASE_URL"]).port
    stranger = run_python(f"""
        from http.server import HTTPServer, SimpleHTTPRequestHandler
        server = HTTPServer(("127.0.0.1", {port}), SimpleHTTPRequestHandler)
        print("up", flush=True)
        server.serve_forever()
    """)
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == "up\n"
    state = json.loads(dead._files.state.read_text())
    dead._files.state.write_text(json.dumps(state | {"pid": stranger.pid}))
    try:
        assert lt.LocalStack.find() is None
        assert "no local stack" in longtask("down").stdout
        assert lt.LocalStack.join_or_start().pid not in (dead.pid, stranger.pid)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


URLS = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LONGTASK_BASE_URL": "http://127.0.0.1:9"}


DAMAGES: list[tuple[str, object]] = [
    *[("pid", value) for value in (None, "7", 0, -7, True)],
    *[("environment", value) for value in ({}, "x", None, URLS | {"QSTASH_TOKEN": 5})],
    *[("environment", URLS | {"OPENAI_BASE_URL": url}) for url in ("http://[::1", "file:///etc")],
]
DAMAGED = [
    *("", "null", "[]", "1", "{}", "\x00\xff", "[" * 100_000),
    *(json.dumps({"environment": URLS, "pid": 7, name: value}) for name, value in DAMAGES),
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_state_is_none(tmp_path: Path, text: str) -> None:
    files = StackFiles(tmp_path, tmp_path)
    files.state.write_text(text, encoding="latin-1")
    assert read_state(files) is None
    assert find_running(files) is None


@pytest.mark.parametrize("state", [{"pid": 2**70}, {"protocol": {"x": 1}}])
def test_a_state_is_read_whatever_its_numbers_are(tmp_path: Path, state: dict[str, object]) -> None:
    files = StackFiles(tmp_path, tmp_path)
    files.state.write_text(json.dumps({"environment": URLS, "pid": 7} | state))
    assert read_state(files) is not None
    assert find_running(files) is None, "nobody has the folder"


def test_a_running_stack_whose_files_are_damaged_is_named_and_nobody_is_signalled(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longtask_kit.local.state.STOP_TIMEOUT_S", 0.1)
    with lt.LocalStack.start(tmp_path) as stack:
        stack._files.state.write_text("[]")
        with pytest.raises(lt.LocalStackError, match=f"Process {stack.pid} has the data folder"):
            lt.LocalStack.find(tmp_path)
        stack._files.holder.write_text("0")  # `kill -9 0` would end whoever types it
        with pytest.raises(lt.LocalStackError, match=r"A process has .*`fuser ") as caught:
            lt.LocalStack.find(tmp_path)
        assert "kill" not in str(caught.value)


def test_a_data_folder_of_somebody_else_is_an_error_with_the_cure(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "stack.lock").mkdir()  # as little to be opened for writing as root's file
    for attempt in (lt.LocalStack.start, lt.LocalStack.find):
        with pytest.raises(lt.LocalStackError, match=f"lock {tmp_path}/stack.lock.*--data"):
            attempt(tmp_path)
