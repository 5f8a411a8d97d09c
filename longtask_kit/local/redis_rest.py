"""The Upstash Redis REST protocol in front of any Redis: commands, pipelines, SSE pub/sub.

The wire is described in `wire/upstash_redis.md`; section numbers in the comments are its own.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import logging
from typing import TYPE_CHECKING, Any

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from longtask_kit.local.redis_wire import (
    Command,
    RefusedError,
    Reply,
    ToText,
    encode_frame,
    encode_reply,
    error_text,
    find_refusal,
    may_block,
    pack,
    parse_command,
    parse_pipeline,
    parse_query,
    path_command,
    split_path,
    to_base64,
    to_utf8,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from redis.asyncio.connection import AbstractConnection
    from starlette.types import Receive, Scope, Send

_logger = logging.getLogger(__name__)
_METHODS = frozenset({"HEAD", "GET", "POST", "PUT"})
_MAX_BODY_BYTES = 10 * 1024 * 1024

_STREAMING = frozenset({b"subscribe", b"psubscribe"})
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_STREAM_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class _ClientGoneError(Exception):
    """The client closed its connection; there is nobody to answer."""


def create_redis_rest_app(redis_url: str, *, token: str, heartbeat_s: float = 15.0) -> RedisRest:
    """Return the ASGI app that speaks Upstash Redis REST for the Redis at `redis_url`.

    Args:
        redis_url: `unix://`, `redis://` or `rediss://`; connected to on first use.
        token: The bearer token of every call.
        heartbeat_s: Longest silence of a subscription before a comment is sent, in seconds, > 0.
    """
    return RedisRest(redis_url, token=token, heartbeat_s=heartbeat_s)


class RedisRest:
    """The ASGI app; `create_redis_rest_app` says what its arguments are."""

    _pool: ConnectionPool  # lives from the lifespan's start to its end

    def __init__(self, redis_url: str, *, token: str, heartbeat_s: float) -> None:
        self._redis_url = redis_url
        self._token = token.encode()
        self._heartbeat_s = heartbeat_s
        self._sync_tokens = itertools.count(1)
        self._streams: set[asyncio.Task[Any] | None] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; anything but http and lifespan is ignored."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    def end_streams(self) -> None:
        """End every subscription; call it before stopping a server that waits for them."""
        for handler in filter(None, self._streams):
            handler.cancel()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._pool = ConnectionPool.from_url(
            self._redis_url,
            protocol=2,  # section 3: doubles, maps and booleans in their RESP2 forms
            max_connections=4096,
            socket_timeout=None,  # BLPOP 0 may take for ever
            retry=Retry(NoBackoff(), 0),
            driver_info=None,  # else each connection reads package metadata and names itself
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.end_streams()
        await self._pool.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive, send)
        except RefusedError as refusal:
            answer = refusal.args[0], {"error": refusal.args[1]}
        except _ClientGoneError:
            return
        except Exception as error:
            # Section 3.1: a client that gets no JSON sends the command a second time.
            _logger.exception("a Redis REST request failed")
            answer = 500, {"error": f"ERR Redis did not answer ({type(error).__name__})"}
        if answer is None:
            return
        body = _ENCODE(answer[1]).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"upstash-sync-token", b"local:%d" % next(self._sync_tokens)),  # section 1: changes
        ]
        await send({"type": "http.response.start", "status": answer[0], "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send
    ) -> tuple[int, object] | None:
        """Return status and body; None when the answer is already sent."""
        method = scope["method"]
        if method not in _METHODS:
            raise RefusedError(405, f"ERR method {method} is not allowed")
        headers = dict(scope["headers"])
        query = scope["query_string"]
        self._authorize(headers, query)
        segments = split_path(scope)
        if segments and segments[0].lower() in _STREAMING and method != "HEAD":
            await self._subscribe(segments, receive, send)
            return None
        body = await _read_body(receive) if method in ("POST", "PUT") else b""
        to_text = to_base64 if headers.get(b"upstash-encoding") == b"base64" else to_utf8
        if segments in ([b"pipeline"], [b"multi-exec"]):
            if method != "POST":
                raise RefusedError(405, f"ERR method {method} is not allowed here, use POST")
            commands = parse_pipeline(body)
            if segments == [b"pipeline"]:
                return 200, await self._pipeline(commands, to_text, receive)
            return 200, await self._transaction(commands, to_text)
        command = path_command(segments, body, query) if segments else parse_command(body)
        (content,) = await self._pipeline([command], to_text, receive)
        return (400 if "error" in content else 200), content

    def _authorize(self, headers: dict[bytes, bytes], query: bytes) -> None:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            token = dict(parse_query(query)).get(b"_token", b"")
        if not hmac.compare_digest(token, self._token):
            raise RefusedError(401, "WRONGPASS invalid or missing auth token")

    async def _pipeline(
        self, commands: list[Command], to_text: ToText, receive: Receive
    ) -> list[dict[str, object]]:
        """Run each command for itself; one that is refused does not stop the others."""
        refusals = [find_refusal(command) for command in commands]
        allowed = [item for item, refusal in zip(commands, refusals, strict=True) if not refusal]
        if any(map(may_block, allowed)):
            # Given up when its client leaves: nobody would read what it pops.
            replies = iter(await _until_disconnect(self._run(allowed), receive))
        else:
            replies = iter(await self._run(allowed) if allowed else [])
        return [
            {"error": refusal} if refusal else encode_reply(next(replies), to_text)
            for refusal in refusals
        ]

    async def _transaction(self, commands: list[Command], to_text: ToText) -> list[object]:
        """Run all or nothing: one refused command discards the rest (section 2.4)."""
        for refusal in filter(None, map(find_refusal, commands)):
            raise RefusedError(400, refusal)
        *queued, results = await self._run([[b"MULTI"], *commands, [b"EXEC"]])
        if not isinstance(results, list):
            # EXECABORT says less than the command that caused it.
            causes = (reply for reply in queued if isinstance(reply, ResponseError))
            raise RefusedError(400, error_text(next(causes, results)))
        return [encode_reply(result, to_text) for result in results]

    async def _run(self, commands: Sequence[Command]) -> list[Reply]:
        """Send all commands in one write and return their replies in order."""
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(pack(commands), check_health=False)
            return [await _read_reply(connection) for _ in commands]
        except BaseException:
            # Replies still to come would answer somebody else's commands.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._pool.release(connection)

    async def _subscribe(self, segments: list[bytes], receive: Receive, send: Send) -> None:
        """Stream one channel's or pattern's messages until the client leaves (section 4)."""
        verb, name = segments[0], b"/".join(segments[1:])  # a name may hold slashes (section 4.1)
        if not name:
            raise RefusedError(400, "ERR expected a channel name after the `/`")
        handler = asyncio.current_task()
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
            await connection.send_packed_command(pack([[verb, name]]), check_health=False)
            acknowledgement = await _read_reply(connection)
            if not isinstance(acknowledgement, list):
                raise RefusedError(400, error_text(acknowledgement))
            # Listen before read: the client takes the 200 and the first frame as "from here on I
            # miss nothing", so neither may leave before Redis has acknowledged.
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            self._streams.add(handler)
            await _until_disconnect(self._forward(connection, acknowledgement, send), receive)
        except asyncio.CancelledError:
            if handler not in self._streams:
                raise
            # The app stops, and this response's end is what it waits for.
        finally:
            self._streams.discard(handler)
            await connection.disconnect(nowait=True)
        await send({"type": "http.response.body", "body": b""})

    async def _forward(self, connection: AbstractConnection, message: Reply, send: Send) -> None:
        """Send messages as frames until Redis closes the connection."""
        while True:
            chunk = encode_frame(message) if isinstance(message, list) else b": keepalive\n\n"
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            try:
                message = await _read_reply(connection, timeout_s=self._heartbeat_s)
            except (RedisError, OSError):
                return


async def _read_body(receive: Receive) -> bytes:
    """Return the whole request body, at most 10 MB (section 1)."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGoneError
        body += message.get("body", b"")
        if len(body) > _MAX_BODY_BYTES:
            raise RefusedError(400, "ERR max request size exceeded")
        if not message.get("more_body"):
            return bytes(body)


async def _read_reply(connection: AbstractConnection, *, timeout_s: float | None = None) -> Reply:
    """Read one reply, errors included; None also when `timeout_s` is over."""
    try:
        return await connection.read_response(disable_decoding=True, timeout=timeout_s)  # type: ignore[no-any-return]
    except ResponseError as error:
        return error


async def _until_disconnect(work: Coroutine[Any, Any, Any], receive: Receive) -> Any:  # noqa: ANN401
    """Return the work's result, or cancel it as soon as the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait((working, leaving))
    if working.cancelled():
        raise _ClientGoneError
    return working.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
