"""A notebook with recorded answers, run by somebody who has neither model nor key."""

import shutil
from pathlib import Path

import nbformat
import pytest

from longtask_kit.cli.notebooks import LESSONS, execute, lesson_environment, open_home

CELLS = (
    'import longtask_kit as lt\n\nkit = lt.connect(replay="answers.jsonl", replay_speed=0)',
    'task = kit.submit("What is a river?", max_tokens=60, temperature=0)\ndisplay(task)\n'
    "print(await task)",
    'group = kit.map(["Name a river in Asia."], n=2, max_tokens=40, reuse=False)\nawait group',
    "%load_ext longtask_kit",
    "%%longtask --name shown --max-tokens 60 --temperature 0\nWhat is a river?",
    "print(shown.usage, shown.data)\nkit.close()",
)

# Read by each Python process that starts: kernel and stack. What uvloop asks could not be heard.
OFFLINE = """
import os, sys
sys.modules["uvloop"] = None
HERE = ("127.0.0.1", "localhost", "::1")

def heed(event, args):
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event == "socket.connect" and isinstance(args[1], tuple):  # else it is a file's name
        host = args[1][0]
    else:
        return
    with open({log!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{host}}\\n")
    if host not in HERE:
        raise ConnectionRefusedError("this computer is offline")

sys.addaudithook(heed)
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without a network: a file of who has asked for which host."""
    log, folder = tmp_path / "asked.log", tmp_path / "offline"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(OFFLINE.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return log


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    for name in ("answers.jsonl", "sanitize.cfg"):
        shutil.copy(LESSONS / name, tmp_path)
    cells = [nbformat.v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(CELLS)]
    path = tmp_path / "shared.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def run_anew(notebook: Path, models: Path) -> str:
    with open_home(models) as home, lesson_environment(home):
        return execute(notebook)


@pytest.mark.gate
@pytest.mark.timeout(1200)
def test_it_gives_the_same_to_the_byte_each_time(
    notebook: Path, asked: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    nobody = tmp_path / "no-models"
    nobody.mkdir()
    first = run_anew(notebook, nobody)
    assert first.count("replayed from answers.jsonl (recorded ") >= 3
    assert "playing a crucial role in the global water cycle" in first
    for _ in range(request.config.getoption("--rounds")):
        assert run_anew(notebook, nobody) == first
    calls = [line.split(" ", 1) for line in asked.read_text().splitlines()]
    assert len({process for process, _ in calls}) >= 4, "kernel and stack, of each run"
    assert {host for _, host in calls} <= {"127.0.0.1", "localhost", "::1"}
