"""A conversation: each message a task of its own, whose messages hold what was said before."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from longtask_kit.client.task import Task, answer_calls, submit_spec
from longtask_kit.errors import LongTaskError, SubmitError
from longtask_kit.submit.request import change_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.client.door import Door
    from longtask_kit.submit.schema import Schema
    from longtask_kit.submit.spec import TaskSpec


class Chat:
    """A conversation with a model; made by `kit.chat()`.

    A turn that failed or was cancelled is left out of what the model sees next.

    Attributes:
        tasks: The turns so far, each a task.
    """

    def __init__(self, door: Door, spec: TaskSpec, *, schema: Schema | None = None) -> None:
        self.tasks: list[Task] = []
        self._door = door
        self._spec = spec  # of a first message that nobody has asked
        self._schema = schema
        self._before: list[dict[str, Any]] = []  # said before the first of them
        self._asked: list[list[dict[str, Any]]] = []  # of each turn, what was new in it
        self._sending = threading.Lock()

    def __repr__(self) -> str:
        return f"<Chat of {len(self.tasks)} turns, {len(self.messages)} messages>"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What has been said, the system message first, by the turns that have completed."""
        system = self._spec.system
        messages = [] if system is None else [{"role": "system", "content": system}]
        return messages + self._list_said(len(self.tasks))

    @classmethod
    def _resume(cls, task: Task) -> Chat:
        """Return the conversation that a task is the last turn of."""
        said, system = task.messages, None
        if said[0]["role"] == "system" and isinstance(said[0]["content"], str):
            system = said.pop(0)["content"]
        asked = max((at for at, message in enumerate(said) if message["role"] == "user"), default=0)
        spec = replace(task.spec, prompt="…", messages=None, system=system)
        chat = cls(task._door, spec, schema=task._schema)
        chat.tasks, chat._before, chat._asked = [task], said[:asked], [said[asked:]]
        return chat

    def send(
        self,
        prompt: str | Sequence[Mapping[str, Any]] | None = None,
        *,
        tool_results: Mapping[str, Any] | None = None,
        **changes: Any,  # noqa: ANN401 - submit's own
    ) -> Task:
        """Say the next thing; waits for the answer before, if it is under way.

        Args:
            prompt: Text, or a list of content parts.
            tool_results: Of each tool call of the answer before, by its id: text, or JSON.
            changes: What `submit` takes, where this message differs from the chat's.

        Raises:
            SubmitError: As `submit`; or a tool call of the answer before has no result.
        """
        with self._sending:
            asked = self._answer_last(tool_results or {})
            if prompt is not None:
                asked.append({"role": "user", "content": prompt})
            if not asked:
                raise SubmitError("send() needs a prompt, tool_results, or both.")
            return self._ask(len(self.tasks), asked, changes)

    def _ask_again(self, turn: int, prompt: str | None = None, **changes: Any) -> Task:  # noqa: ANN401
        """Ask a turn anew, perhaps in other words or of another model; it and what followed go."""
        with self._sending:
            asked = self._asked[turn]
            if prompt is not None:
                asked = reword(asked, prompt)
            return self._ask(turn, asked, changes)

    def _ask(self, turn: int, asked: list[dict[str, Any]], changes: dict[str, Any]) -> Task:
        said = {"messages": [*self._list_said(turn), *asked]}
        spec, schema = change_spec(self._spec, self._schema, said, changes, call="send()")
        asked = spec.to_messages()[-len(asked) :]  # as it was sent, whoever changes his parts since
        task = submit_spec(self._door, spec, schema=schema)
        # Not before it is queued: a refusal costs no turn.
        self.tasks[turn:], self._asked[turn:] = [task], [asked]
        return task

    def _list_said(self, turns: int) -> list[dict[str, Any]]:
        """Return what the first turns said, those that have completed."""
        said = [*self._before]
        for task, asked in zip(self.tasks[:turns], self._asked, strict=False):
            if task.snapshot().status == "completed":
                said += [*asked, task.message]
        return said

    def _answer_last(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Wait for the turn before, and return the messages that answer its tool calls."""
        if not self.tasks:
            return answer_calls([], results)
        try:
            self.tasks[-1].result()
        except LongTaskError:  # that turn is left out
            return answer_calls([], results)
        return answer_calls(self.tasks[-1].tool_calls, results)


def reword(messages: Sequence[Mapping[str, Any]], text: str) -> list[dict[str, Any]]:
    """Return messages whose last question has another text; its images and files stay."""
    asked = [at for at, message in enumerate(messages) if message["role"] == "user"]
    at = asked[-1] if asked else len(messages)
    question: dict[str, Any] = dict(messages[at]) if asked else {"role": "user", "content": ""}
    parts: Any = question["content"]
    rest = [] if isinstance(parts, str) else [part for part in parts if part["type"] != "text"]
    question["content"] = [{"type": "text", "text": text}, *rest] if rest else text
    return [*(dict(message) for message in messages[:at]), question]
