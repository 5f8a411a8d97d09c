"""What Redis says unasked, as SSE bytes: pub/sub messages and `MONITOR` lines (section 4)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longtask_kit.local.redis.link import RedisProtocol
from longtask_kit.local.redis.resp import BrokenReplyError, Failure, ReplyParser, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from longtask_kit.local.redis.resp import Command, Reply

_KEEPALIVE = b": keepalive\n\n"  # a comment, which no SSE client passes on (section 4.3)
# Beyond the buffers of the connection itself; Valkey gives up its own slow subscribers at as much.
_MAX_PENDING_BYTES = 8 * 1024 * 1024
_MAX_PENDING_BYTES_OF_ALL = 256 * 1024 * 1024
_MAX_CACHED_BYTES = 4096
_MAX_CACHE_ITEMS = 64


@dataclass(slots=True)
class Backlog:
    """What waits for all readers of a service together: ten thousand slow ones are its limit too.

    Attributes:
        size_bytes: How much that is.
    """

    size_bytes: int = 0


class Listener(RedisProtocol):
    """A connection of its own for one reader, so that `PUBLISH` counts it as one.

    Args:
        encode: Makes a frame of each reply.
        cache: Frames of bytes that came before, shared by all listeners with this `encode`: to a
            channel's readers Redis sends the same bytes.
        backlog: Of all listeners of the service.
        heartbeat_s: Longest silence before a comment, in seconds, > 0.
        on_overflow: Called when the reader is so far behind that what waits for it would only
            grow; the listener has ended then.
    """

    def __init__(
        self,
        encode: Callable[[Reply], bytes],
        cache: dict[bytes, bytes],
        backlog: Backlog,
        *,
        heartbeat_s: float,
        on_overflow: Callable[[], object],
    ) -> None:
        self.failure: bytes | None = None
        self._encode, self._cache, self._backlog = encode, cache, backlog
        self._heartbeat_s = heartbeat_s
        self._on_overflow = on_overflow
        self._parser = ReplyParser()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._is_ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._heard_at = 0.0
        self._beating: asyncio.TimerHandle | None = None  # none before the acknowledgement

    def listen(self, command: Command) -> None:
        """Send what makes Redis talk."""
        self.transport.write(pack([command]))

    async def read(self) -> bytes:
        """Return all frames that have come since the last call, at least one; empty at the end."""
        if not self._pending and not self._is_ended:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        frames = b"".join(self._pending)
        self._forget_pending()
        return frames

    def data_received(self, data: bytes) -> None:
        """Encode replies, or find them encoded."""
        if self._is_ended:
            return
        is_whole = self._parser.is_between_replies
        frames = self._cache.get(data) if is_whole else None
        if frames is None:
            frames = self._encode_all(data)
            if is_whole and self._parser.is_between_replies and self.failure is None:
                self._remember(data, frames)
        self._heard_at = self._loop.time()
        if self._beating is None:
            self._beating = self._loop.call_later(self._heartbeat_s, self._beat)
        self._add(frames)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; what has come can still be read."""
        super().connection_lost(exc)
        self._is_ended = True
        self._stop_beating()
        self._wake()

    def close(self) -> None:
        """Leave Redis at once, which counts the reader no more."""
        self._forget_pending()
        self._stop_beating()
        super().close()

    def _remember(self, data: bytes, frames: bytes) -> None:
        if len(data) <= _MAX_CACHED_BYTES:
            while len(self._cache) >= _MAX_CACHE_ITEMS:
                del self._cache[next(iter(self._cache))]  # the oldest
            self._cache[data] = frames

    def _encode_all(self, data: bytes) -> bytes:
        try:
            replies = self._parser.feed(data)
        except BrokenReplyError:
            self.close()
            return b""
        for reply in replies:
            if type(reply) is Failure:
                self.failure = reply
        return b"".join(map(self._encode, replies))

    def _add(self, frames: bytes) -> None:
        if not frames:
            return
        self._pending.append(frames)
        self._pending_bytes += len(frames)
        self._backlog.size_bytes += len(frames)
        is_too_much = (
            self._pending_bytes > _MAX_PENDING_BYTES
            or self._backlog.size_bytes > _MAX_PENDING_BYTES_OF_ALL
        )
        # One message may be larger than that: it is the ones behind it that tell of a slow reader.
        if is_too_much and len(self._pending) > 1:
            self._is_ended = True
            self.close()
            self._on_overflow()
        self._wake()

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._backlog.size_bytes -= self._pending_bytes
        self._pending_bytes = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.cancel()

    def _beat(self) -> None:
        """Fill a silence; moved rather than cancelled by each message, which costs less."""
        silence_s = self._loop.time() - self._heard_at
        wait_s = self._heartbeat_s - silence_s
        if wait_s <= 0.001:
            wait_s = self._heartbeat_s
            self._heard_at = self._loop.time()
            if not self._pending:
                self._add(_KEEPALIVE)
        self._beating = self._loop.call_later(wait_s, self._beat)
