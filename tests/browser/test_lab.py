"""`longtask lab` and `longtask app` as commands: what they start, and that nothing of it stays."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import longtask_kit as lt
from longtask_kit.cli.lab import (
    _find_first,
    copy_lessons,
    find_lessons,
    make_environment,
    make_lab_environment,
)
from tests.browser.jupyter import answers, find_children, find_running
from tests.serving import free_port
from tests.wait import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


@pytest.mark.thorough
def test_a_link_of_a_lesson_opens_its_module_and_nobody_asks_for_news(
    start: Start, browser: "Browser", tmp_path: Path
) -> None:
    port = free_port()
    start("lab", str(tmp_path / "lessons"), "--port", str(port))
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/api"), timeout_s=60)
    found = re.search(r"/lab\S*\?token=(\w+)", (tmp_path / "log").read_text())
    assert found is not None
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/lab/tree/01_first_task.ipynb?token={found[1]}")
    page.get_by_role("link", name="submit/tasks.py").first.click(timeout=60_000)
    page.locator(".jp-FileEditor", has_text="def").wait_for(timeout=30_000)
    page.wait_for_timeout(3000)  # the question would come a moment after the start
    assert page.get_by_text("Would you like to get notified").count() == 0
    page.close()


@pytest.mark.gate
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
@pytest.mark.parametrize(
    "told",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.thorough),
        pytest.param(signal.SIGHUP, marks=pytest.mark.thorough),
        signal.SIGKILL,  # the hardest: it can't say anything any more
    ],
)
@pytest.mark.thorough
def test_whatever_ends_the_command_ends_its_server_and_kernels(start: Start, told: int) -> None:
    port = free_port()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored, as it should
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


@pytest.mark.parametrize("command", [pytest.param("lab", marks=pytest.mark.thorough), "app"])
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


def test_the_lessons_name_the_demo_unless_services_are_named(settings: lt.Settings) -> None:
    own = lt.Settings(_env_file=None, model="mine", openai_api_key="sk-mine")
    assert make_lab_environment(own) == {"LONGTASK_MODEL": "demo", "OPENAI_API_KEY": "sk-mine"}
    assert make_lab_environment(settings) == make_environment(settings)


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    """A lesson with a picture, and what does not concern a reader beside it."""
    folder = tmp_path / "notebooks"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "flow.svg").write_text("old picture")
    (folder / "conftest.py").write_text("")
    lesson = folder / "01_first.ipynb"
    lesson.write_text("old")
    return lesson


def test_lessons_are_copied_with_their_pictures(lesson: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    assert copy_lessons([lesson], mine) == []
    copied = {str(path.relative_to(mine)) for path in mine.rglob("[!.]*") if path.is_file()}
    assert copied == {"01_first.ipynb", "images/flow.svg"}
    assert copy_lessons(find_lessons(), tmp_path / "real") == []


def test_a_copy_links_to_the_modules_that_were_copied_with_it(lesson: Path, tmp_path: Path) -> None:
    it, that = "submit/spec.py", "log/lua/append.lua"
    lesson.write_text(f"see [it](../longtask_kit/{it}), [that](../longtask_kit/{that})")
    mine = tmp_path / "mine"
    copy_lessons([lesson], mine)
    text = (mine / "01_first.ipynb").read_text()
    assert text == f"see [it](source/{it}), [that](source/{that})"
    real = tmp_path / "real"
    copy_lessons(find_lessons(), real)
    for copy in real.glob("*.ipynb"):
        for cell in json.loads(copy.read_text(encoding="utf-8"))["cells"]:
            for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", "".join(cell["source"])):
                assert (real / link).is_file(), f"{copy.name} leads nowhere: {link}"


def test_a_copy_that_the_user_never_changed_is_brought_up_to_date(
    lesson: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    for text in ("old", "new", "newest"):
        lesson.write_text(text)
        (lesson.parent / "images" / "flow.svg").write_text(f"{text} picture")
        assert copy_lessons([lesson], mine) == []
        assert (mine / "01_first.ipynb").read_text() == text
        assert (mine / "images" / "flow.svg").read_text() == f"{text} picture"


def test_a_file_that_the_user_changed_is_kept(lesson: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    copy_lessons([lesson], mine)
    (mine / "01_first.ipynb").write_text("mine")
    for text in ("old", "new"):
        lesson.write_text(text)
        assert copy_lessons([lesson], mine) == ["01_first.ipynb"]
        assert (mine / "01_first.ipynb").read_text() == "mine"


@pytest.mark.parametrize("note", [None, "no JSON", "[]"])
def test_without_a_note_of_what_was_copied_nothing_is_replaced(
    lesson: Path, tmp_path: Path, note: str | None
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "01_first.ipynb").write_text("who knows whose")
    if note is not None:
        (mine / ".longtask-copied.json").write_text(note)
    assert copy_lessons([lesson], mine) == ["01_first.ipynb"]
    assert (mine / "01_first.ipynb").read_text() == "who knows whose"


@pytest.mark.parametrize(
    ("language", "first"),
    [("en_US", "01_first_task"), (None, "01_first_task"), ("zh_CN", "00_导读")],
)
def test_lab_begins_with_the_lesson_in_the_users_language(
    monkeypatch: pytest.MonkeyPatch, language: str | None, first: str
) -> None:
    monkeypatch.setattr("locale.getlocale", lambda: (language, "UTF-8"))
    assert [path.stem for path in _find_first(find_lessons())] == [first]
