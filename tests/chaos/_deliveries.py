"""Deliveries as the queue makes them, at the moment and as often as a test wants."""

import asyncio
import json
import time
from typing import Any

import httpx

import longtask_kit as lt
from longtask_kit.local.qstash.request import SigningKeys, sign_delivery
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.record import TaskRecord
from longtask_kit.log.store import Store
from longtask_kit.settings import secret
from longtask_kit.submit.spec import TaskSpec

HTTP = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None))


def record_task(settings: lt.Settings, prompt: str, **spec: Any) -> str:  # noqa: ANN401
    """Record a task without queueing it; the test delivers it."""

    async def create() -> str:
        store = Store.open(settings)
        task_id = new_task_id()
        await store.create(task_id, TaskSpec(prompt=prompt, **spec).to_wire())
        await store.aclose()
        return task_id

    return asyncio.run(create())


def read_record(settings: lt.Settings, task_id: str) -> TaskRecord:
    """Return a task's record."""

    async def read() -> TaskRecord | None:
        store = Store.open(settings)
        record = await store.read_task(task_id)
        await store.aclose()
        return record

    record = asyncio.run(read())
    assert record is not None
    return record


def make_body(task_id: str) -> bytes:
    """Return a delivery's body."""
    return json.dumps({"taskId": task_id}).encode()


def deliver(
    settings: lt.Settings, body: bytes, *, delivery_id: str = "msg_chaos", retried: int = 0
) -> httpx.Response:
    """Post a delivery with a valid signature, as the queue would."""
    keys = SigningKeys(
        current=secret(settings.qstash_current_signing_key),
        next=secret(settings.qstash_next_signing_key),
    )
    headers = {
        "Content-Type": "application/json",
        "Upstash-Message-Id": delivery_id,
        "Upstash-Retried": str(retried),
        "Upstash-Signature": sign_delivery(
            keys, url=settings.webhook_url, body=body, now_s=time.time()
        ),
    }
    return HTTP.post(settings.webhook_url, content=body, headers=headers)
