"""The state file of a running stack: how it is found, told from a dead one, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from longtask_kit.errors import LocalStackError
from longtask_kit.local.files import explain_hold, find_holder, told_of_disk, write_private
from longtask_kit.settings import check_url

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from longtask_kit.local.files import StackFiles

PROTOCOL = 3
"""Version of what a kit and the stack's own app say to each other: in Redis, in the queue's
messages, in the state file. Raise it whenever that changes: a kit also finds stacks that another
version started."""
_PROTOCOL_OF_OLD = 1  # of a state that names none
_NEEDED_URLS = ("OPENAI_BASE_URL", "LONGTASK_BASE_URL")  # what a kit of any version asks for
STOP_TIMEOUT_S = 10.0
_START_LOCK_TIMEOUT_S = 35.0  # a start gives up after 30
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# What this process started and left running: kept, so that an ended one is reaped.
STARTED: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class StackState:
    """What a running stack says of itself.

    Attributes:
        pid: Its process.
        environment: The variables that point a client at it.
        protocol: The version it speaks, as found: what is not PROTOCOL is another one.
    """

    pid: int
    environment: dict[str, str]
    protocol: object


def write_state(files: StackFiles, environment: dict[str, str]) -> None:
    """Say that this process is a stack which is ready."""
    state = StackState(pid=os.getpid(), environment=environment, protocol=PROTOCOL)
    write_private(files.state, json.dumps(asdict(state)))


def read_state(files: StackFiles) -> StackState | None:
    """Return what the state file says, None where there is none that a stack wrote."""
    try:
        return parse_state(files.state.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def parse_state(text: str) -> StackState:
    """Read what `write_state` wrote, in this version or another.

    Raises:
        ValueError: It is something else, a damaged file for example.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("no object")  # noqa: TRY004 - as of any other damage
    pid, environment = values.get("pid"), values.get("environment")
    if not (isinstance(pid, int) and not isinstance(pid, bool) and pid > 0):
        raise ValueError("no process")
    if not (
        isinstance(environment, dict) and all(isinstance(v, str) for v in environment.values())
    ):
        raise ValueError("no environment")
    for name in _NEEDED_URLS:
        check_url(environment.get(name, ""))
    protocol = values.get("protocol", _PROTOCOL_OF_OLD)
    return StackState(pid=pid, environment=environment, protocol=protocol)


def forget_state(files: StackFiles) -> None:
    """Remove our state file, unless another stack has written its own since."""
    state = read_state(files)
    if state is not None and state.pid == os.getpid():
        files.state.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_start(files: StackFiles) -> Iterator[None]:
    """Be the only one who starts, joins or restarts a stack on these files.

    Raises:
        LocalStackError: Somebody else has been at it for too long, or the disk is in the way.
    """
    try:
        with told_of_disk(files), FileLock(files.lock, timeout=_START_LOCK_TIMEOUT_S):
            yield
    except Timeout as exc:
        raise LocalStackError(
            f"Another process has been starting the stack for too long; see {files.log}."
        ) from exc


def refuse_second(files: StackFiles) -> None:
    """Raise where a stack runs, or its process has the folder and does not answer."""
    state = find_running(files)
    if state is not None:
        raise LocalStackError(
            f"A stack with the data folder {files.data_dir} runs already (process "
            f"{state.pid}): use it as it is, stop it with `longtask down`, or choose another "
            "folder with --data."
        )


def find_running(files: StackFiles) -> StackState | None:
    """Return the state of the stack that has the data folder, or None when the folder is free.

    The hold on the folder is the proof: a dead stack's state stays, and process id and port in it
    may belong to a stranger by now, whom nobody may join or end. Waits for a stack that is ending,
    which has removed its state and still saves its data.

    Raises:
        LocalStackError: A process has the folder and does not answer.
    """
    for process in STARTED.values():
        process.poll()
    give_up_at = time.monotonic() + STOP_TIMEOUT_S
    while (pid := find_holder(files)) is not None:
        state = read_state(files)
        if state is not None and state.pid == pid and _answers(state):
            return state
        if time.monotonic() > give_up_at:
            raise LocalStackError(explain_hold(files, pid))
        time.sleep(0.02)
    return None


def _answers(state: StackState) -> bool:
    """Tell whether a stack is up: a stopped one has the hold, too. Any answer will do."""
    try:
        with NO_PROXY.open(f"{state.environment['OPENAI_BASE_URL']}/models", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, HTTPException):
        return False


def end_stack(pid: int, files: StackFiles) -> None:
    """End a stack's process and wait for the last thing it does, which is to free its data folder.

    Its process id may stay: a kernel that started it has not reaped it yet.

    Raises:
        LocalStackError: It does not end.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    give_up_at = time.monotonic() + STOP_TIMEOUT_S
    while find_holder(files) == pid:
        if time.monotonic() > give_up_at:
            raise LocalStackError(f"The stack (process {pid}) does not end; try `kill -9 {pid}`.")
        time.sleep(0.02)
