"""Names of a task's things in Redis, and task ids."""

import base64
import hashlib
import re
import secrets

TASK_INDEX = "longtask:tasks"
"""Sorted set of task ids by creation time, for listings."""

OPEN_INDEX = "longtask:open"
"""Sorted set of ids of tasks that may not have ended, by when a sweep last looked at them, or 0."""

CHANGES = "longtask:changes"
"""Stream of what has become of tasks, the latest few thousand changes: what views of many read."""

CHANGE_KEYS = (CHANGES, *(f"longtask:{{{CHANGES}}}:{name}" for name in ("words", "former")))
"""The stream, and what its changes say in words, by task; in one cluster slot."""

GROUP_INDEX = "longtask:groups"
"""Sorted set of group ids by the time they last ran."""

REUSE_SECRET = "longtask:secret"  # noqa: S105 - its key
"""Holds what the names of contents are made with."""

_GROUP_ID = re.compile(r"group_[A-Za-z0-9_-]{8,64}")
_TASK_ID = re.compile(r"task_[A-Za-z0-9_-]{8,64}")


def new_task_id(seed: str = "") -> str:
    """Return a fresh id: `task_` and 128 random bits, url-safe, unguessable.

    Args:
        seed: A secret of at least as many bits, of which the same id is made each time.
    """
    return "task_" + _make_bits(seed)


def is_task_id(value: str) -> bool:
    """Tell whether `value` has the form of a task id; it may still be unknown."""
    return _TASK_ID.fullmatch(value) is not None


def task_key(task_id: str) -> str:
    """Name the hash that holds a task's state; the braces keep one task in one cluster slot."""
    return f"longtask:{{{task_id}}}"


def log_key(task_id: str) -> str:
    """Name the stream that holds a task's log."""
    return f"longtask:{{{task_id}}}:log"


def input_key(task_id: str) -> str:
    """Name the hash that holds what a task asks: the parts `0`, `1`, … of its JSON."""
    return f"longtask:{{{task_id}}}:input"


def script_keys(script: str, task_id: str) -> list[str]:
    """Return the keys that a script of a task touches, which it has to declare."""
    log, fence = log_key(task_id), f"{task_key(task_id)}:fence"
    more = {"compact": [f"{log}:new"], "create": [fence], "restore": [fence]}
    more["delete"] = [fence, f"{log}:new"]
    return [task_key(task_id), log, input_key(task_id), *more.get(script, ())]


def limit_keys(bucket: str) -> list[str]:
    """Return the keys of a limit: what is used of it, who waits by turn, and by time."""
    key = f"longtask:limit:{{{bucket}}}"
    return [key, f"{key}:turns", f"{key}:times"]


def channel_name(task_id: str) -> str:
    """Name the channel of a task's news; no braces, since it travels in a URL path."""
    return f"longtask:{task_id}"


def new_group_id(seed: str = "") -> str:
    """Return a fresh id: `group_` and 128 random bits, or as many of a secret `seed`."""
    return "group_" + _make_bits(seed)


def _make_bits(seed: str) -> str:
    if not seed:
        return secrets.token_urlsafe(16)
    return base64.urlsafe_b64encode(hashlib.sha256(seed.encode()).digest()[:16]).decode()[:22]


def is_group_id(value: str) -> bool:
    """Tell whether `value` has the form of a group's id; it may still be unknown."""
    return _GROUP_ID.fullmatch(value) is not None


def group_key(group_id: str) -> str:
    """Name the hash that holds a group's facts."""
    return f"longtask:{{{group_id}}}"


def group_rows_key(group_id: str) -> str:
    """Name the hash that holds a group's rows, pages of task ids."""
    return f"longtask:{{{group_id}}}:rows"


def group_name_key(name: str) -> str:
    """Name the pointer from a group's name, as `name_group` makes it, to its id."""
    return f"longtask:group-name:{name}"


def versions_key(webhook_url: str) -> str:
    """Name the hash of what an app's handlers declare of themselves."""
    return f"longtask:versions:{hashlib.sha256(webhook_url.encode()).hexdigest()[:24]}"


def reuse_key(content: str) -> str:
    """Name the pointer from a content's name to the task that answers it."""
    return f"longtask:reuse:{content}"


def chat_key(name: str) -> str:
    """Name the pointer from a chat, by a name made with the secret, to its latest task."""
    return f"longtask:chat:{name}"
