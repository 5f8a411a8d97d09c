"""`SseResponse`: Server-Sent Events, written to the server's `send` as they come.

FastAPI's own (`fastapi.sse`) hands each frame through two memory streams, a timeout and a
checkpoint, which at 200 readers of one task cost more than all else together. Here the request's
own task takes a frame and sends it; another waits for the client to leave, and a timer fills
silence. Headers, comment and interval are FastAPI's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from longtask_kit.errors import LongTaskError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from starlette.types import Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

_HEARTBEAT = b": ping\n\n"  # a comment, which no SSE client passes on
_HEARTBEAT_S = 15.0
_FRAMES_A_TURN = 32  # of a replay, where nothing is waited for; then others have the loop

SSE_DOCUMENTED: dict[str, Any] = {
    "content": {
        "text/event-stream": {
            "itemSchema": {
                "type": "object",
                "required": ["data"],
                "properties": {
                    "data": {"type": "string", "contentMediaType": "application/json"},
                    "id": {"type": "string"},
                },
            }
        }
    }
}
"""A route's OpenAPI documentation of status 200: frames of JSON (OpenAPI 3.2, 4.14.4)."""


class _ClientLeftError(Exception):
    """Nobody reads any more."""


class SseResponse(StreamingResponse):
    """Sends frames until there are no more or the client leaves, and closes their generator.

    Args:
        frames: Whole frames, as bytes.
        heartbeat_s: Longest silence before a comment, in seconds, > 0.
        heartbeat: The comment.
        headers: Further ones.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        heartbeat_s: float = _HEARTBEAT_S,
        heartbeat: bytes = _HEARTBEAT,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # The last header is for nginx, which otherwise gathers before it passes on.
        own = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(frames, headers=own | dict(headers or {}), media_type="text/event-stream")
        self._frames = frames
        self._heartbeat_s = heartbeat_s
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Not Starlette's way, anyio's task group: that cancels again and again until all has ended,
        also what is closing a connection, which then stays open.

        Where nothing more can be read, as of a task that is deleted, that is a line in the log. The
        response is left open then, so that the server breaks the connection: nobody shall take
        what has come for all.
        """
        head = {"status": self.status_code, "headers": self.raw_headers}
        try:
            async with contextlib.aclosing(self._frames), asyncio.TaskGroup() as group:
                watching = group.create_task(_wait_until_left(receive))
                pulse = _Pulse(send, group, self._heartbeat_s, self._heartbeat)
                try:
                    await pulse.send({"type": "http.response.start", **head})
                    await self._send_frames(pulse)
                finally:
                    pulse.stop()
                await pulse.send(_make_part(b"", more_body=False))
                watching.cancel()
        except* _ClientLeftError:
            pass
        except* LongTaskError as errors:
            for error in errors.exceptions:
                logger.warning("A stream is broken off: %s", error)
        if self.background is not None:
            await self.background()

    async def _send_frames(self, pulse: _Pulse) -> None:
        count = 0
        async for frame in self._frames:
            await pulse.send(_make_part(frame))
            count += 1
            if count % _FRAMES_A_TURN == 0:
                await asyncio.sleep(0)


class _Pulse:
    """Sends, and fills silence by comments; its timer is moved by frames only when it is due."""

    def __init__(
        self, send: Send, group: asyncio.TaskGroup, heartbeat_s: float, heartbeat: bytes
    ) -> None:
        self._send, self._group, self._heartbeat_s = send, group, heartbeat_s
        self._heartbeat = heartbeat
        # ASGI promises nothing for two sends at once. First come, first served: a comment that
        # waits goes out before the end does.
        self._sending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._is_over = False
        self._timer = self._loop.call_later(heartbeat_s, self._beat)

    def stop(self) -> None:
        """Begin no comment any more."""
        self._is_over = True
        self._timer.cancel()

    async def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            _ClientLeftError: The server says so; others just take what is sent.
        """
        async with self._sending:
            try:
                await self._send(message)
            except OSError as exc:  # as of ASGI 2.4
                raise _ClientLeftError from exc
            self._sent_at = self._loop.time()

    def _beat(self) -> None:
        wait_s = self._sent_at + self._heartbeat_s - self._loop.time()
        if wait_s <= 0.001:
            wait_s = self._heartbeat_s
            if not self._sending.locked():  # else the client is what is slow
                self._group.create_task(self._send_comment())
        self._timer = self._loop.call_later(wait_s, self._beat)

    async def _send_comment(self) -> None:
        if not self._is_over:
            await self.send(_make_part(self._heartbeat))


def _make_part(body: bytes, *, more_body: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more_body}


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _ClientLeftError
