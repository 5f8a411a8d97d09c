"""What a message can ask for beyond its destination, and how it is found again."""

import base64
import hashlib
import json
import threading
from typing import Any

import httpx
import pytest
from qstash import QStash
from qstash.log import LogState
from qstash.message import Redact

from tests.contract.qstash.conftest import Fresh
from tests.contract.qstash.destination import (
    CURRENT_KEY,
    NEXT_KEY,
    PROMPT_RETRY,
    Answer,
    Destination,
    make_app,
    publish,
    sdk_for,
    states_of,
    verify,
    wait_until,
)
from tests.serving import serve


def redacted(text: str) -> str:
    return f"REDACTED:{hashlib.sha256(text.encode()).hexdigest()}"


@pytest.mark.parametrize(
    "name",
    [
        "Upstash-Workflow-Init",
        "upstash-workflow-runid",
        "UPSTASH-WORKFLOW-URL",
        "Upstash-Callback-Workflow-CallType",
        "Upstash-Failure-Callback-Workflow-Runid",
    ],
)
def test_a_message_of_upstash_workflow_is_refused_with_a_sentence(
    http: httpx.Client, destination: Destination, name: str
) -> None:
    url = destination.url + "/workflow"
    headers = {name: "x", "Upstash-Callback": url, "Upstash-Failure-Callback": url}
    item = {"destination": url, "headers": headers}
    for refused in (
        http.post(f"/v2/publish/{url}", headers=headers),
        http.post(
            f"/v2/publish/{url}?{name.lower()}=x&upstash-callback={url}"
            f"&upstash-failure-callback={url}"
        ),
        http.post(f"/v2/enqueue/q/{url}", headers=headers),
        http.post("/v2/batch", json=[{"destination": url}, item]),
        http.post(f"/v2/schedules/{url}", headers=headers | {"Upstash-Cron": "* * * * *"}),
    ):
        assert refused.status_code == 400
        assert "a message of Upstash Workflow, which the local queue" in refused.json()["error"]
    assert http.get("/v2/events").json()["events"] == [], "nothing of the batch was stored"
    forwarded = {"Upstash-Forward-Upstash-Workflow-Mine": "x"}
    assert http.post(f"/v2/publish/{url}", headers=forwarded).status_code == 201


@pytest.mark.parametrize(
    ("redact", "shown_body", "shown_headers"),
    [
        ({"body": True}, redacted("secret"), {"X-A": ["1"], "X-B": ["2"]}),
        ({"header": True}, "secret", {"X-A": [redacted("1")], "X-B": [redacted("2")]}),
        ({"header": ["x-a"]}, "secret", {"X-A": [redacted("1")], "X-B": ["2"]}),
    ],
)
def test_what_is_redacted_is_delivered_and_shown_nowhere(
    fresh: Fresh,
    destination: Destination,
    redact: Redact,
    shown_body: str,
    shown_headers: dict[str, list[str]],
) -> None:
    sdk = fresh.sdk
    url = destination.script("/redacted", Answer(500))
    headers = {"X-A": "1", "X-B": "2"}
    message_id = publish(sdk, url, body="secret", headers=headers, redact=redact, retries=0)
    dead = wait_until(lambda: sdk.dlq.list(filter={"message_id": message_id}).messages)[0]
    message = sdk.message.get(message_id)
    assert message.body == dead.body == shown_body
    assert message.headers == dead.headers == shown_headers
    for entry in fresh.http.get("/v2/events", params={"messageId": message_id}).json()["events"]:
        assert base64.b64decode(entry["body"]).decode() == shown_body
        assert entry["header"] == shown_headers
    (delivery,) = destination.deliveries
    assert delivery.body == b"secret"
    assert (delivery.headers["x-a"], delivery.headers["x-b"]) == ("1", "2")


