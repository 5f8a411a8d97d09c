"""`longtask lab`: JupyterLab on a copy of the lessons."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import longtask_kit as lt
from longtask_kit.lab import copy_lessons, find_lessons
from tests.browser.jupyter import answers
from tests.serving import free_port
from tests.wait import wait_until


def test_lab_opens_on_a_copy_of_the_lessons_and_leaves_on_ctrl_c(
    stack: lt.LocalStack, tmp_path: Path
) -> None:
    port = free_port()
    folder = tmp_path / "lessons"
    command = [*(sys.executable, "-m", "longtask_kit.cli", "lab", str(folder), "--no-browser")]
    own = {"JUPYTER_CONFIG_DIR": str(tmp_path / "c"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "r")}
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            [*command, "--port", str(port)],
            env=os.environ | stack.environment | own,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/api"), timeout_s=60)
        assert (folder / "01_first_task.ipynb").exists()
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
    finally:
        running.kill()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not answers(f"http://127.0.0.1:{port}/api"), "no server is left"


def test_a_lesson_that_the_user_changed_is_kept(tmp_path: Path) -> None:
    lessons = find_lessons()
    assert copy_lessons(lessons, tmp_path) == []
    mine = tmp_path / lessons[0].name
    mine.write_text("mine")
    assert copy_lessons(lessons, tmp_path) == [lessons[0].name]
    assert mine.read_text() == "mine"
