"""Connections to one Redis: a shared one for commands, one each for whoever waits or listens."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from longtask_kit.local.redis_commands import CommandFacts, read_facts
from longtask_kit.local.redis_resp import BrokenReplyError, ReplyParser, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from longtask_kit.local.redis_resp import Command, Reply

_CONNECT_S = 5.0
_MAX_IDLE = 16
# A Redis that vanished without a word is noticed within a minute or so, not in hours.
_VANISHED_AFTER = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,
}

_Protocol = TypeVar("_Protocol", bound="RedisProtocol")


class RedisProtocol(asyncio.Protocol):
    """A connection that redis-py opened: TLS, password and database number are its part."""

    def adopt(self, connection: Any) -> None:  # noqa: ANN401 - private parts are untyped
        """Take over the transport; nothing may be on its way."""
        self._connection = connection  # whose end would close the transport
        self.transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        self.transport.set_protocol(self)

    def close(self) -> None:
        """Leave at once; safe to repeat."""
        self.transport.abort()
        self._connection._close()  # noqa: SLF001 - its public twin waits

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell redis-py, which warns of connections that nobody closed."""
        self._connection._close()  # noqa: SLF001


class Link(RedisProtocol):
    """A connection whose replies go to those who sent the commands, in their order.

    A caller that is cancelled leaves its place in the queue: its replies are dropped when they
    come, and nobody else gets them.
    """

    def __init__(self) -> None:
        self.is_open = True
        self._parser = ReplyParser()
        self._waiting: deque[tuple[asyncio.Future[list[Reply]], list[Reply], int]] = deque()

    def run(self, commands: Sequence[Command]) -> asyncio.Future[list[Reply]]:
        """Send all commands in one write; returns the future of their replies."""
        future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, [], len(commands)))
        self.transport.write(pack(commands))
        return future

    def data_received(self, data: bytes) -> None:
        """Hand out replies."""
        try:
            replies = self._parser.feed(data)
        except BrokenReplyError:
            self.close()
            return
        for reply in replies:
            future, received, count = self._waiting[0]
            received.append(reply)
            if len(received) == count:
                self._waiting.popleft()
                if not future.done():
                    future.set_result(received)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits; what was sent may or may not have been done."""
        super().connection_lost(exc)
        self.is_open = False
        for future, _, _ in self._waiting:
            if not future.done():
                future.set_exception(ConnectionError("the connection to Redis was lost"))
        self._waiting.clear()


class Engine:
    """One Redis, Valkey or the like.

    Args:
        redis_url: `unix://`, `redis://` or `rediss://`, with redis-py's options in its query.
    """

    def __init__(self, redis_url: str) -> None:
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
        self._pool = ConnectionPool.from_url(redis_url, **options)
        self._opening = asyncio.Lock()
        self._shared: Link | None = None
        self._idle: list[Link] = []
        self._facts: dict[bytes, CommandFacts] = {}

    async def open(self, make: Callable[[], _Protocol]) -> _Protocol:
        """Return a new connection that nobody shares; whoever opens it closes it."""
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        protocol = make()
        protocol.adopt(connection)
        return protocol

    async def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands that answer at once, on the connection that all share.

        Redis runs one command at a time anyway, and a write that holds several calls costs less.
        """
        link = self._shared
        if link is None or not link.is_open:
            link = await self._share()
        return await link.run(commands)

    async def run_apart(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands that may wait, on a connection where nobody waits for them."""
        while self._idle and not self._idle[-1].is_open:
            self._idle.pop()
        link = self._idle.pop() if self._idle else await self.open(Link)
        try:
            replies = await link.run(commands)
        except BaseException:
            link.close()  # given up, it must not take what comes later
            raise
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(link)
        else:
            link.close()
        return replies

    async def facts(self) -> dict[bytes, CommandFacts]:
        """Return what the engine says of its commands; asked for once."""
        if not self._facts:
            [rows] = await self.run([[b"COMMAND"]])
            self._facts = read_facts(rows)
        return self._facts

    def close(self) -> None:
        """Close what is not in use by a caller."""
        for link in filter(None, [self._shared, *self._idle]):
            link.close()

    async def _share(self) -> Link:
        async with self._opening:
            if self._shared is None or not self._shared.is_open:
                self._shared = await self.open(Link)
            return self._shared
