"""The stack's options for its queue: hosts that local ones stand in for, and known keys."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from qstash import QStash
from qstash.errors import QStashError

from longtask_kit import LocalStack, LocalStackError
from longtask_kit.local.config import StackConfig
from tests.contract.qstash.destination import publish, states_of, wait_until


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
