"""What models the configured service offers, for the panel's menu."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longtask_kit.errors import ConfigError
from longtask_kit.settings import secret
from longtask_kit.transport import TRANSPORT_ERRORS, open_client

if TYPE_CHECKING:
    from longtask_kit.settings import Settings

_TIMEOUT_S = 5.0


async def fetch_models(settings: Settings) -> dict[str, str]:
    """Return the service's models by name, each with what it says of itself, or "".

    The menu is a convenience: a service that does not answer, or not so, offers nothing.
    """
    base_url = settings.openai_base_url
    if base_url is None or settings.openai_api_key is None:
        return {}
    headers = {"Authorization": f"Bearer {secret(settings.openai_api_key)}"}
    try:
        async with open_client(base_url, timeout=_TIMEOUT_S, headers=headers) as client:
            answer = await client.get(f"{base_url.rstrip('/')}/models")
        answer.raise_for_status()
        listed = answer.json()["data"]
        return {str(model["id"]): str(model.get("description") or "") for model in listed}
    except (*TRANSPORT_ERRORS, ConfigError, ValueError, KeyError, TypeError, AttributeError):
        return {}
