"""Upstash's Redis REST protocol, the pure half: requests to commands, replies to JSON.

The wire is described in `wire/upstash_redis.md`; section numbers in the comments are its own.
"""

from __future__ import annotations

import itertools
import json
from binascii import b2a_base64
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, NoReturn, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from longtask_kit.local.redis.resp import Failure, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope

    from longtask_kit.local.redis.resp import Command, Reply

ToJson: TypeAlias = "Callable[[Reply], bytes]"

# The sizes that Upstash limits, by what Redis says when they are exceeded (section 1).
_TOO_LARGE = b"ERR string exceeds maximum allowed size"


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


def parse_query(query: bytes) -> list[tuple[bytes, bytes]]:
    """Return the percent-decoded pairs of a query string."""
    pairs = (part.replace(b"+", b" ").partition(b"=") for part in query.split(b"&") if part)
    return [(unquote_to_bytes(name), unquote_to_bytes(value)) for name, _, value in pairs]


def _load(body: bytes) -> object:
    try:
        return _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as exc:
        raise RefusedError(400, f"ERR expected a JSON array as the body: {exc}") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


# Numbers keep their literal text (section 2.1): a float would change 1.0 and large integers. That
# also rules out orjson, which has no hook for it.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)


def _to_command(row: object) -> Command:
    if not isinstance(row, list) or not row:
        raise RefusedError(400, "ERR expected a command as a JSON array, its name first")
    try:
        return [item.encode() for item in row]
    except (AttributeError, UnicodeEncodeError):  # not only clean texts
        return [_to_argument(item) for item in row]


def _to_argument(item: object) -> bytes:
    if isinstance(item, str):
        try:
            return item.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JavaScript may send
            return item.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    if item is None or isinstance(item, bool):
        return json.dumps(item).encode()
    raise RefusedError(400, "ERR arguments are strings, numbers or booleans, not JSON containers")


def encode_reply(reply: Reply, to_json: ToJson) -> bytes:
    """Return `{"result": …}` or `{"error": …}`; an error's text is never encoded."""
    if type(reply) is Failure:
        return encode_error(error_text(reply))
    if type(reply) is Status and reply == b"OK":
        return b'{"result":"OK"}'  # raw at top level even in base64 (section 3)
    return b'{"result":%b}' % to_json(reply)


def encode_error(text: str) -> bytes:
    """Return the only shape of a failure."""
    return b'{"error":%b}' % encode_basestring(text).encode()


def encode_list(items: list[bytes]) -> bytes:
    """Return JSON values as a JSON array."""
    return b"[%b]" % b",".join(items)


def to_base64(reply: Reply) -> bytes:
    """Return what both SDKs ask for, `Upstash-Encoding: base64`: each text at each depth."""
    if type(reply) is bytes:  # most are; measured faster than orjson, which must be given texts
        return b'"%b"' % b2a_base64(reply, newline=False)
    if isinstance(reply, bytes):
        return b'"%b"' % b2a_base64(_text_of(reply), newline=False)
    if isinstance(reply, list):
        return encode_list([to_base64(item) for item in reply])
    return b"null" if reply is None else b"%d" % reply


def to_utf8(reply: Reply) -> bytes:
    """Return plain JSON; invalid UTF-8 becomes U+FFFD."""
    if isinstance(reply, bytes):
        return encode_basestring(_text_of(reply).decode(errors="replace")).encode()
    if isinstance(reply, list):
        return encode_list([to_utf8(item) for item in reply])
    return b"null" if reply is None else b"%d" % reply


def _text_of(reply: bytes) -> bytes:
    """Return a text; an error below the top of a reply is one."""
    return error_text(reply).encode() if type(reply) is Failure else reply


def error_text(failure: bytes) -> str:
    """Return Redis' own text, or Upstash's where its SDKs or documents want other words."""
    if failure.startswith(b"NOSCRIPT"):  # Valkey 9 says less (section 5)
        return "NOSCRIPT No matching script. Please use EVAL."
    if failure.startswith(_TOO_LARGE):
        return "ERR max single record size exceeded"
    return failure.decode(errors="replace")


def encode_message(message: Reply) -> bytes:
    """Return a pub/sub message as an SSE frame: LF only, a line of payload a `data:` line."""
    parts = message if isinstance(message, list) else [message]
    fields = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"data: " + b",".join(fields).replace(b"\n", b"\ndata: ") + b"\n\n"


def encode_monitored(line: Reply) -> bytes:
    """Return a line of `MONITOR` as an SSE frame, its first, `OK`, in quotes (section 4.4)."""
    text = line if isinstance(line, bytes) else b""
    if text == b"OK":
        return b'data: "OK"\n\n'
    when, _, rest = text.partition(b" [")
    origin, _, command = rest.partition(b"] ")
    database = origin.partition(b" ")[0]
    return b"data: %b [%b 0.0.0.0:0] %b\n\n" % (when, database, command)
