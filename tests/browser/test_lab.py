"""`longtask lab` and `longtask app` as commands: what they start, and that nothing of it stays."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import longtask_kit as lt
from longtask_kit.lab import copy_lessons, find_lessons, make_environment
from tests.browser.jupyter import answers, find_children, find_running
from tests.serving import free_port
from tests.wait import wait_until

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(stack: lt.LocalStack, tmp_path: Path) -> Iterator[Start]:
    """Start a `longtask` command whose output is in `log`; it is killed at the end."""
    started = []
    own = {"JUPYTER_CONFIG_DIR": str(tmp_path / "c"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "r")}

    def start_one(*arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("w") as log:
            command = [sys.executable, "-m", "longtask_kit.cli", *arguments, "--no-browser"]
            environment = os.environ | stack.environment | own
            running = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        started.append(running)
        return running

    yield start_one
    for running in started:
        running.kill()
        running.wait()


def test_lab_opens_on_a_copy_of_the_lessons_and_leaves_on_ctrl_c(
    start: Start, tmp_path: Path
) -> None:
    port = free_port()
    folder = tmp_path / "lessons"
    running = start("lab", str(folder), "--port", str(port))
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/api"), timeout_s=60)
    assert (folder / "01_first_task.ipynb").exists()
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 130
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not answers(f"http://127.0.0.1:{port}/api"), "no server is left"


@pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_ends_the_command_ends_its_server_and_kernels(start: Start, told: int) -> None:
    port = free_port()
    running = start("app", "--port", str(port))
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(f"{url}/voila/static/"), timeout_s=60)
    with urllib.request.urlopen(url, timeout=60) as page:
        page.read(1)  # the page has started a kernel
    wait_until(lambda: len(find_children(running.pid)) >= 2)
    children = find_children(running.pid)
    running.send_signal(told)
    assert running.wait(20) in (128 + told, -told)
    wait_until(lambda: not find_running(children), timeout_s=20)


@pytest.mark.parametrize("command", ["lab", "app"])
def test_a_busy_port_is_refused_and_nothing_starts(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)  # where the lessons would be copied to
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = start(command, "--port", str(listener.getsockname()[1]))
        assert running.wait(20) == 1
    said = (tmp_path / "log").read_text()
    assert said.startswith("ConfigError: Can't listen on 127.0.0.1:")
    assert "--port" in said
    assert "http://" not in said, "no address is promised"
    assert not (tmp_path / "longtask-lessons").exists()


def test_a_dotenv_of_the_folder_reaches_the_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = [
        "QSTASH_TOKEN='of the file'",
        "longtask_base_url=https://app.example.com/",
        "LONGTASK_RETRIES=5",
        "LONGTASK_MODEL=of-the-file",
        "OPENAI_API_KEY=",
        "SOMEBODY_ELSES=1",
    ]
    (tmp_path / ".env").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTASK_MODEL", "of-the-environment")
    assert make_environment(lt.Settings()) == {
        "QSTASH_TOKEN": "of the file",
        "LONGTASK_BASE_URL": "https://app.example.com",
        "LONGTASK_RETRIES": "5",
        "LONGTASK_MODEL": "of-the-environment",
    }


def test_a_lesson_that_the_user_changed_is_kept(tmp_path: Path) -> None:
    lessons = find_lessons()
    assert copy_lessons(lessons, tmp_path) == []
    mine = tmp_path / lessons[0].name
    mine.write_text("mine")
    assert copy_lessons(lessons, tmp_path) == [lessons[0].name]
    assert mine.read_text() == "mine"
