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
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [
                os.path.abspath(sys.executable),
                "-P",
                "-m",
                "longtask_kit.local",
                *flags,
            ],
            # Not an argument, which every user of the machine can read: a Redis URL has a password.
            env=os.environ | _absolute_home() | {OPTIONS_VARIABLE: json.dumps(values)},
            stdin=subprocess.PIPE if "--owned" in flags else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=files.folder,  # which exists, unlike, perhaps, a home
        )


def _absolute_home() -> dict[str, str]:
    """Return `LONGTASK_HOME`, where the models are too, as the process's own folder needs it."""
    home = os.environ.get("LONGTASK_HOME")
    return {"LONGTASK_HOME": os.path.abspath(home)} if home else {}


def wait_until_ready(process: subprocess.Popen[bytes], files: StackFiles) -> StackState:
    """Return the new stack's state.

    Raises:
        LocalStackError: It died, and the message is its own; or it takes too long and was killed.
    """
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise LocalStackError(_explain_death(files))
        if (state := read_state(files)) is not None:
            return state
        time.sleep(0.01)
    process.kill()
    raise LocalStackError(
        f"The local stack was not ready within {_START_TIMEOUT_S:g} s; its log is {files.log}."
    )


def _explain_death(files: StackFiles) -> str:
    lines = files.log.read_text(errors="replace").strip().splitlines()
    for line in lines:
        if line.startswith("LocalStackError: "):
            return line.removeprefix("LocalStackError: ")
    tail = "\n".join(lines[-5:])
    return f"The local stack died while starting; the last lines of {files.log}:\n{tail}"
