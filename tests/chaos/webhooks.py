"""Webhook processes one after the other on one listening socket: kill one, the next serves."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).parents[2]


class Webhooks:
    """The serving process and a warm standby.

    Attributes:
        url: Where they listen.
        log: What they write.
        deaths: How many serving processes have ended.
    """

    def __init__(self, log: Path) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.log = log
        self.deaths = 0
        self._environment: dict[str, str] = {}
        self._lock = threading.Lock()
        self._is_closing = False
        self._all: list[subprocess.Popen[str]] = []

    def start(self, environment: Mapping[str, str]) -> None:
        """Have the first process serve."""
        self._environment = {**os.environ, **environment}
        self._standby = self._spawn()
        self._serving = self._standby
        self._promote()

    @property
    def pid(self) -> int:
        """The serving process."""
        return self._serving.pid

    def kill(self) -> None:
        """Kill the serving process (-9); the standby takes over as a supervisor would see to."""
        self._serving.kill()

    def terminate(self) -> None:
        """Tell the serving process to end (SIGTERM), as a deploy does."""
        self._serving.terminate()

    def freeze(self) -> subprocess.Popen[str]:
        """Stop the serving process (SIGSTOP) and return it; the standby takes over."""
        frozen = self._serving
        frozen.send_signal(signal.SIGSTOP)
        self._promote()
        return frozen

    def close(self) -> None:
        """End all of them."""
        self._is_closing = True
        for process in self._all:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    _is_there(pipe).close()
        self._listener.close()

    def _spawn(self) -> subprocess.Popen[str]:
        descriptor = self._listener.fileno()
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.webhook_process", str(descriptor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=[descriptor],
                env=self._environment,
                cwd=_ROOT,
            )
        self._all.append(process)
        return process

    def _promote(self) -> None:
        """Have the standby serve, and get another one ready."""
        with self._lock:
            if self._is_closing:
                return
            self._serving = self._standby
            assert _is_there(self._serving.stdout).readline() == "ready\n", self.log.read_text()
            pipe = _is_there(self._serving.stdin)
            pipe.write("serve\n")
            pipe.flush()
            self._standby = self._spawn()
        threading.Thread(target=self._await_end, args=(self._serving,), daemon=True).start()

    def _await_end(self, process: subprocess.Popen[str]) -> None:
        process.wait()
        if not self._is_closing and process is self._serving:
            self.deaths += 1
            self._promote()


def _is_there(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
