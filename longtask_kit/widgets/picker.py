"""`ModelPicker`: a text field whose choices say what each model is."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

_STATIC = Path(__file__).parent / "static"


class ModelPicker(anywidget.AnyWidget):
    """A model's name, typed or chosen.

    Attributes:
        value: The name; any will do.
        options: The names that are offered.
        notes: What is said of them, by name.
    """

    _esm = _STATIC / "picker.js"
    value = traitlets.Unicode().tag(sync=True)
    options = traitlets.Tuple().tag(sync=True)
    notes = traitlets.Dict().tag(sync=True)

    def __repr__(self) -> str:
        return f"ModelPicker({self.value!r})"
