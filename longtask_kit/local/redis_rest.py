"""The Upstash Redis REST protocol in front of any Redis: commands, pipelines, SSE pub/sub.

The wire is described in `wire/upstash_redis.md`; section numbers in the comments are its own.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import itertools
import json
import logging
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from redis.asyncio.connection import AbstractConnection
    from starlette.types import Receive, Scope, Send

Command: TypeAlias = "list[bytes]"
Reply: TypeAlias = "bytes | int | list[Reply] | ResponseError | None"
_ToText: TypeAlias = "Callable[[bytes], str]"

_logger = logging.getLogger(__name__)
_METHODS = frozenset({"HEAD", "GET", "POST", "PUT"})
_MAX_BODY_BYTES = 10 * 1024 * 1024
_MAX_KEY_BYTES = 32 * 1024

# They would leave a shared connection in another state, never answer, or stop the server.
_UNAVAILABLE = frozenset(
    b"ACL ASKING AUTH BGREWRITEAOF BGSAVE CLIENT CLUSTER CONFIG DEBUG DISCARD EXEC FAILOVER HELLO "
    b"LATENCY MIGRATE MODULE MONITOR MULTI PFDEBUG PFSELFTEST PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT "
    b"READONLY READWRITE REPLCONF REPLICAOF RESET SAVE SELECT SHUTDOWN SLAVEOF SSUBSCRIBE "
    b"SUBSCRIBE SUNSUBSCRIBE SWAPDB SYNC UNSUBSCRIBE UNWATCH WATCH".split()
) | {b"SCRIPT DEBUG"}
_AVAILABLE = frozenset({b"CLIENT SETINFO", b"CLIENT ID", b"CLIENT INFO", b"CLIENT LIST"})
_BLOCKING = frozenset(b"BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP".split())
_STREAMING = frozenset({b"subscribe", b"psubscribe"})
# Their first argument is no key and may be large.
_FIRST_IS_NO_KEY = frozenset(b"ECHO PING PUBLISH SCRIPT EVAL EVAL_RO EVALSHA EVALSHA_RO".split())

# Numbers keep their literal text (section 2.1): a float would change 1.0 and large integers.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_STREAM_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class _RefusedError(Exception):
    """Its two arguments: the status and the `error` text of the answer."""


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
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.end_streams()
        await self._pool.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive, send)
        except _RefusedError as refusal:
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
            raise _RefusedError(405, f"ERR method {method} is not allowed")
        headers = dict(scope["headers"])
        query = scope["query_string"]
        self._authorize(headers, query)
        segments = split_path(scope)
        if segments and segments[0].lower() in _STREAMING and method != "HEAD":
            await self._subscribe(segments, receive, send)
            return None
        body = await _read_body(receive) if method in ("POST", "PUT") else b""
        to_text = _to_base64 if headers.get(b"upstash-encoding") == b"base64" else _to_utf8
        if segments in ([b"pipeline"], [b"multi-exec"]):
            if method != "POST":
                raise _RefusedError(405, f"ERR method {method} is not allowed here, use POST")
            commands = parse_pipeline(body)
            if segments == [b"pipeline"]:
                return 200, await self._pipeline(commands, to_text, receive)
            return 200, await self._transaction(commands, to_text)
        command = path_command(segments, body, query) if segments else _to_command(_load(body))
        (content,) = await self._pipeline([command], to_text, receive)
        return (400 if "error" in content else 200), content

    def _authorize(self, headers: dict[bytes, bytes], query: bytes) -> None:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            token = dict(_parse_query(query)).get(b"_token", b"")
        if not hmac.compare_digest(token, self._token):
            raise _RefusedError(401, "WRONGPASS invalid or missing auth token")

    async def _pipeline(
        self, commands: list[Command], to_text: _ToText, receive: Receive
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

    async def _transaction(self, commands: list[Command], to_text: _ToText) -> list[object]:
        """Run all or nothing: one refused command discards the rest (section 2.4)."""
        for refusal in filter(None, map(find_refusal, commands)):
            raise _RefusedError(400, refusal)
        *queued, results = await self._run([[b"MULTI"], *commands, [b"EXEC"]])
        if not isinstance(results, list):
            # EXECABORT says less than the command that caused it.
            causes = (reply for reply in queued if isinstance(reply, ResponseError))
            raise _RefusedError(400, _error_text(next(causes, results)))
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
            raise _RefusedError(400, "ERR expected a channel name after the `/`")
        handler = asyncio.current_task()
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
            await connection.send_packed_command(pack([[verb, name]]), check_health=False)
            acknowledgement = await _read_reply(connection)
            if not isinstance(acknowledgement, list):
                raise _RefusedError(400, _error_text(acknowledgement))
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


def split_path(scope: Scope) -> list[bytes]:
    """Return the percent-decoded segments of the path; none for the root."""
    raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    path = raw_path.lstrip(b"/")  # the Python SDK asks for `//pipeline` if its URL ends in one
    return [unquote_to_bytes(segment) for segment in path.split(b"/")] if path else []


def path_command(segments: list[bytes], body: bytes, query: bytes) -> Command:
    """Return the command of `/set/foo?EX=100`, a body being the last argument (section 2.2)."""
    options = [pair for pair in _parse_query(query) if pair[0] != b"_token"]
    return [*segments, *filter(None, [body]), *filter(None, itertools.chain(*options))]


def parse_pipeline(body: bytes) -> list[Command]:
    """Return the commands of a JSON array of arrays."""
    rows = _load(body)
    if not isinstance(rows, list) or not rows:
        raise _RefusedError(400, "ERR expected a JSON array of commands, at least one")
    return [_to_command(row) for row in rows]


def find_refusal(command: Command) -> str | None:
    """Return why a command can't be run over REST, None when it can."""
    name = command[0].upper()
    pair = b" ".join(command[:2]).upper() if name in (b"CLIENT", b"SCRIPT") else name
    if (name in _UNAVAILABLE or pair in _UNAVAILABLE) and pair not in _AVAILABLE:
        return f"ERR Command is not available: '{name.decode(errors='replace')}'"
    size = 0 if name in _FIRST_IS_NO_KEY or len(command) < 2 else len(command[1])
    if size > _MAX_KEY_BYTES:
        return f"ERR max key size exceeded. Limit: {_MAX_KEY_BYTES} bytes, Actual: {size} bytes"
    return None


