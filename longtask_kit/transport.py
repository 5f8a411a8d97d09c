"""HTTP connections: httpx in front, aiohttp below; for small requests aiohttp alone.

httpx' own transport takes 130 us of CPU for a small chunk of a stream, aiohttp's 40 us; a stream of
tokens is nothing but small chunks. A request costs 850 us, with aiohttp below 480, by that alone
170. `python -m tests.benchmarks --only side-by-side` and `--only map` show what that makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import weakref
from functools import cache
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from os import getenv
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
import httpx

from longtask_kit.errors import ConfigError
from longtask_kit.settings import is_loopback

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

TRANSPORT_ERRORS = (httpx.HTTPError, aiohttp.ClientError)  # not all of the latter are translated
_PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(r"(\[.*\]|[^:]*):([0-9]{1,5})")
_KEEP_ALIVE_S = 5.0  # httpx' own; a server closes what is unused for longer
NO_LIMIT = 0  # what aiohttp means by it; its default is 100 connections, httpx' None


def open_client(url: str | None, **options: Any) -> httpx.AsyncClient:  # noqa: ANN401
    """Return a client for many requests and long streams at once.

    Args:
        url: Of the service; on this machine no proxy stands between.
        options: Of `httpx.AsyncClient`.

    Raises:
        ConfigError: The environment names a proxy or certificates that can't be used.
    """
    options |= make_connection_options(url)
    if is_socks(options["proxy"]):
        return httpx.AsyncClient(limits=httpx.Limits(max_connections=None), **options)
    from httpx_aiohttp import HttpxAiohttpClient

    client = HttpxAiohttpClient(limits=httpx.Limits(max_connections=NO_LIMIT), **options)
    let_die_with_loop(client)
    return client


def open_quick_client(url: str | None) -> httpx.AsyncClient | QuickClient:
    """Return what an SDK may use in place of an httpx client, for small requests.

    Args:
        url: As in `open_client`.

    Raises:
        ConfigError: As `open_client`.
    """
    options = make_connection_options(url)
    if is_socks(options["proxy"]):
        return open_client(url, timeout=None)
    return QuickClient(options["verify"], options["proxy"])


class QuickClient:
    """Requests over aiohttp alone, whose answers are httpx': without a timeout, nor redirects."""

    def __init__(self, certificates: ssl.SSLContext, proxy: str | None) -> None:
        self._certificates, self._proxy = certificates, proxy
        self._transport = SimpleNamespace(client=None)  # opened on the loop of the first request
        self._mounts: dict[str, Any] = {}
        let_die_with_loop(self)

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request and read its answer."""
        if self._transport.client is None:
            self._transport.client = self._open()
        data = content.encode() if isinstance(content, str) else content
        try:
            async with self._transport.client.request(
                method,
                url,
                data=data,
                headers=headers,
                params=params,
                proxy=self._proxy,
                allow_redirects=False,
            ) as answer:
                body = await answer.read()
                return httpx.Response(answer.status, headers=answer.raw_headers, content=body)
        except aiohttp.ClientResponseError as exc:
            refused = _translate(exc)
        raise refused  # out here, or the other one would be its context

    async def post(self, url: str, *, headers: Mapping[str, str], json: Any) -> httpx.Response:  # noqa: ANN401
        """Send JSON."""
        headers = {**headers, "Content-Type": "application/json"}
        return await self.request("POST", url, content=_dump(json), headers=headers)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._transport.client is not None:
            await self._transport.client.close()

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=NO_LIMIT, keepalive_timeout=_KEEP_ALIVE_S, ssl=self._certificates
            ),
            timeout=aiohttp.ClientTimeout(),
            headers={"Accept-Encoding": "gzip, deflate"},  # which httpx undoes
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )


def _translate(exc: aiohttp.ClientResponseError) -> httpx.HTTPError:
    """Return httpx' error: the text and the facts of aiohttp's hold a proxy's password."""
    is_proxys = isinstance(exc, aiohttp.ClientHttpProxyError)
    kind = httpx.ProxyError if is_proxys else httpx.RemoteProtocolError
    return kind(" ".join(f"{exc.status} {exc.message}".split()))


