"""The stack's options for its queue: hosts that local ones stand in for, and known keys."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from qstash import QStash
from qstash.errors import QStashError
from starlette.applications import Starlette
from starlette.routing import Route

from longtask_kit import LocalStack, LocalStackError
from longtask_kit.local.config import StackConfig
from tests.contract.qstash.destination import Destination, publish, states_of, wait_until
from tests.serving import serve


@pytest.mark.thorough
def test_a_stack_delivers_to_whatever_stands_in_for_a_public_host() -> None:
    with LocalStack.start(data=None) as receiver:
        local = receiver.environment["LONGTASK_BASE_URL"]
        with LocalStack.start(data=None, rewrites=[f"https://example.com={local}"]) as stack:
            sdk = QStash(
                stack.environment["QSTASH_TOKEN"], base_url=stack.environment["QSTASH_URL"]
            )
            try:
                message_id = publish(sdk, "https://example.com/openapi.json", method="GET")
                wait_until(lambda: "DELIVERED" in states_of(sdk, message_id))
            finally:
                sdk.http._client.close()


def test_dev_keys_are_the_ones_the_javascript_sdk_looks_for() -> None:
    token = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="
    with LocalStack.start(data=None, dev_keys=True) as stack:
        assert stack.environment["QSTASH_TOKEN"] == token
        answer = httpx.get(
            stack.environment["QSTASH_URL"] + "/v2/keys",
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )
    assert answer.json() == {
        "current": "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r",
        "next": "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs",
    }


def headers_of_a_form(origin: str) -> dict[str, str]:
    """What a browser says of a form on somebody's page, which it sends wherever the form leads."""
    site = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    return {"Origin": origin, "Content-Type": "text/plain"} | site


def test_a_page_makes_no_queue_send_with_keys_that_everybody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, evil = "https://own.example", "https://evil.example"
    monkeypatch.setenv("LONGTASK_CORS_ORIGINS", own)
    destination = Destination()
    route = Route("/admin", destination.answer, methods=["DELETE"])
    with (
        serve(Starlette(routes=[route])) as receiver,
        LocalStack.start(data=None, dev_keys=True) as stack,
    ):
        urls = stack.environment
        form = f"{urls['QSTASH_URL']}/v2/publish/{receiver}/admin?upstash-method=DELETE"
        form += f"&qstash_token={quote(urls['QSTASH_TOKEN'])}"
        for origin in (own, evil):
            refused = httpx.post(form, content="a=b", headers=headers_of_a_form(origin))
            assert refused.status_code == 403
        by_a_program = httpx.post(form, content="a=b")
        wait_until(lambda: destination.deliveries)
        [delivery] = destination.deliveries
        assert delivery.headers["upstash-message-id"] == by_a_program.json()["messageId"]


def test_the_origins_that_are_set_may_call_the_app_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own, evil = "https://own.example", "https://evil.example"
    monkeypatch.setenv("LONGTASK_CORS_ORIGINS", own)
    with LocalStack.start(data=None) as stack:
        urls = stack.environment
        tasks = f"{urls['LONGTASK_BASE_URL']}/api/tasks"
        key = {"Authorization": f"Bearer {urls['LONGTASK_API_KEY']}"}
        allowed = httpx.get(tasks, headers=headers_of_a_form(own) | key)
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == own
        assert httpx.get(tasks, headers=headers_of_a_form(evil)).status_code == 403
        for name in ("QSTASH_URL", "UPSTASH_REDIS_REST_URL", "OPENAI_BASE_URL"):
            assert httpx.get(urls[name], headers=headers_of_a_form(own)).status_code == 403


@pytest.mark.parametrize(
    "rewrite",
    [
        "https://example.com",
        "example.com=http://127.0.0.1:9000",
        "https://example.com=127.0.0.1:9000",
        "https://user@example.com=http://127.0.0.1",
        "https://example.com=http://127.0.0.1:99999",
    ],
)
def test_a_rewrite_that_cannot_be_meant_is_refused(rewrite: str) -> None:
    with pytest.raises(LocalStackError, match="--rewrite"):
        StackConfig(data_dir=Path(), rewrites=[rewrite])


@pytest.mark.thorough
def test_a_stack_has_the_limits_of_a_plan_and_a_window_for_deduplication() -> None:
    with LocalStack.start(data=None, plan="free", dedup_window_s=1.0) as stack:
        sdk = QStash(stack.environment["QSTASH_TOKEN"], base_url=stack.environment["QSTASH_URL"])
        try:
            with pytest.raises(QStashError, match=r"412.*delay too long: the free plan"):
                publish(sdk, "http://127.0.0.1:9/", delay="8d")
            options = {"url": "http://127.0.0.1:9/", "deduplication_id": "once", "delay": "1h"}
            first = publish(sdk, **options)
            assert publish(sdk, **options) == first
            wait_until(lambda: publish(sdk, **options) != first)
        finally:
            sdk.http._client.close()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"plan": "pro"}, "--plan.*free or payg.*'pro'"),
        ({"dedup_window_s": 0}, "--dedup-window.*above 0"),
        ({"dedup_window_s": float("inf")}, "--dedup-window"),
        ({"dedup_window_s": 1e9}, "--dedup-window.*at most a year"),
    ],
)
def test_a_plan_or_window_that_cannot_be_meant_is_refused(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LocalStackError, match=reason):
        StackConfig(data_dir=Path(), **options)
