"""Notebooks that nobody looks at: nbclient executes them, nbconvert by it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

import longtask_kit as lt
from tests.thorough import first_of

CONNECT = "import time\nimport longtask_kit as lt\nkit = lt.connect(quiet=True)"
SHOW = "task = kit.submit('Explain tides', model='demo@200')\ntask"
SLOW = "task = kit.submit('Explain tides', model='demo@5')\ntask"
SHOW_LATE = SLOW.replace("\n", "\ntime.sleep(3)\n")  # the next cell has its text at once
HAS_TEXT = "while len(task.text) < 20: time.sleep(0.05)"


@pytest.fixture
def execute(stack: lt.LocalStack) -> Any:  # noqa: ANN401 - a function
    def execute_one(*cells: str) -> Any:  # noqa: ANN401 - nbformat has no types
        notebook = new_notebook(cells=[new_code_cell(cell) for cell in (CONNECT, *cells)])
        client = NotebookClient(notebook, kernel_name="python3", timeout=60)
        client.execute(env=os.environ | stack.environment)
        nbformat.validate(notebook)
        return notebook

    return execute_one


def find_shown(notebook: Any) -> Any:  # noqa: ANN401 - nbformat has no types
    [output] = notebook.cells[1].outputs
    return output


@pytest.mark.parametrize(
    "later",
    first_of(
        [
            ("await task",),
            ("1 + 1", "task.result()"),
            ("kit.attach(task.id).result()", "time.sleep(0.5)"),
            ("while kit.attach(task.id).status != 'completed': time.sleep(0.05)", "task.text"),
            ("_ = [delta for delta in task]",),
        ],
        rest_in_gate=True,
    ),
    ids=["awaits", "after another", "by its id", "polls", "iterates"],
)
def test_what_one_cell_shows_and_a_later_one_awaits_is_the_final_text(
    execute: Any,  # noqa: ANN401
    kit: lt.Kit,
    later: tuple[str, ...],
) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    shown = find_shown(execute(SHOW, *later))
    assert set(shown.data) == {"text/plain", "text/html"}
    assert shown.data["text/plain"].rstrip() == plain.rstrip()
    assert shown.metadata.longtask.status == "completed"


@pytest.mark.parametrize(
    "command",
    first_of(
        [
            "nbconvert --to=notebook --execute --inplace a.ipynb",
            "papermill --kernel=python3 --no-progress-bar a.ipynb a.ipynb",
        ],
        rest_in_gate=True,
    ),
    ids=["nbconvert", "papermill"],
)
def test_commands_that_execute_leave_the_final_text_too(
    stack: lt.LocalStack, kit: lt.Kit, tmp_path: Path, command: str
) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    path = tmp_path / "a.ipynb"
    nbformat.write(
        new_notebook(cells=[new_code_cell(c) for c in (CONNECT, SHOW, "await task")]), path
    )
    execute = [sys.executable, "-m", *command.split()]
    environment = os.environ | stack.environment
    subprocess.run(execute, cwd=tmp_path, env=environment, check=True, timeout=120)
    shown = find_shown(nbformat.read(path, 4))
    assert set(shown.data) == {"text/plain", "text/html"}
    assert shown.data["text/plain"].rstrip() == plain.rstrip()


ANOTHER_KIT_IS_FIRST = """
import threading
seen = threading.Event()
async def hold_up(): seen.wait()
held_up = kit._door.start(hold_up())
other = lt.connect(quiet=True).attach(task.id)
while other.status != "completed": time.sleep(0.05)
seen.set()
"""
OBSERVER_IS_SLOW = """
from longtask_kit.widgets import TaskOutput
task = kit.submit('Explain tides', model='demo@200')
output = TaskOutput(task)
output.observe(lambda change: change["new"] == "completed" and time.sleep(15), "status")
task
"""


@pytest.mark.parametrize(
    "cells",
    first_of([(SHOW, ANOTHER_KIT_IS_FIRST), (OBSERVER_IS_SLOW, "await task")], rest_in_gate=True),
    ids=["another kit is first", "an observer is slow"],
)
def test_a_cell_that_knows_of_the_end_before_what_it_shows_leaves_the_final_text(
    execute: Any,  # noqa: ANN401
    cells: tuple[str, str],
) -> None:
    shown = find_shown(execute(*cells))
    assert set(shown.data) == {"text/plain", "text/html"}
    assert shown.metadata.longtask.status == "completed"


FAIL = "task = kit.submit('Explain tides', model='demo-bad-key')\ntask"
FAILS = "try:\n    await task\nexcept lt.TaskFailedError as exc:\n    print(exc.code)"


@pytest.mark.parametrize(
    "later",
    first_of([(FAILS, f"task.retry()\n{FAILS}"), (FAILS,), (FAILS, "task")], rest_in_gate=True),
)
def test_a_failure_is_static_where_nobody_can_press_its_buttons(
    execute: Any,  # noqa: ANN401
    later: tuple[str, ...],
) -> None:
    notebook = execute(FAIL, *later)
    for cell in notebook.cells[1:]:
        for shown in cell.outputs:
            if shown.output_type != "stream":
                assert set(shown.data) == {"text/plain", "text/html"}
                assert "OPENAI_API_KEY" in shown.data["text/plain"]
                assert shown.metadata.longtask.status == "failed"


@pytest.mark.parametrize(
    "shown_by", first_of([SHOW_LATE, SLOW], rest_in_gate=True), ids=["shown late", "shown at once"]
)
def test_a_run_that_ends_first_leaves_the_id_and_the_text_so_far(
    execute: Any,  # noqa: ANN401
    shown_by: str,
) -> None:
    notebook = execute(shown_by, HAS_TEXT)
    shown = find_shown(notebook)
    task_id = shown.metadata.longtask.taskId
    for form in ("text/plain", "text/html"):
        assert task_id in shown.data[form]
        assert "Explain tides" in shown.data[form]
        assert "streaming" in shown.data[form]
    assert "Tides" in shown.data["text/plain"].split("[")[0], "the text so far"
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"].state.values()
    [snapshot] = [model.state.snapshot for model in states if "snapshot" in model.state]
    assert "Tides" in snapshot["text"], "the widget that was saved with it has it, too"


@pytest.mark.gate
def test_a_run_that_ends_at_once_leaves_the_id_and_what_was_asked(execute: Any) -> None:  # noqa: ANN401
    shown = find_shown(execute(SLOW))
    assert shown.metadata.longtask.taskId in shown.data["text/plain"]
    assert "Explain tides" in shown.data["text/html"]


@pytest.mark.gate
def test_two_cells_that_show_a_task_both_end_with_its_text(execute: Any) -> None:  # noqa: ANN401
    notebook = execute(SHOW, "task", "%load_ext longtask_kit", "await task")
    for cell in notebook.cells[1:3]:
        assert set(cell.outputs[0].data) == {"text/plain", "text/html"}


@pytest.mark.parametrize(
    "later", first_of([("await group",), ("group.results()", "1 + 1")], rest_in_gate=True)
)
def test_a_group_ends_as_its_counts_and_first_rows(execute: Any, later: tuple[str, ...]) -> None:  # noqa: ANN401
    rows = "[f'Explain tides to {i} people' for i in range(3)]"
    notebook = execute(f"group = kit.map({rows}, model='demo@200', max_tokens=30)\ngroup", *later)
    _, shown = notebook.cells[1].outputs
    assert set(shown.data) == {"text/plain", "text/html"}
    assert shown.data["text/plain"].startswith("group: 3 rows, 3 done")
    assert "Tides to 2 people" in shown.data["text/html"]
    assert shown.metadata.longtask.groupId in shown.data["text/html"]
