"""The HTTP clients of the deliveries: keep-alive, and cheap with hundreds in flight.

httpx's connection pool looks at every connection for each request, so that 500 in flight in one
pool cost ten times the CPU of the deliveries themselves. Several small pools don't.
"""

import contextlib
import http.cookiejar
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Self

import httpx

# Shorter than the 5 s after which uvicorn drops an idle connection, so that a delivery
# doesn't meet a connection that is just being closed.
KEEPALIVE_S = 3.0
POOLS = 64


class DeliveryClients:
    """Leases the client that has the least to do, the first of them when idle: it is warm."""

    def __init__(self, clients: Sequence[httpx.AsyncClient]) -> None:
        self._clients = clients
        self._leases = [0] * len(clients)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        """Yield the clients, and close them after; no proxies, no redirects, no cookie is kept."""
        verify = httpx.create_ssl_context(trust_env=False)
        # One destination's cookie must not reach the next message's.
        no_cookies = http.cookiejar.DefaultCookiePolicy(allowed_domains=())
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                httpx.AsyncClient(
                    verify=verify,
                    trust_env=False,
                    follow_redirects=False,
                    limits=httpx.Limits(
                        max_connections=None,
                        max_keepalive_connections=None,
                        keepalive_expiry=KEEPALIVE_S,
                    ),
                    cookies=http.cookiejar.CookieJar(no_cookies),
                )
                for _ in range(POOLS)
            ]
            for client in clients:
                await stack.enter_async_context(client)
            yield cls(clients)

    @contextlib.contextmanager
    def lease(self) -> Iterator[httpx.AsyncClient]:
        """Yield a client for one delivery."""
        least = self._leases.index(min(self._leases))
        self._leases[least] += 1
        try:
            yield self._clients[least]
        finally:
            self._leases[least] -= 1
