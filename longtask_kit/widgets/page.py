"""The web pages of `longtask app`: the panel, and the dashboard."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from longtask_kit.client.kit import Kit
    from longtask_kit.widgets.dashboard import Dashboard
    from longtask_kit.widgets.panel import TaskPanel


def make_page(kit: Kit) -> TaskPanel | Dashboard:
    """Return what a page shows, as its address says.

    That is the panel, with the task of `/?task=ID`; or `/?view=dashboard`.
    """
    # Voila hands the page's request to its kernel as CGI would, see RFC 3875.
    asked = parse_qs(os.environ.get("QUERY_STRING", ""))
    if asked.get("view") == ["dashboard"]:
        return kit.dashboard()
    panel = kit.panel()
    panel.history.is_page = True
    for task_id in asked.get("task", [])[:1]:
        panel._act({"t": "open", "taskId": task_id})
    return panel
