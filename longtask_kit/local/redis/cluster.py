"""A Redis cluster: each command to the node that has its keys, redirections followed.

redis-py knows which node has which slot; what the nodes say is read by our own connections, since
its parser does not tell a status from a stored text (section 3 of `wire/upstash_redis.md`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeAlias

from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import MovedError, RedisError

from longtask_kit.local.redis.commands import keys_of
from longtask_kit.local.redis.link import Server
from longtask_kit.local.redis.resp import Failure
from longtask_kit.local.redis.slots import CROSS_SLOT, merge, needs_key_lookup, slots_of, split

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from longtask_kit.local.redis.commands import CommandFacts
    from longtask_kit.local.redis.link import AnyProtocol
    from longtask_kit.local.redis.resp import Command, Reply
    from longtask_kit.local.redis.slots import Part

    Run: TypeAlias = Callable[[Server, Sequence[Command]], Awaitable[list[Reply]]]

_MAX_ROUNDS = 8
_TRY_AGAIN_S = 0.05
_DISCOVERY_S = 5.0
_UNREACHED = Failure(b"ERR Redis did not answer (a node of the cluster is away)")
_LOST = Failure(b"ERR Redis did not answer (the connection to a node of the cluster was lost)")


class Cluster:
    """The nodes of one cluster, asked as if they were one server.

    What has no key runs on one node, the home: `PUBLISH` counts only its own node's readers, so
    all readers and all publishers meet there.

    Args:
        redis_url: Any node's.
        options: redis-py's, for its connections.
        facts: What the engine says of its commands.
    """

    def __init__(
        self, redis_url: str, options: Mapping[str, Any], facts: Mapping[bytes, CommandFacts]
    ) -> None:
        client = RedisCluster.from_url(
            redis_url,
            require_full_coverage=False,  # one node that is away must not take the others along
            **{**options, "socket_timeout": _DISCOVERY_S},
        )
        self._topology = client.nodes_manager
        self._pool = ConnectionPool.from_url(redis_url, **options)
        given = self._pool.connection_kwargs
        self._given = [(given["host"], given.get("port", 6379))]
        self._facts = facts
        self._servers: dict[str, Server] = {}
        self._names: list[str] = []
        self._home = ""
        self._discovering = asyncio.Lock()
        self._discoveries = 0

    async def discover(self) -> None:
        """Learn which node has which slots; those who ask meanwhile share the answer."""
        known = self._discoveries
        async with self._discovering:
            if self._discoveries != known:
                return
            try:
                await self._topology.initialize(additional_startup_nodes_info=self._given)
                self._names = sorted(
                    node.name
                    for node in self._topology.nodes_cache.values()
                    if node.server_type == "primary"
                )
            finally:  # its connections, not what it knows
                await self._topology.aclose()
                await self._topology.aclose("startup_nodes")
            self._discoveries += 1
        for name in self._servers.keys() - set(self._names):
            self._servers.pop(name).close()
        if self._home not in self._names:
            self._home = self._names[0]  # the same for every service in front of the cluster

    async def open(self, make: Callable[[], AnyProtocol]) -> AnyProtocol:
        """Return a new connection to the home that nobody shares; whoever opens it closes it."""
        try:
            return await self._server(self._home).open(make)
        except (OSError, RedisError):
            await self.discover()
            return await self._server(self._home).open(make)

    async def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands, those of one node in one write; returns their replies in their order."""
        return await self._run(commands, Server.run)

    async def run_apart(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands that may wait, on connections where nobody waits for them."""
        return await self._run(commands, Server.run_apart)

    async def transact(self, commands: Sequence[Command]) -> list[Reply]:
        """Run all or nothing; returns what queueing them said and, last, the results."""
        keys = await self._find_keys(commands)
        slots = slots_of([key for its_keys in keys for key in its_keys])
        if len(slots) > 1:
            return [CROSS_SLOT]
        slot = slots[0] if slots else None
        whole = [[b"MULTI"], *commands, [b"EXEC"]]
        target: tuple[str, bool] | None = (self._name_of(slot), False)
        replies: list[Reply] = []
        for _ in range(_MAX_ROUNDS):
            if target is None:
                break
            name, is_asking = target
            asked = [[b"ASKING"], *whole] if is_asking else whole  # it holds until EXEC
            replies = (await self._ask(name, asked, Server.run))[is_asking:]
            redirection = next(filter(_is_redirection, replies), None)
            target = await self._follow(redirection, slot) if redirection else None
        return _raise_silence(replies)

    def close(self) -> None:
        """Close what is not in use by a caller."""
        for server in self._servers.values():
            server.close()

    async def _run(self, commands: Sequence[Command], run: Run) -> list[Reply]:
        keys, names = await self._find_keys(commands), self._names
        plans = [
            split(command, self._facts, its_keys, len(names))
            for command, its_keys in zip(commands, keys, strict=True)
        ]
        parts = [part for plan in plans for part in plan]
        replies = iter(_raise_silence(await self._run_parts(parts, names, run)))
        return [
            merge(command, self._facts, plan, [next(replies) for _ in plan], len(names))
            for command, plan in zip(commands, plans, strict=True)
        ]

    async def _run_parts(
        self, parts: Sequence[Part], names: Sequence[str], run: Run
    ) -> list[Reply]:
        """Ask every node for its parts, and then whomever they name instead."""
        replies: list[Reply] = [None] * len(parts)
        targets: dict[int, tuple[str, bool]] = {
            index: (self._name_of(part.slot) if part.node is None else names[part.node], False)
            for index, part in enumerate(parts)
        }
        for _ in range(_MAX_ROUNDS):
            batches: dict[tuple[str, bool], list[int]] = defaultdict(list)
            for index, target in sorted(targets.items()):
                batches[target].append(index)
            asked = [self._ask_parts(t, [parts[i] for i in batches[t]], run) for t in batches]
            targets.clear()
            for indexes, answer in zip(batches.values(), await asyncio.gather(*asked), strict=True):
                for index, reply in zip(indexes, answer, strict=True):
                    replies[index] = reply
                    if _is_redirection(reply) and parts[index].node is None:
                        other = await self._follow(reply, parts[index].slot)
                        targets |= {index: other} if other else {}
            if not targets:
                break
        return replies

    async def _ask_parts(
        self, target: tuple[str, bool], parts: Sequence[Part], run: Run
    ) -> list[Reply]:
        name, is_asking = target
        if not is_asking:
            return await self._ask(name, [part.command for part in parts], run)
        asked = [command for part in parts for command in ([b"ASKING"], part.command)]
        return (await self._ask(name, asked, run))[1::2]

    async def _ask(self, name: str, commands: Sequence[Command], run: Run) -> list[Reply]:
        """Return a node's replies, or as many of ours that say why there are none."""
        server = self._server(name)
        try:
            await server.connect()
        except (OSError, RedisError):
            return [_UNREACHED] * len(commands)
        try:
            return await run(server, commands)
        except (OSError, RedisError):  # some may have been done, so none is sent again
            return [_LOST] * len(commands)

    async def _follow(self, reply: Reply, slot: int | None) -> tuple[str, bool] | None:
        """Return the node to ask instead, and whether with `ASKING`; None when there is none."""
        if reply is _UNREACHED:
            before = self._name_of(slot)
            await self.discover()
            after = self._name_of(slot)
            return None if after == before else (after, False)
        kind, _, place = bytes(reply).partition(b" ")  # type: ignore[arg-type]
        if kind == b"TRYAGAIN":
            await asyncio.sleep(_TRY_AGAIN_S)
            return self._name_of(slot), False
        # A script can answer with any text: never connect to, and log in at, a node of no cluster.
        name = place.decode(errors="replace").rpartition(" ")[2]
        if slot is None or place.split(b" ")[0] != b"%d" % slot:
            return None
        if kind == b"ASK":
            return (name, True) if name in await self._member_names() else None
        if name in self._topology.nodes_cache and slot in self._topology.slots_cache:
            await self._topology.move_slot(MovedError(f"{slot} {name}"))
        else:
            await self.discover()
        return self._name_of(slot), False

    async def _member_names(self) -> set[str]:
        """Return all nodes' names; one that gets its first slot is in no other list."""
        [text] = await self._ask(self._home, [[b"CLUSTER", b"NODES"]], Server.run)
        lines = text.decode().splitlines() if type(text) is bytes else []
        return {line.split(" ")[1].partition("@")[0] for line in lines}

    async def _find_keys(self, commands: Sequence[Command]) -> list[Sequence[bytes]]:
        """Return each command's keys; the engine is asked where only it can tell."""
        found = [keys_of(command, self._facts) for command in commands]
        unknown = [i for i, c in enumerate(commands) if needs_key_lookup(c, self._facts)]
        if unknown:
            lookups = [[b"COMMAND", b"GETKEYS", *commands[index]] for index in unknown]
            answers = await self._ask(self._home, lookups, Server.run)
            for index, keys in zip(unknown, answers, strict=True):
                if isinstance(keys, list):  # else the command itself will be refused
                    found[index] = keys  # type: ignore[assignment]
        return found

    def _name_of(self, slot: int | None) -> str:
        nodes = None if slot is None else self._topology.slots_cache.get(slot)
        return nodes[0].name if nodes else self._home

    def _server(self, name: str) -> Server:
        if name not in self._servers:
            host, _, port = name.rpartition(":")
            place = {**self._pool.connection_kwargs, "host": host, "port": int(port)}
            self._servers[name] = Server(lambda: self._pool.connection_class(**place))
        return self._servers[name]


def _is_redirection(reply: Reply) -> bool:
    return type(reply) is Failure and (
        reply is _UNREACHED or reply.startswith((b"MOVED ", b"ASK ", b"TRYAGAIN "))
    )


def _raise_silence(replies: list[Reply]) -> list[Reply]:
    """Return replies, unless no node gave any: then it is as with a server that is away.

    Raises:
        ConnectionError: No node answered.
    """
    if replies and all(reply is _UNREACHED or reply is _LOST for reply in replies):
        raise ConnectionError(bytes(replies[0]).decode())  # type: ignore[arg-type]
    return replies
