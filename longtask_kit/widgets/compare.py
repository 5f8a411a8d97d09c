"""`CompareOutput`: models side by side, live: their answers as they grow, votes, a prompt anew.

A page says which prompts it shows; the logs of these are followed, and only their changes are sent,
of a text that grows its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import ConfigError
from longtask_kit.log.groups import TIE
from longtask_kit.submit.spec import TaskSpec
from longtask_kit.widgets.compare_facts import (
    PROMPTS_A_PAGE,
    Prompt,
    count_prompts,
    list_models,
    list_order,
    mark,
    read_prompt,
)
from longtask_kit.widgets.compare_saved import make_compared
from longtask_kit.widgets.group import _STATIC, GroupOutput
from longtask_kit.widgets.group_display import read_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.client.feed import FeedState
    from longtask_kit.client.group import TaskGroup
    from longtask_kit.widgets.group import View

_MOST_SEEN = 12  # prompts of a view whose answers are followed
_MAX_PROMPT_CHARS = 1_000_000


@dataclass(slots=True)
class _View:
    """A view in a page: its prompts, and what it was last sent of them."""

    output: CompareOutput
    begin: int
    seen: tuple[int, ...] = ()
    sent: dict[int, Prompt] = field(default_factory=dict)

    def update(self) -> dict[str, Any] | None:
        """Return what has changed of the prompts that are seen, or was never sent."""
        total = count_prompts(self.output.group)
        shown = range(self.begin, min(total, self.begin + PROMPTS_A_PAGE))
        asked = [n for n in shown if n in self.seen or n not in self.sent]
        fresh = self.output.read_prompts(asked)
        changed = [wire for p in fresh if (wire := p.to_wire(self.sent.get(p.number)))]
        self.sent |= {prompt.number: prompt for prompt in fresh}
        if not changed:
            return None
        return {"begin": self.begin, "total": total, "rows": changed}

    def show(self) -> dict[str, Any]:
        """Return all of it."""
        self.sent = {}
        return self.update() or {"begin": 0, "total": 0, "rows": []}


class CompareOutput(GroupOutput):
    """The live output area of a comparison.

    Args:
        group: What to show, made by `kit.compare()`.
    """

    _esm = _STATIC / "compare.js"
    _css = _STATIC / "compare.css"

    def __init__(self, group: TaskGroup) -> None:
        self._is_blind = bool(group._record.options.get("blind"))
        self._is_marking = False
        self._marked: dict[int, tuple[Prompt, Prompt]] = {}
        super().__init__(group)

    def __repr__(self) -> str:
        return f"CompareOutput({self.group!r})"

    def make_bundle(self) -> dict[str, str]:
        """Return the static form; once all have ended their whole texts are asked for."""
        if self.group._watch.is_over and self.group._find_unread():
            self.group._read_texts()
        with self._lock:
            return make_compared(self.group, read_facts(self.group))

    def read_prompts(self, numbers: Sequence[int]) -> list[Prompt]:
        """Return prompts as they stand."""
        prompts = self.group._list_prompts()
        read = [read_prompt(self.group, n, prompts, is_blind=self._is_blind) for n in numbers]
        return [self._mark(prompt) for prompt in read] if self._is_marking else read

    def _mark(self, prompt: Prompt) -> Prompt:
        """Return a prompt with its differences; they are looked for once."""
        known = self._marked.get(prompt.number)
        if known is None or known[0] != prompt:
            known = self._marked[prompt.number] = (prompt, mark(prompt))
        return known[1]

    def _make_view(self, asked: dict[str, Any]) -> View:
        begin = asked.get("begin")
        view = _View(self, begin if isinstance(begin, int) and begin >= 0 else 0)
        self._see(view, asked.get("seen"))
        return view

    def _see(self, view: _View, seen: object) -> None:
        """Have the answers to these prompts followed."""
        total = count_prompts(self.group)
        asked = seen if isinstance(seen, list) else []
        numbers = [n for n in asked if isinstance(n, int) and 0 <= n < total]
        view.seen = tuple(numbers[:_MOST_SEEN])
        self._follow(view.seen)

    def _follow(self, numbers: Sequence[int]) -> None:
        models, rows = len(self.group.models), self.group._record.rows
        ids = [i for n in numbers for i in rows[n * models : (n + 1) * models] if i]
        try:
            for task in map(self.group._find_task, ids):
                task._feed.listen(self._hear)
                task._feed.follow()
        except ConfigError as exc:
            self._tell(str(exc))

    def _hear(self, _: FeedState) -> None:
        self._schedule_draw()

    def _describe(self) -> dict[str, Any]:
        facts = super()._describe()
        return facts | {
            "title": self.group.name or "comparison",
            "models": list_models(self.group, is_blind=self._is_blind),
            "isBlind": self._is_blind,
            "isMarking": self._is_marking,
            "pageSize": PROMPTS_A_PAGE,
        }

    def _act(self, name: str, message: dict[str, Any]) -> None:
        view, number = self._views.get(name), message.get("row")
        match message.get("t"):
            case "seen" if isinstance(view, _View):
                self._see(view, message.get("seen"))
                self._schedule_draw()
            case "blind":
                self._is_blind = not self._is_blind
                self._draw_anew()
            case "marks":
                self._is_marking = not self._is_marking
                self._draw_anew()
            case "vote" if isinstance(number, int):
                self._start(lambda: self._vote(number, message.get("at")))
            case "edit" if isinstance(number, int):
                self._start(lambda: self._send_prompt(name, number))
            case "anew" if isinstance(number, int):
                text = str(message.get("prompt"))[:_MAX_PROMPT_CHARS]
                self._start(lambda: self._ask_anew(number, text))
            case _:
                super()._act(name, message)

    def _draw_anew(self) -> None:
        """Send every view all of its prompts: each has changed."""
        with self._lock:
            for view in self._views.values():
                if isinstance(view, _View):
                    view.sent = {}
        self._schedule_draw()

    async def _vote(self, number: int, at: object) -> None:
        """Take a vote for an answer by its place; for one that has it, it is taken back."""
        models = self.group.models
        model = None
        if at == TIE:
            model = TIE
        elif isinstance(at, int) and 0 <= at < len(models):
            model = models[list_order(self.group, number, is_blind=self._is_blind)[at]]
        await self.group._vote(self.group._door.backend, number, model)
        self._schedule_draw()

    async def _send_prompt(self, name: str, number: int) -> None:
        """Send all of a prompt, to be written in other words."""
        [task_id, *_] = [i for i in self.group._find_tasks(number) if i]
        spec = TaskSpec.from_wire(await self.group._door.backend.read_input(task_id))
        self.send({"t": "prompt", "v": name, "row": number, "text": spec.prompt})

    async def _ask_anew(self, number: int, text: str) -> None:
        await self.group._ask_anew(self.group._door.backend, number, text)
        self._follow([number])
        self._schedule_draw()

    async def _retry_failed(self) -> None:
        failed = self.group._find_failed()
        await super()._retry_failed()
        for task in map(self.group._find_task, failed):
            if task._feed.state.is_over:
                task._feed.reopen()