def test_redactions_of_the_docs_spelling_and_of_nonsense(
    fresh: Fresh, destination: Destination
) -> None:
    path = f"/v2/publish/{destination.url}/r"
    given = {"Upstash-Forward-X": "1", "Upstash-Delay": "1h"}
    fields = {"Upstash-Redact-Fields": "body, headers[X]"}
    sent = fresh.http.post(path, content="b", headers=given | fields).json()
    view = fresh.http.get(f"/v2/messages/{sent['messageId']}").json()
    assert (view["body"], view["header"]["X"]) == (redacted("b"), [redacted("1")])
    refused = fresh.http.post(path, headers={"Upstash-Redact-Fields": "everything"})
    assert refused.status_code == 400
    assert "Redact-Fields" in refused.json()["error"]


def test_all_headers_are_forwarded_when_asked_for_except_the_key(
    fresh: Fresh, destination: Destination
) -> None:
    headers = {"Upstash-Header-Forward": "true", "X-Mine": "1", "Content-Type": "text/x"}
    fresh.http.post(f"/v2/publish/{destination.url}/all", headers=headers)
    (delivery,) = wait_until(lambda: destination.at("/all"))
    assert delivery.headers["x-mine"] == "1"
    assert delivery.headers["content-type"] == "text/x"
    assert "authorization" not in delivery.headers
    assert "upstash-header-forward" not in delivery.headers


def test_callbacks_have_options_of_their_own_and_are_retried(
    sdk: QStash, destination: Destination
) -> None:
    url = destination.script("/source", Answer(418, b"tea"))
    callback = destination.script("/failed", Answer(500))
    message_id = publish(
        sdk,
        url,
        body="b",
        retries=0,
        failure_callback=callback,
        failure_callback_headers={
            "Method": "PUT",
            "Retries": "1",
            "Retry-Delay": "1",
            "Forward-X-C": "mine",
        },
    )
    first, second = wait_until(lambda: (found := destination.at("/failed"))[1:] and found)
    assert (first.method, first.headers["x-c"]) == ("PUT", "mine")
    assert [first.headers["upstash-retried"], second.headers["upstash-retried"]] == ["0", "1"]
    assert first.headers["upstash-message-id"] == second.headers["upstash-message-id"] != message_id
    verify(first, callback)
    told = json.loads(first.body)
    assert (told["status"], base64.b64decode(told["body"])) == (418, b"tea")
    assert (told["sourceMessageId"], told["retried"], told["maxRetries"]) == (message_id, 0, 0)
    assert told["dlqId"] == sdk.dlq.list().messages[0].dlq_id


def test_lists_can_begin_with_the_oldest(fresh: Fresh, destination: Destination) -> None:
    url = destination.script("/o", *(Answer(500) for _ in range(3)))
    for number in range(3):
        message_id = publish(fresh.sdk, url, body=str(number), retries=0)
        wait_until(lambda of=message_id: fresh.sdk.dlq.list(filter={"message_id": of}).messages)  # type: ignore[misc]

    def pages(path: str, name: str, field: str, **params: Any) -> list[str]:  # noqa: ANN401
        found: list[str] = []
        query = {"count": "2"} | params
        while True:
            answer = fresh.http.get(path, params=query).json()
            found += [entry[field] for entry in answer[name]]
            if "cursor" not in answer:
                return found
            query["cursor"] = answer["cursor"]

    newest = pages("/v2/dlq", "messages", "body")
    assert newest == ["2", "1", "0"]
    assert pages("/v2/dlq", "messages", "body", order="earliestFirst") == newest[::-1]
    events = pages("/v2/logs", "logs", "time", state="FAILED")
    assert pages("/v2/logs", "logs", "time", state="FAILED", order="earliestFirst") == events[::-1]
    assert len(events) == 3
    assert fresh.http.get("/v2/dlq", params={"order": "random"}).status_code == 400


