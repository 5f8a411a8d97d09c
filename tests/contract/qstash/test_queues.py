"""Queues: order, parallelism, pause, restart; through the official SDK."""

import threading
from typing import Any

import pytest
from qstash.errors import QStashError

from tests.contract.qstash.conftest import Fresh
from tests.contract.qstash.destination import (
    PROMPT_RETRY,
    Answer,
    Destination,
    make_app,
    sdk_for,
    states_of,
    wait_until,
)
from tests.serving import serve


def enqueue(fresh: Fresh, queue: str, url: str, **options: Any) -> str:  # noqa: ANN401
    enqueued: Any = fresh.sdk.message.enqueue(queue=queue, url=url, **options)
    return str(enqueued.message_id)


def bodies(destination: Destination) -> list[str]:
    return [delivery.body.decode() for delivery in destination.deliveries]


def test_a_queue_is_made_changed_listed_paused_and_deleted_at_once(fresh: Fresh) -> None:
    queues = fresh.sdk.queue
    queues.upsert("q.one", parallelism=3)
    made = queues.get("q.one")
    assert (made.name, made.parallelism, made.paused, made.lag) == ("q.one", 3, False, 0)
    assert made.created_at == made.updated_at > 1_700_000_000_000
    queues.upsert("q.one", parallelism=5, paused=True)
    changed = queues.get("q.one")
    assert (changed.parallelism, changed.paused) == (5, True)
    assert changed.created_at == made.created_at <= changed.updated_at
    queues.resume("q.one")
    assert not queues.get("q.one").paused
    queues.pause("q.one")
    assert [(queue.name, queue.paused) for queue in queues.list()] == [("q.one", True)]
    queues.delete("q.one")
    queues.delete("q.one")
    assert queues.list() == []
    with pytest.raises(QStashError, match="404"):
        queues.get("q.one")
    with pytest.raises(QStashError, match="404"):
        queues.pause("q.one")


def test_enqueueing_makes_the_queue_and_a_message_names_it(
    fresh: Fresh, destination: Destination
) -> None:
    message_id = enqueue(fresh, "auto", destination.url + "/q?a=1&b=%2F", body="x")
    wait_until(lambda: "DELIVERED" in states_of(fresh.sdk, message_id))
    assert destination.deliveries[0].target == "/q?a=1&b=%2F"
    assert fresh.sdk.queue.get("auto").parallelism == 1
    assert fresh.sdk.message.get(message_id).queue == "auto"
    logs = fresh.sdk.log.list(filter={"queue": "auto"}).logs
    assert {entry.queue for entry in logs} == {"auto"}
    assert not fresh.sdk.log.list(filter={"queue": "other"}).logs


def test_a_queue_is_first_in_first_out_and_waits_for_retries_and_callbacks(
    fresh: Fresh, destination: Destination
) -> None:
    first = destination.script("/first", Answer(500), Answer(500), Answer(200))
    for number in range(3):
        url = first if number == 0 else destination.url + f"/later/{number}"
        enqueue(
            fresh,
            "fifo",
            url,
            body=str(number),
            retry_delay=PROMPT_RETRY,
            callback=destination.url + f"/callback/{number}",
        )
    wait_until(lambda: destination.at("/callback/2"))
    seen = [delivery.target for delivery in destination.deliveries]
    # A callback for each attempt; the next message only after the last of them was delivered.
    assert sorted(seen[: seen.index("/later/1")]) == ["/callback/0"] * 3 + ["/first"] * 3
    assert seen[seen.index("/later/1") :] == [
        "/later/1",
        "/callback/1",
        "/later/2",
        "/callback/2",
    ]
    wait_until(lambda: fresh.sdk.queue.get("fifo").lag == 0)


def test_a_message_that_is_given_up_or_cancelled_lets_the_next_one_go(
    fresh: Fresh, destination: Destination
) -> None:
    dead = destination.script("/dead", Answer(500))
    held = destination.script("/held", Answer(gate=threading.Event()))
    enqueue(fresh, "line", dead, retries=0)
    in_flight = enqueue(fresh, "line", held)
    waiting = enqueue(fresh, "line", destination.url + "/waiting")
    enqueue(fresh, "line", destination.url + "/last")
    wait_until(lambda: destination.at("/held"))
    assert fresh.sdk.queue.get("line").lag == 3
    fresh.sdk.message.cancel(waiting)
    assert fresh.sdk.queue.get("line").lag == 2
    fresh.sdk.message.cancel(in_flight)
    wait_until(lambda: destination.at("/last"))
    assert not destination.at("/waiting")


def test_parallelism_is_the_number_in_flight_and_changes_at_once(
    fresh: Fresh, destination: Destination
) -> None:
    gates = [threading.Event() for _ in range(6)]
    url = destination.script("/par", *(Answer(gate=gate) for gate in gates))
    fresh.sdk.queue.upsert("par", parallelism=2)
    last = [enqueue(fresh, "par", url) for _ in gates][-1]
    wait_until(lambda: len(destination.deliveries) == 2)
    fresh.sdk.queue.upsert("par", parallelism=3)
    wait_until(lambda: len(destination.deliveries) == 3)
    for gate in gates:
        gate.set()
    wait_until(lambda: "DELIVERED" in states_of(fresh.sdk, last))


