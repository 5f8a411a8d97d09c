"""Starting a stack's process, and waiting until it is ready."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from longtask_kit.errors import LocalStackError
from longtask_kit.local.config import OPTIONS_VARIABLE
from longtask_kit.local.state import read_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.local.config import StackConfig
    from longtask_kit.local.files import StackFiles
    from longtask_kit.local.state import StackState

_START_TIMEOUT_S = 30.0


def spawn(
    config: StackConfig, files: StackFiles, flags: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start the stack's process: in a session of its own, so that it outlives the kernel."""
    # Whole paths: the process has a working folder of its own.
    values = asdict(config) | {"data_dir": str(files.data_dir), "folder": str(files.folder)}
    files.state.unlink(missing_ok=True)  # nobody has the data folder: it is a dead one's
    with files.log.open("wb") as log:
        # What finds no place on the disk is told here: the process could tell it to nobody.
        log.write(b"starting\n")
        log.flush()
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [
                os.path.abspath(sys.executable),
                "-P",
                "-m",
                "longtask_kit.local",
                *flags,
            ],
            # Not an argument, which every user of the machine can read: a Redis URL has a password.
            env=_make_environment() | {OPTIONS_VARIABLE: json.dumps(values)},
            stdin=subprocess.PIPE if "--owned" in flags else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=files.folder,  # which exists, unlike, perhaps, a home
        )


def _make_environment() -> dict[str, str]:
    """Return this process's environment as the stack's may be.

    Without a model's key or account, since the next notebook's are others; `LONGTASK_HOME`, where
    the models are too, as a whole path, since it has a working folder of its own.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith("OPENAI_")}
    home = os.environ.get("LONGTASK_HOME")
    return kept | ({"LONGTASK_HOME": os.path.abspath(home)} if home else {})


def wait_until_ready(process: subprocess.Popen[bytes], files: StackFiles) -> StackState:
    """Return the new stack's state.

    Raises:
        LocalStackError: It died, and the message is its own; or it takes too long and was killed.
    """
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise LocalStackError(explain_death(_read_log(files), process.returncode, files))
        if (state := read_state(files)) is not None:
            return state
        time.sleep(0.01)
    process.kill()
    raise LocalStackError(
        f"The local stack was not ready within {_START_TIMEOUT_S:g} s; the last lines of "
        f"{files.log}:\n{_cut_tail(_read_log(files))}"
    )


def _read_log(files: StackFiles) -> str:
    try:
        return files.log.read_text(errors="replace").strip()
    except OSError as exc:
        return f"{type(exc).__name__}: {exc}"


def explain_death(log: str, exit_code: int, files: StackFiles) -> str:
    """Return why a process died that should have become a stack: its own word, which ends its log.

    Args:
        log: What it wrote.
        exit_code: Its own, or minus the signal's number.
        files: Where it wrote it.
    """
    _, is_told, cause = f"\n{log}".rpartition("\nLocalStackError: ")
    if is_told:
        return cause
    return (
        f"The local stack died while starting (exit code {exit_code}); the last lines of "
        f"{files.log}:\n{_cut_tail(log)}"
    )


def _cut_tail(log: str) -> str:
    return "\n".join(log.splitlines()[-5:])
