"""Live news of tasks: one SSE subscription a task, shared by all who follow it in this process.

News only announces what the log holds: a slow follower's is dropped, a foreign message counts as a
hole, and in both cases the log is read instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
from httpx_sse import SSEError, aconnect_sse

from longtask_kit.errors import ConfigError, StreamError, StreamSilentError, describe_foreign
from longtask_kit.log.events import Cursor, TaskEvent, decode_entry
from longtask_kit.log.keys import channel_name
from longtask_kit.settings import secret
from longtask_kit.transport import TRANSPORT_ERRORS, open_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from longtask_kit.settings import Settings

# Servers send a comment every 15 s; a connection that is silent for longer is half open.
SSE_TIMEOUT = httpx.Timeout(10.0, read=45.0, pool=None)
_MAX_NEWS = 1000  # kept for a slow follower


class News:
    """One follower's share of a task's news, in the order it came.

    Args:
        since: When the subscription began, on the loop's clock.
    """

    def __init__(self, since: float) -> None:
        self._since = since
        self._unheard: deque[TaskEvent | StreamError] = deque()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, news: TaskEvent | StreamError) -> None:
        """Add something; what a follower is too slow for is dropped, but never the end."""
        if len(self._unheard) >= _MAX_NEWS and not isinstance(news, StreamError):
            return
        self._unheard.append(news)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def hear(self, idle_s: float) -> TaskEvent | StreamError:
        """Return the next, or raise TimeoutError after a silence of `idle_s`, or up to twice that.

        A subscription's followers are told in the same turn of the loop, so they look together.
        """
        if not self._unheard:
            self._waiter = self._loop.create_future()
            silent_at = self._loop.time() + idle_s
            self._due = silent_at + (self._since - silent_at) % idle_s
            self._watch()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._unheard.popleft()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        """Have the timer fire when due, or before; setting one for each token costs too much."""
        if self._timer is not None and self._timer.when() > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() >= self._due:
            self._waiter.set_exception(TimeoutError())
        else:
            self._watch()


class NewsHub:
    """Subscribes to the channels of tasks, over Upstash Redis' REST API."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.upstash_redis_rest_url
        self._headers = {"Authorization": f"Bearer {secret(settings.upstash_redis_rest_token)}"}
        self._subscriptions: dict[str, _Subscription] = {}
        self._client = open_client(self._url, timeout=SSE_TIMEOUT)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    @contextlib.asynccontextmanager
    async def listen(self, task_id: str) -> AsyncIterator[News]:
        """Yield a task's news, once the subscription is acknowledged.

        What ends the subscription early comes as the last item.

        Raises:
            StreamError: There is no subscription to be had; try again.
            ConfigError: The token was refused.
        """
        subscription = self._subscriptions.get(task_id)
        if subscription is None or subscription.is_over:
            subscription = _Subscription(self._client, f"{self._url}/subscribe/", self._headers)
            subscription.start(task_id)
            self._subscriptions[task_id] = subscription
        news = News(subscription.began)
        subscription.followers.add(news)
        try:
            await subscription.wait_until_acknowledged()
            yield news
        finally:
            news.close()
            subscription.followers.discard(news)
            if not subscription.followers:
                if self._subscriptions.get(task_id) is subscription:
                    del self._subscriptions[task_id]
                await subscription.aclose()


class _Subscription:
    """The connection of one channel."""

    def __init__(self, client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> None:
        self.followers: set[News] = set()
        self.began = asyncio.get_running_loop().time()
        self._client = client
        self._url = url
        self._headers = headers
        self._acknowledged = asyncio.Event()

    def start(self, task_id: str) -> None:
        """Connect; a task of its own, since a timeout around its iterator would close it."""
        self._listener = asyncio.create_task(self._listen(task_id))

    @property
    def is_over(self) -> bool:
        return self._listener.done()

    async def wait_until_acknowledged(self) -> None:
        """Return when nothing can be missed any more, or raise what is in the way."""
        if self._acknowledged.is_set():
            return
        waiting = asyncio.create_task(self._acknowledged.wait())
        try:
            await asyncio.wait({self._listener, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not self._acknowledged.is_set():
            self._listener.result()

    async def aclose(self) -> None:
        self._listener.cancel()
        # Not gather: a second cancel of ours would pass on to the listener while it closes its
        # connection, which would then stay open for good.
        await asyncio.wait({self._listener})
        if not self._listener.cancelled():
            self._listener.exception()  # seen: whoever needed it has it from the queue

    async def _listen(self, task_id: str) -> None:
        """Hand news to all followers; at the end of the connection hand them the reason."""
        url = self._url + channel_name(task_id)
        reason, error = "the server closed the subscription", StreamError
        try:
            async with aconnect_sse(self._client, "POST", url, headers=self._headers) as source:
                await check_answer(source.response, "UPSTASH_REDIS_REST_TOKEN")
                source.response.encoding = "utf-8"  # as SSE is; a server may name any codec
                async for frame in source.aiter_sse():
                    kind, _, rest = frame.data.partition(",")
                    if kind == "subscribe":
                        self._acknowledged.set()
                    elif kind == "message":
                        self._tell(_decode_news(rest.partition(",")[2]))
        except (*TRANSPORT_ERRORS, SSEError) as exc:
            reason, error = f"UPSTASH_REDIS_REST_URL: {describe_foreign(exc)}", choose_error(exc)
        lost = error(f"The subscription was lost: {reason}.", task_id=task_id)
        if not self._acknowledged.is_set():
            raise lost
        self._tell(lost)

    def _tell(self, what: TaskEvent | StreamError) -> None:
        for news in self.followers:
            news.tell(what)


def _decode_news(payload: str) -> TaskEvent:
    """Read a channel's message; anything foreign counts as a hole, so that the log is read."""
    try:
        return decode_entry(json.loads(payload))
    except (ValueError, RecursionError):
        hole = Cursor(2**63, 0)
        return TaskEvent(type="status", cursor=hole, time=datetime.now(UTC))


def choose_error(exc: Exception) -> type[StreamError]:
    """Return the kind of error that a stream's end is: not even heartbeats came, or another."""
    return StreamSilentError if isinstance(exc, httpx.ReadTimeout | TimeoutError) else StreamError


async def check_answer(response: httpx.Response, credential: str) -> None:
    """Raise unless an SSE request was answered with 200.

    Raises:
        ConfigError: The credential was refused.
        httpx.HTTPError: Anything else.
    """
    if response.status_code in (401, 403):
        raise ConfigError(f"{response.url.host} refused the credential; check {credential}.")
    if response.status_code != 200:
        await response.aread()
        response.raise_for_status()
        raise httpx.HTTPError(f"answered {response.status_code}")
