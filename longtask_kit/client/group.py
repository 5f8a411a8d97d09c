"""`TaskGroup`: many tasks, asked and awaited as one."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from longtask_kit.client.frame import make_columns, make_frame, read_origin
from longtask_kit.client.group_options import check_budget
from longtask_kit.client.group_votes import GroupVotes, list_shares, read_prompt
from longtask_kit.client.group_watch import STAGES, GroupWatch, describe_error, is_over
from longtask_kit.client.task import Task
from longtask_kit.errors import (
    ConfigError,
    LongTaskError,
    TaskCancelledError,
    TaskFailedError,
    TaskIncompleteError,
    TaskTimeoutError,
    add_cure,
)
from longtask_kit.log.budgets import describe_budget
from longtask_kit.log.events import Usage
from longtask_kit.log.text import make_printable
from longtask_kit.submit.schema import parse_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Sequence

    from longtask_kit.client.door import Door
    from longtask_kit.client.rows import Row
    from longtask_kit.log.changes import Change
    from longtask_kit.log.groups import GroupRecord
    from longtask_kit.submit.schema import Schema
    from longtask_kit.submit.spec import TaskSpec

_LOOK_S = 10.0


class TaskGroup(GroupVotes):
    """The tasks of many rows; made by `kit.map()`, `compare()` or `attach_group()`.

    It lives in the queue and in Redis, not in this object: losing the object loses nothing.

    Attributes:
        id: Hand it to `kit.attach_group()` in another kernel, tomorrow.
        name: As it was given to `kit.map()`; empty if it was not.
    """

    def __init__(
        self,
        door: Door,
        record: GroupRecord,
        *,
        rows: Sequence[Row] | None = None,
        source: object = None,
        schema: Schema | None = None,
    ) -> None:
        self.id = record.group_id
        self.name = record.name
        self._door = door
        self._origin = read_origin(source)  # so that a frame of its kind is given back
        self._schema = schema
        self._tasks: dict[str, Task] = {}
        self._texts: dict[str, str] = {}
        self._watch = GroupWatch(door)
        self._take_record(record, rows)

    def _take_record(self, record: GroupRecord, rows: Sequence[Row] | None) -> None:
        """Have these rows, whichever there were before."""
        self._record = record
        self._rows = rows
        # Where each task's first row is: of ten thousand rows none is looked for.
        self._places = {i: at for at, i in reversed(list(enumerate(record.rows))) if i}
        self._ids = sorted(self._places, key=self._places.__getitem__)
        self._watch.take_ids(self._ids)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        counts = self.counts
        parts = [f"{counts[stage]} {stage}" for stage in ("done", "running", "waiting", "failed")]
        note = "; incomplete: its budget is spent" if self._find_parked() else ""
        return f"<TaskGroup{name} {self.id} {len(self)} rows: {', '.join(parts)}{note}>"

    def __len__(self) -> int:
        return len(self._record.rows)

    @property
    def rows(self) -> list[Any]:
        """The rows as they were given; in another kernel what each task that is there was asked."""
        if self._rows is not None:
            return [row.cells for row in self._rows for _ in range(self._samples)]
        asked = [task and read_prompt(task) for task in self.tasks]
        if not (models := self.models):
            return asked
        return [{"prompt": p, "model": models[at % len(models)]} for at, p in enumerate(asked)]

    @property
    def tasks(self) -> list[Task | None]:
        """The task of each row, equal rows having the same; None for a row that was left out."""
        return [
            None if task_id is None else self._find_task(task_id) for task_id in self._record.rows
        ]

    @property
    def counts(self) -> Counter[str]:
        """How many rows are `done`, `running`, `waiting`, `failed`, and `skipped`."""
        self._look()
        return self._count_stages()

    @property
    def errors(self) -> list[str | None]:
        """What went wrong, row by row; None where nothing did."""
        self._look()
        return self._list_errors()

    @property
    def usage(self) -> Usage:
        """Tokens of all answers so far, each task counted once."""
        self._look()
        return self._sum_usage()

    @property
    def cost(self) -> float | None:
        """What that cost, by the `prices` of `kit.map()`; None without them, 0 of a replay."""
        self._look()
        return self._sum_cost()

    def _list_errors(self) -> list[str | None]:
        return [describe_error(self._state_of(task_id)) for task_id in self._record.rows]

    def _count_stages(self) -> Counter[str]:
        return Counter(self._stage_of(task_id) for task_id in self._record.rows)

    def _sum_usage(self) -> Usage:
        used = [s.usage for s in self._watch.states.values() if s.usage is not None]
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in used),
            completion_tokens=sum(usage.completion_tokens for usage in used),
            total_tokens=sum(usage.total_tokens for usage in used),
        )

    def results(
        self, timeout_s: float | None = None, *, errors: Literal["raise", "return"] = "raise"
    ) -> list[Any]:
        """Wait for all and return the answers in the order of the rows.

        An Interrupt ends the wait; the tasks go on.

        Args:
            timeout_s: Longest wait in seconds, or None for no limit.
            errors: `raise` the first failure, or `return` an error in its row's place.

        Returns:
            Text of each row, with a schema what it makes of it; None for a row that was left out.
            With `n` samples, as many for each row, one after another.

        Raises:
            TaskFailedError: A row failed, or was cancelled; `group.errors` has them all.
            TaskIncompleteError: The budget is spent, and rows wait: `resume` goes on with them.
            TaskTimeoutError: Some still run; call again to wait on.
            StreamSilentError: No service answered for too long.
        """
        with self._watch.reading():
            if self._find_parked():  # as far as was known; somebody may have resumed it
                self._look()
            is_met = self._watch.wait_until(self._is_settled, timeout_s=timeout_s)
        return self._read_results(errors, is_met=is_met, timeout_s=timeout_s)

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self._wait().__await__()

    async def _wait(self) -> list[Any]:
        with self._watch.reading():
            while not self._is_settled():  # noqa: ASYNC110 - another thread's news
                await asyncio.sleep(0.1)  # an Interrupt is delivered between two steps
        return await asyncio.to_thread(self._read_results, "raise", is_met=True, timeout_s=None)

    async def as_completed(self) -> AsyncIterator[Task]:
        """Yield each task when it has ended, whichever way, the first first."""
        told: set[str] = set()
        with self._watch.reading():
            while len(told) < len(self._ids):
                states = self._watch.states
                fresh = [i for i in self._ids if i not in told and is_over(states.get(i))]
                for task_id in fresh:
                    yield self._find_task(task_id)
                told |= set(fresh)
                if not fresh and self._is_settled():
                    self._raise_error()
                    raise self._make_incomplete("", len(self._find_parked()))
                await asyncio.sleep(0 if fresh else 0.1)

    def to_frame(self) -> Any:  # noqa: ANN401 - of pandas or polars
        """Return a DataFrame: the rows' own columns, then `answer`, `status`, `error` and more.

        Of the kind that was given; else pandas', which must be installed.

        Raises:
            ConfigError: There is no pandas.
        """
        rows = self._samples * (len(self.models) or 1)  # of each that was given
        return make_frame(self._origin, self._list_columns(), samples=rows)

    def _list_columns(self) -> dict[str, list[Any]]:
        """Return the columns of `to_frame`, by their names."""
        self._look()
        self._read_texts()
        return make_columns(self.rows, self._list_answers(), samples=self._samples)

    def retry_failed(self) -> int:
        """Run the failed and cancelled tasks again; returns how many there are.

        Raises:
            SubmitError: The queue refused; call it again.
        """
        self._look()
        failed = self._find_failed()
        self._watch.retry(failed)
        return len(failed)

    def resume(self, *, budget_tokens: int | None = None, budget_cost: float | None = None) -> None:
        """Go on with a group that stopped as its budget was spent; nothing is paid twice.

        Args:
            budget_tokens: What it may spend in all, with what it has spent: tokens.
            budget_cost: The same in money, by the `prices` given to `kit.map()`.

        Raises:
            ConfigError: None is given, or both.
            SubmitError: The group has no budget or has spent as much, or a cost has no prices.
        """
        check_budget(budget_tokens, budget_cost)
        if budget_tokens is None and budget_cost is None:
            raise ConfigError("resume() needs a budget: resume(budget_tokens=400_000).")
        self._record = self._door.ask(
            lambda backend: backend.groups.resume(
                self.id, budget_tokens=budget_tokens, budget_cost=budget_cost
            ),
            saying="going on with what waits",
        )
        self._watch.forget(self._find_parked())

    def cancel(self) -> None:
        """Cancel all that has not ended: at once what waits, what runs at its next flush."""
        self._look()
        left, saying = self._find_open(), "cancelling what has not ended"
        self._door.ask(lambda backend: backend.groups.cancel(left), saying=saying)

    @property
    def _samples(self) -> int:
        return int(self._record.options.get("samples", 1))

    def _look(self) -> None:
        """Have each task's state known, and followed from here on."""
        self._watch.catch_up(timeout_s=_LOOK_S)

    def _find_failed(self) -> list[str]:
        states = self._watch.states
        return [
            i for i in self._ids if (s := states.get(i)) and STAGES.get(s.status or "") == "failed"
        ]

    def _find_parked(self) -> list[str]:
        states = self._watch.states
        return [i for i in self._ids if (s := states.get(i)) and s.is_parked]

    def _find_open(self) -> list[str]:
        return [i for i in self._ids if not is_over(self._watch.states.get(i))]

    def _list_prompts(self) -> list[str]:
        """Return what is asked for each row, the beginning of it: nothing is read."""
        if self._rows is not None:
            asked = [row.spec.prompt if row.spec else "" for row in self._rows]
            return [prompt for prompt in asked for _ in range(self._samples)]
        states = [self._state_of(task_id) for task_id in self._record.rows]
        return [(state and state.prompt) or "" for state in states]

    def _list_answers(self) -> list[dict[str, Any]]:
        """Return what has become of each row, as a frame has it, of the texts that were read."""
        answers = []
        for task_id in self._record.rows:
            state = self._state_of(task_id)
            usage = state.usage if state else None
            answers.append(
                {
                    "answer": self._read_answer(self._texts.get(task_id or "")),
                    "status": self._status_of(task_id),
                    "error": describe_error(state, has_text=task_id in self._texts),
                    "finish_reason": state.finish_reason if state else None,
                    "prompt_tokens": usage.prompt_tokens if usage else None,
                    "completion_tokens": usage.completion_tokens if usage else None,
                    "task_id": task_id,
                }
            )
        for answer, share in zip(answers, list_shares(self._record), strict=False):
            answer["vote"] = share
        return answers

    def _is_settled(self) -> bool:
        return self._watch.is_settled or self._watch.error is not None

    def _read_results(self, errors: str, *, is_met: bool, timeout_s: float | None) -> list[Any]:
        if errors not in ("raise", "return"):
            raise ConfigError(f"`errors` is {errors!r}: expected 'raise' or 'return'.")
        self._raise_error()
        if not is_met:
            left = self._find_open()
            raise TaskTimeoutError(
                f"{len(left)} of {len(self._ids)} tasks still run or wait after {timeout_s:g} s. "
                "They go on: call results() again, or cancel().",
                task_id=left[0] if left else "",
            )
        texts, parked = self._read_texts(), len(self._find_parked())
        failed = sum(self._status_of(i) in ("failed", "cancelled") for i in self._record.rows)
        results: list[Any] = []
        for position, task_id in enumerate(self._record.rows):
            error = self._find_error(position, task_id, failed=failed, parked=parked)
            if error is not None and errors == "raise":
                raise error
            results.append(error or self._read_answer(texts.get(task_id or "")))
        return results

    def _find_error(
        self, position: int, task_id: str | None, *, failed: int, parked: int
    ) -> LongTaskError | None:
        state = self._state_of(task_id)
        has_text = task_id in self._texts
        if task_id is None or state is None or (state.status == "completed" and has_text):
            return None
        if state.is_parked:
            return self._make_incomplete(f"Row {position} ({task_id}) waits: ", parked)
        why = describe_error(state, has_text=has_text)
        why = make_printable((add_cure(why, state.code) if state.status == "failed" else why) or "")
        rest = f" {failed} rows failed: group.errors has all, group.retry_failed() runs them again."
        has_others = failed > 1 and state.status in ("failed", "cancelled")
        message = f"Row {position} ({task_id}): {why}{rest if has_others else ''}"
        if state.status == "cancelled":
            return TaskCancelledError(message, task_id=task_id)
        return TaskFailedError(
            message, task_id=task_id, code=state.code or "", attempt=state.attempt
        )

    def _make_incomplete(self, place: str, parked: int) -> TaskIncompleteError:
        return TaskIncompleteError(
            f"{place}the budget of {describe_budget(self._record.options)} is spent, and "
            f"{parked} of {len(self._ids)} tasks wait. "
            "group.resume(budget_tokens=…) with a higher one goes on; what is answered is kept.",
            task_id="",
            finish_reason="budget",
        )

    def _raise_error(self) -> None:
        if self._watch.error is not None:
            raise self._watch.error

    def _read_answer(self, text: str | None) -> Any:  # noqa: ANN401
        if text is None or self._schema is None:
            return text
        try:
            return parse_answer(text, self._schema)
        except ValueError:
            return None  # the task's `parse_error` says why

    def _read_texts(self) -> dict[str, str]:
        """Return the text of each task that has completed; what was read once is kept."""
        missing = self._find_unread()
        if missing:
            self._texts |= self._door.ask(lambda backend: backend.groups.read_texts(missing))
        return self._texts

    def _find_unread(self) -> list[str]:
        states = self._watch.states
        done = [i for i in self._ids if (s := states.get(i)) and s.status == "completed"]
        return [task_id for task_id in done if task_id not in self._texts]

    def _find_task(self, task_id: str) -> Task:
        if task_id not in self._tasks:
            spec = self._find_spec(task_id)
            self._tasks[task_id] = Task(task_id, door=self._door, spec=spec, schema=self._schema)
        return self._tasks[task_id]

    def _find_spec(self, task_id: str) -> TaskSpec | None:
        if self._rows is None:
            return None
        return self._rows[self._places[task_id] // self._samples].spec

    def _state_of(self, task_id: str | None) -> Change | None:
        return None if task_id is None else self._watch.states.get(task_id)

    def _status_of(self, task_id: str | None) -> str:
        if task_id is None:
            return "skipped"
        state = self._state_of(task_id)
        return (state.status or "gone") if state else "pending"

    def _stage_of(self, task_id: str | None) -> str:
        status = self._status_of(task_id)
        return status if status == "skipped" else STAGES.get(status, "failed")
