"""Where to: the hosted services, the local stack, or an app's HTTP API."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from longtask_kit.client.door import Door, ServiceBackend
from longtask_kit.client.http_api import HttpBackend
from longtask_kit.client.kit import Kit
from longtask_kit.errors import ConfigError
from longtask_kit.settings import CLIENT_NAMES, Settings, check_secret, check_url

if TYPE_CHECKING:
    from collections.abc import Callable


_HOSTED_NAMES = ("QSTASH_TOKEN", "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN")


def connect(
    url: str | None = None,
    *,
    api_key: str | None = None,
    settings: Settings | None = None,
    quiet: bool = False,
) -> Kit:
    """Return a kit, and say in one line which services it talks to.

    With `url`, only the HTTP API of a webhook app is used. Else, when the Upstash variables are
    set in the environment or `.env`, the services they name; when none is, the local stack, which
    is started or joined.

    Args:
        url: Base URL of a webhook app, e.g. `https://app.example.com`.
        api_key: Its `LONGTASK_API_KEY`, if it has one; only with `url`.
        settings: Instead of the environment.
        quiet: Print nothing.

    Raises:
        ConfigError: Some of the names are set, others are missing.
        LocalStackError: The local stack could not start, or one of another version has tasks under
            way; the message says the cure.
    """
    if url is not None:
        return _announce(_open_http_kit(url, api_key), quiet)
    if api_key is not None:
        raise ConfigError("`api_key` goes with a URL: connect('https://…', api_key=…).")
    settings = settings or Settings()
    if is_hosted(settings):
        settings.require(*CLIENT_NAMES)
        return _announce(_open_kit(settings, describe(settings)), quiet)

    from longtask_kit.local.stack import LocalStack

    stack = LocalStack.join_or_start()

    def revive() -> Settings | None:
        nonlocal stack
        ended, stack = stack, LocalStack.join_or_start()
        return None if stack.pid == ended.pid else stack.settings

    return _announce(_open_kit(stack.settings, LocalStack.DESCRIPTION, revive), quiet)


def is_hosted(settings: Settings) -> bool:
    """Tell whether the environment names services, so that no local stack is needed."""
    return any(settings.find(name) is not None for name in _HOSTED_NAMES)


def _open_http_kit(url: str, api_key: str | None) -> Kit:
    try:
        base_url = check_url(url)
    except ValueError as exc:
        raise ConfigError(f"connect(url): {exc}.") from exc
    try:
        if api_key is not None:
            api_key = api_key.strip()
            check_secret(api_key)
    except ValueError as exc:
        raise ConfigError(f"connect(…, api_key=…): the key {exc}.") from exc
    door = Door(lambda: HttpBackend(base_url, api_key=api_key))
    return Kit(door, f"HTTP API at {base_url}")


def _open_kit(
    settings: Settings, description: str, revive: Callable[[], Settings | None] | None = None
) -> Kit:
    door = Door(lambda: ServiceBackend(settings), settings=settings, revive=revive)
    return Kit(door, description)


def describe(settings: Settings) -> str:
    """Name the services that settings lead to, without a secret."""
    queue, redis = urlsplit(settings.qstash_url), urlsplit(settings.upstash_redis_rest_url or "")
    return f"QStash {queue.netloc}, Redis {redis.netloc}, webhook {settings.base_url}"


def _announce(kit: Kit, quiet: bool) -> Kit:
    if not quiet:
        sys.stdout.write(f"longtask_kit: {kit.description}\n")
    return kit
