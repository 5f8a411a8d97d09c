"""Every method of both official SDKs works, or is in the table of what is missing."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from upstash_redis import Redis
from upstash_redis.errors import UpstashError

from longtask_kit.local.redis import app as redis_rest
from tests.contract.redis_rest.conftest import TOKEN, Run, Service

README = (Path(redis_rest.__file__).parents[1] / "README.md").read_text()
SOON = 9_999_999_999
NO_COMMAND = {"close", "execute", "from_env", "json", "multi", "noted", "pipeline", "search"}
ENGINE_LACKS = {"xackdel", "xdelex"}


def calls(r: Redis, k: str, sha: str) -> list[Callable[[], object]]:
    """Return a call of every method, each after what it needs."""
    return [
        # strings
        lambda: r.set(k, "1", ex=100),
        lambda: r.get(k),
        lambda: r.append(k, "2"),
        lambda: r.decr(k),
        lambda: r.decrby(k, 2),
        lambda: r.incr(k),
        lambda: r.incrby(k, 2),
        lambda: r.incrbyfloat(k, 0.5),
        lambda: r.getex(k, ex=100),
        lambda: r.getrange(k, 0, 1),
        lambda: r.substr(k, 0, 1),
        lambda: r.getset(k, "x"),
        lambda: r.setrange(k, 1, "y"),
        lambda: r.strlen(k),
        lambda: r.mset({k: "1", f"{k}2": "2"}),
        lambda: r.mget(k, f"{k}2"),
        lambda: r.msetnx({k: "1"}),
        lambda: r.setex(k, 100, "x"),
        lambda: r.setnx(k, "x"),
        lambda: r.psetex(k, 100_000, "x"),
        # keys
        lambda: r.exists(k),
        lambda: r.expire(k, 100),
        lambda: r.expireat(k, SOON),
        lambda: r.pexpire(k, 100_000),
        lambda: r.pexpireat(k, SOON * 1000),
        lambda: r.ttl(k),
        lambda: r.pttl(k),
        lambda: r.persist(k),
        lambda: r.type(k),
        lambda: r.touch(k),
        lambda: r.copy(k, f"{k}3"),
        lambda: r.rename(f"{k}3", f"{k}4"),
        lambda: r.renamenx(f"{k}4", f"{k}3"),
        lambda: r.unlink(f"{k}3"),
        lambda: r.delete(f"{k}2"),
        lambda: r.keys(f"{k}*"),
        lambda: r.randomkey(),
        lambda: r.scan(0),
        lambda: r.dbsize(),
        lambda: r.getdel(k),
        # bits
        lambda: r.setbit(f"{k}b", 7, 1),
        lambda: r.getbit(f"{k}b", 7),
        lambda: r.bitcount(f"{k}b"),
        lambda: r.bitpos(f"{k}b", 1),
        lambda: r.bitop("AND", f"{k}c", f"{k}b"),
        lambda: r.bitfield(f"{k}b").get("u8", 0).execute(),
        lambda: r.bitfield_ro(f"{k}b").get("u8", 0).execute(),
        # hashes
        lambda: r.hset(f"{k}h", "a", "1"),
        lambda: r.hset(f"{k}h", values={"b": 2, "c": 3}),
        lambda: r.hget(f"{k}h", "a"),
        lambda: r.hgetall(f"{k}h"),
        lambda: r.hexists(f"{k}h", "a"),
        lambda: r.hincrby(f"{k}h", "a", 1),
        lambda: r.hincrbyfloat(f"{k}h", "a", 0.5),
        lambda: r.hkeys(f"{k}h"),
        lambda: r.hlen(f"{k}h"),
        lambda: r.hmget(f"{k}h", "a", "b"),
        lambda: r.hmset(f"{k}h", {"d": 1}),
        lambda: r.hrandfield(f"{k}h", 2, withvalues=True),
        lambda: r.hscan(f"{k}h", 0),
        lambda: r.hsetnx(f"{k}h", "e", 1),
        lambda: r.hstrlen(f"{k}h", "a"),
        lambda: r.hvals(f"{k}h"),
        lambda: r.hexpire(f"{k}h", "a", 100),
        lambda: r.hexpireat(f"{k}h", "a", SOON),
        lambda: r.hpexpire(f"{k}h", "a", 100_000),
        lambda: r.hpexpireat(f"{k}h", "a", SOON * 1000),
        lambda: r.hexpiretime(f"{k}h", "a"),
        lambda: r.hpexpiretime(f"{k}h", "a"),
        lambda: r.httl(f"{k}h", "a"),
        lambda: r.hpttl(f"{k}h", "a"),
        lambda: r.hpersist(f"{k}h", "a"),
        lambda: r.hgetex(f"{k}h", "a", ex=100),
        lambda: r.hsetex(f"{k}h", "f", 1, ex=100),
        lambda: r.hgetdel(f"{k}h", "f"),
        lambda: r.hdel(f"{k}h", "a"),
        # lists
        lambda: r.lpush(f"{k}l", "a", "b"),
        lambda: r.rpush(f"{k}l", "c", "d"),
        lambda: r.lpushx(f"{k}l", "e"),
        lambda: r.rpushx(f"{k}l", "f"),
        lambda: r.lindex(f"{k}l", 0),
        lambda: r.linsert(f"{k}l", "BEFORE", "a", "x"),
        lambda: r.llen(f"{k}l"),
        lambda: r.lmove(f"{k}l", f"{k}m"),
        lambda: r.lpos(f"{k}l", "a"),
        lambda: r.lrange(f"{k}l", 0, -1),
        lambda: r.lrem(f"{k}l", 1, "x"),
        lambda: r.lset(f"{k}l", 0, "y"),
        lambda: r.rpoplpush(f"{k}l", f"{k}m"),
        lambda: r.lpop(f"{k}l"),
        lambda: r.rpop(f"{k}l"),
        lambda: r.ltrim(f"{k}l", 0, 1),
        # sets
        lambda: r.sadd(f"{k}s", "a", "b", "c"),
        lambda: r.scard(f"{k}s"),
        lambda: r.sdiff(f"{k}s", f"{k}t"),
        lambda: r.sdiffstore(f"{k}t", f"{k}s"),
        lambda: r.sinter(f"{k}s", f"{k}t"),
        lambda: r.sinterstore(f"{k}u", f"{k}s", f"{k}t"),
        lambda: r.sunion(f"{k}s", f"{k}t"),
        lambda: r.sunionstore(f"{k}u", f"{k}s", f"{k}t"),
        lambda: r.sismember(f"{k}s", "a"),
        lambda: r.smembers(f"{k}s"),
        lambda: r.smismember(f"{k}s", "a", "z"),
        lambda: r.smove(f"{k}s", f"{k}t", "a"),
        lambda: r.srandmember(f"{k}s"),
        lambda: r.srem(f"{k}s", "b"),
        lambda: r.sscan(f"{k}s"),
        lambda: r.spop(f"{k}s"),
        # sorted sets
        lambda: r.zadd(f"{k}z", {"a": 1, "b": 2.5, "c": 3, "d": 4, "e": 5, "f": 6}),
        lambda: r.zcard(f"{k}z"),
        lambda: r.zcount(f"{k}z", 0, 9),
        lambda: r.zdiff([f"{k}z"]),
        lambda: r.zdiffstore(f"{k}y", [f"{k}z"]),
        lambda: r.zincrby(f"{k}z", 1, "a"),
        lambda: r.zinter([f"{k}z", f"{k}y"], withscores=True),
        lambda: r.zinterstore(f"{k}x", [f"{k}z", f"{k}y"]),
        lambda: r.zlexcount(f"{k}z", "-", "+"),
        lambda: r.zmscore(f"{k}z", ["a", "q"]),
        lambda: r.zrandmember(f"{k}z", 2, withscores=True),
        lambda: r.zrange(f"{k}z", 0, -1, withscores=True),
        lambda: r.zrangebylex(f"{k}z", "-", "+"),
        lambda: r.zrangebyscore(f"{k}z", 0, 9),
        lambda: r.zrangestore(f"{k}w", f"{k}z", 0, -1),
        lambda: r.zrank(f"{k}z", "a"),
        lambda: r.zrevrange(f"{k}z", 0, -1),
        lambda: r.zrevrangebylex(f"{k}z", "+", "-"),
        lambda: r.zrevrangebyscore(f"{k}z", 9, 0),
        lambda: r.zrevrank(f"{k}z", "a"),
        lambda: r.zscan(f"{k}z", 0),
        lambda: r.zscore(f"{k}z", "a"),
        lambda: r.zunion([f"{k}z", f"{k}y"]),
        lambda: r.zunionstore(f"{k}x", [f"{k}z", f"{k}y"]),
        lambda: r.zpopmax(f"{k}z"),
        lambda: r.zpopmin(f"{k}z"),
        lambda: r.zrem(f"{k}z", "b"),
        lambda: r.zremrangebylex(f"{k}y", "[a", "[a"),
        lambda: r.zremrangebyrank(f"{k}y", 0, 0),
        lambda: r.zremrangebyscore(f"{k}y", 0, 9),
        # places and estimates
        lambda: r.geoadd(f"{k}g", (13.361389, 38.115556, "Palermo"), (15.08, 37.5, "Catania")),
        lambda: r.geodist(f"{k}g", "Palermo", "Catania"),
        lambda: r.geohash(f"{k}g", "Palermo"),
        lambda: r.geopos(f"{k}g", "Palermo", "none"),
        lambda: r.georadius(f"{k}g", 15, 37, 200, "KM", withdist=True),
        lambda: r.georadius_ro(f"{k}g", 15, 37, 200, "KM"),
        lambda: r.georadiusbymember(f"{k}g", "Palermo", 200, "KM"),
        lambda: r.georadiusbymember_ro(f"{k}g", "Palermo", 200, "KM", withcoord=True),
        lambda: r.geosearch(f"{k}g", member="Palermo", radius=200, unit="KM", withhash=True),
        lambda: r.geosearchstore(f"{k}f", f"{k}g", member="Palermo", radius=200, unit="KM"),
        lambda: r.pfadd(f"{k}p", "a"),
        lambda: r.pfcount(f"{k}p"),
        lambda: r.pfmerge(f"{k}q", f"{k}p"),
        # streams
        lambda: r.xadd(f"{k}e", "1-1", {"a": 1}),
        lambda: r.xadd(f"{k}e", "1-2", {"a": 2}, maxlen=9),
        lambda: r.xlen(f"{k}e"),
        lambda: r.xrange(f"{k}e"),
        lambda: r.xrevrange(f"{k}e"),
        lambda: r.xread({f"{k}e": "0"}),
        lambda: r.xgroup_create(f"{k}e", "g", "0"),
        lambda: r.xgroup_createconsumer(f"{k}e", "g", "c"),
        lambda: r.xgroup_setid(f"{k}e", "g", "0"),
        lambda: r.xreadgroup("g", "c", {f"{k}e": ">"}),
        lambda: r.xpending(f"{k}e", "g"),
        lambda: r.xclaim(f"{k}e", "g", "d", 0, "1-1"),
        lambda: r.xautoclaim(f"{k}e", "g", "c", 0, "0"),
        lambda: r.xinfo_groups(f"{k}e"),
        lambda: r.xinfo_consumers(f"{k}e", "g"),
        lambda: r.xack(f"{k}e", "g", "1-1"),
        lambda: r.xgroup_delconsumer(f"{k}e", "g", "d"),
        lambda: r.xgroup_destroy(f"{k}e", "g"),
        lambda: r.xdel(f"{k}e", "1-1"),
        lambda: r.xtrim(f"{k}e", maxlen=0, approximate=False),
        # scripts, channels, the connection
        lambda: r.script_load("return {KEYS[1], ARGV[1]}"),
        lambda: r.script_exists(sha),
        lambda: r.eval("return KEYS[1]", [k]),
        lambda: r.eval_ro("return KEYS[1]", [k]),
        lambda: r.evalsha(sha, [k], ["x"]),
        lambda: r.evalsha_ro(sha, [k], ["x"]),
        lambda: r.publish(k, "x"),
        lambda: r.ping("x"),
        lambda: r.echo("x"),
        lambda: r.time(),
        lambda: r.client_setinfo("LIB-NAME", "x"),
    ]


def flushes(r: Redis) -> list[Callable[[], object]]:
    return [lambda: r.script_flush(), lambda: r.flushdb("SYNC"), lambda: r.flushall()]


class Noting(Redis):
    """The SDK, with a set of the methods that were called."""

    noted: set[str]

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        if not name.startswith("_"):
            super().__getattribute__("__dict__").setdefault("noted", set()).add(name)
        return super().__getattribute__(name)


def test_every_method_of_the_python_sdk_works(service: Service, key: str) -> None:
    r = Noting(service.url, service.token, rest_retries=0)
    with r:
        sha = r.script_load("return {KEYS[1], ARGV[1]}")
        is_ours = service.token == TOKEN
        for call in [*calls(r, key, sha), *(flushes(r) if is_ours else [])]:
            call()
        methods = {name for name in dir(Redis) if not name.startswith("_")}
        flushing = set() if is_ours else {"flushall", "flushdb", "script_flush"}
        assert methods - r.noted - NO_COMMAND - flushing == ENGINE_LACKS


def test_what_the_engine_lacks_is_refused_through_the_python_sdk(sdk: Redis) -> None:
    with pytest.raises(UpstashError, match="ERR unknown command 'XACKDEL'"):
        sdk.xackdel("k", "g", "1-1")
    with pytest.raises(UpstashError, match="ERR unknown command 'XDELEX'"):
        sdk.xdelex("k", "1-1")
    with pytest.raises(UpstashError, match=r"ERR unknown command 'JSON\.SET'"):
        sdk.json.set("k", "$", 1)


JS_CALLS = Path(__file__).with_name("every_command.mjs").read_text()


def test_every_method_of_the_javascript_sdk_works_but_those_in_the_table(
    run: Run, service: Service
) -> None:
    """The script tells each method that failed, and each that it does not call."""
    answer = run(JS_CALLS)
    assert answer["uncalled"] == []
    if service.token != TOKEN:
        return
    failed = answer["failed"]
    lacking = {name for name, text in failed.items() if "unknown command" in text}
    assert {name: text for name, text in failed.items() if name not in lacking} == {}
    for name in lacking:
        command = name.upper()
        family = "AR*" if command.startswith("AR") else command
        assert f"`{family}`" in README, f"{name} is not in the table of what is missing"


def test_the_table_lists_what_no_sdk_method_reaches(http: httpx.Client) -> None:
    """Both ways: what it says is missing is missing in the embedded engine."""
    [row] = [line for line in README.splitlines() if "the engine has none" in line]
    names = re.findall(r"`([A-Z0-9.*]+)`", row.split("|")[1])
    assert {"JSON.*", "SEARCH.*", "VECTOR.*", "AR*", "XACKDEL", "XDELEX"} <= {*names}
    known = http.post("/", json=["COMMAND", "LIST"]).json()["result"]
    for name in names:
        stem = name.rstrip("*").lower()
        if name.endswith("*"):
            assert not [command for command in known if command.startswith(stem)]
        elif name not in ("BITOP", "DIFF", "DIFF1", "ANDOR", "ONE"):
            assert stem not in known
