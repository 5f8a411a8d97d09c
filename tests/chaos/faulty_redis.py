"""An HTTP proxy before Redis' REST service that answers wrongly, late, or not at all."""

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

FAULTS = (
    "500",  # refused with an error
    "500 once applied",
    "hang",
    "hang once applied",
    "reset",
    "reply lost",  # applied, then the connection breaks
)


class FaultyRedis:
    """Forwards each request, or does to it what `draw_fault` says.

    Attributes:
        draw_fault: Gets a request's body; returns one of `FAULTS`, or None to forward it.
        draw_delay_s: How long a request is kept before it is forwarded; others may overtake it.
        injected: How many of each there were.
        overtaken: How many parts of a flush came before the part they follow, and were refused.
        requests: How many requests came.
    """

    def __init__(self) -> None:
        self.draw_fault: Callable[[bytes], str | None] = lambda _: None
        self.draw_delay_s: Callable[[], float] = lambda: 0
        self.overtaken = 0
        self.injected: Counter[str] = Counter()
        self.requests = 0
        self._is_over = threading.Event()

    @contextlib.contextmanager
    def stand_before(self, url: str) -> Iterator[str]:
        """Yield the URL to use in place of `url`."""
        with httpx.Client(base_url=url, timeout=30) as client:
            server = _Server(("127.0.0.1", 0), lambda *args: _Handler(self, client, *args))
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                self._is_over.set()
                server.shutdown()
                thread.join()
                server.server_close()

    def hang(self, connection: socket.socket) -> None:
        """Return when the client has left, or the test is over."""
        connection.settimeout(0.05)
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError):
                if not connection.recv(1):
                    return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that leaves is what this is about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, faults: FaultyRedis, client: httpx.Client, *args: object) -> None:
        self._faults = faults
        self._client = client
        super().__init__(*args)  # type: ignore[arg-type]  # as the server hands them over

    def do_POST(self) -> None:
        faults = self._faults
        body = self.rfile.read(int(self.headers["Content-Length"]))
        faults.requests += 1
        fault = faults.draw_fault(body)
        if fault is not None:
            faults.injected[fault] += 1
        time.sleep(faults.draw_delay_s())
        if fault in (None, "500 once applied", "hang once applied", "reply lost"):
            headers = {n: v for n, v in self.headers.items() if n.lower() not in _HOP_BY_HOP}
            answer = self._client.post(self.path, content=body, headers=headers)
            faults.overtaken += answer.content.count(_TORN)
        if fault is None:
            self._answer(answer.status_code, answer.content)
        elif fault.startswith("500"):
            self._answer(500, b'{"error":"ERR injected by the test"}')
        elif fault.startswith("hang"):
            faults.hang(self.connection)
            self.close_connection = True
        else:
            self._reset()

    def _answer(self, status_code: int, body: bytes) -> None:
        self.send_response(status_code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        """Close with RST rather than FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


_TORN = b"torn"
_HOP_BY_HOP = frozenset({"host", "connection", "content-length", "accept-encoding"})