def may_block(command: Command) -> bool:
    """Return whether Redis may wait before it answers."""
    name = command[0].upper()
    return name in _BLOCKING or (name[:5] == b"XREAD" and b"BLOCK" in map(bytes.upper, command))


def pack(commands: Iterable[Command]) -> bytes:
    """Return commands in RESP; redis-py's own packing would split a name at its spaces."""
    pieces: list[bytes] = []
    for command in commands:
        pieces.append(b"*%d\r\n" % len(command))
        pieces += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in command]
    return b"".join(pieces)


def encode_reply(reply: Reply, to_text: _ToText) -> dict[str, object]:
    """Return `{"result": …}` or `{"error": …}`; an error's text is never encoded."""
    if isinstance(reply, ResponseError):
        return {"error": _error_text(reply)}
    if reply == b"OK":
        return {"result": "OK"}  # raw at top level even in base64 (section 3)
    return {"result": _encode_value(reply, to_text)}


def encode_frame(message: list[Reply]) -> bytes:
    """Return a pub/sub message as an SSE frame: LF only, a line of payload a `data:` line."""
    fields = [part if isinstance(part, bytes) else str(part).encode() for part in message]
    return b"data: " + b",".join(fields).replace(b"\n", b"\ndata: ") + b"\n\n"


def _encode_value(reply: Reply, to_text: _ToText) -> object:
    if isinstance(reply, bytes):
        return to_text(reply)
    if isinstance(reply, list):
        return [_encode_value(item, to_text) for item in reply]
    return _error_text(reply) if isinstance(reply, ResponseError) else reply


def _to_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _to_utf8(value: bytes) -> str:
    return value.decode(errors="replace")


def _error_text(error: Reply) -> str:
    """Return Redis' own text; redis-py's parser took the code off its front."""
    code = getattr(error, "status_code", None)
    if code == "NOSCRIPT":  # Valkey 9 says less; Upstash's own tests want these words (section 5)
        return "NOSCRIPT No matching script. Please use EVAL."
    return f"{code} {error!s}" if code else f"{error!s}"


def _load(body: bytes) -> object:
    try:
        return _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as exc:
        raise _RefusedError(400, f"ERR expected a JSON array as the body: {exc}") from exc


def _to_command(row: object) -> Command:
    if not isinstance(row, list) or not row:
        raise _RefusedError(400, "ERR expected a command as a JSON array, its name first")
    return [_to_argument(item) for item in row]


def _to_argument(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode(errors="replace")  # half a surrogate pair has no UTF-8
    if item is None or isinstance(item, bool):
        return json.dumps(item).encode()
    raise _RefusedError(400, "ERR arguments are strings, numbers or booleans, not JSON containers")


def _parse_query(query: bytes) -> list[tuple[bytes, bytes]]:
    pairs = (part.replace(b"+", b" ").partition(b"=") for part in query.split(b"&") if part)
    return [(unquote_to_bytes(name), unquote_to_bytes(value)) for name, _, value in pairs]


async def _read_body(receive: Receive) -> bytes:
    """Return the whole request body, at most 10 MB (section 1)."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGoneError
        body += message.get("body", b"")
        if len(body) > _MAX_BODY_BYTES:
            raise _RefusedError(400, "ERR max request size exceeded")
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
