"""How large the chaos is, and a table of what was counted."""

from collections.abc import Callable

import pytest

_FIGURES = pytest.StashKey[list[tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", choices=["short", "full"], default="short")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash[_FIGURES]
    if rows:
        terminalreporter.section("chaos")
        for scenario, counted in rows:
            terminalreporter.write_line(f"{scenario:<44} {counted}")


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config) -> Callable[..., int]:
    """Choose a number by `--chaos`."""
    size = pytestconfig.getoption("--chaos")

    def choose(*, short: int, full: int) -> int:
        return full if size == "full" else short

    return choose


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Callable[[str, str], None]:
    """Record one line of the table printed at the end."""
    rows = pytestconfig.stash[_FIGURES]
    return lambda scenario, counted: rows.append((scenario, counted))
