"""Looking and tidying up: messages, cancelling, dead letters, the event log."""

import json
import threading
from typing import Any

import httpx
import pytest
from qstash import QStash
from qstash.errors import QStashError
from qstash.log import LogState

from tests.contract.qstash.destination import (
    Answer,
    Destination,
    publish,
    states_of,
    verify,
    wait_until,
)


def make_dead_letters(sdk: QStash, destination: Destination, labels: list[str]) -> list[str]:
    """Let one message after another fail, and return their dead letters' ids, oldest first."""
    ids = []
    for number, label in enumerate(labels):
        url = destination.script(f"/dead/{number}", Answer(500 + number, b"no"))
        message_id = publish(sdk, url, body=f"body {number}", retries=0, label=label)
        dead = wait_until(
            lambda of=message_id: sdk.dlq.list(filter={"message_id": of}).messages  # type: ignore[misc]
        )
        ids.append(dead[0].dlq_id)
    return ids


def test_a_finished_message_is_readable_for_a_while_and_an_unknown_one_is_404(
    sdk: QStash, destination: Destination
) -> None:
    message_id = publish(sdk, destination.url + "/done")
    wait_until(lambda: "DELIVERED" in states_of(sdk, message_id))
    assert sdk.message.get(message_id).message_id == message_id
    with pytest.raises(QStashError, match="404"):
        sdk.message.get("msg_unknown")


def test_a_delivered_message_has_exactly_one_delivered_event(
    sdk: QStash, destination: Destination
) -> None:
    message_id = publish(sdk, destination.url + "/once", body="b")
    wait_until(lambda: "DELIVERED" in states_of(sdk, message_id))
    found = sdk.log.list(filter={"message_id": message_id, "state": LogState.DELIVERED}).logs
    assert [entry.response_status for entry in found] == [200]
    assert states_of(sdk, message_id) == ["CREATED", "ACTIVE", "DELIVERED"]


def test_a_waiting_message_is_cancelled_once_and_never_delivered(
    http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    message_id = publish(sdk, destination.url + "/never", delay=1)
    assert http.delete(f"/v2/messages/{message_id}").json() == {"cancelled": 1}
    again = http.delete(f"/v2/messages/{message_id}")
    assert again.status_code == 404
    assert "not found" in again.json()["error"]
    after = publish(sdk, destination.url + "/after", delay=1)
    wait_until(lambda: "DELIVERED" in states_of(sdk, after))
    assert not destination.at("/never")
    assert states_of(sdk, message_id) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]


def test_a_message_in_flight_is_cut_off_when_cancelled(
    sdk: QStash, destination: Destination
) -> None:
    url = destination.script("/held", Answer(gate=threading.Event()))
    message_id = publish(sdk, url, failure_callback=destination.url + "/failure")
    wait_until(lambda: destination.at("/held"))
    sdk.message.cancel(message_id)
    wait_until(lambda: destination.disconnects == 1)
    assert states_of(sdk, message_id) == ["CREATED", "ACTIVE", "CANCEL_REQUESTED", "CANCELED"]
    assert len(destination.deliveries) == 1
    with pytest.raises(QStashError, match="404"):
        sdk.message.cancel(message_id)


