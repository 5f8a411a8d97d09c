"""Schedules: cron, pause, replace, missed turns; through the official SDK.

A cron's resolution is a minute, so a test sets a schedule's turn back in the store and starts the
queue again, as after a night's sleep.
"""

import datetime
from typing import Any

import pytest
import redis
from qstash import QStash
from qstash.errors import QStashError
from qstash.schedule import ScheduleState

from longtask_kit.local.qstash.errors import HeaderError
from longtask_kit.local.qstash.schedules import next_time_ms
from tests.contract.qstash.conftest import Fresh
from tests.contract.qstash.destination import (
    Answer,
    Destination,
    make_app,
    sdk_for,
    wait_until,
)
from tests.serving import serve


def at(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("* * * * *", "2026-03-01T10:00:30+00:00", "2026-03-01T10:01:00+00:00"),
        (" */5 * * * * ", "2026-03-01T10:00:00+00:00", "2026-03-01T10:05:00+00:00"),
        ("0 9 * * MON-FRI", "2026-11-21T00:00:00+00:00", "2026-11-23T09:00:00+00:00"),
        ("0 0 29 2 *", "2026-03-01T00:00:00+00:00", "2028-02-29T00:00:00+00:00"),
        (
            "CRON_TZ=America/New_York 30 8 * * *",
            "2026-11-24T00:00:00+00:00",
            "2026-11-24T13:30:00+00:00",
        ),
        # The night on which Berlin's clocks go forward has no 02:30.
        (
            "CRON_TZ=Europe/Berlin 0 4 * * *",
            "2026-03-29T00:30:00+00:00",
            "2026-03-29T02:00:00+00:00",
        ),
    ],
)
def test_the_next_turn_of_a_cron(cron: str, after: str, expected: str) -> None:
    assert next_time_ms(cron, after_ms=at(after)) == at(expected)


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "x * * * *",
        "0 0 31 2 *",
        "@daily",
        "CRON_TZ=Mars/Olympus * * * * *",
        "CRON_TZ=../../etc/passwd * * * * *",
        "CRON_TZ= * * * * *",
        "1-0 * * * *",
        "*/0 * * * *",
        "* * * * *" + " " * 1000 + "*",
    ],
)
def test_a_cron_that_cannot_be(cron: str) -> None:
    with pytest.raises(HeaderError, match="Upstash-Cron"):
        next_time_ms(cron, after_ms=0)


def test_a_schedule_is_made_read_replaced_paused_and_deleted(
    fresh: Fresh, destination: Destination
) -> None:
    schedules = fresh.sdk.schedule
    made_id = schedules.create(
        destination=destination.url + "/s?x=1",
        cron="1 1 1 1 1",
        schedule_id="mine",
        body="old",
        method="PUT",
        headers={"Test-Header": "v"},
        retries=1,
        retry_delay="1000",
        delay=20,
        timeout="30s",
        queue="q",
        label="l",
        callback=destination.url + "/c",
        callback_headers={"Forward-X": "y"},
        failure_callback=destination.url + "/f",
        flow_control={"key": "k", "rate": 2},
    )
    assert made_id == "mine"
    made = schedules.get("mine")
    assert (made.destination, made.cron) == (destination.url + "/s?x=1", "1 1 1 1 1")
    assert (made.body, made.method, made.retries, made.queue) == ("old", "PUT", 1, "q")
    assert (made.delay, made.timeout, made.label, made.paused) == (20, 30, "l", False)
    assert made.retry_delay_expression == "1000"
    assert made.headers == {"Test-Header": ["v"]}
    assert made.callback_headers == {"X": ["y"]}
    assert made.failure_callback == destination.url + "/f"
    assert made.flow_control is not None
    assert (made.flow_control.rate, made.flow_control.parallelism) == (2, None)
    assert made.next_schedule_time == next_time_ms("1 1 1 1 1", after_ms=made.created_at)
    assert made.last_schedule_time is None
    schedules.pause("mine")
    assert schedules.get("mine").paused
    schedules.create(destination=destination.url + "/t", cron="* * * * *", schedule_id="mine")
    replaced = schedules.get("mine")
    assert (replaced.body, replaced.headers, replaced.queue) == (None, None, None)
    assert not replaced.paused
    schedules.pause("mine")
    schedules.resume("mine")
    assert not schedules.get("mine").paused
    other = schedules.create(destination=destination.url, cron="CRON_TZ=Asia/Tokyo 0 0 * * *")
    assert other.startswith("scd_")
    assert [one.schedule_id for one in schedules.list()] == ["mine", other]
    schedules.delete("mine")
    for call in (schedules.get, schedules.delete, schedules.pause, schedules.resume):
        with pytest.raises(QStashError, match="404"):
            call("mine")


def test_post_pauses_too_as_the_docs_have_it(fresh: Fresh, destination: Destination) -> None:
    made = fresh.sdk.schedule.create_json(destination=destination.url, cron="* * * * *", body={})
    assert fresh.http.post(f"/v2/schedules/{made}/pause").status_code == 200
    assert fresh.http.get(f"/v2/schedules/{made}").json()["isPaused"] is True
    assert fresh.http.patch(f"/v2/schedules/{made}/resume").status_code == 200
    assert fresh.http.get(f"/v2/schedules/{made}").json()["isPaused"] is False


