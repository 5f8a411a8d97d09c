"""Ids of tasks that came through a front end: whose they are can be told from the id itself.

An id that a client chooses (a chat's, a run's, an `Idempotency-Key`) leads to the same task each
time, and to another one for another owner. Nothing is stored for it: what names the task is an HMAC
with the secret that lies in Redis.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode

_PART = 22  # characters of 128 bits


def name_owner(*, key: str, owner: str | None) -> str:
    """Return what a caller's ids are bound to: what the app says of him, else the key he has."""
    if owner is not None:
        return f"owner {_digest(owner)}"
    return f"key {_digest(key)}" if key else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class Ids:
    """The ids of one owner.

    Args:
        secret: Of this Redis.
        owner: As `name_owner` says.
    """

    def __init__(self, secret: str, owner: str) -> None:
        self._secret, self._owner = secret.encode(), owner

    def make(self) -> str:
        """Return a fresh task id."""
        return self._seal(secrets.token_urlsafe(16))

    def find(self, kind: str, chosen: str) -> str:
        """Return the task id that an id of the client's choice leads to."""
        return self._seal(self._name(kind, chosen))

    def has(self, task_id: str) -> bool:
        """Tell whether a task is this owner's."""
        head = task_id.removeprefix("task_")[:_PART]
        return hmac.compare_digest(task_id.encode(), self._seal(head).encode())

    def _seal(self, head: str) -> str:
        return f"task_{head}{self._name('task', head)}"

    def _name(self, kind: str, chosen: str) -> str:
        text = "\n".join((kind, self._owner, chosen))  # only the last may hold a line's end
        digest = hmac.digest(self._secret, text.encode(errors="surrogatepass"), "sha256")
        return urlsafe_b64encode(digest).decode()[:_PART]
