"""What tokens cost, by prices that somebody gave: nobody else tells them."""

from __future__ import annotations

import math
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
        ConfigError: They are not two numbers of at least 0, or say nothing of the model.
    """
    if prices is None:
        return None
    found = prices.get(model) if isinstance(prices, Mapping) else prices
    try:
        return [*read_price(found)]
    except (TypeError, ValueError, OverflowError) as exc:
        of_model = f" of {model!r}" if isinstance(prices, Mapping) else ""
        raise ConfigError(
            f"`prices`{of_model}: found {found!r:.60}, expected (in, out) of a million tokens, "
            "numbers of at least 0, or such by model."
        ) from exc


def read_price(found: object) -> Price:
    """Return the price that is given as two numbers, or raise TypeError or ValueError."""
    if isinstance(found, str | bytes):  # of which two digits would be two prices
        raise TypeError("text")
    price_in, price_out = map(float, found)  # type: ignore[call-overload]
    if not (0 <= price_in < math.inf and 0 <= price_out < math.inf):
        raise ValueError("out of range")
    return price_in, price_out


def choose_price(prices: Prices | None, model: str | None) -> Price | None:
    """Return the price of a model, None where none is known."""
    found = prices.get(model or "") if isinstance(prices, Mapping) else prices
    return None if found is None else read_price(found)


def count_cost(price: Price | None, usage: Usage | None) -> float | None:
    """Return what an answer cost; None before its end, and without a price."""
    if price is None or usage is None:
        return None
    return (usage.prompt_tokens * price[0] + usage.completion_tokens * price[1]) / 1_000_000


def check_prices(prices: Prices | None) -> None:
    """Raise ConfigError for what are no prices."""
    for model in prices if isinstance(prices, Mapping) else [""]:
        find_prices(prices, model)
