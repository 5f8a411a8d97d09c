"""`kit.compare()`: the same prompts asked of several models, as one group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longtask_kit.client.group_options import check_range, make_options
from longtask_kit.client.mapping import map_rows
from longtask_kit.client.prices import find_prices
from longtask_kit.client.rows import Row, read_rows
from longtask_kit.errors import ConfigError
from longtask_kit.submit.asked import DEFAULT_TTL_S
from longtask_kit.submit.fates import LEAST_TTL_S
from longtask_kit.submit.request import check_names, make_spec

if TYPE_CHECKING:
    from longtask_kit.client.door import Door
    from longtask_kit.client.group import TaskGroup
    from longtask_kit.client.group_options import Limits
    from longtask_kit.client.prices import Prices
    from longtask_kit.client.rows import Template
    from longtask_kit.submit.asked import Place
    from longtask_kit.submit.schema import Schema

MOST_MODELS = 26  # the letters of a blind vote
_LIMITS = ("parallelism", "rpm", "tpm", "budget_tokens")
_OF_COMPARE = ("models", "template", "name", "blind", "reuse", "ttl_s", "prices", "skip_empty")
_NOT_HERE = {"n": "samples", "budget_cost": "a budget in money", "model": "one model"}


class CompareCalls:
    """What a kit does to compare models."""

    _door: Door

    def _find_place(self, model: str | None) -> Place:
        raise NotImplementedError

    def compare(
        self,
        prompts: object,
        models: Sequence[str],
        template: Template | None = None,
        *,
        name: str = "",
        blind: bool = False,
        reuse: bool = True,
        ttl_s: int = DEFAULT_TTL_S,
        schema: Schema | None = None,
        prices: Prices | None = None,
        **options: Any,  # noqa: ANN401 - map's and submit's own
    ) -> TaskGroup:
        """Ask each prompt of each model; as the last line of a cell they stand side by side.

        Run again it keeps and joins what was asked before, as `map` does.

        Args:
            prompts: What `map` takes as rows; a text alone is one prompt.
            models: 2 to 26 names of models, each a column.
            template: How a row is asked, as in `map`.
            name: Compared again under its name, it is the same group with these prompts.
            blind: Hide names and figures until a prompt's best answer was voted for.
            reuse: Keep and join what was asked before, by its content; else all run anew.
            ttl_s: Seconds that the tasks live after their last event, at least 60.
            schema: What each answer must look like, as in `submit`.
            prices: Cost of a million tokens, (in, out), of all or by model; default: the kit's.
            options: `parallelism`, `rpm`, `tpm`, `budget_tokens`, `skip_empty` as in `map`, and
                what else `submit` takes, for all.

        Returns:
            A row a prompt and model, prompt by prompt: `group.votes`, `group.vote()` and
            `group.ask_anew()` are for them.

        Raises:
            ConfigError: The models are none, too many, or named twice; or an option is wrong.
            SubmitError, QuotaError: As `map`.
        """
        names = check_models(models)
        for option, what in _NOT_HERE.items():
            if option in options:
                raise ConfigError(f"compare() has no `{option}`: it takes no {what}; map() does.")
        check_names(options, "compare()", (*_OF_COMPARE, *_LIMITS))
        check_range("ttl_s", ttl_s, LEAST_TTL_S, 10 * 365 * 86_400)
        limits: Limits = {key: options.pop(key) for key in _LIMITS if key in options}  # type: ignore[assignment]  # checked below
        asked_with = make_options(samples=1, model="", **limits)
        asked_with |= {
            "models": names,
            "blind": blind,
            "ttlS": ttl_s,
            "modelPrices": find_all_prices(prices or self._door.aim.prices, names),
        }
        source = [prompts] if isinstance(prompts, str) else prompts
        read = read_rows(source, template, schema=schema, **options)
        return map_rows(
            self._door,
            spread_rows(read, names),
            place=self._find_place(None),
            options=asked_with,
            name=name,
            reuse=reuse,
            ttl_s=ttl_s,
            source=source,
            schema=schema,
        )


def check_models(models: Sequence[str]) -> list[str]:
    """Return the names of models.

    Raises:
        ConfigError: They are no list of different ones, or too few or many.
    """
    if isinstance(models, str) or not isinstance(models, Sequence):
        raise ConfigError(f"`models` is {models!r:.60}: expected a list of at least two names.")
    names = list(models)
    if not 2 <= len(names) <= MOST_MODELS or len(set(names)) < len(names):
        raise ConfigError(
            f"`models` is {names!r:.200}: expected 2 to {MOST_MODELS} names, each once."
        )
    for name in names:
        make_spec(prompt="…", model=name)
    return names


def find_all_prices(prices: Prices | None, models: Sequence[str]) -> dict[str, list[float]]:
    """Return the prices of those models of which there are any.

    Raises:
        ConfigError: They are no two numbers.
    """
    known = [m for m in models if m in prices] if isinstance(prices, Mapping) else models
    found = {model: find_prices(prices, model) for model in known}
    return {model: price for model, price in found.items() if price is not None}


def spread_rows(rows: Sequence[Row], models: Sequence[str]) -> list[Row]:
    """Return a row for each prompt and model, prompt by prompt."""
    return [
        Row(
            row.position,
            row.label,
            name_cells(row.cells, model),
            row.spec and row.spec.aim(model, None, row.spec.api),
        )
        for row in rows
        for model in models
    ]


def name_cells(cells: object, model: str) -> dict[str, Any]:
    """Return a row as a frame has it: its own fields, or its prompt, and the model."""
    own = dict(cells) if isinstance(cells, Mapping) else {"prompt": cells}
    return own | {"model": model}
