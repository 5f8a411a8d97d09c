"""`TaskPanel`: a form, the live output of its task, and the tasks of this kernel."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import ipywidgets as w
import traitlets

from longtask_kit.errors import LongTaskError, StreamExpiredError
from longtask_kit.log.events import TERMINAL_STATUSES
from longtask_kit.settings import DEMO_LABEL
from longtask_kit.submit.spec import MAX_TOKENS_RANGE
from longtask_kit.widgets.models import fetch_models
from longtask_kit.widgets.output import TaskOutput

if TYPE_CHECKING:
    from longtask_kit.client.kit import Kit
    from longtask_kit.client.task import Task
    from longtask_kit.settings import Settings

_DEMO_MODELS = ("demo", "demo-fast", "demo-slow-start", "demo-429-then-ok", "demo-cut-then-ok")
_NEW = "Earlier tasks …"
_OWN_WIDTH = {"description_width": "initial"}  # a description takes the room of its words


class TaskPanel(w.VBox):
    """The notebook panel; `kit.panel()` makes one.

    Every part can be reached and driven: `panel.prompt.value = "…"; panel.submit()`. Ctrl+Enter
    submits, Escape cancels. After a reload of the page or a restart of the kernel it offers the
    task that was under way.

    Attributes:
        prompt, model, temperature, max_tokens, system: The form's fields, ipywidgets.
        model_note: What the service says of the model chosen.
        submit_button, history: The rest of the form.
        output: The `TaskOutput`.
        status: Status of the task shown; observable: `panel.observe(f, "status")`.
        task: The task shown, or None.
        tasks: Tasks submitted or continued here, oldest first.
    """

    status = traitlets.Unicode("idle")

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self.tasks: list[Task] = []
        is_demo = kit.settings is not None and kit.settings.model.startswith("demo")
        self._make_form(is_demo=is_demo)
        self.output = TaskOutput(label=DEMO_LABEL if is_demo else "", in_panel=True)
        self.output.handle_action = self._act
        self.output.observe(self._take_status, "status")
        self._is_demo = is_demo
        self._offered: dict[str, str] = {}
        form = w.VBox([self.prompt, self._make_settings_row(), self.model_note, self._system_fold])
        super().__init__([form, self.output])
        if kit.settings is not None:
            kit._door.start(self._list_models(kit.settings))
        self.add_class("longtask-panel")
        self.layout.max_width = "60rem"

    def __repr__(self) -> str:
        tasks = "1 task" if len(self.tasks) == 1 else f"{len(self.tasks)} tasks"
        return f"TaskPanel({self.status}, {tasks})"

    @property
    def task(self) -> Task | None:
        """The task shown, or None."""
        return self.output.task

    def submit(self) -> Task | None:
        """Submit what the form says, and show it; None, and the reason shown, if that fails."""
        try:
            task = self._kit.submit(
                self.prompt.value,
                model=self.model.value.strip() or None,
                temperature=self.temperature.value,
                max_tokens=self.max_tokens.value,
                system=self.system.value.strip() or None,
            )
        except LongTaskError as exc:
            self.output.show(error=str(exc), cure=None, code="not_submitted", offer=None)
            return None
        self.watch(task)
        return task

    def watch(self, task: Task) -> None:
        """Show a task, from here or from anywhere."""
        if task.id not in [known.id for known in self.tasks]:
            self.tasks.append(task)
            self._list_tasks()
        self._show_task(task)
        self.history.value = task.id

    def cancel(self) -> None:
        """Ask the task shown to end."""
        self.output.cancel()

    def stop_watching(self) -> None:
        """Leave the task alone; it runs on, and `history` brings it back."""
        self.output.unwatch()

    def _make_form(self, *, is_demo: bool) -> None:
        wide = w.Layout(width="auto")
        self.prompt = w.Textarea(
            placeholder="What to ask the model. Ctrl+Enter submits, Escape cancels.",
            rows=4,
            layout=wide,
        )
        self.prompt.tooltip = "Prompt"
        default = self._kit.settings.model if self._kit.settings else ""
        self.model = w.Combobox(
            value=default,
            options=_DEMO_MODELS if is_demo else tuple(filter(None, [default])),
            description="Model",
            ensure_option=False,
            style=_OWN_WIDTH,
            layout=w.Layout(width="14rem"),
        )
        self.model_note = w.Label(layout=w.Layout(display="none"))
        self.model_note.add_class("longtask-model-note")
        self.model.observe(self._note_model, "value")
        self.temperature = w.FloatSlider(
            value=0.7,
            min=0.0,
            max=2.0,
            step=0.1,
            description="Temperature",
            readout_format=".1f",
            style=_OWN_WIDTH,
            layout=w.Layout(width="15rem"),
        )
        least, most = MAX_TOKENS_RANGE
        self.max_tokens = w.BoundedIntText(
            value=1000,
            min=least,
            max=most,
            step=50,
            description="Max tokens",
            style=_OWN_WIDTH,
            layout=w.Layout(width="10rem"),
        )
        self.system = w.Textarea(placeholder="System message, optional.", rows=2, layout=wide)
        self._system_fold = w.Accordion([self.system], titles=("System prompt",))
        self._fields = {
            "prompt": self.prompt,
            "model": self.model,
            "temperature": self.temperature,
            "maxTokens": self.max_tokens,
            "system": self.system,
        }
        for name, field in self._fields.items():
            field.add_class(f"longtask-field-{name}")  # `js/src/fields.js` finds them by it
        self.submit_button = w.Button(
            description="Submit", button_style="primary", icon="paper-plane", tooltip="Ctrl+Enter"
        )
        self.submit_button.layout.width = "6.5rem"
        self.submit_button.on_click(lambda _: self.submit())
        self.history = w.Dropdown(options=[(_NEW, "")], layout=w.Layout(width="9.5rem"))
        self.history.tooltip = "Tasks of this kernel"
        self.history.observe(self._reopen, "value")

    def _make_settings_row(self) -> w.Box:
        row = [self.model, self.temperature, self.max_tokens, self.submit_button, self.history]
        return w.Box(
            row, layout=w.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 .8rem")
        )

    def _list_tasks(self) -> None:
        rows = [(_describe(task), task.id) for task in reversed(self.tasks)]
        self.history.options = [(_NEW, ""), *rows]

    def _reopen(self, change: dict[str, Any]) -> None:
        shown = self.output.task.id if self.output.task else ""
        chosen = change["new"]
        if chosen and chosen != shown:
            self._show_task(next(task for task in self.tasks if task.id == chosen))

    def _show_task(self, task: Task) -> None:
        self.output.show(label=self._label_of(task))
        self.output.watch(task)

    def _label_of(self, task: Task) -> str:
        """Return what is to be said of the model that answers: that it is scripted, or small."""
        default = self._kit.settings.model if self._kit.settings else ""
        name = task.spec.model or default
        return DEMO_LABEL if self._is_scripted(name) else self._offered.get(name, "")

    def _is_scripted(self, name: str) -> bool:
        return self._is_demo and name.startswith("demo")

    async def _list_models(self, settings: Settings) -> None:
        """Fill the model menu with what the service offers."""
        self._offered = await fetch_models(settings)
        if self._offered:
            self.model.options = tuple(self._offered)
            self._note_model()

    def _note_model(self, _: object = None) -> None:
        name = self.model.value.strip()
        note = self._offered.get(name, "")
        if self.task is None:  # else it says of which model the answer is
            self.output.show(label=DEMO_LABEL if self._is_scripted(name or "demo") else "")
        self.model_note.value = note
        self.model_note.layout.display = None if note else "none"

    def _take_status(self, change: dict[str, Any]) -> None:
        self.status = change["new"]

    def _act(self, message: dict[str, Any]) -> None:
        """Act on a message of the front end that the output leaves to its panel."""
        match message.get("t"):
            case "submit":
                self._take_fields(message.get("fields"))
                self.submit()
            case "remembered" if self.task is None:
                self._kit._door.start(self._offer(str(message.get("taskId"))))
            case "continue":
                self._continue(str(message.get("taskId")))
            case "dismiss":
                self.output.show(offer=None)

    def _take_fields(self, typed: object) -> None:
        """Take over the form as it stands in the page, before ipywidgets tells of it.

        In a busy cell the fields' own messages wait for its end, and those of the output don't.
        """
        for name, value in (typed if isinstance(typed, dict) else {}).items():
            field = self._fields.get(name)
            # What is no number is ignored as ipywidgets ignores it.
            with contextlib.suppress(ValueError, traitlets.TraitError):
                if field is not None and isinstance(value, str):
                    field.value = type(field.value)(value)

    async def _offer(self, task_id: str) -> None:
        """Offer to continue what the page remembers, if it still is under way."""
        try:
            record = await self._kit._door.backend.read(task_id)
        except LongTaskError:
            return
        if record.status not in TERMINAL_STATUSES and self.task is None:
            prompt = str(record.wire.get("prompt", ""))[:120]
            offer = {"taskId": task_id, "prompt": prompt, "status": record.status}
            self.output.show(offer=offer)

    def _continue(self, task_id: str) -> None:
        try:
            self.watch(self._kit.attach(task_id))
        except StreamExpiredError as exc:
            self.output.show(offer=None, notice=str(exc))


def _describe(task: Task) -> str:
    prompt = " ".join(task.spec.prompt.split())
    return f"{prompt[:40]} · {task.id[5:11]}"
