"""Who has a data folder: one process, from before its Valkey starts until after it ended.

The state file says how to reach a stack that is up; the hold says that the folder is not free. An
ending stack has no state any more and still the hold, a stopped one (SIGSTOP) has both and answers
nobody. Two Valkeys on one append-only file would corrupt it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from longtask_kit.errors import LocalStackError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longtask_kit.local.config import StackFiles

_PROBE_S = 1.0  # a passing `find_holder` has the lock for an instant


@contextlib.contextmanager
def hold_folder(files: StackFiles) -> Iterator[None]:
    """Have the data folder while the context is open; the kernel frees it when the process dies.

    Raises:
        LocalStackError: Another process has it, and the message names it; or it is not ours.
    """
    try:
        lock = _lock(files, timeout_s=_PROBE_S)
    except Timeout as exc:
        raise LocalStackError(explain_hold(files, _read_pid(files))) from exc
    with lock:
        # A file of its own: filelock may truncate the one it locks.
        files.holder.write_text(str(os.getpid()))
        yield


def find_holder(files: StackFiles) -> int | None:
    """Return the process that has the data folder, or None when it is free.

    Raises:
        LocalStackError: The folder is not ours.
    """
    if not os.path.exists(files.hold):  # False as well where no file can be
        return None
    try:
        with _lock(files, timeout_s=0):
            return None
    except Timeout:
        return _read_pid(files)


def explain_hold(files: StackFiles, pid: int) -> str:
    """Return what to tell somebody who wants a folder whose holder does not answer."""
    return (
        f"Process {pid} has the data folder {files.data_dir}, but no stack answers there. If it "
        f"is stopped, let it go on with `kill -CONT {pid}`; if it hangs, end it with "
        f"`kill -9 {pid}`; or choose another folder with --data."
    )


def _lock(files: StackFiles, *, timeout_s: float) -> contextlib.AbstractContextManager[object]:
    try:
        return FileLock(files.hold, mode=0o600).acquire(timeout=timeout_s)
    except Timeout:  # an OSError too
        raise
    except OSError as exc:
        raise LocalStackError(
            f"The local stack needs to lock {files.hold}, which fails ({exc.strerror}): make the "
            "data folder and what is in it yours, or choose another with --data."
        ) from exc


def _read_pid(files: StackFiles) -> int:
    try:
        return int(files.holder.read_text())
    except (OSError, ValueError):  # it has just taken the lock
        return 0
