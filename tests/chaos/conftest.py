"""How long the scenarios run (`--chaos=once|short|full`), and what they counted."""

from collections.abc import Callable

import pytest


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Callable[..., int]:
    """Choose a number by the form of the run: `scale(short=10, full=200)`; once is a quarter."""
    form = request.config.getoption("--chaos")

    def choose(*, short: int, full: int) -> int:
        return {"once": max(1, short // 4), "short": short, "full": full}[form]

    return choose


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Record a scenario's line of figures: `figures("scenario", "what was counted")`."""

    def record(scenario: str, counted: str) -> None:
        record_property("chaos", (scenario, counted))  # so that it gets out of a worker

    return record
