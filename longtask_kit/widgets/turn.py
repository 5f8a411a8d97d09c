"""`Turn`: what was asked, above its answer, and what can be asked again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from longtask_kit.log.record import read_text
from longtask_kit.widgets.output import TaskOutput, hear_in_busy_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from longtask_kit.client.task import Task

_STATIC = Path(__file__).parent / "static"


class Turn(anywidget.AnyWidget):
    """One question of the panel, and its answer.

    Attributes:
        said: What the page shows; the keys are those of `js/src/turn.js`.
        output: The answer.
        act: Called with the turn and what was clicked.
    """

    _esm = _STATIC / "turn.js"
    said = traitlets.Dict().tag(sync=True)

    def __init__(self, act: Callable[[Turn, dict[str, Any]], None], *, label: str = "") -> None:
        self.output = TaskOutput(label=label)
        super().__init__()
        self.on_msg(lambda _, message, __: act(self, message))
        hear_in_busy_cells(self)

    def __repr__(self) -> str:
        return f"Turn({self.output!r})"

    @property
    def task(self) -> Task | None:
        """Whose answer it is, or None."""
        return self.output.task

    def show(self, task: Task, *, label: str) -> None:
        """Show a task."""
        self.output.show(label=label)
        self.output.watch(task)

    def say(self, **changes: object) -> None:
        """Change what the page shows around the answer."""
        self.said = self.said | changes

    def close(self) -> None:
        """Take it, and its answer, off the page; the task is left alone."""
        self.output.unwatch()
        self.output.close()
        super().close()


def list_said_before(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return what stands before the last question of a conversation, as role and text."""
    asked = [at for at, message in enumerate(messages) if message["role"] == "user"]
    before = messages[: asked[-1]] if asked else messages
    return [
        {"role": str(message["role"]), "text": read_text(message.get("content"))}
        for message in before
        if message["role"] in ("user", "assistant")
    ]
