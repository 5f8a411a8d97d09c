"""After each test: no key of ours without a time to live."""

from collections.abc import Iterator

import pytest
from upstash_redis import Redis

import longtask_kit as lt

_KEYS_FOR_EVER = """
local found = {}
for _, key in ipairs(redis.call('KEYS', 'longtask:*')) do
  if redis.call('TTL', key) < 0 then found[#found + 1] = key end
end
return found
"""


@pytest.fixture
def redis(stack: lt.LocalStack) -> Iterator[Redis]:
    """The official SDK, looking at what the kit wrote."""
    environment = stack.environment
    with Redis(
        environment["UPSTASH_REDIS_REST_URL"], environment["UPSTASH_REDIS_REST_TOKEN"]
    ) as client:
        yield client


@pytest.fixture(autouse=True)
def _no_key_lives_for_ever(redis: Redis) -> Iterator[None]:
    yield
    assert redis.eval(_KEYS_FOR_EVER) == []
