"""What a plan of the hosted service refuses, and what the official SDK makes of it."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
from qstash import QStash
from qstash.errors import DailyMessageLimitExceededError, QStashError, RateLimitExceededError

from longtask_kit.local.qstash.errors import PlanLimitError, RateLimitError
from longtask_kit.local.qstash.message import parse_message
from longtask_kit.local.qstash.plan import PLANS, UNLIMITED, BurstCounter, Plan
from tests.contract.qstash.destination import (
    TOKEN,
    Destination,
    make_app,
    publish,
    sdk_for,
    states_of,
    wait_until,
)
from tests.serving import serve

FREE = PLANS["free"]
FAR = "http://127.0.0.1:9/"


@contextlib.contextmanager
def queue_with(redis_url: str, plan: Plan) -> Iterator[tuple[str, QStash]]:
    with serve(make_app(redis_url, plan=plan)) as url, sdk_for(url) as sdk:
        yield url, sdk


@pytest.mark.parametrize(
    ("plan", "body_bytes", "headers", "reason"),
    [
        (FREE, 1_000_000, {}, None),
        (FREE, 1_000_001, {}, "message too large: the free plan allows 1000000 bytes"),
        (PLANS["payg"], 10_000_001, {}, "message too large: the payg plan"),
        (FREE, 0, {"upstash-delay": "7d"}, None),
        (FREE, 0, {"upstash-delay": "7d1s"}, "delay too long"),
        (FREE, 0, {"upstash-not-before": "1700604801"}, "delay too long"),
        (FREE, 0, {"upstash-timeout": "15m"}, None),
        (FREE, 0, {"upstash-timeout": "901s"}, "timeout too long: the free plan allows 900 s"),
        (UNLIMITED, 20_000_000, {"upstash-delay": "366d", "upstash-timeout": "1d"}, None),
    ],
)
def test_a_message_is_checked_against_its_plan(
    plan: Plan, body_bytes: int, headers: dict[str, str], reason: str | None
) -> None:
    time_ms = 1_700_000_000_000
    message = parse_message(
        headers.items(), message_id="msg_1", url=FAR, body=b"x" * body_bytes, now_ms=time_ms
    )
    refusal = pytest.raises(PlanLimitError, match=reason) if reason else contextlib.nullcontext()
    with refusal:
        plan.check_messages([message], time_ms=time_ms)


def test_a_burst_is_counted_by_the_second_and_sending_is_free() -> None:
    counter = BurstCounter(dataclasses.replace(FREE, requests_per_s=2))
    for _ in range(5):
        counter.check("/v2/publish/http://127.0.0.1/", time_s=10.0)
        counter.check("/v2/batch", time_s=10.0)
    counter.check("/v2/queues", time_s=10.1)
    counter.check("/v2/dlq", time_s=10.9)
    with pytest.raises(RateLimitError) as caught:
        counter.check("/v2/dlq", time_s=10.95)
    assert caught.value.headers["Burst-RateLimit-Reset"] == "11"
    counter.check("/v2/dlq", time_s=11.0)


def test_the_day_is_spent_and_the_sdk_raises_its_own_error(
    qstash_valkey: str, destination: Destination
) -> None:
    plan = dataclasses.replace(FREE, messages_per_day=3)
    with queue_with(qstash_valkey, plan) as (_, sdk):
        options = {"url": destination.url + "/day", "deduplication_id": "once"}
        first = publish(sdk, **options)
        assert publish(sdk, **options) == first, "a duplicate is no message"
        sdk.message.enqueue(queue="day-queue", url=destination.url + "/day")
        with pytest.raises(DailyMessageLimitExceededError):
            sdk.message.batch([{"url": destination.url}, {"url": destination.url}])
        last = publish(sdk, destination.url + "/last")
        with pytest.raises(DailyMessageLimitExceededError) as caught:
            publish(sdk, destination.url + "/one-more")
        assert (caught.value.limit, caught.value.remaining) == ("3", "0")
        reset_s = int(caught.value.reset or 0)
        assert 0 < reset_s - time.time() <= 86_400
        assert reset_s % 86_400 == 0
        wait_until(lambda: "DELIVERED" in states_of(sdk, last))
    # What is used up is stored: a restart gives no new day.
    with (
        queue_with(qstash_valkey, plan) as (_, sdk),
        pytest.raises(DailyMessageLimitExceededError),
    ):
        publish(sdk, destination.url + "/after-restart")
    assert not destination.at("/one-more")
    with queue_with(qstash_valkey, UNLIMITED) as (_, sdk):
        assert publish(sdk, destination.url)


def test_a_refused_message_sets_up_nothing(
    qstash_valkey: str, destination: Destination, qstash_flush: redis.Redis
) -> None:
    plan = dataclasses.replace(FREE, messages_per_day=0)
    with queue_with(qstash_valkey, plan) as (_, sdk):
        with pytest.raises(DailyMessageLimitExceededError):
            sdk.message.enqueue(queue="never", url=destination.url)
        assert sdk.queue.list() == []
    assert qstash_flush.zcard("{qstash}:pending") == 0
    assert not qstash_flush.exists("{qstash}:queues")


def test_too_many_requests_in_a_second_are_a_burst_to_the_sdk(
    qstash_valkey: str, destination: Destination
) -> None:
    plan = dataclasses.replace(FREE, requests_per_s=1)
    with queue_with(qstash_valkey, plan) as (url, sdk):
        with pytest.raises(RateLimitExceededError) as caught:
            assert [sdk.queue.list() for _ in range(3)]
        assert (caught.value.limit, caught.value.remaining) == ("1", "0")
        assert int(caught.value.reset or 0) - time.time() <= 1
        refused = httpx.get(url + "/v2/keys", headers={"Authorization": "Bearer no"})
        assert refused.status_code == 401, "a stranger uses up nothing"
        for _ in range(5):
            assert publish(sdk, destination.url)


def test_queues_schedules_and_groups_are_limited_with_412(
    qstash_valkey: str, destination: Destination
) -> None:
    plan = dataclasses.replace(FREE, queues=2, schedules=1, group_endpoints=2)
    with queue_with(qstash_valkey, plan) as (_, sdk):
        sdk.queue.upsert("one", parallelism=1)
        sdk.message.enqueue(queue="two", url=destination.url)
        sdk.queue.upsert("one", parallelism=2)
        for refused in (
            lambda: sdk.queue.upsert("three"),
            lambda: sdk.message.enqueue(queue="three", url=destination.url),
            lambda: sdk.message.batch([{"url": destination.url, "queue": "three"}]),
        ):
            with pytest.raises(QStashError, match=r"412.*too many queues: the free plan allows 2"):
                refused()
        options: Any = {"destination": destination.url, "cron": "0 0 1 1 *"}
        schedule_id = sdk.schedule.create(**options)
        sdk.schedule.create(schedule_id=schedule_id, **options)
        with pytest.raises(QStashError, match=r"412.*too many schedules"):
            sdk.schedule.create(**options)
        sdk.schedule.delete(schedule_id)
        with pytest.raises(QStashError, match=r"412.*delay too long"):
            sdk.schedule.create(delay="8d", **options)
        urls: Any = [{"url": f"{destination.url}/{at}"} for at in range(3)]
        sdk.url_group.upsert_endpoints("group", urls[:2])
        with pytest.raises(QStashError, match=r"412.*too many endpoints"):
            sdk.url_group.upsert_endpoints("group", urls)
        with pytest.raises(QStashError, match=r"412.*too many url groups"):
            sdk.url_group.upsert_endpoints("other", urls[:1])


def test_sizes_are_limited_over_http_as_well(qstash_valkey: str, destination: Destination) -> None:
    plan = dataclasses.replace(FREE, message_bytes=10, batch_bytes=200)
    with queue_with(qstash_valkey, plan) as (url, _):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        client = httpx.Client(base_url=url, headers=headers, trust_env=False)
        with client:
            large = client.post(f"/v2/publish/{destination.url}", content=b"x" * 11)
            batch = client.post(
                "/v2/batch", json=[{"destination": destination.url, "body": "x"}] * 20
            )
            fits = client.post(f"/v2/publish/{destination.url}", content=b"x" * 10)
    assert (large.status_code, batch.status_code, fits.status_code) == (412, 412, 201)
    assert "11" in large.json()["error"]
    assert "batch too large" in batch.json()["error"]
