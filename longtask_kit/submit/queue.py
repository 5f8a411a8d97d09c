"""QStash through its official SDK: publish, cancel, signing keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx
from qstash.asyncio.http import AsyncHttpClient
from qstash.asyncio.log import AsyncLogApi
from qstash.asyncio.message import AsyncMessageApi
from qstash.asyncio.signing_key import AsyncSigningKeyApi
from qstash.errors import (
    DailyMessageLimitExceededError,
    QStashError,
    RateLimitExceededError,
)
from qstash.log import LogState

from longtask_kit.errors import (
    ConfigError,
    QuotaError,
    StoreError,
    SubmitError,
    describe_foreign,
)
from longtask_kit.settings import secret
from longtask_kit.submit.queue_state import EVENTS_READ, read_state
from longtask_kit.traces import carry
from longtask_kit.transport import TRANSPORT_ERRORS, open_quick_client, tell_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from qstash.http import RetryConfig

    from longtask_kit.settings import Settings
    from longtask_kit.submit.queue_state import QueueState

# The SDK's default keeps a caller waiting for 32 s when nothing listens; the deduplication id
# makes a publish safe to send again.
_RETRY: RetryConfig = {"retries": 2, "backoff": lambda tried: 100 * 3**tried}
_TIMEOUT_S = 30.0
_BATCH = 100  # messages a request
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


@dataclass(frozen=True, slots=True)
class Flow:
    """How many deliveries of one key may be under way; the last message's setting wins there."""

    key: str
    parallelism: int


def find_flow(brief: Mapping[str, Any]) -> Flow | None:
    """Return what a task's deliveries are counted with, by what is on record of it."""
    group_id, parallelism = brief.get("groupId"), brief.get("parallelism")
    return Flow(group_id, parallelism) if group_id and parallelism else None


class _Http(AsyncHttpClient):
    """The SDK's requests, over connections of ours.

    The SDK's constructor opens its own, by the environment's proxies: on this machine they stand
    in the way, some can't even be read, and it has no option for it.
    """

    def __init__(self, url: str, token: str) -> None:
        self._token, self._base_url, self._retry = f"Bearer {token}", url, _RETRY
        self._client = open_quick_client(url)  # type: ignore[assignment]  # as far as the SDK goes

    async def aclose(self) -> None:
        """Close the connections, for which the SDK has no call."""
        await self._client.aclose()


