"""A long wire to a service: `python -m tests.benchmarks.slow_wire ROUND_TRIP_MS TARGET`.

Forwards a free port of loopback, which is printed, to `host:port` or the path of a Unix socket.
Every byte arrives half a round trip late, in both directions, and a new connection one more, as a
handshake would take; bandwidth is not limited, and nothing waits for anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, not_before: float, way_s: float
) -> None:
    """Hand on what comes, each piece at its time; reading goes on while pieces are under way."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    delivering = asyncio.create_task(deliver())
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            under_way.put_nowait((max(loop.time(), not_before) + way_s, data))
    under_way.put_nowait((loop.time() + way_s, b""))
    with contextlib.suppress(ConnectionError):
        await delivering


async def main(round_trip_ms: str, target: str) -> None:
    """Forward until the process is killed."""
    way_s = float(round_trip_ms) / 2000
    loop = asyncio.get_running_loop()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        not_before = loop.time() + 2 * way_s
        if target.startswith("/"):
            far = await asyncio.open_unix_connection(target)
        else:
            host, _, port = target.partition(":")
            far = await asyncio.open_connection(host, int(port))
        await asyncio.gather(
            _pump(reader, far[1], not_before=not_before, way_s=way_s),
            _pump(far[0], writer, not_before=0, way_s=way_s),
        )

    server = await asyncio.start_server(forward, "127.0.0.1", 0, backlog=1000)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
