"""About how many tokens a task takes, before anybody has counted them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longtask_kit.submit.spec import TaskSpec

_CHARS_A_TOKEN = 3.5
_UNKNOWN_ANSWER = 1000  # tokens, where nothing bounds it


def estimate_tokens(chars: int) -> int:
    """Return about how many tokens so many characters are."""
    return math.ceil(chars / _CHARS_A_TOKEN)


def estimate_prompt(spec: TaskSpec) -> int:
    """Return about how many tokens a prompt has: a bucket learns by how much that is wrong."""
    messages = spec.to_messages()
    chars = sum(len(m["content"]) for m in messages if isinstance(m.get("content"), str))
    parts = [m["content"] for m in messages if isinstance(m.get("content"), list | tuple)]
    texts = [part.get("text") for content in parts for part in content]
    chars += sum(len(text) if isinstance(text, str) else 1000 for text in texts)
    chars += len(json.dumps(spec.params.get("tools") or "", default=str))
    return estimate_tokens(chars) + 1


def bound_answer(spec: TaskSpec, *, begun: int = 0) -> int:
    """Return how many tokens an answer may have, or what is left of it when so many stand."""
    limit = spec.params.get("max_completion_tokens") or spec.max_tokens
    return max(1, limit - begun) if isinstance(limit, int) else _UNKNOWN_ANSWER
