"""One throw-away local stack a session; every test gets its own tasks on it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import longtask_kit as lt

# Nothing of a test may reach the user's own stack, or services named in the environment.
_HOME = tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp")
os.environ["LONGTASK_HOME"] = _HOME.name
for _name in [*os.environ]:
    if _name.startswith(("QSTASH_", "UPSTASH_", "OPENAI_")) or _name == "LONGTASK_BASE_URL":
        del os.environ[_name]


def pytest_addoption(parser: pytest.Parser) -> None:
    # Here and not in tests/chaos: pytest must know it whatever folder it is started on.
    parser.addoption("--chaos", choices=("short", "full"), default="short", help="how many kills")


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
