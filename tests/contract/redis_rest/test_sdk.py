"""Through the official Python SDK, sync and async, unmodified; local and hosted."""

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upstash_redis import Redis
from upstash_redis.asyncio import Redis as AsyncRedis
from upstash_redis.errors import UpstashError

from tests.contract.redis_rest.conftest import HOSTED, HOSTED_NAMES, Service


@pytest.fixture
def client(service: Service) -> Iterator[Redis]:
    with Redis(service.url, service.token, rest_retries=0, allow_telemetry=False) as client:
        yield client


def test_a_hosted_database_is_tested_too() -> None:
    if HOSTED is None:
        pytest.skip(f"{' and '.join(HOSTED_NAMES)} are not set: only the local service is tested")


def test_the_sdk_reads_what_it_wrote_in_any_language(client: Redis, key: str) -> None:
    assert client.set(key, "长江 🌊\nOK")
    assert client.get(key) == "长江 🌊\nOK"
    assert client.get(f"{key}:none") is None


def test_the_text_ok_is_a_value_like_any_other(client: Redis, key: str) -> None:
    client.set(key, "OK")
    assert client.get(key) == "OK"
    assert client.mget(key, f"{key}:none") == ["OK", None]


def test_objects_numbers_and_booleans_are_stored_as_the_sdk_writes_them(
    client: Redis, key: str
) -> None:
    values: dict[str, Any] = {"o": {"a": [1, None]}, "f": 1.5, "b": True, "i": 7}
    client.mset({f"{key}:{name}": value for name, value in values.items()})
    assert client.mget(*(f"{key}:{name}" for name in values)) == [
        '{"a": [1, null]}',
        "1.5",
        "true",
        "7",
    ]


def test_strings_and_keys_answer_in_the_sdks_types(client: Redis, key: str) -> None:
    assert client.set(key, "1", nx=True, ex=100)
    assert not client.set(key, "2", nx=True)
    assert client.incrbyfloat(key, 0.5) == 1.5
    assert 0 < client.ttl(key) <= 100
    assert client.type(key) == "string"
    assert client.copy(key, f"{key}:2") is True
    assert client.exists(key, f"{key}:2") == 2
    assert client.unlink(f"{key}:2") == 1
    seconds, microseconds = client.time()
    assert (type(seconds), type(microseconds)) == (int, int)


def test_hashes_lists_sets_and_sorted_sets_have_their_shapes(client: Redis, key: str) -> None:
    h, many, s, z = (f"{key}:{name}" for name in "hlsz")
    client.hset(h, values={"a": "1", "b": "två"})
    assert client.hgetall(h) == {"a": "1", "b": "två"}
    assert client.hscan(h, 0)[0] == 0
    assert client.hrandfield(h, 2, withvalues=True) == {"a": "1", "b": "två"}
    assert client.rpush(many, "a", "b") == 2
    assert client.lrange(many, 0, -1) == ["a", "b"]
    assert client.lpos(many, "b") == 1
    client.sadd(s, "m")
    assert (client.sismember(s, "m"), client.smismember(s, "m", "n")) == (True, [True, False])
    client.zadd(z, {"m": 1.5, "n": 2})
    assert client.zrange(z, 0, -1, withscores=True) == [("m", 1.5), ("n", 2.0)]
    assert client.zscore(z, "m") == 1.5
    assert client.zincrby(z, 1, "m") == 2.5


def test_scan_finds_every_key(client: Redis, key: str) -> None:
    names = {f"{key}:{number}" for number in range(30)}
    client.mset(dict.fromkeys(names, "x"))
    found, cursor, first = set[str](), 0, True
    while cursor or first:
        first = False
        cursor, keys = client.scan(cursor, match=f"{key}:*", count=1000)
        found |= set(keys)
    assert found == names


def test_places_bits_and_estimates(client: Redis, key: str) -> None:
    client.geoadd(f"{key}:g", (13.361389, 38.115556, "Palermo"), (15.087269, 37.502669, "Catania"))
    distance = client.geodist(f"{key}:g", "Palermo", "Catania", "KM")
    assert distance is not None
    assert round(distance) == 166
    [position, none] = client.geopos(f"{key}:g", "Palermo", "nowhere")
    assert none is None
    assert position is not None
    assert round(position[0]) == 13
    assert client.setbit(f"{key}:b", 7, 1) == 0
    assert client.bitcount(f"{key}:b") == 1
    assert client.bitfield(f"{key}:b").set("u8", 0, 255).get("u8", 0).execute() == [1, 255]
    assert client.pfadd(f"{key}:p", "a", "b") is True
    assert client.pfcount(f"{key}:p") == 2


def test_fields_of_a_hash_expire(client: Redis, key: str) -> None:
    client.hset(key, values={"a": "1", "b": "2"})
    assert client.hexpire(key, ["a", "none"], 100) == [1, -2]
    remaining: object = client.hpersist(key, ["a", "b"])
    assert remaining == [1, -1]


