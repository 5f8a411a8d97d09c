"""One throw-away local stack a worker; every test gets its own tasks on it.

Also what a run says at its end: which tests it left to `pytest --all`, and what the chaos tests
counted. With workers both are known to them alone, and are handed to the process that prints.
"""

import contextlib
import gc
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import longtask_kit as lt

_ROOT = Path(__file__).parent
_LEFT_OUT = pytest.StashKey[dict[str, int]]()

# Nothing of a test may reach the user's own stack, or services named in the environment.
_HOME = tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp")
os.environ["LONGTASK_HOME"] = _HOME.name
for _name in [*os.environ]:
    if _name.startswith(("QSTASH_", "UPSTASH_", "OPENAI_")) or _name == "LONGTASK_BASE_URL":
        del os.environ[_name]
os.environ["LONGTASK_MODEL"] = "demo"  # a .env may have a key: it is not spent either


def pytest_addoption(parser: pytest.Parser) -> None:
    # Here and not in tests/chaos: pytest must know it whatever folder it is started on.
    parser.addoption(
        "--chaos",
        choices=("once", "short", "full"),
        help="how many kills; short with --all, else once",
    )
    parser.addoption(
        "--rounds",
        type=int,
        default=1,
        help="of tests/browser/test_survives.py, lessons/test_share.py",
    )
    parser.addoption("--all", action="store_true", help="also what is marked gate or thorough")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the form of chaos and generated tests; take SIGINT, also in a shell's background."""
    # There it is ignored, also by what a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.chaos is None:
        config.option.chaos = "short" if config.option.all else "once"
    # What is generated is the same each time, for who tries a change; others are sought weekly.
    hypothesis.settings.register_profile("same", derandomize=True)
    if not config.option.all:
        hypothesis.settings.load_profile("same")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without garbage collections, which find nothing and take half of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()  # what was collected stays, and is not looked through during the tests
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what is the gate's and what is thorough to `--all`; the browser comes last."""
    items.sort(key=_choose_turn)
    if config.getoption("--all"):
        return
    left_out = [item for item in items if _is_for_all(item)]
    items[:] = [item for item in items if not _is_for_all(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    config.stash[_LEFT_OUT] = dict(Counter(_find_folder(item) for item in left_out))


def _is_for_all(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("gate", "thorough"))


def _choose_turn(item: pytest.Item) -> int:
    """Put the browser last: playwright keeps an event loop running in its thread as it lives."""
    if "tests/browser/" not in item.path.as_posix():
        return 0
    longest = ["test_survives", "test_panel", "test_card"]  # first, or a worker idles at the end
    return 1 + (longest.index(item.path.stem) if item.path.stem in longest else len(longest))


def _find_folder(item: pytest.Item) -> str:
    return f"tests/{item.path.relative_to(_ROOT).parts[0]}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand to the process that prints what a worker left out."""
    if (handed := getattr(session.config, "workeroutput", None)) is not None:
        handed["left_out"] = session.config.stash.get(_LEFT_OUT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401 - xdist's
    """Take it from a worker; all have collected the same."""
    if handed := getattr(node, "workeroutput", {}).get("left_out"):
        node.config.stash[_LEFT_OUT] = handed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, and what the chaos tests counted."""
    config, write = terminalreporter.config, terminalreporter.write_line
    if left_out := config.stash.get(_LEFT_OUT, {}):
        terminalreporter.write_sep("=", "left out")
        what = ", ".join(f"{count} of {folder}" for folder, count in sorted(left_out.items()))
        write(f"{sum(left_out.values())} tests run only with --all, or in .ci/run: {what}")
    if rows := _find_figures(terminalreporter):
        terminalreporter.write_sep("=", f"chaos, {config.getoption('--chaos')} run")
        width = max(len(scenario) for scenario, _ in rows)
        for scenario, counted in rows:
            write(f"{scenario:<{width}}  {counted}")


def _find_figures(terminalreporter: pytest.TerminalReporter) -> list[tuple[str, str]]:
    """Return what `figures` recorded, in the order in which the tests ended."""
    return [
        value
        for report in terminalreporter.stats.get("passed", [])
        for name, value in getattr(report, "user_properties", ())
        if name == "chaos" and report.when == "call"
    ]


@contextlib.contextmanager
def open_home() -> Iterator[Path]:
    """Have another home meanwhile; a shared stack in it is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp") as folder:
        before = os.environ["LONGTASK_HOME"]
        os.environ["LONGTASK_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            running = lt.LocalStack.find()
            if running is not None:
                running.stop()
            os.environ["LONGTASK_HOME"] = before


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def stack() -> Iterator[lt.LocalStack]:
    """A stack whose retries come fast: the first after 12 ms, the third after 1.8 s."""
    with lt.LocalStack.start(time_scale=0.001, idle_exit_s=None) as running:
        yield running


@pytest.fixture(scope="session")
def settings(stack: lt.LocalStack) -> lt.Settings:
    return stack.settings


@pytest.fixture
def kit(settings: lt.Settings) -> Iterator[lt.Kit]:
    with lt.connect(settings=settings, quiet=True) as connected:
        yield connected


@pytest.fixture
def home() -> Iterator[Path]:
    """A home of its own for a test that starts the shared stack, which is stopped after it."""
    with open_home() as folder:
        yield folder


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
