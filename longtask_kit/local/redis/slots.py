"""Where in a Redis cluster a command runs, and how the answers of several nodes become one.

The engine itself says it, in the tips of its `COMMAND` table: `request_policy`, `response_policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.crc import key_slot

from longtask_kit.local.redis.commands import find_facts, keys_of
from longtask_kit.local.redis.resp import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.local.redis.commands import CommandFacts
    from longtask_kit.local.redis.resp import Command, Reply

# Redis' own text, for what no node could say as the keys are not in one transaction.
CROSS_SLOT = Failure(b"CROSSSLOT Keys in request don't hash to the same slot")
# Split by their keys; MSET is not, since half of it could fail.
_SPLIT = frozenset({b"DEL", b"EXISTS", b"MGET", b"TOUCH", b"UNLINK"})


@dataclass(frozen=True, slots=True)
class Part:
    """What one node is asked.

    Attributes:
        command: The command for it.
        slot: Whose node that is; None is the node of whatever has no key.
        node: Number of the node instead, in the order of all.
    """

    command: Command
    slot: int | None = None
    node: int | None = None


def needs_key_lookup(command: Command, facts: Mapping[bytes, CommandFacts]) -> bool:
    """Return whether only the engine can tell a command's keys, as those of `XREAD`."""
    fact = find_facts(command, facts)
    return fact is not None and fact.moves_keys and not keys_of(command, facts)


def split(
    command: Command, facts: Mapping[bytes, CommandFacts], keys: Sequence[bytes], nodes: int
) -> list[Part]:
    """Return what is asked of which node.

    Args:
        command: A command that may run.
        facts: What the engine says of its commands.
        keys: The command's keys.
        nodes: How many nodes there are.
    """
    name = command[0].upper()
    if name == b"SCAN":
        return [_scan_part(command, nodes)]
    if name in _SPLIT and len(slots := slots_of(keys)) > 1:
        return [
            Part([name, *(key for key in keys if key_slot(key) == slot)], slot) for slot in slots
        ]
    if keys:  # of several slots any node says CROSSSLOT
        return [Part(command, key_slot(keys[0]))]
    fact = find_facts(command, facts)
    if fact is not None and fact.request in (b"all_shards", b"all_nodes"):
        return [Part(command, node=node) for node in range(nodes)]
    return [Part(command)]


def slots_of(keys: Sequence[bytes]) -> list[int]:
    """Return the slots of keys, each once, in the order of the keys."""
    return list(dict.fromkeys(map(key_slot, keys)))


def merge(
    command: Command,
    facts: Mapping[bytes, CommandFacts],
    parts: Sequence[Part],
    replies: Sequence[Reply],
    nodes: int,
) -> Reply:
    """Return the answer that a single server would have given."""
    name = command[0].upper()
    if name == b"SCAN":
        return _merge_scan(replies[0], parts[0].node or 0, nodes)
    if len(parts) == 1:
        return replies[0]
    failures = [reply for reply in replies if type(reply) is Failure]
    fact = find_facts(command, facts)
    response = fact.response if fact is not None else b""
    if response == b"one_succeeded":
        return next((reply for reply in replies if type(reply) is not Failure), failures[0])
    if failures:
        return failures[0]
    if name == b"MGET":
        values = {
            part.slot: iter(_items(reply)) for part, reply in zip(parts, replies, strict=True)
        }
        return [next(values[key_slot(key)]) for key in command[1:]]
    return _combine(response, list(replies))


def _combine(response: bytes, replies: list[Any]) -> Reply:
    if response == b"agg_sum":
        return int(sum(replies))
    if response == b"agg_min":
        return int(min(replies))
    if response == b"agg_logical_and":
        return [min(answers) for answers in zip(*replies, strict=True)]
    if response in (b"all_succeeded", b"special"):
        return next((reply for reply in replies if reply is not None), None)
    return [item for reply in replies for item in reply]  # KEYS


# A cursor of ours is a node's own, times the number of nodes, plus the node's number: so one scan
# goes through all nodes, and 0 begins and ends it as ever.
def _scan_part(command: Command, nodes: int) -> Part:
    cursor = command[1] if len(command) > 1 else b""
    if not cursor.isdigit():
        return Part(command, node=0)  # refused in the engine's words
    own, node = divmod(int(cursor), nodes)
    return Part([command[0], b"%d" % own, *command[2:]], node=node)


def _merge_scan(reply: Reply, node: int, nodes: int) -> Reply:
    if type(reply) is Failure:
        return reply
    cursor, keys = _items(reply)
    own = int(cursor)  # type: ignore[arg-type]
    following = own * nodes + node if own else (node + 1) % nodes
    return [b"%d" % following, keys]


def _items(reply: Reply) -> list[Reply]:
    return reply if isinstance(reply, list) else []