_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def make_connection_options(
    url: str | None, load_certificates: Callable[[], ssl.SSLContext] = httpx.create_ssl_context
) -> dict[str, Any]:
    """Return what httpx, or httpx2, would read from the environment for a client of this URL.

    It reads it for all URLs at once, and one entry that it can't read keeps it from being made.

    Args:
        url: As in `open_client`.
        load_certificates: The library's own.

    Raises:
        ConfigError: As `open_client`.
    """
    variables = getenv("SSL_CERT_FILE"), getenv("SSL_CERT_DIR")
    certificates = _load_certificates(load_certificates, *variables)
    return {"verify": certificates, "trust_env": False, "proxy": find_proxy(url)}


@cache
def _load_certificates(
    load: Callable[[], ssl.SSLContext], file: str | None, folder: str | None
) -> ssl.SSLContext:
    """Return what a library makes of these variables; one for all clients, as it takes 20 ms."""
    try:
        return load()
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(
            "SSL_CERT_FILE, or SSL_CERT_DIR, must lead to certificates in PEM form, which fails "
            f"({type(exc).__name__}: {exc.strerror or exc}): correct it, or leave it out."
        ) from exc


def find_proxy(url: str | None) -> str | None:
    """Return the proxy that the environment, or the system, names for a URL; None for none.

    On this machine there is none: it would only harm.

    Raises:
        ConfigError: It names one that can't be used.
    """
    return None if is_loopback(url) else choose_proxy(url or "https://", getproxies())


def choose_proxy(url: str, proxies: Mapping[str, str]) -> str | None:
    """Return the proxy for a URL, None for none.

    Args:
        url: Where to.
        proxies: As `getproxies` returns them: by scheme, `all` for any, and `no` for exceptions.

    Raises:
        ConfigError: It can't be used. The message does not quote it, as it may hold a password.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    if any(_exempts(entry, host, port) for entry in re.split(r"[,\s]+", proxies.get("no", ""))):
        return None
    name = parts.scheme if proxies.get(parts.scheme) else "all"
    proxy = proxies.get(name)
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    variable = f"{name.upper()}_PROXY (the environment's, or the system's)"
    try:
        is_whole = bool(httpx.Proxy(proxy).url.host)
    except (httpx.InvalidURL, ValueError):
        is_whole = False
    if not is_whole:
        raise ConfigError(
            f"{variable} must be a proxy such as http://proxy:8080, https://… or socks5://…, and "
            f"is none of these: correct it, or name {host or 'the host'} in NO_PROXY."
        )
    if is_socks(proxy) and find_spec("socksio") is None:
        raise ConfigError(
            f"{variable} names a SOCKS proxy, which needs one package more: `pip install socksio`, "
            f"or name {host or 'the host'} in NO_PROXY."
        )
    return proxy


def tell_proxy(url: str | None) -> str:
    """Return ` through the proxy host:port` of the environment, for whoever finds nobody there."""
    proxy = None
    with contextlib.suppress(ConfigError):  # it was another one, that could be used
        proxy = find_proxy(url)
    return (
        "" if proxy is None else f" through the proxy {urlsplit(proxy).netloc.rpartition('@')[2]}"
    )


def is_socks(proxy: str | None) -> bool:
    """Tell whether a proxy is one that aiohttp can't use."""
    return proxy is not None and proxy.lower().startswith("socks")


def _exempts(entry: str, host: str, port: int | None) -> bool:
    """Tell whether an entry of NO_PROXY is about a host.

    As curl and Go read them, which is more than httpx does: `*`, names with what is below them,
    addresses and networks of both kinds, each with a port or without.
    """
    entry = entry.lower().rpartition("://")[2]
    named = _ENTRY.fullmatch(entry)
    name, wanted = (named[1], named[2]) if named else (entry, None)
    if wanted is not None and int(wanted) != port:
        return False
    name = name.strip("[]")
    try:
        network = ip_network(name, strict=False)
    except ValueError:
        name = name.removeprefix("*").removeprefix(".")
        return entry == "*" or (name != "" and f".{host}".endswith(f".{name}"))
    try:
        return ip_address(host) in network
    except ValueError:
        return False


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


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's, which takes less CPU, where there is one."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
