"""Identity by content: what makes two tasks the same question, as one short name.

A task's id is random. Its content has a name, too, an HMAC with a secret that lies in Redis: who
sees the name learns nothing of the content, and can't make one for a content of his own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longtask_kit.submit.spec import TaskSpec

VERSION = 1
"""Of what goes in and how: another one names everything anew."""


def name_content(
    spec: TaskSpec,
    *,
    secret: str,
    model: str,
    endpoint: str = "",
    handler_version: str = "",
    sample: int = 0,
) -> str:
    """Return the name of what a task asks: 32 hex digits.

    Args:
        spec: What runs; its `model` is replaced by `model`.
        secret: Of this Redis, and of who asks.
        model: As it is resolved where it runs.
        endpoint: URL of the model service, without a key.
        handler_version: As the handler declares it.
        sample: Which of several answers to one question, from 0 on.
    """
    metadata = dict(spec.metadata) if spec.handler != "openai" else {}
    content = [
        VERSION,
        [spec.handler, handler_version, spec.api or "chat", endpoint.rstrip("/"), model],
        spec.to_messages(),
        [spec.max_tokens, None if spec.temperature is None else float(spec.temperature)],
        dict(spec.params),
        metadata,
        sample,
    ]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]


def name_group(name: str, *, owner: str) -> str:
    """Return what a group of this name and owner is found by."""
    return hashlib.sha256(f"{owner}\n{name}".encode()).hexdigest()[:32]
