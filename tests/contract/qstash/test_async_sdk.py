"""The whole API once more through the official SDK's async client."""

import time
from typing import Any

import anyio
import pytest
from qstash import AsyncQStash
from qstash.errors import QStashError

from tests.contract.qstash.conftest import Fresh
from tests.contract.qstash.destination import TOKEN, Answer, Destination


async def until(condition: Any) -> Any:  # noqa: ANN401 - an async condition
    deadline = time.monotonic() + 5
    while not (value := await condition()):
        assert time.monotonic() < deadline
        await anyio.sleep(0.01)
    return value


@pytest.mark.anyio
async def test_every_call_of_the_async_sdk(fresh: Fresh, destination: Destination) -> None:
    sdk = AsyncQStash(TOKEN, retry=False, base_url=fresh.url)
    try:
        await _messages(sdk, destination)
        await _setup(sdk, destination)
        await _schedules(sdk, destination)
        await _dead_letters(sdk, destination)
    finally:
        await sdk.http._client.aclose()


async def _messages(sdk: AsyncQStash, destination: Destination) -> None:
    url = destination.url + "/async"
    sent: Any = await sdk.message.publish_json(url=url, body={"a": 1}, label="l")
    queued: Any = await sdk.message.enqueue_json(queue="aq", url=url, body={"b": 2})
    batch: Any = await sdk.message.batch([{"url": url, "delay": "1h"}, {"url": url, "body": "c"}])
    assert (await sdk.message.get(sent.message_id)).label == "l"
    assert (await sdk.message.get(queued.message_id)).queue == "aq"
    await sdk.message.cancel(batch[0].message_id)
    assert await sdk.message.cancel_many(["msg_unknown"]) == 0

    async def all_delivered() -> bool:
        return len(destination.at("/async")) == 3

    await until(all_delivered)
    assert await sdk.message.cancel_all() == 0
    events = await sdk.log.list(filter={"message_id": sent.message_id})
    assert events.logs[-1].state.value == "CREATED"


async def _setup(sdk: AsyncQStash, destination: Destination) -> None:
    await sdk.queue.upsert("bq", parallelism=2, paused=True)
    await sdk.queue.resume("bq")
    await sdk.queue.pause("bq")
    assert (await sdk.queue.get("bq")).paused
    assert [queue.name for queue in await sdk.queue.list()] == ["aq", "bq"]
    await sdk.queue.delete("bq")
    await sdk.url_group.upsert_endpoints("g", [{"url": destination.url + "/g", "name": "n"}])
    sent: Any = await sdk.message.publish(url_group="g")
    assert [one.url for one in sent] == [destination.url + "/g"]
    assert (await sdk.url_group.get("g")).endpoints[0].name == "n"
    assert len(await sdk.url_group.list()) == 1
    await sdk.url_group.remove_endpoints("g", [{"name": "n"}])
    await sdk.url_group.delete("g")
    await sdk.message.publish(url=destination.url, flow_control={"key": "k", "rate": 9})
    await sdk.flow_control.pause("k")
    await sdk.flow_control.resume("k")
    await sdk.flow_control.pin("k", {"parallelism": 3, "rate": 4, "period": 5})
    await sdk.flow_control.unpin("k", {"parallelism": True, "rate": True})
    await sdk.flow_control.reset_rate("k")
    info = await sdk.flow_control.get("k")
    assert (info.parallelism_max, info.rate_max, info.rate_period) == (3, 4, 5)
    assert (await sdk.flow_control.get_global_parallelism()).parallelism_max > 0
    keys = await sdk.signing_key.rotate()
    assert await sdk.signing_key.get() == keys


async def _schedules(sdk: AsyncQStash, destination: Destination) -> None:
    made = await sdk.schedule.create_json(
        destination=destination.url, cron="CRON_TZ=Asia/Tokyo 0 9 * * *", body={"x": 1}
    )
    await sdk.schedule.pause(made)
    assert (await sdk.schedule.get(made)).paused
    await sdk.schedule.resume(made)
    assert [one.schedule_id for one in await sdk.schedule.list()] == [made]
    await sdk.schedule.delete(made)


async def _dead_letters(sdk: AsyncQStash, destination: Destination) -> None:
    for number in range(3):
        url = destination.script(f"/dead/{number}", Answer(404, b"Not Found"))
        await sdk.message.publish(url=url, retries=0)

    async def all_dead() -> Any:  # noqa: ANN401
        found = (await sdk.dlq.list()).messages
        return found if len(found) == 3 else None

    dead = await until(all_dead)
    page = await sdk.dlq.list(count=2)
    assert len(page.messages) == 2
    assert len((await sdk.dlq.list(cursor=page.cursor)).messages) == 1
    assert (await sdk.dlq.get(dead[0].dlq_id)).response_body == "Not Found"
    await sdk.dlq.delete(dead[0].dlq_id)
    with pytest.raises(QStashError, match="404"):
        await sdk.dlq.delete(dead[0].dlq_id)
    assert await sdk.dlq.delete_many([one.dlq_id for one in dead]) == 2
