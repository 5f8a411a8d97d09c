"""What `kit.map()` is given beside rows, checked, and what it says before the first call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypedDict

from longtask_kit.client.prices import find_prices
from longtask_kit.errors import ConfigError
from longtask_kit.log.budgets import describe_budget
from longtask_kit.submit.estimate import bound_answer, estimate_prompt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from longtask_kit.client.prices import Prices
    from longtask_kit.settings import Settings
    from longtask_kit.submit.asked import Mapped
    from longtask_kit.submit.spec import TaskSpec


class Limits(TypedDict, total=False):
    """How fast a group may run, and what it may spend."""

    parallelism: int
    rpm: int | None
    tpm: int | None
    budget_tokens: int | None
    budget_cost: float | None


_ANSWER = 500  # tokens, about: lua/limit.lua reserves so many before the first answer
_MOST_COST = 10.0**15
_HOLD_S = 20  # LONGTASK_LIMIT_HOLD_S of the app, unless that is set there


def make_options(
    *,
    samples: int,
    model: str,
    prices: Prices | None = None,
    **limits: Unpack[Limits],
) -> dict[str, Any]:
    """Return what a group is asked with, as its record has it; `Kit.map` says what each is.

    Raises:
        ConfigError: One is out of range, or a budget in money has no prices.
    """
    parallelism, rpm, tpm = limits.get("parallelism", 16), limits.get("rpm"), limits.get("tpm")
    budget_tokens, budget_cost = limits.get("budget_tokens"), limits.get("budget_cost")
    check_range("n", samples, 1, 100)
    check_range("parallelism", parallelism, 1, 1000)
    for limit, value in (("rpm", rpm), ("tpm", tpm)):
        if value is not None:
            check_range(limit, value, 1, 1_000_000_000)
    check_budget(budget_tokens, budget_cost)
    found = find_prices(prices, model)
    if budget_cost is not None and found is None:
        raise ConfigError("`budget_cost` needs `prices`: (in, out) of a million tokens.")
    return {
        "samples": samples,
        "parallelism": parallelism,
        "rpm": rpm,
        "tpm": tpm,
        "budgetTokens": budget_tokens,
        "budgetCost": budget_cost,
        "prices": found,
    }


def _describe_limits(
    mapped: Mapped, specs: Sequence[TaskSpec | None], settings: Settings | None
) -> list[str]:
    """Return lines about what the rows will take, where somebody set a limit to that."""
    options = mapped.group.options
    asked = [spec for spec in specs if spec is not None]
    lines = []
    if options.get("budgetTokens") or options.get("budgetCost"):
        prompts, answers = sum(map(estimate_prompt, asked)), sum(map(bound_answer, asked))
        lines.append(
            f"budget {describe_budget(options)}; an estimate of all rows: {prompts:,} tokens "
            f"asked, at most {answers:,} answered"
        )
    return lines + _describe_waits(options, asked, settings)


def _describe_waits(
    options: Mapping[str, Any], asked: Sequence[TaskSpec], settings: Settings | None
) -> list[str]:
    """Return a line for each limit by which rows wait longer than an app holds them."""
    parallelism = min(options.get("parallelism") or 1, len(asked))
    tokens = sum(estimate_prompt(spec) + min(bound_answer(spec), _ANSWER) for spec in asked)
    costs = {"rpm": ("requests", 1.0), "tpm": ("tokens", tokens / max(1, len(asked)))}
    hold_s = _HOLD_S if settings is None else settings.limit_hold_s
    lines = []
    for name, (what, cost) in costs.items():
        known = (options.get(name), getattr(settings, name, None))  # the smallest one holds
        limit = min(filter(None, known), default=math.inf)
        wait_s = parallelism * cost * 60 / limit
        if wait_s > hold_s:
            lines.append(
                f"at {limit:,} {what} a minute a row may wait {wait_s:,.0f} s for its "
                f"turn: beyond {hold_s:g} s each wait costs a queue message, up to {len(asked):,} "
                f"or more in all; parallelism={max(1, int(parallelism * hold_s / wait_s))} "
                "avoids that"
            )
    return lines


def describe_mapped(
    mapped: Mapped, specs: Sequence[TaskSpec | None], settings: Settings | None
) -> str:
    """Return the lines that say what has become of the rows, and what they will take.

    Args:
        mapped: What was mapped.
        specs: Its rows, one sample of each.
        settings: The kit's, whose app has most likely the same; None over the HTTP API.
    """
    lines = [_describe_fates(mapped), *_describe_limits(mapped, specs, settings)]
    return "".join(f"{line}\n" for line in lines)


def _describe_fates(mapped: Mapped) -> str:
    rows, fates = len(mapped.group.rows), mapped.fates
    kept = fates.get("keep", 0)
    since = f" (of {mapped.kept_since.astimezone():%-d %b, %H:%M})" if mapped.kept_since else ""
    joined = fates.get("join", 0) + fates.get("publish", 0)
    run = fates.get("run", 0) + fates.get("renew", 0) + fates.get("retry", 0)
    run += fates.get("resume", 0)
    line = f"{rows:,} rows: {kept:,} kept{since}, {joined:,} joined, {run:,} run"
    if mapped.is_secret_lost:
        return f"{line}; nothing could be kept: Redis has lost what contents are named with"
    tasks, asked = sum(fates.values()), sum(task_id is not None for task_id in mapped.group.rows)
    equal = f"; {asked - tasks:,} equal to others" if asked > tasks else ""
    return line + equal


def check_budget(tokens: int | None, cost: float | None) -> None:
    """Raise ConfigError for budgets that are none."""
    if tokens is not None and cost is not None:
        raise ConfigError("budget_tokens and budget_cost are both given: expected one of them.")
    if tokens is not None:
        check_range("budget_tokens", tokens, 1, 10**15)
    if cost is None:
        return
    is_number = isinstance(cost, int | float) and not isinstance(cost, bool)
    if not (is_number and 0 < cost <= _MOST_COST):
        raise ConfigError(
            f"`budget_cost` is {cost!r:.40}: expected a number above 0, up to {_MOST_COST:,.0f}."
        )


def check_range(name: str, value: object, least: int, most: int) -> None:
    """Raise ConfigError for what is no whole number of a range."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(
            f"`{name}` is {value!r:.40}: expected a whole number from {least:,} to {most:,}."
        )