def test_dead_letters_are_retried_in_bulk_with_changed_options(
    fresh: Fresh, destination: Destination
) -> None:
    url = destination.script("/bulk", *(Answer(500) for _ in range(3)))
    for label in ("red", "red", "blue"):
        publish(fresh.sdk, url, body=label, label=label, retries=0)
    wait_until(lambda: len(fresh.sdk.dlq.list().messages) == 3)
    none = fresh.http.post("/v2/dlq/retry", params={"label": "green"})
    assert (none.status_code, none.json()) == (201, {"responses": []})
    params: dict[str, Any] = {"label": "red", "count": 100}
    headers = {"Upstash-Retries": "7", "Upstash-Delay": "1h", "Upstash-Label": "again"}
    again = fresh.http.post("/v2/dlq/retry", params=params, headers=headers).json()["responses"]
    assert len(again) == 2
    message = fresh.sdk.message.get(again[0]["messageId"])
    assert (message.body, message.max_retries, message.label) == ("red", 7, "again")
    assert message.not_before >= message.created_at + 3_600_000
    assert [dead.label for dead in fresh.sdk.dlq.list().messages] == ["blue"]
    assert fresh.http.post("/v2/dlq/retry", params={"labeel": "x"}).status_code == 400
    remote = {"Upstash-Callback": "https://example.com"}
    assert fresh.http.post("/v2/dlq/retry", headers=remote).status_code == 400
    assert len(fresh.sdk.dlq.list().messages) == 1


def test_keys_rotate_while_messages_are_in_flight_and_none_is_refused(
    fresh: Fresh, destination: Destination
) -> None:
    gate = threading.Event()
    held = destination.script("/held", Answer(500, gate=gate))
    message_id = publish(fresh.sdk, held, body="b", retry_delay=PROMPT_RETRY)
    wait_until(lambda: destination.at("/held"))
    fresh.sdk.signing_key.rotate()
    gate.set()
    wait_until(lambda: "DELIVERED" in states_of(fresh.sdk, message_id))
    first, second = destination.at("/held")
    # A receiver that has both keys accepts what was sent before and after.
    verify(first, held, CURRENT_KEY, NEXT_KEY)
    verify(second, held, CURRENT_KEY, NEXT_KEY)
    verify(second, held, NEXT_KEY, fresh.sdk.signing_key.get().next)


def test_a_public_host_is_stood_in_for_and_signed_as_itself(
    qstash_valkey: str, destination: Destination
) -> None:
    outbound = {"https://example.com": destination.url}
    with serve(make_app(qstash_valkey, outbound=outbound)) as url, sdk_for(url) as sdk:
        message_id = publish(sdk, "https://example.com/hook?x=1", body="b")
        (delivery,) = wait_until(lambda: destination.at("/hook"))
        verify(delivery, "https://example.com/hook?x=1")
        assert delivery.target == "/hook?x=1"
        assert sdk.message.get(message_id).url == "https://example.com/hook?x=1"
        with pytest.raises(Exception, match="--rewrite"):
            publish(sdk, "https://example.com.evil.test/hook")


def test_a_refused_signature_says_what_to_compare(sdk: QStash, destination: Destination) -> None:
    url = destination.script("/refused", Answer(403, b"bad signature"))
    message_id = publish(sdk, url, retries=0)
    dead = wait_until(lambda: sdk.dlq.list(filter={"message_id": message_id}).messages)[0]
    assert dead.response_body == "bad signature"
    failed = sdk.log.list(filter={"message_id": message_id, "state": LogState.FAILED}).logs[0]
    assert "QSTASH_CURRENT_SIGNING_KEY" in str(failed.error)


def test_the_reason_of_a_dead_letter_without_an_answer_stands_in_it(
    fresh: Fresh, destination: Destination
) -> None:
    publish(fresh.sdk, "http://127.0.0.1:1/nobody", retries=0)
    wait_until(lambda: fresh.sdk.dlq.list().messages)
    (dead,) = fresh.http.get("/v2/dlq", params={"responseStatus": "0"}).json()["messages"]
    assert dead["error"] == "connection refused: nothing listens on 127.0.0.1:1"
