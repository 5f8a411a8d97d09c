"""A real Valkey cluster on loopback for the length of a test."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from longtask_kit.local.redis.valkey import find_binary
from tests.serving import free_port
from tests.wait import wait_until

SLOTS = 16384


class Node:
    """One server of a cluster."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.socket_path = folder / "v.sock"
        self._arguments = [
            *(str(find_binary()), "--bind", "127.0.0.1", "--unixsocket", str(self.socket_path)),
            *("--cluster-enabled", "yes"),
            *("--cluster-node-timeout", "1000", "--cluster-allow-replica-migration", "no"),
            *("--cluster-require-full-coverage", "no"),
            *("--dir", str(folder), "--save", "", "--appendonly", "yes", "--loglevel", "warning"),
            *("--locale-collate", "C", *arguments),
        ]
        folder.mkdir()
        for left in reversed(range(5)):
            self.port, self._bus_port = free_port(), free_port()
            self.client: Any = redis.Redis(port=self.port, protocol=2, decode_responses=True)
            self.start()
            if self._process.poll() is None:
                break
            assert left, "its ports were taken by others five times"
        self.id = self("CLUSTER", "MYID")

    def __call__(self, *command: object) -> Any:  # noqa: ANN401 - any reply
        """Run a command on this very node."""
        return self.client.execute_command(*command)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, or start it again."""
        ports = ["--port", str(self.port), "--cluster-port", str(self._bus_port)]
        self._process = subprocess.Popen([*self._arguments, *ports], stdout=subprocess.DEVNULL)
        wait_until(lambda: self._process.poll() is not None or self._answers())

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()
        self.client.connection_pool.disconnect()

    def close(self) -> None:
        self.kill()
        self.client.close()

    def meet(self, other: "Node") -> None:
        self("CLUSTER", "MEET", "127.0.0.1", other.port, other._bus_port)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False


@contextlib.contextmanager
def run_cluster(*, spares: int = 0, arguments: Sequence[str] = ()) -> Iterator[list[Node]]:
    """Yield three nodes that share all slots, and spare ones that have none."""
    with tempfile.TemporaryDirectory(prefix="lt-") as folder, contextlib.ExitStack() as stack:
        nodes = []
        for number in range(3 + spares):
            node = Node(Path(folder) / str(number), *arguments)
            stack.callback(node.close)
            nodes.append(node)
        for number, node in enumerate(nodes[:3]):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            node("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in nodes[1:]:
            nodes[0].meet(node)
        wait_until(lambda: all(_is_ready(node, len(nodes)) for node in nodes))
        yield nodes


def _is_ready(node: Node, count: int) -> bool:
    info = node("CLUSTER", "INFO").splitlines()
    return {f"cluster_known_nodes:{count}", "cluster_state:ok"} <= {*info}


def node_of(nodes: Sequence[Node], key: str) -> Node:
    """Return the node that has a key's slot."""
    slot = nodes[0].client.cluster("KEYSLOT", key)
    return next(nodes[i] for i in (2, 1, 0) if slot >= SLOTS * i // 3)
