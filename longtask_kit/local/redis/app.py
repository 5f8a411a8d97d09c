"""The Upstash Redis REST protocol in front of any Redis: commands, pipelines, SSE pub/sub.

The wire is described in `wire/upstash_redis.md`; section numbers in the comments are its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import logging
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from longtask_kit.local.redis.commands import (
    find_denial,
    find_long_key,
    find_refusal,
    may_block,
    may_have_long_key,
    runs_script,
)
from longtask_kit.local.redis.engine import Engine
from longtask_kit.local.redis.resp import Failure
from longtask_kit.local.redis.scripts import ScriptWatch
from longtask_kit.local.redis.streams import Backlog, Listener
from longtask_kit.local.redis.wire import (
    RefusedError,
    encode_error,
    encode_list,
    encode_message,
    encode_monitored,
    encode_reply,
    error_text,
    parse_command,
    parse_pipeline,
    parse_query,
    path_command,
    split_path,
    to_base64,
    to_utf8,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Receive, Scope, Send

    from longtask_kit.local.redis.resp import Command, Reply
    from longtask_kit.local.redis.wire import ToJson

_logger = logging.getLogger(__name__)
_METHODS = frozenset({"HEAD", "GET", "POST", "PUT"})
_MAX_BODY_BYTES = 10 * 1024 * 1024

_SUBSCRIBING = frozenset({b"subscribe", b"psubscribe"})
_UNWATCHED = contextlib.nullcontext()
_STREAM_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class _ClientGoneError(Exception):
    """The client closed its connection; there is nobody to answer."""


def create_redis_rest_app(
    redis_url: str, *, token: str, read_only_token: str | None = None, heartbeat_s: float = 15.0
) -> RedisRest:
    """Return the ASGI app that speaks Upstash Redis REST for the Redis at `redis_url`.

    Args:
        redis_url: `unix://`, `redis://` or `rediss://`; connected to on first use.
        token: The bearer token of every call.
        read_only_token: Another one, which may only read; None for none.
        heartbeat_s: Longest silence of a subscription before a comment is sent, in seconds, > 0.
    """
    return RedisRest(
        redis_url, token=token, read_only_token=read_only_token, heartbeat_s=heartbeat_s
    )


class RedisRest:
    """The ASGI app; `create_redis_rest_app` says what its arguments are."""

    _engine: Engine  # lives from the lifespan's start to its end
    _scripts: ScriptWatch  # likewise

    def __init__(
        self, redis_url: str, *, token: str, read_only_token: str | None, heartbeat_s: float
    ) -> None:
        self._redis_url = redis_url
        self._token = token.encode()
        self._read_only_token = read_only_token.encode() if read_only_token else None
        self._heartbeat_s = heartbeat_s
        # Section 1: it changes with every write; here with every answer, and over restarts.
        self._sync_prefix = b"local:%x:" % time.time_ns()
        self._sync_tokens = itertools.count(1)
        self._streams: set[asyncio.Task[Any] | None] = set()
        self._frames: dict[bytes, bytes] = {}
        self._backlog = Backlog()

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
        self._engine = Engine(self._redis_url)
        self._scripts = ScriptWatch(self._engine.end_script)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.end_streams()
        self._engine.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive, send)
        except RefusedError as refusal:
            answer = refusal.args[0], encode_error(refusal.args[1])
        except _ClientGoneError:
            return
        except Exception as error:
            # Section 3.1: a client that gets no JSON sends the command a second time.
            if isinstance(error, OSError | RedisError):
                _logger.warning("a Redis REST request failed: %s", error)
            else:
                _logger.exception("a Redis REST request failed")
            answer = 500, encode_error(f"ERR Redis did not answer ({type(error).__name__})")
        if answer is None:
            return
        status, body = answer
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"upstash-sync-token", b"%b%d" % (self._sync_prefix, next(self._sync_tokens))),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> tuple[int, bytes] | None:
        """Return status and body; None when the answer is already sent."""
        method = scope["method"]
        if method not in _METHODS:
            raise RefusedError(405, f"ERR method {method} is not allowed")
        headers = dict(scope["headers"])
        query = scope["query_string"]
        may_write = self._authorize(headers, query)
        segments = split_path(scope)
        if method != "HEAD" and (stream := _find_stream(segments, headers)):
            if stream == [b"monitor"] and not may_write:
                raise RefusedError(400, find_denial(stream, await self._engine.facts()))
            await self._stream(stream, receive, send)
            return None
        body = await _read_body(receive) if method in ("POST", "PUT") else b""
        to_json = to_base64 if headers.get(b"upstash-encoding") == b"base64" else to_utf8
        if segments in ([b"pipeline"], [b"multi-exec"]):
            if method != "POST":
                raise RefusedError(405, f"ERR method {method} is not allowed here, use POST")
            commands = parse_pipeline(body)
            refusals = await self._find_refusals(commands, may_write=may_write)
            if segments == [b"pipeline"]:
                return 200, encode_list(await self._run(commands, refusals, to_json, receive))
            return 200, encode_list(await self._transact(commands, refusals, to_json, receive))
        commands = [path_command(segments, body, query) if segments else parse_command(body)]
        refusals = await self._find_refusals(commands, may_write=may_write)
        (content,) = await self._run(commands, refusals, to_json, receive)
        return (400 if content.startswith(b'{"error"') else 200), content

    def _authorize(self, headers: dict[bytes, bytes], query: bytes) -> bool:
        """Return whether the token may write."""
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            token = dict(parse_query(query)).get(b"_token", b"")
        if hmac.compare_digest(token, self._token):
            return True
        if self._read_only_token and hmac.compare_digest(token, self._read_only_token):
            return False
        raise RefusedError(401, "WRONGPASS invalid or missing auth token")

    async def _find_refusals(self, commands: list[Command], *, may_write: bool) -> list[str | None]:
        """Return for each command why it may not run, or None."""
        refusals = [find_refusal(command) for command in commands]
        for index, command in enumerate(commands):
            if refusals[index] is None and not may_write:
                refusals[index] = find_denial(command, await self._engine.facts())
            if refusals[index] is None and may_have_long_key(command):
                refusals[index] = find_long_key(command, await self._engine.facts())
        return refusals

    async def _run(
        self,
        commands: list[Command],
        refusals: list[str | None],
        to_json: ToJson,
        receive: Receive,
    ) -> list[bytes]:
        """Run each command for itself; one that is refused does not stop the others."""
        allowed = [item for item, refusal in zip(commands, refusals, strict=True) if not refusal]
        if any(map(may_block, allowed)):
            replies = iter(await self._run_apart(allowed, receive))
        else:
            with self._watching(allowed, receive):
                replies = iter(await self._engine.run(allowed) if allowed else [])
        return [
            encode_error(refusal) if refusal else encode_reply(next(replies), to_json)
            for refusal in refusals
        ]

    async def _run_apart(self, commands: list[Command], receive: Receive) -> list[Reply]:
        """Run what may wait; given up when its client leaves: nobody would read what it pops."""
        try:
            replies: list[Reply] = await _until_disconnect(
                self._engine.run_apart(commands), receive
            )
        except _ClientGoneError:
            if any(map(runs_script, commands)):
                await self._scripts.end_orphan()
            raise
        return replies

    def _watching(
        self, commands: list[Command], receive: Receive
    ) -> contextlib.AbstractContextManager[None]:
        """End the scripts among commands if their client leaves before they are done."""
        if not any(map(runs_script, commands)):
            return _UNWATCHED
        return self._scripts.watch(lambda: _disconnected(receive))

    async def _transact(
        self,
        commands: list[Command],
        refusals: list[str | None],
        to_json: ToJson,
        receive: Receive,
    ) -> list[bytes]:
        """Run all or nothing: one refused command discards the rest (section 2.4)."""
        for refusal in filter(None, refusals):
            raise RefusedError(400, refusal)
        with self._watching(commands, receive):
            *queued, results = await self._engine.transact(commands)
        if not isinstance(results, list):
            # EXECABORT says less than the command that caused it.
            failures = [reply for reply in [*queued, results] if isinstance(reply, Failure)]
            raise RefusedError(400, error_text(failures[0]))
        return [encode_reply(result, to_json) for result in results]

    async def _stream(self, command: Command, receive: Receive, send: Send) -> None:
        """Stream what one command makes Redis say until the client leaves (section 4)."""
        is_monitor = command == [b"monitor"]

        def cut_off() -> None:
            _abort(send)
            pumping.cancel()

        listener = await self._engine.open(
            lambda: Listener(
                encode_monitored if is_monitor else encode_message,
                {} if is_monitor else self._frames,
                self._backlog,
                heartbeat_s=self._heartbeat_s,
                on_overflow=cut_off,
            )
        )
        handler = asyncio.current_task()
        try:
            listener.listen(command)
            # Listen before read: the client takes the 200 and the first frame as "from here on I
            # miss nothing", so neither may leave before Redis has acknowledged.
            first = await listener.read()
            if listener.failure is not None or not first:
                raise RefusedError(400, error_text(listener.failure or b"ERR Redis left"))
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            self._streams.add(handler)
            pumping = asyncio.ensure_future(_pump(first, listener, send))
            await _until_disconnect(pumping, receive)
        except asyncio.CancelledError:
            if handler not in self._streams:
                raise
            # The app stops, and this response's end is what it waits for.
        finally:
            self._streams.discard(handler)
            listener.close()
        await send({"type": "http.response.body", "body": b""})


def _find_stream(segments: list[bytes], headers: dict[bytes, bytes]) -> Command | None:
    """Return the command of a request that asks for a stream."""
    verb = segments[0].lower() if segments else b""
    if verb in _SUBSCRIBING:
        name = b"/".join(segments[1:])  # a name may hold slashes (section 4.1)
        if not name:
            raise RefusedError(400, "ERR expected a channel name after the `/`")
        return [verb, name]
    # Without the header it is a command, which is refused (section 4.4).
    is_monitor = verb == b"monitor" and b"text/event-stream" in headers.get(b"accept", b"")
    return [verb] if is_monitor and len(segments) == 1 else None


async def _pump(frames: bytes, listener: Listener, send: Send) -> None:
    """Send frames until Redis closes the connection."""
    while frames:
        await send({"type": "http.response.body", "body": frames, "more_body": True})
        frames = await listener.read()


def _abort(send: Send) -> None:
    """Drop a connection whose client doesn't read: closing it would wait for that client.

    ASGI has no word for it; uvicorn's `send` is a method of what holds the connection.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()


async def _read_body(receive: Receive) -> bytes:
    """Return the whole request body, at most 10 MB (section 1)."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
    else:
        pieces = bytearray(message.get("body", b""))
        while message.get("more_body") and len(pieces) <= _MAX_BODY_BYTES:
            message = await receive()
            pieces += message.get("body", b"")
        body = bytes(pieces)
    if message["type"] == "http.disconnect":
        raise _ClientGoneError
    if len(body) > _MAX_BODY_BYTES:
        raise RefusedError(400, "ERR max request size exceeded")
    return body


async def _until_disconnect(
    work: Coroutine[Any, Any, Any] | asyncio.Future[Any], receive: Receive
) -> Any:  # noqa: ANN401
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
