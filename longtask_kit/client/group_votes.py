"""A group as a comparison of models: its prompts, the votes, a prompt in other words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from longtask_kit.cassettes import is_replayed
from longtask_kit.client.group_shown import GroupShown
from longtask_kit.client.prices import count_cost
from longtask_kit.client.rows import Row
from longtask_kit.errors import ConfigError, StreamExpiredError
from longtask_kit.log.groups import TIE
from longtask_kit.submit.asked import DEFAULT_TTL_S, Asked, Place
from longtask_kit.submit.spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.client.backend import Backend
    from longtask_kit.client.door import Door
    from longtask_kit.client.group_watch import GroupWatch
    from longtask_kit.client.prices import Price
    from longtask_kit.client.task import Task
    from longtask_kit.log.events import Usage
    from longtask_kit.log.groups import GroupRecord


class GroupVotes(GroupShown):
    """What a `TaskGroup` of `kit.compare()` knows beside its rows."""

    id: str
    _door: Door
    _record: GroupRecord
    _rows: Sequence[Row] | None
    _watch: GroupWatch

    def _sum_usage(self) -> Usage:
        raise NotImplementedError

    def _take_record(self, record: GroupRecord, rows: Sequence[Row] | None) -> None:
        raise NotImplementedError

    @property
    def models(self) -> list[str]:
        """The models that are compared; none of a group that `kit.map()` made."""
        return list(self._record.options.get("models", ()))

    @property
    def votes(self) -> list[str | None]:
        """Whose answer was voted the best, prompt by prompt: a model, `tie`, or None.

        As the record has it: another kernel's votes are in it, too.
        """
        self._record = self._door.ask(lambda backend: backend.groups.read(self.id))
        return list_votes(self._record)

    def vote(self, prompt: int, model: str | None) -> None:
        """Say which model's answer to a prompt is the best; it is kept with the group.

        Args:
            prompt: Number of the prompt, from 0 on.
            model: One of `models`, `tie`, or None to take a vote back.

        Raises:
            ConfigError: There is no such prompt or model.
        """
        self._door.ask(lambda backend: self._vote(backend, prompt, model))

    def ask_anew(self, prompt: int, text: str) -> None:
        """Ask in other words: all models, in the place of a prompt; its old answers stay tasks.

        Args:
            prompt: Number of the prompt, from 0 on.
            text: The new one, with which the rest of what was asked stays: system, parameters.

        Raises:
            ConfigError: There is no such prompt.
            SubmitError: The text is empty, or the queue refused.
        """
        self._door.ask(lambda backend: self._ask_anew(backend, prompt, text))

    async def _vote(self, backend: Backend, prompt: int, model: str | None) -> None:
        tasks = self._find_tasks(prompt)
        if model is not None and model != TIE and model not in self.models:
            known = ", ".join([*self.models, TIE])
            raise ConfigError(f"`model` is {model!r:.80}: expected one of {known}, or None.")
        winner = tasks[self.models.index(model)] if model in self.models else model
        key = find_key(tasks)
        await backend.groups.vote(self.id, key, winner)
        others = {k: vote for k, vote in self._record.votes.items() if k != key}
        self._record = replace(self._record, votes=others | ({key: winner} if winner else {}))

    async def _ask_anew(self, backend: Backend, prompt: int, text: str) -> None:
        tasks, models, options = self._find_tasks(prompt), self.models, self._record.options
        begin = prompt * len(models)
        old = TaskSpec.from_wire(await backend.read_input(find_key(tasks)))
        fresh = put_prompt(old, text)
        find = self._door.aim.complete
        specs = [find(fresh.aim(model, None, fresh.api)) for model in models]
        place = options.get("place") or {}
        asked = Asked(
            specs=specs,
            place=Place(model=place.get("model", ""), endpoint=place.get("endpoint", "")),
            options=options,
            ttl_s=options.get("ttlS", DEFAULT_TTL_S),
            group_id=self.id,
            begin=begin,
        )
        mapped = await backend.groups.map(asked)
        fresh_ids = mapped.group.rows[begin : begin + len(models)]
        self._door.tell_of_submit([task_id for task_id in fresh_ids if task_id])
        rows = None if self._rows is None else list(self._rows)
        if rows is not None:
            cells = [dict(row.cells) for row in rows[begin : begin + len(models)]]
            rows[begin : begin + len(models)] = [
                Row(prompt, own.get("prompt"), own | {"prompt": text}, spec)
                for own, spec in zip(cells, specs, strict=True)
            ]
        self._take_record(mapped.group, rows)

    def _sum_cost(self) -> float | None:
        if was_replayed(self._record):
            return 0.0
        if self.models:
            states = self._watch.states.items()
            return sum_cost(self._record, {i: s.usage for i, s in states if s.usage})
        prices = self._record.options.get("prices")
        return count_cost(prices, self._sum_usage()) if prices else None

    def _find_tasks(self, prompt: int) -> list[str | None]:
        """Return the tasks of a prompt."""
        models, rows = self.models, self._record.rows
        if not models:
            raise ConfigError("Votes are for groups of kit.compare(); this one is of kit.map().")
        count = len(rows) // len(models)
        if not isinstance(prompt, int) or not 0 <= prompt < count:
            raise ConfigError(
                f"`prompt` is {prompt!r:.40}: expected a number from 0 to {count - 1}."
            )
        tasks = list(rows[prompt * len(models) : (prompt + 1) * len(models)])
        if find_key(tasks) == "":
            raise ConfigError(f"Prompt {prompt} was left out: it was empty.")
        return tasks


def read_prompt(task: Task) -> str | None:
    """Return what a task was asked; None where it is not there any more: others' rows are."""
    try:
        return task.prompt
    except StreamExpiredError:
        return None


