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
        writer.write(await reader.readline())
        # A wire that waits for an answer before it passes the next line would wait for ever.
        writer.writelines([await reader.readline() for _ in range(100)])
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


def test_a_token_that_comes_in_two_pieces_arrives_with_its_last_one() -> None:
    reading = Reading()
    token = make_token(1000)
    reading.pieces = [(1100, token + token[:2]), (1300, token[2:])]

    assert reading.list_arrivals() == [(1100, 1.0), (1300, 3.0)]


def make_reading(first: int, *, count: int) -> Reading:
    """Asked for at 0, a token every 10 ms from `first` on, 2 ms under way; the first one late."""
    reading = Reading(asked=0)
    times = [first + 1000 * number for number in range(count)]
    reading.pieces = [(now, make_token(now - 200)) for now in times]
    reading.pieces[0] = (first, make_token(0))
    return reading


def test_start_up_counts_neither_for_the_rate_nor_for_the_delay_nor_for_cpu() -> None:
    readings = [make_reading(20_000, count=300), make_reading(50_000, count=300)]
    used = [(0, 0.0), (100_000, 5.0), (400_000, 5.3)]  # busy until both run, then 0.1 of a core

    figures = Figures.of(readings, used)

    assert figures.rate == pytest.approx(200, rel=0.01)
    assert figures.delay_p50 == figures.delay_p99 == 2.0
    assert (figures.first_p50, figures.first_p99) == (200, 500)
    assert figures.cpu_us == pytest.approx(500, rel=0.01)
    assert figures.start_s == 0.5


def test_tasks_that_take_turns_are_measured_in_the_middle_of_all_tokens() -> None:
    readings = [make_reading(10_000, count=10), make_reading(50_000, count=10)]

    figures = Figures.of(readings, [(0, 0.0), (100_000, 1.0)])

    assert 20 < figures.rate < 40  # 16 tokens, with the gap between the two
