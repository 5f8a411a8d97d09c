"""The versions that an app's handlers declare, where all who submit to it find them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longtask_kit.log.groups import FOR_EVER_S
from longtask_kit.log.keys import versions_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.log.redis import RedisClient


class VersionStore:
    """Versions by the names of handlers, of each app by its webhook."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def write(self, webhook_url: str, versions: Mapping[str, str]) -> None:
        """Write what an app's handlers declare, in the place of what they did before."""
        key = versions_key(webhook_url)
        told = [part for pair in versions.items() for part in pair]
        commands: list[list[Any]] = [["DEL", key]]
        if told:
            commands += [["HSET", key, *told], ["EXPIRE", key, FOR_EVER_S]]
        await self._redis.run(commands)

    async def read(self, webhook_url: str) -> dict[str, str]:
        """Return what an app's handlers declare; those that declare nothing are left out."""
        [reply] = await self._redis.run([["HGETALL", versions_key(webhook_url)]])
        return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
