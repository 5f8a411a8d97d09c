"""Nothing a caller can send makes the queue fall over; property tests of what it parses."""

import contextlib
import json
import math
import os
import urllib.parse
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longtask_kit.local.qstash.delays import MAX_DURATION_S, evaluate_expression, parse_duration_s
from longtask_kit.local.qstash.destination import destination_of
from longtask_kit.local.qstash.errors import MalformedRequestError
from longtask_kit.local.qstash.groups import UrlGroup, parse_endpoints
from longtask_kit.local.qstash.message import canonical, dump_message, load_message, parse_message
from longtask_kit.local.qstash.schedules import next_time_ms
from tests.contract.qstash.destination import TOKEN, make_app
from tests.serving import serve

EXAMPLES = int(os.environ.get("LONGTASK_FUZZ_EXAMPLES", "150"))

PATHS = [
    "batch",
    "dlq",
    "dlq/1-1",
    "dlq/retry",
    "dlq/retry/1-1",
    "enqueue/q/http://127.0.0.1:1/",
    "events",
    "flowControl",
    "flowControl/k",
    "flowControl/k/pin",
    "flowControl/k/unpin",
    "keys",
    "logs",
    "messages",
    "messages/x",
    "publish/http://127.0.0.1:1/",
    "publish/http://[::1",
    "publish/https%3A%2F%2F127.0.0.1%3A1%2F%C3%A9",
    "queues",
    "queues/q",
    "queues/q/pause",
    "schedules",
    "schedules/http://127.0.0.1:1/",
    "schedules/x/pause",
    "topics",
    "topics/g",
    "topics/g/endpoints",
    "workflows/logs",
]
OPTIONS = [
    "Callback",
    "Callback-Retries",
    "Content-Based-Deduplication",
    "Cron",
    "Deduplication-Id",
    "Delay",
    "Failure-Callback",
    "Flow-Control-Key",
    "Flow-Control-Value",
    "Forward-X",
    "Label",
    "Method",
    "Not-Before",
    "Queue-Name",
    "Redact-Fields",
    "Retries",
    "Retry-Delay",
    "Schedule-Id",
    "Timeout",
]
QUERY_NAMES = [
    "callerIp",
    "count",
    "cursor",
    "dlqIds",
    "fromDate",
    "label",
    "messageIds",
    "order",
    "parallelism",
    "period",
    "rate",
    "responseStatus",
    "search",
    "state",
    "url",
    "upstash-delay",
]
header_text = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40
).map(str.strip)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
likely = st.dictionaries(
    st.sampled_from(
        [
            "queueName",
            "parallelism",
            "paused",
            "endpoints",
            "url",
            "name",
            "headers",
            "dlqIds",
            "messageIds",
            "destination",
            "body",
            "queue",
        ]
    ),
    json_values,
    max_size=5,
)
bodies = st.one_of(
    st.binary(max_size=60),
    json_values.map(lambda value: json.dumps(value).encode()),
    likely.map(lambda value: json.dumps(value).encode()),
    st.lists(likely, max_size=3).map(lambda value: json.dumps(value).encode()),
)


