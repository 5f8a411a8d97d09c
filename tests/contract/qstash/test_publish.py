"""Publishing: which destination, which headers, which refusals."""

import base64
import json
import time
from typing import Any

import httpx
import pytest
from qstash import AsyncQStash, QStash
from qstash.errors import QStashError

from tests.contract.qstash.destination import (
    TOKEN,
    Answer,
    Destination,
    sdk_for,
    verify,
    wait_until,
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def id_of(published: Any) -> str:  # noqa: ANN401 - the SDK answers a union
    return str(published.message_id)


def test_a_published_message_is_delivered_with_its_body_and_a_valid_signature(
    sdk: QStash, destination: Destination
) -> None:
    url = destination.url + "/hook"
    message_id = id_of(sdk.message.publish_json(url=url, body={"hello": "wörld"}))
    delivery = wait_until(lambda: destination.at("/hook"))[0]
    verify(delivery, url)
    assert json.loads(delivery.body) == {"hello": "wörld"}
    assert delivery.method == "POST"
    assert delivery.headers["upstash-message-id"] == message_id
    assert delivery.headers["upstash-retried"] == "0"
    assert delivery.headers["user-agent"] == "Upstash-QStash"
    assert delivery.headers["content-type"] == "application/json"
    assert delivery.headers["upstash-caller-ip"] == "127.0.0.1"
    assert delivery.headers["upstash-region"] == "US-EAST-1"


@pytest.mark.anyio
async def test_the_async_sdk_publishes_and_reads_the_message_back(
    sdk: QStash, destination: Destination
) -> None:
    client = AsyncQStash(TOKEN, retry=False, base_url=sdk.http._base_url)
    try:
        published = await client.message.publish(url=destination.url + "/async", body="hi")
        message = await client.message.get(id_of(published))
    finally:
        await client.http._client.aclose()
    assert message.body == "hi"
    assert message.url == destination.url + "/async"
    wait_until(lambda: destination.at("/async"))


@pytest.mark.parametrize(
    "target",
    [
        "/a%20b?x=1&y=%C3%A9",
        "/double//slash/",
        "/",
        "/dots/../kept?q=a/b",
        "/escapes/%2f%2E?empty=&flag",
        "/plus+and:colon@at;semi",
        "?only=query",
    ],
)
def test_the_destination_arrives_verbatim_and_is_what_was_signed(
    target: str, http: httpx.Client, destination: Destination
) -> None:
    url = destination.url + target
    # As raw bytes: a client's own normalisation must not stand between test and queue.
    answer = http.post("/", extensions={"target": f"/v2/publish/{url}".encode()})
    assert answer.status_code == 201, answer.text
    delivery = wait_until(lambda: destination.deliveries)[0]
    assert delivery.target == (target if target.startswith("/") else f"/{target}")
    verify(delivery, url)


def test_a_percent_encoded_destination_is_decoded_once(
    http: httpx.Client, destination: Destination
) -> None:
    encoded = httpx.QueryParams({"": destination.url + "/a%20b?x=ä"}).__str__()[1:]
    http.post("/", extensions={"target": f"/v2/publish/{encoded}".encode()})
    delivery = wait_until(lambda: destination.deliveries)[0]
    assert delivery.target == "/a%20b?x=%C3%A4"


def test_control_parameters_configure_and_stay_out_of_the_destination(
    http: httpx.Client, destination: Destination
) -> None:
    query = "a=1&upstash-method=PUT&qstash_token=secret&b=2"
    http.post(f"/v2/publish/{destination.url}/q?{query}")
    delivery = wait_until(lambda: destination.deliveries)[0]
    assert (delivery.method, delivery.target) == ("PUT", "/q?a=1&b=2")


def test_forwarded_headers_arrive_and_telemetry_does_not(
    http: httpx.Client, destination: Destination
) -> None:
    headers = {
        "Upstash-Forward-X-Test": "täst",
        "upstash-forward-authorization": "Bearer of-the-destination",
        "Upstash-Forward-Content-Length": "999",
        "Upstash-Forward-Upstash-Signature": "forged",
        "Upstash-Telemetry-Sdk": "js",
        "X-Not-Forwarded": "1",
    }
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    http.post(f"/v2/publish/{destination.url}/h", headers=pairs, content=b"body")
    delivery = wait_until(lambda: destination.deliveries)[0]
    assert delivery.headers["x-test"] == "täst"
    assert delivery.headers["authorization"] == "Bearer of-the-destination"
    assert delivery.headers["content-length"] == "4"
    assert "content-type" not in delivery.headers
    assert not {"x-not-forwarded", "upstash-telemetry-sdk"} & set(delivery.headers)
    verify(delivery, destination.url + "/h")


def test_a_get_with_a_body_is_sent_with_it(sdk: QStash, destination: Destination) -> None:
    sdk.message.publish(url=destination.url + "/g", method="GET", body="still here")
    delivery = wait_until(lambda: destination.deliveries)[0]
    assert (delivery.method, delivery.body) == ("GET", b"still here")


def test_binary_bodies_arrive_untouched_and_read_back_as_base64(
    sdk: QStash, destination: Destination
) -> None:
    body = bytes(range(256))
    message_id = id_of(sdk.message.publish(url=destination.url + "/bin", body=body))
    assert wait_until(lambda: destination.deliveries)[0].body == body
    message = sdk.message.get(message_id)
    assert message.body is None
    assert message.body_base64 == base64.b64encode(body).decode()


def test_a_message_reads_back_with_the_fields_it_was_published_with(
    sdk: QStash, destination: Destination
) -> None:
    before_ms = int(time.time() * 1000)
    published = sdk.message.publish_json(
        url=destination.url + "/later",
        body={"a": 1},
        headers={"test-header": "value"},
        callback=destination.url + "/cb",
        callback_headers={"Forward-From": "callback"},
        failure_callback=destination.url + "/fcb",
        retries=7,
        retry_delay="1000 * (1 + retried)",
        delay="1h",
        label="blue",
    )
    message = sdk.message.get(id_of(published))
    assert message.headers == {"Content-Type": ["application/json"], "Test-Header": ["value"]}
    assert message.body == '{"a": 1}'
    assert message.max_retries == 7
    assert message.retry_delay_expression == "1000 * (1 + retried)"
    assert message.not_before >= before_ms + 3_600_000
    assert message.created_at >= before_ms
    assert message.callback == destination.url + "/cb"
    assert message.failure_callback == destination.url + "/fcb"
    assert message.callback_headers == {"From": ["callback"]}
    assert message.label == "blue"
    assert message.caller_ip == "127.0.0.1"
    assert message.flow_control is None
    assert not destination.deliveries


def test_an_empty_body_is_left_out_of_the_message(
    http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    message_id = id_of(sdk.message.publish(url=destination.url + "/e"))
    view = http.get(f"/v2/messages/{message_id}").json()
    assert not {"body", "bodyBase64", "label", "parallelism", "rate"} & set(view)
    verify(wait_until(lambda: destination.deliveries)[0], destination.url + "/e")


def test_a_duplicate_publish_answers_202_with_the_first_id(
    http: httpx.Client, sdk: QStash, destination: Destination
) -> None:
    headers = {"Upstash-Deduplication-Id": "once"}
    target = f"/v2/publish/{destination.url}/dedup"
    first = http.post(target, headers=headers)
    second = http.post(target, headers=headers, content=b"another body")
    assert (first.status_code, second.status_code) == (201, 202)
    assert "deduplicated" not in first.json()
    assert second.json() == {"messageId": first.json()["messageId"], "deduplicated": True}
    assert id_of(sdk.message.publish(url=destination.url + "/dedup")) != first.json()["messageId"]
    wait_until(lambda: len(destination.deliveries) == 2)


def test_content_based_deduplication_looks_at_url_body_and_forwarded_headers(
    sdk: QStash, destination: Destination
) -> None:
    def publish(path: str, body: str, **headers: str) -> Any:  # noqa: ANN401
        return sdk.message.publish(
            url=destination.url + path,
            body=body,
            headers=headers,
            content_based_deduplication=True,
        )

    first = publish("/c", "x")
    assert publish("/c", "x").message_id == first.message_id
    assert publish("/c", "x").deduplicated
    others = [publish("/d", "x"), publish("/c", "y"), publish("/c", "x", test="1")]
    assert not any(other.deduplicated for other in others)
    off = sdk.message.publish(
        url=destination.url + "/c", body="x", content_based_deduplication=False
    )
    assert not getattr(off, "deduplicated")  # noqa: B009 - the SDK answers a union


def test_a_delayed_message_waits_for_its_time(sdk: QStash, destination: Destination) -> None:
    published_s = time.time()
    sdk.message.publish(url=destination.url + "/d", delay=1)
    wait_until(lambda: [d for d in destination.deliveries if d.target == "/d"])
    waited_s = next(d for d in destination.deliveries if d.target == "/d").time_s - published_s
    assert waited_s >= 0.99


def test_not_before_overrides_the_delay(sdk: QStash, destination: Destination) -> None:
    not_before = int(time.time()) - 5
    sdk.message.publish(url=destination.url + "/n", delay="10d", not_before=not_before)
    wait_until(lambda: destination.deliveries)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Upstash-Retries": "-1"}, "Upstash-Retries"),
        ({"Upstash-Retries": "many"}, "Upstash-Retries"),
        ({"Upstash-Method": "BREW"}, "Upstash-Method"),
        ({"Upstash-Delay": "soon"}, "Upstash-Delay"),
        ({"Upstash-Delay": "900d"}, "366 days"),
        ({"Upstash-Timeout": "10"}, "Upstash-Timeout"),
        ({"Upstash-Not-Before": "tomorrow"}, "Upstash-Not-Before"),
        ({"Upstash-Retry-Delay": "__import__('os')"}, "retry delay"),
        ({"Upstash-Retry-Delay": "pow(2)"}, "retry delay"),
        ({"Upstash-Callback": "/relative"}, "callback url"),
        ({"Upstash-Callback": "http://127.0.0.1/a b"}, "percent-encode"),
        (
            {"Upstash-Callback": "http://127.0.0.1/", "Upstash-Callback-Retries": "x"},
            "Upstash-Retries",
        ),
        ({"Upstash-Failure-Callback": "http://example.com/"}, "--allow-remote"),
    ],
)
def test_malformed_headers_answer_400_and_say_which(
    headers: dict[str, str], expected: str, http: httpx.Client, destination: Destination
) -> None:
    answer = http.post(f"/v2/publish/{destination.url}/never", headers=headers)
    assert answer.status_code == 400
    assert expected in answer.json()["error"]
    assert not destination.deliveries


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("not-a-url", "invalid scheme"),
        ("ftp://127.0.0.1/", "invalid scheme"),
        ("http://", "host is missing"),
        ("http://127.0.0.1:99999/", "invalid destination url"),
        ("http://example.com/hook", "--allow-remote"),
        ("http://127.0.0.1@example.com/", "--allow-remote"),
        ("http://10.0.0.1/", "--allow-remote"),
        ("http://localhost.example.com/", "--allow-remote"),
    ],
)
def test_destinations_that_cannot_be_served_answer_400(
    target: str, expected: str, http: httpx.Client
) -> None:
    answer = http.post("/", extensions={"target": f"/v2/publish/{target}".encode()})
    assert answer.status_code == 400
    assert expected in answer.json()["error"]


