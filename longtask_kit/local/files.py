"""The stack's folders and files, and the hold on its data folder.

One process has a data folder, from before its Valkey starts until after it ended. The state file
says how to reach a stack that is up; the hold says that the folder is not free. An ending stack has
no state any more and still the hold, a stopped one (SIGSTOP) has both and answers nobody. Two
Valkeys on one append-only file would corrupt it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from filelock import FileLock, Timeout

from longtask_kit.errors import LocalStackError

if TYPE_CHECKING:
    from collections.abc import Iterator

APP_NAME = "longtask_kit"
_UNKNOWN = 0
_PROBE_S = 1.0  # a passing `find_holder` has the lock for an instant


def default_data_dir() -> Path:
    """Return the folder of the stack that every notebook joins."""
    home = os.environ.get("LONGTASK_HOME")
    return Path(home) / "data" if home else platformdirs.user_data_path(APP_NAME) / "stack"


def _find_runtime_folder() -> Path:
    """Return a folder that is the user's alone.

    Without XDG_RUNTIME_DIR (a container, a cron job) platformdirs would fall back to a name in /tmp
    that anybody could have made before.
    """
    home = os.environ.get("LONGTASK_HOME")
    if home:
        return Path(home) / "run"
    if sys.platform == "linux" and not os.environ.get("XDG_RUNTIME_DIR"):
        return platformdirs.user_data_path(APP_NAME) / "run"
    return platformdirs.user_runtime_path(APP_NAME)


def make_runtime_folder() -> Path:
    """Return the runtime folder, made if it is missing.

    Raises:
        LocalStackError: It can't be made or written to.
    """
    return make_private_folder(_find_runtime_folder(), "choose another with LONGTASK_HOME")


def make_private_folder(path: Path, cure: str) -> Path:
    """Make a folder that only the user may enter, unless it exists; return its whole path.

    Raises:
        LocalStackError: It can't be made or written to; the message ends with `cure`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        reason = None if os.access(path, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as exc:
        reason = exc.strerror
    if reason:
        raise LocalStackError(
            f"The local stack needs {path} as a folder it can write to, which fails ({reason}): "
            f"make it one, or {cure}."
        )
    return path.resolve()


@dataclass(frozen=True, slots=True)
class StackFiles:
    """The files of one stack: most in the user's runtime folder, which only the user may enter.

    Attributes:
        folder: The runtime folder, absolute.
        data_dir: The stack's data folder, absolute.
    """

    folder: Path
    data_dir: Path

    @classmethod
    def of(cls, data_dir: Path) -> StackFiles:
        """Return the files of the stack with this data folder.

        Raises:
            LocalStackError: There can be no runtime folder.
        """
        return cls(make_runtime_folder(), data_dir.resolve())

    @property
    def key(self) -> str:
        """What tells this stack's files from another's in the runtime folder."""
        return hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:12]

    @property
    def state(self) -> Path:
        """JSON, 0600: process id and environment of the running stack."""
        return self.folder / f"{self.key}.json"

    @property
    def lock(self) -> Path:
        """Held while a stack is being started or stopped."""
        return self.folder / f"{self.key}.lock"

    @property
    def hold(self) -> Path:
        """Locked by the stack's process for its whole life; with the data, which it protects."""
        return self.data_dir / "stack.lock"

    @property
    def holder(self) -> Path:
        """The id of the process that has, or had, the data folder."""
        return self.data_dir / "stack.pid"

    @property
    def socket(self) -> Path:
        """The embedded Valkey's unix socket."""
        return self.folder / f"{self.key}.sock"

    def remove(self) -> None:
        """Remove what a throw-away stack leaves here."""
        for path in (self.state, self.lock, self.log):
            path.unlink(missing_ok=True)

    @property
    def log(self) -> Path:
        """What the stack's process writes."""
        return self.folder / f"{self.key}.log"


def write_private(path: Path, text: str) -> None:
    """Write a file that only the user can read, in one step."""
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)  # else a crash of the machine may leave the new name on an empty file
    draft.replace(path)


@contextlib.contextmanager
def told_of_disk(files: StackFiles) -> Iterator[None]:
    """Have an error of the operating system say whose files it is about, and the cure.

    Raises:
        LocalStackError: The disk is full or read-only, a file is somebody else's, or the like.
    """
    try:
        yield
    except Timeout:  # an OSError too
        raise
    except OSError as exc:
        raise LocalStackError(
            f"The local stack could not start or go on ({type(exc).__name__}: {exc}). See whether "
            f"{files.folder} and {files.data_dir} have space left and can be written to, or choose "
            "another folder with LONGTASK_HOME."
        ) from exc


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
    if pid == _UNKNOWN:  # nothing to signal: 0 means one's own processes
        return (
            f"A process has the data folder {files.data_dir}, but no stack answers there, and "
            f"{files.holder} does not name it. Find it with `fuser {files.hold}` and end it, or "
            "choose another folder with --data."
        )
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
        pid = int(files.holder.read_text())
    except (OSError, ValueError):  # it has just taken the lock
        return _UNKNOWN
    return pid if pid > 0 else _UNKNOWN
