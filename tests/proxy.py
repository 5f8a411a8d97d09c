"""A TCP proxy on loopback that loses connections and answers on command."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit


class Proxy:
    """Forwards to a target; the attributes say what to do to the traffic.

    Attributes:
        url: Use it in place of the target's.
        draw_budget: How many bytes of answer a new connection lives; None is for ever.
        swallow_answers: So many next answers are lost: the request arrives, the reply does not.
        is_down: New connections are closed at once.
        connections: How many were accepted.
    """

    def __init__(self, target_url: str) -> None:
        target = urlsplit(target_url)
        self._target = (target.hostname or "", target.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.draw_budget: Callable[[], int | None] = lambda: None
        self.swallow_answers = 0
        self.is_down = False
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_all(self) -> None:
        """Reset every open connection."""
        with self._lock:
            for side in list(self._open):
                _reset(side)

    def close(self) -> None:
        """Stop."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone does not
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.is_down:
                _reset(client)
                continue
            server = socket.create_connection(self._target)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            for args in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=args, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        left = self.draw_budget() if is_answer else None
        try:
            while data := source.recv(65_536):
                if is_answer and self.swallow_answers > 0:
                    self.swallow_answers -= 1
                    break
                sink.sendall(data if left is None else data[:left])
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        break
        except OSError:
            pass
        with self._lock:
            for side in (source, sink):
                _reset(side)
                self._open.discard(side)


def _reset(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    side.close()


@contextlib.contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    """Yield a proxy in front of `url`."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
