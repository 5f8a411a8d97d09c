"""`TaskPanel`, driven from Python."""

from typing import Any

import longtask_kit as lt
from longtask_kit.settings import DEMO_LABEL
from longtask_kit.widgets import TaskPanel
from tests.wait import wait_until
from tests.widgets.test_output import replay


def test_it_works_with_defaults_in_one_line(kit: lt.Kit) -> None:
    panel = kit.panel()
    assert isinstance(panel, TaskPanel)
    assert repr(panel) == "TaskPanel(idle, 0 tasks)"
    assert panel.model.value == "demo"
    assert replay(panel.output).meta.get("label", "") in ("",)
    assert "Scripted demo" in panel.output.get_state()["snapshot"]["meta"]["label"]


def test_every_part_can_be_driven_and_watched(kit: lt.Kit) -> None:
    panel = kit.panel()
    seen: list[str] = []
    panel.observe(lambda change: seen.append(change["new"]), "status")
    panel.prompt.value = "Explain tides"
    panel.model.value = "demo-fast"
    panel.max_tokens.value = 40
    panel.system.value = "Be brief."
    panel.submit_button.click()
    task = panel.task
    assert task is not None
    task.result(30)
    wait_until(lambda: panel.status == "completed")
    assert seen[0] == "pending"
    assert seen[-1] == "completed"
    assert task.spec.max_tokens == 40
    assert task.spec.system == "Be brief."
    assert repr(panel) == "TaskPanel(completed, 1 task)"


def test_the_model_menu_lists_what_the_service_offers_with_its_labels(kit: lt.Kit) -> None:
    panel = kit.panel()
    wait_until(lambda: "demo-500" in panel.model.options)
    panel.model.value = "demo-fast"
    assert panel.model_note.value.startswith("As fast as the client reads.")
    assert "Scripted demo" in panel.model_note.value
    panel.model.value = "no-such-model"
    assert panel.model_note.value == ""


def test_a_new_task_does_not_begin_with_the_end_of_the_last(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.model.value, panel.prompt.value = "demo-fast", "List three rivers"
    for _ in range(2):
        seen: list[str] = []
        panel.observe(lambda change, seen=seen: seen.append(change["new"]), "status")
        task = panel.submit()
        assert task is not None
        task.result(30)
        assert panel.status == "completed"  # whoever waited finds it up to date
        assert (seen[0], seen[-1]) == ("pending", "completed")


def test_a_submit_of_the_page_brings_the_form_as_it_stands(kit: lt.Kit) -> None:
    panel = kit.panel()
    typed = {
        "prompt": "Explain tides",
        "model": "demo-fast",
        "temperature": "0.3",
        "maxTokens": "40",
        "system": "Be brief.",
    }
    panel.output._receive(panel.output, {"t": "submit", "fields": typed}, [])
    assert panel.task is not None
    spec = panel.task.spec.to_wire()
    assert {name: str(spec[name]) for name in typed} == typed
    nonsense = {"maxTokens": "many", "temperature": "", "history": "x", "prompt": None}
    for fields in (nonsense, "nonsense", None):
        panel.output._receive(panel.output, {"t": "submit", "fields": fields}, [])
        assert panel.task.spec.to_wire() == spec, "what is no value changes nothing"


def test_bad_input_is_shown_and_submits_nothing(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.prompt.value = "   "
    assert panel.submit() is None
    assert panel.task is None
    assert '"prompt" is empty' in replay(panel.output).meta["error"]


def test_earlier_tasks_can_be_reopened(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.model.value = "demo-fast"
    texts = {}
    for topic in ("tides", "ledgers"):
        panel.prompt.value = f"Explain {topic}"
        task = panel.submit()
        assert task is not None
        texts[task.id] = task.result(30)
    first, second = texts
    assert panel.history.value == second
    panel.history.value = first
    wait_until(lambda: panel.output.status == "completed" and panel.output._text == texts[first])
    assert panel.task is not None
    assert panel.task.id == first
    assert len(panel.tasks) == 2


def test_it_stops_watching_and_cancels(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.prompt.value = "Explain tides"
    panel.model.value = "demo@30"
    task = panel.submit()
    assert task is not None
    wait_until(lambda: panel.status == "running")
    panel.stop_watching()
    assert task.status == "running"
    panel.watch(task)
    panel.output._receive(panel.output, {"t": "cancel"}, [])
    wait_until(lambda: panel.status == "cancelled")


def test_what_the_page_remembers_is_offered_and_continued(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@60")
    panel = kit.panel()

    def tell(**message: Any) -> None:  # noqa: ANN401
        panel.output._receive(panel.output, message, [])

    tell(t="remembered", taskId="task_" + "0" * 22)  # gone: nothing to offer
    tell(t="remembered", taskId=task.id)
    wait_until(lambda: (replay(panel.output).meta.get("offer") or {}).get("taskId") == task.id)
    tell(t="dismiss")
    assert replay(panel.output).meta["offer"] is None
    tell(t="continue", taskId=task.id)
    assert panel.task is not None
    assert panel.task.id == task.id
    wait_until(lambda: panel.status == "completed")
    assert panel.output._text == task.result(10)


def test_an_idle_panel_says_scripted_only_of_a_scripted_model(kit: lt.Kit) -> None:
    panel = kit.panel()
    labels = []
    for name in ("demo-fast", "smollm2-135m-instruct", ""):
        panel.model.value = name
        labels.append(panel.output._meta["label"])
    assert labels == [DEMO_LABEL, "", DEMO_LABEL]
