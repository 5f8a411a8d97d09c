"""The notebook's face: the output area of a task, and the panel around it.

Python holds the state and decides, JavaScript (`js/`, built into `static/`) draws.
"""

from longtask_kit.widgets.output import TaskOutput
from longtask_kit.widgets.panel import TaskPanel

__all__ = ["TaskOutput", "TaskPanel"]