def test_a_stream_is_added_to_and_read(client: Redis, key: str) -> None:
    assert client.xadd(key, "1-1", {"data": "a"}) == "1-1"
    client.xadd(key, "1-2", {"data": "b"})
    ranged: object = client.xrange(key, "(1-1", "+")
    assert ranged == [["1-2", ["data", "b"]]]
    read: object = client.xread({key: "1-1"})
    assert read == [[key, [["1-2", ["data", "b"]]]]]
    assert client.xread({key: "9-9"}) == []
    with pytest.raises(UpstashError, match="equal or smaller"):
        client.xadd(key, "1-1", {"data": "again"})


def test_a_consumer_group_reads_claims_and_acknowledges(client: Redis, key: str) -> None:
    client.xgroup_create(key, "g", "$", mkstream=True)
    for number in (1, 2):
        client.xadd(key, f"1-{number}", {"n": number})
    read: Any = client.xreadgroup("g", "first", {key: ">"})
    assert [entry[0] for entry in read[0][1]] == ["1-1", "1-2"]
    pending: Any = client.xpending(key, "g")
    assert pending[0] == 2
    claimed: Any = client.xclaim(key, "g", "second", 0, "1-1")
    assert claimed == [["1-1", ["n", "1"]]]
    assert client.xack(key, "g", "1-1", "1-2") == 2
    [group] = client.xinfo_groups(key)
    assert group[:4] == ["name", "g", "consumers", 2]


def test_scripts_run_by_source_and_by_sha(client: Redis, key: str) -> None:
    script = f"return {{KEYS[1], ARGV[1], 3}} -- {key}"  # no other test knows it
    sha = hashlib.sha1(script.encode()).hexdigest()  # noqa: S324 - Redis' own choice
    with pytest.raises(UpstashError) as caught:
        client.evalsha(sha, keys=["k"], args=["v"])
    assert str(caught.value) == "NOSCRIPT No matching script. Please use EVAL."
    assert client.eval(script, keys=["k"], args=["v"]) == ["k", "v", 3]
    assert client.evalsha(sha, keys=["k"], args=["v"]) == ["k", "v", 3]
    assert client.script_load(script) == sha
    assert client.script_exists(sha) == [True]
    assert client.script_load("return ARGV[1]") == "098e0f0d1448c0a81dafe820f66d460eb09263da"
    assert client.eval_ro("return ARGV[1]", args=["v"]) == "v"
    with pytest.raises(UpstashError):
        client.eval_ro("return redis.call('SET', KEYS[1], 'x')", keys=[key])


def test_a_pipeline_and_a_transaction_answer_in_order(client: Redis, key: str) -> None:
    for batch in (client.pipeline(), client.multi()):
        batch.set(key, 1).incr(key).get(key)
        assert batch.exec() == [True, 2, "2"]


def test_an_error_in_a_pipeline_is_raised_and_the_others_have_run(client: Redis, key: str) -> None:
    batch = client.pipeline()
    batch.set(key, "x").incr(key).append(key, "y")
    with pytest.raises(UpstashError, match="not an integer or out of range"):
        batch.exec()
    assert client.get(key) == "xy"


def test_a_slash_at_the_end_of_the_url_does_no_harm(service: Service) -> None:
    with Redis(f"{service.url}/", service.token, rest_retries=0) as client:
        pipeline = client.pipeline()
        pipeline.ping()
        assert pipeline.exec() == ["PONG"]


def test_a_wrong_token_is_told(service: Service) -> None:
    with (
        Redis(service.url, "wrong", rest_retries=0) as client,
        pytest.raises(UpstashError, match=r"WRONGPASS|Unauthorized"),
    ):
        client.ping()


def test_nobody_listens_to_a_new_channel(client: Redis, key: str) -> None:
    assert client.publish(key, "x") == 0


def test_the_asyncio_sdk_runs_many_calls_at_once(service: Service, key: str) -> None:
    async def run() -> list[str | None]:
        async with AsyncRedis(service.url, service.token, rest_retries=0) as client:
            await asyncio.gather(*(client.set(f"{key}:{n}", n) for n in range(50)))
            return list(await asyncio.gather(*(client.get(f"{key}:{n}") for n in range(50))))

    assert asyncio.run(run()) == [str(n) for n in range(50)]


def test_the_asyncio_sdk_pipelines_too(service: Service, key: str) -> None:
    async def run() -> list[object]:
        async with AsyncRedis(service.url, service.token, rest_retries=0) as client:
            answers: list[object] = []
            for batch in (client.pipeline(), client.multi()):
                batch.set(key, 1).incr(key).get(key)
                answers += await batch.exec()
            return answers

    assert asyncio.run(run()) == [True, 2, "2"] * 2


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_any_text_survives_set_and_get(client: Redis, key: str, name: str, value: str) -> None:
    client.set(key + name, value)
    assert client.get(key + name) == value