def find_key(tasks: Sequence[str | None]) -> str:
    """Return by what a vote is kept: the first task of a prompt's; '' where there is none."""
    return next((task_id for task_id in tasks if task_id), "")


def list_votes(record: GroupRecord) -> list[str | None]:
    """Return whose answer was voted the best, prompt by prompt."""
    models = record.options.get("models", ())
    if not models:
        return []
    prompts = [record.rows[at : at + len(models)] for at in range(0, len(record.rows), len(models))]
    return [_name_vote(tasks, record.votes.get(find_key(tasks)), models) for tasks in prompts]


def _name_vote(
    tasks: Sequence[str | None], winner: str | None, models: Sequence[str]
) -> str | None:
    if winner is None or winner == TIE:
        return winner
    return models[tasks.index(winner)] if winner in tasks else None


def list_shares(record: GroupRecord) -> list[float | None]:
    """Return each row's share of its prompt's vote: 1 of the best, all alike of a tie."""
    models = record.options.get("models", ())
    return [
        None if vote is None else 1 / len(models) if vote == TIE else float(vote == model)
        for vote in list_votes(record)
        for model in models
    ]


def was_replayed(record: GroupRecord) -> bool:
    """Tell whether a group's answers are recorded ones, all of them: nobody pays twice."""
    place = record.options.get("place") or {}
    return is_replayed(str(place.get("endpoint", "")))


def sum_cost(record: GroupRecord, used: Mapping[str, Usage]) -> float | None:
    """Return what a comparison cost; None where the price of a model is not known.

    Args:
        record: The group's.
        used: Tokens by task.
    """
    by_model = count_costs(record, used)
    return None if None in by_model else sum(cost or 0.0 for cost in by_model)


def find_prices(record: GroupRecord) -> Mapping[str, Price]:
    """Return what each model's answers are paid by; none where they were replayed."""
    return {} if was_replayed(record) else record.options.get("modelPrices") or {}


def count_costs(record: GroupRecord, used: Mapping[str, Usage]) -> list[float | None]:
    """Return what each model cost, None where its price is not known; a task counts once."""
    models, prices = record.options["models"], find_prices(record)
    costs: list[float | None] = []
    for at, model in enumerate(models):
        tasks = {task_id for task_id in record.rows[at :: len(models)] if task_id}
        known = [
            count_cost(prices.get(model), used.get(task_id)) or 0.0 for task_id in sorted(tasks)
        ]
        costs.append(None if model not in prices else sum(known))
    return costs


def put_prompt(spec: TaskSpec, text: str) -> TaskSpec:
    """Return the same with another prompt: of a conversation the last user message."""
    wire = spec.to_wire()
    messages = wire.get("messages")
    if messages is None:
        wire["prompt"] = text
    else:
        last = max(at for at, one in enumerate(messages) if one.get("role") == "user")
        messages[last] = messages[last] | {"content": _put_text(messages[last]["content"], text)}
    return TaskSpec.from_wire(wire)


def _put_text(content: Any, text: str) -> Any:  # noqa: ANN401 - text, or parts
    """Return a message's content with another text: images and files in it stay."""
    if not isinstance(content, list):
        return text
    return [
        *(part for part in content if part.get("type") != "text"),
        {"type": "text", "text": text},
    ]
