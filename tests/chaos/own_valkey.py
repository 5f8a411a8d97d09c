"""A Valkey server of the test's own: killed, robbed of its last writes, started again."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from longtask_kit.local.redis.valkey import find_binary, server_arguments
from tests.wait import wait_until


class OwnValkey:
    """A server with an append-only file, as the stack starts it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "s"
        self.url = f"unix://{self._socket}"
        self.start()

    def start(self) -> None:
        """Start it and wait until it has loaded its data."""
        with (self._folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(
                server_arguments(find_binary(), self._folder, self._socket), stdout=log, stderr=log
            )
        wait_until(self._answers)

    def kill(self) -> None:
        """Kill it (-9)."""
        self._process.kill()
        self._process.wait()

    def cut_log(self, size_bytes: int) -> None:
        """Take the last bytes off the dead server's append-only file.

        This is what a power cut does: of a file that is synced once a second, the last second was
        never on the disk.
        """
        [file] = (self._folder / "appendonlydir").glob("*.incr.aof")
        os.truncate(file, max(0, file.stat().st_size - size_bytes))

    def _answers(self) -> bool:
        try:
            with Redis.from_url(self.url) as redis:
                return bool(redis.ping())
        except RedisError:
            return False


@contextmanager
def run_valkey(folder: Path) -> Iterator[OwnValkey]:
    """Yield a server, and end it."""
    server = OwnValkey(folder)
    try:
        yield server
    finally:
        server.kill()
