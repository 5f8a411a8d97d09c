"""Groups of tasks, and the pointers from a content to its task, in Redis."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from longtask_kit.log.budgets import find_budget
from longtask_kit.log.events import from_ms, to_ms
from longtask_kit.log.keys import (
    GROUP_INDEX,
    REUSE_SECRET,
    group_key,
    group_name_key,
    group_rows_key,
    reuse_key,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.log.redis import RedisClient

TIE = "tie"
"""A vote for none of the answers to a prompt."""
_VOTE = "vote:"  # and the first task of a prompt's: a field of the group
_AT_ONCE = 500  # commands a request
_ROWS_A_PAGE = 1000
_PAGES_AT_ONCE = 20  # of 30 kB each
FOR_EVER_S = 10 * 365 * 86_400
# Moves a pointer, unless somebody else has: they then have the same new task.
_MOVE = """
local now = redis.call('GET', KEYS[1])
if now and now ~= ARGV[1] then return now end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return ARGV[2]
"""


class Claim(NamedTuple):
    """The task of a content, and when it was given to it, unix milliseconds of Redis' clock."""

    task_id: str
    at_ms: int

    def __str__(self) -> str:
        return f"{self.task_id} {self.at_ms}"

    @classmethod
    def parse(cls, text: str) -> Claim:
        """Read what `str` wrote."""
        task_id, _, at_ms = text.partition(" ")
        return cls(task_id, int(at_ms or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """A group as Redis holds it.

    Attributes:
        rows: The task of each row, in their order; None for one that was left out.
        options: What it was mapped with: `parallelism`, `rpm`, `tpm`, `budgetTokens`, …
        code: Why it stopped before its end (`budget`), or None.
        votes: Of a comparison: the best answer's task, or `tie`, by the first task of its prompt.
    """

    group_id: str
    name: str
    rows: tuple[str | None, ...]
    options: dict[str, Any]
    created: datetime
    updated: datetime
    code: str | None = None
    votes: Mapping[str, str] = field(default_factory=dict)

    def to_wire(self) -> dict[str, Any]:
        """Return the answer of `GET /api/groups/{id}`."""
        return {
            "groupId": self.group_id,
            "name": self.name,
            "rows": list(self.rows),
            "options": self.options,
            "code": self.code,
            "votes": dict(self.votes),
            "createdAt": to_ms(self.created),
            "updatedAt": to_ms(self.updated),
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> GroupRecord:
        """Read what `to_wire` wrote."""
        return cls(
            group_id=wire["groupId"],
            name=wire["name"],
            rows=tuple(wire["rows"]),
            options=dict(wire["options"]),
            code=wire.get("code"),
            votes=wire.get("votes") or {},
            created=from_ms(wire["createdAt"]),
            updated=from_ms(wire["updatedAt"]),
        )


class GroupStore:
    """Groups and pointers. Each write can be made again after a lost reply."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def read_secret(self) -> tuple[str, bool, int]:
        """Return what contents are named with, whether a former one was lost, and Redis' time.

        Nothing can be kept where it was. The time is the one clock of all who map.
        """
        mine = secrets.token_urlsafe(32)
        before, groups, (now_s, now_us) = await self._redis.run(
            [
                ["SET", REUSE_SECRET, mine, "NX", "GET", "EX", FOR_EVER_S],
                ["EXISTS", GROUP_INDEX],  # whoever made one had a secret
                ["TIME"],
            ]
        )
        return before or mine, not before and bool(groups), int(now_s) * 1000 + int(now_us) // 1000

    async def claim(self, wanted: Mapping[str, str], *, now_ms: int) -> dict[str, Claim]:
        """Return the task of each content: the one that it has, or the one that is proposed now.

        Args:
            wanted: Task ids by the names of contents.
            now_ms: As `read_secret` said.
        """
        mine = {name: Claim(task_id, now_ms) for name, task_id in wanted.items()}
        commands = [
            ["SET", reuse_key(name), str(claim), "NX", "GET", "EX", FOR_EVER_S]
            for name, claim in mine.items()
        ]
        replies = await self._run_all(commands)
        return {
            name: Claim.parse(before) if before else claim
            for (name, claim), before in zip(mine.items(), replies, strict=True)
        }

    async def move(self, moves: Sequence[tuple[str, Claim, Claim]]) -> list[Claim]:
        """Lead contents to new tasks, (name, old, new) each; return where they lead."""
        replies = await self._run_all(
            [
                ["EVAL", _MOVE, 1, reuse_key(name), str(old), str(new), FOR_EVER_S]
                for name, old, new in moves
            ]
        )
        return [Claim.parse(reply) for reply in replies]

    async def find_group(self, name: str, proposed: str, *, ttl_s: int) -> str:
        """Return the id of the group of a name: the one it has, or the proposed one."""
        key = group_name_key(name)
        before, _ = await self._redis.run(
            [["SET", key, proposed, "NX", "GET", "EX", ttl_s], ["EXPIRE", key, ttl_s]]
        )
        return str(before or proposed)

    async def save(
        self,
        group_id: str,
        *,
        name: str,
        rows: Sequence[str | None],
        options: Mapping[str, Any],
        ttl_s: int,
        pointer: str = "",
        created: datetime | None = None,
        votes: Mapping[str, str] | None = None,
    ) -> GroupRecord:
        """Write a group, or write it anew with other rows; one of before says when it was made.

        Args:
            group_id: The group.
            name: As people call it.
            rows: Their tasks.
            options: What it is asked with.
            ttl_s: How long it lives after it has run, in seconds.
            pointer: Its name as `find_group` was given it; empty: as before.
            created: When it was made, of one that comes out of an archive.
            votes: Likewise.

        Returns:
            The group as it stands now.
        """
        now_ms = to_ms(datetime.now(UTC))
        created_ms = now_ms if created is None else to_ms(created)
        key, rows_key = group_key(group_id), group_rows_key(group_id)
        pages = [
            json.dumps(rows[at : at + _ROWS_A_PAGE]) for at in range(0, len(rows), _ROWS_A_PAGE)
        ]
        commands = [["HSET", rows_key, number, page] for number, page in enumerate(pages)]
        await self._run_all(commands, at_once=_PAGES_AT_ONCE)
        facts = {
            "name": name,
            "options": json.dumps(options, ensure_ascii=False),
            "pages": len(pages),
            "updated_ms": now_ms,
            "ttl_s": ttl_s,
            **({"pointer": pointer} if pointer else {}),
            **find_budget(options),
            **{_VOTE + task_id: winner for task_id, winner in (votes or {}).items()},
        }
        *_, stored = await self._redis.run(
            [
                ["HSETNX", key, "created_ms", created_ms],
                ["HSET", key, *(part for fact in facts.items() for part in fact)],
                ["HDEL", key, "code", *([] if "budget" in facts else ["budget"])],
                ["EXPIRE", key, ttl_s],
                ["EXPIRE", rows_key, ttl_s],
                ["ZADD", GROUP_INDEX, now_ms, group_id],
                ["EXPIRE", GROUP_INDEX, FOR_EVER_S],
                ["HGETALL", key],
            ]
        )
        stored = _to_dict(stored)
        return GroupRecord(
            group_id=group_id,
            name=name,
            rows=tuple(rows),
            options=json.loads(str(facts["options"])),
            created=from_ms(int(stored["created_ms"])),
            updated=from_ms(now_ms),
            votes=_find_votes(stored),
        )

    async def read(self, group_id: str) -> GroupRecord | None:
        """Return a group, or None when it is unknown or expired."""
        facts, pages = await self._redis.run(
            [["HGETALL", group_key(group_id)], ["HGETALL", group_rows_key(group_id)]]
        )
        facts, pages = _to_dict(facts), _to_dict(pages)
        if "created_ms" not in facts:
            return None
        rows: list[str | None] = []
        for number in range(int(facts["pages"])):
            rows += json.loads(pages.get(str(number), "[]"))
        return GroupRecord(
            group_id=group_id,
            name=facts["name"],
            rows=tuple(rows),
            options=json.loads(facts["options"]),
            code=facts.get("code"),
            created=from_ms(int(facts["created_ms"])),
            updated=from_ms(int(facts["updated_ms"])),
            votes=_find_votes(facts),
        )

    async def prolong(self, group_id: str) -> None:
        """Have a group live on from now, and its name, as long as it was to; if it is there."""
        [(ttl_s, pointer)] = await self._redis.run(
            [["HMGET", group_key(group_id), "ttl_s", "pointer"]]
        )
        if not ttl_s:
            return
        keys = [group_key(group_id), group_rows_key(group_id)]
        keys += [group_name_key(pointer)] if pointer else []
        await self._redis.run([["EXPIRE", key, ttl_s] for key in keys])

    async def read_newest(self, *, limit: int) -> list[GroupRecord]:
        """Return groups, those that ran last first; ids of those that are gone are forgotten."""
        found: dict[str, GroupRecord] = {}
        at = 0
        while len(found) < limit:
            [ids] = await self._redis.run([["ZREVRANGE", GROUP_INDEX, at, at + limit - 1]])
            groups = await asyncio.gather(*map(self.read, ids))
            if gone := [i for i, group in zip(ids, groups, strict=True) if group is None]:
                await self._redis.run([["ZREM", GROUP_INDEX, *gone]])
            found |= {group.group_id: group for group in groups if group is not None}
            if len(ids) < limit:
                break
            at += len(ids) - len(gone)
        return [*found.values()][:limit]

    async def set_options(self, group_id: str, options: Mapping[str, Any]) -> None:
        """Write with what a group goes on, and that it does."""
        key = group_key(group_id)
        facts = {"options": json.dumps(options, ensure_ascii=False), **find_budget(options)}
        told = [part for fact in facts.items() for part in fact]
        await self._redis.run([["HSET", key, *told], ["HDEL", key, "code"]])

    async def set_vote(self, group_id: str, task_id: str, winner: str | None) -> None:
        """Note a vote, or that there is none, beside the group's others."""
        field = _VOTE + task_id
        vote = ["HDEL", field] if winner is None else ["HSET", field, winner]
        await self._redis.run([[vote[0], group_key(group_id), *vote[1:]]])

    async def _run_all(
        self, commands: Sequence[list[Any]], *, at_once: int = _AT_ONCE
    ) -> list[Any]:
        replies: list[Any] = []
        for at in range(0, len(commands), at_once):
            replies += await self._redis.run(commands[at : at + at_once])
        return replies


def _find_votes(facts: Mapping[str, str]) -> dict[str, str]:
    return {name[len(_VOTE) :]: facts[name] for name in facts if name.startswith(_VOTE)}


def _to_dict(reply: dict[str, str] | list[str]) -> dict[str, str]:
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
