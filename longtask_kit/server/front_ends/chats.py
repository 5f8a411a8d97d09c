"""Chats, each of which is led from task to task: a task answers one message of its user."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import StreamExpiredError
from longtask_kit.log.keys import is_task_id
from longtask_kit.server.front_ends.ai_sdk_request import find_doubtful, find_question, make_task
from longtask_kit.server.front_ends.intake import MAX_ID_CHARS
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import Request

    from longtask_kit.server.front_ends.intake import Intake, Started

_KIND = "chat's message"


class Chats:
    """The chats of callers whom the routes have let in.

    Args:
        intake: Of the app.
        allow_system: Whether a page may send system messages.
    """

    def __init__(self, intake: Intake, *, allow_system: bool) -> None:
        self._intake = intake
        self._allow_system = allow_system

    async def ask(self, request: Request, body: Mapping[str, Any]) -> Started:
        """Have a task for the last message: asked again, it is the same one.

        It is another one where the page wants another answer, where the message was edited, and
        where the answer failed or was cancelled.

        Raises:
            BadRequestError: The message is known, and was another one (409).
            SubmitError: The request can't be served, or was not queued.
        """
        digest = _digest(make_task(body, allow_system=self._allow_system))
        chat, question = body.get("id"), find_question(body["messages"])
        if not chat:
            return await self._intake.start(request, await self._make(request, body, digest))
        ids = await self._intake.find_ids(request)

        async def note(task_id: str) -> None:
            # Before there is the task: a chat must not lead to an answer of before meanwhile.
            await (await self._intake.open()).store.chats.point(ids.find("chat", chat), task_id)

        if question is None or body.get("trigger") == "regenerate-message":
            spec = await self._make(request, body, digest)
            return await self._intake.start(request, spec, note=note)
        chosen = _name_message(chat, question)
        known = await self._read_known(ids.find(_KIND, chosen))
        if body.get("messageId") == question and known and _digest_of(known) != digest:
            chosen = _name_message(chat, question, digest)  # it was edited
            known = await self._read_known(ids.find(_KIND, chosen))
        while _digest_of(known) == digest and await self._came_to_nothing(ids.find(_KIND, chosen)):
            chosen = ids.find(_KIND, chosen)
            known = await self._read_known(ids.find(_KIND, chosen))
        if known and _digest_of(known) == digest:
            spec = TaskSpec.recall(known)  # what answers of before are depends on when it is asked
        else:
            spec = await self._make(request, body, digest)
        return await self._intake.start(request, spec, kind=_KIND, chosen=chosen, note=note)

    async def _make(self, request: Request, body: Mapping[str, Any], digest: str) -> TaskSpec:
        answers = await self._read_answers(request, find_doubtful(body["messages"]))
        return make_task(body, answers=answers, allow_system=self._allow_system, digest=digest)

    async def _read_known(self, task_id: str) -> dict[str, Any] | None:
        try:
            return await self._intake.read_input(task_id)
        except StreamExpiredError:
            return None

    async def _came_to_nothing(self, task_id: str) -> bool:
        record = await (await self._intake.open()).tasks.read(task_id)
        return record.status in ("failed", "cancelled") and record.code != "not_queued"

    async def find(self, request: Request, chat_id: str) -> str | None:
        """Return the latest task of a chat, or the task itself, by its id; None: there is none.

        Raises:
            StreamExpiredError: That task is not there, or not the caller's.
        """
        ids = await self._intake.find_ids(request)
        found = await (await self._intake.open()).store.chats.find(ids.find("chat", chat_id))
        if found is not None:
            try:
                return (await self._intake.read(request, found)).task_id
            except StreamExpiredError:
                return None
        if is_task_id(chat_id):
            return (await self._intake.read(request, chat_id)).task_id
        return None

    async def _read_answers(
        self, request: Request, task_ids: Sequence[str]
    ) -> dict[str, str | None]:
        """Return what answers were, by the task; those that are forgotten are left out."""
        answers: dict[str, str | None] = {}
        for task_id in task_ids:
            with contextlib.suppress(StreamExpiredError):
                answer = await self._intake.read_answer(request, task_id)
                answers[task_id] = answer["content"] if answer else None
        return answers


def _name_message(*parts: str) -> str:
    """Return the id of a message in its chat; what stands for it where it is long."""
    name = json.dumps(parts)  # in which a Chinese character is six
    return name if len(name) <= MAX_ID_CHARS else hashlib.sha256(name.encode()).hexdigest()


def _digest(spec: TaskSpec) -> str:
    """Return what a page asks, as it tells it, in short."""
    return hashlib.sha256(json.dumps(spec.to_wire(), sort_keys=True).encode()).hexdigest()


def _digest_of(known: Mapping[str, Any] | None) -> str | None:
    told = (known or {}).get("metadata", {}).get("ai_sdk", {})
    return told.get("asked") if isinstance(told, dict) else None
