"""What the comparisons rest on: the long wire, the figures of a run."""

import asyncio
import time

import pytest

from tests.benchmarks.load import Figures, Reading
from tests.benchmarks.place import start_module


def make_token(clock: int) -> str:
    digits = ""
    for _ in range(5):
        clock, digit = divmod(clock, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits


def test_a_long_wire_delays_each_answer_by_a_round_trip_and_serialises_nothing() -> None:
    served: set[asyncio.Task[None] | None] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())
        while line := await reader.readline():
            writer.write(line)
        writer.close()
        await writer.wait_closed()

    async def ask(port: int, count: int) -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"handshake\n")
        await reader.readline()
        asked, waits = [], []
        for number in range(count):  # all under way at once
            asked.append(time.perf_counter())
            writer.write(f"{number}\n".encode())
        for number in range(count):
            assert int(await reader.readline()) == number
            waits.append(time.perf_counter() - asked[number])
        writer.close()
        await writer.wait_closed()
        return waits

    async def run() -> list[float]:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with start_module("slow_wire", "50", f"127.0.0.1:{port}") as (_, wire):
            found = await asyncio.gather(*(ask(wire, 100) for _ in range(10)))
        await asyncio.wait({task for task in served if task})
        server.close()
        return [wait for waits in found for wait in waits]

    waits = asyncio.run(run())

    assert min(waits) >= 0.05
    assert sum(waits) / len(waits) < 0.5  # one after the other would take 5 s and more


def test_a_token_that_comes_in_two_pieces_arrives_with_its_last_one() -> None:
    reading = Reading()
    token = make_token(1000)
    reading.pieces = [(1100, token + token[:2]), (1300, token[2:])]

    assert reading.list_arrivals() == [(1100, 1.0), (1300, 3.0)]


def test_start_up_counts_neither_for_the_rate_nor_for_the_delay() -> None:
    reading = Reading(asked=0)
    reading.pieces = [(50_000, make_token(0))]  # half a second for the first
    reading.pieces += [(60_000 + 1000 * n, make_token(60_000 + 1000 * n - 200)) for n in range(19)]

    figures = Figures.of([reading], cpu_s=0.02)

    assert figures.rate == pytest.approx(100)
    assert figures.delay_p50 == figures.delay_p99 == 2.0
    assert figures.first_p50 == 500
    assert figures.cpu_us == pytest.approx(1000)
