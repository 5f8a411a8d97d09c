"""The Upstash Redis REST protocol in front of any Redis: commands, pipelines, SSE pub/sub.

The wire is described in `wire/upstash_redis.md`; section numbers in the comments are its own.
Replies go through unchanged: no redis-py response callback touches them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import itertools
import json
import logging
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
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
_Answer: TypeAlias = "tuple[int, object]"
_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

_METHODS = frozenset({"HEAD", "GET", "POST", "PUT"})
_MAX_BODY_BYTES = 10 * 1024 * 1024
_MAX_KEY_BYTES = 32 * 1024
_MAX_CONNECTIONS = 4096

# They would leave a shared connection in another state, never answer, or stop the server.
_UNAVAILABLE = frozenset(
    b"ACL ASKING AUTH BGREWRITEAOF BGSAVE CLUSTER CONFIG DEBUG DISCARD EXEC FAILOVER HELLO LATENCY "
    b"MIGRATE MODULE MONITOR MULTI PFDEBUG PFSELFTEST PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT READONLY "
    b"READWRITE REPLCONF REPLICAOF RESET SAVE SELECT SHUTDOWN SLAVEOF SSUBSCRIBE SUBSCRIBE "
    b"SUNSUBSCRIBE SWAPDB SYNC UNSUBSCRIBE UNWATCH WATCH".split()
)
_CLIENT_AVAILABLE = frozenset({b"SETINFO", b"ID", b"INFO", b"LIST", b"GETNAME"})
_BLOCKING = frozenset(
    b"BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF".split()
)
# Their first argument is no key and may be large.
_FIRST_IS_NO_KEY = frozenset(
    b"ECHO PING PUBLISH SPUBLISH SCRIPT FUNCTION EVAL EVAL_RO EVALSHA EVALSHA_RO".split()
)

# Numbers keep their literal text (section 2.1): a float would change 1.0 and large integers.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_STREAM_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
_LITERALS = {True: b"true", False: b"false", None: b"null"}


class _RefusedError(Exception):
    """A request that is answered with `{"error": text}` and this status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


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
        self._streams: set[asyncio.Task[object]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; anything but http and lifespan is ignored."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    def end_streams(self) -> None:
        """End every open subscription now.

        A server that waits for open responses before it runs the lifespan's end (uvicorn does)
        stops at once if this is called first.
        """
        for stream in self._streams:
            stream.cancel()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._pool = ConnectionPool.from_url(
            self._redis_url,
            protocol=2,  # section 3: doubles, maps and booleans in their RESP2 forms
            max_connections=_MAX_CONNECTIONS,
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
            answer = refusal.status, {"error": str(refusal)}
        except _ClientGoneError:
            return
        except (RedisError, OSError) as error:
            answer = 500, {"error": f"ERR Redis did not answer ({type(error).__name__})"}
        except Exception:
            # Section 3.1: a client that gets no JSON sends the command a second time.
            _logger.exception("a Redis REST request failed")
            answer = 500, {"error": "ERR internal error of the local Redis REST server"}
        if answer is not None:
            await self._send_json(send, *answer)

    async def _send_json(self, send: Send, status: int, content: object) -> None:
        body = _ENCODE(content).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            # Section 1: opaque, and another one after every write.
            (b"upstash-sync-token", b"local:%d" % next(self._sync_tokens)),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> _Answer | None:
        """Return status and body; None when the answer is already sent."""
        method = scope["method"]
        if method not in _METHODS:
            raise _RefusedError(405, f"ERR method {method} is not allowed")
        headers = dict(scope["headers"])
        query = scope["query_string"]
        self._authorize(headers, query)
        segments = split_path(scope)
        if segments and segments[0].lower() in (b"subscribe", b"psubscribe"):
            return await self._subscribe(method, segments, receive, send)
        body = await _read_body(receive)
        to_text = _to_base64 if headers.get(b"upstash-encoding") == b"base64" else _to_utf8
        if segments in ([b"pipeline"], [b"multi-exec"]):
            if method != "POST":
                raise _RefusedError(405, f"ERR method {method} is not allowed here, use POST")
            commands = parse_pipeline(body)
            if segments == [b"pipeline"]:
                return 200, await self._pipeline(commands, to_text, receive)
            return 200, await self._transaction(commands, to_text)
        command = path_command(segments, method, body, query) if segments else parse_command(body)
        (content,) = await self._pipeline([command], to_text, receive)
        return (400 if "error" in content else 200), content

    def _authorize(self, headers: dict[bytes, bytes], query: bytes) -> None:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            token = dict(_parse_query(query)).get(b"_token", b"")
        if not hmac.compare_digest(token, self._token):
            raise _RefusedError(401, "WRONGPASS invalid or missing auth token")

    async def _pipeline(
        self, commands: list[Command], to_text: Callable[[bytes], str], receive: Receive
    ) -> list[dict[str, object]]:
        """Run each command for itself; one that is refused does not stop the others."""
        refusals = [find_refusal(command) for command in commands]
        allowed = [item for item, refusal in zip(commands, refusals, strict=True) if not refusal]
        if any(may_block(command) for command in allowed):
            # Given up when its client leaves: nobody would read what it pops.
            replies = iter(await _until_disconnect(self._run(allowed), receive))
        else:
            replies = iter(await self._run(allowed) if allowed else [])
        return [
            {"error": refusal} if refusal else encode_reply(next(replies), to_text)
            for refusal in refusals
        ]

    async def _transaction(
        self, commands: list[Command], to_text: Callable[[bytes], str]
    ) -> list[dict[str, object]]:
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
        connection = await self._pool.get_connection()
        try:
            await connection.send_packed_command(pack(commands), check_health=False)
            return [await _read_reply(connection) for _ in commands]
        except BaseException:
            # Replies still to come would answer somebody else's commands.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._pool.release(connection)

    async def _subscribe(
        self, method: str, segments: list[bytes], receive: Receive, send: Send
    ) -> None:
        """Stream one channel's or pattern's messages until the client leaves (section 4)."""
        # `/` splits segments, and a channel name may hold one: the whole rest is the name.
        verb, name = segments[0].lower(), b"/".join(segments[1:])
        if method == "HEAD":
            raise _RefusedError(405, "ERR method HEAD is not allowed here, use POST or GET")
        if not name:
            raise _RefusedError(400, f"ERR /{_to_utf8(verb)}/ needs a channel after it")
        connection = self._pool.make_connection()
        try:
            await connection.connect()
            await connection.send_packed_command(pack([[verb, name]]), check_health=False)
            acknowledgement = await _read_reply(connection)
            if not isinstance(acknowledgement, list):
                raise _RefusedError(400, _error_text(acknowledgement))
            # Listen before read: the client takes the 200 and the first frame as "from here on I
            # miss nothing", so neither may leave before Redis has acknowledged.
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            await self._end_with_app(
                _until_disconnect(self._forward(connection, acknowledgement, send), receive)
            )
        finally:
            await connection.disconnect(nowait=True)
        await send({"type": "http.response.body", "body": b""})

    async def _end_with_app(self, stream: Coroutine[Any, Any, None]) -> None:
        """Await the stream; being cancelled (the server stops) is one of its normal ends."""
        task = asyncio.ensure_future(stream)
        self._streams.add(task)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
        finally:
            self._streams.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            await task

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
    """Return the percent-decoded segments of the path; none for the root.

    Leading slashes are dropped: the Python SDK asks for `//pipeline` when its URL ends in one.
    """
    raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    path = raw_path.lstrip(b"/")
    return [unquote_to_bytes(segment) for segment in path.split(b"/")] if path else []


def path_command(segments: list[bytes], method: str, body: bytes, query: bytes) -> Command:
    """Return the command of `/set/foo?EX=100`, a body being the last argument (section 2.2)."""
    command = list(segments)
    if body and method in ("POST", "PUT"):
        command.append(body)
    for name, value in _parse_query(query):
        if name != b"_token":
            command += [name, value] if value else [name]
    return command


def parse_command(body: bytes) -> Command:
    """Return the command of a JSON array of strings, numbers and booleans."""
    return _to_command(_parse_json(body))


def parse_pipeline(body: bytes) -> list[Command]:
    """Return the commands of a JSON array of arrays."""
    rows = _parse_json(body)
    if not isinstance(rows, list) or not rows:
        raise _RefusedError(400, "ERR expected a JSON array of commands, at least one")
    return [_to_command(row) for row in rows]


def find_refusal(command: Command) -> str | None:
    """Return why a command can't be run over REST, None when it can."""
    name = command[0].upper()
    subcommand = command[1].upper() if len(command) > 1 else b""
    if (
        name in _UNAVAILABLE
        or (name == b"CLIENT" and subcommand not in _CLIENT_AVAILABLE)
        or (name == b"SCRIPT" and subcommand == b"DEBUG")
    ):
        return f"ERR Command is not available: '{_to_utf8(name)}'"
    size = 0 if name in _FIRST_IS_NO_KEY or len(command) < 2 else len(command[1])
    if size > _MAX_KEY_BYTES:
        return f"ERR max key size exceeded. Limit: {_MAX_KEY_BYTES} bytes, Actual: {size} bytes"
    return None


def may_block(command: Command) -> bool:
    """Return whether Redis may wait before it answers."""
    name = command[0].upper()
    if name in (b"XREAD", b"XREADGROUP"):
        return any(argument.upper() == b"BLOCK" for argument in command)
    return name in _BLOCKING


def pack(commands: Iterable[Command]) -> bytes:
    """Return commands in RESP; redis-py's own packing would split a name at its spaces."""
    pieces: list[bytes] = []
    for command in commands:
        pieces.append(b"*%d\r\n" % len(command))
        pieces += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in command]
    return b"".join(pieces)


def encode_reply(reply: Reply, to_text: Callable[[bytes], str]) -> dict[str, object]:
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


def _encode_value(reply: Reply, to_text: Callable[[bytes], str]) -> object:
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
    code = error.status_code if isinstance(error, ResponseError) else None
    return f"{code} {error}" if code else str(error)


def _parse_json(body: bytes) -> object:
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
        try:
            return item.encode()
        except UnicodeEncodeError:  # half a surrogate pair becomes U+FFFD, as everywhere else
            return item.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    if item is None or isinstance(item, bool):
        return _LITERALS[item]
    raise _RefusedError(400, "ERR arguments are strings, numbers or booleans, not JSON containers")


def _parse_query(query: bytes) -> list[tuple[bytes, bytes]]:
    pairs = (part.replace(b"+", b" ").partition(b"=") for part in query.split(b"&") if part)
    return [(unquote_to_bytes(name), unquote_to_bytes(value)) for name, _, value in pairs]


async def _read_body(receive: Receive) -> bytes:
    """Return the whole request body, at most 10 MB (section 1)."""
    chunks: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGoneError
        chunks.append(message.get("body", b""))
        size_bytes += len(chunks[-1])
        if size_bytes > _MAX_BODY_BYTES:
            raise _RefusedError(400, "ERR max request size exceeded")
        if not message.get("more_body"):
            return b"".join(chunks)


async def _read_reply(connection: AbstractConnection, *, timeout_s: float | None = None) -> Reply:
    """Read one reply, errors included; None also when `timeout_s` is over."""
    try:
        reply: Reply = await connection.read_response(disable_decoding=True, timeout=timeout_s)
    except ResponseError as error:
        return error
    return reply


async def _until_disconnect(work: Coroutine[Any, Any, _T], receive: Receive) -> _T:
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
