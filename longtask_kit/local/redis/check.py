"""Whether a Redis of the user's own will serve the stack, and what to change if it won't."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from longtask_kit.errors import LocalStackError
from longtask_kit.local.qstash.store import connect

_ANSWER_S = 5.0
_FORM = "Expected redis://user:password@host:port/0, rediss://… for TLS, or unix:///path."


async def check_redis(url: str) -> None:
    """Return if the Redis or Valkey, or the cluster, at `url` answers and lets us in.

    Raises:
        LocalStackError: It does not; says why and the cure, without any part of the URL that may
            be secret.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            client = await connect(url)
            await client.eval("return 1", 0)  # more than PING, which any user may call
    except (RedisError, RedisClusterException, OSError, ValueError, TypeError) as exc:
        raise LocalStackError(
            f"The Redis or Valkey at redis_url (--redis-url) can't be used: {_explain(url, exc)}"
        ) from exc
    await client.aclose()


def _explain(url: str, exc: Exception) -> str:
    """Return what is wrong and what to change."""
    said = str(exc).rstrip(".") or f"no answer within {_ANSWER_S:g} s"
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({cause.verify_message}). Name the file of its CA: "
            "rediss://…?ssl_ca_certs=/path/to/ca.pem."
        )
    if isinstance(exc, AuthenticationError):
        return f"{said}. Put the right name and password into the URL. {_FORM}"
    if isinstance(exc, NoPermissionError):
        return f"{said}. Its user needs all commands, keys and channels (ACL: +@all ~* &*)."
    if isinstance(exc, ResponseError) and "DB index" in said:
        return f"{said}. Name a database that it has; a cluster has but one: redis://host:port."
    if isinstance(exc, RedisClusterException):
        return f"it is a cluster, and {said}. Name one of its nodes: redis://host:port."
    if isinstance(exc, ValueError | TypeError):
        return f"{said}. {_FORM}"
    if urlsplit(url).scheme == "rediss":
        said += " (does it speak TLS? If not, use redis://)"
    elif urlsplit(url).scheme == "redis":
        said += " (does it expect TLS? If so, use rediss://)"
    return f"{said}. Start it, correct the URL, or leave the option out to use the embedded one."
