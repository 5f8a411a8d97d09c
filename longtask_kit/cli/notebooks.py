"""Execute the lessons and write them as they are committed: `python -m longtask_kit.cli.notebooks`.

A committed lesson carries its outputs, so that it reads well on a web page, and nothing that
changes from run to run, so that its validation compares every character: ids, ports and times are
replaced by the patterns of `notebooks/sanitize.cfg`, which the validation applies as well. What is
not compared (tag `nbval-ignore-output`) stays as committed: delete an output to have it made anew.
Needs the `dev` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import ConfigError
from longtask_kit.local.model.installed import SMOLLM2_NAME, models_folder
from longtask_kit.local.model.native import LocalModels
from longtask_kit.local.stack import LocalStack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

try:
    import nbformat
    from nbclient import NotebookClient
except ImportError as exc:
    raise ConfigError(
        f"Executing the lessons needs {exc.name}, which this installation lacks: "
        'pip install "longtask_kit[dev]", in a clone of the repository, where they are.'
    ) from exc

LESSONS = Path(__file__).parents[2] / "notebooks"
_CELL_TIMEOUT_S = 60
_SERVICE_NAMES = ("QSTASH_", "UPSTASH_", "OPENAI_", "LONGTASK_")
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_NEEDS_ACCOUNT, _NEEDS_MODEL = "nbval-skip", "llm"  # tags of cells


@contextlib.contextmanager
def open_home(models: Path) -> Iterator[str]:
    """Yield a folder for the lessons' own local stack, which is stopped at the end.

    Args:
        models: The folder of this computer's models, which that stack offers, too.
    """
    # In /tmp: the path of Valkey's unix socket must be short.
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp") as home:
        (Path(home) / "models").symlink_to(models.absolute())
        try:
            yield home
        finally:
            with lesson_environment(home):
                if (stack := LocalStack.find()) is not None:
                    stack.stop()


@contextlib.contextmanager
def lesson_environment(home: str) -> Iterator[None]:
    """Have kernels that start meanwhile use that stack: not the user's, nor hosted services."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(_SERVICE_NAMES) or name == "NEXT_PUBLIC_BASE_URL":
            del os.environ[name]
    os.environ["LONGTASK_HOME"] = home
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def explain_skip(cell: Any) -> str | None:  # noqa: ANN401 - nbformat has no types
    """Return why a lesson's cell can't be run here, or None."""
    tags = cell.metadata.get("tags", ())
    if _NEEDS_ACCOUNT in tags:
        return "needs an account with Upstash and OpenAI"
    if _NEEDS_MODEL in tags and SMOLLM2_NAME not in LocalModels().names:
        return 'needs pip install "longtask_kit[llm]" and `longtask model install`'
    return None


def execute(path: Path) -> str:
    """Run a lesson in a kernel of its own and return it as JSON, ready to be committed.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed; the message shows it.
    """
    notebook = nbformat.read(path, as_version=4)
    every_cell = notebook.cells
    numbered = [
        cell
        for cell in every_cell
        if cell.cell_type == "code" and _NEEDS_ACCOUNT not in cell.metadata.get("tags", ())
    ]
    kept = {
        cell.id: cell.outputs
        for cell in numbered
        if "nbval-ignore-output" in cell.metadata.get("tags", ())
    }
    notebook.cells = [cell for cell in every_cell if explain_skip(cell) is None]
    NotebookClient(
        notebook,
        timeout=_CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    ).execute()
    notebook.cells = every_cell
    for number, cell in enumerate(numbered, 1):  # as if none had been left out
        cell.outputs = kept.get(cell.id) or cell.outputs
        for counted in (cell, *(o for o in cell.outputs if "execution_count" in o)):
            counted.execution_count = number
    _make_stable(notebook, read_patterns(path.parent / "sanitize.cfg"))
    return str(nbformat.writes(notebook)) + "\n"


def read_patterns(path: Path) -> list[tuple[re.Pattern[str], str]]:
    """Read nbval's sanitize file: pairs of `regex:` and `replace:` lines."""
    pairs = re.findall(r"^regex: (.*)\n^replace: (.*)$", path.read_text(), re.MULTILINE)
    return [(re.compile(regex), replacement) for regex, replacement in pairs]


def _make_stable(notebook: Any, patterns: Sequence[tuple[re.Pattern[str], str]]) -> None:  # noqa: ANN401
    """Leave out what differs from run to run."""
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            for holder in (output, output.get("data", {})):
                for name, value in holder.items():
                    if isinstance(value, str):
                        holder[name] = _sanitize(value, patterns)
            # A view names a model of a kernel that is gone; its text stays.
            output.get("data", {}).pop(_WIDGET_VIEW, None)
            output.get("metadata", {}).pop("longtask", None)


def _sanitize(text: str, patterns: Sequence[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in patterns:
        text = pattern.sub(replacement, text)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the lessons named, or all; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m longtask_kit.cli.notebooks", description=__doc__
    )
    parser.add_argument("lessons", nargs="*", type=Path, help="default: all")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if any differs")
    options = parser.parse_args(arguments)
    differing = []
    with open_home(models_folder()) as home, lesson_environment(home):
        for path in options.lessons or sorted(LESSONS.glob("*.ipynb")):
            sys.stdout.write(f"{path.name} … ")
            sys.stdout.flush()
            began = time.monotonic()
            fresh = execute(path)
            if fresh != path.read_text(encoding="utf-8"):
                differing.append(path.name)
                if not options.check:
                    path.write_text(fresh, encoding="utf-8")
            sys.stdout.write(f"{time.monotonic() - began:.1f} s\n")
    if differing:
        verb = "differ from what they give now" if options.check else "written"
        sys.stdout.write(f"{verb}: {', '.join(differing)}\n")
    return 1 if options.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
