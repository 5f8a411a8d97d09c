"""URL groups and batches, through the official SDK."""

import json
from typing import Any

import pytest
from qstash.errors import QStashError

from tests.contract.qstash.conftest import Fresh
from tests.contract.qstash.destination import (
    Answer,
    Destination,
    states_of,
    verify,
    wait_until,
)


def make_group(fresh: Fresh, destination: Destination, name: str = "group.1") -> str:
    endpoints: Any = [
        {"url": destination.url + "/a", "name": "first"},
        {"url": destination.url + "/b"},
    ]
    fresh.sdk.url_group.upsert_endpoints(name, endpoints)
    return name


def test_a_url_group_is_made_changed_listed_and_deleted(
    fresh: Fresh, destination: Destination
) -> None:
    groups = fresh.sdk.url_group
    name = make_group(fresh, destination)
    made = groups.get(name)
    assert [(one.url, one.name) for one in made.endpoints] == [
        (destination.url + "/a", "first"),
        (destination.url + "/b", None),
    ]
    groups.upsert_endpoints(name, [{"url": destination.url + "/c", "name": "first"}])
    groups.upsert_endpoints(name, [{"url": destination.url + "/b", "name": "second"}])
    assert [(one.url[-2:], one.name) for one in groups.get(name).endpoints] == [
        ("/c", "first"),
        ("/b", "second"),
    ]
    assert [group.name for group in groups.list()] == [name]
    groups.remove_endpoints(name, [{"name": "first"}])
    assert len(groups.get(name).endpoints) == 1
    groups.remove_endpoints(name, [{"url": destination.url + "/b"}])
    with pytest.raises(QStashError, match="404"):
        groups.get(name)
    make_group(fresh, destination)
    groups.delete(name)
    groups.delete("never-made")
    assert groups.list() == []


def test_a_publish_to_a_group_reaches_each_endpoint(fresh: Fresh, destination: Destination) -> None:
    name = make_group(fresh, destination)
    sent: Any = fresh.sdk.message.publish(url_group=name, body="hi", headers={"X-A": "1"})
    assert [one.url for one in sent] == [destination.url + "/a", destination.url + "/b"]
    wait_until(lambda: len(destination.deliveries) == 2)
    for one in sent:
        (delivery,) = destination.at(one.url.removeprefix(destination.url))
        verify(delivery, one.url)
        assert delivery.headers["upstash-message-id"] == one.message_id
        assert delivery.headers["upstash-topic-name"] == name
        assert (delivery.headers["x-a"], delivery.body) == ("1", b"hi")
    first = fresh.sdk.message.get(sent[0].message_id)
    assert (first.url_group, first.endpoint) == (name, "first")
    assert fresh.sdk.log.list(filter={"url_group": name}).logs[0].url_group == name
    assert fresh.sdk.message.cancel_all() == 0


def test_a_group_can_be_enqueued_and_its_dead_letters_tell_it(
    fresh: Fresh, destination: Destination
) -> None:
    name = make_group(fresh, destination)
    destination.script("/b", Answer(404, b"Not Found"))
    sent: Any = fresh.sdk.message.enqueue(queue="q", url_group=name, retries=0)
    assert len(sent) == 2
    dead = wait_until(lambda: fresh.sdk.dlq.list(filter={"url_group": name}).messages)[0]
    assert (dead.url_group, dead.queue, dead.response_body) == (name, "q", "Not Found")
    assert not fresh.sdk.dlq.list(filter={"url_group": "other"}).messages


def test_deduplication_counts_for_each_endpoint_of_a_group(
    fresh: Fresh, destination: Destination
) -> None:
    name = make_group(fresh, destination)
    first: Any = fresh.sdk.message.publish(url_group=name, deduplication_id="d")
    assert [one.deduplicated for one in first] == [False, False]
    fresh.sdk.url_group.upsert_endpoints(name, [{"url": destination.url + "/c"}])
    again: Any = fresh.sdk.message.publish(url_group=name, deduplication_id="d")
    assert [one.deduplicated for one in again] == [True, True, False]
    assert [one.message_id for one in again[:2]] == [one.message_id for one in first]