def test_localhost_and_ipv6_loopback_are_on_this_machine(http: httpx.Client) -> None:
    for origin in ("http://localhost:1", "http://[::1]:1", "http://127.8.9.1:1"):
        headers = {"Upstash-Delay": "1d"}
        assert http.post(f"/v2/publish/{origin}/x", headers=headers).status_code == 201


def test_a_wrong_or_missing_token_answers_401_everywhere(
    sdk: QStash, destination: Destination
) -> None:
    base_url = sdk.http._base_url
    with sdk_for(base_url, "wrong") as stranger, pytest.raises(QStashError, match="401"):
        stranger.message.publish(url=destination.url + "/x")
    for method, path in [("GET", "/v2/keys"), ("DELETE", "/v2/messages"), ("GET", "/nowhere")]:
        answer = httpx.request(method, base_url + path, trust_env=False)
        assert answer.status_code == 401
        assert "unauthorized" in answer.json()["error"]
    query = {"qstash_token": TOKEN}
    assert httpx.get(f"{base_url}/v2/keys", params=query, trust_env=False).status_code == 200


def test_unknown_paths_and_methods_answer_json_errors(http: httpx.Client) -> None:
    unknown, wrong = http.get("/v3/what"), http.put("/v2/keys")
    assert (unknown.status_code, wrong.status_code) == (404, 405)
    assert unknown.json().keys() == wrong.json().keys() == {"error"}


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/v2/waiters/event", "waiters"),
        ("POST", "/v2/notify/event", "notify"),
        ("GET", "/v2/workflows/logs", "workflows"),
    ],
)
def test_endpoints_of_the_workflow_product_say_that_they_are_not_implemented(
    method: str, path: str, name: str, http: httpx.Client
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 404
    assert answer.json() == {"error": f"{name} is not implemented in the local queue"}


def test_an_answer_no_2xx_is_still_delivered_only_as_often_as_allowed(
    sdk: QStash, destination: Destination
) -> None:
    url = destination.script("/redirect", Answer(302, headers={"Location": "/elsewhere"}))
    message_id = id_of(sdk.message.publish(url=url, retries=0))
    wait_until(lambda: sdk.dlq.list(filter={"message_id": message_id}).messages)
    assert [found.target for found in destination.deliveries] == ["/redirect"]
