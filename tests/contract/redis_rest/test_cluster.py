"""In front of a real cluster of three Valkeys: what is as with a single server, and what is not."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redis.crc import key_slot
from redis.exceptions import RedisError
from upstash_redis import Redis
from upstash_redis.errors import UpstashError

from longtask_kit.local.redis.app import create_redis_rest_app
from longtask_kit.local.redis.engine import Engine
from tests.contract.redis_rest.cluster import Node, node_of
from tests.contract.redis_rest.conftest import TOKEN
from tests.contract.redis_rest.test_commands import post
from tests.contract.redis_rest.test_subscribe import subscribe
from tests.serving import serve
from tests.wait import wait_until

# The second tier, for whoever brings a Redis of their own, is frozen.
pytestmark = pytest.mark.thorough

CROSS_SLOT = "CROSSSLOT Keys in request don't hash to the same slot"
NAMES = [f"key:{number}" for number in range(100)]  # on all nodes


@pytest.fixture
def rest_url(cluster: list[Node], cluster_url: str) -> str:
    """The fixtures `http` and `sdk` speak to the cluster here."""
    return cluster_url


# As a single server would


def test_a_pipeline_over_all_nodes_answers_in_its_order(cluster: list[Node], sdk: Redis) -> None:
    batch = sdk.pipeline()
    for number, name in enumerate(NAMES):
        batch.set(name, number).incr(name)
    assert batch.exec() == [value for n in range(100) for value in (True, n + 1)]
    sizes = [node("DBSIZE") for node in cluster]
    assert all(sizes)
    assert sum(sizes) == 100


def test_an_error_of_one_node_is_one_items(http: httpx.Client, sdk: Redis) -> None:
    rows = [["SET", "a", "x"], ["INCR", "a"], ["SET", "b", "1"], ["INCR", "b"], ["NOPE"]]
    answer = http.post("/pipeline", json=rows).json()
    assert answer[1]["error"].startswith("ERR value is not an integer")
    assert answer[4]["error"].startswith("ERR unknown command 'NOPE'")
    assert [answer[i]["result"] for i in (0, 2, 3)] == ["OK", "OK", 2]


def test_reading_and_deleting_many_keys_asks_all_their_nodes(sdk: Redis) -> None:
    for name in NAMES:
        sdk.set(name, name)
    assert sdk.mget(*NAMES, "none") == [*NAMES, None]
    assert sdk.exists(*NAMES, "none") == 100
    assert sdk.touch(*NAMES) == 100
    assert sdk.delete(*NAMES[:50]) == 50
    assert sdk.unlink(*NAMES) == 50


def test_what_is_about_all_keys_is_about_those_of_all_nodes(sdk: Redis) -> None:
    for name in NAMES:
        sdk.set(name, name)
    assert sdk.dbsize() == 100
    assert sorted(sdk.keys("key:*")) == sorted(NAMES)
    assert sdk.randomkey() in NAMES
    found, cursor, is_first = list[str](), 0, True
    while cursor or is_first:
        is_first = False
        cursor, keys = sdk.scan(cursor, count=7)
        found += keys
    assert sorted(found) == sorted(NAMES)
    sdk.flushdb()
    assert sdk.dbsize() == 0


def test_a_script_is_known_to_all_nodes_once_it_is_loaded(sdk: Redis) -> None:
    sha = sdk.script_load("return {KEYS[1], ARGV[1]} -- cluster")
    assert sdk.script_exists(sha, "0" * 40) == [True, False]
    for name in NAMES[:20]:
        assert sdk.evalsha(sha, keys=[name], args=["x"]) == [name, "x"]


def test_streams_are_found_wherever_their_names_stand(sdk: Redis) -> None:
    for name in NAMES[:9]:
        sdk.xadd(name, "1-1", {"a": name})
        sdk.xgroup_create(name, "g", "0")
        assert sdk.xread({name: "0"}) == [[name, [["1-1", ["a", name]]]]]
        assert sdk.xreadgroup("g", "c", {name: ">"}) == [[name, [["1-1", ["a", name]]]]]
        assert sdk.execute(["ZUNION", 1, f"none:{name}"]) == []


def test_texts_and_statuses_are_told_apart(http: httpx.Client) -> None:
    base64 = {"Upstash-Encoding": "base64"}
    for name in ("a", "b", "c"):
        assert post(http, "SET", name, "OK", **base64) == {"result": "OK"}
        assert post(http, "GET", name, **base64) == {"result": "T0s="}


def test_a_blocking_command_waits_at_its_keys_node(http: httpx.Client) -> None:
    for name in NAMES[:6]:
        post(http, "DEL", name)
        post(http, "RPUSH", name, "x")
        assert post(http, "BLPOP", name, 1) == {"result": [name, "x"]}
        assert post(http, "BLPOP", name, "0.01") == {"result": None}


def test_a_transaction_in_one_slot_is_one_and_over_several_is_refused(
    http: httpx.Client, sdk: Redis
) -> None:
    batch = sdk.multi()
    batch.set("{t}:1", 1).incr("{t}:2").get("{t}:1")
    assert batch.exec() == [True, 1, "1"]
    answer = http.post("/multi-exec", json=[["SET", "{t}:1", 2], ["SET", "other", 2]])
    assert (answer.status_code, answer.json()) == (400, {"error": CROSS_SLOT})
    assert sdk.mget("{t}:1", "other") == ["1", None]


def test_one_command_over_several_slots_is_refused_when_half_of_it_could_fail(sdk: Redis) -> None:
    with pytest.raises(UpstashError, match=CROSS_SLOT):
        sdk.mset({"a": "1", "b": "2"})
    with pytest.raises(UpstashError, match=CROSS_SLOT):
        sdk.rename("a", "b")
    assert sdk.dbsize() == 0


def test_the_sync_token_changes(http: httpx.Client) -> None:
    tokens = {http.post("/", json=["SET", "a", n]).headers["Upstash-Sync-Token"] for n in range(5)}
    assert len(tokens) == 5


# Channels


def test_readers_are_counted_and_hear_what_scripts_of_any_node_publish(
    http: httpx.Client, sdk: Redis, cluster: list[Node]
) -> None:
    with (
        subscribe(http, "/subscribe/news") as events,
        subscribe(http, "/psubscribe/n*") as patterned,
    ):
        assert next(events) == "subscribe,news,1"
        next(patterned)
        assert sdk.publish("news", "one") == 2
        assert sdk.execute(["PUBSUB", "NUMSUB", "news"]) == ["news", 1]
        script = "return redis.call('PUBLISH', 'news', KEYS[1])"
        for name in NAMES[:10]:
            sdk.eval(script, keys=[name])
        heard = [next(events) for _ in range(11)]
        assert sorted(heard) == sorted(f"message,news,{n}" for n in ["one", *NAMES[:10]])
        for node in cluster:
            node("PUBLISH", "news", "from outside")
        assert [next(events) for _ in range(3)] == ["message,news,from outside"] * 3
    wait_until(lambda: sdk.publish("news", "x") == 0)


# Moves and losses


@contextlib.contextmanager
def serving(nodes: list[Node]) -> Iterator[httpx.Client]:
    with serve(create_redis_rest_app(nodes[0].url, token=TOKEN)) as url:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=url, headers=headers) as client:
            assert post(client, "PING") == {"result": "PONG"}
            yield client


def migrate(nodes: list[Node], slot: int, source: Node, target: Node) -> None:
    target("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    source("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)


def finish(slot: int, source: Node, target: Node) -> None:
    for key in source("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    for node in (target, source):
        node("CLUSTER", "SETSLOT", slot, "NODE", target.id)


def test_a_slot_that_moves_is_followed_before_during_and_after(
    moving_cluster: list[Node],
) -> None:
    """To a node that had no slot, which no list of slots names before."""
    nodes = moving_cluster
    slot = nodes[0].client.cluster("KEYSLOT", "{m}")
    source, target = node_of(nodes, "{m}"), nodes[3]
    with serving(nodes) as http:
        post(http, "SET", "{m}:old", "before")
        migrate(nodes, slot, source, target)
        rows = [["SET", "{m}:new", "1"], ["INCR", "{m}:new"], ["GET", "{m}:old"], ["SET", "k", "v"]]
        answers = http.post("/pipeline", json=rows).json()
        assert [answer["result"] for answer in answers] == ["OK", 2, "before", "OK"]
        rows = [["SET", "{m}:t", "1"], ["INCR", "{m}:t"]]
        assert http.post("/multi-exec", json=rows).json() == [{"result": "OK"}, {"result": 2}]
        assert source("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        assert target("CLUSTER", "COUNTKEYSINSLOT", slot) == 2
        finish(slot, source, target)
        rows = [["GET", "{m}:old"], ["GET", "{m}:new"]]
        assert [a["result"] for a in http.post("/multi-exec", json=rows).json()] == ["before", "2"]
        assert [a["result"] for a in http.post("/pipeline", json=rows).json()] == ["before", "2"]
        migrate(nodes, slot, target, source)
        finish(slot, target, source)
        assert post(http, "GET", "{m}:old") == {"result": "before"}


def test_a_text_that_looks_like_a_redirection_leads_nowhere(sdk: Redis, http: httpx.Client) -> None:
    """Else a script could make the service log in at an address of its choice."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        for kind in ("MOVED", "ASK"):
            for slot in (1, key_slot(b"key"), "nonsense"):
                text = f"{kind} {slot} 127.0.0.1:{listener.getsockname()[1]}"
                script = f"return redis.error_reply('{text}')"
                assert post(http, "EVAL", script, 1, "key") == {"error": text}
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_node_that_is_away_costs_only_its_own_keys(moving_cluster: list[Node]) -> None:
    nodes = moving_cluster
    lost = nodes[1]
    with serving(nodes) as http:
        http.post("/pipeline", json=[["SET", name, "x"] for name in NAMES])
        lost.kill()
        items = http.post("/pipeline", json=[["GET", name] for name in NAMES]).json()
        for name, item in zip(NAMES, items, strict=True):
            if node_of(nodes, name) is lost:
                assert item["error"].startswith("ERR Redis did not answer (")
            else:
                assert item == {"result": "x"}
        name = next(name for name in NAMES if node_of(nodes, name) is lost)
        alone = http.post("/", json=["GET", name])
        assert alone.status_code == 500
        assert alone.json()["error"].startswith("ERR Redis did not answer (")
        lost.start()
        wait_until(lambda: post(http, "GET", name) == {"result": "x"})


def test_a_replica_that_takes_over_is_found(moving_cluster: list[Node]) -> None:
    nodes = moving_cluster
    lost, replica = nodes[2], nodes[3]
    name = next(name for name in NAMES if node_of(nodes, name) is lost)
    with serving(nodes) as http:
        replica("CLUSTER", "REPLICATE", lost.id)
        post(http, "SET", name, "x")
        wait_until(lambda: replica("DBSIZE") == 1)
        lost.kill()
        replica("CLUSTER", "FAILOVER", "TAKEOVER")
        wait_until(lambda: post(http, "GET", name) == {"result": "x"})
        assert post(http, "SET", name, "y") == {"result": "OK"}


def test_a_cluster_behind_a_database_number_is_an_error_that_says_so(cluster: list[Node]) -> None:
    async def work() -> Any:  # noqa: ANN401
        engine = Engine(f"{cluster[0].url}/3")
        try:
            return await engine.run([[b"PING"]])
        finally:
            engine.close()

    with pytest.raises(RedisError, match="DB index"):
        asyncio.run(work())
