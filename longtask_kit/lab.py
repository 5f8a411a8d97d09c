"""`longtask lab` and `longtask app`: JupyterLab on the lessons, and the panel as a web page."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from longtask_kit.errors import ConfigError
from longtask_kit.kit import is_hosted
from longtask_kit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

_PACKAGE = Path(__file__).parent
_PAGE = _PACKAGE / "widgets" / "panel_page.ipynb"


def find_lessons() -> list[Path]:
    """Return the lesson notebooks: of the wheel, or of the repository in an editable install."""
    for folder in (_PACKAGE / "lessons", _PACKAGE.parent / "notebooks"):
        lessons = sorted(folder.glob("*.ipynb"))
        if lessons:
            return lessons
    return []


def copy_lessons(lessons: Iterable[Path], folder: Path) -> list[str]:
    """Copy lessons into a folder of the user's, never over a file that is there.

    Returns:
        Names of the files that were there already and differ from the lesson.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for lesson in lessons:
        target = folder / lesson.name
        if not target.exists():
            shutil.copy(lesson, target)
        elif target.read_bytes() != lesson.read_bytes():
            kept.append(lesson.name)
    return kept


def open_lab(folder: Path, *, port: int, browser: bool) -> int:
    """Run JupyterLab on a copy of the lessons until Ctrl-C; returns its exit code.

    Raises:
        ConfigError: JupyterLab is not installed.
        LocalStackError: The local stack could not start.
    """
    _require("jupyterlab", "lab")
    lessons = find_lessons()
    kept = copy_lessons(lessons, folder)
    if kept:
        sys.stderr.write(f"kept as you changed them: {', '.join(kept)}\n")
    _start_stack()
    first = [f"--LabApp.default_url=/lab/tree/{lessons[0].name}"] if lessons else []
    return _run(
        [
            *("-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}", f"--port={port}"),
            *first,
            *_common(browser=browser),
        ]
    )


def open_app(*, host: str, port: int, browser: bool) -> int:
    """Serve the panel as a web page until Ctrl-C; returns its exit code.

    Raises:
        ConfigError: Voila is not installed.
        LocalStackError: The local stack could not start.
    """
    _require("voila", "app")
    _start_stack()
    sys.stderr.write(f"the panel is at http://{host}:{port}\n")
    return _run(
        [
            *("-m", "voila", str(_PAGE), f"--port={port}", f"--Voila.ip={host}"),
            "--VoilaConfiguration.strip_sources=True",
            *([] if browser else ["--no-browser"]),
        ]
    )


def _common(*, browser: bool) -> list[str]:
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return [*root, *([] if browser else ["--no-browser"])]


def _require(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f'{module} is not installed: pip install "longtask_kit[{extra}]"')


def _start_stack() -> None:
    """Have the local stack up before the first cell asks for it."""
    if not is_hosted(Settings()):
        from longtask_kit.local.stack import LocalStack

        LocalStack.join_or_start()


def _run(arguments: list[str]) -> int:
    """Run a server in the foreground; Ctrl-C ends it without a question."""
    server = subprocess.Popen(  # noqa: S603 - our own interpreter
        [os.path.abspath(sys.executable), *arguments], start_new_session=True
    )
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.send_signal(signal.SIGTERM)  # SIGINT would make Jupyter ask
        server.wait()
        raise