def missed(client: redis.Redis, schedule_id: str) -> None:
    client.zadd("{qstash}:schedule_index", {schedule_id: 1_000})


def run_missed(
    qstash_valkey: str,
    client: redis.Redis,
    **options: Any,  # noqa: ANN401
) -> str:
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        schedule_id = sdk.schedule.create(cron="0 0 1 1 *", **options)
    missed(client, schedule_id)
    return schedule_id


def last_states(sdk: QStash, schedule_id: str) -> list[ScheduleState]:
    return list((sdk.schedule.get(schedule_id).last_schedule_states or {}).values())


def test_missed_turns_are_made_up_for_once_and_the_message_tells_its_schedule(
    qstash_valkey: str, destination: Destination, qstash_flush: redis.Redis
) -> None:
    made = run_missed(
        qstash_valkey,
        qstash_flush,
        destination=destination.url + "/turn",
        body="tick",
        label="l",
        retries=0,
    )
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        wait_until(lambda: last_states(sdk, made) == [ScheduleState.SUCCESS])
        schedule = sdk.schedule.get(made)
        assert schedule.last_schedule_time is not None
        assert schedule.next_schedule_time is not None
        assert schedule.next_schedule_time > schedule.last_schedule_time
        (delivery,) = destination.deliveries
        assert (delivery.body, delivery.headers["upstash-schedule-id"]) == (b"tick", made)
        message_id = delivery.headers["upstash-message-id"]
        assert sdk.message.get(message_id).schedule_id == made
        logs = sdk.log.list(filter={"schedule_id": made}).logs
        assert {entry.message_id for entry in logs} == {message_id}


def test_a_turn_of_a_group_in_a_queue_with_a_delay(
    qstash_valkey: str, destination: Destination, qstash_flush: redis.Redis
) -> None:
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        sdk.url_group.upsert_endpoints(
            "g", [{"url": destination.url + "/a"}, {"url": destination.url + "/b"}]
        )
    destination.script("/b", Answer(500))
    made = run_missed(qstash_valkey, qstash_flush, destination="g", queue="sq", delay=1, retries=0)
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        wait_until(
            lambda: sorted(state.value for state in last_states(sdk, made)) == ["FAIL", "SUCCESS"]
        )
        assert sdk.queue.get("sq").lag == 0
        created = sdk.log.list(filter={"schedule_id": made}).logs[-1]
        assert destination.deliveries[0].time_s * 1000 - created.time > 900
        (dead,) = sdk.dlq.list(filter={"schedule_id": made}).messages
        assert (dead.schedule_id, dead.queue, dead.url_group) == (made, "sq", "g")


def test_a_turn_whose_group_is_gone_says_so_and_the_schedule_goes_on(
    qstash_valkey: str, destination: Destination, qstash_flush: redis.Redis
) -> None:
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        sdk.url_group.upsert_endpoints("g", [{"url": destination.url + "/a"}])
    made = run_missed(qstash_valkey, qstash_flush, destination="g")
    qstash_flush.delete("{qstash}:groups")
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        error = wait_until(lambda: sdk.schedule.get(made).error)
        assert "no url group 'g'" in str(error)
        assert sdk.schedule.get(made).next_schedule_time is not None


def test_a_paused_schedule_misses_its_turns_for_good(
    qstash_valkey: str, destination: Destination, qstash_flush: redis.Redis
) -> None:
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        made = sdk.schedule.create(destination=destination.url + "/no", cron="0 0 1 1 *")
        sdk.schedule.pause(made)
        assert qstash_flush.zscore("{qstash}:schedule_index", made) is None
        sdk.schedule.resume(made)
        next_ms: Any = qstash_flush.zscore("{qstash}:schedule_index", made)
        assert next_ms == sdk.schedule.get(made).next_schedule_time
    assert not destination.deliveries


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "Upstash-Cron"),
        ({"Upstash-Cron": "never"}, "Upstash-Cron"),
        ({"Upstash-Cron": "* * * * *", "Upstash-Schedule-Id": "a b"}, "schedule id"),
        ({"Upstash-Cron": "* * * * *", "Upstash-Retries": "x"}, "Retries"),
        ({"Upstash-Cron": "* * * * *", "Upstash-Queue-Name": "a b"}, "queue name"),
        ({"Upstash-Cron": "* * * * *", "Upstash-Callback": "http://x.test"}, "this machine"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(
    fresh: Fresh, destination: Destination, headers: dict[str, str], reason: str
) -> None:
    answer = fresh.http.post(f"/v2/schedules/{destination.url}/x", headers=headers)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]
    remote = fresh.http.post(
        "/v2/schedules/https://example.com", headers={"Upstash-Cron": "* * * * *"}
    )
    assert "--allow-remote" in remote.json()["error"]


def test_the_token_is_not_kept_with_a_schedule(
    fresh: Fresh, destination: Destination, qstash_flush: redis.Redis
) -> None:
    made = fresh.sdk.schedule.create(destination=destination.url, cron="* * * * *")
    record: Any = qstash_flush.hget("{qstash}:schedules", made)
    assert "authorization" not in record.lower()
