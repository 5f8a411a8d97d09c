"""Runs the store's atomic steps: Lua (`lua/`) that Valkey runs, each with one JSON plan."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    RedisClusterException,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

EVENTS_KEPT = 10_000
REPEAT_WAITS_S = (0.01, 0.1, 0.5)
_ROUTE = "{qstash}:pending"  # any key of the slot that all are in
_LOST = (OSError, RedisConnectionError, ClusterDownError, RedisClusterException)

ScriptName: TypeAlias = Literal["publish", "settle", "record", "fire"]
_Command: TypeAlias = tuple[str | int, ...]


@dataclass(slots=True, eq=False)
class _Call:
    """A script that somebody waits for; a failure is an answer like any other."""

    name: ScriptName
    plan: str
    answer: asyncio.Future[Any]

    def command(self, *, in_full: bool = False) -> _Command:
        source, digest = _load_script(self.name)
        script = ("EVAL", source) if in_full else ("EVALSHA", digest)
        return (*script, 1, _ROUTE, self.plan, EVENTS_KEPT)


class ScriptRunner:
    """Runs scripts in the order of the calls, which the delivery engine relies on.

    redis-py takes longer to send a command than Valkey to run a script, so that what gathers during
    one round trip shares the next.
    """

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - see client.connect
        self._client = client
        self._waiting: list[_Call] = []
        self._sent: list[_Call] = []
        self._link: Any = None
        self._sender: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Give up what is under way."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        for call in (*self._sent, *self._waiting):  # nobody may wait for ever
            call.answer.cancel()

    async def run(self, name: ScriptName, plan: str) -> Any:  # noqa: ANN401 - the script's answer
        """Run a script with its plan; again if the reply was lost, which each allows.

        Raises:
            RedisError: Valkey refuses, or does not answer.
        """
        call = _Call(name, plan, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send(), name="qstash-scripts")
        answer = await call.answer
        if isinstance(answer, OSError | RedisClusterException):
            raise RedisConnectionError(str(answer)) from answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _send(self) -> None:
        while self._waiting:
            self._sent, self._waiting = self._waiting, []
            for call, answer in zip(self._sent, await self._ask(self._sent), strict=True):
                if not call.answer.done():
                    call.answer.set_result(answer)

    async def _ask(self, calls: list[_Call]) -> list[Any]:
        answers = await self._ask_at_once(calls)
        for wait_s in REPEAT_WAITS_S:
            open_calls = [
                at
                for at, answer in enumerate(answers)
                if isinstance(answer, (*_LOST, NoScriptError))
            ]
            if not open_calls:
                break
            await asyncio.sleep(wait_s)
            for at in open_calls:
                answers[at] = await self._ask_alone(calls[at])
                if isinstance(answers[at], _LOST):
                    break  # nor would the next one get through
        return answers

    async def _ask_at_once(self, calls: list[_Call]) -> list[Any]:
        commands = [call.command() for call in calls]
        answers: list[Any] = []
        try:
            if isinstance(self._client, RedisCluster):
                async with self._client.pipeline() as pipe:
                    for command in commands:
                        pipe.execute_command(*command)
                    answers = await pipe.execute(raise_on_error=False)
            else:
                await self._ask_link(commands, answers)
        except Exception as exc:  # noqa: BLE001 - theirs who wait
            answers += [exc] * (len(calls) - len(answers))
        return answers

    async def _ask_link(self, commands: list[_Command], answers: list[Any]) -> None:
        """Ask one server: a connection that is kept takes half of the time of a pipeline."""
        if self._link is None:
            self._link = await self._client.connection_pool.get_connection()
        try:
            await self._link.send_packed_command(self._link.pack_commands(commands))
            for _ in commands:
                try:
                    answers.append(await self._link.read_response())
                except ResponseError as exc:
                    answers.append(exc)
        except BaseException:
            await self._link.disconnect(nowait=True)  # what comes late is nobody's answer
            raise

    async def _ask_alone(self, call: _Call) -> Any:  # noqa: ANN401
        """Ask with the script's text; a cluster's client then learns anew which node to ask."""
        try:
            return await self._client.execute_command(*call.command(in_full=True))
        except Exception as exc:  # noqa: BLE001 - theirs who wait
            return exc


@cache
def _load_script(name: ScriptName) -> tuple[str, str]:
    """Return a script and the digest that Valkey knows it by."""
    folder = files("longtask_kit.local.qstash") / "lua"
    source = (folder / "shared.lua").read_text() + (folder / f"{name}.lua").read_text()
    return source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
