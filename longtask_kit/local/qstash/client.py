"""The queue's client of its Redis; and of a user's own, what to change if it won't serve."""

from __future__ import annotations

import asyncio
import functools
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from longtask_kit.errors import LocalStackError

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS = 32
CLUSTER_CONNECTIONS = 1000
_ANSWER_S = 5.0
_FORM = "Expected redis://user:password@host:port/0, rediss://… for TLS, or unix:///path."


async def connect(redis_url: str) -> Any:  # noqa: ANN401
    """Return a client for the server, or for the cluster that it belongs to; fail if none is there.

    Any: redis-py types every reply as text or bytes, while decode_responses makes it text.
    """
    options: dict[str, Any] = {"protocol": 2, "decode_responses": True}
    # More deliveries than connections is normal; they wait for one another's round trip.
    pool = BlockingConnectionPool.from_url(
        redis_url, max_connections=CONNECTIONS, timeout=30, **options
    )
    client: Any = Redis.from_pool(pool)
    try:
        hello = await client.execute_command("HELLO", "2")
    except ResponseError as exc:
        if "unknown command" not in str(exc):
            raise
        hello = []  # a Redis before 6
    if "cluster" not in hello:
        return client
    await client.aclose()
    # Its pools do not wait for a free connection but fail.
    cluster = RedisCluster.from_url(redis_url, max_connections=CLUSTER_CONNECTIONS, **options)
    for name, read in list(cluster.response_callbacks.items()):
        cluster.set_response_callback(name, functools.partial(_read_reply, read))
    return cluster


def _read_reply(
    read: Callable[..., Any],
    reply: Any,  # noqa: ANN401
    *,
    keys: object = None,
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Leave out `keys`, which redis-py 8.1 hands on in a transaction on a cluster."""
    return read(reply, **options)


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
