"""Which commands Upstash's REST protocol refuses, and with which words.

The wire is described in `wire/upstash_redis.md`; section numbers in the comments are its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.local.redis.resp import Command, Reply

MAX_KEY_BYTES = 32 * 1024

# They would leave a shared connection in another state, never answer, or stop the server.
_UNAVAILABLE = frozenset(
    b"ACL ASKING AUTH BGREWRITEAOF BGSAVE CLIENT CLUSTER CONFIG DEBUG DISCARD EXEC FAILOVER HELLO "
    b"LATENCY MIGRATE MODULE MONITOR MULTI PFDEBUG PFSELFTEST PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT "
    b"READONLY READWRITE REPLCONF REPLICAOF RESET SAVE SELECT SHUTDOWN SLAVEOF SSUBSCRIBE "
    b"SUBSCRIBE SUNSUBSCRIBE SWAPDB SYNC UNSUBSCRIBE UNWATCH WATCH".split()
) | {b"SCRIPT DEBUG"}
_AVAILABLE = frozenset({b"CLIENT SETINFO", b"CLIENT ID", b"CLIENT INFO", b"CLIENT LIST"})
# SCRIPT KILL must overtake the script that everybody on the shared connection waits for.
_BLOCKING = frozenset(
    b"BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF".split()
) | {b"SCRIPT KILL", b"FUNCTION KILL"}
_SCRIPTS = frozenset(b"EVAL EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO".split())
# Read-only, but they walk through the whole database (section 1), and so may a script, for ever.
_TOO_POWERFUL = frozenset({b"SCAN", b"KEYS"}) | _SCRIPTS
_HARMLESS = frozenset({b"PING", b"ECHO", b"TIME"})


def find_refusal(command: Command) -> str | None:
    """Return why a command can't be run over REST, None when it can."""
    name = command[0].upper()
    if name in _UNAVAILABLE or name == b"SCRIPT":
        pair = b" ".join(command[:2]).upper()
        if pair not in _AVAILABLE and (name in _UNAVAILABLE or pair in _UNAVAILABLE):
            return f"ERR Command is not available: '{name.decode(errors='replace')}'"
    return None


def may_block(command: Command) -> bool:
    """Return whether Redis may wait before it answers, or must answer although it is busy."""
    name = command[0].upper()
    if name in (b"SCRIPT", b"FUNCTION"):
        name = b" ".join(command[:2]).upper()
    return name in _BLOCKING or (name[:5] == b"XREAD" and b"BLOCK" in map(bytes.upper, command))


def runs_script(command: Command) -> bool:
    """Return whether a command may take as long as somebody's script does."""
    return command[0].upper() in _SCRIPTS


@dataclass(frozen=True, slots=True)
class CommandFacts:
    """What the engine says of one command.

    Attributes:
        reads_only: It changes nothing.
        first: Index of the first key, 0 for none.
        last: Index of the last key; negative counts from the end.
        step: From one key to the next.
        moves_keys: Where the keys are depends on the arguments.
        request: In a cluster: which nodes are asked, `all_shards` for one.
        response: In a cluster: how their answers become one, `agg_sum` for one.
    """

    reads_only: bool
    first: int
    last: int
    step: int
    moves_keys: bool = False
    request: bytes = b""
    response: bytes = b""


def read_facts(rows: Reply) -> dict[bytes, CommandFacts]:
    """Return the facts in the reply to `COMMAND`, by upper-case name, `NAME SUB` for a part."""
    facts: dict[bytes, CommandFacts] = {}
    for row in rows if isinstance(rows, list) else ():
        name, _, flags, first, last, step, *rest = row  # type: ignore[misc]
        full = name.upper().replace(b"|", b" ")  # type: ignore[union-attr]
        tips = _read_tips(rest[1]) if len(rest) > 3 else {}
        facts[full] = CommandFacts(
            b"readonly" in flags,  # type: ignore[operator]
            first,  # type: ignore[arg-type]
            last,  # type: ignore[arg-type]
            step,  # type: ignore[arg-type]
            b"movablekeys" in flags,  # type: ignore[operator]
            tips.get(b"request_policy", b""),
            tips.get(b"response_policy", b""),
        )
        if len(rest) > 3:  # Redis 7 describes the parts of XINFO, OBJECT, … here
            facts |= read_facts(rest[3])
    return facts


def _read_tips(tips: Reply) -> dict[bytes, bytes]:
    pairs = [tip.partition(b":") for tip in tips or () if isinstance(tip, bytes)]  # type: ignore[union-attr]
    return {name: value for name, _, value in pairs}


def find_facts(command: Command, facts: Mapping[bytes, CommandFacts]) -> CommandFacts | None:
    """Return the facts of a command or of its part, `XINFO STREAM` for one; None if unknown."""
    return facts.get(b" ".join(command[:2]).upper()) or facts.get(command[0].upper())


def find_denial(command: Command, facts: Mapping[bytes, CommandFacts]) -> str | None:
    """Return why the read-only token may not run a command, None when it may."""
    name = command[0].upper()
    fact = find_facts(command, facts)
    if fact is None:
        return None  # unknown to the engine, which says so
    if (fact.reads_only or name in _HARMLESS) and name not in _TOO_POWERFUL:
        return None
    text = name.decode(errors="replace").lower()
    return f"NOPERM this user has no permissions to run the '{text}' command or its subcommand"


def find_long_key(command: Command, facts: Mapping[bytes, CommandFacts]) -> str | None:
    """Return Upstash's words for a key that is too long, None when none is."""
    size = max(map(len, keys_of(command, facts)), default=0)
    if size > MAX_KEY_BYTES:
        return f"ERR max key size exceeded. Limit: {MAX_KEY_BYTES} bytes, Actual: {size} bytes"
    return None


def may_have_long_key(command: Command) -> bool:
    """Return whether any argument is longer than a key may be."""
    return max(map(len, command)) > MAX_KEY_BYTES


def keys_of(command: Command, facts: Mapping[bytes, CommandFacts]) -> Sequence[bytes]:
    """Return a command's keys, as far as its form alone tells where they are."""
    if command[0].upper() in _SCRIPTS:
        count = command[2] if len(command) > 2 else b""
        return command[3 : 3 + int(count)] if count.isdigit() else ()
    fact = find_facts(command, facts)
    if fact is None or fact.first <= 0:
        return ()
    stop = fact.last + 1 if fact.last >= 0 else len(command) + fact.last + 1
    return command[fact.first : stop : max(fact.step, 1)]
