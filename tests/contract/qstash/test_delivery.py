"""Delivering: retries, hints, the end of retrying, callbacks, keys, and what a restart keeps."""

import base64
import itertools
import json
import threading
from typing import Any

import pytest
from qstash import QStash

from tests.contract.qstash.destination import (
    CURRENT_KEY,
    NEXT_KEY,
    PROMPT_RETRY,
    TOKEN,
    Answer,
    Destination,
    make_app,
    publish,
    sdk_for,
    states_of,
    verify,
    wait_until,
)
from tests.serving import free_port, serve


def dead_letters_of(sdk: QStash, message_id: str) -> list[Any]:
    return list(sdk.dlq.list(filter={"message_id": message_id}).messages)


def test_a_failing_destination_is_retried_under_the_same_id_until_it_succeeds(
    sdk: QStash, destination: Destination
) -> None:
    url = destination.script("/flaky", Answer(500), Answer(503))
    message_id = publish(sdk, url, body="x", retries=5, retry_delay=PROMPT_RETRY)
    wait_until(lambda: "DELIVERED" in states_of(sdk, message_id))
    assert [found.headers["upstash-retried"] for found in destination.deliveries] == ["0", "1", "2"]
    assert {found.headers["upstash-message-id"] for found in destination.deliveries} == {message_id}
    for delivery in destination.deliveries:
        verify(delivery, url)
    failed_attempt = ["ACTIVE", "ERROR", "RETRY"]
    assert states_of(sdk, message_id) == [
        "CREATED",
        *failed_attempt,
        *failed_attempt,
        "ACTIVE",
        "DELIVERED",
    ]


def test_the_default_backoff_is_scaled_by_time_scale(sdk: QStash, destination: Destination) -> None:
    url = destination.script("/default", Answer(500), Answer(500))
    publish(sdk, url)
    wait_until(lambda: len(destination.deliveries) == 3)
    gaps = [b.time_s - a.time_s for a, b in itertools.pairwise(destination.deliveries)]
    assert gaps[0] >= 0.012
    assert gaps[1] >= 0.148


def test_a_retry_delay_expression_sets_the_gaps_with_retried_from_zero(
    sdk: QStash, destination: Destination
) -> None:
    url = destination.script("/expression", Answer(500), Answer(500))
    publish(sdk, url, retry_delay="max(0, 300 * 1000 * retried)")
    wait_until(lambda: len(destination.deliveries) == 3)
    gaps = [b.time_s - a.time_s for a, b in itertools.pairwise(destination.deliveries)]
    assert gaps[1] >= 0.3
    assert gaps[0] < gaps[1]


@pytest.mark.parametrize(
    ("headers", "least_s"),
    [
        ({"Retry-After": "1"}, 1.0),
        ({"X-RateLimit-Reset-Tokens": "300ms"}, 0.3),
        ({"Retry-After": "0"}, 0.0),
    ],
)
def test_a_servers_hint_sets_the_delay_unscaled_and_before_the_expression(
    headers: dict[str, str], least_s: float, sdk: QStash, destination: Destination
) -> None:
    url = destination.script("/hint", Answer(429, headers=headers))
    publish(sdk, url, retry_delay="10000000")
    wait_until(lambda: len(destination.deliveries) == 2)
    first, second = destination.deliveries
    assert second.time_s - first.time_s >= least_s


def test_489_with_its_header_stops_at_once_and_489_alone_does_not(
    sdk: QStash, destination: Destination
) -> None:
    stop = Answer(489, b"bad key", {"Upstash-NonRetryable-Error": "true"})
    final = publish(sdk, destination.script("/stop", stop), retries=5)
    alone = publish(sdk, destination.script("/alone", Answer(489)), retries=5)
    wait_until(lambda: "FAILED" in states_of(sdk, final))
    wait_until(lambda: "DELIVERED" in states_of(sdk, alone))
    assert len(destination.at("/stop")) == 1
    assert len(destination.at("/alone")) == 2
    assert states_of(sdk, final) == ["CREATED", "ACTIVE", "ERROR", "FAILED"]
    assert dead_letters_of(sdk, final)[0].response_status == 489


def test_zero_retries_means_one_delivery_and_a_dead_letter_with_the_answer(
    sdk: QStash, destination: Destination
) -> None:
    url = destination.script("/404", Answer(404, b"404 Not Found", {"X-Why": "gone"}))
    message_id = publish(sdk, url, body="x", retries=0)
    dead = wait_until(lambda: dead_letters_of(sdk, message_id))[0]
    assert dead.response_status == 404
    assert dead.response_body == "404 Not Found"
    assert dead.response_headers["X-Why"] == ["gone"]
    assert len(destination.deliveries) == 1
    failed = sdk.log.list(filter={"message_id": message_id}).logs[0]
    assert failed.error == "status 404: 404 Not Found"


def test_an_attempt_longer_than_its_timeout_fails_with_that_reason(
    sdk: QStash, destination: Destination
) -> None:
    url = destination.script("/slow", Answer(gate=threading.Event()))
    message_id = publish(sdk, url, timeout=1, retries=0)
    dead = wait_until(lambda: dead_letters_of(sdk, message_id))[0]
    assert dead.response_status == 0
    event = sdk.log.list(filter={"message_id": message_id}).logs[0]
    assert event.error == "timeout: no answer within 1 s"
    assert event.timeout == 1000
    wait_until(lambda: destination.disconnects == 1)


