"""`TaskPanel`, driven from Python."""

import json
from collections import Counter

import pytest

import longtask_kit as lt
from longtask_kit.client.listed import list_lines
from longtask_kit.settings import DEMO_LABEL
from longtask_kit.widgets import TaskPanel
from longtask_kit.widgets.history import make_rows
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
    offered = {"demo-500", "demo-reason", "demo-tools", "demo-json", "demo-refuse", "demo-length"}
    wait_until(lambda: offered <= set(panel.model.options))
    assert panel.model.notes["demo-reason"] == "Reasons before it answers."
    panel.model.value = "demo-fast"
    assert panel._form.model_note.value == "As fast as the client reads."
    panel.model.value = "no-such-model"
    assert panel._form.model_note.value == ""


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
    panel._act({"t": "submit", "fields": typed | {"params": '{"top_p": 0.5}'}})
    assert panel.task is not None
    spec = panel.task.spec.to_wire()
    assert spec["params"] == {"top_p": 0.5}
    assert {name: str(spec[name]) for name in typed} == typed
    nonsense = {"maxTokens": "many", "temperature": "", "history": "x", "prompt": None}
    for fields in (nonsense, "nonsense", None):
        panel._act({"t": "submit", "fields": fields})
        assert panel.task.spec.to_wire() == spec, "what is no value changes nothing"


@pytest.mark.parametrize(
    ("prompt", "params", "problem"),
    [
        ("   ", "", '"prompt" is empty'),
        ("x", "{", '"params" is no JSON'),
        ("x", "[1]", '"params" is a JSON list'),
        ("x", '{"stream": true}', "stream"),
    ],
)
def test_bad_input_is_shown_and_submits_nothing(
    kit: lt.Kit, prompt: str, params: str, problem: str
) -> None:
    panel = kit.panel()
    panel.prompt.value, panel.params.value = prompt, params
    for is_chat in (False, True):
        panel.chat.value = is_chat
        assert panel.submit() is None
        assert panel.task is None
        assert problem in panel.history.problem
        panel._act({"t": "dismiss"})
        assert panel.history.problem == ""


def test_null_leaves_a_number_to_the_model_service_and_comes_back_with_the_task(
    kit: lt.Kit,
) -> None:
    panel = kit.panel()
    panel.prompt.value, panel.model.value = "Explain tides", "demo-fast"
    panel.params.value = '{"temperature": null, "seed": 7}'
    task = panel.submit()
    assert task is not None
    assert (task.spec.temperature, task.spec.max_tokens) == (None, 1000)
    assert task.spec.params == {"seed": 7}
    fresh = kit.panel()
    fresh.open_task(task)
    assert json.loads(fresh.params.value) == {"temperature": None, "seed": 7}


def test_a_group_is_one_line_of_the_history_and_says_how_its_rows_ended(kit: lt.Kit) -> None:
    kit.map(["one", "two"], model="demo-bad-key").results(60, errors="return")
    panel = kit.panel()
    wait_until(lambda: panel.history.rows)
    newest = panel.history.rows[0]
    assert newest["prompt"].startswith("2 rows: ")
    assert (newest["word"], newest["kind"], newest["tokens"]) == ("failed", "bad", None)
    [line, *_], _ = kit._door.ask(lambda backend: list_lines(backend, limit=1))
    for states, kind in (
        ({"pending": 1, "running": 9, "failed": 1}, "run"),
        ({"pending": 1, "completed": 9}, "wait"),
        ({"completed": 9, "failed": 1}, "bad"),
    ):
        [row] = make_rows([line._replace(states=Counter(states))], default_model="demo")
        assert row["kind"] == kind


def test_what_there_is_stands_in_the_history_of_a_new_panel(kit: lt.Kit) -> None:
    cut = kit.submit("Explain  tides", model="demo-length", max_tokens=10)
    cut.result(30)
    running = kit.submit("Explain ledgers", model="demo@30")
    wait_until(lambda: running.status == "running")
    panel = kit.panel()
    wait_until(lambda: len(panel.history.rows) >= 2)
    newest, before = panel.history.rows[:2]
    assert (newest["id"], newest["word"], newest["kind"]) == (running.id, "running", "run")
    assert (before["prompt"], before["model"]) == ("Explain tides", "demo-length")
    assert (before["word"], before["kind"]) == ("stopped at max_tokens (10)", "warn")
    assert "running" in panel._form.earlier.description
    panel._act({"t": "open", "taskId": running.id})
    wait_until(lambda: panel.task is not None and panel.status == "running")
    panel.cancel()
    wait_until(lambda: panel.history.rows[0]["word"] == "cancelled")