class Queue:
    """The task queue. Open it with `Queue.open(settings)`, close it with `aclose()`."""

    def __init__(self, http: _Http, settings: Settings) -> None:
        self._http = http
        self._messages, self._signing_keys = AsyncMessageApi(http), AsyncSigningKeyApi(http)
        self._logs = AsyncLogApi(http)
        self._settings = settings
        self._turns = asyncio.Semaphore(_MAX_AT_ONCE)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Make a queue from settings; nothing is sent yet."""
        settings.require("QSTASH_TOKEN", "LONGTASK_BASE_URL")
        return cls(_Http(settings.qstash_url, secret(settings.qstash_token)), settings)

    def lead_to(self, settings: Settings) -> Self:
        """Return one by the same connections, whose messages go to another webhook."""
        return type(self)(self._http, settings)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def publish(
        self,
        task_id: str,
        *,
        deduplication_id: str | None = None,
        retries: int | None = None,
        flow: Flow | None = None,
        delay_s: int = 0,
    ) -> str:
        """Hand a task to the queue, which will call the webhook.

        The message is the task's id alone: what to run is on record, so that no prompt lies in a
        second cloud, whose messages may have a tenth of the size.

        Args:
            task_id: The task.
            deduplication_id: Publishing twice with the same one runs once; None is the task id.
            retries: Deliveries after the first that fails; None is the settings' number.
            flow: Whose deliveries are counted together, and how many may be under way.
            delay_s: Not before so many seconds.

        Returns:
            The queue's message id.

        Raises:
            QuotaError: A limit of the plan is reached.
            SubmitError: The queue is unreachable or refused the message.
        """
        message = self._make_message(task_id, retries=retries, flow=flow)
        message["deduplication_id"] = deduplication_id or task_id
        if delay_s:
            message["delay"] = delay_s
        try:
            async with self._turns, asyncio.timeout(_TIMEOUT_S):
                answer = await self._messages.publish(**message)
                return str(answer.message_id)  # type: ignore[union-attr]  # a URL, not a group
        except _FOREIGN as exc:
            raise self._explain(exc, task_id) from exc

    async def publish_many(
        self, tasks: Sequence[tuple[str, int | None]], *, flow: Flow | None = None
    ) -> AsyncIterator[dict[str, str]]:
        """Hand many tasks to the queue, a hundred a request.

        Args:
            tasks: Id and `retries` of each; the id is its deduplication id.
            flow: As in `publish`.

        Yields:
            Message ids by task ids, of each request that was answered.

        Raises:
            QuotaError, SubmitError: As `publish`; what was yielded before is queued.
        """
        for at in range(0, len(tasks), _BATCH):
            batch = tasks[at : at + _BATCH]
            messages = [
                self._make_message(task_id, retries=retries, flow=flow)
                | {"deduplication_id": task_id}
                for task_id, retries in batch
            ]
            try:
                async with self._turns, asyncio.timeout(_TIMEOUT_S):
                    answers = await self._messages.batch(messages)  # type: ignore[arg-type]
                ids = [str(answer.message_id) for answer in answers]  # type: ignore[union-attr]
            except _FOREIGN as exc:
                raise self._explain(exc, None) from exc
            yield dict(zip((task_id for task_id, _ in batch), ids, strict=True))

    def _make_message(
        self, task_id: str, *, retries: int | None, flow: Flow | None
    ) -> dict[str, Any]:
        message: dict[str, Any] = {
            "url": self._settings.webhook_url,
            "body": json.dumps({"taskId": task_id}),
            "content_type": "application/json",
            "retries": self._settings.retries if retries is None else retries,
            "failure_callback": self._settings.failure_url,
        }
        if carried := carry():
            message["headers"] = carried
        if flow is not None:
            message["flow_control"] = {"key": flow.key, "parallelism": flow.parallelism}
        return message

    def _explain(self, exc: BaseException, task_id: str | None) -> SubmitError:
        if isinstance(exc, RateLimitExceededError | DailyMessageLimitExceededError):
            return QuotaError(
                f"QStash refused the message: {exc}. Wait, or raise the plan's limit.",
                task_id=task_id,
            )
        return SubmitError(
            f"The task was not queued: {self._place} answered "
            f"{describe_foreign(exc)}. Check QSTASH_TOKEN and QSTASH_URL, "
            "or run `longtask doctor`.",
            task_id=task_id,
        )

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

    async def cancel_many(self, message_ids: Sequence[str]) -> None:
        """Take messages out of the queue; as with `cancel`, one that is delivered finds an end."""
        if not message_ids:  # no list of ids is how a service is asked to cancel all that it has
            return
        with contextlib.suppress(*_FOREIGN):
            async with asyncio.timeout(_TIMEOUT_S):
                await self._messages.cancel_many(list(message_ids))

    async def find_next_try(self, message_id: str) -> datetime | None:
        """Return when a message that failed is delivered again; None where the queue doesn't say.

        It says so in its log, a little after the delivery that failed.
        """
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                told = await self._logs.list(
                    count=10, filter={"message_id": message_id, "state": LogState.RETRY}
                )
        except _FOREIGN:
            return None
        due_ms = max((log.next_delivery_time or 0 for log in told.logs), default=0)
        return datetime.fromtimestamp(due_ms / 1000, UTC) if due_ms else None

    async def deliver_now(self, message_id: str) -> bool:
        """Have a message that waits delivered at once, at no attempt's cost; whether it waited."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._http.request(path=f"/v2/messages/{message_id}/retry", method="POST")
        except _FOREIGN:
            return False
        return True

    async def look(self) -> QueueState:
        """Return what the queue says of its messages, of all who use its token.

        Raises:
            StoreError: It did not answer, or something else than QStash did.
        """
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                told, dead = await asyncio.gather(
                    self._http.request(
                        path="/v2/events", method="GET", params={"count": str(EVENTS_READ)}
                    ),
                    self._http.request(path="/v2/dlq", method="GET", params={"count": "100"}),
                )
        except _FOREIGN as exc:
            raise StoreError(f"QStash does not answer: {describe_foreign(exc)}.") from exc
        return read_state(told, dead)

    async def delete_dead_letter(self, dead_letter_id: str) -> None:
        """Delete a dead letter; one that is not there any more is none.

        Raises:
            StoreError: The queue did not answer.
        """
        await self._settle_dead_letter(
            path=f"/v2/dlq/{quote(dead_letter_id, safe='')}", method="DELETE", parse_response=False
        )

    async def send_again(self, dead_letter_id: str) -> None:
        """Send a dead letter again, as a new message.

        Raises:
            StoreError: The queue did not answer, or knows no such dead letter.
        """
        # The hosted service has the bulk form only, which the local queue knows too.
        await self._settle_dead_letter(
            path="/v2/dlq/retry", method="POST", params={"dlqIds": dead_letter_id}
        )

    async def _settle_dead_letter(self, **request: Any) -> None:  # noqa: ANN401 - the SDK's own
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._http.request(**request)
        except _FOREIGN as exc:
            if "status: 404" not in str(exc) or request["method"] != "DELETE":
                raise StoreError(f"QStash refused: {describe_foreign(exc)}.") from exc

    @property
    def _place(self) -> str:
        url = self._settings.qstash_url
        return f"QStash at {url}{tell_proxy(url)}"

    @property
    def webhook_url(self) -> str:
        """Where messages are delivered."""
        return self._settings.webhook_url

    @property
    def retries(self) -> int:
        """Deliveries after the first, of a message that names no number of its own."""
        return self._settings.retries

    async def has(self, message_id: str) -> bool:
        """Tell whether a message is still to be delivered; True where nobody can say."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._messages.get(message_id)
        except QStashError as exc:
            return "status: 404" not in str(exc)
        except _FOREIGN:  # some of a message that the SDK can't read, or no answer
            return True
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
                f"{self._place}: {describe_foreign(exc)}. Check QSTASH_TOKEN and QSTASH_URL."
            ) from exc
        return keys.current, keys.next
