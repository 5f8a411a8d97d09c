"""Upstash's official rate limiters, unmodified: each of their scripts begins with its own hint."""

import pytest
from upstash_ratelimit import FixedWindow, Ratelimit, SlidingWindow, TokenBucket
from upstash_ratelimit.asyncio import Ratelimit as AsyncRatelimit
from upstash_redis import Redis
from upstash_redis.asyncio import Redis as AsyncRedis

from tests.contract.redis_rest.conftest import Run, Service

DAY_S = 86_400
LIMITERS = [
    FixedWindow(max_requests=2, window=DAY_S),
    SlidingWindow(max_requests=2, window=DAY_S),
    TokenBucket(max_tokens=2, refill_rate=2, interval=DAY_S),
]
Limiter = FixedWindow | SlidingWindow | TokenBucket
BY_NAME = pytest.mark.parametrize("limiter", LIMITERS, ids=lambda limiter: type(limiter).__name__)


@BY_NAME
def test_the_python_limiter_lets_through_as_many_as_it_should(
    service: Service, key: str, limiter: Limiter
) -> None:
    with Redis(service.url, service.token, rest_retries=0, allow_telemetry=False) as redis:
        ratelimit = Ratelimit(redis=redis, limiter=limiter, prefix=key)
        assert [ratelimit.limit("guest").allowed for _ in range(3)] == [True, True, False]
        assert ratelimit.get_remaining("guest") == 0
        assert ratelimit.get_remaining("another guest") == 2


@BY_NAME
@pytest.mark.anyio
async def test_the_python_limiter_does_so_in_asyncio(
    service: Service, key: str, limiter: Limiter
) -> None:
    async with AsyncRedis(service.url, service.token, rest_retries=0) as redis:
        ratelimit = AsyncRatelimit(redis=redis, limiter=limiter, prefix=key)
        answers = [await ratelimit.limit("guest") for _ in range(3)]
        assert [answer.allowed for answer in answers] == [True, True, False]


def test_the_javascript_limiter_lets_through_as_many_as_it_should(run: Run) -> None:
    script = """
    import { MultiRegionRatelimit, Ratelimit } from "@upstash/ratelimit";
    const kinds = {
      fixed: [Ratelimit, "fixedWindow", 2, "1 d"],
      sliding: [Ratelimit, "slidingWindow", 2, "1 d"],
      bucket: [Ratelimit, "tokenBucket", 2, "1 d", 2],
      cached: [Ratelimit, "cachedFixedWindow", 2, "1 d"],
      regions: [MultiRegionRatelimit, "fixedWindow", 2, "1 d"],
      slidingRegions: [MultiRegionRatelimit, "slidingWindow", 2, "1 d"],
    };
    const found = {};
    for (const [name, [Limit, kind, ...numbers]] of Object.entries(kinds)) {
      const limit = new Limit({
        redis: Limit === Ratelimit ? redis : [redis],
        limiter: Limit[kind](...numbers),
        prefix: `${key}:${name}`,
        ephemeralCache: name === "cached" ? new Map() : false,
        timeout: 0,  // else an error of Redis lets everybody through
      });
      const passed = [];
      for (let n = 0; n < 3; n++) passed.push((await limit.limit("guest")).success);
      const { remaining } = await limit.getRemaining("guest");
      await limit.resetUsedTokens("guest");
      found[name] = [...passed, remaining, (await limit.limit("guest")).success];
    }
    done(found);
    """
    names = ["fixed", "sliding", "bucket", "cached", "regions", "slidingRegions"]
    assert run(script) == {name: [True, True, False, 0, True] for name in names}
