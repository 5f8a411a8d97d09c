"""The queue's scripts over one client: their order, repeats, and a cluster whose nodes change."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from longtask_kit.local.qstash.client import connect
from longtask_kit.local.qstash.scripts import ScriptRunner
from tests.contract.redis_rest.cluster import Node, node_of, run_cluster
from tests.wait import wait_until


def plan_of(message_id: str) -> str:
    view = {"id": message_id, "state": "ACTIVE", "view": "{}"}
    return json.dumps({"event": view})


def run_with(url: str, work: Callable[[ScriptRunner], Awaitable[None]]) -> None:
    async def main() -> None:
        client = await connect(url)
        runner = ScriptRunner(client)
        try:
            await work(runner)
        finally:
            await runner.close()
            await client.aclose()

    asyncio.run(main())


def recorded(client: Any) -> list[str]:  # noqa: ANN401 - redis-py's
    return [fields["id"] for _, fields in client.xrange("{qstash}:events")]


def test_what_is_called_at_once_runs_in_the_order_of_the_calls(
    qstash_valkey: str, qstash_flush: redis.Redis
) -> None:
    qstash_flush.flushdb()
    names = [f"msg_{number}" for number in range(200)]
    qstash_flush.zadd("{qstash}:pending", dict.fromkeys(names, 1))
    done: list[str] = []

    async def work(runner: ScriptRunner) -> None:
        async def call(name: str) -> None:
            assert await runner.run("record", plan_of(name)) == 1
            done.append(name)

        calls = []
        for at, name in enumerate(names):
            calls.append(asyncio.create_task(call(name)))
            if at % 7 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*calls)

    run_with(qstash_valkey, work)
    assert done == names
    assert recorded(qstash_flush) == names


def test_a_call_that_fails_is_no_matter_of_those_sent_with_it(
    qstash_valkey: str, qstash_flush: redis.Redis
) -> None:
    qstash_flush.flushdb()
    qstash_flush.zadd("{qstash}:pending", {"msg_a": 1, "msg_c": 1})

    async def work(runner: ScriptRunner) -> None:
        plans = (plan_of("msg_a"), "no JSON", plan_of("msg_gone"), plan_of("msg_c"))
        calls = (runner.run("record", plan) for plan in plans)
        first, broken, gone, last = await asyncio.gather(*calls, return_exceptions=True)
        assert (first, gone, last) == (1, 0, 1)
        assert isinstance(broken, ResponseError)

    run_with(qstash_valkey, work)
    assert recorded(qstash_flush) == ["msg_a", "msg_c"]


def test_a_caller_that_leaves_takes_nobody_along_and_an_end_leaves_nobody_waiting(
    qstash_valkey: str, qstash_flush: redis.Redis
) -> None:
    qstash_flush.flushdb()

    async def work(runner: ScriptRunner) -> None:
        leaving, staying = (asyncio.create_task(runner.run("record", plan_of("x"))) for _ in "12")
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == 0
        late = asyncio.create_task(runner.run("record", plan_of("x")))
        await asyncio.sleep(0)
        await runner.close()
        with pytest.raises(asyncio.CancelledError):
            await late

    run_with(qstash_valkey, work)


@pytest.mark.thorough
def test_a_replica_that_takes_the_queue_over_is_found() -> None:
    with run_cluster(spares=1) as nodes:
        lost, replica = node_of(nodes, "{qstash}"), nodes[3]
        known = next(node for node in nodes if node not in (lost, replica))
        replica("CLUSTER", "REPLICATE", lost.id)
        lost("ZADD", "{qstash}:pending", 1, "msg_a")

        def fail_over() -> None:
            wait_until(lambda: replica("DBSIZE") == 2)  # the copies have come
            lost.kill()
            replica("CLUSTER", "FAILOVER", "TAKEOVER")
            wait_until(lambda: _has_slots(known, replica))

        async def work(runner: ScriptRunner) -> None:
            assert await runner.run("record", plan_of("msg_a")) == 1
            await asyncio.to_thread(fail_over)
            assert await runner.run("record", plan_of("msg_a")) == 1

        run_with(known.url, work)
        assert replica("XLEN", "{qstash}:events") == 2


def _has_slots(asked: Node, node: Node) -> bool:
    lines = [line.split() for line in asked("CLUSTER", "NODES").splitlines()]
    return any(fields[0] == node.id and len(fields) > 8 for fields in lines)
