"""A kit as it is looked at: its panel and its dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from longtask_kit.client.kit import Kit
    from longtask_kit.widgets import Dashboard, TaskPanel


class KitShown:
    """What a `Kit` shows in a notebook."""

    def panel(self) -> TaskPanel:
        """Return the notebook panel: a form, the live output of its task, earlier tasks."""
        from longtask_kit.widgets import TaskPanel

        return TaskPanel(cast("Kit", self))

    def dashboard(self) -> Dashboard:
        """Return what happens: tasks and groups, the queue, each service's health, the limits.

        As the last line of a cell it is live while it is seen, for two Redis commands a second at
        most; a click opens a task's card. Saved, it is a table of the newest.
        """
        from longtask_kit.widgets import Dashboard

        return Dashboard(cast("Kit", self))
