"""What Upstash's databases understand and Redis does not: commands translated, and answers back.

- `#!lua flags=allow-key-locking`, with which every script of Upstash's rate limiters begins. It is
  a hint that Redis refuses; without it the script is the same, but has another SHA1.
- `SCAN … WITHTYPE`, which answers `key, type, key, type`.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.local.redis.resp import Command, Reply

_HINT = b"allow-key-locking"
_SHEBANG = re.compile(rb"#![^\n]*\n")
_WITH_TEXT = frozenset({b"EVAL", b"EVAL_RO"})
_WITH_DIGEST = frozenset({b"EVALSHA", b"EVALSHA_RO"})
_SCAN_PAIRS = frozenset({b"MATCH", b"COUNT", b"TYPE"})
_REMEMBERED_SCRIPTS = 1000  # Redis itself forgets scripts beyond 500


class Dialect:
    """Translates commands; remembers the digests of the scripts that it changed."""

    def __init__(self) -> None:
        self._digests: OrderedDict[bytes, bytes] = OrderedDict()

    def translate(self, command: Command) -> Command:
        """Return a command as Redis has it; the same list if that is what it is."""
        name = command[0].upper()
        if name in _WITH_TEXT:
            return self._without_hint(command, 1)
        if name in _WITH_DIGEST:
            return self._with_own_digests(command, 1) if self._digests else command
        if name == b"SCRIPT" and len(command) > 2:
            part = command[1].upper()
            if part == b"LOAD":
                return self._without_hint(command, 2)
            return self._with_own_digests(command, 2) if part == b"EXISTS" else command
        return without_type(command) if name == b"SCAN" else command

    def _without_hint(self, command: Command, index: int) -> Command:
        text = command[index] if len(command) > index else b""
        changed = drop_hint(text)
        if changed is text:
            return command
        self._digests[digest_of(text)] = digest_of(changed)
        if len(self._digests) > _REMEMBERED_SCRIPTS:
            self._digests.popitem(last=False)
        return [*command[:index], changed, *command[index + 1 :]]

    def _with_own_digests(self, command: Command, index: int) -> Command:
        # EVALSHA has one digest, and arguments that may look like others.
        stop = len(command) if index > 1 else index + 1
        own = [self._digests.get(given.lower(), given) for given in command[index:stop]]
        return [*command[:index], *own, *command[stop:]]


def drop_hint(script: bytes) -> bytes:
    """Return a script whose first line is without Upstash's hint; the same object if it has none.

    The line stays, as errors tell line numbers, but a bare `#!lua` would not do: it lets a script
    write, which `EVAL_RO` then refuses.
    """
    shebang = _SHEBANG.match(script)
    if shebang is None or _HINT not in shebang[0]:
        return script
    words = list(filter(None, map(_without_hint, shebang[0].split())))
    line = b" ".join(words) if len(words) > 1 else b"--"
    return line + b"\n" + script[shebang.end() :]


def _without_hint(word: bytes) -> bytes:
    name, _, flags = word.partition(b"=")
    if name != b"flags":
        return word
    kept = [flag for flag in flags.split(b",") if flag != _HINT]
    return b"flags=" + b",".join(kept) if kept else b""


def digest_of(script: bytes) -> bytes:
    """Return the SHA1 by which a script is called."""
    return hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()


def without_type(command: Command) -> Command:
    """Return a `SCAN` without `WITHTYPE`; the same list if it has none."""
    index = _find_with_type(command)
    return command if index is None else [*command[:index], *command[index + 1 :]]


def _find_with_type(command: Command) -> int | None:
    index = 2
    while index < len(command):
        word = command[index].upper()
        if word == b"WITHTYPE":
            return index
        index += 2 if word in _SCAN_PAIRS else 1  # a pattern may be any word
    return None


def has_other_answer(command: Command) -> bool:
    """Return whether Redis' answer to a command must be translated back."""
    return command[0].upper() in (b"SCAN", b"SCRIPT")


def keys_to_type(command: Command, reply: Reply) -> list[bytes]:
    """Return the keys whose types the answer to a command must tell as well."""
    if command[0].upper() != b"SCAN" or _find_with_type(command) is None:
        return []
    keys = reply[1] if isinstance(reply, list) else []
    return [key for key in keys if isinstance(key, bytes)] if isinstance(keys, list) else []


def translate_back(command: Command, reply: Reply, types: Mapping[bytes, Reply]) -> Reply:
    """Return Redis' answer as Upstash gives it.

    Args:
        command: As it was asked, before it was translated.
        reply: What Redis said.
        types: The types of the keys in a scan's answer.
    """
    if type(reply) is bytes and [word.upper() for word in command[:2]] == [b"SCRIPT", b"LOAD"]:
        return digest_of(command[2])
    keys = keys_to_type(command, reply)
    if not isinstance(reply, list) or not keys:
        return reply
    # One that is gone by now has no type, and need not be told.
    pairs = [(key, types[key]) for key in keys if types[key] != b"none"]
    return [reply[0], [item for pair in pairs for item in pair]]
