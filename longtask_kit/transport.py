"""HTTP connections: httpx in front, aiohttp below.

httpx' own transport takes 130 us of CPU for a small chunk of a stream, aiohttp's 40 us; a stream of
tokens is nothing but small chunks. A request costs 850 us against 480. `python -m tests.benchmarks
--only side-by-side` shows what that makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from functools import cache
from os import getenv
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import aiohttp
import httpx

from longtask_kit.settings import is_loopback

if TYPE_CHECKING:
    import ssl

TRANSPORT_ERRORS = (httpx.HTTPError, aiohttp.ClientError)  # not all of the latter are translated
NO_LIMIT = 0  # what aiohttp means by it; its default is 100 connections, httpx' None


def open_client(url: str | None, **options: Any) -> httpx.AsyncClient:  # noqa: ANN401
    """Return a client for many requests and long streams at once.

    Args:
        url: Of the service; on this machine no proxy stands between.
        options: Of `httpx.AsyncClient`.
    """
    options |= {
        "verify": _load_certificates(getenv("SSL_CERT_FILE"), getenv("SSL_CERT_DIR")),
        "trust_env": needs_proxy_variables(url),
    }
    if options["trust_env"] and has_socks_proxy():
        return httpx.AsyncClient(limits=httpx.Limits(max_connections=None), **options)
    from httpx_aiohttp import HttpxAiohttpClient

    client = HttpxAiohttpClient(limits=httpx.Limits(max_connections=NO_LIMIT), **options)
    let_die_with_loop(client)
    return client


def needs_proxy_variables(url: str | None) -> bool:
    """Tell whether a client of this URL reads the environment's proxies: not on this machine.

    There they only harm: a SOCKS proxy would keep httpx from being made at all.
    """
    return not is_loopback(url)


@cache
def _load_certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Return what httpx makes of these variables; one for all clients, as it takes 20 ms."""
    return httpx.create_ssl_context()


def let_die_with_loop(client: Any) -> None:  # noqa: ANN401 - httpx' and httpx2's have no common type
    """Have a client that nobody could close before its loop ended go without a complaint.

    Some hosts run each request on a loop of its own. The connections die with it, but aiohttp
    prints that they were not closed.
    """
    transports = [client._transport, *client._mounts.values()]  # noqa: SLF001 - no other way
    weakref.finalize(client, _mark_closed, transports)


def _mark_closed(transports: list[Any]) -> None:
    for transport in transports:
        session = getattr(transport, "client", None)  # none before the first request
        if isinstance(session, aiohttp.ClientSession) and session._loop.is_closed():  # noqa: SLF001
            with contextlib.suppress(StopIteration):  # then there is nothing to wait for
                session.close().send(None)


def has_socks_proxy() -> bool:
    """Tell whether the environment names a proxy that aiohttp can't use."""
    return any(proxy.startswith("socks") for proxy in getproxies().values())


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's, which takes less CPU, where there is one."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
