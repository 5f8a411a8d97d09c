"""Which task a chat has come to: its latest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longtask_kit.log.keys import chat_key

if TYPE_CHECKING:
    from longtask_kit.log.redis import RedisClient


class ChatStore:
    """The latest task of each chat; kept as long as a task's record is, from the last look on."""

    def __init__(self, redis: RedisClient, *, ttl_s: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s

    async def point(self, name: str, task_id: str) -> None:
        """Lead a chat to a task."""
        await self._redis.run([["SET", chat_key(name), task_id, "EX", self._ttl_s]])

    async def find(self, name: str) -> str | None:
        """Return a chat's latest task, or None."""
        [found] = await self._redis.run([["GETEX", chat_key(name), "EX", self._ttl_s]])
        return None if found is None else str(found)