@pytest.fixture(scope="module")
def fuzzed(qstash_valkey: str) -> Iterator[httpx.Client]:
    with serve(make_app(qstash_valkey)) as url:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
            yield client
            client.delete("/v2/messages")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
    path=st.sampled_from(PATHS),
    tail=st.text(max_size=12),
    query=st.lists(st.tuples(st.sampled_from(QUERY_NAMES), st.text(max_size=12)), max_size=3),
    headers=st.dictionaries(st.sampled_from(OPTIONS), header_text, max_size=4),
    body=bodies,
)
def test_no_request_makes_the_queue_fail(
    fuzzed: httpx.Client,
    method: str,
    path: str,
    tail: str,
    query: list[tuple[str, str]],
    headers: dict[str, str],
    body: bytes,
) -> None:
    target = f"/v2/{path}{urllib.parse.quote(tail)}"
    params: Any = query
    given_headers = [
        (f"Upstash-{name}".encode(), value.encode("latin-1")) for name, value in headers.items()
    ]
    answer = fuzzed.request(method, target, params=params, headers=given_headers, content=body)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert isinstance(answer.json()["error"], str)
        assert answer.json()["error"]
    elif answer.content:
        answer.json()


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_a_duration_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, secs: int) -> None:
    text = f"{days}d{hours}h{minutes}m{secs}s"
    assert parse_duration_s(text) == ((days * 24 + hours) * 60 + minutes) * 60 + secs


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_is_refused(text: str) -> None:
    with contextlib.suppress(MalformedRequestError):
        assert 0 <= parse_duration_s(text) <= MAX_DURATION_S


expressions = st.recursive(
    st.sampled_from(["retried", "1000", "0.5", "2"]) | st.integers(0, 10**6).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/%^"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["pow", "min", "max"]), inner, inner).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        ),
        st.tuples(st.sampled_from(["sqrt", "abs", "exp", "floor", "ceil", "round"]), inner).map(
            lambda t: f"{t[0]}({t[1]})"
        ),
    ),
    max_leaves=12,
)


@given(expressions | st.text(max_size=60), st.integers(0, 10_000))
def test_any_expression_has_a_value_or_is_refused(text: str, retried: int) -> None:
    with contextlib.suppress(MalformedRequestError):
        assert not math.isnan(evaluate_expression(text, retried=retried))


@given(
    st.text("abcXYZ019/._~!$&'()*+,;=:@-", max_size=30),
    st.lists(
        st.tuples(st.text("abcxyz019", min_size=1, max_size=5), st.text("abc019%2F", max_size=6)),
        max_size=3,
    ),
)
def test_a_destination_comes_back_as_it_was_put_into_the_path(
    path: str, pairs: list[tuple[str, str]]
) -> None:
    query = "&".join(f"{name}={value}" for name, value in pairs)
    url = f"http://127.0.0.1:9/{path}" + (f"?{query}" if query else "")
    raw_path = f"/v2/publish/http://127.0.0.1:9/{path}".encode()
    assert destination_of(raw_path, query.encode()) == url
    assert destination_of(raw_path, f"{query}&upstash-delay=1s".encode()) == url


@given(
    st.dictionaries(st.text("abcXYZ-", min_size=1, max_size=8), header_text, max_size=5),
    st.binary(max_size=50),
)
def test_forwarded_headers_and_the_body_come_back_from_storage(
    headers: dict[str, str], body: bytes
) -> None:
    message = parse_message(
        [(f"Upstash-Forward-{name}", value) for name, value in headers.items()],
        message_id="msg_1",
        url="http://127.0.0.1/",
        body=body,
        now_ms=1,
    )
    kept = load_message(json.dumps(dump_message(message)))
    assert kept == message
    assert kept.body == body
    hidden = {"Connection", "Content-Length", "Host", "Transfer-Encoding"}
    assert set(kept.headers) == {canonical(name) for name in headers} - hidden


@given(json_values)
def test_any_document_is_a_list_of_endpoints_or_is_refused(document: object) -> None:
    with contextlib.suppress(MalformedRequestError):
        parse_endpoints({"endpoints": document}, need_url=True)


@given(st.text("*/,-0123456789 LMONTU?#", max_size=24))
def test_any_cron_has_a_next_turn_or_is_refused(cron: str) -> None:
    with contextlib.suppress(MalformedRequestError):
        assert next_time_ms(cron, after_ms=1_790_000_000_000) > 1_790_000_000_000


def test_a_group_comes_back_from_storage() -> None:
    group = UrlGroup(name="g", created_at_ms=1, updated_at_ms=2, headers={"X": ["1"]})
    assert UrlGroup.load(group.dump()).to_wire() == group.to_wire()
