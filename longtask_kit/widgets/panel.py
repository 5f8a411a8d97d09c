"""`TaskPanel`: a form, answers one at a time or as a conversation, and the tasks there are."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import ipywidgets as w
import traitlets

from longtask_kit.client.chat import Chat, reword
from longtask_kit.client.listed import list_lines
from longtask_kit.client.task import submit_spec
from longtask_kit.errors import ConfigError, LongTaskError, SubmitError
from longtask_kit.log.events import TERMINAL_STATUSES
from longtask_kit.settings import DEMO_LABEL
from longtask_kit.widgets.form import PanelForm
from longtask_kit.widgets.history import TaskHistory, make_rows
from longtask_kit.widgets.models import fetch_models
from longtask_kit.widgets.turn import Turn, list_said_before

if TYPE_CHECKING:
    from collections.abc import Callable

    from longtask_kit.client.kit import Kit
    from longtask_kit.client.task import Task
    from longtask_kit.settings import Settings
    from longtask_kit.submit.spec import TaskSpec
    from longtask_kit.widgets.output import TaskOutput

_LISTED = 200
_LONG_LIST_S = 30.0  # until one that takes a thousand records is read again by itself
_Done = TypeVar("_Done")


class TaskPanel(w.VBox):
    """The notebook panel; `kit.panel()` makes one.

    Every part can be reached and driven: `panel.prompt.value = "…"; panel.submit()`. Ctrl+Enter
    submits, Shift+Escape cancels. The tasks of before are in `history`, also after a reload of the
    page or a restart of the kernel.

    Attributes:
        prompt, model, temperature, max_tokens, system, params: The form's fields, ipywidgets;
            `params` is text, JSON with further model parameters.
        chat: With it on, answers stand below each other, and the next message continues.
        submit_button, new_button: The form's buttons.
        history: The tasks there are, `history.rows`, and `history.problem`.
        status: Status of the task shown last; observable: `panel.observe(f, "status")`.
        tasks: Tasks submitted or opened here, oldest first.
    """

    status = traitlets.Unicode("idle")

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self.tasks: list[Task] = []
        self._chat: Chat | None = None
        self._notes: dict[str, str] = {}
        self._is_demo = kit.settings is not None and kit.settings.model.startswith("demo")
        self.history = TaskHistory(self._act)
        self._form = form = PanelForm(model=self._default_model, history=self.history)
        self.prompt, self.model, self.system, self.params = (
            *(form.prompt, form.model, form.system, form.params),
        )
        self.temperature, self.max_tokens, self.chat = form.temperature, form.max_tokens, form.chat
        self.submit_button, self.new_button = form.submit_button, form.new_button
        self._talk = w.VBox()
        self._talk.add_class("longtask-talk")
        self._list_again_at = 0.0
        self._turns: list[Turn] = []
        super().__init__()
        self.add_class("longtask-panel")
        self._show_turns([self._make_turn()])
        self._arrange()
        form.chat.observe(self._arrange, "value")
        form.model.observe(self._note_model, "value")
        form.submit_button.on_click(lambda _: self.submit())
        form.new_button.on_click(lambda _: self.start_over())
        if kit.settings is not None:
            kit._door.start(self._list_models(kit.settings))
        self._refresh()

    def __repr__(self) -> str:
        tasks = "1 task" if len(self.tasks) == 1 else f"{len(self.tasks)} tasks"
        return f"TaskPanel({self.status}, {tasks})"

    @property
    def output(self) -> TaskOutput:
        """The answer that is shown last."""
        return self._turns[-1].output

    @property
    def task(self) -> Task | None:
        """The task that is shown last, or None."""
        return self.output.task

    def submit(self) -> Task | None:
        """Submit what the form says, and show it; None, and the reason shown, if that fails."""
        return self._try(self._submit)

    def watch(self, task: Task) -> None:
        """Show a task, from here or from anywhere, in place of what is shown; the form stays."""
        self._chat = None
        self._show_turns(self._turns[-1:])
        self._show(self._turns[-1], task)

    def open_task(self, task: Task | str) -> None:
        """Show a task, or the conversation that it ends, and have the form take what it had.

        Raises:
            StreamExpiredError: It is not there any more.
        """
        task = self._kit.attach(task)
        self._form.fill(task.spec, default_model=self._default_model)
        self.chat.value = any(m["role"] == "assistant" for m in task.messages)
        self.prompt.value = "" if self.chat.value else self.prompt.value
        self.watch(task)

    def continue_task(self, task: Task | str) -> None:
        """As `open_task`, with `chat` on: the next message continues.

        Raises:
            StreamExpiredError: It is not there any more.
        """
        self.open_task(task)
        self.prompt.value = ""
        self.chat.value = True

    def ask_again(
        self, turn: int = -1, *, prompt: str | None = None, model: str | None = None
    ) -> Task | None:
        """Ask what a turn asked once more, perhaps in other words or of another model.

        In a conversation the new answer stands in its place, and what followed goes.

        Args:
            turn: Which of those that are shown; -1 is the last.
            prompt: What to ask instead.
            model: Whom to ask instead.
        """
        return self._try(lambda: self._ask_again(self._turns[turn], prompt, model))

    def start_over(self) -> None:
        """Begin anew: nothing is shown, tasks are left alone."""
        self._chat = None
        self._show_turns([self._make_turn()])
        self.status, self.history.shown, self.history.problem = "idle", "", ""

    def cancel(self) -> None:
        """Ask the task shown last to end."""
        self.output.cancel()

    def stop_watching(self) -> None:
        """Leave the task alone; it runs on, and its card or `history` brings it back."""
        self.output.unwatch()

    @property
    def _default_model(self) -> str:
        return self._kit._find_place(None).model

    def _submit(self) -> Task:
        options = self._form.read()
        prompt = options.pop("prompt")
        if not self.chat.value:
            task = self._kit.submit(prompt, **options)
            self.watch(task)
            return task
        if self._is_under_way:
            raise SubmitError("The answer before is still under way: wait for it, or cancel it.")
        task = self._find_chat(options).send(prompt, **options)
        self._add(task)
        self.prompt.value = ""
        return task

    @property
    def _is_under_way(self) -> bool:
        """Whether an answer is; a page that has its end may ask before `status` is told of it."""
        if self.task is None:
            return False
        known = self.task._feed.read(lambda state: state.status)
        return TERMINAL_STATUSES.isdisjoint((self.status, known))

    def _find_chat(self, options: dict[str, Any] | None = None) -> Chat:
        """Return the conversation: that of the task shown, if it is not known yet."""
        if self._chat is None:
            shown = self.task
            self._chat = Chat._resume(shown) if shown else self._kit.chat(**(options or {}))
        return self._chat

    def _ask_again(self, turn: Turn, prompt: str | None, model: str | None) -> Task:
        task = turn.task
        if task is None:
            raise SubmitError("Nothing has been asked yet: submit() first.")
        if self._is_under_way:
            raise SubmitError("An answer is still under way: wait for it, or cancel it.")
        changes: dict[str, Any] = {"model": model} if model else {}
        if self.chat.value:
            at = self._turns.index(turn)
            task = self._find_chat()._ask_again(at, prompt, **changes)
            kept = self._turns[:at]
            self._show_turns(kept or [self._make_turn()])
            self._add(task)
            return task
        spec = replace(_reword(task.spec, prompt), **changes)
        again = submit_spec(task._door, spec, schema=task._schema)
        self.watch(again)
        return again

    def _add(self, task: Task) -> None:
        """Show a task below the others."""
        if self.task is not None:
            self.output.show(label="")  # once on a screen
            self._show_turns([*self._turns, self._make_turn()])
        self._show(self._turns[-1], task)

    def _show(self, turn: Turn, task: Task) -> None:
        if task.id not in [known.id for known in self.tasks]:
            self.tasks.append(task)
        turn.show(task, label=self._label_of(task))
        is_first = turn is self._turns[0]
        turn.say(
            prompt=task._brief.prompt,
            before=list_said_before(task._brief.messages or ()) if is_first else [],
            taskId=task.id,
        )
        self._tell_turns()
        self.history.shown, self.history.problem = task.id, ""
        self._refresh()

    def _make_turn(self) -> Turn:
        label = DEMO_LABEL if self._is_scripted(self.model.value or self._default_model) else ""
        turn = Turn(self._act_on_turn, label=label)
        turn.output.observe(lambda change: self._take_status(turn, change["new"]), "status")
        return turn

    def _show_turns(self, turns: list[Turn]) -> None:
        gone = [turn for turn in self._turns if turn not in turns]
        self._turns = turns
        self._talk.children = [part for turn in turns for part in (turn, turn.output)]
        for turn in gone:
            turn.close()
        self._tell_turns()

    def _tell_turns(self) -> None:
        models = [{"name": n, "note": self._notes.get(n, "")} for n in self.model.options]
        for turn in self._turns:
            is_active = turn.task is not None and turn.output.status not in TERMINAL_STATUSES
            turn.say(isTalk=self.chat.value, isActive=is_active, models=models)

    def _arrange(self, _: object = None) -> None:
        """Put the form above its answer, or below a conversation."""
        is_chat = self.chat.value
        if not is_chat:
            self._chat = None
            self._show_turns(self._turns[-1:])
        elif self.task is not None and self.prompt.value == self.task._brief.prompt:
            self.prompt.value = ""  # it stands above its answer; the next message is another
        parts = [self._talk, self._form] if is_chat else [self._form, self._talk]
        self.children = parts
        (self.add_class if is_chat else self.remove_class)("is-talk")
        self._tell_turns()

    def _take_status(self, turn: Turn, status: str) -> None:
        if turn is not self._turns[-1]:
            return
        self._tell_turns()
        self.status = status
        if status in TERMINAL_STATUSES:
            self._refresh()

    def _label_of(self, task: Task) -> str:
        """Return what is to be said of the model that answers: that it is scripted, or small."""
        name = task._brief.model or self._default_model
        return DEMO_LABEL if self._is_scripted(name) else self._notes.get(name, "")

    def _is_scripted(self, name: str) -> bool:
        return self._is_demo and name.startswith("demo")

    async def _list_models(self, settings: Settings) -> None:
        """Fill the model menu with what the service offers."""
        recorded = self._kit._door.aim.recorded
        offered = dict.fromkeys(recorded, "Recorded answers.") or await fetch_models(settings)
        if offered:
            # What observes the menu is somebody else's, and may call the kit.
            self._kit._door.hand_over(lambda: self._take_models(offered))

    def _take_models(self, offered: dict[str, str]) -> None:
        self._notes = {n: note.replace(DEMO_LABEL, "").strip() for n, note in offered.items()}
        self.model.notes = self._notes
        own = self._kit._door.aim.model  # of another service than the one that was asked
        self.model.options = tuple(dict.fromkeys(filter(None, [own, *offered])))
        self._note_model()
        self._tell_turns()

    def _note_model(self, _: object = None) -> None:
        name = self.model.value.strip()
        note = self._notes.get(name, "")
        if self.task is None:  # else it says of which model the answer is
            is_scripted = self._is_scripted(name or self._default_model)
            self.output.show(label=DEMO_LABEL if is_scripted else "")
        self._form.model_note.value = note
        self._form.model_note.layout.display = None if note else "none"

    def _refresh(self) -> None:
        """List the tasks anew, soon."""
        with contextlib.suppress(ConfigError):  # the kit is closed: what was listed stays
            self._kit._door.start(self._list_tasks())

    async def _list_tasks(self) -> None:
        try:
            lines, _ = await list_lines(self._kit._door.backend, limit=_LISTED)
        except LongTaskError:
            return  # what was listed stays
        is_long = sum(line.states.total() for line in lines) > _LISTED
        self._list_again_at = time.monotonic() + (_LONG_LIST_S if is_long else 0.0)
        rows = make_rows(lines, default_model=self._default_model)
        self._kit._door.hand_over(lambda: self._take_rows(rows))

    def _take_rows(self, rows: list[dict[str, Any]]) -> None:
        self.history.rows = rows
        running = sum(row["status"] not in TERMINAL_STATUSES for row in rows)
        word = f"Earlier tasks · {running} running" if running else "Earlier tasks"
        self._form.earlier.description = word

    def _act(self, message: dict[str, Any]) -> None:
        """Act on a message of the page; what takes a round trip runs off the kernel's shell."""
        task_id = str(message.get("taskId"))
        match message.get("t"):
            case "submit":
                self._form.take_typed(message.get("fields"))
                self.submit()
            case "cancel":
                self.cancel()
            case "list" if time.monotonic() >= self._list_again_at:
                self._refresh()
            case "open":
                self._hand_over(lambda: self.open_task(task_id))
            case "continue":
                self._hand_over(lambda: self.continue_task(task_id))
            case "delete":
                self._hand_over(lambda: self._delete(task_id))
            case "dismiss":
                self.history.problem = ""

    def _act_on_turn(self, turn: Turn, message: dict[str, Any]) -> None:
        prompt, model = message.get("prompt"), message.get("model")
        match message.get("t"):
            case "again":
                self._hand_over(lambda: self._ask_again(turn, None, model))
            case "edit" if isinstance(prompt, str):
                self._hand_over(lambda: self._ask_again(turn, prompt, None))
            case "continue" if turn.task is not None:
                self.chat.value = True

    def _hand_over(self, work: Callable[[], object]) -> None:
        self._try(self._kit._door.check_usable)  # else nobody would take it, or say so
        self._kit._door.hand_over(lambda: self._try(work))

    def _try(self, work: Callable[[], _Done]) -> _Done | None:
        """Do what a button asked for; its failure is shown, since nobody else would."""
        try:
            return work()
        except LongTaskError as exc:
            self.history.problem = str(exc)
            return None

    def _delete(self, task_id: str) -> None:
        self._kit.attach(task_id).delete()
        self.tasks = [task for task in self.tasks if task.id != task_id]
        if task_id in [turn.task.id for turn in self._turns if turn.task]:
            self.start_over()
        self._refresh()


def _reword(spec: TaskSpec, prompt: str | None) -> TaskSpec:
    """Return what to ask with another prompt: in a conversation that of its last message."""
    if prompt is None:
        return spec
    if spec.messages is None:
        return replace(spec, prompt=prompt)
    return replace(spec, prompt="", messages=reword(spec.messages, prompt))
