"""Connections to one server: a shared one for commands, one each for whoever waits or listens."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from longtask_kit.local.redis.resp import BrokenReplyError, ReplyParser, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from longtask_kit.local.redis.resp import Command, Reply

_MAX_IDLE = 16

AnyProtocol = TypeVar("AnyProtocol", bound="RedisProtocol")


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


class Server:
    """One server: a connection that all share, and others for those who may wait or listen.

    Args:
        make_connection: Returns a connection of redis-py's that is not open yet.
    """

    def __init__(self, make_connection: Callable[[], Any]) -> None:
        self._make_connection = make_connection
        self._opening = asyncio.Lock()
        self._shared: Link | None = None
        self._idle: list[Link] = []

    async def open(self, make: Callable[[], AnyProtocol]) -> AnyProtocol:
        """Return a new connection that nobody shares; whoever opens it closes it."""
        connection = self._make_connection()
        await connection.connect()
        protocol = make()
        protocol.adopt(connection)
        return protocol

    async def connect(self) -> Link:
        """Return the shared connection, opened if need be; nothing has been sent if that fails."""
        async with self._opening:
            if self._shared is None or not self._shared.is_open:
                self._shared = await self.open(Link)
            return self._shared

    async def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands that answer at once, on the connection that all share.

        Redis runs one command at a time anyway, and a write that holds several calls costs less.
        """
        link = self._shared
        if link is None or not link.is_open:
            link = await self.connect()
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

    async def transact(self, commands: Sequence[Command]) -> list[Reply]:
        """Run all or nothing; returns what queueing them said and, last, the results."""
        return await self.run([[b"MULTI"], *commands, [b"EXEC"]])

    def close(self) -> None:
        """Close what is not in use by a caller."""
        for link in filter(None, [self._shared, *self._idle]):
            link.close()
