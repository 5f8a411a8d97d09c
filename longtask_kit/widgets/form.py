"""The panel's form: its fields, what they say of a task, and what a task puts into them."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import ipywidgets as w
import traitlets

from longtask_kit.errors import SubmitError
from longtask_kit.submit.spec import MAX_TOKENS_RANGE, TEMPERATURE_RANGE
from longtask_kit.widgets.picker import ModelPicker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.submit.spec import TaskSpec

_OWN_WIDTH = {"description_width": "initial"}  # a description takes the room of its words
_NULLABLE = ("temperature", "max_tokens")  # null in the parameters leaves them to the service


class PanelForm(w.GridBox):
    """The form; `js/src/panel.css` lays it out.

    Attributes:
        prompt, model, temperature, max_tokens, system, params: What a task is made of.
        chat: Whether the next message continues what is shown.
        settings, earlier: Open the folds of the parameters and of the earlier tasks.
        submit_button, new_button: Send it, begin anew.
    """

    def __init__(self, *, model: str, history: w.DOMWidget) -> None:
        self.prompt = w.Textarea(rows=3, tooltip="Prompt")
        self.model = ModelPicker(value=model, options=tuple(filter(None, [model])))
        self.model_note = w.Label(layout=w.Layout(display="none"))
        self._make_parameters()
        self._make_buttons()
        row = w.Box(
            [
                self.model,
                self.chat,
                self.settings,
                self.earlier,
                self.new_button,
                self.submit_button,
            ]
        )
        fold = w.GridBox([self.system, self.temperature, self.max_tokens, self.params])
        self._fields = {
            "prompt": self.prompt,
            "model": self.model,
            "temperature": self.temperature,
            "maxTokens": self.max_tokens,
            "system": self.system,
            "params": self.params,
        }
        for name, field in self._fields.items():
            field.add_class(f"longtask-field-{name}")  # `js/src/fields.js` finds them by it
        for name, part in {
            "row": row,
            "settings": fold,
            "note": self.model_note,
            "history": history,
        }.items():
            part.add_class(f"longtask-form-{name}")
        super().__init__([self.prompt, row, self.model_note, fold, history])
        self.add_class("longtask-form")
        self.tell_mode()

    def _make_parameters(self) -> None:
        self.system = w.Textarea(description="System prompt", rows=2, style=_OWN_WIDTH)
        low, high = TEMPERATURE_RANGE
        self.temperature = w.BoundedFloatText(
            value=0.7, min=low, max=high, step=0.1, description="Temperature", style=_OWN_WIDTH
        )
        least, most = MAX_TOKENS_RANGE
        self.max_tokens = w.BoundedIntText(
            value=1000, min=least, max=most, step=50, description="Max tokens", style=_OWN_WIDTH
        )
        self.params = w.Textarea(
            description="Parameters",
            placeholder='JSON, such as {"top_p": 0.9, "temperature": null}; '
            "null leaves it to the model service",
            rows=1,
            style=_OWN_WIDTH,
        )

    def _make_buttons(self) -> None:
        self.chat = w.ToggleButton(description="Chat", tooltip="The next message continues")
        self.settings = w.ToggleButton(description="Settings", tooltip="System prompt, parameters")
        self.earlier = w.ToggleButton(description="Earlier tasks", tooltip="Open one again")
        self.submit_button = w.Button(
            description="Submit", button_style="primary", tooltip="Ctrl+Enter"
        )
        self.new_button = w.Button(description="New", tooltip="Begin a new conversation")
        for name in ("chat", "settings", "earlier", "new_button", "submit_button"):
            getattr(self, name).add_class(f"longtask-form-{name.removesuffix('_button')}")
        self.chat.observe(self.tell_mode, "value")

    def tell_mode(self, _: object = None) -> None:
        """Have the form say what its button does now."""
        is_chat = self.chat.value
        ask = "Ask on, or begin a conversation." if is_chat else "What to ask the model."
        self.prompt.placeholder = f"{ask} Ctrl+Enter sends, Shift+Escape cancels."
        self.submit_button.description = "Send" if is_chat else "Submit"
        self.new_button.layout.display = None if is_chat else "none"

    def read(self) -> dict[str, Any]:
        """Return what `kit.submit` is to be called with.

        Raises:
            SubmitError: There is no prompt, or the parameters are no JSON object.
        """
        if not self.prompt.value.strip():
            raise SubmitError('"prompt" is empty: expected text.', field="prompt")
        params = self._read_params()
        numbers = {"temperature": self.temperature.value, "max_tokens": self.max_tokens.value}
        numbers |= {name: params.pop(name) for name in _NULLABLE if name in params}
        return numbers | {
            "prompt": self.prompt.value,
            "model": self.model.value.strip() or None,
            "system": self.system.value.strip() or None,
            "params": params,
        }

    def _read_params(self) -> dict[str, Any]:
        text = self.params.value.strip()
        try:
            params = json.loads(text) if text else {}
        except ValueError as exc:
            problem = f"is no JSON: {exc}"
        else:
            if isinstance(params, dict):
                return params
            problem = f"is a JSON {type(params).__name__}"
        raise SubmitError(
            f'"params" {problem}. Expected an object, such as {{"top_p": 0.9}}.', field="params"
        )

    def fill(self, spec: TaskSpec, *, default_model: str) -> None:
        """Take what a task had."""
        self.prompt.value = spec.prompt
        self.model.value = spec.model or default_model
        self.system.value = spec.system or ""
        params = dict(spec.params)
        for name, field in (("temperature", self.temperature), ("max_tokens", self.max_tokens)):
            value = getattr(spec, name)
            if value is None:
                params[name] = None
            else:
                field.value = value
        self.params.value = json.dumps(params, ensure_ascii=False) if params else ""

    def take_typed(self, typed: object) -> None:
        """Take over the form as it stands in the page, before ipywidgets tells of it.

        In a busy cell the fields' own messages wait for its end, and those of ours don't.
        """
        values: Mapping[Any, Any] = typed if isinstance(typed, dict) else {}
        for name, value in values.items():
            field = self._fields.get(name)
            # What is no number is ignored as ipywidgets ignores it.
            with contextlib.suppress(ValueError, traitlets.TraitError):
                if field is not None and isinstance(value, str):
                    field.value = type(field.value)(value)
