"""How a task that failed is told to an OpenAI SDK: its HTTP status and code. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_BUSY = frozenset({"rate_limit", "limit", "rate_limit_exceeded", "http_429"})
_STATUSES = {
    "model_not_found": 404,
    "invalid_api_key": 401,
    "key_gone": 401,
    "insufficient_quota": 429,
    "unknown_handler": 400,
}
# openai_errors.py says so of an answer; a service's own code (`unsupported_value`) tells no status.
_ANSWERED = re.compile(r"The model service answered (4\d\d)\b")
_WORTH_ANOTHER = (408, 409)
_BY_STATUS = {401: "invalid_api_key", 404: "model_not_found"}


class Failure(NamedTuple):
    """What a caller is told."""

    status_code: int
    code: str


def find_failure(message: str, code: str | None) -> Failure:
    """Return what to tell of a task's error: 4xx for what no repetition mends, else 502.

    SDKs repeat a 5xx by themselves.

    Args:
        message: The task's error.
        code: Its code.
    """
    code = code or ""
    if code in _BUSY:
        return Failure(429, "rate_limit_exceeded")
    status = _STATUSES.get(code) or _read_status(message, code)
    if status is None or status in _WORTH_ANOTHER:
        return Failure(502, "server_error")
    return Failure(status, _BY_STATUS.get(status, code) if code.startswith("http_") else code)


def _read_status(message: str, code: str) -> int | None:
    found = re.fullmatch(r"http_(4\d\d)", code) or _ANSWERED.match(message)
    return int(found[1]) if found else None
