"""The Redis behind the service, found out on first use: one server, or a cluster of them."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from longtask_kit.local.redis.cluster import Cluster
from longtask_kit.local.redis.commands import CommandFacts, read_facts
from longtask_kit.local.redis.dialect import (
    Dialect,
    has_other_answer,
    keys_to_type,
    translate_back,
)
from longtask_kit.local.redis.link import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from longtask_kit.local.redis.link import AnyProtocol
    from longtask_kit.local.redis.resp import Command, Reply

_CONNECT_S = 5.0
# A Redis that vanished without a word is noticed within a minute or so, not in hours.
_VANISHED_AFTER = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,
}


class Engine:
    """One Redis, Valkey or the like, or a cluster of them.

    Args:
        redis_url: `unix://`, `redis://` or `rediss://`, with redis-py's options in its query; of
            a cluster any node's.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._options = _make_options(redis_url)
        pool = ConnectionPool.from_url(redis_url, **self._options)
        self._entry = Server(pool.make_connection)
        # While a script runs, `SELECT` is refused: what ends it uses no database but the first.
        control = ConnectionPool.from_url(redis_url, **self._options)
        control.connection_kwargs["db"] = 0
        self._control = Server(control.make_connection)
        self._dialect = Dialect()
        self._finding_out = asyncio.Lock()
        self._target: Server | Cluster | None = None
        self._facts: dict[bytes, CommandFacts] = {}

    async def open(self, make: Callable[[], AnyProtocol]) -> AnyProtocol:
        """Return a new connection that nobody shares; whoever opens it closes it."""
        return await (self._target or await self._find_out()).open(make)

    async def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands that answer at once, on connections that all share."""
        target = self._target or await self._find_out()
        replies = await target.run(list(map(self._dialect.translate, commands)))
        return await self._translate_back(commands, replies)

    async def run_apart(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands that may wait, on a connection where nobody waits for them."""
        target = self._target or await self._find_out()
        replies = await target.run_apart(list(map(self._dialect.translate, commands)))
        return await self._translate_back(commands, replies)

    async def transact(self, commands: Sequence[Command]) -> list[Reply]:
        """Run all or nothing; returns what queueing them said and, last, the results."""
        target = self._target or await self._find_out()
        *queued, results = await target.transact(list(map(self._dialect.translate, commands)))
        if isinstance(results, list):
            results = await self._translate_back(commands, results)
        return [*queued, results]

    async def end_script(self) -> None:
        """End the script that runs now, unless it has written already; nothing if none runs."""
        kill: list[Command] = [[b"SCRIPT", b"KILL"], [b"FUNCTION", b"KILL"]]
        target = self._target or await self._find_out()
        await (self._control if target is self._entry else target).run_apart(kill)

    async def facts(self) -> dict[bytes, CommandFacts]:
        """Return what the engine says of its commands; asked for once."""
        if not self._facts:
            [rows] = await self._entry.run([[b"COMMAND"]])
            self._facts = read_facts(rows)
        return self._facts

    def close(self) -> None:
        """Close what is not in use by a caller."""
        self._entry.close()
        self._control.close()
        if self._target is not None:
            self._target.close()

    async def _translate_back(
        self, commands: Sequence[Command], replies: list[Reply]
    ) -> list[Reply]:
        others = [index for index, command in enumerate(commands) if has_other_answer(command)]
        if not others:
            return replies
        found = [key for index in others for key in keys_to_type(commands[index], replies[index])]
        keys = list(dict.fromkeys(found))
        kinds = await self.run([[b"TYPE", key] for key in keys]) if keys else []
        types = dict(zip(keys, kinds, strict=True))
        for index in others:
            replies[index] = translate_back(commands[index], replies[index], types)
        return replies

    async def _find_out(self) -> Server | Cluster:
        async with self._finding_out:
            if self._target is None:
                [hello] = await self._entry.run([[b"HELLO", b"2"]])  # a Redis before 6 has none
                if isinstance(hello, list) and b"cluster" in hello:
                    cluster = Cluster(self._redis_url, self._options, await self.facts())
                    await cluster.discover()
                    self._entry.close()
                    self._target = cluster
                else:
                    self._target = self._entry
            return self._target


def _make_options(redis_url: str) -> dict[str, Any]:
    """Return how redis-py opens connections."""
    options: dict[str, Any] = {
        "protocol": 2,  # section 3: doubles, maps and booleans in their RESP2 forms
        "socket_connect_timeout": _CONNECT_S,
        "socket_timeout": None,  # BLPOP 0 may take for ever
        "retry": Retry(NoBackoff(), 0),  # a command that was sent must not be sent again
        "driver_info": None,  # else each connection reads package metadata and names itself
    }
    if urlsplit(redis_url).scheme != "unix":
        options |= {
            "socket_keepalive": True,
            "socket_keepalive_options": {
                getattr(socket, name): value
                for name, value in _VANISHED_AFTER.items()
                if hasattr(socket, name)  # not every system has all
            },
        }
    return options
