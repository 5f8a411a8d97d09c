"""A group as it is looked at: its table, and its x-ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from longtask_kit.client.group import TaskGroup
    from longtask_kit.widgets.xray_group import GroupXRay


class GroupShown:
    """What a `TaskGroup` shows of itself."""

    def xray(self) -> GroupXRay:
        """Return what overlapped and what waited, a row a task, on one time axis.

        As the last line of a cell it is live; `xray().svg` is the picture as it stands.
        """
        from longtask_kit.widgets.xray_group import GroupXRay

        return GroupXRay(cast("TaskGroup", self))

    def _ipython_display_(self) -> None:
        """Show progress and the table of rows, or print them where there are no widgets."""
        from longtask_kit.widgets.group_display import display_group

        display_group(cast("TaskGroup", self))
