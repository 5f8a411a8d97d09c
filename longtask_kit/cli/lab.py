"""`longtask lab` and `longtask app`: JupyterLab on the lessons, and the panel as a web page."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import locale
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydantic import AliasChoices, SecretStr

from longtask_kit.cli.console import tell
from longtask_kit.client.connect import is_hosted
from longtask_kit.errors import ConfigError
from longtask_kit.local.redis.valkey import die_with_parent
from longtask_kit.server.serve import bind, find_url
from longtask_kit.settings import Settings, secret

if TYPE_CHECKING:
    from collections.abc import Iterable

_PACKAGE = Path(__file__).parents[1]
_PAGE = _PACKAGE / "widgets" / "panel_page.ipynb"
_JUPYTER = _PACKAGE / "widgets" / "jupyter"
_COPIED = ".longtask-copied.json"
_SOURCE_LINK = re.compile(rb"\]\(\.\./longtask_kit/([\w./]+)\)")
# Not `longtask_kit`: a kernel in the lessons' folder would import that one.
_SOURCES = "source"
# Of JupyterLab's: the page needs no others, and some that are installed can't be loaded by Voila.
_EXTENSIONS = (
    *("@voila-dashboards/widgets-manager8", "@jupyter-widgets/jupyterlab-manager"),
    "anywidget",
)
_STOP_TIMEOUT_S = 15.0  # a server waits up to 5 s for each of its kernels


def find_lessons() -> list[Path]:
    """Return the lesson notebooks: of the wheel, or of the repository in an editable install."""
    for folder in (_PACKAGE / "lessons", _PACKAGE.parent / "notebooks"):
        lessons = sorted(folder.glob("*.ipynb"))
        if lessons:
            return lessons
    return []


def _find_first(lessons: list[Path]) -> list[Path]:
    """Return the lesson to begin with: in Chinese where the user's language is."""
    is_chinese = (locale.getlocale()[0] or "").startswith(("zh", "Chinese"))
    numbers = ("00", "01") if is_chinese else ("01",)
    return [path for path in lessons if path.name.startswith(numbers)][:1]


def copy_lessons(lessons: Iterable[Path], folder: Path) -> list[str]:
    """Copy lessons, `images/` and cassettes beside them, and the modules that they link to.

    Never over a file that the user changed.

    A copy that still is what was once copied is brought up to date; what that was stands in a
    hidden file of the folder.

    Returns:
        Names of the files that the user changed, and that differ from the lesson.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copied = _read_copied(folder)
    kept = []
    for name, fresh in _read_files(lessons).items():
        target = folder / name
        if not target.exists() or copied.get(name) == _digest(target.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(fresh)
        elif target.read_bytes() != fresh:
            kept.append(name)
            continue
        copied[name] = _digest(fresh)
    (folder / _COPIED).write_text(json.dumps(copied, indent=1), encoding="utf-8")
    return kept


def _read_files(lessons: Iterable[Path]) -> dict[str, bytes]:
    """Return what is copied, by its name below the target folder, its links leading there."""
    files: dict[str, bytes] = {}
    for lesson in lessons:
        content = lesson.read_bytes()
        linked = {found.decode() for found in _SOURCE_LINK.findall(content)}
        files[lesson.name] = _SOURCE_LINK.sub(rb"](%s/\1)" % _SOURCES.encode(), content)
        files |= {f"{_SOURCES}/{name}": (_PACKAGE / name).read_bytes() for name in sorted(linked)}
        images = (path for path in (lesson.parent / "images").glob("*") if path.is_file())
        files |= {f"images/{image.name}": image.read_bytes() for image in images}
        files |= {tape.name: tape.read_bytes() for tape in lesson.parent.glob("*.jsonl")}
    return files


def _read_copied(folder: Path) -> dict[str, str]:
    """Return the digests of what was copied into a folder; without them nothing is replaced."""
    try:
        copied: object = json.loads((folder / _COPIED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return copied if isinstance(copied, dict) else {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def open_lab(folder: Path, *, port: int, browser: bool) -> int:
    """Run JupyterLab on a copy of the lessons until Ctrl-C; returns its exit code.

    Raises:
        ConfigError: JupyterLab is not installed, or the port is in use.
        LocalStackError: The local stack could not start.
    """
    _require("jupyterlab", "lab")
    bind("127.0.0.1", port).close()  # a busy one is refused: Jupyter would take another unsaid
    lessons = find_lessons()
    kept = copy_lessons(lessons, folder)
    if kept:
        tell(f"kept as you changed them: {', '.join(kept)}", err=True)
    environment = make_lab_environment(Settings())
    _start_stack()
    first = [f"--LabApp.default_url=/lab/tree/{path.name}" for path in _find_first(lessons)]
    return _run(
        [
            *("-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}"),
            *(f"--port={port}", "--ServerApp.port_retries=0"),
            *first,
            *_common(browser=browser),
        ],
        # Its `labconfig/` answers, as a default, what Lab else would ask: whether to fetch news.
        environment | _put_first("JUPYTER_CONFIG_PATH"),
    )


def open_app(*, host: str, port: int, browser: bool) -> int:
    """Serve panel and dashboard as web pages until Ctrl-C; returns its exit code.

    Raises:
        ConfigError: Voila is not installed, or the port is in use.
        LocalStackError: The local stack could not start.
    """
    _require("voila", "app")
    with bind(host, port) as listener:  # a busy one is refused: Voila would take another
        url = find_url(listener, host)
    environment = make_environment(Settings())
    _start_stack()
    tell(f"the panel is at {url}, the dashboard at {url}/?view=dashboard", err=True)
    return _run(
        [
            *("-m", "voila", str(_PAGE), f"--Voila.ip={host}"),
            *(f"--port={port}", "--Voila.port_retries=0"),
            *("--VoilaConfiguration.strip_sources=True", "--template=longtask"),
            *(f"--VoilaConfiguration.extension_allowlist={name}" for name in _EXTENSIONS),
            *([] if browser else ["--no-browser"]),
        ],
        environment | _put_first("JUPYTER_PATH"),
    )


def _put_first(variable: str) -> dict[str, str]:
    """Return one of Jupyter's search paths: our folder first, then what the user set."""
    roots = [str(_JUPYTER), *filter(None, [os.environ.get(variable)])]
    return {variable: os.pathsep.join(roots)}


