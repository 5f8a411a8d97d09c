"""Redis that refuses, hangs, breaks off, forgets to answer, dies, or stays away."""

import asyncio
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from longtask_kit.log.redis import load_script
from tests.chaos.faulty_redis import FAULTS, FaultyRedis
from tests.chaos.own_valkey import OwnValkey, run_valkey
from tests.chaos.recording_model import Call
from tests.chaos.rig import Rig, Watched, new_prompt, open_rig
from tests.wait import wait_until

pytestmark = pytest.mark.timeout(3600)

_APPEND = load_script("append")[1].encode()
_BEGIN = load_script("begin")[1].encode()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp") as name:
        yield Path(name)


def count_text(batch: list[Watched]) -> str:
    """Return how much text was compared."""
    characters = sum(len(watched.task.text) for watched in batch)
    return f"{len(batch)} tasks, {characters:,} characters: 0 lost, 0 doubled"


def inject(faults: FaultyRedis, rng: random.Random, script: bytes, each: int) -> None:
    """Have calls of a script meet each fault `each` times, in random order."""
    waiting = [*FAULTS] * each
    rng.shuffle(waiting)

    def draw(body: bytes) -> str | None:
        is_struck = script in body and waiting and rng.random() < 0.4
        return waiting.pop() if is_struck else None

    faults.draw_fault = draw


def spare_the_struck(faults: FaultyRedis, *, most: int) -> None:
    """Let no task meet more faults than that: its deliveries are numbered."""
    draw = faults.draw_fault
    struck: Counter[bytes] = Counter()

    def draw_sparingly(body: bytes) -> str | None:
        found = re.search(rb"task_[\w-]+", body)
        task_id = found.group() if found else b""
        fault = draw(body) if struck[task_id] < most else None
        struck[task_id] += fault is not None
        return fault

    faults.draw_fault = draw_sparingly