def test_unreachable_destinations_fail_with_a_reason_one_can_act_on(
    qstash_valkey: str, sdk: QStash, destination: Destination
) -> None:
    port = free_port()
    refused = publish(sdk, f"http://127.0.0.1:{port}/?secret=1", retries=0)
    tls = publish(sdk, destination.url.replace("http://", "https://") + "/", retries=0)
    with serve(make_app(qstash_valkey, allow_remote=True)) as url, sdk_for(url) as remote:
        unknown = publish(remote, "http://no-such-host.invalid/", retries=0)
        for message_id, expected in [
            (refused, f"connection refused: nothing listens on 127.0.0.1:{port}"),
            (tls, "TLS failure with 127.0.0.1"),
            (unknown, "unable to resolve host: no-such-host.invalid"),
        ]:
            wait_until(lambda of=message_id: dead_letters_of(sdk, of))  # type: ignore[misc]
            error = sdk.log.list(filter={"message_id": message_id}).logs[0].error
            assert error is not None
            assert error.startswith(expected)
            assert "secret" not in error


def test_failures_are_logged_without_secrets(
    sdk: QStash, destination: Destination, quiet: pytest.LogCaptureFixture
) -> None:
    url = destination.script("/logged", Answer(500, b"boom"))
    message_id = publish(sdk, url + "?key=hidden", body="hidden", retries=0)
    line = wait_until(lambda: [m for m in quiet.messages if message_id in m])[0]
    assert line.endswith("/logged failed, given up: status 500: boom")
    assert not any(secret in quiet.text for secret in (TOKEN, CURRENT_KEY, NEXT_KEY, "hidden"))


def test_a_callback_is_sent_for_every_attempt_and_a_failure_callback_once_at_the_end(
    sdk: QStash, destination: Destination
) -> None:
    failing = [Answer(500, b"first"), Answer(502, b"\xff last", {"X-Trace": "t"})]
    url = destination.script("/source", *failing)
    callback, failure = destination.url + "/callback", destination.url + "/failure"
    message_id = publish(
        sdk,
        url,
        body="the body",
        headers={"X-Source": "s"},
        retries=1,
        retry_delay=PROMPT_RETRY,
        callback=callback,
        failure_callback=failure,
        failure_callback_headers={"Forward-X-Mine": "kept", "Method": "PUT"},
    )
    failed = wait_until(lambda: destination.at("/failure"))[0]
    wait_until(lambda: len(destination.at("/callback")) == 2)
    calls = sorted((json.loads(c.body) for c in destination.at("/callback")), key=_retried)
    assert [(call["retried"], call["status"]) for call in calls] == [(0, 500), (1, 502)]
    verify(failed, failure)
    verify(destination.at("/callback")[0], callback)
    assert (failed.method, failed.headers["x-mine"]) == ("PUT", "kept")
    assert failed.headers["content-type"] == "application/json"
    assert failed.headers["upstash-message-id"] != message_id
    body = json.loads(failed.body)
    assert body["status"] == 502
    assert base64.b64decode(body["body"]) == b"\xff last"
    assert body["header"]["X-Trace"] == ["t"]
    assert (body["retried"], body["maxRetries"]) == (1, 1)
    assert body["sourceMessageId"] == message_id
    assert (body["url"], body["method"]) == (url, "POST")
    assert body["sourceHeader"] == {"X-Source": ["s"]}
    assert base64.b64decode(body["sourceBody"]) == b"the body"
    assert isinstance(body["createdAt"], int)
    assert isinstance(body["notBefore"], int)
    assert body["dlqId"] == dead_letters_of(sdk, message_id)[0].dlq_id


def _retried(call: dict[str, Any]) -> int:
    return int(call["retried"])


def test_success_sends_the_callback_and_no_failure_callback(
    sdk: QStash, destination: Destination
) -> None:
    urls = {"callback": destination.url + "/cb", "failure_callback": destination.url + "/fcb"}
    message_id = publish(sdk, destination.script("/ok", Answer(201, b"made")), **urls)
    call = json.loads(wait_until(lambda: destination.at("/cb"))[0].body)
    assert (call["status"], base64.b64decode(call["body"])) == (201, b"made")
    assert call["sourceMessageId"] == message_id
    assert "dlqId" not in call
    assert not destination.at("/fcb")


def test_a_callback_that_fails_is_retried_and_ends_in_the_dead_letters_itself(
    sdk: QStash, destination: Destination
) -> None:
    callback = destination.script("/cb", Answer(500), Answer(500))
    publish(sdk, destination.url + "/ok", retries=1, callback=callback)
    dead = wait_until(lambda: sdk.dlq.list().messages)[0]
    assert dead.url == callback
    assert [found.headers["upstash-retried"] for found in destination.at("/cb")] == ["0", "1"]


def test_a_failure_callback_without_an_answer_carries_the_reason(
    sdk: QStash, destination: Destination
) -> None:
    source = f"http://127.0.0.1:{free_port()}/"
    publish(sdk, source, retries=0, failure_callback=destination.url + "/fcb")
    call = json.loads(wait_until(lambda: destination.at("/fcb"))[0].body)
    assert call["status"] == 0
    assert base64.b64decode(call["body"]).startswith(b"connection refused")


def test_deliveries_do_not_carry_cookies_from_one_to_the_next(
    sdk: QStash, destination: Destination
) -> None:
    url = destination.script("/cookie", Answer(500, headers={"Set-Cookie": "a=b; Path=/"}))
    publish(sdk, url, retry_delay=PROMPT_RETRY)
    wait_until(lambda: len(destination.deliveries) == 2)
    assert "cookie" not in destination.deliveries[1].headers