def test_an_opened_task_fills_the_form_with_what_it_had(kit: lt.Kit) -> None:
    task = kit.submit(
        "Explain tides" + " slowly" * 40,
        model="demo-fast",
        system="Be brief.",
        temperature=0.2,
        max_tokens=70,
        params={"seed": 3},
    )
    text = task.result(30)
    panel = kit.panel()
    panel._act({"t": "open", "taskId": task.id})
    wait_until(lambda: panel.status == "completed" and panel.output._text == text)
    assert panel.prompt.value == task.spec.prompt
    fields = (panel.model, panel.system, panel.temperature, panel.max_tokens)
    assert [field.value for field in fields] == ["demo-fast", "Be brief.", 0.2, 70]
    assert not panel.chat.value
    assert panel.history.shown == task.id
    assert [known.id for known in panel.tasks] == [task.id]


def test_deleting_takes_a_task_from_list_and_page(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    task.result(30)
    panel = kit.panel()
    panel.open_task(task)
    panel._act({"t": "delete", "taskId": task.id})
    wait_until(lambda: panel.task is None and panel.status == "idle")
    wait_until(lambda: task.id not in [row["id"] for row in panel.history.rows])
    with pytest.raises(lt.StreamExpiredError):
        kit.attach(task.id)
    panel._act({"t": "open", "taskId": task.id})
    wait_until(lambda: task.id in panel.history.problem)


def test_with_chat_on_the_next_message_continues(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.model.value, panel.chat.value = "demo-fast", True
    panel.system.value = "Be brief."
    texts = []
    for prompt in ("Explain tides", "And ledgers?"):
        panel.prompt.value = prompt
        panel.submit()
        wait_until(lambda: panel.status == "completed")
        assert panel.prompt.value == ""
        texts.append(panel.output._text)
    task = panel.tasks[-1]
    assert [(m["role"], m["content"]) for m in task.messages] == [
        ("system", "Be brief."),
        ("user", "Explain tides"),
        ("assistant", texts[0]),
        ("user", "And ledgers?"),
    ]
    assert [turn.said["prompt"] for turn in panel._turns] == ["Explain tides", "And ledgers?"]
    assert [turn.output._text for turn in panel._turns] == texts
    labels = [turn.output._meta["label"] for turn in panel._turns]
    assert labels == ["", DEMO_LABEL], "once on a screen"
    panel.new_button.click()
    assert (panel.task, panel.status, len(panel._turns)) == (None, "idle", 1)
    assert kit.attach(task.id).text == texts[1], "tasks are left alone"


def test_a_message_is_not_sent_into_an_answer(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.model.value, panel.chat.value, panel.prompt.value = "demo@20", True, "Explain tides"
    task = panel.submit()
    panel.prompt.value = "And?"
    assert panel.submit() is None
    assert panel.ask_again() is None
    assert "still under way" in panel.history.problem
    assert panel.prompt.value == "And?"
    assert panel.task is task
    panel.cancel()


def test_a_page_that_has_the_end_may_send_at_once(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.chat.value, panel.model.value, panel.prompt.value = True, "demo-fast", "Explain tides"
    send = panel.output.send
    sent: list[lt.Task | None] = []

    def send_as_a_page_does(message: dict[str, object], buffers: object = None) -> None:
        send(message, buffers)
        if '"completed"' in json.dumps(message) and not sent:
            panel.prompt.value = "And ledgers?"
            sent.append(panel.submit())

    panel.output.send = send_as_a_page_does
    first = panel.submit()
    assert first is not None
    wait_until(lambda: bool(sent))
    assert sent[0] is not None, panel.history.problem
    assert [m["content"] for m in sent[0].messages][::2] == ["Explain tides", "And ledgers?"]


def test_a_turn_can_be_asked_again_in_other_words_and_of_another_model(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.model.value, panel.chat.value = "demo-fast", True

    def wait_for(task: lt.Task | None) -> lt.Task:
        assert task is not None
        task.result(30)
        wait_until(lambda: panel.status == "completed")
        return task

    def prompts(task: lt.Task) -> list[str]:
        return [m["content"] for m in task.messages if m["role"] == "user"]

    for prompt in ("one", "two", "three"):
        panel.prompt.value = prompt
        wait_for(panel.submit())
    again = wait_for(panel.ask_again(model="demo-long"))
    assert (again.model, prompts(again)) == ("demo-long", ["one", "two", "three"])
    assert len(panel._turns) == 3
    panel._act_on_turn(panel._turns[1], {"t": "edit", "prompt": "TWO"})
    wait_until(lambda: len(panel._turns) == 2 and panel._turns[1].said["prompt"] == "TWO")
    assert panel.task is not None
    assert prompts(wait_for(panel.task)) == ["one", "TWO"]
    panel.prompt.value = "four"
    assert prompts(wait_for(panel.submit())) == ["one", "TWO", "four"]


def test_without_chat_a_task_can_be_run_again_as_it_was(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-fast", system="Be brief.", metadata={"a": 1})
    task.result(30)
    panel = kit.panel()
    assert panel.ask_again() is None, "nothing has been asked"
    panel.watch(task)
    wait_until(lambda: panel.status == "completed")
    again = panel.ask_again(model="demo@300", prompt="Explain ledgers")
    assert again is not None
    changed = {"model": "demo@300", "prompt": "Explain ledgers"}
    assert again.spec.to_wire() == task.spec.to_wire() | changed
    assert len(panel._turns) == 1


def test_a_conversation_is_continued_by_another_panel(kit: lt.Kit) -> None:
    chat = kit.chat(model="demo-fast", system="Be brief.")
    for prompt in ("one", "two"):
        last = chat.send(prompt)
        last.result(30)
    panel = kit.panel()
    panel._act({"t": "open", "taskId": last.id})
    wait_until(lambda: panel.chat.value and panel.status == "completed")
    said = panel._turns[0].said
    assert said["prompt"] == "two"
    assert [m["role"] for m in said["before"]] == ["user", "assistant"]
    assert panel.system.value == "Be brief."
    panel.prompt.value = "three"
    task = panel.submit()
    assert task is not None
    assert task.messages[:-1] == [*chat.messages]
    assert task.messages[-1] == {"role": "user", "content": "three"}


def test_a_single_answer_can_be_gone_on_with(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.model.value, panel.prompt.value = "demo-fast", "Explain tides"
    first = panel.submit()
    assert first is not None
    text = first.result(30)
    wait_until(lambda: panel.status == "completed")
    assert panel.children[0] is panel._form, "the form stands above a single answer"
    panel._act({"t": "continue", "taskId": first.id})
    wait_until(lambda: panel.chat.value and panel.status == "completed")
    assert panel.children[-1] is panel._form, "and below a conversation"
    panel.prompt.value = "And?"
    second = panel.submit()
    assert second is not None
    assert [m["content"] for m in second.messages] == ["Explain tides", text, "And?"]
    panel.chat.value = False
    assert [turn.task for turn in panel._turns] == [second]


def test_a_conversation_that_goes_on_begins_with_an_empty_box(kit: lt.Kit) -> None:
    panel = kit.panel()
    panel.model.value, panel.prompt.value = "demo-fast", "Name a river"
    task = panel.submit()
    assert task is not None
    task.result(30)
    panel.chat.value = True
    assert panel.prompt.value == "", "the message that stands above its answer is not sent again"
    panel.chat.value = False
    panel.prompt.value = "What I am writing"
    panel.chat.value = True
    assert panel.prompt.value == "What I am writing"


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
    panel._act({"t": "cancel"})
    wait_until(lambda: panel.status == "cancelled")


def test_an_idle_panel_says_scripted_only_of_a_scripted_model(kit: lt.Kit) -> None:
    panel = kit.panel()
    labels = []
    for name in ("demo-fast", "smollm2-135m-instruct", ""):
        panel.model.value = name
        labels.append(panel.output._meta["label"])
    assert labels == [DEMO_LABEL, "", DEMO_LABEL]


def test_a_panel_whose_kit_is_closed_says_so(settings: lt.Settings) -> None:
    with lt.connect(settings=settings, quiet=True) as brief:
        panel = brief.panel()
        task = brief.submit("Explain tides", model="demo-fast")
        task.result(30)
    panel._act({"t": "list"})
    assert panel.history.problem == "", "nobody asked for that"
    for button in ("open", "continue", "delete"):
        panel.history.problem = ""
        panel._act({"t": button, "taskId": task.id})
        assert "closed" in panel.history.problem
