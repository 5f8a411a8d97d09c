"""A message that waits, for its delay or for its next retry, is delivered now."""

import threading

import httpx
from qstash import QStash

from tests.contract.qstash.destination import (
    TOKEN,
    Answer,
    Destination,
    make_app,
    publish,
    sdk_for,
    states_of,
    wait_until,
)
from tests.serving import serve

LATER = {"Retry-After": "3600"}


def wait_until_it_waits(sdk: QStash, message_id: str, *, attempts: int) -> None:
    wait_until(lambda: states_of(sdk, message_id).count("RETRY") == attempts)


def test_a_retry_is_made_now_and_costs_no_attempt(
    sdk: QStash, http: httpx.Client, destination: Destination
) -> None:
    url = destination.script("/later", *[Answer(500, headers=LATER)] * 3)
    message_id = publish(sdk, url, retries=2)
    for attempts in (1, 2):
        wait_until_it_waits(sdk, message_id, attempts=attempts)
        answer = http.post(f"/v2/messages/{message_id}/retry")
        assert (answer.status_code, answer.json()) == (200, {"messageId": message_id})
    wait_until(lambda: "FAILED" in states_of(sdk, message_id))
    assert [found.headers["upstash-retried"] for found in destination.deliveries] == ["0", "1", "2"]
    assert http.post(f"/v2/messages/{message_id}/retry").status_code == 404


def test_a_delayed_message_is_delivered_now(
    sdk: QStash, http: httpx.Client, destination: Destination
) -> None:
    message_id = publish(sdk, destination.url, delay="1h", flow_control={"key": "k", "rate": 1})
    assert http.post(f"/v2/messages/{message_id}/retry").status_code == 200
    wait_until(lambda: "DELIVERED" in states_of(sdk, message_id))
    assert len(destination.deliveries) == 1


def test_the_turn_that_was_skipped_does_not_come_as_well(
    sdk: QStash, http: httpx.Client, destination: Destination
) -> None:
    soon = Answer(500, headers={"Retry-After": "1"})
    url = destination.script("/turns", soon, Answer(500, headers=LATER))
    message_id = publish(sdk, url)
    wait_until_it_waits(sdk, message_id, attempts=1)
    assert http.post(f"/v2/messages/{message_id}/retry").status_code == 200
    wait_until_it_waits(sdk, message_id, attempts=2)
    after_its_turn = publish(sdk, destination.url, delay=2)
    wait_until(lambda: "DELIVERED" in states_of(sdk, after_its_turn))
    assert len(destination.at("/turns")) == 2


def test_what_does_not_wait_is_told_so(
    sdk: QStash, http: httpx.Client, destination: Destination
) -> None:
    gate = threading.Event()
    under_way = publish(sdk, destination.script("/held", Answer(gate=gate)))
    wait_until(lambda: destination.at("/held"))
    delivered = publish(sdk, destination.url)
    wait_until(lambda: "DELIVERED" in states_of(sdk, delivered))
    cancelled = publish(sdk, destination.url, delay="1h")
    sdk.message.cancel(cancelled)
    for message_id in (under_way, delivered, cancelled, "msg_unknown"):
        answer = http.post(f"/v2/messages/{message_id}/retry")
        assert answer.status_code == 404
        assert "not waiting" in answer.json()["error"]
    gate.set()
    sdk.queue.upsert("line", paused=True)
    queued = http.post(f"/v2/enqueue/line/{destination.url}").json()["messageId"]
    answer = http.post(f"/v2/messages/{queued}/retry")
    assert answer.status_code == 400
    assert "queue" in answer.json()["error"]
    sdk.queue.delete("line")


def test_a_queue_that_dies_meanwhile_delivers_at_its_next_start(
    qstash_valkey: str, destination: Destination
) -> None:
    url = destination.script("/cut", Answer(500, headers=LATER), Answer(gate=threading.Event()))
    with serve(make_app(qstash_valkey)) as base_url, sdk_for(base_url) as sdk:
        message_id = publish(sdk, url)
        wait_until_it_waits(sdk, message_id, attempts=1)
        retry = f"{base_url}/v2/messages/{message_id}/retry?qstash_token={TOKEN}"
        assert httpx.post(retry).status_code == 200
        wait_until(lambda: len(destination.at("/cut")) == 2)
    with serve(make_app(qstash_valkey)) as base_url, sdk_for(base_url) as sdk:
        wait_until(lambda: "DELIVERED" in states_of(sdk, message_id))
    retried = [found.headers["upstash-retried"] for found in destination.at("/cut")]
    assert retried == ["0", "1", "1"]
