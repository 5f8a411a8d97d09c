"""Who comes to an app of the local stack without its key: may see the demo, and spend nothing.

Its port is open to every process of this machine, and behind it is the model key of one user.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import StreamExpiredError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fastapi import Request

    from longtask_kit.log.record import TaskRecord

# Of one task, which they know by its id; whatever else there is wants the key.
_OF_A_TASK = (
    *("/start", "/stream", "/cancel", "/retry", "/try-now"),
    *("/{task_id}", "/{task_id}/input", "/{task_id}/next-try"),
)


class Guests:
    """The rule for callers of `/api/tasks` who lack the key.

    Args:
        api_key: The key.
        is_own: Whether a model is one of the stack's own, which cost nothing.
        default_model: What runs when a task names none.
    """

    def __init__(self, api_key: str, *, is_own: Callable[[str], bool], default_model: str) -> None:
        self.api_key = api_key
        self._is_own = is_own
        self._default_model = default_model

    def admit(self, wire: Mapping[str, Any]) -> bool:
        """Tell whether a task is one that guests may start, read and end.

        Args:
            wire: What it asks, or its record's brief of that.
        """
        model = wire.get("model") or self._default_model
        is_free = isinstance(model, str) and self._is_own(model)
        return is_free and wire.get("handler", "openai") == "openai" and not wire.get("endpoint")

    async def may_call(
        self, request: Request, read: Callable[[str], Awaitable[TaskRecord]]
    ) -> bool:
        """Tell whether a guest may make this call of `/api/tasks`.

        Args:
            request: The call; what is wrong with it is its handler's to say.
            read: Returns a task's record, or raises StreamExpiredError.
        """
        call = request.scope["route"].path.rpartition("/api/tasks")[2]
        if call not in _OF_A_TASK:
            return False
        body = await _read_json(request)
        if (request.method, call) == ("POST", "/start"):
            return self.admit(body) and not body.get("reuse")  # what is kept is the key's holder's
        # Where the handler will find it, and nowhere else: two ids could name two tasks.
        told = body if request.method == "POST" else request.query_params
        task_id = request.path_params.get("task_id") or told.get("taskId")
        if not isinstance(task_id, str) or not task_id:
            return True
        try:
            return self.admit((await read(task_id)).wire)
        except StreamExpiredError:
            return True


async def _read_json(request: Request) -> dict[str, Any]:
    """Return the body, empty if it is no object."""
    try:
        body = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