def make_environment(settings: Settings) -> dict[str, str]:
    """Return settings as environment variables, secrets in the clear.

    Kernels run in the notebook's folder, where they would not see the `.env` of the folder in
    which the command was typed, and silently use the local stack.
    """
    environment = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        text = secret(value) if isinstance(value, SecretStr) else str(value)
        environment[_find_variable(name)] = text
    return environment


def make_lab_environment(settings: Settings) -> dict[str, str]:
    """Return the same for the lessons' kernels: nobody's key is spent by reading."""
    environment = make_environment(settings)
    return environment if is_hosted(settings) else environment | {"LONGTASK_MODEL": "demo"}


def _find_variable(name: str) -> str:
    """Return the environment variable of a setting."""
    alias = Settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        alias = str(alias.choices[0])
    return alias if isinstance(alias, str) else name.upper()


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


def _run(arguments: list[str], environment: dict[str, str]) -> int:
    """Run a server in the foreground; Ctrl-C and a SIGTERM to us end it, without a question."""
    _leave_when_told()
    server = subprocess.Popen(  # noqa: S603 - our own interpreter
        [os.path.abspath(sys.executable), *arguments],
        env=os.environ | environment,
        start_new_session=True,  # a Ctrl-C of the terminal would reach it, and Jupyter ask back
        preexec_fn=die_with_parent(),
    )
    try:
        return server.wait()
    finally:
        _end(server)


def _leave_when_told() -> None:
    """Have SIGTERM and a closed terminal unwind us like Ctrl-C, so that the server is ended."""

    def leave(number: int, _: object) -> NoReturn:
        sys.exit(128 + number)  # as a shell reports it

    for name in ("SIGTERM", "SIGHUP"):
        known = getattr(signal, name, None)  # Windows has no SIGHUP
        if known is not None and signal.getsignal(known) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(known, leave)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server, which ends its kernels; killed when it takes too long or we are told again.

    SIGTERM, since SIGINT would make Jupyter ask.
    """
    server.terminate()
    try:
        server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"the server did not end within {_STOP_TIMEOUT_S:g} s: killed\n")
    finally:
        server.kill()
        server.wait()
