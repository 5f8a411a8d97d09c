"""The webhook app in a thread of this process, for `kit.serve()`."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from longtask_kit.errors import ConfigError
from longtask_kit.server.app import make_app
from longtask_kit.server.http_edge import LoopbackOnly
from longtask_kit.settings import Settings, is_loopback
from longtask_kit.transport import new_event_loop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp

    from longtask_kit.server.guests import Guests
    from longtask_kit.server.handlers import Handler

STOP_GRACE_S = 3  # open streams and attempts get this long to end; an attempt is then redelivered


class ServedApp:
    """A running webhook app; `stop()` it, or let the process end.

    Attributes:
        url: Where this machine reaches it.
        settings: What it was made from; with a loopback base URL, that is `url`.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: Mapping[str, Handler] | None,
        *,
        host: str,
        port: int,
        guests: Guests | None = None,
    ) -> None:
        listener = bind(host, port)
        self.url = find_url(listener, host)
        if is_loopback(settings.base_url):
            settings = settings.model_copy(update={"base_url": self.url})
        self.settings = settings
        config = uvicorn.Config(
            guard_host(
                make_app(settings, handlers=handlers, fail_fast=True, guests=guests), settings, host
            ),
            log_level="warning",
            ws="none",
            timeout_graceful_shutdown=STOP_GRACE_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="longtask-serve", daemon=True
        )
        self._thread.start()
        try:
            while not self._server.started and self._thread.is_alive():
                self._thread.join(0.005)
        except BaseException:  # an Interrupt: nobody has it, to stop it
            self._server.should_exit = True
            raise
        if not self._server.started:
            raise ConfigError("The webhook app did not start; its error is printed above.")

    def __repr__(self) -> str:
        return f"<ServedApp {self.url}>"

    @property
    def is_running(self) -> bool:
        """Whether it listens."""
        return self._thread.is_alive() and not self._server.should_exit

    def _run(self, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._server.serve(sockets=[listener]))

    def stop(self) -> None:
        """Stop listening; attempts under way are given back to the queue.

        The queue goes on delivering to `url`: serve again on the same port to have them run.
        """
        self._server.should_exit = True
        if threading.current_thread() is not self._thread:  # a handler's own
            self._thread.join(STOP_GRACE_S + 10)  # a handler may swallow its cancel for 5 s


def guard_host(app: ASGIApp, settings: Settings, host: str) -> ASGIApp:
    """Refuse foreign host names and pages, where nobody but this machine is meant to call.

    With a public base URL a tunnel or proxy leads here, and sends the name it likes.
    """
    is_private = is_loopback(f"//{_bracket(host)}") and is_loopback(settings.base_url)
    return LoopbackOnly(app, origins=settings.allowed_origins) if is_private else app


def find_url(listener: socket.socket, host: str) -> str:
    """Return the URL by which this machine reaches what listens on `host`."""
    address, port = listener.getsockname()[:2]
    if ipaddress.ip_address(address.partition("%")[0]).is_unspecified:  # every interface
        host = "::1" if listener.family == socket.AF_INET6 else "127.0.0.1"
    return f"http://{_bracket(host)}:{port}"


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: The port is in use, or the host is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol must be named: asyncio sets TCP_NODELAY only on sockets whose `proto` says TCP,
    # and without it every keep-alive answer waits 40 ms for a delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # until then SO_REUSEADDR lets a second socket have the same port
    except OSError as exc:
        listener.close()
        raise ConfigError(
            f"Can't listen on {host}:{port}: {exc.strerror}. Choose another port with --port."
        ) from exc
    return listener
