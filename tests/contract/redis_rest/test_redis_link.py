"""The connections to Redis: what happens when one is lost."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
import redis
import uvloop

from longtask_kit.local.redis.engine import Engine
from tests.contract.redis_rest.test_commands import post
from tests.wait import wait_until

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


def test_connections_that_redis_closed_are_opened_again(http: httpx.Client, redis_url: str) -> None:
    assert post(http, "BLPOP", "none", "0.01") == {"result": None}
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        client.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: len(client.client_list(_type="normal")) == 1)
    wait_until(lambda: post(http, "PING") == {"result": "PONG"})
    assert post(http, "BLPOP", "none", "0.01") == {"result": None}


@LOOPS
def test_a_lost_connection_fails_those_who_wait_and_nobody_sends_again(
    run: Callable[[Awaitable[object]], object], redis_url: str
) -> None:
    async def work() -> object:
        engine = Engine(redis_url)
        await engine.run([[b"DEL", b"once"]])
        kill = [b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"no"]
        answers = await asyncio.gather(
            engine.run([[b"INCR", b"once"], kill, [b"INCR", b"once"]]),
            engine.run([[b"INCR", b"once"]]),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [ConnectionError, ConnectionError]
        [count] = await engine.run([[b"GET", b"once"]])
        engine.close()
        return count

    assert run(work()) == b"1"
