"""Whatever happens between a task and its readers, each gets every token once, or an error."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.client import http_api
from longtask_kit.client.backend import ServiceBackend
from longtask_kit.log import news, subscribe
from longtask_kit.log.events import Cursor, TaskEvent
from longtask_kit.log.keys import log_key, new_task_id, task_key
from longtask_kit.settings import secret
from longtask_kit.submit.spec import TaskSpec
from tests.chaos._reading import (
    BEHIND,
    SOURCES,
    check_tokens,
    lead_through,
    model_tokens,
    read_all,
    redis_source,
)
from tests.chaos._scripted import served_app
from tests.chaos._wire import Link, Wire, cut_at_random, mute_news, wire_to
from tests.thorough import first_of

pytestmark = pytest.mark.anyio
Scale = Callable[..., int]
Figures = Callable[[str, str], None]
PROMPT = "Explain tides"
TOKENS = model_tokens(PROMPT)


async def submit(settings: lt.Settings, **spec: object) -> str:
    """Queue a task on the stack itself; returns its id."""
    [task_id] = await submit_many(settings, 1, **spec)
    return task_id


async def submit_many(settings: lt.Settings, count: int, **spec: object) -> list[str]:
    """Queue tasks, all with one client: to make one costs as long as a task here."""
    backend = ServiceBackend(settings)
    options: dict[str, object] = {"prompt": PROMPT, "model": "demo@300"} | spec
    wanted = TaskSpec(**options)  # type: ignore[arg-type]
    queued = await asyncio.gather(*(backend.submit(wanted) for _ in range(count)))
    await backend.aclose()
    return [task_id for task_id, _ in queued]


async def read_through(settings: lt.Settings, kind: str, wire: Wire, *task_ids: str) -> int:
    """Follow through the wire and check every token; returns how many events there were."""
    async with SOURCES[kind](lead_through(settings, kind, wire.url)) as source:
        reading = (read_all(source, task_id) for task_id in task_ids)
        everything = await asyncio.gather(*reading)
    for events in everything:
        check_tokens(events, TOKENS)
    return sum(map(len, everything))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("kind", "only_subscriptions", "most"),
    # A page of the log must get through once in a while, or no reader could ever read it.
    [("redis", True, 1500), ("redis", False, 15_000), ("http", True, 3000)],
)
async def test_a_stream_dropped_at_a_random_byte_costs_no_token(
    settings: lt.Settings,
    scale: Scale,
    figures: Figures,
    kind: str,
    only_subscriptions: bool,
    most: int,
) -> None:
    wanted, tasks, events = scale(short=40, full=1000), 0, 0
    with wire_to(getattr(settings, BEHIND[kind])) as wire:
        wire.on_answer = cut_at_random(
            random.Random(most), most=most, share=0.8, only_subscriptions=only_subscriptions
        )
        while wire.cuts < wanted:
            ids = await submit_many(settings, 8, model="demo@100")
            tasks += len(ids)
            events += await read_through(settings, kind, wire, *ids)
        name = f"4 drops, {kind}{'' if only_subscriptions else ', log reads too'}"
        figures(name, f"{wire.cuts} cuts, {tasks} tasks, {events} events: every token once")


@pytest.mark.parametrize("kind", SOURCES)
async def test_a_drop_before_the_acknowledgement_costs_no_token(
    settings: lt.Settings, figures: Figures, kind: str
) -> None:
    refused = 0

    def cut_the_first(link: Link, data: bytes) -> bytes | None:
        nonlocal refused
        if link.is_subscription and link.answered == 0 and refused < 3:
            refused += 1
            return None
        return data

    with wire_to(getattr(settings, BEHIND[kind])) as wire:
        wire.on_answer = cut_the_first
        await read_through(settings, kind, wire, await submit(settings))
    assert refused == 3
    figures(f"4 drop before the ack, {kind}", "3 times in a row: every token once")


@pytest.mark.parametrize("side", ["subscription", "log"])
async def test_a_drop_between_acknowledgement_and_replay_costs_no_token(
    settings: lt.Settings, figures: Figures, side: str
) -> None:
    dropped = 0

    def cut_when_the_log_is_read(link: Link, data: bytes) -> bytes | None:
        nonlocal dropped
        if b'"XRANGE"' not in data or dropped == 3:
            return data
        acknowledged = [one for one in list(wire.links) if one.is_subscription]
        if not all(one.answered > 0 for one in acknowledged):
            # What a connection that is long in coming might have missed is read meanwhile.
            assert dropped, "listen before read"
            return data
        dropped += 1
        if side == "log":
            return None
        for one in acknowledged:
            one.cut()
        return data

    with wire_to(settings.upstash_redis_rest_url) as wire:
        wire.on_request = cut_when_the_log_is_read
        await read_through(settings, "redis", wire, await submit(settings, model="demo@60"))
    assert dropped >= 2, "the third may come when all was said"
    figures(f"4 drop between ack and replay, {side}", "3 times in a row: every token once")


async def test_a_drop_after_connected_and_before_the_replay_costs_no_token(
    settings: lt.Settings, figures: Figures
) -> None:
    dropped = 0

    def cut_after_connected(link: Link, data: bytes) -> bytes | None:
        nonlocal dropped
        if not link.is_subscription or dropped == 3:
            return data
        head, found, _ = data.partition(b'"connected"')
        if found:
            dropped += 1
            link.left = 0
            rest = data[len(head) :]
            return head + rest[: rest.index(b"\n\n") + 2]
        return data

    with wire_to(settings.base_url) as wire:
        wire.on_answer = cut_after_connected
        await read_through(settings, "http", wire, await submit(settings))
    assert dropped == 3
    figures("4 drop between connected and replay, http", "3 times in a row: every token once")


def cut_after(greeting: bytes) -> Callable[[Link, bytes], bytes | None]:
    """Return what cuts each stream behind the frame with its greeting."""

    def pass_greeting(link: Link, data: bytes) -> bytes | None:
        head, found, rest = data.partition(greeting)
        if not (link.is_subscription and found):
            return data
        link.left = 0
        return head + found + rest[: rest.index(b"\n\n") + 2]

    return pass_greeting


@pytest.mark.gate
@pytest.mark.parametrize(("kind", "greeting"), [("redis", b"subscribe,"), ("http", b'"connected"')])
async def test_a_service_that_greets_and_breaks_again_and_again_is_said_to_be_silent(
    settings: lt.Settings, figures: Figures, kind: str, greeting: bytes
) -> None:
    async with redis_source(settings) as source:
        task_id = new_task_id()
        await source._store.create(task_id, TaskSpec(prompt=PROMPT).to_wire())  # never queued
    with wire_to(getattr(settings, BEHIND[kind])) as wire:
        wire.on_answer = cut_after(greeting)
        async with SOURCES[kind](lead_through(settings, kind, wire.url)) as opened:
            events = subscribe.follow(opened, task_id, silence_limit_s=2)
            with pytest.raises(lt.StreamSilentError, match="attach again later"):
                await asyncio.wait_for(take_all(events, []), 20)
    assert 3 <= wire.cuts <= 12, "each wait is longer than the one before"
    figures(f"4 greeted and cut, {kind}", f"{wire.cuts} tries, then StreamSilentError")


def fall_silent_after(count: int) -> Callable[[Link, bytes], bytes | None]:
    """Return what lets the first two subscriptions live so many bytes, and then hang."""
    silenced: list[Link] = []

    def pass_or_hang(link: Link, data: bytes) -> bytes | None:
        if not link.is_subscription:
            return data
        if link not in silenced and len(silenced) < 2:
            silenced.append(link)
            link.left = count
        if link.left is None:
            return data
        passed = data[: max(0, link.left - 1)]  # never 0 left, which would cut it
        link.left -= len(passed)
        return passed

    return pass_or_hang


@pytest.mark.parametrize("count", first_of([150, 1, 1500]))
@pytest.mark.parametrize("kind", SOURCES)
async def test_a_half_open_connection_is_noticed(
    settings: lt.Settings,
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
    kind: str,
    count: int,
) -> None:
    # Shortened: 45 s without a byte, of which the server sends one every 15 s.
    for module in (news, http_api):
        monkeypatch.setattr(module, "SSE_TIMEOUT", httpx.Timeout(10.0, read=0.7, pool=None))
    with wire_to(getattr(settings, BEHIND[kind])) as wire:
        wire.on_answer = fall_silent_after(count)
        async with asyncio.timeout(20):
            await read_through(settings, kind, wire, await submit(settings))
    figures(f"4 half open after {count} bytes, {kind}", "noticed: every token once")


async def test_a_subscription_that_stays_open_and_says_nothing_is_made_up_for_by_the_log(
    settings: lt.Settings, figures: Figures
) -> None:
    with wire_to(settings.upstash_redis_rest_url) as wire:
        wire.on_answer = mute_news(lambda _: True)  # acknowledged, alive, and no news ever
        task_id = await submit(settings, model="demo@60", max_tokens=60)
        async with redis_source(lead_through(settings, "redis", wire.url)) as source:
            source._idle_timeout_s = 0.2
            async with asyncio.timeout(20):
                events = await read_all(source, task_id)
        check_tokens(events, TOKENS[:60])
        assert wire.connections < 10, "it read the log and did not have to reconnect"
    figures("4 no news at all, redis", f"{len(events)} events by reading the log")


async def take_all(events: AsyncIterator[TaskEvent], seen: list[TaskEvent]) -> None:
    """Add what comes to what was seen."""
    async for event in events:
        seen.append(event)


async def test_when_everything_is_half_open_the_reader_says_so_within_its_limit(
    settings: lt.Settings, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    for module in (news, http_api):
        monkeypatch.setattr(module, "SSE_TIMEOUT", httpx.Timeout(10.0, read=0.3, pool=None))
    for kind, opened in SOURCES.items():
        with wire_to(getattr(settings, BEHIND[kind])) as wire:
            task_id = await submit(settings, model="demo@100", max_tokens=100)
            async with opened(lead_through(settings, kind, wire.url)) as source:
                if isinstance(source, subscribe.RedisSource):
                    source._store._redis.timeout_s = source._idle_timeout_s = 0.3
                events = subscribe.follow(source, task_id, silence_limit_s=1.0)
                seen = [await anext(events) for _ in range(3)]
                wire.on_answer = lambda *_: b""
                with pytest.raises(lt.StreamSilentError, match="attach again later") as caught:
                    await asyncio.wait_for(take_all(events, seen), 20)
                assert caught.value.cursor == str(seen[-1].cursor)
                wire.on_answer = lambda _, data: data
                wire.cut_all()
                rest = await read_all(source, task_id, after=seen[-1].cursor)
        check_tokens([*seen, *rest], TOKENS[:100])
    figures("4 everything half open", "StreamSilentError with the cursor; the rest is exact")


@pytest.mark.parametrize("kind", first_of(SOURCES))
async def test_a_lost_terminal_message_only_delays_the_end(
    settings: lt.Settings, figures: Figures, kind: str
) -> None:
    lost: list[bytes] = []

    def is_terminal(line: bytes) -> bool:
        if b'"k","end"' in line:
            lost.append(line)
            return True
        return False

    # What the app subscribes to is Redis, too: so the wire stands there in both cases.
    with wire_to(settings.upstash_redis_rest_url) as wire:
        wire.on_answer = mute_news(is_terminal)
        through = settings.model_copy(update={"upstash_redis_rest_url": wire.url})
        async with asyncio.timeout(20):
            if kind == "redis":
                async with redis_source(through) as source:
                    events = await read_all(source, await submit(settings, model="demo@60"))
            else:
                with served_app(through) as own:
                    async with SOURCES["http"](own) as http:
                        events = await read_all(http, await submit(settings, model="demo@60"))
    check_tokens(events, TOKENS)
    assert lost, "the message was lost indeed"
    figures(f"4 terminal message lost, {kind}", "the reader ended by the log")


# -- many readers -------------------------------------------------------------------------------


async def test_two_kits_follow_one_task(settings: lt.Settings, figures: Figures) -> None:
    with (
        lt.connect(settings=settings, quiet=True) as one,
        lt.connect(settings=settings, quiet=True) as two,
        lt.connect(settings.base_url, quiet=True) as three,
    ):
        task = await asyncio.to_thread(one.submit, PROMPT, model="demo@300")
        others = [await asyncio.to_thread(kit.attach, task.id) for kit in (two, three)]
        texts = await asyncio.gather(task._wait(), *(other._wait() for other in others))
        assert texts == ["".join(TOKENS)] * 3
        streams = [list(each.events()) for each in (task, *others)]
        for events in streams:
            check_tokens(events, TOKENS)
        assert streams[0] == streams[1]
    figures("8 two kits and one over HTTP", "the same events, every token once")


@pytest.mark.parametrize("kind", SOURCES)
async def test_many_followers_of_one_task_all_get_the_exact_text(
    settings: lt.Settings, scale: Scale, figures: Figures, kind: str
) -> None:
    count = scale(short=200, full=200)
    task_id = await submit(settings, model="demo@100")

    async with SOURCES[kind](settings) as source:

        async def join(after_s: float) -> list[TaskEvent]:
            await asyncio.sleep(after_s)  # some from the start, some in the middle, some late
            return await read_all(source, task_id)

        everything = await asyncio.gather(*(join(2.5 * n / count) for n in range(count)))
    for events in everything:
        check_tokens(events, TOKENS)
    total = sum(map(len, everything))
    figures(f"8 followers, {kind}", f"{count} followers, {total} events: every token once each")


# -- late readers -------------------------------------------------------------------------------


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", SOURCES)
async def test_after_any_cursor_of_ten_thousand_tokens_comes_exactly_the_rest(
    settings: lt.Settings, scale: Scale, figures: Figures, kind: str
) -> None:
    tokens = model_tokens("Explain rivers", is_long=True, max_tokens=10_000)
    task_id = await submit(settings, prompt="Explain rivers", model="demo-long", max_tokens=10_000)
    async with SOURCES[kind](settings) as source:
        await read_all(source, task_id)
        whole = await read_all(source, task_id)  # the late one
        check_tokens(whole, tokens)
        places = range(len(whole) - 1)  # not the last: nothing follows the end
        most = scale(short=25, full=5000)
        chosen = places if len(places) <= most else random.Random(9).sample(places, most)
        for place in chosen:
            rest = await read_all(source, task_id, after=whole[place].cursor)
            assert rest == whole[place + 1 :]
    figures(
        f"9 late subscriber, {kind}",
        f"{len(tokens)} tokens in {len(whole)} events; rest exact after {len(chosen)} cursors",
    )


async def test_a_cursor_between_two_attempts_gives_the_next_attempt(
    settings: lt.Settings, figures: Figures
) -> None:
    prompt = f"Explain clouds {random.random()}"
    task_id = await submit(settings, prompt=prompt, model="demo-cut-then-ok")
    async with redis_source(settings) as source:
        whole = await read_all(source, task_id)
        check_tokens(whole, model_tokens(prompt))
        assert whole[-1].cursor.attempt == 2
        for after in (Cursor(1, 10**6), Cursor(1, 2**63), Cursor(2, 0)):
            rest = await read_all(source, task_id, after=after)
            assert rest == [event for event in whole if event.cursor.attempt == 2]
    figures("9 cursor between attempts", "the second attempt, whole")


@pytest.mark.parametrize("how", first_of(["deleted", "expired", "log only"]))
@pytest.mark.parametrize("kind", SOURCES)
async def test_a_log_that_is_gone_is_an_error_not_silence(
    settings: lt.Settings, figures: Figures, kind: str, how: str
) -> None:
    task_id = await submit(settings, model="demo-fast")
    async with SOURCES[kind](settings) as source:
        await read_all(source, task_id)
        remove_log(settings, task_id, how)
        with pytest.raises(lt.StreamExpiredError, match="submit it again"):
            async with asyncio.timeout(3):
                await read_all(source, task_id)
    figures(f"9 log {how}, {kind}", "StreamExpiredError")


def remove_log(settings: lt.Settings, task_id: str, how: str) -> None:
    """Lose a task's log, and but for `log only` its record."""
    with Redis(
        settings.upstash_redis_rest_url or "", secret(settings.upstash_redis_rest_token)
    ) as redis:
        keys = [log_key(task_id)] if how == "log only" else [task_key(task_id), log_key(task_id)]
        for key in keys:
            if how == "expired":
                redis.pexpire(key, 1)
            else:
                redis.delete(key)
        while redis.exists(*keys):
            pass


@pytest.mark.gate
@pytest.mark.parametrize("kind", first_of(SOURCES))
async def test_a_log_that_goes_away_under_a_follower_is_an_error(
    settings: lt.Settings, figures: Figures, kind: str
) -> None:
    task_id = await submit(settings, model="demo-slow-start")
    async with SOURCES[kind](settings) as source:
        events = subscribe.follow(source, task_id)
        while (await anext(events)).type != "start":
            pass
        remove_log(settings, task_id, "deleted")
        with pytest.raises(lt.StreamExpiredError):
            async with asyncio.timeout(20):
                await anext(events)
    figures(f"9 log goes away under a follower, {kind}", "StreamExpiredError")
