"""Follow a task, and compare every token of it with what the model wrote."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import httpx

import longtask_kit as lt
from longtask_kit.client.http_api import HttpSource
from longtask_kit.local.model.prose import split_tokens, write_long_reply, write_reply
from longtask_kit.log.events import START, Cursor, TaskEvent
from longtask_kit.log.store import Store
from longtask_kit.log.subscribe import EventSource, RedisSource, follow


def model_tokens(prompt: str, *, max_tokens: int = 1000, is_long: bool = False) -> list[str]:
    """Return the tokens that the demo model answers a prompt with."""
    write = write_long_reply if is_long else write_reply
    return split_tokens(write(prompt))[:max_tokens]


def model_text(prompt: str, *, max_tokens: int = 1000) -> str:
    """Return the demo model's answer to a prompt."""
    return "".join(model_tokens(prompt, max_tokens=max_tokens))


def check_tokens(events: Sequence[TaskEvent], tokens: Sequence[str]) -> None:
    """Check that the last attempt's events are exactly these tokens, in order, once each."""
    cursors = [event.cursor for event in events]
    assert cursors == sorted(set(cursors)), "each event once, in order"
    assert events[-1].type == "end", events[-1]
    assert not any(event.is_terminal for event in events[:-1])
    attempt, at = cursors[-1].attempt, 0
    for event in events:
        if event.type == "content" and event.cursor.attempt == attempt:
            assert event.data == "".join(tokens[at : at + event.tokens])
            at += event.tokens
    assert at == len(tokens)


async def read_all(
    source: EventSource, task_id: str, *, after: Cursor = START, silence_limit_s: float = 60.0
) -> list[TaskEvent]:
    """Return a task's events up to its end."""
    events = follow(source, task_id, after=after, silence_limit_s=silence_limit_s)
    return [event async for event in events]


@contextlib.asynccontextmanager
async def redis_source(settings: lt.Settings) -> AsyncIterator[RedisSource]:
    """Yield a source that reads Redis."""
    store = Store.open(settings)
    source = RedisSource(store, settings)
    try:
        yield source
    finally:
        await source.aclose()
        await store.aclose()


@contextlib.asynccontextmanager
async def http_source(settings: lt.Settings) -> AsyncIterator[HttpSource]:
    """Yield a source that reads the webhook app's stream."""
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as client:
        yield HttpSource(settings.base_url or "", client)


SOURCES: dict[str, Callable[[lt.Settings], AbstractAsyncContextManager[EventSource]]] = {
    "redis": redis_source,
    "http": http_source,
}
BEHIND = {"redis": "upstash_redis_rest_url", "http": "base_url"}


def lead_through(settings: lt.Settings, kind: str, url: str) -> lt.Settings:
    """Return settings whose source of this kind is at `url`."""
    return settings.model_copy(update={BEHIND[kind]: url})
