"""The pure half of a cluster: where a command goes, and one answer out of several."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from longtask_kit.local.redis.commands import CommandFacts, read_facts
from longtask_kit.local.redis.resp import Failure, Reply
from longtask_kit.local.redis.slots import Part, merge, needs_key_lookup, slots_of, split

NODES = 3
GET = CommandFacts(True, 1, 1, 1)
FACTS = {
    b"GET": GET,
    b"MGET": CommandFacts(True, 1, -1, 1, request=b"multi_shard"),
    b"DEL": CommandFacts(False, 1, -1, 1, request=b"multi_shard", response=b"agg_sum"),
    b"DBSIZE": CommandFacts(True, 0, 0, 0, request=b"all_shards", response=b"agg_sum"),
    b"KEYS": CommandFacts(True, 0, 0, 0, request=b"all_shards"),
    b"FLUSHALL": CommandFacts(False, 0, 0, 0, request=b"all_shards", response=b"all_succeeded"),
    b"RANDOMKEY": CommandFacts(True, 0, 0, 0, request=b"all_shards", response=b"special"),
    b"WAIT": CommandFacts(False, 0, 0, 0, request=b"all_shards", response=b"agg_min"),
    b"SCRIPT EXISTS": CommandFacts(
        True, 0, 0, 0, request=b"all_shards", response=b"agg_logical_and"
    ),
    b"SCRIPT KILL": CommandFacts(False, 0, 0, 0, request=b"all_shards", response=b"one_succeeded"),
    b"XREAD": CommandFacts(True, 0, 0, 0, moves_keys=True),
    b"PUBLISH": CommandFacts(False, 0, 0, 0),
}
KEYS = st.lists(st.binary(max_size=8), min_size=1, max_size=12)


@given(KEYS)
def test_many_keys_are_read_as_from_one_server(keys: list[bytes]) -> None:
    values: dict[bytes, Reply] = {key: b"value of " + key for key in keys[::2]}
    command = [b"MGET", *keys]
    parts = split(command, FACTS, keys, NODES)
    for part in parts:
        assert len(slots_of(part.command[1:])) == 1
    replies: list[Reply] = [[values.get(key) for key in part.command[1:]] for part in parts]
    assert merge(command, FACTS, parts, replies, NODES) == [values.get(key) for key in keys]


@given(st.lists(st.lists(st.binary(min_size=1), max_size=9), min_size=1, max_size=5))
def test_one_scan_goes_through_all_nodes_and_ends(nodes: list[list[bytes]]) -> None:
    """Each node's own cursor is the number of keys it gave, 0 at its end."""
    found, cursor = list[bytes](), b"0"
    for _ in range(100):
        command = [b"SCAN", cursor, b"COUNT", b"2"]
        [part] = split(command, FACTS, [], len(nodes))
        assert part.node is not None
        keys, own = nodes[part.node], int(part.command[1])
        following = own + 2 if own + 2 < len(keys) else 0
        reply: Reply = [b"%d" % following, [*keys[own : own + 2]]]
        answer = merge(command, FACTS, [part], [reply], len(nodes))
        assert isinstance(answer, list)
        cursor, page = answer  # type: ignore[assignment]
        found += page  # type: ignore[arg-type]
        if cursor == b"0":
            break
    assert cursor == b"0"
    assert found == [key for keys in nodes for key in keys]


@pytest.mark.parametrize(
    ("command", "keys", "parts"),
    [
        (b"GET a", b"a", [Part([b"GET", b"a"], key_slot(b"a"))]),
        (b"DEL {x}1 {x}2", b"{x}1 {x}2", [Part([b"DEL", b"{x}1", b"{x}2"], key_slot(b"x"))]),
        (b"PUBLISH c m", b"", [Part([b"PUBLISH", b"c", b"m"])]),
        (b"NOPE", b"", [Part([b"NOPE"])]),
        (b"SCAN nonsense", b"", [Part([b"SCAN", b"nonsense"], node=0)]),
        (b"dbsize", b"", [Part([b"dbsize"], node=node) for node in range(NODES)]),
    ],
)
def test_a_command_goes_where_its_keys_are(command: bytes, keys: bytes, parts: list[Part]) -> None:
    assert split(command.split(), FACTS, keys.split(), NODES) == parts


OUCH = Failure(b"ERR ouch")


@pytest.mark.parametrize(
    ("command", "replies", "answer"),
    [
        (b"DBSIZE", [1, 2, 3], 6),
        (b"DBSIZE", [1, OUCH, 3], OUCH),
        (b"KEYS *", [[b"a"], [], [b"b"]], [b"a", b"b"]),
        (b"FLUSHALL", [b"OK", b"OK", b"OK"], b"OK"),
        (b"RANDOMKEY", [None, b"k", b"l"], b"k"),
        (b"RANDOMKEY", [None, None, None], None),
        (b"WAIT 1 1", [2, 0, 1], 0),
        (b"SCRIPT EXISTS a b", [[1, 0], [1, 1], [1, 1]], [1, 0]),
        (b"SCRIPT KILL", [OUCH, b"OK", OUCH], b"OK"),
        (b"SCRIPT KILL", [OUCH, OUCH, OUCH], OUCH),
    ],
)
def test_several_answers_become_one(command: bytes, replies: list[Reply], answer: Reply) -> None:
    words = command.split()
    parts = split(words, FACTS, [], NODES)
    assert len(parts) == NODES
    assert merge(words, FACTS, parts, replies, NODES) == answer


def test_only_the_engine_knows_the_keys_of_xread() -> None:
    assert needs_key_lookup([b"XREAD", b"STREAMS", b"s", b"0"], FACTS)
    assert not needs_key_lookup([b"GET", b"k"], FACTS)


def test_the_facts_are_read_from_the_engines_table_with_or_without_tips() -> None:
    row: Reply = [b"dbsize", 1, [b"readonly"], 0, 0, 0]
    assert read_facts([row]) == {b"DBSIZE": CommandFacts(True, 0, 0, 0)}
    tips: Reply = [b"request_policy:all_shards", b"response_policy:agg_sum", b"nondeterministic"]
    long_row: Reply = [b"dbsize", 1, [b"readonly"], 0, 0, 0, [b"@fast"], tips, [], []]
    assert read_facts([long_row]) == {
        b"DBSIZE": CommandFacts(True, 0, 0, 0, request=b"all_shards", response=b"agg_sum")
    }
