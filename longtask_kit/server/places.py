"""Where what comes over HTTP runs, and whose contents it is."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from longtask_kit.server.http_edge import BadRequestError
from longtask_kit.submit.asked import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.settings import Settings
    from longtask_kit.submit.spec import TaskSpec

# Who has no key is nobody we know, least of all a kernel with the services' own settings: its
# contents and its groups' names have no owner.
_UNKNOWN = "unknown"


def check_reuse(key: str) -> None:
    """Refuse to keep or join tasks where there is no telling who is who.

    Raises:
        BadRequestError: The app has no API key.
    """
    if not key:
        raise BadRequestError(
            '"reuse" needs an app with an API key (LONGTASK_API_KEY): send false without one.'
        )


def find_place(
    settings: Settings, key: str, specs: Sequence[TaskSpec | None], *, model: str = ""
) -> Place:
    """Return where tasks run, as far as it is part of what they ask.

    Args:
        settings: The app's.
        key: Its API key, whose holders share what is asked; empty without one.
        specs: The tasks.
        model: What runs where they name none; else the app's.
    """
    # What another service answers, or a recording, is not kept as an answer of the app's own.
    others = {spec.endpoint for spec in specs if spec is not None and spec.endpoint}
    return Place(
        model=model or settings.model,
        endpoint=",".join(sorted(others)) or settings.openai_base_url or "",
        owner=hashlib.sha256(key.encode()).hexdigest() if key else _UNKNOWN,
    )
