"""The package's root: few names, each loaded on first use."""

import subprocess
import sys

import pytest

import longtask_kit

PUBLIC_NAMES = [
    "Chat",
    "ConfigError",
    "Cursor",
    "DataEvent",
    "Delta",
    "Handler",
    "Kit",
    "LocalStack",
    "LocalStackError",
    "LongTaskError",
    "NonRetryableError",
    "Outcome",
    "Progress",
    "QuotaError",
    "RetryableError",
    "Settings",
    "SignatureError",
    "StreamError",
    "StreamExpiredError",
    "StreamSilentError",
    "SubmitError",
    "Task",
    "TaskCancelledError",
    "TaskContext",
    "TaskEvent",
    "TaskFailedError",
    "TaskGroup",
    "TaskIncompleteError",
    "TaskOutput",
    "TaskSpec",
    "TaskTimeoutError",
    "TextDelta",
    "Usage",
    "connect",
    "create_app",
    "create_router",
    "handler",
    "image",
]
HEAVY = "fastapi openai uvicorn ipywidgets anywidget IPython pydantic httpx redis typer rich qstash"


def run_python(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def test_the_public_names_are_pinned_and_sorted() -> None:
    assert longtask_kit.__all__ == PUBLIC_NAMES
    assert sorted(PUBLIC_NAMES) == PUBLIC_NAMES


def test_there_are_at_most_40_public_names() -> None:
    assert len(longtask_kit.__all__) <= 40


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_resolves_to_something_documented(name: str) -> None:
    value = getattr(longtask_kit, name)
    assert value.__module__.startswith("longtask_kit.")
    assert value.__doc__


def test_every_public_name_is_offered_to_completion() -> None:
    assert set(PUBLIC_NAMES) <= set(dir(longtask_kit))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'no_such_name'"):
        _ = longtask_kit.no_such_name


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, longtask_kit; print(*set({HEAVY.split()}) & set(sys.modules))"
    assert run_python(code) == ""


def test_completion_in_a_notebook_loads_nothing_heavy() -> None:
    code = f"import sys, longtask_kit as k; dir(k); print(*set({HEAVY.split()}) & set(sys.modules))"
    assert run_python(code) == ""


def test_what_is_saved_loads_neither_a_terminal_nor_widgets() -> None:
    code = "import sys, longtask_kit.widgets.saved; print({'rich', 'ipywidgets'} & {*sys.modules})"
    assert run_python(code) == "set()"


def test_an_error_can_be_caught_without_loading_anything_heavy() -> None:
    code = (
        "import sys, longtask_kit; longtask_kit.TaskFailedError; "
        f"print(*set({HEAVY.split()}) & set(sys.modules))"
    )
    assert run_python(code) == ""
