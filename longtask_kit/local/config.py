"""How a local stack is told apart from another, and what it is started with."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import platformdirs

APP_NAME = "longtask_kit"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """What `longtask up` and `LocalStack` can choose.

    Attributes:
        data_dir: Where the data stay; one stack per folder.
        redis_port: Port of the Redis REST service, 0 for any free one; likewise the others.
        time_scale: Multiplies the queue's retry backoff, > 0; lessons and tests use less than 1.
        tokens_per_s: Speed of the demo model.
        idle_exit_s: The stack ends after so long without a request or a task under way; None never.
        allow_remote: Let the queue deliver beyond this machine.
        redis_url: A Redis or Valkey to use instead of the embedded one.
    """

    data_dir: Path
    redis_port: int = 0
    qstash_port: int = 0
    app_port: int = 0
    model_port: int = 0
    time_scale: float = 1.0
    tokens_per_s: float = 60.0
    idle_exit_s: float | None = 900.0
    allow_remote: bool = False
    redis_url: str | None = None


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
        """Return the files of the stack with this data folder."""
        folder = _find_runtime_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(folder.resolve(), data_dir.resolve())

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
    draft.replace(path)
