"""Commands and scripts in Redis, over Upstash's REST protocol by its official SDK."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import httpx
from upstash_redis.asyncio import Redis
from upstash_redis.errors import UpstashError
from upstash_redis.http import AsyncHttpClient, make_headers

from longtask_kit.errors import StoreError, StoreRefusedError, describe_foreign
from longtask_kit.settings import secret
from longtask_kit.transport import TRANSPORT_ERRORS, open_quick_client, tell_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from longtask_kit.settings import Settings

# What the SDK raises or trips over: transport, non-JSON bodies, odd shapes of an error answer.
_FOREIGN = (
    *(*TRANSPORT_ERRORS, httpx.InvalidURL, UpstashError),
    *(ValueError, KeyError, TypeError, AttributeError),
)

_MAX_AT_ONCE = 32  # a thousand readers open no thousand connections


class _Http(AsyncHttpClient):
    """The SDK's requests, over connections of ours.

    The SDK's constructor opens its own, by the environment's proxies: on this machine they stand
    in the way, some can't even be read, and it has no option for it. Ours take half the CPU, too.
    """

    def __init__(self, url: str, sync_token_cb: Callable[[str], None]) -> None:
        self._encoding = None  # base64 is for bytes; all of ours is text
        self._retries = 0  # whoever calls decides what is safe to send again, and when
        self._sync_token_cb = sync_token_cb
        self._client = open_quick_client(url)  # type: ignore[assignment]  # as far as the SDK goes


class _Sdk(Redis):
    """The SDK's client, without telemetry; see `_Http` for why it is not made by its own."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._headers = url, make_headers(token, None, allow_telemetry=False)
        self._read_your_writes, self._sync_token = True, ""
        self._http = _Http(url, self._update_sync_token)


class RedisClient:
    """Runs commands, each call in one round trip; close it with `aclose()`.

    Args:
        settings: Name the service.
        timeout_s: Longest wait for an answer, in seconds, > 0.
    """

    def __init__(self, settings: Settings, *, timeout_s: float = 10.0) -> None:
        settings.require("UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN")
        self._url = settings.upstash_redis_rest_url or ""
        self._sdk = _Sdk(self._url, secret(settings.upstash_redis_rest_token))
        self.timeout_s = timeout_s
        self._turns = asyncio.Semaphore(_MAX_AT_ONCE)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    async def run(self, commands: Sequence[list[Any]], *, is_urgent: bool = False) -> list[Any]:
        """Run commands in one round trip and return their replies.

        Args:
            commands: Name and arguments of each: text and numbers.
            is_urgent: Not to wait for a turn behind a thousand readers.

        Raises:
            StoreRefusedError: A command was refused.
            StoreError: There was no answer, or an odd one.
        """
        _check_arguments(commands)
        if is_urgent:
            return await self._send(commands)
        async with self._turns:
            return await self._send(commands)

    async def run_script(
        self,
        name: str,
        calls: Sequence[list[Any]],
        *,
        also: Sequence[list[Any]] = (),
        is_urgent: bool = False,
    ) -> list[Any]:
        """Run one script of `lua/` several times, and other commands after it, in one round trip.

        Args:
            name: The script's.
            calls: Each with the number of its keys, the keys, and the arguments.
            also: Commands that follow.
            is_urgent: As in `run`.

        Raises:
            StoreError: As `run`.
        """
        source, sha = load_script(name)
        try:
            commands = [["EVALSHA", sha, *call] for call in calls]
            return await self.run([*commands, *also], is_urgent=is_urgent)
        except StoreError as exc:
            if "NOSCRIPT" not in str(exc):
                raise
        # The server forgot its scripts (restart, failover). EVAL brings them back. Of several
        # calls some may have run before the flush; a script that ran already changes nothing.
        commands = [["EVAL", source, *call] for call in calls]
        return await self.run([*commands, *also], is_urgent=is_urgent)

    async def _send(self, commands: Sequence[list[Any]]) -> list[Any]:
        try:
            # The SDK has no timeout of its own: a hung request would hang the attempt for ever.
            async with asyncio.timeout(self.timeout_s):
                if len(commands) == 1:  # the SDK loses the text of an error to a whole pipeline
                    return [await self._sdk.execute(commands[0])]
                pipeline = self._sdk.pipeline()
                for command in commands:
                    pipeline.execute(command)
                return await pipeline.exec()
        except TimeoutError as exc:
            raise StoreError(f"Redis did not answer within {self.timeout_s:g} s.") from exc
        except UpstashError as exc:
            raise StoreRefusedError(f"Redis refused a command: {exc}") from exc
        except _FOREIGN as exc:
            if len(commands) > 1 and not isinstance(exc, TRANSPORT_ERRORS):
                await self._send([["PING"]])  # a wrong token is told only to a single command
            raise StoreError(
                f"Redis is not reachable at UPSTASH_REDIS_REST_URL{tell_proxy(self._url)} "
                f"({describe_foreign(exc)}); check the URL and token, or run `longtask doctor`."
            ) from exc


@cache
def load_script(name: str) -> tuple[str, str]:
    """Return a script's source, with what all share, and its SHA1."""
    folder = files("longtask_kit.log") / "lua"
    source = (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
    return source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def _check_arguments(commands: Sequence[list[Any]]) -> None:
    """Raise TypeError for a slip of ours: what then trips the SDK is an odd answer."""
    for command in commands:
        for argument in command:
            if not isinstance(argument, str | int | float):
                raise TypeError(f"{command[0]}: {type(argument).__name__} is no argument for Redis")
