"""`longtask fill`: saved notebooks are completed from the log."""

import json
from pathlib import Path
from typing import Any

import pytest

import longtask_kit as lt
from longtask_kit.log.keys import new_task_id
from tests.command import longtask
from tests.wait import wait_until

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def environment(stack: lt.LocalStack) -> dict[str, str]:
    return stack.environment


def write(path: Path, *cells: dict[str, Any]) -> Path:
    document = {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def make_cell(source: str, plain: str = "", **parts: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a cell whose output is a widget's view with this text, and what else is told."""
    view = {"model_id": "0123", "version_major": 2, "version_minor": 0}
    data = {"text/plain": [plain], VIEW: view}
    output = {"output_type": "display_data", "data": data, "metadata": {}} | parts
    return {
        "cell_type": "code",
        "id": "a",
        "source": source.splitlines(keepends=True),
        "metadata": {},
        "execution_count": 1,
        "outputs": [output] if plain else [],
    }


def named(task_id: str, status: str = "running") -> dict[str, Any]:
    return {"longtask": {"taskId": task_id, "status": status}}


def noted_group(group_id: str) -> dict[str, Any]:
    return {"longtask": {"groupId": group_id}}


def read_data(path: Path, cell: int = 0) -> dict[str, Any]:
    output = json.loads(path.read_text())["cells"][cell]["outputs"][0]
    return {name: "".join(text) for name, text in output["data"].items()}


def test_an_output_that_names_its_task_gets_the_text_from_the_log(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path
) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    text = task.result(30)
    path = write(
        tmp_path / "a.ipynb",
        make_cell("x", "half", metadata=named(task.id)),
        make_cell("y", "other", metadata={"theirs": 1}),
    )
    before = path.read_text()
    told = longtask("fill", "--check", str(path), **environment)
    assert told.returncode == 1
    assert f"{path}, cell 1: would be filled from {task.id}, completed" in told.stdout
    assert path.read_text() == before, "it only tells"
    assert longtask("fill", str(path), **environment).returncode == 0
    data = read_data(path)
    assert set(data) == {"text/plain", "text/html"}
    assert data["text/plain"] == text
    assert read_data(path, 1)["text/plain"] == "other"
    again = longtask("fill", "--check", str(path), **environment)
    assert (again.returncode, again.stdout) == (0, f"{path}: complete\n")
    assert path.read_text().endswith("}\n")
    assert list(tmp_path.iterdir()) == [path]


def test_a_notebook_behind_a_link_is_filled_there_and_half_a_sign_stays(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path
) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    text = task.result(30)
    (tmp_path / "kept").mkdir()
    own = write(
        tmp_path / "kept" / "a.ipynb",
        make_cell("x", "half", metadata=named(task.id)),
        {"cell_type": "markdown", "id": "b", "metadata": {}, "source": ["潮 \ud83d"]},
    )
    link = tmp_path / "a.ipynb"
    link.symlink_to(own)
    done = longtask("fill", str(link), **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert link.is_symlink()
    assert read_data(own)["text/plain"] == text
    assert '"潮 \\ud83d"' in own.read_text()
    assert list(own.parent.iterdir()) == [own]


def test_of_two_cards_in_a_cell_none_takes_the_one_id_that_stands_there(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path
) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    task.result(30)
    cell = make_cell(f"# {task.id}", "TaskOutput(pending)")
    other = json.loads(json.dumps(cell["outputs"][0]))
    other["data"][VIEW]["model_id"] = "4567"
    cell["outputs"].append(other)
    path = write(tmp_path / "a.ipynb", cell)
    before = path.read_text()
    done = longtask("fill", str(path), **environment)
    assert done.returncode == 1
    assert done.stdout.count("names no task") == 2
    assert path.read_text() == before


def test_a_notebook_that_is_read_only_is_left_as_it_is(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path
) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    task.result(30)
    path = write(tmp_path / "a.ipynb", make_cell("x", "half", metadata=named(task.id)))
    before = path.read_text()
    path.chmod(0o444)
    done = longtask("fill", str(path), **environment)
    assert done.returncode != 0
    assert "read-only" in done.stdout + done.stderr
    assert path.read_text() == before


def make_joined(*parts: tuple[str, dict[str, str]]) -> dict[str, Any]:
    """Return a cell whose output a page saved of a panel with several answers."""
    notes = [note | {"lines": [text.count("\n") + 1] * 2} for text, note in parts]
    text = "\n".join(text for text, _ in parts)
    cell = make_cell("kit.panel()", "x", metadata={"longtask": {"parts": notes, "view": {}}})
    data = {"text/plain": text.splitlines(keepends=True), "text/html": text}
    cell["outputs"][0]["data"] = data
    return cell


def test_of_several_answers_in_an_output_each_gets_its_own_text(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path
) -> None:
    task, other = (kit.submit(f"Explain {what}", model="demo-fast") for what in ("tides", "ebbs"))
    text, last = task.result(30), other.result(30)
    had = ("what was\n\nanswered first\n", {"taskId": "task_1", "status": "completed"})
    halves = [(f"half of\n{t.id}", {"taskId": t.id, "status": "running"}) for t in (task, other)]
    path = write(tmp_path / "a.ipynb", make_joined(had, *halves))
    done = longtask("fill", str(path), **environment)
    assert done.returncode == 0, done.stdout
    data = read_data(path)
    assert data["text/plain"] == "\n".join([had[0], text, last])
    assert data["text/html"].startswith(f"{had[0]}\n<style>"), "what is not ours to say stays"
    assert "half of" not in data["text/html"]
    again = longtask("fill", "--check", str(path), **environment)
    assert (again.returncode, again.stdout) == (0, f"{path}: complete\n")


def test_several_answers_that_somebody_changed_are_left_alone(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path
) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    task.result(30)
    cell = make_joined(*[("half", {"taskId": task.id, "status": "running"})] * 2)
    cell["outputs"][0]["data"]["text/plain"].append("\nmore")
    path = write(tmp_path / "a.ipynb", cell)
    before = path.read_text()
    done = longtask("fill", str(path), **environment)
    assert done.returncode == 1
    assert "cell 1: its output holds several tasks, and was changed" in done.stdout
    assert path.read_text() == before


@pytest.mark.parametrize(
    "where", ["source", "printed", "by its prompt", "by the prompt of a cell before", "magic"]
)
def test_what_an_earlier_version_left_broken_is_mended(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path, where: str
) -> None:
    prompt = f"Explain the tides of {where} {new_task_id()[-6:]}"
    task = kit.submit(prompt, model="demo-fast")
    text = task.result(30)
    submits = make_cell(f"%pip list\ntask = kit.submit({prompt!r})")
    broken = "TaskOutput(pending)"
    printed = {"output_type": "stream", "name": "stdout", "text": [f"{task.id}\n"]}
    cells = {
        "source": [make_cell(f"kit.attach('{task.id}')", broken)],
        "printed": [make_cell("print(task.id)\ntask", broken)],
        "by its prompt": [make_cell(f"kit.submit({prompt!r})", broken)],
        "by the prompt of a cell before": [submits, make_cell("task", broken)],
        "magic": [make_cell(f"%%longtask --no-wait\n{prompt}\n", broken)],
    }[where]
    if where == "printed":
        cells[0]["outputs"].append(printed)
    path = write(tmp_path / "a.ipynb", *cells)
    done = longtask("fill", str(path), **environment)
    assert done.returncode == 0, done.stdout
    assert read_data(path, len(cells) - 1)["text/plain"] == text


@pytest.mark.parametrize(
    "plain", ["TaskPanel(idle, 0 tasks)", "ModelPicker('demo')", "TaskOutput(idle)", "VBox()"]
)
def test_a_widget_that_is_no_tasks_is_left_alone(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path, plain: str
) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    task.result(30)
    asks = make_cell("kit.submit('Explain tides').result()")
    path = write(tmp_path / "a.ipynb", asks, make_cell(f"kit.panel()  # {task.id}", plain))
    before = path.read_text()
    done = longtask("fill", str(path), **environment)
    assert (done.returncode, done.stdout) == (0, f"{path}: complete\n")
    assert path.read_text() == before


def test_of_several_tasks_with_its_prompt_none_is_chosen(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path
) -> None:
    prompt = f"Explain tides {new_task_id()[-6:]}"
    tasks = [kit.submit(prompt, model="demo-fast") for _ in range(2)]
    path = write(tmp_path / "a.ipynb", make_cell(f"kit.submit({prompt!r})", "TaskOutput(pending)"))
    before = path.read_text()
    done = longtask("fill", str(path), **environment)
    assert done.returncode == 1
    assert f"2 have a prompt of its cells: {tasks[1].id}, {tasks[0].id}. Write" in done.stdout
    assert path.read_text() == before


def test_a_groups_table_is_filled_until_all_of_it_is_done(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path
) -> None:
    slow, fast = "Explain tides slowly", "Explain tides"
    group = kit.map(
        [{"prompt": slow, "model": "demo@5"}, {"prompt": fast, "model": "demo-fast"}],
        lambda row: row,
    )
    path = write(
        tmp_path / "a.ipynb",
        make_cell("group", "old", metadata=noted_group(group.id)),
    )
    wait_until(lambda: group.counts["done"] == 1)
    done = longtask("fill", str(path), **environment)
    assert f"cell 1: is filled from {group.id}, " in done.stdout
    assert "2 rows, 1 done" in read_data(path)["text/plain"]
    assert VIEW not in read_data(path)
    group.cancel()
    wait_until(lambda: group.counts["failed"] == 1)
    assert longtask("fill", str(path), **environment).returncode == 0
    assert "2 rows, 1 done, 1 failed" in read_data(path)["text/plain"]
    whole = kit.map([{"prompt": fast, "model": "demo-fast"}], lambda row: row)
    whole.results(30)
    path = write(tmp_path / "b.ipynb", make_cell("group", "old", metadata=noted_group(whole.id)))
    assert longtask("fill", str(path), **environment).returncode == 0
    for task in whole.tasks:
        assert task
        task.delete()
    told = longtask("fill", "--check", str(path), **environment)
    assert (told.returncode, told.stdout) == (0, f"{path}: complete\n"), "it needs nobody any more"


def test_a_task_that_goes_on_is_filled_as_far_as_it_is(
    kit: lt.Kit, environment: dict[str, str], tmp_path: Path
) -> None:
    task = kit.submit("Explain tides", model="demo@5")
    path = write(tmp_path / "a.ipynb", make_cell("x", "old", metadata=named(task.id)))
    assert longtask("fill", str(path), **environment).returncode == 0
    assert task.id in read_data(path)["text/plain"]
    task.cancel()


def test_what_cant_be_filled_is_told_with_its_cure(
    environment: dict[str, str], tmp_path: Path
) -> None:
    gone = new_task_id()
    path = write(
        tmp_path / "a.ipynb",
        make_cell("x", "half", metadata=named(gone)),
        make_cell("nothing = 'that was ever asked'", "TaskOutput(pending)"),
    )
    before = path.read_text()
    done = longtask("fill", str(path), **environment)
    assert done.returncode == 1
    assert gone in done.stdout
    assert "cell 2: its output names no task" in done.stdout
    assert path.read_text() == before
    bad = tmp_path / "bad.ipynb"
    bad.write_text("[]")
    told = longtask("fill", str(bad), **environment)
    assert told.returncode == 1
    assert "is no notebook" in told.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "can't be read as a notebook"),
        ('{"cells": [7]}', "in cell 1, expected an object, found int"),
        ('{"cells": [{"cell_type": "code", "source": ["x", 1]}]}', "the source is no text"),
        ('{"cells": [{"cell_type": "code", "outputs": 7}]}', "the outputs are no list"),
        ('{"cells": [{"cell_type": "code", "outputs": [null]}]}', "an output is no object"),
        ('{"cells": [{"cell_type": "code", "outputs": [{"data": null}]}]}', "an output is no"),
        (
            '{"cells": [{"cell_type": "code", "outputs": [{"data": {"text/plain": 7}}]}]}',
            "an output's text is none",
        ),
    ],
)
def test_a_notebook_that_can_not_be_read_is_told_and_the_others_are_filled(
    text: str, told: str, kit: lt.Kit, environment: dict[str, str], tmp_path: Path
) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    answer = task.result(30)
    bad = tmp_path / "bad.ipynb"
    bad.write_text(text)
    good = write(tmp_path / "good.ipynb", make_cell("x", "half", metadata=named(task.id)))
    done = longtask("fill", str(bad), str(tmp_path / "missing.ipynb"), str(good), **environment)
    assert done.returncode == 1
    assert told in done.stderr
    assert "missing.ipynb can't be read" in done.stderr
    assert read_data(good)["text/plain"] == answer
    assert bad.read_text() == text
