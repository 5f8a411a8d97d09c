"""What groups may spend, and have: on the record of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from longtask_kit.errors import StoreError, SubmitError
from longtask_kit.log.keys import group_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.log.redis import RedisClient

_HELD_MS = 900_000  # then a call that told nothing is taken for dead
Verdict = Literal["go", "wait", "stop", "gone"]


class BudgetStore:
    """The budgets of groups, in tokens or in the millionths of what a token costs."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def ask(
        self,
        group_id: str,
        task_id: str,
        *,
        prompt: int,
        answer: int,
        attempt: int = 1,
        lost: tuple[int, int] = (0, 0),
    ) -> Verdict:
        """Reserve what a call may take, by its estimate.

        Args:
            group_id: The group.
            task_id: Whose call it is.
            prompt: Tokens of the prompt.
            answer: The most of its answer.
            attempt: Its number.
            lost: Tokens of prompt and answer that the attempt before took; they count if it died
                before it told of them.

        Returns:
            `go`; `wait` until calls under way have told what they took; `stop`: it is spent;
            `gone`: the group is not there.
        """
        match await self._run(group_id, "ask", task_id, [prompt, answer, _HELD_MS, attempt, *lost]):
            case ["go" | "wait" | "stop" | "gone" as verdict]:
                return cast("Verdict", verdict)
            case reply:
                raise StoreError(f"The budget script answered {reply!r}: expected a verdict.")

    async def settle(
        self, group_id: str, task_id: str, *, prompt: int, counted: tuple[int, int] | None
    ) -> None:
        """Put what a call took in the place of what was reserved; None: it gave no answer."""
        took = ["", 0] if counted is None else list(counted)
        await self._run(group_id, "settle", task_id, [prompt, *took])

    async def check_more(self, group_id: str, options: Mapping[str, Any]) -> None:
        """Refuse a budget that leaves nothing to a group.

        Raises:
            SubmitError: It has spent as much, or has no prices: give what the message says.
        """
        if options.get("budgetCost") and not options.get("prices"):
            raise SubmitError("budget_cost needs prices: give them to map(), or budget_tokens.")
        facts = ["HMGET", group_key(group_id), "counted", "answered"]
        [told] = await self._redis.run([facts])
        prompts, answers = (int(count or 0) for count in told)
        budget = find_budget(options)
        spent = prompts * budget["price_in"] + answers * budget["price_out"]
        if spent >= budget["budget"]:
            so_far = (
                f"{spent:,.0f} tokens" if options.get("budgetTokens") else f"{spent / 1e6:,.4g}"
            )
            raise SubmitError(
                f"A budget of {describe_budget(options)} leaves this group nothing: it has spent "
                f"{so_far}. Give what it may spend in all, with that."
            )

    async def _run(self, group_id: str, what: str, task_id: str, args: list[Any]) -> list[Any]:
        call = [1, group_key(group_id), what, task_id, *args]
        [reply] = await self._redis.run_script("budget", [call], is_urgent=True)
        return list(reply)


def find_budget(options: Mapping[str, Any]) -> dict[str, float]:
    """Return the fields of a group's budget, by what it was asked with; none without one."""
    if tokens := options.get("budgetTokens"):
        return {"budget": tokens, "price_in": 1, "price_out": 1}
    if cost := options.get("budgetCost"):
        price_in, price_out = options["prices"]
        return {"budget": cost * 1_000_000, "price_in": price_in, "price_out": price_out}
    return {}


def describe_budget(options: Mapping[str, Any]) -> str:
    """Say how much a group may spend."""
    if tokens := options.get("budgetTokens"):
        return f"{tokens:,} tokens"
    return f"{options.get('budgetCost') or 0:,g}"
