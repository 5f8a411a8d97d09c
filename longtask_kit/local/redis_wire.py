"""Upstash's Redis REST protocol, the pure half: requests to commands, replies to JSON.

The wire is described in `wire/upstash_redis.md`; section numbers in the comments are its own.
"""

from __future__ import annotations

import base64
import itertools
import json
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import Scope

Command: TypeAlias = "list[bytes]"
Reply: TypeAlias = "bytes | int | list[Reply] | ResponseError | None"
ToText: TypeAlias = "Callable[[bytes], str]"

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
# Their first argument is no key and may be large.
_FIRST_IS_NO_KEY = frozenset(b"ECHO PING PUBLISH SCRIPT EVAL EVAL_RO EVALSHA EVALSHA_RO".split())

# Numbers keep their literal text (section 2.1): a float would change 1.0 and large integers.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


class RefusedError(Exception):
    """Its two arguments: the status and the `error` text of the answer."""


def split_path(scope: Scope) -> list[bytes]:
    """Return the percent-decoded segments of the path; none for the root."""
    raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    path = raw_path.lstrip(b"/")  # the Python SDK asks for `//pipeline` if its URL ends in one
    return [unquote_to_bytes(segment) for segment in path.split(b"/")] if path else []


def path_command(segments: list[bytes], body: bytes, query: bytes) -> Command:
    """Return the command of `/set/foo?EX=100`, a body being the last argument (section 2.2)."""
    options = [pair for pair in parse_query(query) if pair[0] != b"_token"]
    return [*segments, *filter(None, [body]), *filter(None, itertools.chain(*options))]


def parse_pipeline(body: bytes) -> list[Command]:
    """Return the commands of a JSON array of arrays."""
    rows = _load(body)
    if not isinstance(rows, list) or not rows:
        raise RefusedError(400, "ERR expected a JSON array of commands, at least one")
    return [_to_command(row) for row in rows]


def parse_command(body: bytes) -> Command:
    """Return the command of a JSON array."""
    return _to_command(_load(body))


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


def encode_reply(reply: Reply, to_text: ToText) -> dict[str, object]:
    """Return `{"result": …}` or `{"error": …}`; an error's text is never encoded."""
    if isinstance(reply, ResponseError):
        return {"error": error_text(reply)}
    if reply == b"OK":
        return {"result": "OK"}  # raw at top level even in base64 (section 3)
    return {"result": _encode_value(reply, to_text)}


def encode_frame(message: list[Reply]) -> bytes:
    """Return a pub/sub message as an SSE frame: LF only, a line of payload a `data:` line."""
    fields = [part if isinstance(part, bytes) else str(part).encode() for part in message]
    return b"data: " + b",".join(fields).replace(b"\n", b"\ndata: ") + b"\n\n"


def _encode_value(reply: Reply, to_text: ToText) -> object:
    if isinstance(reply, bytes):
        return to_text(reply)
    if isinstance(reply, list):
        return [_encode_value(item, to_text) for item in reply]
    return error_text(reply) if isinstance(reply, ResponseError) else reply


def to_base64(value: bytes) -> str:
    """Return what both SDKs ask for: `Upstash-Encoding: base64`."""
    return base64.b64encode(value).decode()


def to_utf8(value: bytes) -> str:
    """Return plain text; invalid UTF-8 becomes U+FFFD."""
    return value.decode(errors="replace")


def error_text(error: Reply) -> str:
    """Return Redis' own text; redis-py's parser took the code off its front."""
    code = getattr(error, "status_code", None)
    if code == "NOSCRIPT":  # Valkey 9 says less; Upstash's own tests want these words (section 5)
        return "NOSCRIPT No matching script. Please use EVAL."
    return f"{code} {error!s}" if code else f"{error!s}"


def _load(body: bytes) -> object:
    try:
        return _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as exc:
        raise RefusedError(400, f"ERR expected a JSON array as the body: {exc}") from exc


def _to_command(row: object) -> Command:
    if not isinstance(row, list) or not row:
        raise RefusedError(400, "ERR expected a command as a JSON array, its name first")
    return [_to_argument(item) for item in row]


def _to_argument(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode(errors="replace")  # half a surrogate pair has no UTF-8
    if item is None or isinstance(item, bool):
        return json.dumps(item).encode()
    raise RefusedError(400, "ERR arguments are strings, numbers or booleans, not JSON containers")


def parse_query(query: bytes) -> list[tuple[bytes, bytes]]:
    """Return the percent-decoded pairs of a query string."""
    pairs = (part.replace(b"+", b" ").partition(b"=") for part in query.split(b"&") if part)
    return [(unquote_to_bytes(name), unquote_to_bytes(value)) for name, _, value in pairs]
