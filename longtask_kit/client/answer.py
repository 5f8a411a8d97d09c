"""What a task was asked and has said, as attributes that a person reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from longtask_kit.client.prices import choose_price
from longtask_kit.submit.schema import find_schema, parse_answer
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.client.door import Door
    from longtask_kit.client.prices import Price
    from longtask_kit.log.attempts import Attempt
    from longtask_kit.log.events import Usage
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.transcript import Transcript
    from longtask_kit.submit.schema import Schema


class Answer:
    """A task's question and its answer so far.

    Attributes:
        id: Hand it to `kit.attach()` in another cell, another kernel, tomorrow.
    """

    def __init__(
        self,
        task_id: str,
        door: Door,
        *,
        record: TaskRecord | None,
        spec: TaskSpec | None,
        schema: Schema | None,
    ) -> None:
        self.id = task_id
        self._door = door
        self._record = record
        self._spec = spec
        # All that views need of it: of a task that was found, the prompt's first 200 characters.
        self._brief = spec or TaskSpec.recall(record.wire if record else {})
        self._schema = schema

    def snapshot(self) -> Transcript:
        """Return the state so far in one piece: status, text, attempt, tokens, times."""
        raise NotImplementedError

    @property
    def spec(self) -> TaskSpec:
        """What runs, all of it; of a task that was found it is read when it is first asked for."""
        if self._spec is None:
            wire = self._door.ask(lambda backend: backend.read_input(self.id))
            self._spec = self._brief = TaskSpec.recall(wire)
        return self._spec

    @property
    def _price(self) -> Price | None:
        return choose_price(self._door.aim.prices, self._brief.model or self._door.aim.model)

    @property
    def prompt(self) -> str:
        """What was asked; of a conversation the text of its last user message."""
        return self.spec.prompt

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What was sent to the model, as chat completions have it, the system message first."""
        return self.spec.to_messages()

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, with its tool calls: ready to append to `messages`."""
        state = self.snapshot()
        message: dict[str, Any] = {"role": "assistant", "content": state.text or None}
        if state.tool_calls:
            message["tool_calls"] = state.tool_calls
        if state.refusal:
            message["refusal"] = state.refusal
        return message if len(message) > 2 else message | {"content": state.text}

    @property
    def model(self) -> str | None:
        """The model that was asked for; None is the server's `LONGTASK_MODEL`."""
        return self._brief.model

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What was given to `submit(metadata=…)`."""
        return self.spec.metadata

    @property
    def text(self) -> str:
        """The text of the latest attempt so far; whole once the task has ended."""
        return self.snapshot().text

    @property
    def error(self) -> str | None:
        """What went wrong in the latest attempt, or None."""
        return self.snapshot().error

    @property
    def usage(self) -> Usage | None:
        """Token counts as the model gave them, once completed.

        Of an answer that attempts continued, all that was paid: what the model did not count since
        it was cut is counted by its deltas.
        """
        return self.snapshot().usage

    @property
    def reasoning(self) -> str:
        """What the model thought in the latest attempt so far; empty where it shows none."""
        return self.snapshot().reasoning

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tools that the model wants called, complete, in the shape of chat completions.

        They are never run: call them, then `task.reply(tool_results={id: result})`.
        """
        return self.snapshot().tool_calls

    @property
    def refusal(self) -> str:
        """Why the model would not answer, in its words; empty where it did."""
        return self.snapshot().refusal

    @property
    def data(self) -> dict[str, Any]:
        """The last value of each name that the handler told; `progress` is one."""
        return self.snapshot().data

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped, once completed: `stop`, `length`, `tool_calls` and others."""
        return self.snapshot().finish_reason

    @property
    def created_at(self) -> datetime:
        """When it was submitted, UTC."""
        return self._find_record().created

    @property
    def elapsed_s(self) -> float:
        """Seconds from submit to its end, or until now."""
        ended = self.snapshot().ended or datetime.now(UTC)
        return (ended - self.created_at).total_seconds()

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the latest attempt's start to its first token; None before that."""
        state = self.snapshot()
        if state.first_token is None or state.started is None:
            return None
        return (state.first_token - state.started).total_seconds()

    @property
    def parsed(self) -> Any:  # noqa: ANN401 - what the schema makes of it
        """The answer as `submit(schema=…)` asked for it: a pydantic instance, or JSON.

        None without a schema, before the end, and where the answer is something else: then
        `parse_error` says what is wrong, and `text` is as it came.
        """
        return self._parse()[0]

    @property
    def parse_error(self) -> str | None:
        """Why `parsed` is None, or None."""
        return self._parse()[1]

    @property
    def attempt(self) -> int:
        """Which attempt the text is from; 0 before the first."""
        return self.snapshot().attempt

    @property
    def attempts(self) -> list[Attempt]:
        """Each run so far: why it ended, what it continued, and the tokens that it took."""
        return self.snapshot().attempts

    def _parse(self) -> tuple[Any, str | None]:
        schema = self._schema or find_schema(self.spec.params)
        if schema is None:
            return None, "the task was submitted without a schema"
        state = self.snapshot()
        if state.status != "completed":
            return None, f"the task is {state.status}"
        try:
            return parse_answer(state.text, schema), None
        except ValueError as exc:
            return None, str(exc)

    def _find_record(self) -> TaskRecord:
        return self._record or self._read_record()

    def _read_record(self) -> TaskRecord:
        self._record = self._door.ask(lambda backend: backend.read(self.id))
        return self._record
