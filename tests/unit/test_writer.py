"""What a writer hands to the flusher; nothing is sent here."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from longtask_kit.log.events import EventType
from longtask_kit.log.record import Append
from longtask_kit.log.store import Store
from longtask_kit.server.attempt_writer import FIRST_SEQ, AttemptWriter
from longtask_kit.server.writer import LogWriter
from longtask_kit.settings import Settings

TASK_ID = "task_1q2w3e4r5t6z7u8i9o0p1a"
HALF = "a\ud83d"  # half a surrogate pair: can't be encoded as UTF-8


def take(write: Callable[[AttemptWriter], Coroutine[object, object, object]]) -> Append:
    """Return what the flusher would send after a writer was used; nobody answers."""

    async def run() -> Append:
        settings = Settings(
            upstash_redis_rest_url="http://127.0.0.1:9", upstash_redis_rest_token="unused"
        )
        store = Store.open(settings)
        try:
            writer = LogWriter(store, min_flush_interval_s=0, heartbeat_s=1).open_attempt(
                TASK_ID, 2
            )
            writing = asyncio.create_task(write(writer))
            await asyncio.wait({writing}, timeout=0)
            flight = writer.take()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            assert flight is not None
            return flight.part
        finally:
            await store.aclose()

    return asyncio.run(run())


async def write_all(writer: AttemptWriter, *deltas: str) -> None:
    for delta in deltas:
        await writer.write(delta)


def test_all_that_is_pending_goes_in_one_entry_that_counts_its_deltas() -> None:
    append = take(lambda writer: write_all(writer, "Hel", "", "lo"))
    assert append.entries == [[f"2-{FIRST_SEQ}", "d", "Hello", "n", "2"]]


@pytest.mark.parametrize(
    "write",
    [
        lambda writer: write_all(writer, HALF),
        lambda writer: writer.fail(HALF, code="c"),
        lambda writer: writer.retry(HALF, code="c"),
        lambda writer: writer.end(usage=None, finish_reason=HALF),
    ],
    ids=["write", "fail", "retry", "end"],
)
def test_half_a_surrogate_pair_of_one_handler_does_not_break_the_flush_of_all(
    write: Callable[[AttemptWriter], Coroutine[object, object, object]],
) -> None:
    # One flush carries every task of the process: what can't be encoded would stop them all.
    append = take(write)
    assert append.entries
    for part in [*append.fields, *(part for entry in append.entries for part in entry)]:
        assert part.encode().decode() == part


@pytest.mark.parametrize("size", [1, 65_535, 65_536])
def test_a_surrogate_pair_in_two_deltas_is_one_character_wherever_the_flush_falls(
    size: int,
) -> None:
    async def write(writer: AttemptWriter) -> None:
        await writer.write("x" * (size - 1) + "\ud83d")
        await writer.write("\ude00")
        await writer.end(usage=None, finish_reason=None)

    texts = [entry[2] for entry in take(write).entries if entry[1] == "d"]
    assert "\ufffd" not in "".join(texts)


@pytest.mark.parametrize("type_", ["content", "reasoning", "refusal"])
def test_half_a_pair_that_stays_alone_is_told_at_the_end(type_: EventType) -> None:
    async def write(writer: AttemptWriter) -> None:
        await writer.write(HALF, type_=type_)
        await writer.end(usage=None, finish_reason=None)

    entry = take(write).entries[0]
    assert entry[entry.index("d") + 1] == "a\ufffd"
