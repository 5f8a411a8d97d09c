"""A server that answers every request with the same bytes and closes."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class FakeServer:
    """Answers `answer`, whatever was asked.

    Attributes:
        url: Where it is.
        answer: The whole response, head and body.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.answer = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                asked = b""
                while b"\r\n\r\n" not in asked and (data := client.recv(65_536)):
                    asked += data
                client.sendall(self.answer)
                client.shutdown(socket.SHUT_WR)
                client.settimeout(2)
                while client.recv(65_536):  # else the close would be a reset, and lose bytes
                    pass


@contextlib.contextmanager
def fake_server() -> Iterator[FakeServer]:
    """Serve whatever the test puts into `answer`."""
    server = FakeServer()
    try:
        yield server
    finally:
        server.close()
