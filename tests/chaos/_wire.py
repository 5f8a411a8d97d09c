"""A TCP proxy that hears what passes and, at the very byte it is told to, cuts or falls silent."""

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

Hook = Callable[["Link", bytes], bytes | None]


class Link:
    """One connection through the wire.

    Attributes:
        first: The first bytes asked on it; its request line says what it is.
        asked: The latest bytes asked.
        answered: How many bytes of answer were let through.
        left: How many more may be; for hooks to use.
        kept: Bytes of answer held back; for hooks to use.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.first = self.asked = self.kept = b""
        self.answered = 0
        self.left: int | None = None

    @property
    def is_subscription(self) -> bool:
        """Whether it carries a task's events."""
        return self.first.startswith((b"POST /subscribe/", b"GET /api/tasks/stream"))

    def cut(self) -> None:
        """Close both sides."""
        for side in (self.client, self.server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


class Wire:
    """Forwards to a target what its hooks return.

    Attributes:
        url: Use it in place of the target's.
        on_request: Sees what is asked; returns what passes, None cuts, empty is silence.
        on_answer: The same for what is answered.
        links: The open connections.
        connections: How many were accepted.
        cuts: How many a hook cut.
    """

    def __init__(self, target_url: str) -> None:
        target = urlsplit(target_url)
        self._target = (target.hostname or "", target.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}{target.path}"
        self.on_request: Hook = lambda _, data: data
        self.on_answer: Hook = lambda _, data: data
        self.links: set[Link] = set()
        self.connections = self.cuts = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_all(self) -> None:
        """Cut every open connection."""
        with self._lock:
            links = list(self.links)
        for link in links:
            link.cut()

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                link = Link(client, socket.create_connection(self._target))
            except OSError:  # it is dead
                client.close()
                continue
            with self._lock:
                self.links.add(link)
            for side in (link.client, link.server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for work in (self._pump_requests, self._pump_answers):
                threading.Thread(target=self._pump, args=(link, work), daemon=True).start()

    def _pump(self, link: Link, work: Callable[[Link], bool]) -> None:
        is_cut = False
        with contextlib.suppress(OSError):
            is_cut = work(link)
        link.cut()
        with self._lock:
            self.cuts += is_cut
            is_last = link not in self.links
            self.links.discard(link)
        if is_last:
            link.client.close()
            link.server.close()

    def _pump_requests(self, link: Link) -> bool:
        while data := link.client.recv(65_536):
            link.first = link.first or data
            link.asked = data
            passed = self.on_request(link, data)
            if passed is None:
                return True
            link.server.sendall(passed)
        return False

    def _pump_answers(self, link: Link) -> bool:
        while data := link.server.recv(65_536):
            passed = self.on_answer(link, data)
            if passed is None:
                return True
            link.client.sendall(passed)
            link.answered += len(passed)
            if link.left is not None and link.left <= 0:
                return True
        return False


@contextlib.contextmanager
def wire_to(url: str | None) -> Iterator[Wire]:
    """Yield a wire in front of `url`."""
    assert url is not None
    wire = Wire(url)
    try:
        yield wire
    finally:
        wire.close()


def cut_at_random(rng: random.Random, *, most: int, share: float, only_subscriptions: bool) -> Hook:
    """Return what cuts a share of the connections after 0 to `most` bytes of answer."""

    def pass_so_much(link: Link, data: bytes) -> bytes | None:
        if only_subscriptions and not link.is_subscription:
            return data
        if link.answered == 0 and link.left is None and rng.random() < share:
            link.left = rng.randint(0, most)
        if link.left is None:
            return data
        if link.left == 0:
            return None
        passed = data[: link.left]
        link.left -= len(passed)
        return passed

    return pass_so_much


def mute_news(is_lost: Callable[[bytes], bool]) -> Hook:
    """Return what loses messages of a subscription: their line becomes a comment."""

    def pass_the_rest(link: Link, data: bytes) -> bytes | None:
        if not link.is_subscription:
            return data
        lines = (link.kept + data).split(b"\n")
        link.kept = lines.pop()  # a line is passed whole, so that it can be judged
        return b"".join(_mute(line, is_lost) + b"\n" for line in lines)

    return pass_the_rest


def _mute(line: bytes, is_lost: Callable[[bytes], bool]) -> bytes:
    # The length stays, since the body is sent in chunks of a length that was said before.
    return b":" + line[1:] if line.startswith(b"data: message,") and is_lost(line) else line
