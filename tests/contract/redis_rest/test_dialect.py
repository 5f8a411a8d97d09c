"""What Upstash's databases understand and Redis does not."""

import hashlib

import httpx
import pytest
from upstash_redis import Redis
from upstash_redis.errors import UpstashError

from longtask_kit.local.redis.dialect import drop_hint, without_type
from tests.contract.redis_rest.test_commands import BASE64, post

HINT = "#!lua flags=allow-key-locking\n"


def sha_of(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


# Scripts


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b"#!lua flags=allow-key-locking", b"--"),
        (b"#!lua  flags=allow-key-locking \r", b"--"),
        (b"#!lua flags=no-writes,allow-key-locking", b"#!lua flags=no-writes"),
        (b"#!lua flags=allow-key-locking,no-writes", b"#!lua flags=no-writes"),
        (b"#!lua flags=a,allow-key-locking,b", b"#!lua flags=a,b"),
        (b"#!lua name=x flags=allow-key-locking", b"#!lua name=x"),
        # Redis' own
        (b"#!lua", b"#!lua"),
        (b"#!lua flags=no-writes", b"#!lua flags=no-writes"),
        (b"#!lua flags=allow-key-locking-too", b"#!lua flags=allow-key-locking-too"),
        (b"-- flags=allow-key-locking", b"-- flags=allow-key-locking"),
        (b" #!lua flags=allow-key-locking", b" #!lua flags=allow-key-locking"),
    ],
)
def test_the_hint_leaves_a_scripts_first_line_and_nothing_else_does(
    first: bytes, expected: bytes
) -> None:
    rest = b"\n-- #!lua flags=allow-key-locking\nreturn 1\n"
    assert drop_hint(first + rest) == expected + rest


def test_a_script_with_the_hint_is_called_by_the_digest_of_what_was_sent(sdk: Redis) -> None:
    script = HINT + "redis.call('SET', KEYS[1], ARGV[1]) return ARGV[1]"
    assert sdk.script_exists(sha_of(script)) == [False]
    with pytest.raises(UpstashError, match="NOSCRIPT No matching script"):
        sdk.evalsha(sha_of(script), ["k"], ["v"])
    assert sdk.eval(script, ["k"], ["v"]) == "v"
    assert sdk.evalsha(sha_of(script), ["k"], [sha_of(script)]) == sha_of(script)
    loaded = script + " -- loaded"
    assert sdk.script_load(loaded) == sha_of(loaded)
    assert sdk.script_exists(sha_of(loaded), sha_of(script), "0" * 40) == [True, True, False]
    assert sdk.evalsha(sha_of(loaded).upper(), ["k"], ["w"]) == "w"
    plain = "--\n" + script.removeprefix(HINT)  # what Redis runs in its place
    assert sdk.script_load(plain) == sha_of(plain)


@pytest.mark.parametrize("flags", ["allow-key-locking", "no-writes,allow-key-locking"])
def test_a_script_with_the_hint_may_be_read_only(sdk: Redis, flags: str) -> None:
    script = f"#!lua flags={flags}\nreturn redis.call('GET', KEYS[1])"
    sdk.set("k", "v")
    assert sdk.eval_ro(script, ["k"]) == "v"
    assert sdk.evalsha_ro(sha_of(script), ["k"]) == "v"
    writes = script.replace("'GET', KEYS[1]", "'SET', KEYS[1], 'x'")
    with pytest.raises(UpstashError, match="Write commands are not allowed"):
        sdk.eval_ro(writes, ["k"])


def test_a_script_with_the_hint_tells_the_line_of_its_error(http: httpx.Client) -> None:
    answer = post(http, "EVAL", HINT + "local a = 1\nreturn redis.call('NOPE')", 0)
    assert "user_script:3" in answer["error"]


@pytest.mark.parametrize("path", ["/pipeline", "/multi-exec"])
def test_scripts_with_the_hint_run_in_pipelines_and_transactions(
    http: httpx.Client, sdk: Redis, path: str
) -> None:
    assert sdk.dbsize() == 0
    first, second = (f"{HINT}return {{KEYS[1], ARGV[1]}} -- {path} {n}" for n in (1, 2))
    rows = [
        ["EVAL", first, 1, "k", "a"],
        ["SCRIPT", "LOAD", second],
        ["EVALSHA", sha_of(second), 1, "k", "b"],
        ["eval_ro", second, "1", "k", "c"],
        ["script", "exists", sha_of(first), sha_of(second)],
    ]
    expected: list[object] = [["k", "a"], sha_of(second), ["k", "b"], ["k", "c"], [1, 1]]
    assert http.post(path, json=rows).json() == [{"result": value} for value in expected]


# Scans


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("SCAN 0 WITHTYPE", "SCAN 0"),
        ("scan 0 match a* withtype count 9", "scan 0 match a* count 9"),
        ("SCAN 0 MATCH withtype", "SCAN 0 MATCH withtype"),
        ("SCAN 0 MATCH withtype WITHTYPE", "SCAN 0 MATCH withtype"),
        ("SCAN 0 TYPE hash", "SCAN 0 TYPE hash"),
        ("SCAN", "SCAN"),
        ("SCAN WITHTYPE", "SCAN WITHTYPE"),
    ],
)
def test_the_type_is_asked_for_by_a_word_that_is_no_options_value(
    command: str, expected: str
) -> None:
    assert without_type(command.encode().split()) == expected.encode().split()


def test_a_scan_with_types_answers_key_and_type_by_turns(http: httpx.Client, sdk: Redis) -> None:
    sdk.set("only", "x")
    command = ["SCAN", "0", "MATCH", "only", "COUNT", "100", "WITHTYPE"]
    expected = {"result": ["0", ["only", "string"]]}
    assert post(http, *command) == expected
    assert http.get("/scan/0/match/only/count/100/withtype").json() == expected
    for path in ("/pipeline", "/multi-exec"):
        assert http.post(path, json=[["PING"], command]).json()[1] == expected
    in_base64 = {"result": ["MA==", ["b25seQ==", "c3RyaW5n"]]}
    assert post(http, *command, **BASE64) == in_base64
    assert post(http, "SCAN", "0", "MATCH", "none", "WITHTYPE") == {"result": ["0", []]}
    assert post(http, "SCAN", "x", "WITHTYPE") == {"error": "ERR invalid cursor"}


# What stays different


def test_other_differences_are_as_the_table_says(http: httpx.Client, sdk: Redis) -> None:
    sdk.set("k", "v")
    same = "ERR source and destination objects are the same"
    assert post(http, "COPY", "k", "k") == {"error": same}
    for _ in range(350):
        sdk.xadd("s", "*", {"a": 1})
    assert post(http, "XINFO", "CONSUMERS", "s", "none")["error"].startswith("NOGROUP ")
    sdk.xgroup_create("s", "g", "0")
    post(http, "XREADGROUP", "GROUP", "g", "c", "NOACK", "STREAMS", "s", ">")
    [consumer] = sdk.xinfo_consumers("s", "g")
    assert consumer[:4] == ["name", "c", "pending", 0]
    sdk.xtrim("s", maxlen=101, approximate=True)
    assert sdk.xlen("s") == 150, "whole blocks of 100 went"
    reads = "redis.register_function('reads', function(keys) return redis.call('GET', keys[1]) end)"
    post(http, "FUNCTION", "LOAD", "REPLACE", f"#!lua name=reads\n{reads}")
    assert "with write flag" in post(http, "FCALL_RO", "reads", 1, "k")["error"]
    assert post(http, "FCALL", "reads", 1, "k") == {"result": "v"}
