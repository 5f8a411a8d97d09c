"""What the view of a comparison says: its models, its prompts, their answers; values only.

The protocol with `js/src/compare.js`: it draws what the `to_wire` here name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from longtask_kit.client.group_votes import count_costs, find_key, find_prices, list_votes
from longtask_kit.client.group_watch import STAGES
from longtask_kit.client.prices import count_cost
from longtask_kit.log.groups import TIE
from longtask_kit.log.text import make_printable
from longtask_kit.widgets.differences import find_differences
from longtask_kit.widgets.facts import (
    GONE,
    Figure,
    describe_figures,
    describe_note,
    format_duration,
    read_facts,
)
from longtask_kit.widgets.group_facts import describe_end, format_cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.client.group import TaskGroup
    from longtask_kit.client.prices import Price
    from longtask_kit.client.task import Task
    from longtask_kit.log.changes import Change
    from longtask_kit.log.transcript import Transcript

PROMPTS_A_PAGE = 25
_PROMPT_CHARS = 600
_KINDS = {"running": "run", "waiting": "wait", "failed": "bad", "done": "good"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one model says to a prompt.

    Attributes:
        name: The model's, or a letter while nobody may know.
        word: Its state, where that is none that its colour tells.
        kind: Its colour.
        note: Why there is no answer, or not yet.
        is_whole: Whether `text` is all of the answer, and not what it begins with.
        task_id: None where its prompt was left out, or while nobody may know.
    """

    name: str
    word: str
    kind: str
    figures: tuple[Figure, ...] = ()
    note: str = ""
    text: str = ""
    is_whole: bool = False
    task_id: str | None = None

    def to_wire(self, before: Answer | None = None) -> dict[str, Any] | None:
        """Return what the page draws, of a text that grew its end; None where nothing changed."""
        if self == before:
            return None
        wire: dict[str, Any] = {
            "name": self.name,
            "word": self.word,
            "kind": self.kind,
            "figures": self.figures,
            "note": self.note,
            "id": self.task_id,
        }
        if before is not None and self.text.startswith(before.text):
            return wire | {"add": self.text[len(before.text) :]}
        return wire | {"text": self.text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt and its answers, in the order in which they are shown.

    Attributes:
        vote: Which answer is the best, by its place, or `tie`; None: nobody has said.
        marks: Of each answer where it differs, (begin, end) as JavaScript counts; None: not asked.
    """

    number: int
    prompt: str
    answers: tuple[Answer, ...]
    vote: int | str | None = None
    marks: tuple[tuple[tuple[int, int], ...], ...] | None = None

    def to_wire(self, before: Prompt | None = None) -> dict[str, Any] | None:
        """Return what has changed; None where nothing has."""
        if self == before:
            return None
        olds = before.answers if before else (None,) * len(self.answers)
        pairs = zip(self.answers, olds, strict=True)
        return {
            "row": self.number,
            "prompt": self.prompt,
            "vote": self.vote,
            "marks": self.marks,
            "answers": [answer.to_wire(old) for answer, old in pairs],
        }


def order_answers(group_id: str, number: int, count: int) -> list[int]:
    """Return the models of a prompt in an order that tells nothing, the same each time."""

    def draw(at: int) -> bytes:
        return hashlib.sha256(f"{group_id} {number} {at}".encode()).digest()

    return sorted(range(count), key=draw)


def letter(at: int) -> str:
    """Return what stands for a model's name: A, B and so on."""
    return chr(ord("A") + at)


def count_prompts(group: TaskGroup) -> int:
    """Return how many prompts a comparison has."""
    return len(group._record.rows) // len(group.models)


def list_order(group: TaskGroup, number: int, *, is_blind: bool) -> list[int]:
    """Return which models stand where."""
    count = len(group.models)
    return order_answers(group.id, number, count) if is_blind else list(range(count))


def read_prompt(
    group: TaskGroup,
    number: int,
    prompts: Sequence[str],
    *,
    is_blind: bool = False,
    is_saved: bool = False,
) -> Prompt:
    """Return a prompt with its answers as far as they are known; nothing is asked.

    Args:
        group: The comparison.
        number: Of the prompt, from 0 on.
        prompts: What is asked for each row, as far as it is known.
        is_blind: Names and figures are hidden until somebody has voted.
        is_saved: It is read later: no times and rates.
    """
    models = group.models
    rows = slice(number * len(models), (number + 1) * len(models))
    tasks = group._record.rows[rows]
    order = list_order(group, number, is_blind=is_blind)
    vote: int | str | None = group._record.votes.get(find_key(tasks))
    if vote is not None and vote != TIE:
        vote = order.index(tasks.index(vote)) if vote in tasks else None
    prices = find_prices(group._record)
    answers = [_read_answer(group, tasks[at], models[at], prices, is_saved) for at in order]
    if is_blind and vote is None:
        answers = [_hide(answer, at) for at, answer in enumerate(answers)]
    prompt = next(filter(None, prompts[rows]), "")  # of a task that was deleted it is not known
    missing = GONE if any(tasks) else "left out: empty"
    shown = make_printable(prompt[:_PROMPT_CHARS]) if prompt else missing
    return Prompt(number=number, prompt=shown, answers=tuple(answers), vote=vote)


def _hide(answer: Answer, at: int) -> Answer:
    """Return an answer of which nobody can tell whose it is."""
    return replace(answer, name=letter(at), figures=(), task_id=None)


def _read_answer(
    group: TaskGroup,
    task_id: str | None,
    model: str,
    prices: Mapping[str, Price],
    is_saved: bool,
) -> Answer:
    if task_id is None:
        return Answer(name=model, word="skipped", kind="quiet")
    state, price = group._watch.states.get(task_id), prices.get(model)
    task = group._tasks.get(task_id)
    if task is not None and not task._feed.is_empty and not is_saved:
        return _read_followed(task, model, price)
    status = (state.status or "gone") if state else "pending"
    stage = STAGES.get(status, "failed")
    end = describe_end(state)
    text = group._texts.get(task_id)
    if text is None and task is not None and not task._feed.is_empty:
        text = task._feed.read(lambda known: known.text)
    is_whole = text is not None
    return Answer(
        name=model,
        word=end or ("" if stage == "done" else stage),
        kind="warn" if end else _KINDS[stage],
        figures=_list_known(state, price),
        note=(state.error or status) if state and stage == "failed" else "",
        text=text if text is not None else (state and state.answer) or "",
        is_whole=is_whole,
        task_id=task_id,
    )


def _list_known(state: Change | None, price: Price | None) -> tuple[Figure, ...]:
    """Return what is known of an answer whose log nobody has read; nothing that ages."""
    usage = state.usage if state else None
    if usage is None:
        return ()
    tokens = usage.completion_tokens
    figures = [Figure("", f"{tokens:,}", " token" if tokens == 1 else " tokens")]
    if (cost := count_cost(price, usage)) is not None:
        figures.append(Figure("", format_cost(cost), ""))
    return tuple(figures)


def _read_followed(task: Task, model: str, price: Price | None) -> Answer:
    def look(state: Transcript) -> tuple[str, dict[str, Any]]:
        return state.text, read_facts(state) | {"cost": count_cost(price, state.usage)}

    text, facts = task._feed.read(look)
    word, kind = facts["word"], facts["kind"]
    note = describe_note(facts)
    if task._feed.error is not None:
        word, kind, note = "not followed", "quiet", None
    facts["taskId"] = task.id
    figures = describe_figures(facts)
    if facts["cost"] is not None:
        figures.append(Figure("", format_cost(facts["cost"]), ""))
    return Answer(
        name=model,
        word="" if word in ("completed", "streaming") else word,
        kind=kind,
        figures=tuple(figures),
        note=str(task._feed.error or (" ".join(note).strip() if note else "")),
        text=text,
        is_whole=True,
        task_id=task.id,
    )


def mark(prompt: Prompt) -> Prompt:
    """Return a prompt with the words marked in which its answers differ, once all have ended."""
    if any(a.kind not in ("good", "warn") or not a.is_whole for a in prompt.answers):
        return prompt
    texts = [answer.text for answer in prompt.answers]
    marks = [
        tuple((_count(text[:begin]), _count(text[:end])) for begin, end in spans)
        for text, spans in zip(texts, find_differences(texts), strict=True)
    ]
    return replace(prompt, marks=tuple(marks))


def _count(text: str) -> int:
    """Return a text's length as JavaScript counts it."""
    return len(text) + sum(sign > "\uffff" for sign in text)


def list_models(group: TaskGroup, *, is_blind: bool = False) -> list[dict[str, Any]]:
    """Return the heads of the columns: each model, and figures of all its answers.

    While something is hidden there are letters, since the columns are no model's.
    """
    models, record, states = group.models, group._record, group._watch.states
    if is_blind:
        return [{"name": letter(at), "figures": []} for at in range(len(models))]
    used = {i: state.usage for i, state in states.items() if state.usage}
    wins = Counter(list_votes(record))
    costs = count_costs(record, used)
    found: list[dict[str, Any]] = []
    for at, model in enumerate(models):
        known = [states.get(i or "") for i in record.rows[at :: len(models)]]
        found.append({"name": model, "figures": _describe_model(known, costs[at], wins[model])})
    return found


def _describe_model(states: Sequence[Change | None], cost: float | None, wins: int) -> list[Figure]:
    known = [state for state in states if state is not None]
    tokens = sum(state.usage.completion_tokens for state in known if state.usage)
    times = [state.run_ms for state in known if state.run_ms is not None]
    figures = [Figure("", f"{wins:,}", " vote" if wins == 1 else " votes")] if wins else []
    if tokens:
        figures.append(Figure("", f"{tokens:,}", " tokens"))
    if times:
        figures.append(Figure("mean ", format_duration(sum(times) / len(times)), ""))
    if cost:
        figures.append(Figure("", format_cost(cost), ""))
    return figures