def test_a_paused_queue_accepts_and_delivers_only_when_resumed(
    fresh: Fresh, destination: Destination
) -> None:
    fresh.sdk.queue.upsert("paused", paused=True)
    ids = [enqueue(fresh, "paused", destination.url + "/p", body=str(n)) for n in range(3)]
    probe: Any = fresh.sdk.message.publish(url=destination.url + "/probe")
    wait_until(lambda: "DELIVERED" in states_of(fresh.sdk, probe.message_id))
    assert not destination.at("/p")
    assert fresh.sdk.queue.get("paused").lag == 3
    assert fresh.sdk.message.cancel_many([ids[1]]) == 1
    fresh.sdk.queue.resume("paused")
    wait_until(lambda: len(destination.at("/p")) == 2)
    assert [found.body for found in destination.at("/p")] == [b"0", b"2"]


def test_a_duplicate_takes_no_place_in_a_queue_and_nothing_of_a_rate(
    fresh: Fresh, destination: Destination
) -> None:
    fresh.sdk.queue.upsert("dup", paused=True)
    for _ in range(3):
        enqueue(fresh, "dup", destination.url + "/d", deduplication_id="same")
    assert fresh.sdk.queue.get("dup").lag == 1
    flow: Any = {"key": "dup", "rate": 2, "period": "1h"}
    for identity in ("a", "a", "a", "b"):
        fresh.sdk.message.publish(
            url=destination.url + "/r", deduplication_id=identity, flow_control=flow
        )
    wait_until(lambda: len(destination.at("/r")) == 2)
    assert fresh.sdk.flow_control.get("dup").rate_count == 2


def test_pausing_holds_back_a_retry_too(fresh: Fresh, destination: Destination) -> None:
    gate = threading.Event()
    url = destination.script("/again", Answer(500, gate=gate))
    enqueue(fresh, "hold", url, retry_delay=PROMPT_RETRY)
    wait_until(lambda: destination.at("/again"))
    fresh.sdk.queue.pause("hold")
    gate.set()
    wait_until(lambda: fresh.sdk.log.list(filter={"queue": "hold"}).logs[0].state.value == "RETRY")
    probe: Any = fresh.sdk.message.publish(url=destination.url + "/probe", delay=1)
    wait_until(lambda: "DELIVERED" in states_of(fresh.sdk, probe.message_id))
    assert len(destination.at("/again")) == 1
    fresh.sdk.queue.resume("hold")
    wait_until(lambda: len(destination.at("/again")) == 2)


def test_deleting_a_queue_cancels_what_waits_in_it(fresh: Fresh, destination: Destination) -> None:
    fresh.sdk.queue.upsert("gone", paused=True)
    message_id = enqueue(fresh, "gone", destination.url + "/gone")
    other: Any = fresh.sdk.message.publish(url=destination.url + "/kept", delay="1h")
    fresh.sdk.queue.delete("gone")
    assert states_of(fresh.sdk, message_id)[-1] == "CANCELED"
    assert states_of(fresh.sdk, other.message_id) == ["CREATED"]


def test_messages_are_cancelled_by_their_queue(fresh: Fresh, destination: Destination) -> None:
    for queue in ("red", "red", "blue"):
        fresh.sdk.queue.upsert(queue, paused=True)
        enqueue(fresh, queue, destination.url + "/x")
    answer = fresh.http.delete("/v2/messages", params={"queueName": "red"})
    assert answer.json() == {"cancelled": 2}


def test_order_pause_and_the_slot_of_a_retry_survive_a_restart(
    qstash_valkey: str, destination: Destination
) -> None:
    slow = destination.script("/slow", Answer(500))
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        # The first is between two attempts when the queue ends: 0.4 s at the tests' time scale.
        first: Any = sdk.message.enqueue(queue="kept", url=slow, body="first", retry_delay="400000")
        for number in range(4):
            sdk.message.enqueue(queue="kept", url=destination.url + "/n", body=str(number))
        sdk.queue.upsert("still", paused=True)
        sdk.message.enqueue(queue="still", url=destination.url + "/not-yet")
        wait_until(lambda: "RETRY" in states_of(sdk, first.message_id))
    assert not destination.at("/n")
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        queue = sdk.queue.get("still")
        assert (queue.paused, queue.lag) == (True, 1)
        assert sdk.queue.get("kept").lag == 5
        wait_until(lambda: len(destination.at("/n")) == 4)
    assert bodies(destination) == ["first", "first", "0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"queueName": "a/b"}', "queue name"),
        ('{"queueName": "q", "parallelism": 0}', "parallelism"),
        ('{"queueName": "q", "paused": "yes"}', "paused"),
        ('{"parallelism": 1}', "queueName"),
        ("[]", "queueName"),
        ("{", "JSON"),
    ],
)
def test_a_queue_that_cannot_be_is_refused(fresh: Fresh, body: str, reason: str) -> None:
    answer = fresh.http.post("/v2/queues", content=body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_a_queue_name_in_a_path_is_checked_too(fresh: Fresh, destination: Destination) -> None:
    answer = fresh.http.post(f"/v2/enqueue/a%20b/{destination.url}")
    assert answer.status_code == 400
    assert "queue name" in answer.json()["error"]
