"""A group's budget: asked before each call, told after it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import RetryableError, StoreError
from longtask_kit.server.ending import Ending, MustWait
from longtask_kit.server.handlers import Delta, Outcome
from longtask_kit.submit.estimate import estimate_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from longtask_kit.log.attempts import Attempt
    from longtask_kit.log.budgets import BudgetStore
    from longtask_kit.server.handlers import Handler, Said, TaskContext
    from longtask_kit.server.limiter import Estimate

_LOOK_S = 0.25
_LATER_S = 5.0
SPENT = Ending(
    kind="park",
    message="The group's budget is spent: group.resume(budget_tokens=…) goes on with it.",
    code="budget",
)
_GONE = Ending(
    kind="park",
    message="The group is not there any more, nor what it may spend: map its rows again.",
    code="budget",
)
_NEARLY_SPENT = Ending(
    kind="wait",
    message="waits for calls under way: the group's budget is nearly spent",
    code="limit",
    retry_after_s=_LATER_S,
)


def estimate_lost(
    estimate: Estimate, attempts: Sequence[Attempt], *, before: int
) -> tuple[int, int]:
    """Return about what the attempt before this one took, should it have told nobody."""
    if estimate.reads_on:
        return estimate.before
    tokens = next((a.tokens for a in reversed(attempts) if a.number < before), 0)
    return (estimate.prompt, tokens) if tokens else (0, 0)


class Budgeted:
    """A handler that is called while its group's budget lasts.

    Args:
        handler: What is called.
        budgets: Where the budgets are.
        group_id: Whose it is.
        estimate: About what the call takes.
        lost: About what the attempt before took, prompt and answer; counted if it told nothing.
        hold_s: How long it waits for others' calls before it is handed on.
        soon: Has something done without waiting for it.
        keep: Has the group live on.
    """

    def __init__(
        self,
        handler: Handler,
        budgets: BudgetStore,
        *,
        group_id: str,
        estimate: Estimate,
        lost: tuple[int, int],
        hold_s: float,
        soon: Callable[[Coroutine[Any, Any, None]], object],
        keep: Callable[[str], None],
    ) -> None:
        self._handler, self._budgets, self._group_id = handler, budgets, group_id
        self._estimate, self._lost, self._hold_s = estimate, lost, hold_s
        self._soon, self._keep = soon, keep

    async def __call__(self, context: TaskContext) -> AsyncIterator[Said]:
        """Yield what the handler does.

        Raises:
            MustWait: The budget is spent, or what is left of it is reserved by others.
        """
        await self._reserve(context)
        outcome: Outcome | None = None
        chars = 0
        try:
            said: Any = self._handler(context)
            async with contextlib.aclosing(said):
                async for item in said:
                    self._keep(self._group_id)
                    if isinstance(item, Outcome):
                        outcome = item
                    if isinstance(item, str | Delta):  # reasoning is paid for as text is
                        chars += len(item if isinstance(item, str) else item.text)
                    yield item
        finally:
            counted = self._count(outcome, chars)
            self._soon(
                self._budgets.settle(
                    self._group_id, context.task_id, prompt=self._estimate.prompt, counted=counted
                )
            )

    def _count(self, outcome: Outcome | None, chars: int) -> tuple[int, int] | None:
        """Return what a call took, told or estimated, also of one that broke off."""
        if outcome is not None and (usage := outcome.usage) is not None:
            asked, answered = self._estimate.before
            return max(0, usage.prompt_tokens - asked), max(0, usage.completion_tokens - answered)
        return (self._estimate.prompt, estimate_tokens(chars)) if chars or outcome else None

    async def _reserve(self, context: TaskContext) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._hold_s
        while True:
            try:
                verdict = await self._budgets.ask(
                    self._group_id,
                    context.task_id,
                    prompt=self._estimate.prompt,
                    answer=self._estimate.answer,
                    attempt=context.attempt,
                    lost=self._lost,
                )
            except StoreError as exc:
                message = f"The budget could not be asked: {exc}"
                raise RetryableError(message, code="store") from exc
            if verdict == "go":
                return
            if verdict == "stop":
                raise MustWait(SPENT)
            if verdict == "gone":
                raise MustWait(_GONE)
            if loop.time() + _LOOK_S > give_up_at:
                raise MustWait(_NEARLY_SPENT)
            await asyncio.sleep(_LOOK_S)
