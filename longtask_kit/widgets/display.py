"""A task as the last line of a cell: live while it runs, then static text that stays.

A saved notebook keeps a widget only by its id, which nothing can draw after a restart. So when the
task ends, its live output is replaced by text and HTML, readable on a web page, after a restart,
and in an untrusted copy.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from longtask_kit.widgets.saved import make_bundle

if TYPE_CHECKING:
    from IPython.core.display_functions import DisplayHandle

    from longtask_kit.client.feed import FeedState
    from longtask_kit.client.task import Task
    from longtask_kit.widgets.output import TaskOutput

_live: WeakKeyDictionary[Task, TaskOutput] = WeakKeyDictionary()


def display_task(task: Task) -> None:
    """Show a task in a notebook, or print it where there are no widgets."""
    if not _is_kernel():
        from longtask_kit.client.terminal import print_stream

        print_stream(task)
        return
    from IPython.display import display

    if task._feed.state.is_over:
        display(make_bundle(task.snapshot()), raw=True)  # type: ignore[no-untyped-call]
        return
    from longtask_kit.widgets.output import TaskOutput

    output = _live.get(task)
    if output is None or not output.is_watching:
        # Several cells that show a task are views of one output: its text is sent once.
        output = _live[task] = TaskOutput(task)
    handle: DisplayHandle = display(output, display_id=True)  # type: ignore[no-untyped-call]
    _replace_when_over(task, output, handle)


def _replace_when_over(task: Task, output: TaskOutput, handle: DisplayHandle) -> None:
    """Replace the live output once, on the kit's thread, when the task has ended.

    At once: a cell that awaits the task must not end before its output is what will be saved.
    """

    def look(state: FeedState) -> None:
        if state.is_over:
            stop()
            _live.pop(task, None)
            handle.update(make_bundle(task._feed.copy()), raw=True)  # type: ignore[no-untyped-call]
            # After the last draw, for views elsewhere ("Create New View for Output").
            task._door.call_later(0.2, output.close)

    stop = task._feed.listen(look)
    task._feed.follow()
    look(task._feed.state)


def _is_kernel() -> bool:
    """Tell whether we run in a Jupyter kernel rather than in a terminal or a script."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")
