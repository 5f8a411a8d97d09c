"""Names of a task's things in Redis, and task ids."""

import re
import secrets

TASK_INDEX = "longtask:tasks"
"""Sorted set of task ids by creation time, for listings."""

OPEN_INDEX = "longtask:open"
"""Sorted set of ids of tasks that may not have ended, by the time they were last looked at."""

_TASK_ID = re.compile(r"task_[A-Za-z0-9_-]{8,64}")


def new_task_id() -> str:
    """Return a fresh id: `task_` and 128 random bits, url-safe, unguessable."""
    return "task_" + secrets.token_urlsafe(16)


def is_task_id(value: str) -> bool:
    """Tell whether `value` has the form of a task id; it may still be unknown."""
    return _TASK_ID.fullmatch(value) is not None


def task_key(task_id: str) -> str:
    """Name the hash that holds a task's state; the braces keep one task in one cluster slot."""
    return f"longtask:{{{task_id}}}"


def log_key(task_id: str) -> str:
    """Name the stream that holds a task's log."""
    return f"longtask:{{{task_id}}}:log"


def script_keys(script: str, task_id: str) -> list[str]:
    """Return the keys that a script of a task touches, which it has to declare."""
    log = log_key(task_id)
    return [task_key(task_id), log, *([f"{log}:new"] if script == "compact" else [])]


def channel_name(task_id: str) -> str:
    """Name the channel of a task's news; no braces, since it travels in a URL path."""
    return f"longtask:{task_id}"
