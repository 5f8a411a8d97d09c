"""TLS in front of a TCP port on loopback, with a certificate of a CA made for the test."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator

import trustme


@contextlib.contextmanager
def terminate_tls(target_port: int, ca: trustme.CA) -> Iterator[int]:
    """Yield the port where `target_port` answers in TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    loop = asyncio.new_event_loop()
    outer: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outer.add(writer)
        with contextlib.suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", target_port)
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)

    server = loop.run_until_complete(start())
    loop.set_exception_handler(lambda *_: None)  # of handshakes that are meant to fail
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]

    async def stop() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for writer in outer:  # a peer that keeps its connection would be waited for
            writer.transport.abort()
        await asyncio.sleep(0)  # what closes their sockets

    asyncio.run_coroutine_threadsafe(stop(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
