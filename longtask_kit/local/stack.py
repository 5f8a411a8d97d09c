"""The local stack, seen from a notebook: start it, join it, stop it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, Self

from longtask_kit.errors import LocalStackError
from longtask_kit.local.config import make_config
from longtask_kit.local.files import StackFiles, default_data_dir, make_runtime_folder
from longtask_kit.local.identity import make_settings
from longtask_kit.local.spawn import spawn, wait_until_ready
from longtask_kit.local.state import (
    PROTOCOL,
    STARTED,
    STOP_TIMEOUT_S,
    StackState,
    end_stack,
    find_running,
    lock_start,
    refuse_second,
)
from longtask_kit.local.versions import end_other_version
from longtask_kit.settings import DEMO_LABEL

if TYPE_CHECKING:
    from types import TracebackType

    from longtask_kit.settings import Settings


@dataclass(frozen=True, slots=True)
class _Running:
    """What a `LocalStack` describes; process and temporary folder where it is ours to end."""

    state: StackState
    files: StackFiles
    process: subprocess.Popen[bytes] | None = None
    scratch: str | None = None


class LocalStack:
    """A running local stack: real Valkey, Upstash's REST protocol, a queue, a demo model.

    Made by `LocalStack.start()` (a throw-away one, or one on a folder of its own),
    `LocalStack.join_or_start()` (the one that every notebook shares) or `LocalStack.find()`.

    Attributes:
        environment: The variables that point the SDKs and the kit at it; holds its tokens.
        pid: Its process.
    """

    DESCRIPTION = f"local stack (Valkey, Redis REST, queue, webhook app, demo model). {DEMO_LABEL}"

    def __init__(self, *_: Never, running: _Running | None = None, **__: Never) -> None:
        """Describe a running stack; the class methods make one."""
        if running is None:
            raise LocalStackError(
                "LocalStack(…) describes a running stack and starts none: call "
                "LocalStack.start(…) with the same arguments for one that ends with this process, "
                "or LocalStack.join_or_start() for the one that notebooks share."
            )
        self.pid: int = running.state.pid
        self.environment: dict[str, str] = running.state.environment
        self._files, self._process, self._scratch = running.files, running.process, running.scratch

    @classmethod
    def start(cls, data: Path | str | None = None, **options: Any) -> Self:  # noqa: ANN401
        """Start a stack that is bound to this process; as a context manager it ends with the block.

        Args:
            data: Folder of its data, which stay; None is a temporary one, removed with the stack.
            options: Fields of `StackConfig`: `time_scale`, `tokens_per_s`, ports, …

        Raises:
            LocalStackError: It could not start, or the folder has a stack; says the cure.
        """
        folder = make_runtime_folder()
        scratch = tempfile.mkdtemp(prefix="longtask-") if data is None else None
        data_dir = Path(data if data is not None else scratch or "")
        files = StackFiles(folder, data_dir.resolve())
        process = None
        try:
            config = make_config(data_dir, options)
            with lock_start(files):
                refuse_second(files)
                process = spawn(config, files, ["--owned", *(["--scratch"] if scratch else [])])
                state = wait_until_ready(process, files)
        except BaseException:
            _end_process(process)
            _remove_scratch(scratch, files)
            raise
        return cls(running=_Running(state, files, process, scratch))

    @classmethod
    def join_or_start(cls, data: Path | str | None = None, **options: Any) -> Self:  # noqa: ANN401
        """Return the shared stack, started if none runs; two callers at once get the same one.

        An idle stack of another version of the kit is restarted with its data, and a warning is
        logged, which Python shows on standard error.

        Args:
            data: Folder of its data; None is the user's data folder.
            options: Fields of `StackConfig`, if it must be started.

        Raises:
            LocalStackError: It could not start, or one of another version has tasks under way; the
                message says the cure.
        """
        config = make_config(Path(data) if data else default_data_dir(), options)
        files = StackFiles.of(config.data_dir)
        with lock_start(files):
            state = find_running(files)
            if state is not None and state.protocol != PROTOCOL:
                end_other_version(state, files)
                state = None
            if state is None:
                process = spawn(config, files)
                STARTED[process.pid] = process
                state = wait_until_ready(process, files)
        return cls(running=_Running(state, files))

    @classmethod
    def find(cls, data: Path | str | None = None) -> Self | None:
        """Return the running stack of a data folder, of whatever version, or None.

        Raises:
            LocalStackError: A process has the folder and does not answer.
        """
        files = StackFiles.of(Path(data) if data else default_data_dir())
        state = find_running(files)
        return None if state is None else cls(running=_Running(state, files))

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
    def data_dir(self) -> Path:
        """Where its data are."""
        return self._files.data_dir

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
            _end_process(self._process)
        elif (state := find_running(self._files)) is not None and state.pid == self.pid:
            end_stack(self.pid, self._files)
        _remove_scratch(self._scratch, self._files)


def _end_process(process: subprocess.Popen[bytes] | None) -> None:
    """End what `start` started."""
    if process is None:
        return
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    process.kill()
    process.wait()


def _remove_scratch(scratch: str | None, files: StackFiles) -> None:
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
        files.remove()
