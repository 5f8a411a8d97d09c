"""QStash through its official SDK: publish, cancel, signing keys."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

import httpx
from qstash.asyncio.http import AsyncHttpClient
from qstash.asyncio.message import AsyncMessageApi
from qstash.asyncio.signing_key import AsyncSigningKeyApi
from qstash.errors import (
    DailyMessageLimitExceededError,
    QStashError,
    RateLimitExceededError,
)

from longtask_kit.errors import (
    ConfigError,
    QuotaError,
    SubmitError,
    describe_foreign,
)
from longtask_kit.settings import secret
from longtask_kit.transport import TRANSPORT_ERRORS, open_client

if TYPE_CHECKING:
    from qstash.http import RetryConfig

    from longtask_kit.settings import Settings

# The SDK's default keeps a caller waiting for 32 s when nothing listens; the deduplication id
# makes a publish safe to send again.
_RETRY: RetryConfig = {"retries": 2, "backoff": lambda tried: 100 * 3**tried}
_TIMEOUT_S = 30.0
_MAX_AT_ONCE = 16  # of a hundred tasks the first ones begin while the last are still handed over
# What the SDK raises, and what it trips over when something else than QStash answers. Around calls
# of the SDK alone: a slip of ours must not be told as the queue's.
_FOREIGN = (
    QStashError,
    *TRANSPORT_ERRORS,
    httpx.InvalidURL,
    TimeoutError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)


class _Http(AsyncHttpClient):
    """The SDK's requests, over connections of ours.

    The SDK's constructor opens its own, by the environment's proxies: on this machine they stand
    in the way, some can't even be read, and it has no option for it.
    """

    def __init__(self, url: str, token: str) -> None:
        self._token, self._base_url, self._retry = f"Bearer {token}", url, _RETRY
        self._client = open_client(url, timeout=_TIMEOUT_S)

    async def aclose(self) -> None:
        """Close the connections, for which the SDK has no call."""
        await self._client.aclose()


class Queue:
    """The task queue. Open it with `Queue.open(settings)`, close it with `aclose()`."""

    def __init__(self, http: _Http, settings: Settings) -> None:
        self._http = http
        self._messages, self._signing_keys = AsyncMessageApi(http), AsyncSigningKeyApi(http)
        self._settings = settings
        self._turns = asyncio.Semaphore(_MAX_AT_ONCE)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Make a queue from settings; nothing is sent yet."""
        settings.require("QSTASH_TOKEN", "LONGTASK_BASE_URL")
        return cls(_Http(settings.qstash_url, secret(settings.qstash_token)), settings)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def publish(self, task_id: str, *, deduplication_id: str | None = None) -> str:
        """Hand a task to the queue, which will call the webhook.

        The message is the task's id alone: what to run is on record, so that no prompt lies in a
        second cloud, whose messages may have a tenth of the size.

        Args:
            task_id: The task.
            deduplication_id: Publishing twice with the same one runs once; None is the task id.

        Returns:
            The queue's message id.

        Raises:
            QuotaError: A limit of the plan is reached.
            SubmitError: The queue is unreachable or refused the message.
        """
        message: dict[str, Any] = {
            "url": self._settings.webhook_url,
            "body": json.dumps({"taskId": task_id}),
            "content_type": "application/json",
            "retries": self._settings.retries,
            "failure_callback": self._settings.failure_url,
            "deduplication_id": deduplication_id or task_id,
        }
        try:
            async with self._turns, asyncio.timeout(_TIMEOUT_S):
                answer = await self._messages.publish(**message)
                return str(answer.message_id)  # type: ignore[union-attr]  # a URL, not a group
        except (RateLimitExceededError, DailyMessageLimitExceededError) as exc:
            raise QuotaError(
                f"QStash refused the message: {exc}. Wait, or raise the plan's limit.",
                task_id=task_id,
            ) from exc
        except _FOREIGN as exc:
            raise SubmitError(
                f"The task was not queued: QStash at {self._settings.qstash_url} answered "
                f"{describe_foreign(exc)}. Check QSTASH_TOKEN and QSTASH_URL, "
                "or run `longtask doctor`.",
                task_id=task_id,
            ) from exc

    async def cancel(self, message_id: str) -> bool:
        """Take a message out of the queue.

        Returns:
            Whether it was still there; a task that is delivered all the same ends as cancelled.
        """
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._messages.cancel(message_id)
        except _FOREIGN:
            return False
        return True

    async def read_signing_keys(self) -> tuple[str, str]:
        """Return the current and the next key the queue signs with; a check of the token, too.

        Raises:
            ConfigError: It does not, with the cause.
        """
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                keys = await self._signing_keys.get()
        except _FOREIGN as exc:
            raise ConfigError(
                f"QStash at {self._settings.qstash_url}: {describe_foreign(exc)}. "
                "Check QSTASH_TOKEN and QSTASH_URL."
            ) from exc
        return keys.current, keys.next
