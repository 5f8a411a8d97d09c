"""How long the scenarios run (`--chaos=short|full`), and the table of what they counted."""

from collections.abc import Callable

import pytest

_FIGURES = pytest.StashKey[list[tuple[str, str]]]()


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Callable[..., int]:
    """Choose a number by the form of the run: `scale(short=10, full=200)`."""
    form = request.config.getoption("--chaos")

    def choose(*, short: int, full: int) -> int:
        return full if form == "full" else short

    return choose


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Record a scenario's line of figures: `figures("scenario", "what was counted")`."""

    def record(scenario: str, counted: str) -> None:
        request.config.stash.setdefault(_FIGURES, []).append((scenario, counted))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of figures at the end of the run."""
    rows = terminalreporter.config.stash.get(_FIGURES, [])
    if not rows:
        return
    form = terminalreporter.config.getoption("--chaos")
    terminalreporter.write_sep("=", f"chaos, {form} run")
    width = max(len(scenario) for scenario, _ in rows)
    for scenario, counted in rows:
        terminalreporter.write_line(f"{scenario:<{width}}  {counted}")
