"""What tokens cost, by prices that somebody gave: nobody else tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from longtask_kit.errors import ConfigError

if TYPE_CHECKING:
    from longtask_kit.log.events import Usage

Price = tuple[float, float]
"""Of a million tokens: of those that are sent, and of those that come."""
Prices = Price | Mapping[str, Price]


def find_prices(prices: Prices | None, model: str) -> list[float] | None:
    """Return the prices of a model.

    Raises:
        ConfigError: They are not two numbers, or say nothing of the model.
    """
    found = prices.get(model) if isinstance(prices, Mapping) else prices
    if found is None and prices is None:
        return None
    try:
        price_in, price_out = found  # type: ignore[misc]
        return [float(price_in), float(price_out)]
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            f"`prices` must be (in, out) of a million tokens, or such by model, with {model!r}."
        ) from exc


def choose_price(prices: Prices | None, model: str | None) -> Price | None:
    """Return the price of a model, None where none is known."""
    if isinstance(prices, Mapping):
        return prices.get(model) if model is not None else None
    return prices


def count_cost(price: Price | None, usage: Usage | None) -> float | None:
    """Return what an answer cost; None before its end, and without a price."""
    if price is None or usage is None:
        return None
    return (usage.prompt_tokens * price[0] + usage.completion_tokens * price[1]) / 1_000_000


def check_prices(prices: Prices | None) -> None:
    """Raise ConfigError for what are no prices."""
    for model in prices if isinstance(prices, Mapping) else [""]:
        find_prices(prices, model)