def test_a_groups_own_headers_are_defaults(fresh: Fresh, destination: Destination) -> None:
    name = make_group(fresh, destination)
    headers = {"headers": {"Upstash-Retries": ["1"], "Upstash-Forward-X-B": ["group"]}}
    assert fresh.http.patch(f"/v2/topics/{name}", json=headers).status_code == 200
    sent: Any = fresh.sdk.message.publish(url_group=name, retries=2)
    wait_until(lambda: len(destination.deliveries) == 2)
    assert fresh.sdk.message.get(sent[0].message_id).max_retries == 2
    assert {delivery.headers["x-b"] for delivery in destination.deliveries} == {"group"}


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        '{"endpoints": 1}',
        '{"endpoints": [1]}',
        '{"endpoints": [{"name": "x"}]}',
        '{"endpoints": [{"url": "nowhere"}]}',
        '{"endpoints": [{"url": 5}]}',
        '{"endpoints": [{"url": "http://127.0.0.1/", "name": "a b"}]}',
    ],
)
def test_endpoints_that_cannot_be_are_refused(fresh: Fresh, body: str) -> None:
    answer = fresh.http.post("/v2/topics/g/endpoints", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_destination_that_is_neither_url_nor_group_is_refused(fresh: Fresh) -> None:
    with pytest.raises(QStashError, match="invalid scheme"):
        fresh.sdk.message.publish(url_group="no-such-group")


def test_a_batch_holds_urls_groups_and_queues(fresh: Fresh, destination: Destination) -> None:
    name = make_group(fresh, destination)
    answers: Any = fresh.sdk.message.batch(
        [
            {"url": destination.url + "/one?x=%2F", "body": "1", "retries": 0},
            {"url_group": name, "body": "2", "headers": {"X-Y": "z"}},
            {"queue": "bq", "url": destination.url + "/three", "body": "3", "label": "l"},
        ]
    )
    assert [one.url[-2:] for one in answers[1]] == ["/a", "/b"]
    wait_until(lambda: len(destination.deliveries) == 4)
    assert [found.body for found in destination.at("/a")] == [b"2"]
    assert destination.at("/one")[0].target == "/one?x=%2F"
    assert destination.at("/b")[0].headers["x-y"] == "z"
    third = fresh.sdk.message.get(answers[2].message_id)
    assert (third.queue, third.label) == ("bq", "l")


def test_a_json_batch_is_sent_as_json_and_deduplicated(
    fresh: Fresh, destination: Destination
) -> None:
    item: Any = {"url": destination.url + "/j", "body": {"a": 1}, "deduplication_id": "once"}
    first, second = fresh.sdk.message.batch_json([item, item])
    assert not first.deduplicated  # type: ignore[union-attr]
    assert second.deduplicated  # type: ignore[union-attr]
    assert first.message_id == second.message_id  # type: ignore[union-attr]
    wait_until(lambda: "DELIVERED" in states_of(fresh.sdk, first.message_id))  # type: ignore[union-attr]
    (delivery,) = destination.deliveries
    assert delivery.headers["content-type"] == "application/json"
    assert json.loads(delivery.body) == {"a": 1}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (5, "object"),
        ({}, "destination"),
        ({"destination": "no-group"}, "invalid scheme"),
        ({"destination": "http://"}, "url"),
        ({"destination": "http://127.0.0.1/", "body": 5}, "body"),
        ({"destination": "http://127.0.0.1/", "headers": []}, None),
        ({"destination": "http://127.0.0.1/", "headers": [1]}, "headers"),
        ({"destination": "http://127.0.0.1/", "headers": {"Upstash-Retries": "x"}}, "Retries"),
        ({"destination": "http://127.0.0.1/", "headers": {"a": "b\nc"}}, "control"),
        ({"destination": "http://127.0.0.1/", "queue": "a b"}, "queue name"),
    ],
)
def test_one_malformed_message_refuses_the_whole_batch(
    fresh: Fresh,
    destination: Destination,
    item: Any,  # noqa: ANN401
    reason: str | None,
) -> None:
    good = {"destination": destination.url + "/good", "headers": {"Upstash-Delay": "1h"}}
    answer = fresh.http.post("/v2/batch", json=[good, item])
    assert answer.status_code == (400 if reason else 201)
    if reason:
        assert reason in answer.json()["error"]
        assert fresh.sdk.message.cancel_all() == 0