def test_many_are_cancelled_by_body_and_by_query_and_finished_ones_do_not_count(
    http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    ids = [publish(sdk, destination.url + "/m", delay="1h") for _ in range(4)]
    done = publish(sdk, destination.url + "/quick")
    wait_until(lambda: "DELIVERED" in states_of(sdk, done))
    assert sdk.message.cancel_many([ids[0], ids[0], done, "msg_unknown"]) == 1
    query: Any = [("messageIds", one) for one in ids[:3]]
    assert http.delete("/v2/messages", params=query).json() == {"cancelled": 2}
    assert sdk.message.cancel_many([]) == 0
    assert sdk.message.cancel_all() == 1
    assert sdk.message.cancel_all() == 0


def test_cancelling_by_filter_takes_only_what_matches_and_at_most_count(
    http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    for label in ("red", "red", "red,blue", "green"):
        publish(sdk, destination.url + "/f", delay="1h", label=label)

    def cancel(**params: str) -> int:
        return int(http.delete("/v2/messages", params=params).json()["cancelled"])

    assert cancel(label="blue") == 1
    assert cancel(label="red", count="1") == 1
    assert cancel(url="http://127.0.0.1/other") == 0
    assert cancel(label="red,green", toDate="1") == 0
    assert cancel(label="red,green") == 2
    assert http.delete("/v2/messages", params={"labeel": "x"}).status_code == 400


@pytest.mark.parametrize("body", ["{}", "[]", "{", '{"messageIds": "x"}', '{"messageIds": [1]}'])
def test_a_malformed_cancel_body_cancels_nothing(
    body: str, http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    publish(sdk, destination.url + "/safe", delay="1h")
    answer = http.request("DELETE", "/v2/messages", content=body)
    assert answer.status_code == 400
    assert "messageIds" in answer.json()["error"]
    assert sdk.message.cancel_all() == 1


def test_dead_letters_are_listed_newest_first_with_everything_about_the_message(
    sdk: QStash, destination: Destination
) -> None:
    ids = make_dead_letters(sdk, destination, ["a", "b", "a"])
    listed = sdk.dlq.list().messages
    assert [dead.dlq_id for dead in listed] == ids[::-1]
    dead = sdk.dlq.get(ids[1])
    assert dead == listed[1]
    assert (dead.body, dead.label, dead.max_retries) == ("body 1", "b", 0)
    assert (dead.response_status, dead.response_body) == (501, "no")
    assert [found.dlq_id for found in sdk.dlq.list(filter={"label": "a"}).messages] == [
        ids[2],
        ids[0],
    ]
    by_status = sdk.dlq.list(filter={"response_status": 502}).messages
    assert [found.dlq_id for found in by_status] == [ids[2]]


def test_dead_letters_page_by_cursor_even_when_the_last_seen_is_gone(
    http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    ids = make_dead_letters(sdk, destination, ["x"] * 3)
    first = sdk.dlq.list(count=2)
    assert [dead.dlq_id for dead in first.messages] == [ids[2], ids[1]]
    sdk.dlq.delete(ids[1])
    assert first.cursor is not None
    rest = sdk.dlq.list(cursor=first.cursor)
    assert [dead.dlq_id for dead in rest.messages] == [ids[0]]
    assert "cursor" not in http.get("/v2/dlq").json()
    assert http.get("/v2/dlq", params={"cursor": "what"}).status_code == 400


def test_a_deleted_dead_letter_is_gone_and_deleting_it_again_is_404(
    http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    ids = make_dead_letters(sdk, destination, ["x"] * 4)
    sdk.dlq.delete(ids[0])
    assert http.delete(f"/v2/dlq/{ids[0]}").status_code == 404
    assert http.get(f"/v2/dlq/{ids[0]}").status_code == 404
    assert sdk.dlq.delete_many([ids[0], ids[1], "unknown"]) == 1
    query = {"dlqIds": ids[2]}
    assert http.delete("/v2/dlq", params=query).json() == {"deleted": 1}
    for misspelt in ("labeel", "host"):
        assert http.delete("/v2/dlq", params={misspelt: "x"}).status_code == 400
    assert http.delete("/v2/dlq", params={"label": "none"}).json() == {"deleted": 0}
    assert http.delete("/v2/dlq", params={"label": "x"}).json() == {"deleted": 1}
    assert sdk.dlq.list().messages == []


def test_a_dead_letter_sent_again_is_a_new_message_and_no_dead_letter_any_more(
    http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    ids = make_dead_letters(sdk, destination, ["x", "y"])
    dead = sdk.dlq.get(ids[0])
    answer = http.post("/v2/dlq/retry", params={"dlqIds": ids[0]})
    assert answer.status_code == 201
    (response,) = answer.json()["responses"]
    assert response["messageId"] != dead.message_id
    wait_until(lambda: len(destination.at("/dead/0")) == 2)
    again = destination.at("/dead/0")[1]
    assert again.body == b"body 0"
    verify(again, dead.url)
    assert http.delete(f"/v2/dlq/{ids[0]}").status_code == 404
    assert http.post("/v2/dlq/retry", params={"dlqIds": ids[0]}).json() == {"responses": []}
    single = http.post(f"/v2/dlq/retry/{ids[1]}")
    assert single.status_code == 201
    wait_until(lambda: len(destination.at("/dead/1")) == 2)
    assert http.post(f"/v2/dlq/retry/{ids[1]}").status_code == 404


def test_events_filter_by_message_state_and_label_and_page_by_cursor(
    http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    ids = [publish(sdk, destination.url + "/e", label=label) for label in ("l1", "l2", "l1")]
    for message_id in ids:
        wait_until(lambda of=message_id: "DELIVERED" in states_of(sdk, of))  # type: ignore[misc]
    assert len(sdk.log.list(filter={"message_ids": ids[:2]}).logs) == 6
    assert {entry.message_id for entry in sdk.log.list(filter={"label": "l2"}).logs} == {ids[1]}
    active = http.get("/v2/events", params={"state": "IN_PROGRESS"}).json()["events"]
    assert {entry["state"] for entry in active} == {"ACTIVE"}
    seen, cursor = [], None
    while True:
        page = sdk.log.list(count=4, cursor=cursor)
        seen += page.logs
        cursor = page.cursor
        if cursor is None:
            break
    assert len(seen) == 9
    assert [entry.time for entry in seen] == sorted((e.time for e in seen), reverse=True)


def test_logs_and_events_are_one_and_every_event_names_expression_and_label(
    http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    options = {"retry_delay": "1000", "label": "l", "headers": {"X-A": "b"}}
    message_id = publish(sdk, destination.url + "/e", body="body", **options)
    wait_until(lambda: "DELIVERED" in states_of(sdk, message_id))
    logs, events = (http.get(f"/v2/{name}").json() for name in ("logs", "events"))
    assert logs == events
    assert events["logs"] == events["events"]
    for event in events["events"]:
        assert event["retryDelayExpr"] == event["retryDelayExpression"] == "1000"
        assert (event["label"], event["labels"]) == ("l", ["l"])
        assert event["header"] == {"X-A": ["b"]}
        assert event["body"] == "Ym9keQ=="
    assert json.dumps(events).count("cursor") == 0


def test_a_retry_event_says_when_the_next_delivery_is(
    sdk: QStash, destination: Destination
) -> None:
    url = destination.script("/r", Answer(500, headers={"Retry-After": "3600"}))
    message_id = publish(sdk, url)
    wait_until(lambda: "RETRY" in states_of(sdk, message_id))
    retry = sdk.log.list(filter={"message_id": message_id, "state": LogState.RETRY}).logs[0]
    assert retry.next_delivery_time == retry.time + 3_600_000
    assert retry.error == "status 500: ok"
    assert sdk.message.cancel_all() == 1