def test_a_redis_that_fails_in_every_way_loses_and_doubles_nothing(
    scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    each = scale(short=6, full=100)
    faults = FaultyRedis()
    done: list[Watched] = []
    with open_rig(front=faults, LONGTASK_LEASE_S="10", CHAOS_REDIS_TIMEOUT_S="1") as rig:
        inject(faults, random.Random(5), _APPEND, each)
        while faults.injected.total() < each * len(FAULTS):
            batch = [rig.submit(new_prompt()) for _ in range(4)]
            for watched in batch:
                events = rig.check(watched)
                assert events[-1].cursor.attempt == 1, "the writer got over it"
            done += batch
    assert faults.injected == dict.fromkeys(FAULTS, each)
    figures("5 append fails in 6 ways", f"{each} times each, {count_text(done)}, no new attempt")


@pytest.mark.thorough
def test_flushes_that_overtake_each_other_are_stored_in_order(
    scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    wanted = scale(short=20, full=500)
    faults, rng = FaultyRedis(), random.Random(4)
    faults.draw_delay_s = lambda: rng.uniform(0, 0.03)
    done: list[Watched] = []
    with open_rig(front=faults, LONGTASK_LEASE_S="10") as rig:
        while faults.overtaken < wanted:
            batch = [rig.submit(new_prompt(), model="demo@400") for _ in range(3)]
            for watched in batch:
                assert rig.check(watched)[-1].cursor.attempt == 1
            done += batch
    figures("5 flushes overtaken", f"{faults.overtaken} parts, {count_text(done)}, no new attempt")


@pytest.mark.thorough
def test_a_fault_while_an_attempt_begins_costs_a_lease_and_no_token(
    scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    each = scale(short=2, full=30)
    faults = FaultyRedis()
    done: list[Watched] = []
    attempts = 0
    with open_rig(front=faults, CHAOS_REDIS_TIMEOUT_S="0.3") as rig:
        inject(faults, random.Random(6), _BEGIN, each)
        spare_the_struck(faults, most=3)
        while faults.injected.total() < each * len(FAULTS):
            batch = [rig.submit(new_prompt(), max_tokens=30) for _ in range(8)]
            attempts += sum(rig.check(watched)[-1].cursor.attempt for watched in batch)
            done += batch
    assert attempts > len(done), "half of the faults took a lease with them"
    figures(
        "5 begin fails in 6 ways",
        f"{each} times each, {attempts} attempts, {count_text(done)}",
    )


@pytest.mark.thorough
def test_a_redis_that_stays_away_past_the_limit_ends_the_attempt_and_a_later_one_finishes(
    scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    outages = scale(short=2, full=30)
    rng = random.Random(7)
    faults = FaultyRedis()
    done: list[Watched] = []
    with open_rig(front=faults, CHAOS_OUTAGE_LIMIT_S="0.5") as rig:
        slow_down_first_attempts(rig)
        for _ in range(outages):
            faults.draw_fault = lambda _: None
            prompts = [f"At length: {new_prompt()}" for _ in range(3)]
            batch = [rig.submit(p, model="demo-long", max_tokens=2000) for p in prompts]
            at = rng.randrange(1, 200)
            wait_until(lambda: min(w.task._feed.transcript.tokens for w in batch) >= at)  # noqa: B023
            faults.draw_fault = lambda _: "reset"
            for watched in batch:
                [call] = rig.model.calls_of(watched.task.id, 1)
                assert call.ended.wait(30)
                assert not call.is_whole, "the attempt let go of the model"
            faults.draw_fault = lambda _: None
            for watched in batch:
                events = rig.check(watched)
                assert events[-1].cursor.attempt >= 2
            done += batch
    figures("5 Redis away past the limit", f"{outages} outages, {count_text(done)}")


def slow_down_first_attempts(rig: Rig) -> None:
    """Let first attempts last for twelve seconds, so that an outage always meets them."""

    async def slow_down(call: Call) -> None:
        if call.attempt == 1:
            await asyncio.sleep(0.1)

    rig.model.after_write = slow_down


@pytest.mark.thorough
def test_a_valkey_that_is_killed_in_mid_stream_and_started_again_loses_nothing(
    folder: Path, scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    kills = scale(short=3, full=40)
    done = []
    with run_valkey(folder) as valkey, open_rig(redis_url=valkey.url, LONGTASK_LEASE_S="10") as rig:
        rng = random.Random(8)
        for _ in range(kills):
            batch = stream_into(rig, rng)
            valkey.kill()
            valkey.start()
            for watched in batch:
                assert rig.check(watched)[-1].cursor.attempt == 1, "the writer got over it"
            done += batch
    figures("5 Valkey killed in mid-stream", f"{kills} kills -9, {count_text(done)}")


def test_a_valkey_that_lost_its_last_writes_leaves_no_hole_in_a_text(
    folder: Path, scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    cuts = scale(short=3, full=40)
    done = []
    with run_valkey(folder) as valkey, open_rig(redis_url=valkey.url) as rig:
        rng = random.Random(9)
        for _ in range(cuts):
            batch = stream_into(rig, rng)
            cut_power(valkey, rng)
            for watched in batch:
                rig.check(watched)
            done += batch
    figures("5 Valkey lost its last writes", f"{cuts} power cuts, {count_text(done)}")


def stream_into(rig: Rig, rng: random.Random) -> list[Watched]:
    """Submit tasks, and return when the first of them has a random number of tokens stored."""
    batch = [rig.submit(new_prompt(), model="demo@100") for _ in range(4)]
    at = rng.randrange(20, 120)
    wait_until(lambda: min(w.task._feed.transcript.tokens for w in batch) >= at)
    assert not any(w.task._feed.transcript.is_terminal for w in batch), "they stream still"
    return batch


def cut_power(valkey: OwnValkey, rng: random.Random) -> None:
    """Kill the server and take some of its last writes."""
    valkey.kill()
    valkey.cut_log(rng.randrange(200, 3000))
    valkey.start()
