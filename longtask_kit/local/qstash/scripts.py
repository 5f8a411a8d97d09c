"""Runs the store's atomic steps: Lua (`lua/`) that Valkey runs, each with one JSON plan."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from importlib.resources import files
from typing import Literal

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from longtask_kit.local.redis.engine import Engine
from longtask_kit.local.redis.resp import Failure, Reply

EVENTS_KEPT = 10_000
RECONNECT_WAITS_S = (0.01, 0.1, 0.5)
_ROUTE = b"{qstash}:pending"  # any key of the slot that all are in

Name = Literal["publish", "settle", "record", "fire"]


class ScriptRunner:
    """Runs the scripts on one connection: Valkey runs one at a time anyway.

    redis-py takes longer to send a script than Valkey to run it. Replies come in the order of
    the calls, which the delivery engine relies on.
    """

    def __init__(self, redis_url: str) -> None:
        self._engine = Engine(redis_url)

    def close(self) -> None:
        """Close the connection."""
        self._engine.close()

    async def run(self, name: Name, plan: str) -> Reply:
        """Run a script with its plan; once more if the reply was lost, which each allows.

        Raises:
            RedisError: Valkey refuses, or does not answer.
        """
        for wait_s in RECONNECT_WAITS_S:
            try:
                return await self._run(name, plan)
            except (OSError, RedisConnectionError):
                await asyncio.sleep(wait_s)
        try:
            return await self._run(name, plan)
        except OSError as exc:
            raise RedisConnectionError(str(exc)) from exc

    async def _run(self, name: Name, plan: str) -> Reply:
        script, digest = _load_script(name)
        arguments = [b"1", _ROUTE, plan.encode(), b"%d" % EVENTS_KEPT]
        [reply] = await self._engine.run([[b"EVALSHA", digest.encode(), *arguments]])
        if isinstance(reply, Failure) and reply.startswith(b"NOSCRIPT"):
            [reply] = await self._engine.run([[b"EVAL", script.encode(), *arguments]])
        if isinstance(reply, Failure):
            raise ResponseError(reply.decode(errors="replace"))
        return reply


@cache
def _load_script(name: Name) -> tuple[str, str]:
    """Return a script and the digest that Valkey knows it by."""
    folder = files("longtask_kit.local.qstash") / "lua"
    source = (folder / "shared.lua").read_text() + (folder / f"{name}.lua").read_text()
    return source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
