"""The notebook's face: the output area of a task, the panel around it, what is saved of them.

Python holds the state and decides, JavaScript (`js/`, built into `static/`) draws. Each name loads
on first use: what writes a saved output needs no widgets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longtask_kit.widgets.dashboard import Dashboard
    from longtask_kit.widgets.group import GroupOutput
    from longtask_kit.widgets.output import TaskOutput
    from longtask_kit.widgets.panel import TaskPanel

__all__ = ["Dashboard", "GroupOutput", "TaskOutput", "TaskPanel"]

_MODULES = {
    "Dashboard": "dashboard",
    "GroupOutput": "group",
    "TaskOutput": "output",
    "TaskPanel": "panel",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Load a name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
