"""The local stack, seen from a notebook: start it, join it, stop it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock
from filelock import Timeout as LockTimeout

from longtask_kit.errors import LocalStackError
from longtask_kit.local.config import (
    OPTIONS_VARIABLE,
    StackConfig,
    StackFiles,
    default_data_dir,
    make_config,
    make_runtime_folder,
)
from longtask_kit.local.files import explain_hold, find_holder
from longtask_kit.settings import DEMO_LABEL, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
# What this process started and left running: kept, so that an ended one is reaped when asked for;
# otherwise it would stay a zombie, and look alive.
_STARTED: dict[int, subprocess.Popen[bytes]] = {}
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class LocalStack:
    """A running local stack: real Valkey, Upstash's REST protocol, a queue, a demo model.

    `LocalStack.join_or_start()` returns the one that every notebook shares; it outlives the
    kernel. `LocalStack(data=None)` starts a throw-away one, bound to this process and removed
    with it: use it as a context manager in tests.

    Args:
        data: Folder of its data; None is a temporary one.
        options: Fields of `StackConfig`: `time_scale`, `tokens_per_s`, ports, …

    Attributes:
        environment: The variables that point the SDKs and the kit at it; holds its tokens.
        pid: Its process.

    Raises:
        LocalStackError: It could not start; the message says the cure.
    """

    DESCRIPTION = f"local stack (Valkey, Redis REST, queue, webhook app, demo model). {DEMO_LABEL}"

    def __init__(self, data: Path | str | None = None, **options: Any) -> None:  # noqa: ANN401
        self._process: subprocess.Popen[bytes] | None = None
        folder = make_runtime_folder()
        self._scratch = tempfile.mkdtemp(prefix="longtask-") if data is None else None
        data_dir = Path(data if data is not None else self._scratch or "")
        self._files = StackFiles(folder, data_dir.resolve())
        try:
            config = make_config(data_dir, options)
            with _locked(self._files):
                _refuse_second(self._files)
                flags = ["--owned", *(["--scratch"] if self._scratch else [])]
                self._process = _spawn(config, self._files, flags)
                state = _wait_until_ready(self._process, self._files)
        except BaseException:
            self._end_process()
            self._remove_scratch()
            raise
        self.pid: int = state["pid"]
        self.environment: dict[str, str] = state["environment"]

    @classmethod
    def join_or_start(cls, data: Path | str | None = None, **options: Any) -> Self:  # noqa: ANN401
        """Return the shared stack, started if none runs; two callers at once get the same one.

        Args:
            data: Folder of its data; None is the user's data folder.
            options: Fields of `StackConfig`, if it must be started.

        Raises:
            LocalStackError: It could not start; the message says the cure.
        """
        config = make_config(Path(data) if data else default_data_dir(), options)
        files = StackFiles.of(config.data_dir)
        with _locked(files):
            state = _find_running(files)
            if state is None:
                process = _spawn(config, files)
                _STARTED[process.pid] = process
                state = _wait_until_ready(process, files)
        return cls._of(files, state)

    @classmethod
    def find(cls, data: Path | str | None = None) -> Self | None:
        """Return the running stack of a data folder, or None.

        Raises:
            LocalStackError: A process has the folder and does not answer.
        """
        files = StackFiles.of(Path(data) if data else default_data_dir())
        state = _find_running(files)
        return None if state is None else cls._of(files, state)

    @classmethod
    def _of(cls, files: StackFiles, state: dict[str, Any]) -> Self:
        stack = cls.__new__(cls)
        stack._scratch, stack._process, stack._files = None, None, files  # noqa: SLF001 - ours
        stack.pid, stack.environment = state["pid"], state["environment"]
        return stack

    def __repr__(self) -> str:
        return f"<LocalStack pid {self.pid} webhook {self.environment['LONGTASK_BASE_URL']}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def settings(self) -> Settings:
        """Settings that make a kit use this stack."""
        return make_settings(self.environment)

    @property
    def log_path(self) -> Path:
        """What its process writes."""
        return self._files.log

    def stop(self) -> None:
        """End the stack; the data of a throw-away one go with it.

        Raises:
            LocalStackError: It does not end.
        """
        if self._process is not None:
            self._end_process()
        elif (state := _find_running(self._files)) is not None and state["pid"] == self.pid:
            _terminate(self.pid, self._files)
        self._remove_scratch()

    def _end_process(self) -> None:
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        self._process.kill()
        self._process.wait()

    def _remove_scratch(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._files.remove()


def make_settings(environment: Mapping[str, str]) -> Settings:
    """Return settings from a stack's environment; of the process's own only `LONGTASK_` tuning."""
    names = {
        "LONGTASK_BASE_URL": "base_url",
        "LONGTASK_MODEL": "model",
    }
    values = {
        names.get(name, name.lower()): value
        for name, value in environment.items()
        if name != "NEXT_PUBLIC_BASE_URL"
    }
    return Settings(_env_file=None, dev=False, api_key=None, **values)


def run_in_foreground(config: StackConfig, announce: Callable[[dict[str, str]], None]) -> None:
    """Run a stack in this process until Ctrl-C or `longtask down`; notebooks join it.

    Args:
        config: What to run.
        announce: Called with the stack's environment once it is ready.

    Raises:
        LocalStackError: It could not start; the message says the cure.
    """
    from longtask_kit.local.process import serve_for_ever

    files = StackFiles.of(config.data_dir)
    lock = contextlib.ExitStack()

    def release_and_announce(environment: dict[str, str]) -> None:
        lock.close()
        announce(environment)

    with lock:
        lock.enter_context(_locked(files))
        _refuse_second(files)
        serve_for_ever(config, files, announce=release_and_announce)


# -- starting -----------------------------------------------------------------------------------


def _refuse_second(files: StackFiles) -> None:
    state = _find_running(files)
    if state is not None:
        raise LocalStackError(
            f"A stack with the data folder {files.data_dir} runs already (process "
            f"{state['pid']}): use it as it is, stop it with `longtask down`, or choose another "
            "folder with --data."
        )


def _spawn(
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


def _wait_until_ready(process: subprocess.Popen[bytes], files: StackFiles) -> dict[str, Any]:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise LocalStackError(_explain_death(files))
        if files.state.exists():
            state: dict[str, Any] = json.loads(files.state.read_text())
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


@contextlib.contextmanager
def _locked(files: StackFiles) -> Iterator[None]:
    try:
        with FileLock(files.lock, timeout=_START_TIMEOUT_S + 5):
            yield
    except LockTimeout as exc:
        raise LocalStackError(
            f"Another process has been starting the stack for too long; see {files.log}."
        ) from exc


# -- the running one ----------------------------------------------------------------------------


def _find_running(files: StackFiles) -> dict[str, Any] | None:
    """Return the state of the stack that has the data folder, or None when the folder is free.

    Waits for one that is ending, which has removed its state and still saves its data.
    """
    give_up_at = time.monotonic() + _STOP_TIMEOUT_S
    while (state := _read_state(files)) is None and (pid := find_holder(files)) is not None:
        if time.monotonic() > give_up_at:
            raise LocalStackError(explain_hold(files, pid))
        time.sleep(0.02)
    return state


def _read_state(files: StackFiles) -> dict[str, Any] | None:
    """Return the state of a stack that lives and answers, else None."""
    try:
        state: dict[str, Any] = json.loads(files.state.read_text())
        url = f"{state['environment']['OPENAI_BASE_URL']}/models"
    except (OSError, ValueError, KeyError):
        return None
    if not _is_alive(state["pid"]):
        return None
    try:
        # Any answer will do; a process id alone may belong to somebody else by now.
        with _NO_PROXY.open(url, timeout=5):
            return state
    except urllib.error.HTTPError:
        return state
    except OSError:
        return None


def _is_alive(pid: int) -> bool:
    if pid in _STARTED:
        return _STARTED[pid].poll() is None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _terminate(pid: int, files: StackFiles) -> None:
    """End a stack's process and wait for the last thing it does, which is to free its data folder.

    Its process id may stay: a kernel that started it has not reaped it yet.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    give_up_at = time.monotonic() + _STOP_TIMEOUT_S
    while find_holder(files) == pid:
        if time.monotonic() > give_up_at:
            raise LocalStackError(f"The stack (process {pid}) does not end; try `kill -9 {pid}`.")
        time.sleep(0.02)
